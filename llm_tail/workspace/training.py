"""What fine-tuning in a run learns from, and how it is watched on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import IndexConfig, LoraConfig, RunConfig
from llm_tail.data.ids import Rows
from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError, DataError, closest
from llm_tail.workspace.generated import uses_generated
from llm_tail.workspace.samples import few_items, few_people

if TYPE_CHECKING:
    from llm_tail.data.splits import Split
    from llm_tail.embedding.encoder import Encoder
    from llm_tail.embedding.negatives import Search
    from llm_tail.embedding.pairs import TextPairs
    from llm_tail.workspace.workspace import Workspace

K = 20
RIDGE, MOST_TAUGHT = 100.0, 30_000  # of EASE as a teacher; its cost is cubic in the items
LEAST_TAUGHT = 1e-3  # weights of EASE below this say nothing and would fill the memory
BLOCK = 1024
MOST_PEOPLE, MOST_ITEMS = 2_000, 20_000  # of a validation on the way: it is taken several times


def attributes_of(config: RunConfig) -> list[str]:
    """Return the columns whose shared values make pairs; none where such pairs are not asked for."""
    return (config.lora.attributes or config.graph.relations) if "attribute" in config.lora.pairs else []


def check_columns(config: RunConfig, columns: Sequence[str]) -> None:
    """Raise `ConfigError` where pairs are to be made of a column that the catalogue has not; the nearest is named."""
    setting = "lora.attributes" if config.lora.attributes else "graph.relations"
    for name in attributes_of(config):
        if name not in columns:
            near = closest(name, columns, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(columns)}"
            raise ConfigError(f"setting {setting!r} names {name!r}, and the catalogue has no such column; {hint}")


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Return all settings that fine-tuning listens to, beside those of the encoder and the data."""
    columns = attributes_of(config)
    ties = {"attributes": columns, "hub_cap": config.graph.hub_cap if columns else 0}
    return {**config.lora.model_dump(exclude={"enabled", "checkpoints", "log_to"}), **ties}


def make_pairs(workspace: Workspace, split: Split, lora: LoraConfig | None = None) -> tuple[TextPairs, list[str]]:
    """Draw the pairs of every kind that ``[lora] pairs`` names.

    Parameters
    ----------
    workspace : Workspace
        Knows the catalogue, its texts and the settings.
    split : Split
        Pairs come from its training part; that no event of validation or test is in there is checked.
    lora : LoraConfig, optional
        Other settings than those of the run.

    Returns
    -------
    TextPairs
        All kinds together.
    list of str
        A line for each kind that the data cannot give.

    Raises
    ------
    DataError
        If the data gives none of the kinds, or a held-out event stands in training.
    ConfigError
        If there is no column that the settings name, or more items than the teacher takes.
    """
    from llm_tail.embedding.pairs import TextPairs
    from llm_tail.embedding.sampling import check_no_leak

    config = workspace.config if lora is None else workspace.config.replace(lora=lora.model_dump())
    # Neither a misspelt name nor a leak is a kind of pairs that the data cannot give and that may be left out.
    check_columns(config, workspace.catalog.columns)
    check_no_leak(split.train, held_out_of(workspace, split))
    taught = config.lora.teacher == "ease" and "co-interaction" in config.lora.pairs
    teacher = ease_teacher(split.train, balance=config.lora.balance) if taught else None
    parts: list[TextPairs] = []
    missing: list[tuple[str, DataError | ConfigError]] = []
    for kind in dict.fromkeys(config.lora.pairs):
        try:
            parts.append(_makers(workspace, config, split, teacher)[kind]())
        except (DataError, ConfigError) as error:
            missing.append((kind, error))
    if not parts:
        raise missing[0][1]
    pairs = parts[0] if len(parts) == 1 else TextPairs.mixed(parts)
    if config.lora.field_dropout:
        pairs = pairs.with_fields(workspace.catalog, workspace.item_text)
    return pairs, [f"no {kind} pairs: {error}" for kind, error in missing]


def ease_teacher(train: Interactions, *, balance: float = 0.0, ridge: float = RIDGE) -> sp.csr_matrix:
    """Return who belongs with whom by the weights of EASE: what a third item explains is taken out, and so is chance.

    Parameters
    ----------
    train : Interactions
        Training events only.
    balance : float
        In [0, 1]: the weights between items that n_i and n_j people took are scaled by (n_i n_j)^((1 - balance) / 2).
        At 0 an item speaks as often as it was taken, as in plain counts; at 1 all alike.
    ridge : float
        L2 penalty, above 0.

    Returns
    -------
    csr_matrix of float32, shape (n_items, n_items)
        Symmetric, all entries above 0.

    Raises
    ------
    ConfigError
        If more than 30,000 items have training events.

    Notes
    -----
    Cost and source: see `llm_tail.recommenders.closed_form.ease_weights`, on the items with training events.
    """
    from llm_tail.recommenders.closed_form import ease_weights

    taken, counts = train.matrix(), train.counts()
    warm = np.flatnonzero(counts)
    if len(warm) > MOST_TAUGHT:
        raise ConfigError(
            f"setting 'lora.teacher' is 'ease', which takes at most {MOST_TAUGHT:,} items with training events, and "
            f"there are {len(warm):,}; set it to 'together'"
        )
    weights = ease_weights(taken[:, warm].T @ taken[:, warm], ridge)  # (n_warm, n_warm)
    scale = counts[warm].astype(np.float64) ** ((1 - balance) / 2)
    parts = []
    for start in range(0, len(warm), BLOCK):
        block = slice(start, start + BLOCK)
        both = (weights[block] + weights[:, block].T) / 2  # (n_block, n_warm)
        scaled = np.where(both > LEAST_TAUGHT, both * scale[block, None] * scale, 0.0)
        parts.append(sp.csr_matrix(scaled.astype(np.float32)))
    place = sp.csr_matrix((np.ones(len(warm), np.float32), (warm, np.arange(len(warm)))), (len(counts), len(warm)))
    tied = sp.vstack(parts, format="csr") if parts else sp.csr_matrix(np.zeros((0, 0), np.float32))
    return sp.csr_matrix(place @ tied @ place.T)


def held_out_of(workspace: Workspace, split: Split) -> Interactions:
    """Return all events that nothing may be trained on: validation and test of the run and of `split`."""
    parts = [split.validation, split.test]
    if split is not workspace.split:
        parts += [workspace.split.validation, workspace.split.test]
    users, items = (np.concatenate([getattr(part, rows) for part in parts]) for rows in ("user_rows", "item_rows"))
    return Interactions(split.users, split.items, users, items)


def watch_ranking(
    split: Split, texts: Sequence[str], max_tokens: int, *, metric: str = "ndcg", seed: int = 0
) -> Callable[[Encoder], dict[str, float]]:
    """Return what measures an encoder on the way: NDCG@20 or recall@20 of ranking by the texts alone, on validation.

    Cheap but fair: the same at most 2,000 people and 20,000 items each time, among them all that these people took (see
    `few_items`), and texts cut as in training.

    Parameters
    ----------
    split : Split
        Its validation part judges.
    texts : sequence of str
        One for each item of `split`.
    max_tokens : int
        Texts are cut here, at least 1.
    metric : {"ndcg", "recall"}
        What is measured.
    seed : int
        Of the draw of people and items.

    Returns
    -------
    callable
        Takes an encoder and returns a dict of warm, tail, cold and overall, without those that nobody can be judged on.
    """
    from llm_tail.embedding.store import Embeddings
    from llm_tail.evaluation.evaluate import evaluate
    from llm_tail.recommenders.content import ContentSimilarity

    sample, items = few_items(few_people(split, MOST_PEOPLE, seed=seed), MOST_ITEMS, seed=seed)
    chosen = [texts[i] for i in items]

    def measure(encoder: Encoder) -> dict[str, float]:
        vectors = Embeddings(sample.items, encoder.cut_at(max_tokens).encode(chosen))
        model = ContentSimilarity().fit(sample.train, vectors)
        report = evaluate([model], sample, K, n_bootstrap=0, phase="validation")
        return {segment: report.value(model.name, segment, f"{metric}@{K}") for segment in report.segments}

    return measure


def index_search(config: IndexConfig, *, seed: int = 0) -> Search:
    """Return what finds hard negatives: the neighbour index, exact below ``exact_below`` texts, else approximate.

    Parameters
    ----------
    config : IndexConfig
        Of the index that is built over the texts' vectors, each time that negatives are mined.
    seed : int
        Of the index.
    """
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.index import NeighborIndex

    def search(queries: NDArray[np.float32], base: NDArray[np.float32], k: int) -> tuple[Rows, NDArray[np.float32]]:
        index = NeighborIndex.build(Embeddings([str(row) for row in range(len(base))], base), config, seed=seed)
        return index.query(queries, k)

    return search


def _makers(
    workspace: Workspace, config: RunConfig, split: Split, teacher: sp.csr_matrix | None
) -> dict[str, Callable[[], TextPairs]]:
    """Return how pairs of each kind are made."""
    from llm_tail.embedding.pairs import TextPairs

    catalog, text = workspace.catalog, workspace.item_text
    lora, seed, n = config.lora, config.seed, config.lora.n_pairs

    def of_attributes() -> TextPairs:
        columns = attributes_of(config)
        if not columns:
            raise ConfigError("name columns in [lora] attributes or in [graph] relations")
        return TextPairs.from_attributes(catalog, columns, text, n_pairs=n, hub_cap=config.graph.hub_cap, seed=seed)

    def of_questions() -> TextPairs:
        from llm_tail.enrichment.augmenting import question_pairs

        if not uses_generated(config):
            raise ConfigError(
                "question pairs are made of generated fields; set [enrichment] enabled = true, or take 'question' out "
                "of [lora] pairs"
            )
        least = config.enrichment.min_confidence
        return question_pairs(workspace.enrichment, catalog, text, n_pairs=n, min_confidence=least, seed=seed)

    return {
        "co-interaction": lambda: TextPairs.from_interactions(
            split.train,
            catalog,
            text,
            n_pairs=n,
            balance=lora.balance,
            session_days=lora.session_days,
            teacher=teacher,
            seed=seed,
        ),
        "history": lambda: TextPairs.from_histories(
            split.train, catalog, text, n_pairs=n, length=lora.history_length, seed=seed
        ),
        "attribute": of_attributes,
        "text": lambda: TextPairs.from_texts(catalog, text, n_pairs=n, seed=seed),
        "question": of_questions,
    }
