"""What is answered about items: which are near, tied, taken together, found by words, and what lies around one.

Each function takes a `ServedRun` and returns what `answers` describes as plain values; none changes anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from llm_tail.errors import DataError
from llm_tail.neighbors.edges import SIMILAR, TAKEN_TOGETHER
from llm_tail.neighbors.fusing import DEPTH, LEAST_DEPTH, fuse
from llm_tail.service.problems import ConflictError
from llm_tail.service.served import ServedRun

if TYPE_CHECKING:
    from llm_tail.neighbors.index import NeighborIndex

Pairs = list[tuple[str, float]]
Answers = list[dict[str, Any]]
LARGEST = 2**53  # whole numbers beyond are changed by those who read JSON
SHORT_VALUE = 60  # characters of a shared value that a reason quotes


def shown(run: ServedRun, pairs: Iterable[tuple[str, float]], why: Mapping[str, str] | None = None) -> Answers:
    """Return items of a list as `ShownItem` has them."""
    found = []
    for item_id, score in pairs:
        card = run.card(item_id)
        found.append(
            {
                "item_id": item_id,
                "title": card.title,
                "score": score,
                "segment": card.segment,
                "n_interactions": card.n_interactions,
                "why": why.get(item_id) if why else None,
            }
        )
    return found


def item(run: ServedRun, item_id: str) -> dict[str, Any]:
    """Return one item, as `ItemAnswer` has it."""
    found, card = run.item(item_id), run.card(item_id)
    return {
        "item_id": item_id,
        "title": card.title,
        "description": found.description,
        "fields": {name: plain(value) for name, value in found.fields.items()},
        "segment": card.segment,
        "n_interactions": card.n_interactions,
        "upserted": item_id in run.stock.shelf.items,
        "row": run.row_of.get(item_id),
    }


def plain(value: Any, deep: int = 64) -> Any:
    """Return a value as what JSON can hold and lose nothing by: no NaN, no bytes, dates and huge numbers as words.

    Raises
    ------
    DataError
        If lists and tables stand in each other more than `deep` times.
    """
    if deep < 0:
        raise DataError("a field holds lists within lists within lists; expected plain values")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return checked(value)
    if isinstance(value, int):
        return value if -LARGEST <= value <= LARGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {checked(str(key)): plain(part, deep - 1) for key, part in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(part, deep - 1) for part in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def checked(text: str) -> str:
    """Return a text that can be written down; half of a surrogate pair raises `UnicodeEncodeError`."""
    text.encode()
    return text


# ---- near


def similar(run: ServedRun, item_id: str, k: int, *, where: Sequence[str] = (), base: bool = False) -> Answers:
    """Return the items nearest to an item, itself left out."""
    run.check(item_id)
    if base:
        return shown(run, _near_by_base(run, item_id, k))
    shelf, row = run.stock.shelf, run.row_of.get(item_id)
    vector = shelf.vector(item_id) if item_id in shelf.items else run.vector(run.row_of[item_id])
    return shown(run, near(run, vector, k, without=item_id, row=row, where=where))


def near(
    run: ServedRun,
    vector: Any,
    k: int,
    *,
    without: str | None = None,
    row: int | None = None,
    where: Sequence[str] = (),
) -> Pairs:
    """Return the items nearest to a vector: those of the run and those that came since, best first.

    Parameters
    ----------
    run : ServedRun
        What is served.
    vector : array, shape (dim,)
        Of length 1 or 0.
    k : int
        How many at most.
    without : str, optional
        An item to leave out.
    row : int, optional
        Its row, where it is one of the run.
    where : sequence of str
        Conditions on columns; all must hold.
    """
    shelf, changed = run.stock.shelf, run.stock.shelf.changed
    mask, fresh = None, None
    if where:
        mask, fresh = run.filtering.mask(where), run.filtering.among(shelf, where)
    found = _of_run(run, run.index, vector, k + len(changed), row, mask)
    if shelf.items:
        since = shelf.near(vector, k, without=without, among=fresh)
        found = [pair for pair in found if pair[0] not in changed]
        found = sorted([*found, *since], key=lambda pair: -pair[1])
    return found[:k]


def _of_run(run: ServedRun, index: NeighborIndex, vector: Any, k: int, row: int | None, mask: Any = None) -> Pairs:
    left_out = None if row is None else np.array([row])
    rows, cosines = index.query(vector[None], min(k, len(run.ids)), exclude_rows=left_out, where=mask)
    return [(run.ids[r], c) for r, c in zip(rows[0].tolist(), cosines[0].tolist(), strict=True) if r >= 0]


def _near_by_base(run: ServedRun, item_id: str, k: int) -> Pairs:
    index, row = run.base_index, run.row_of.get(item_id)
    if index is None:
        raise ConflictError("the items are not embedded by the base encoder; start with --set serve.compare_base=true")
    if row is None:
        raise ConflictError(f"{item_id!r} came after the run, and only the run's own encoder has read it")
    return _of_run(run, index, index.vectors[row], k, row)


# ---- by words


def search(run: ServedRun, q: str, vector: Any, k: int, *, where: Sequence[str] = (), how: str = "vectors") -> Answers:
    """Return the items that some words describe, `vector` being that of the words; it may be None for how="words"."""
    if how == "vectors":
        return shown(run, near(run, vector, k, where=where))
    if how == "words":
        return shown(run, by_words(run, q, k, where))
    deep = max(DEPTH * k, LEAST_DEPTH)
    rankings = [near(run, vector, deep, where=where), by_words(run, q, deep, where)]
    return shown(run, fuse([[item_id for item_id, _ in ranking] for ranking in rankings], k))


def by_words(run: ServedRun, q: str, k: int, where: Sequence[str] = ()) -> Pairs:
    """Return the items that share words with a text, with their BM25 scores, those that came since among them."""
    if not where:
        return list(run.words.search(q, k))
    shelf = run.stock.shelf
    passed = set(np.asarray(run.index.ids.values)[run.filtering.mask(where)].tolist()) - shelf.changed
    passed |= run.filtering.among(shelf, where)
    return list(run.words.search(q, k, where=list(passed))) if passed else []


def suggest(run: ServedRun, q: str, k: int) -> Answers:
    """Return items whose titles fit the letters typed so far."""
    shelf, letters = run.stock.shelf, " ".join(q.casefold().split())
    found = [
        run.ids[row] for row in run.completion.find(q, k + len(shelf.changed)) if run.ids[row] not in shelf.changed
    ]
    if letters and shelf.items:
        fresh = [i for i, new in shelf.items.items() if letters in (new.title or i).casefold()]
        begin = [i for i in fresh if (shelf.items[i].title or i).casefold().startswith(letters)]
        found = [*begin, *found, *(i for i in fresh if i not in begin)]
    cards = [(item_id, run.card(item_id)) for item_id in found[:k]]
    return [{"item_id": i, "title": card.title, "segment": card.segment} for i, card in cards]


# ---- by ties


def related(run: ServedRun, item_id: str, k: int, hops: int, relations: Sequence[str]) -> Answers:
    """Return the items tied to an item in the graph, and by what."""
    run.check(item_id)
    if item_id not in run.row_of:
        return []  # it came after the graph was made
    ways: dict[str, Any] = {}
    for relation in relations or [None]:  # type: ignore[list-item]
        for tie in run.graph.related(item_id, hops=hops, relation=relation, k=k):
            if item_id not in ways and (tie.item_id not in ways or ways[tie.item_id].weight < tie.weight):
                ways[tie.item_id] = tie
    best = sorted(ways.values(), key=lambda tie: -tie.weight)[:k]
    why = {tie.item_id: _in_words(run, item_id, tie) for tie in best}
    return shown(run, [(tie.item_id, float(tie.weight)) for tie in best], why)


def _in_words(run: ServedRun, item_id: str, tie: Any) -> str:
    if tie.hops > 1:
        return "via " + ", then ".join(run.card(x).title for x in tie.via)
    words = {SIMILAR: "alike in words", TAKEN_TOGETHER: "taken by the same people"}
    parts = []
    for relation in tie.relations:
        value = run.graph._shared(relation, run.row_of[item_id], run.row_of[tie.item_id])
        named = f"same {relation.replace('_', ' ')}" + (f": {value[:SHORT_VALUE]}" if value else "")
        parts.append(words.get(relation, named))
    return "; ".join(parts)


def together(run: ServedRun, item_id: str, k: int) -> Answers:
    """Return the items that the same people took by training: cosine of who took them."""
    run.check(item_id)
    taken, row = run.together_matrix, run.row_of.get(item_id)
    if taken is None:
        raise ConflictError("this run has no interactions, so nobody took anything; ask for similar or related")
    if row is None or run.hybrid is None:
        return []
    histories = run.hybrid.histories
    people = taken.indices[taken.indptr[row] : taken.indptr[row + 1]]
    n_both = np.bincount(histories[people].indices, minlength=len(run.ids))[: len(run.ids)]
    n_both[row] = 0
    counts = np.asarray(run.counts, dtype=np.float64)
    there = np.flatnonzero(n_both)
    scores = n_both[there] / np.sqrt(counts[there] * counts[row])
    best = np.lexsort((there, -scores))[:k]
    ids = [run.ids[there[n]] for n in best.tolist()]
    why = {i: _took_both(int(n_both[there[n]])) for i, n in zip(ids, best.tolist(), strict=True)}
    return shown(run, zip(ids, scores[best].tolist(), strict=True), why)


def _took_both(n: int) -> str:
    return f"{n:,} {'person' if n == 1 else 'people'} took both"


def around(run: ServedRun, item_id: str, k: int, hops: int, relations: Sequence[str]) -> dict[str, Any]:
    """Return an item, the items tied to it, and all ties among these, as `GraphAnswer` has them."""
    run.check(item_id)
    found = [] if item_id not in run.row_of else run.graph.related(item_id, hops=hops, k=k)
    nodes = [(item_id, 0, 1.0), *((tie.item_id, tie.hops, float(tie.weight)) for tie in found)]
    cards = [(node, run.card(node[0])) for node in nodes]
    return {
        "item_id": item_id,
        "nodes": [
            {
                "item_id": name,
                "title": card.title,
                "segment": card.segment,
                "community": run.community_of(name),
                "hops": n,
                "weight": weight,
            }
            for (name, n, weight), card in cards
        ],
        "edges": _ties_among(run, [name for name, _, _ in nodes if name in run.row_of], relations),
    }


def _ties_among(run: ServedRun, ids: Sequence[str], relations: Sequence[str]) -> Answers:
    rows = np.array([run.row_of[x] for x in ids], dtype=np.int64)
    edges = []
    for relation in relations or run.graph.relations:
        part = sp.triu(run.graph.matrix(relation)[rows][:, rows], k=1).tocoo()
        strengths = part.data if relation in (SIMILAR, TAKEN_TOGETHER) else -np.expm1(-part.data)
        for a, b, strength in zip(part.row.tolist(), part.col.tolist(), strengths.tolist(), strict=True):
            edges.append({"source": ids[a], "target": ids[b], "relation": relation, "weight": min(strength, 1.0)})
    return edges
