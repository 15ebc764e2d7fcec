"""The ties an item graph is made of: near texts, shared values, taken by the same people.

Each function returns a symmetric CSR matrix of float32, shape (n_items, n_items), without loops. All work in blocks
of rows, so that memory is bounded by the ties that are kept and not by the pairs that were looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError, closest
from llm_tail.neighbors.exact import Similarities, nearest

if TYPE_CHECKING:
    from llm_tail.neighbors.index import NeighborIndex

SIMILAR, TAKEN_TOGETHER = "similar", "taken_together"
BLOCK_ENTRIES = 4_000_000  # entries of one block of a sparse product: about 50 MB
MAX_TIES = 100  # ties of one shared-value relation that an item keeps
EXACT_MOST = 20_000  # vectors without an index: beyond so many, one is built
ASK_BLOCK = 16_384  # items whose neighbours are asked for at once


@dataclass(frozen=True)
class SharedValues:
    """Which item has which value of one column, hubs left out.

    Parameters
    ----------
    members : csr_matrix of float32, shape (n_items, n_values)
        1.0 where the item has the value.
    names : array of object, shape (n_values,)
        The values as they were first written.
    hubs : dict
        Values that too many items share, with their numbers of items, largest first; they tie none.
    """

    members: sp.csr_matrix
    names: NDArray[np.object_]
    hubs: dict[str, int]

    @property
    def weights(self) -> NDArray[np.float32]:
        """What sharing a value counts, shape (n_values,): 1 / log2(1 + n) where n items share it."""
        counts = np.bincount(self.members.indices, minlength=len(self.names))
        return np.asarray(1.0 / np.log2(1.0 + counts), dtype=np.float32)

    def by_item(self) -> list[list[str]]:
        """Return the values of each item that it shares with others."""
        ends, names = self.members.indptr, list(map(str, self.names[self.members.indices]))
        return [names[ends[n] : ends[n + 1]] for n in range(len(ends) - 1)]


def shared_values(catalog: Catalog, column: str, hub_cap: int) -> SharedValues:
    """Return which items share which values of a scalar or list column; case and runs of spaces do not count."""
    items, words = _flat(catalog, column)
    words = pc.utf8_trim_whitespace(pc.replace_substring_regex(words, r"\s+", " "))
    keys = pc.dictionary_encode(pc.utf8_lower(pc.utf8_normalize(words, "NFKC")))
    codes = keys.indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(codes, return_index=True)  # (n_values,): where each value stands first
    members = sp.csr_matrix(
        (np.ones(len(codes), dtype=np.float32), (items, codes)), shape=(len(catalog), len(keys.dictionary))
    )
    members.sum_duplicates()
    members.data[:] = 1.0
    counts = np.bincount(members.indices, minlength=members.shape[1])
    hubs = np.flatnonzero(counts > hub_cap)
    hubs = hubs[np.argsort(-counts[hubs], kind="stable")]
    tying = np.flatnonzero((counts >= 2) & (counts <= hub_cap))
    names = words.take(pa.array(first)).to_numpy(zero_copy_only=False).astype(object)
    return SharedValues(members[:, tying], names[tying], {str(names[v]): int(counts[v]) for v in hubs})


def _flat(catalog: Catalog, column: str) -> tuple[Rows, pa.Array]:
    """Return (item row, value as text) of every value of a column that is not empty."""
    values = catalog.table[column].combine_chunks()
    items = np.arange(len(values), dtype=np.int64)
    while _is_list(values.type):
        items = items[pc.list_parent_indices(values).to_numpy()]
        values = pc.list_flatten(values)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    try:
        words = values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"column {column!r} holds {values.type}, which cannot tie items; expected words, numbers or lists of them"
        ) from None
    there = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(words), ""), False)
    return items[there.to_numpy(zero_copy_only=False)], words.filter(there)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def value_ties(shared: SharedValues, max_ties: int = MAX_TIES) -> sp.csr_matrix:
    """Return the ties of shared values: the sum of the weights of all values that two items share.

    O(sum over values of n_items_with_value²) time; an item keeps its strongest `max_ties`, and of equal ones those
    that stand nearest to it in the catalogue, so that no item is picked by all others.
    """
    return symmetric(value_rows(shared, np.arange(shared.members.shape[0]), max_ties))


def value_rows(shared: SharedValues, rows: Rows, max_ties: int = MAX_TIES) -> sp.csr_matrix:
    """Return the ties that some items choose, shape (n_items, n_items): not symmetric, the rows of others empty."""
    members, n = shared.members, shared.members.shape[0]
    if not len(rows):
        return sp.csr_matrix((np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(n + 1, np.int32)), shape=(n, n))
    weighted = (members @ sp.diags_array(shared.weights)).tocsr()
    transposed = members.T.tocsr()
    cost = members[rows] @ np.diff(transposed.indptr)
    chosen = _blocked(cost, lambda part: (weighted[rows[part]] @ transposed).tocsr(), max_ties, rows)
    ends = np.zeros(n + 1, dtype=np.int64)
    ends[rows + 1] = np.diff(chosen.indptr)
    return sp.csr_matrix((chosen.data, chosen.indices, np.cumsum(ends)), shape=(n, n))


def value_keys(names: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return values as they are compared: case and runs of spaces do not count."""
    words = pc.replace_substring_regex(pa.array(names, pa.string()), r"\s+", " ")
    keys = pc.utf8_lower(pc.utf8_normalize(pc.utf8_trim_whitespace(words), "NFKC"))
    return np.asarray(keys.to_numpy(zero_copy_only=False), dtype=object)


def co_ties(interactions: Interactions, neighbors: int) -> sp.csr_matrix:
    """Return the ties of items that the same people took: n_both / sqrt(n_one n_other), in (0, 1].

    O(sum over people of n_taken²) time; an item keeps its strongest `neighbors`.
    """
    taken = interactions.matrix()  # (n_users, n_items)
    by_item = taken.T.tocsr()
    scale = np.sqrt(np.maximum(np.diff(by_item.indptr), 1)).astype(np.float32)
    left = (sp.diags_array(1.0 / scale) @ by_item).tocsr()
    right = (taken @ sp.diags_array(1.0 / scale)).tocsr()
    cost = by_item @ np.diff(taken.indptr)
    return symmetric(_blocked(cost, lambda part: (left[part] @ right).tocsr(), neighbors))


def tie_columns(catalog: Catalog, names: Sequence[str]) -> list[str]:
    """Return the columns that are to tie items, each once, after checking that they are there."""
    for name in names:
        if name in (SIMILAR, TAKEN_TOGETHER):
            raise DataError(f"the relation {name!r} is made by the graph itself; rename the column of that name")
        if name not in catalog.columns:
            near = closest(name, catalog.columns, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(catalog.columns)}"
            raise DataError(f"the catalogue has no column {name!r} to tie items by; {hint}")
    return list(dict.fromkeys(names))


def near_rows(catalog: Catalog, source: NeighborIndex | Embeddings, k: int) -> tuple[Rows, NDArray[np.float32]]:
    """Return rows of the catalogue and cosines, each of shape (n_items, k), nearest first, -1 where there is none."""
    ask = near_asker(catalog.ids, source, k)
    rows, similarities = np.full((len(catalog), k), -1, dtype=np.int64), np.empty((len(catalog), k), dtype=np.float32)
    for start in range(0, len(catalog), ASK_BLOCK):
        part = slice(start, min(start + ASK_BLOCK, len(catalog)))
        rows[part], similarities[part] = ask(np.arange(part.start, part.stop))
    return rows, similarities


def near_asker(
    ids: IdMap, source: NeighborIndex | Embeddings, k: int
) -> Callable[[Rows], tuple[Rows, NDArray[np.float32]]]:
    """Return what answers with the k nearest of some items, both as rows of `ids`; of many vectors an index is built.

    Raises
    ------
    DataError
        If an item has no vector, or is not in the index.
    """
    if isinstance(source, Embeddings):
        vectors = source.on(ids).vectors
        if len(ids) <= EXACT_MOST:
            return lambda rows: nearest(vectors[rows], vectors, k, exclude_rows=rows)
        from llm_tail.neighbors.index import NeighborIndex

        source = NeighborIndex.build(Embeddings(ids, vectors))
    index, there = source, source.ids.rows(ids.values)  # (n_items,): rows of the index
    if (there < 0).any():
        missing = ", ".join(ids.values[there < 0][:3])
        raise DataError(f"{int((there < 0).sum())} items are not in the index, such as {missing}; build it from them")
    ours = ids.rows(source.ids.values)  # (n_index,): rows of the catalogue, -1 where it lacks the item

    def ask(rows: Rows) -> tuple[Rows, NDArray[np.float32]]:
        found, similarities = index.similar_rows(there[rows], k)  # (n_rows, k)
        return np.where(found >= 0, ours[found], -1), similarities

    return ask


def near_ties(rows: Rows, similarities: Similarities, min_similarity: float, *, mutual: bool = False) -> sp.csr_matrix:
    """Return the ties of near texts, their cosines as weights.

    Parameters
    ----------
    rows, similarities : arrays, shape (n_items, k)
        What an index answered for each item; rows below 0 are none.
    min_similarity : float
        Weaker ties are left out, and in any case those that are not above 0.
    mutual : bool
        Keep a tie only where both items chose it, and each item's strongest, so that none is cut off.
    """
    chosen = near_choices(rows, similarities, min_similarity)
    return mutual_ties(chosen) if mutual else symmetric(chosen)


def near_choices(rows: Rows, similarities: Similarities, min_similarity: float) -> sp.csr_matrix:
    """Return which items each item chose, shape (n_items, n_items), not symmetric."""
    n = len(rows)
    kept = (rows >= 0) & (rows != np.arange(n)[:, None]) & (similarities >= min_similarity) & (similarities > 0)
    ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    chosen = sp.csr_matrix((similarities[kept].astype(np.float32), rows[kept].astype(np.int32), ends), shape=(n, n))
    chosen.sort_indices()
    return chosen


def mutual_ties(chosen: sp.csr_matrix) -> sp.csr_matrix:
    """Return the choices that are returned, and each item's strongest choice, as a symmetric matrix."""
    both = chosen.minimum(chosen.T.tocsr()).tocsr()
    return symmetric(both.maximum(_strongest(chosen, np.arange(chosen.shape[0]), 1)).tocsr())


def _blocked(
    cost: NDArray[np.float64], product: Callable[[slice], sp.csr_matrix], keep: int, rows: Rows | None = None
) -> sp.csr_matrix:
    """Return the rows of a sparse product, block by block, each cut to its strongest; `rows` says which they are."""
    rows = np.arange(len(cost)) if rows is None else rows
    parts = [_strongest(product(part), rows[part], keep) for part in _parts(cost)]
    return sp.csr_matrix(sp.vstack(parts, format="csr", dtype=np.float32))


def _parts(cost: NDArray[np.float64]) -> Iterator[slice]:
    """Cut rows into runs whose costs sum to about `BLOCK_ENTRIES`, at least one row each."""
    ends = np.cumsum(cost)
    start = 0
    while start < len(cost):
        budget = BLOCK_ENTRIES + (ends[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(ends, budget, side="right")))
        yield slice(start, stop)
        start = stop


def _strongest(block: sp.csr_matrix, rows: Rows, keep: int) -> sp.csr_matrix:
    """Return the block without its diagonal, each row cut to its `keep` strongest; of equal ones the nearest rows."""
    n_rows, n_items = block.shape
    line = np.repeat(np.arange(n_rows), np.diff(block.indptr))
    column, weight = block.indices.astype(np.int64), block.data
    other = column != rows[line]
    line, column, weight = line[other], column[other], weight[other]
    if line.size and np.bincount(line).max() > keep:
        gap = np.abs(column - rows[line])
        # Rounded, for sums of the same weights in another order differ in the last bit.
        order = np.lexsort((column, np.minimum(gap, n_items - gap), -np.round(weight, 5), line))
        line, column, weight = line[order], column[order], weight[order]
        place = np.arange(len(line)) - np.searchsorted(line, np.arange(n_rows))[line]
        line, column, weight = line[place < keep], column[place < keep], weight[place < keep]
    return sp.csr_matrix((weight.astype(np.float32), (line, column)), shape=block.shape)


def symmetric(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Return the larger of each tie and its mirror image, columns sorted."""
    both = matrix.maximum(matrix.T.tocsr()).tocsr()
    both.sort_indices()
    return sp.csr_matrix(both)
