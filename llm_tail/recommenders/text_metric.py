"""Which directions of the text vectors tell what people take together: a metric in closed form, for all items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.recommenders.fusion import Floats

RIDGE = 0.1  # of the mean variance of a direction: one that hardly varies says nothing by chance
FLOOR = 1e-3  # what is left of a direction that people do not share
LEAST = 1e-6  # of the largest, on the scale of cosines: less is rounding
MOST_PEOPLE = 100_000  # whose baskets are looked at
ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Directions:
    r"""Directions of the text vectors, and how much what they bring together is taken together.

    .. math::

        A = V^\top (C - \operatorname{diag} C - s s^\top) V, \quad B = V^\top V + \lambda I, \quad
        B^{-1/2} A B^{-1/2} = Q G Q^\top, \quad T = B^{-1/2} Q \max(G, \epsilon)^{power} Q^\top B^{1/2}

    with unit text vectors V of the items that somebody took, the co-occurrence C of those who took two or more, scaled
    so that neither large baskets nor popular items count more than others, its trivial eigenvector s (the root of each
    item's share of events), taken off since what everybody takes is alike in nothing else, and G over its largest
    value. T is the metric: multiplied with it, items lie near that the same people take.

    Attributes
    ----------
    into, out_of : array of float64, shape (dim, dim)
        From the vectors to the directions, and back.
    shared : array of float64, shape (dim,)
        G, the largest 1.

    Notes
    -----
    The closed form of what a linear layer on top of the encoder would learn from pairs of items, in the spirit of
    canonical correlations (H. Hotelling, "Relations Between Two Sets of Variates", 1936).

    Examples
    --------
    >>> vectors = np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]]) / np.float32(2**0.5)
    >>> taken = sp.csr_matrix([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]])  # people go by the first two axes alone
    >>> moved = vectors @ Directions.learn(vectors, taken).metric(power=0.5)
    >>> bool(moved[0] @ moved[1] > 2 * moved[0] @ moved[2])
    True
    """

    into: NDArray[np.float64]
    out_of: NDArray[np.float64]
    shared: NDArray[np.float64]

    @classmethod
    def learn(cls, vectors: Floats, taken: sp.csr_matrix, seed: int = 0) -> Directions | None:
        """Learn from who took what; None where no two items with texts were taken by the same people.

        Parameters
        ----------
        vectors : array of float32, shape (n_items, dim)
            Unit text vectors; a row of zeros says nothing.
        taken : csr_matrix, shape (n_users, n_items)
            Whatever is not 0 was taken.
        seed : int
            Draws the people where there are more than 100,000.

        Notes
        -----
        O((n_users + n_items) dim^2 + dim^3) time, O(dim^2) memory beside blocks.
        """
        warm = np.flatnonzero(taken.getnnz(axis=0))
        known = vectors[warm]
        events = _normalised(taken[:, warm], seed)
        together = _gram(events, known) - _weighed(known, np.asarray(events.multiply(events).sum(axis=0)).ravel())
        trivial = np.sqrt(events.getnnz(axis=0) / max(1, events.nnz)) @ known  # (dim,)
        together -= np.outer(trivial, trivial)
        spread = _weighed(known, np.ones(len(warm)))
        mean = float(np.trace(spread)) / max(1, len(spread))
        if mean <= 0:
            return None
        variance, axes = np.linalg.eigh(spread + RIDGE * mean * np.eye(len(spread)))
        narrow, wide = (axes * variance**-0.5) @ axes.T, (axes * variance**0.5) @ axes.T
        shared, directions = np.linalg.eigh(narrow @ together @ narrow)
        if shared[-1] <= LEAST:
            return None
        return cls(narrow @ directions, directions.T @ wide, shared / shared[-1])

    def metric(self, power: float) -> Floats:
        """Return T, shape (dim, dim); the identity at power 0."""
        weights = np.maximum(self.shared, FLOOR) ** power
        return np.asarray((self.into * weights) @ self.out_of, dtype=np.float32)


def _normalised(taken: sp.csr_matrix, seed: int) -> sp.csr_matrix:
    """Return E of who took two items or more, both rows and columns scaled by the root of their sums: C = E' E."""
    people = np.flatnonzero(np.diff(taken.indptr) > 1)
    if len(people) > MOST_PEOPLE:
        people = np.sort(np.random.default_rng(seed).choice(people, MOST_PEOPLE, replace=False))
    events = sp.csr_matrix(taken[people], dtype=np.float32, copy=True)
    events.data[:] = 1.0
    people_weights = 1.0 / np.sqrt(np.maximum(1, np.diff(events.indptr)))
    item_weights = 1.0 / np.sqrt(np.maximum(1, events.getnnz(axis=0)))
    return sp.csr_matrix(sp.diags(people_weights) @ events @ sp.diags(item_weights), dtype=np.float32)


def _gram(events: sp.csr_matrix, known: Floats) -> NDArray[np.float64]:
    """Return V' E' E V, shape (dim, dim), in blocks of people."""
    found = np.zeros((known.shape[1], known.shape[1]))
    for start in range(0, events.shape[0], ROWS_AT_ONCE):
        baskets = np.asarray(events[start : start + ROWS_AT_ONCE] @ known)  # (n, dim)
        found += baskets.T @ baskets
    return found


def _weighed(known: Floats, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return V' diag(weights) V, shape (dim, dim), in blocks of items."""
    found = np.zeros((known.shape[1], known.shape[1]))
    for start in range(0, len(known), ROWS_AT_ONCE):
        part = known[start : start + ROWS_AT_ONCE]
        found += (part * weights[start : start + ROWS_AT_ONCE, None].astype(np.float32)).T @ part
    return found
