"""Exact nearest neighbours by blocked matrix products, and the checks that every query goes through."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_tail.data.ids import Rows
from llm_tail.errors import DataError

Vectors = NDArray[np.float32]
Stored = NDArray[np.float32] | NDArray[np.float16]
Similarities = NDArray[np.float32]

BLOCK_BYTES = 64 << 20


def nearest(
    vectors_q: ArrayLike,
    vectors_base: ArrayLike,
    k: int,
    *,
    block: int | None = None,
    exclude_rows: ArrayLike | None = None,
) -> tuple[Rows, Similarities]:
    """Return for each query the k rows of the base with the highest cosine, compared with every one of them.

    Parameters
    ----------
    vectors_q : array, shape (n_queries, dim)
        Finite, any length; a zero vector has no neighbours.
    vectors_base : array, shape (n_base, dim)
        Finite, any length; a zero vector is nobody's neighbour.
    k : int
        How many, at least 1; may exceed n_base.
    block : int, optional
        Queries compared at once; by default as many as keep a block of cosines below 64 MiB.
    exclude_rows : array of int, shape (n_queries,), optional
        For each query one row of the base that is left out, or -1.

    Returns
    -------
    rows : array of int64, shape (n_queries, k)
        Best first, equal ones by row; -1 where there are fewer than k.
    similarities : array of float32, shape (n_queries, k)
        Cosines in [-1, 1]; -inf where there are fewer than k.

    Raises
    ------
    DataError
        If a shape, a dtype or k is wrong, or a value is not finite.

    Notes
    -----
    O(n_queries n_base dim) time; memory is three blocks beside the answer, whatever the size of the base.

    Examples
    --------
    >>> base = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> rows, similarities = nearest([[2.0, 0.1]], base, k=2)
    >>> rows.tolist(), similarities.round(2).tolist()
    ([[0, 2]], [[1.0, 0.7400000095367432]])
    """
    base = unit_vectors(vectors_base, "the base")
    queries = unit_vectors(vectors_q, "the queries", base.shape[1])
    excluded = check_excluded(exclude_rows, len(queries), len(base))
    return search(queries, base, check_k(k), excluded, block=block)


def search(
    queries: Vectors,
    base: Stored,
    k: int,
    excluded: Rows | None = None,
    *,
    block: int | None = None,
    live: NDArray[np.bool_] | None = None,
) -> tuple[Rows, Similarities]:
    """Do what `nearest` does for vectors that are known to be of length 1 or 0 and finite.

    The base may be float16; `live` says which of it are not zero, where that is known.
    """
    n, n_base = len(queries), len(base)
    rows, similarities = np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
    width = min(k, n_base)
    if not width:
        return rows, similarities
    if block is None:
        block = max(1, BLOCK_BYTES // (4 * n_base))
    empty = np.flatnonzero(~base.any(axis=1) if live is None else ~live)  # (n_empty,)
    for start in range(0, n, max(1, block)):
        part = slice(start, min(start + max(1, block), n))
        cosines = products(queries[part], base)  # (n_block, n_base)
        np.clip(cosines, -1.0, 1.0, out=cosines)
        if len(empty):
            cosines[:, empty] = -np.inf
        cosines[~queries[part].any(axis=1)] = -np.inf
        if excluded is not None:
            line = np.flatnonzero(excluded[part] >= 0)
            cosines[line, excluded[part][line]] = -np.inf
        rows[part, :width], similarities[part, :width] = _best(cosines, width)
    return rows, similarities


def products(queries: Vectors, base: Stored) -> Similarities:
    """Return inner products, shape (n_queries, n_base); float16 is widened block by block."""
    if base.dtype == np.float32:
        return queries @ base.T
    found = np.empty((len(queries), len(base)), dtype=np.float32)
    step = max(1, BLOCK_BYTES // (16 * base.shape[1]))
    for start in range(0, len(base), step):
        found[:, start : start + step] = queries @ base[start : start + step].astype(np.float32).T
    return found


def _best(scores: Similarities, k: int) -> tuple[Rows, Similarities]:
    """Return rows and scores of the k best of each line, best first, equal ones by row; -inf is never returned."""
    n, n_base = scores.shape
    border = np.partition(scores, n_base - k, axis=1)[:, n_base - k, None]  # (n, 1): the k-th best
    np.maximum(border, np.finfo(np.float32).min, out=border)
    # k of each line, more where the border is tied; nonzero() in two axes would take more than all the rest.
    line, row = np.divmod(np.flatnonzero(scores >= border), n_base)
    score = scores[line, row]
    order = np.lexsort((row, -score, line))
    line, row, score = line[order], row[order], score[order]
    place = np.arange(len(line)) - np.searchsorted(line, np.arange(n))[line]  # 0 for the best of a line
    kept = place < k
    rows, best = np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
    rows[line[kept], place[kept]], best[line[kept], place[kept]] = row[kept], score[kept]
    return rows, best


def unit_vectors(vectors: ArrayLike, what: str, dim: int | None = None) -> Vectors:
    """Return vectors as a contiguous float32 array, each of length 1 or 0; copied only where that takes a change.

    Raises
    ------
    DataError
        If they are no numbers, not two-dimensional, not `dim` wide, or not finite.
    """
    if type(vectors) is np.ndarray and vectors.shape == (1, dim) and vectors.dtype == np.float32:
        # A single question, as a service asks it: the checks below take a tenth of the time of the search itself.
        single: Vectors = vectors
        if single.flags.c_contiguous and abs(float(single[0].dot(single[0])) - 1.0) < 1e-6:
            return single
    return _checked_units(vectors, what, dim)


def _checked_units(vectors: ArrayLike, what: str, dim: int | None) -> Vectors:
    try:
        given = np.asarray(vectors)
    except ValueError:
        raise DataError(f"{what} are rows of different lengths, expected shape (n, {dim or 'dim'})") from None
    if given.dtype.kind not in "fiu":
        raise DataError(f"{what} have dtype {given.dtype}, expected numbers such as float32")
    if given.ndim != 2 or given.shape[1] != (dim or given.shape[1]) or given.shape[1] == 0:
        raise DataError(f"{what} have shape {given.shape}, expected (n, {dim or 'dim'}): one row a vector")
    with np.errstate(over="ignore"):  # what is too large for float32 is reported below
        array = np.ascontiguousarray(given, dtype=np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", array, array, dtype=np.float64))  # (n,)
    if not np.isfinite(lengths).all():
        n_bad = int((~np.isfinite(lengths)).sum())
        raise DataError(f"{n_bad} of {len(array)} vectors of {what} hold NaN or infinite values; expected finite ones")
    off = (np.abs(lengths - 1.0) > 1e-6) & (lengths > 0)
    if off.any():
        array = array.copy() if np.shares_memory(array, given) else array
        array[off] = array[off] / lengths[off, None]
    return array


def check_k(k: int) -> int:
    """Return k as int; below 1 or not whole raises `DataError`."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise DataError(f"k is {k!r}, expected a whole number of at least 1")
    return int(k)


def check_excluded(rows: ArrayLike | None, n_queries: int, n_base: int) -> Rows | None:
    """Return the rows to leave out, shape (n_queries,), after checking them."""
    if rows is None:
        return None
    array: NDArray[Any] = np.asarray(rows)
    if array.shape != (n_queries,) or array.dtype.kind not in "iu":
        raise DataError(
            f"exclude_rows has shape {array.shape} and dtype {array.dtype}, expected ({n_queries},) whole numbers"
        )
    if array.size and (array.min() < -1 or array.max() >= n_base):
        raise DataError(f"exclude_rows run from {array.min()} to {array.max()}, expected -1 to {n_base - 1}")
    return array.astype(np.int64)
