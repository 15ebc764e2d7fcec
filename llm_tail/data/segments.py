"""Segments: head, tail and cold items, defined here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions, Mask
from llm_tail.errors import DataError

HEAD_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Segments:
    """Which items are head, tail and cold, by training data only.

    Warm items have at least one training event. Ordered by falling count (equal counts by row), the first
    ``int(0.2 * n_warm)`` of them are head, the others tail. Items without any training event are cold.

    Parameters
    ----------
    head, tail, cold : array of bool, shape (n_items,)
        Every item is in exactly one.

    Examples
    --------
    >>> segments = Segments.from_counts(np.array([9, 0, 1, 2, 3, 1]))
    >>> segments
    Segments(1 head, 4 tail, 1 cold)
    >>> segments.labels().tolist()
    ['head', 'cold', 'tail', 'tail', 'tail', 'tail']
    """

    head: Mask
    tail: Mask
    cold: Mask

    @classmethod
    def from_counts(cls, counts: NDArray[Any] | Sequence[int]) -> Segments:
        """Make segments of the number of training events of each item, shape (n_items,)."""
        counts = np.asarray(counts)
        if counts.ndim != 1 or (counts < 0).any():
            raise DataError(f"counts have shape {counts.shape}, expected one number from 0 for each item")
        warm = np.flatnonzero(counts > 0)
        order = warm[np.argsort(-counts[warm].astype(np.float64), kind="stable")]
        head = np.zeros(len(counts), dtype=bool)
        head[order[: int(HEAD_SHARE * len(order))]] = True
        cold = counts <= 0
        return cls(head, ~head & ~cold, cold)

    @classmethod
    def of(cls, train: Interactions) -> Segments:
        """Make the segments of training interactions; a count is the number of distinct people."""
        return cls.from_counts(train.counts())

    def name_of(self, row: int) -> str:
        """Return ``"head"``, ``"tail"`` or ``"cold"``."""
        return "head" if self.head[row] else "tail" if self.tail[row] else "cold"

    def labels(self) -> NDArray[np.str_]:
        """Return the name of each item's segment, shape (n_items,)."""
        return np.select([self.head, self.tail], ["head", "tail"], "cold")

    def __len__(self) -> int:
        return len(self.head)

    def __repr__(self) -> str:
        return f"Segments({self.head.sum():,} head, {self.tail.sum():,} tail, {self.cold.sum():,} cold)"
