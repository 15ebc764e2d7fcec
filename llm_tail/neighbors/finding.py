"""How a question is put to an engine so that the answer is right: left out rows, allowed rows, never fewer than k."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.ids import Rows
from llm_tail.neighbors.engines import Engine
from llm_tail.neighbors.exact import BLOCK_BYTES, Similarities, Vectors, search
from llm_tail.neighbors.table import ItemTable
from llm_tail.neighbors.tuning import K

QUERY_BLOCK = 4096
# Measured by tests/benchmarks/index.py at width 384, in units of one vector that is fetched from its row: to compare it
# with a query once it has been fetched, and to look at one link of a candidate in the graph.
COMPARED, LINK = 0.1, 1.5
SPARE = 1.3  # candidates asked for beyond those that a filter lets through on average


@dataclass(frozen=True, eq=False)
class Allowed:
    """The rows that a filter lets through.

    Parameters
    ----------
    mask : array of bool, shape (n_items,)
    rows : array of int64, shape (n_allowed,)
        Rising; only rows with a vector.
    """

    mask: NDArray[np.bool_]
    rows: Rows

    @classmethod
    def of(cls, mask: NDArray[np.bool_], live: NDArray[np.bool_]) -> Allowed:
        """Make it of a mask over all rows and those with a vector."""
        mask = mask & live
        return cls(mask, np.flatnonzero(mask))


def find(
    table: ItemTable,
    engine: Engine,
    queries: Vectors,
    k: int,
    ef: int,
    excluded: Rows | None = None,
    allowed: Allowed | None = None,
) -> tuple[Rows, Similarities]:
    """Return the k nearest rows of each query; what `NeighborIndex.query` returns, for arguments that were checked."""
    if allowed is None and excluded is None and len(queries) == 1 and not engine.is_exact and 2 * k < table.n_live:
        rows, similarities = engine.search(queries, k, _wide(k, ef))
        if _is_plain(similarities, k):
            return rows, similarities
    n_there = table.n_live if allowed is None else len(allowed.rows)
    width = min(k, n_there)
    ask = width if excluded is None else min(width + 1, n_there)
    if width and allowed is not None:
        ask = _asked_through(ask, n_there / table.n_live, len(queries), engine, table)
    graph = not engine.is_exact and 0 < 2 * ask < table.n_live
    if graph and len(queries) == 1 and width == k and (excluded is not None or allowed is not None):
        plain = _one(engine, queries, k, ask, ef, excluded, allowed)
        if plain is not None:
            return plain
    found = np.full((len(queries), k), -1, dtype=np.int64), np.full((len(queries), k), -np.inf, dtype=np.float32)
    if not width:
        return found
    for start in range(0, len(queries), QUERY_BLOCK):
        part = slice(start, start + QUERY_BLOCK)
        left_out = None if excluded is None else excluded[part]
        if graph:
            rows, similarities = _by_graph(table, engine, queries[part], width, ask, ef, left_out, allowed)
        else:
            rows, similarities = _exactly(table, queries[part], width, left_out, allowed)
        found[0][part, :width], found[1][part, :width] = rows, similarities
    return found


def _is_plain(similarities: Similarities, k: int) -> bool:
    """Say whether the answer to one question is whole, without equals, and the query no zero vector.

    Then it is as it has to be, and a service that asks one by one gets it the short way.
    """
    line = similarities[0].tolist()
    if line[0] > 1.0:  # a distance can be -1e-7
        np.minimum(similarities, 1.0, out=similarities)
        line = similarities[0].tolist()
    return line[0] != 0.0 and line[-1] >= -1.0 and len(set(line)) == k


def _one(
    engine: Engine, query: Vectors, k: int, ask: int, ef: int, excluded: Rows | None, allowed: Allowed | None
) -> tuple[Rows, Similarities] | None:
    """Return the answer to one question with rows left out, where it is plain; None where it is not."""
    rows, similarities = engine.search(query, ask, _wide(ask, ef))  # (1, ask)
    keep = similarities[0] > -1.0
    if excluded is not None:
        keep &= rows[0] != excluded[0]
    if allowed is not None:
        keep &= allowed.mask[rows[0]]
    places = np.flatnonzero(keep)[:k]
    if len(places) < k:
        return None
    rows, similarities = rows[:, places], similarities[:, places]
    return (rows, similarities) if _is_plain(similarities, k) else None


def _asked_through(k: int, share: float, n_queries: int, engine: Engine, table: ItemTable) -> int:
    """Return how many candidates to ask a graph for so that k pass a filter; more than there are where that costs more.

    The vectors that may be found are fetched once for all queries of a block and compared with each; a graph looks at
    the links of every candidate, for each query anew.
    """
    ask = math.ceil(SPARE * k / share)
    links = getattr(getattr(engine, "config", None), "links", 0)
    exactly = share * table.n_live * (1 + COMPARED * min(n_queries, QUERY_BLOCK))
    return ask if ask * links * LINK * min(n_queries, QUERY_BLOCK) < exactly else table.n_live


def _wide(ask: int, ef: int) -> int:
    """Return how many candidates to look at: ef is for ten; twice as many as asked keep a longer answer's end good."""
    return ef if ask <= K + 1 else max(ef, 2 * ask)


def _by_graph(
    table: ItemTable,
    engine: Engine,
    queries: Vectors,
    k: int,
    ask: int,
    ef: int,
    excluded: Rows | None,
    allowed: Allowed | None,
) -> tuple[Rows, Similarities]:
    rows, similarities = engine.search(queries, ask, _wide(ask, ef))  # (n_queries, ask)
    similarities = np.clip(similarities, -1.0, 1.0, where=similarities > -np.inf, out=similarities)
    if allowed is not None:
        similarities[~allowed.mask[rows]] = -np.inf
    if excluded is not None:
        similarities[rows == excluded[:, None]] = -np.inf
    rows, similarities = _in_order(rows, similarities, k)
    spoken = queries.any(axis=1)
    similarities[~spoken] = -np.inf
    # An item that is left out may be the one that is missing; it was asked for on top.
    short = np.flatnonzero(~(similarities[:, -1] > -np.inf) & spoken)
    if len(short):
        left_out = None if excluded is None else excluded[short]
        rows[short], similarities[short] = _exactly(table, queries[short], k, left_out, allowed)
    rows[similarities == -np.inf] = -1
    return rows, similarities


def _in_order(rows: Rows, similarities: Similarities, k: int) -> tuple[Rows, Similarities]:
    """Return the k best of each line, best first, equal ones by row."""
    unordered = ~(similarities[:, 1:] < similarities[:, :-1]).all(axis=1)  # most lines come in order
    line = np.flatnonzero(unordered)
    if len(line):
        order = np.lexsort((rows[line], -similarities[line]), axis=1)
        rows[line] = np.take_along_axis(rows[line], order, axis=1)
        similarities[line] = np.take_along_axis(similarities[line], order, axis=1)
    return rows[:, :k], similarities[:, :k]


def _exactly(
    table: ItemTable, queries: Vectors, k: int, excluded: Rows | None, allowed: Allowed | None
) -> tuple[Rows, Similarities]:
    if allowed is None or len(allowed.rows) > table.n_live // 2:
        live = table.live if allowed is None else allowed.mask
        return search(queries, table.vectors, k, excluded, live=live)
    return _among(table, queries, k, excluded, allowed.rows)


def _among(table: ItemTable, queries: Vectors, k: int, excluded: Rows | None, rows: Rows) -> tuple[Rows, Similarities]:
    """Compare with these rows alone, fetched block by block."""
    if excluded is not None:  # where the excluded one stands among them, -1 where it does not
        at = np.searchsorted(rows, excluded)
        here = rows[np.minimum(at, len(rows) - 1)] == excluded
        excluded = np.where(here, at, -1)
    step = max(k, BLOCK_BYTES // (4 * table.dim))
    best: tuple[Rows, Similarities] | None = None
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        inside = None
        if excluded is not None:
            inside = np.where((excluded >= start) & (excluded < start + len(part)), excluded - start, -1)
        base = table.floats(part)
        found, similarities = search(queries, base, k, inside, live=np.ones(len(part), dtype=bool))
        found = np.where(found >= 0, part[found], -1)
        if best is not None:
            found, similarities = np.hstack([best[0], found]), np.hstack([best[1], similarities])
            found, similarities = _in_order(found, similarities, k)
        best = found, similarities
    if best is None:
        return np.full((len(queries), k), -1, dtype=np.int64), np.full((len(queries), k), -np.inf, dtype=np.float32)
    return best
