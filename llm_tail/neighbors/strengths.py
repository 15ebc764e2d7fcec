"""Strengths: how strongly items are tied by some relations together, row by row or as one matrix."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.ids import Rows

STRONGEST = 1.0 - 1e-6  # no tie is certain, so that every step costs something
BLOCK_ROWS = 65_536


class Strengths:
    """The ties of some relations as strengths in (0, 1).

    A few rows are put together when they are asked for; only what looks at the whole graph, such as the strongest path,
    makes one matrix of it, which is then kept.

    Parameters
    ----------
    matrices : mapping of str to csr_matrix, shape (n_items, n_items)
        The weights of the relations; at least one.
    shared : collection of str
        Those whose weights count shared values: weight w becomes 1 - exp(-w).
    """

    def __init__(self, matrices: Mapping[str, sp.csr_matrix], shared: Collection[str]) -> None:
        self._matrices, self._shared = dict(matrices), set(shared)
        self._whole: sp.csr_matrix | None = None
        self.shape: tuple[int, int] = next(iter(self._matrices.values())).shape

    def __getitem__(self, rows: Rows) -> sp.csr_matrix:
        """Return some rows, shape (n_rows, n_items)."""
        if self._whole is not None:
            return self._whole[rows]
        return together([scaled(m[rows], name in self._shared) for name, m in self._matrices.items()])

    def whole(self) -> sp.csr_matrix:
        """Return the matrix, shape (n_items, n_items); of a single relation it shares what it can."""
        if self._whole is None:
            self._whole = together([scaled(m, name in self._shared) for name, m in self._matrices.items()])
        return self._whole

    def degrees(self) -> Rows:
        """Return how many others each item is tied to, shape (n_items,)."""
        if len(self._matrices) == 1:
            return np.diff(next(iter(self._matrices.values())).indptr).astype(np.int64)
        n = self.shape[0]
        blocks = (np.arange(start, min(start + BLOCK_ROWS, n)) for start in range(0, n, BLOCK_ROWS))
        found = [np.diff(self[rows].indptr).astype(np.int64) for rows in blocks]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    @property
    def kept_bytes(self) -> int:
        """What the matrix takes beside the relations, where it has been made."""
        own = [] if self._whole is None else arrays_of(self._whole)
        theirs = [array for matrix in self._matrices.values() for array in arrays_of(matrix)]
        return sum(array.nbytes for array in own if not any(np.shares_memory(array, other) for other in theirs))


def scaled(matrix: sp.csr_matrix, shared: bool) -> sp.csr_matrix:
    """Return weights as strengths in (0, 1); places are shared with `matrix`, all of it where nothing changes."""
    data = -np.expm1(-matrix.data) if shared else matrix.data
    if data.size and data.max() > STRONGEST:
        data = np.minimum(data, np.float32(STRONGEST))
    if data is matrix.data:
        return matrix
    return sp.csr_matrix((data.astype(np.float32, copy=False), matrix.indices, matrix.indptr), shape=matrix.shape)


def together(ties: Sequence[sp.csr_matrix]) -> sp.csr_matrix:
    """Return 1 - (1 - s1)(1 - s2)... of one or more matrices of strengths in (0, 1): independent reasons add up.

    One matrix alone is returned as it is.
    """
    if len(ties) == 1:
        return ties[0]
    doubts = _doubts(ties[0])
    for part in ties[1:]:
        doubts = (doubts + _doubts(part)).tocsr()
    doubts.data = np.minimum(-np.expm1(doubts.data), STRONGEST).astype(np.float32)
    doubts.sort_indices()
    return doubts


def arrays_of(matrix: sp.csr_matrix) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """Return the three arrays that a CSR matrix is made of."""
    return matrix.data, matrix.indices, matrix.indptr


def _doubts(strengths: sp.csr_matrix) -> sp.csr_matrix:
    data = np.log1p(-strengths.data)
    return sp.csr_matrix((data, strengths.indices, strengths.indptr), shape=strengths.shape)
