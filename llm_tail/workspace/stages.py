"""The stages of a run: each makes its result, writes it whole, and says in a line what came out.

Which comes when, and which is finished, is for `Workspace` to know.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_tail.artifacts import fingerprint, write_artifact
from llm_tail.errors import (
    ConfigError,
    CorruptArtifactError,
    DataError,
    LlmTailError,
    MissingExtraError,
    StaleArtifactError,
    closest,
)
from llm_tail.progress import is_first_process
from llm_tail.workspace.freshness import check_unchanged, refresh

if TYPE_CHECKING:
    from llm_tail.recommenders.base import Recommender
    from llm_tail.workspace import Workspace

HYBRID = "hybrid"
LEAST_TIED = 0.5  # generated parts that are less sure tie no items


def make_audit(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Look for what is wrong with the data."""
    from llm_tail.data.audit import Finding, audit
    from llm_tail.embedding.text import ItemText
    from llm_tail.workspace.generated import field_names, source_text
    from llm_tail.workspace.training import check_columns

    catalog = workspace.source_catalog  # what is generated is not there yet
    texts = ItemText(source_text(workspace.config)).texts(catalog)
    try:
        counts = workspace.source_encoder.token_counts(texts)
    except LlmTailError:  # without the encoder the audit guesses; the stage that needs it will say what is missing
        counts = None
    max_tokens = workspace.config.encoder.max_tokens
    found = audit(catalog, workspace.raw_interactions, texts=texts, max_tokens=max_tokens, token_counts=counts)
    if found.ok:
        try:
            _ = workspace.split  # better now than after all has been embedded
            _check_columns(workspace)
            if workspace.config.lora.enabled:
                check_columns(workspace.config, [*catalog.columns, *field_names(workspace.config)])
        except (DataError, ConfigError) as error:
            code = "split" if isinstance(error, DataError) else "setting"
            found = replace(found, findings=(Finding("error", code, str(error)), *found.findings))
    if unread := _unread_words(workspace):
        found = replace(found, findings=(*found.findings, Finding("note", "unread-words", unread)))
    with write_artifact(folder, "audit", made_from, {"audit": found.to_dict()}):
        pass
    n = Counter(finding.severity for finding in found.findings)
    return f"errors: {n['error']}, warnings: {n['warning']}, notes: {n['note']}"


def _check_columns(workspace: Workspace) -> None:
    """Raise `ConfigError` where items are to be tied, or words counted, by a column that is not there."""
    from llm_tail.workspace.generated import field_names
    from llm_tail.workspace.wording import AUTO

    config, known = workspace.config, [*workspace.source_catalog.columns, *field_names(workspace.config)]
    words = [name for name in config.hybrid.word_fields if name != AUTO]
    for where, named in (("[graph] relations", config.graph.relations), ("[hybrid] word_fields", words)):
        for name in named:
            if name not in known:
                near = closest(name, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(known)}"
                raise ConfigError(f"{where} names {name!r}, and the catalogue has no such column; {hint}")


def _unread_words(workspace: Workspace) -> str:
    """Say which columns hold words that items share and the encoder never sees, and the line that changes it."""
    from llm_tail.enrichment.taxonomy import category_columns

    fields = workspace.config.text.fields
    unread = [name for name in category_columns(workspace.source_catalog) if name not in fields]
    if not unread:
        return ""
    first = [name for name in fields if name != "description"]
    better = [*first, *unread, *(name for name in fields if name == "description")]
    return (
        f"the encoder reads {', '.join(fields)} and not {', '.join(unread)}, which may say more of thin items; "
        f"to try it: [text] fields = {json.dumps(better, ensure_ascii=False)}"
    )


def make_enrichment(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Give words to items that have too few."""
    from llm_tail.workspace.enriching import make_enriched

    return make_enriched(workspace, folder, made_from)


def make_pretrained(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Adapt the encoder to the catalogue's own text."""
    from llm_tail.embedding.pretrain import pretrain

    texts, config = workspace.item_text.texts(workspace.catalog), workspace.config
    adapted = pretrain(workspace.source_encoder, texts, config.pretrain, seed=config.seed, folder=folder)
    return repr(adapted.training)


def make_encoder(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Fine-tune the encoder; the guard keeps that share of the update which wins, or the base."""
    from llm_tail.embedding.finetune import finetune
    from llm_tail.workspace import adapters, training

    config, base, split = workspace.config, workspace.base_encoder, adapters.judging_split(workspace)
    pairs, notes = training.make_pairs(workspace, split)
    texts, checkpoints = workspace.item_text.texts(workspace.catalog), workspace.folder / "encoder-checkpoints"
    lora, seed = config.lora, config.seed
    watch = training.watch_ranking(split, texts, lora.max_tokens, metric=lora.watch, seed=seed)
    search = training.index_search(config.index, seed=seed)
    tuned = finetune(base, pairs, lora, seed=seed, checkpoints=checkpoints, validate=watch, search=search)
    if not is_first_process():  # the others have helped to train; one is enough to judge and to write
        return ""
    shares = {f"{100 * share:g}%": share for share in config.lora.strengths}
    candidates = {name: tuned.with_strength(share) for name, share in shares.items()}
    shown = {adapters.SOURCE: workspace.source_encoder} if config.pretrain.enabled else {}
    verdict = adapters.judge(workspace, {adapters.BASE: base, **shown, **candidates}, split, shown=tuple(shown))
    strength = shares.get(verdict.kept, 0.0)
    facts = adapters.facts_of(workspace, split, pairs, verdict, strength)
    adapters.put_aside(folder, workspace.folder / "adapters")
    with write_artifact(folder, "encoder", made_from, facts) as draft:
        (tuned.with_strength(strength) if strength else tuned).save_adapter(draft.file("adapter"))
        verdict.save(draft.file(adapters.VERDICT))
    shutil.rmtree(checkpoints, ignore_errors=True)
    before, after = verdict.mean(verdict.base), verdict.mean(verdict.kept)
    said = f"{verdict.kept} of the update kept, {verdict.why}" if strength else f"not kept: {verdict.why}"
    log = tuned.training.note if tuned.training else ""
    result = f"NDCG@20 of the texts alone on validation {before:.4f} -> {after:.4f}, {said}"
    return "; ".join([result, *notes, *([log] if log else [])])


def make_embeddings(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Turn item texts into vectors; the store keeps those of texts that have not changed."""
    from llm_tail.embedding.distributed import make_engine
    from llm_tail.embedding.store import EmbeddingStore
    from llm_tail.workspace.running import make_runtime

    store, config = EmbeddingStore.open(folder), workspace.config.embedding
    runtime, why = make_runtime(workspace)
    report = store.update(workspace.catalog, runtime, workspace.item_text, config, make_engine(config))
    return f"{report}; {why}" if why else str(report)


def make_index(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Build the neighbour index, and that of the words."""
    from llm_tail.neighbors.index import NeighborIndex
    from llm_tail.neighbors.words import WordIndex

    config = workspace.config
    words = WordIndex.build(workspace.catalog.ids, workspace.item_text.texts(workspace.catalog))
    words.save(folder / "words", fingerprint=made_from)
    index = NeighborIndex.build(workspace.embeddings, config.index, seed=config.seed, progress=True)
    index.save(folder, fingerprint=made_from)
    return repr(index)


def make_graph(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Tie the items; who took what together is looked up in training only, and what was generated has its own kinds."""
    from llm_tail.neighbors.generated import TYPED, with_generated
    from llm_tail.neighbors.graph import ItemGraph

    config = workspace.config.graph
    typed = [name for name in config.relations if name in TYPED]
    config = config.replace(relations=[name for name in config.relations if name not in TYPED])
    graph = ItemGraph.build(
        workspace.catalog,
        index=workspace.index,
        interactions=workspace.split.train if workspace.config.data.interactions else None,
        config=config,
    )
    if typed:
        least = max(workspace.config.enrichment.min_confidence, LEAST_TIED)
        tasks = [TYPED[name] for name in typed]
        graph = with_generated(graph, workspace.enrichment, workspace.source_catalog, tasks=tasks, min_confidence=least)
    graph.save(folder, fingerprint=made_from)
    return repr(graph)


def make_hybrid(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Fit the recommender; without validation events it is tuned on a cut of training."""
    from llm_tail.recommenders.hybrid import HybridRecommender
    from llm_tail.workspace.wording import FOLDER, learn_words, worded_embeddings

    split, config = workspace.split, workspace.config
    hybrid, words = HybridRecommender(config.hybrid, seed=config.seed), learn_words(workspace)
    validation = split.validation if len(split.validation) else None
    hybrid.fit(split.train, worded_embeddings(workspace, words), workspace.graph, validation=validation)
    if words is not None and hybrid.hears_words:  # new items are counted by it
        words.save(folder / FOLDER, made_from)
    hybrid.save(folder)
    if not hybrid.hears_words:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    return repr(hybrid)


def make_report(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Judge the recommender and the baselines on the test part."""
    from llm_tail.evaluation.evaluate import evaluate

    config, split = workspace.config.evaluation, workspace.split
    if not len(split.test):
        with write_artifact(folder, "report", made_from, {"judged": False}):
            return "nothing to judge on: no event was held out for the test"
    models: dict[str, Recommender] = {HYBRID: workspace.model(HYBRID)}
    left_out = []
    for name in config.models:
        try:
            models[name] = workspace.model(name)
        except (MissingExtraError, DataError) as error:  # one rival less is no reason to lose the whole table
            left_out.append(f"{name} left out: {error}")
    report = evaluate(models, split, config.k, n_bootstrap=config.n_bootstrap, seed=workspace.config.seed)
    for name, spent in report.seconds.items():
        spent["fit"] = workspace.record.seconds(*(("stages", "fit") if name == HYBRID else ("models", name)))
    with write_artifact(folder, "report", made_from, {"judged": True}) as draft:
        report.save(draft.file("report.json"))
    return "; ".join([repr(report), *left_out])


def find_baseline(workspace: Workspace, name: str) -> Recommender:
    """Return a baseline as it was kept, or fit it and keep it."""
    from llm_tail.recommenders.baselines import BASELINES, make_baseline

    def made_from() -> str:
        return fingerprint(name, workspace.fingerprint("embed"), workspace.keys.split)

    folder, key = workspace.folder / "models" / name, made_from()
    since = refresh(workspace)
    if workspace.record.matches("models", name, key, folder):
        try:
            # every entry of BASELINES is the class itself
            found: Recommender = BASELINES[name].load(folder)  # type: ignore[attr-defined]
            return found
        except (CorruptArtifactError, StaleArtifactError) as error:
            warnings.warn(f"{getattr(error, 'found', error)}; {name} is fitted again", stacklevel=3)
    catalog, split = workspace.catalog, workspace.split
    model = make_baseline(name, catalog=catalog, text=workspace.item_text.of, seed=workspace.config.seed)
    started = time.perf_counter()
    model.fit(split.train, workspace.embeddings, validation=split.validation if len(split.validation) else None)
    model.save(folder)
    check_unchanged(workspace, "models", name, since, made_from() == key)
    workspace.record.end("models", name, key, folder, time.perf_counter() - started)
    return model


MAKERS: dict[str, Callable[[Any, Path, str], str]] = {
    "audit": make_audit,
    "enrich": make_enrichment,
    "pretrain": make_pretrained,
    "finetune": make_encoder,
    "embed": make_embeddings,
    "index": make_index,
    "graph": make_graph,
    "fit": make_hybrid,
    "evaluate": make_report,
}
