"""llm_tail: bring cold and long-tail items to their readers.

The public names are loaded when they are first used (PEP 562), so that ``import llm_tail`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "llm_tail.config": [
        "RunConfig",
        "LoraConfig",
        "PretrainConfig",
        "HybridConfig",
        "IndexConfig",
        "GraphConfig",
        "TextConfig",
        "EncoderConfig",
        "EmbeddingConfig",
        "EnrichmentConfig",
    ],
    "llm_tail.data.catalog": ["Catalog", "Item"],
    "llm_tail.data.ids": ["IdMap"],
    "llm_tail.data.interactions": ["Interactions"],
    "llm_tail.data.splits": [
        "Segments",
        "Split",
        "split_cold_items",
        "split_leave_last_out",
        "split_by_time",
        "split_random",
    ],
    "llm_tail.data.audit": ["audit"],
    "llm_tail.data.books": ["load_books"],
    "llm_tail.embedding.text": ["ItemText"],
    "llm_tail.embedding.encoder": ["Encoder"],
    "llm_tail.embedding.runtimes": ["Runtime", "load_runtime", "open_runtime"],
    "llm_tail.embedding.choosing": ["RuntimeChoice", "choose_runtime"],
    "llm_tail.embedding.pairs": ["TextPairs"],
    "llm_tail.embedding.finetune": ["finetune"],
    "llm_tail.embedding.pretrain": ["pretrain"],
    "llm_tail.embedding.processes": ["ProcessEngine"],
    "llm_tail.embedding.distributed": ["RayEngine"],
    "llm_tail.embedding.tfidf": ["TfidfEncoder"],
    "llm_tail.embedding.store": ["Embeddings", "EmbeddingStore", "EmbedReport", "StoredVectors"],
    "llm_tail.enrichment.result": ["Enrichment", "Generated", "Provenance"],
    "llm_tail.enrichment.enrich": ["enrich", "Outcome"],
    "llm_tail.enrichment.backends": ["Backend", "Reply", "Request", "make_backend"],
    "llm_tail.enrichment.provenance": ["training_histories"],
    "llm_tail.enrichment.extractive": ["Extractive"],
    "llm_tail.enrichment.taxonomy": ["Taxonomy"],
    "llm_tail.enrichment.choosing": ["worth"],
    "llm_tail.enrichment.augmenting": [
        "back_translations",
        "paraphrases",
        "question_pairs",
        "shuffled_fields",
        "with_variants",
    ],
    "llm_tail.neighbors.index": ["NeighborIndex", "Neighbors"],
    "llm_tail.neighbors.sharded": ["ShardedIndex"],
    "llm_tail.neighbors.words": ["WordIndex"],
    "llm_tail.neighbors.fusing": ["HybridSearch", "fuse"],
    "llm_tail.neighbors.filters": ["Filter"],
    "llm_tail.neighbors.graph": ["ItemGraph"],
    "llm_tail.neighbors.generated": ["why_tied", "with_generated", "without_generated"],
    "llm_tail.neighbors.layout": ["CatalogMap", "catalog_map"],
    "llm_tail.recommenders.base": ["Recommender", "Recommendations"],
    "llm_tail.recommenders.baselines": [
        "Popularity",
        "ContentSimilarity",
        "TfidfSimilarity",
        "ItemKnn",
        "Ease",
        "L3ae",
        "ImplicitAls",
    ],
    "llm_tail.recommenders.user_knn": ["UserKnn"],
    "llm_tail.recommenders.graph_filter": ["GfCf"],
    "llm_tail.recommenders.graphs": ["LightGcn", "AlphaRec"],
    "llm_tail.recommenders.factors": ["Bpr", "SampledSoftmaxFactors", "FeatureFactors"],
    "llm_tail.recommenders.coldstart": ["ClcRec", "DropoutNet"],
    "llm_tail.recommenders.sequence": ["SasRec", "TextSasRec"],
    "llm_tail.recommenders.ensembles": ["RankFusion", "SparseDenseMixer", "Stacked"],
    "llm_tail.recommenders.hybrid": ["HybridRecommender", "Explanation"],
    "llm_tail.evaluation.evaluate": ["evaluate", "Report"],
    "llm_tail.workspace": ["Workspace"],
    "llm_tail.workspace.guard": ["Look", "Probe", "judge_encoders"],
    "llm_tail.workspace.training": ["ease_teacher", "watch_ranking"],
    "llm_tail.errors": [
        "LlmTailError",
        "DataError",
        "ConfigError",
        "UnknownIdError",
        "NotFittedError",
        "StaleArtifactError",
        "CorruptArtifactError",
        "MissingExtraError",
        "WorkerError",
        "BackendError",
        "UnfinishedError",
    ],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'llm_tail' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
