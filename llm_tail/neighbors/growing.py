"""How an item graph grows: items are added, replaced and removed, and only what they touch is tied again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError
from llm_tail.neighbors.edges import (
    ASK_BLOCK,
    MAX_TIES,
    SIMILAR,
    TAKEN_TOGETHER,
    SharedValues,
    co_ties,
    near_asker,
    near_choices,
    near_rows,
    near_ties,
    shared_values,
    symmetric,
    tie_columns,
    value_keys,
    value_rows,
    value_ties,
)
from llm_tail.neighbors.exact import unit_vectors
from llm_tail.neighbors.generated import PREFIX as GENERATED
from llm_tail.neighbors.graph import ItemGraph, titles_of

if TYPE_CHECKING:
    from llm_tail.neighbors.index import NeighborIndex

BLOCK_BYTES = 64 << 20
SLACK = 1e-6  # cosines of the same two items differ in the last bits from one product to the next


@dataclass(frozen=True)
class Moves:
    """Where the items were and where they are.

    Parameters
    ----------
    old, new : IdMap
        The items before and after.
    to : array of int64, shape (n_old,)
        The new row of each old one; -1 where it is gone.
    touched : array of bool, shape (n_new,)
        Items that are new or changed.
    gone : array of bool, shape (n_old,)
        Items that are no more, or are changed: what was known of them counts no longer.
    """

    old: IdMap
    new: IdMap
    to: Rows
    touched: NDArray[np.bool_]
    gone: NDArray[np.bool_]

    @classmethod
    def of(cls, old: IdMap, new: IdMap, changed: Sequence[str]) -> Moves:
        """Compare two sets of items."""
        named = list(changed)
        rows = new.rows(named) if named else np.zeros(0, dtype=np.int64)
        if (rows < 0).any():
            missing = ", ".join(str(named[n]) for n in np.flatnonzero(rows < 0)[:3])
            raise DataError(f"{int((rows < 0).sum())} changed items are not in the catalogue, such as {missing}")
        to = new.rows(old.values)
        touched = np.ones(len(new), dtype=bool)
        touched[to[to >= 0]] = False
        touched[rows] = True
        gone = (to < 0) | touched[to]
        return cls(old, new, to, touched, gone)

    def carry(self, matrix: sp.csr_matrix, kept: NDArray[np.bool_]) -> sp.csr_matrix:
        """Return ties of old items between new rows; only those of rows that are `kept`, shape (n_new,)."""
        line = self.to[np.repeat(np.arange(len(self.to)), np.diff(matrix.indptr))]
        column = self.to[matrix.indices]
        there = (line >= 0) & (column >= 0)
        there[there] = kept[line[there]]
        n = len(self.new)
        carried = sp.csr_matrix((matrix.data[there], (line[there], column[there])), shape=(n, n), dtype=np.float32)
        carried.sort_indices()
        return carried

    def carry_values(self, shared: SharedValues) -> SharedValues:
        """Return who has which value, by new rows; new items have none."""
        members, stay = shared.members, np.flatnonzero(self.to >= 0)
        ones = np.ones(len(stay), dtype=np.float32)
        place = sp.csr_matrix((ones, (self.to[stay], stay)), shape=(len(self.new), len(self.to)))
        return SharedValues(sp.csr_matrix(place @ members), shared.names, shared.hubs)


def upsert(
    graph: ItemGraph,
    catalog: Catalog,
    changed: Sequence[str],
    source: NeighborIndex | Embeddings | None,
    interactions: Interactions | None,
) -> ItemGraph:
    """Do what `ItemGraph.upsert` says."""
    moves, config = Moves.of(graph.ids, catalog.ids, changed), graph.config
    tie_columns(catalog, [name for name in graph._values if not name.startswith(GENERATED)])
    matrices: dict[str, sp.csr_matrix] = {}
    values: dict[str, SharedValues] = {}
    for name in graph.relations:
        old = graph.matrix(name)
        if name == SIMILAR:
            if source is None:
                raise DataError("the graph ties similar items; give the index or the embeddings of all items")
            if config.mutual:  # which choices were not returned is not known any more
                matrices[name] = near_ties(
                    *near_rows(catalog, source, config.neighbors), config.min_similarity, mutual=True
                )
            else:
                matrices[name] = _near(old, moves, source, config.neighbors, config.min_similarity)
        elif name.startswith(GENERATED):  # nothing new is known: items that stay keep what was generated
            matrices[name] = moves.carry(old, np.ones(len(catalog), dtype=bool))
            if name in graph._values:
                values[name] = moves.carry_values(graph._values[name])
        elif name in graph._values:
            values[name] = shared_values(catalog, name, config.hub_cap)
            matrices[name] = _valued(old, moves, graph._values[name], values[name])
        elif name == TAKEN_TOGETHER and interactions is not None:
            matrices[name] = co_ties(interactions.on(catalog), config.co_neighbors)
        else:
            matrices[name] = moves.carry(old, np.ones(len(catalog), dtype=bool))
    return ItemGraph(catalog.ids, matrices, titles=titles_of(catalog), values=values, config=config)


# ---- similar


def _near(
    old: sp.csr_matrix, moves: Moves, source: NeighborIndex | Embeddings, k: int, min_similarity: float
) -> sp.csr_matrix:
    """Return the ties of near texts: items whose neighbours may be others now are asked for again."""
    ask = near_asker(moves.new, source, k)
    reach = _reach(old, k)  # (n_old,): a cosine above it is among the item's nearest
    again = moves.touched.copy()
    lost = np.unique(old[np.flatnonzero(moves.gone)].indices)  # they chose, or were chosen by, what is gone
    again[moves.to[lost][moves.to[lost] >= 0]] = True
    here = np.flatnonzero(moves.to >= 0)
    needed = np.full(len(moves.new), np.inf, dtype=np.float32)
    needed[moves.to[here]] = np.where(np.isfinite(reach[here]), reach[here], min_similarity)
    again |= _displaced(source, moves, needed)
    kept = ~again
    chosen = moves.carry(old, kept)
    line = np.repeat(np.arange(len(moves.new)), np.diff(chosen.indptr))
    by_itself = chosen.data >= needed[line]  # the others were chosen by the item at the other end
    rest = sp.csr_matrix((chosen.data[by_itself], (line[by_itself], chosen.indices[by_itself])), shape=chosen.shape)
    rows, similarities = np.full((len(again), k), -1, np.int64), np.full((len(again), k), -np.inf, np.float32)
    asked = np.flatnonzero(again)
    for start in range(0, len(asked), ASK_BLOCK):
        part = asked[start : start + ASK_BLOCK]
        rows[part], similarities[part] = ask(part)
    return symmetric(sp.csr_matrix(rest.maximum(near_choices(rows, similarities, min_similarity))))


def _reach(ties: sp.csr_matrix, k: int) -> NDArray[np.float32]:
    """Return the k-th largest weight of each row, shape (n_items,); -inf where there are fewer.

    An item's own k nearest are the k strongest of its ties: those who chose it beyond them are further away.
    """
    n = ties.shape[0]
    line = np.repeat(np.arange(n), np.diff(ties.indptr))
    order = np.lexsort((-ties.data, line))
    reach = np.full(n, -np.inf, dtype=np.float32)
    full = np.flatnonzero(np.diff(ties.indptr) >= k)
    reach[full] = ties.data[order][ties.indptr[full] + k - 1]
    return reach


def _displaced(source: NeighborIndex | Embeddings, moves: Moves, needed: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the items that a new or changed one comes near enough to, shape (n_new,); all pairs, block by block."""
    vectors = source.vectors[source.ids.rows(moves.new.values)] if source.ids != moves.new else source.vectors
    vectors = unit_vectors(vectors, "the vectors")
    fresh = vectors[moves.touched]
    found = np.zeros(len(moves.new), dtype=bool)
    if not len(fresh):
        return found
    block = max(1, BLOCK_BYTES // (4 * len(fresh)))
    for start in range(0, len(vectors), block):
        part = slice(start, start + block)
        found[part] = (vectors[part] @ fresh.T).max(axis=1) >= needed[part] - SLACK
    return found


# ---- shared values


def _valued(old: sp.csr_matrix, moves: Moves, before: SharedValues, after: SharedValues) -> sp.csr_matrix:
    """Return the ties of shared values: items are tied again that hold a value which others hold now."""
    again = moves.touched.copy()
    keys_before, keys_after = value_keys(before.names), value_keys(after.names)
    changed_before = ~np.isin(keys_before, keys_after)  # of too many or too few by now
    changed_before[before.members[np.flatnonzero(moves.gone)].indices] = True
    changed_after = ~np.isin(keys_after, keys_before[~changed_before])
    changed_after[after.members[np.flatnonzero(moves.touched)].indices] = True
    changed_before |= np.isin(keys_before, keys_after[changed_after])
    holders = moves.to[_holders(before.members, changed_before)]
    again[holders[holders >= 0]] = True
    again[_holders(after.members, changed_after)] = True
    # Which of equal ties a crowded item keeps depends on where the others stand.
    n_holders = np.bincount(after.members.indices, minlength=after.members.shape[1])
    again |= after.members @ np.maximum(n_holders - 1, 0) > MAX_TIES
    if again.mean() > 0.5:
        return value_ties(after)
    rest = moves.carry(old, ~again)
    return symmetric(sp.csr_matrix(rest.maximum(value_rows(after, np.flatnonzero(again)))))


def _holders(members: sp.csr_matrix, columns: NDArray[np.bool_]) -> Rows:
    """Return the rows that have any of these columns."""
    line = np.repeat(np.arange(members.shape[0]), np.diff(members.indptr))
    return np.unique(line[columns[members.indices]])
