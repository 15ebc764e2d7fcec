"""Drift: whether what is asked for, and what comes in, still lies where the catalogue lies.

Two numbers for a sample of recent vectors against the catalogue, both in its own units so that they can be compared
between catalogues and watched over time::

    mean         |m - c|  /  sqrt(trace S)               m, c: mean of the recent vectors and of the catalogue
    covariance   |P' (R - S) P|_F  /  |P' S P|_F         R, S: covariance of the recent and of the catalogue
                                                         P: the 16 directions in which the catalogue varies most

0 is no difference. A mean of 1 says that the recent vectors lie as far from the middle of the catalogue as its own
items do on average. Texts of questions are shorter than those of items and never lie at 0: watch for change.
A sample of n vectors of the catalogue itself comes out near ``1 / sqrt(n)`` and ``sqrt(16 / n)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIRECTIONS = 16
LEAST = 20  # vectors from which there is something to say
SAMPLE = 20_000


class Drift:
    """The mean and covariance of a catalogue, to hold recent vectors against.

    Parameters
    ----------
    vectors : array, shape (n_items, dim)
        Of the catalogue; of more than 20,000 a sample is looked at.
    """

    def __init__(self, vectors: NDArray[Any]) -> None:
        if len(vectors) > SAMPLE:
            vectors = vectors[np.sort(np.random.default_rng(0).choice(len(vectors), SAMPLE, replace=False))]
        there = vectors[np.abs(vectors).max(axis=1) > 0].astype(np.float64)
        there = there if len(there) else np.zeros((1, vectors.shape[1]))
        self._mean = there.mean(axis=0)
        covariance = (there - self._mean).T @ (there - self._mean) / len(there)
        self._spread = float(np.sqrt(np.trace(covariance)))
        strengths, directions = np.linalg.eigh(covariance)
        self._directions = directions[:, -DIRECTIONS:]
        self._expected = np.diag(strengths[-DIRECTIONS:])

    def of(self, recent: Sequence[NDArray[Any]]) -> tuple[float, float] | None:
        """Return how far the mean and the covariance of recent vectors lie off; None for fewer than 20 vectors."""
        if len(recent) < LEAST:
            return None
        found = np.asarray(recent, dtype=np.float64)  # (n_recent, dim)
        found = found[np.abs(found).max(axis=1, initial=0.0) > 0]
        if len(found) < LEAST or not self._spread:
            return None
        mean = found.mean(axis=0)
        moved = (found - mean) @ self._directions  # (n_recent, DIRECTIONS)
        difference = moved.T @ moved / len(found) - self._expected
        off = float(np.linalg.norm(difference) / np.linalg.norm(self._expected))
        return float(np.linalg.norm(mean - self._mean)) / self._spread, off
