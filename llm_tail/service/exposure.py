"""Exposure: what was shown over the last hour, and how evenly."""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW = 3600.0
STEP = 60.0
POINTS = 100
SURFACES = ("recommendations", "similar", "related", "together", "search")
Slots = NDArray[np.uint32]


class Exposure:
    """Counts of items shown, by minute and by where they were shown; older than an hour is forgotten.

    Parameters
    ----------
    clock : callable
        Returns seconds; a test gives its own.

    Notes
    -----
    Six bytes for each item shown in a minute, for an hour: some 20 MB where a thousand items are shown a second.

    Examples
    --------
    >>> shown = Exposure()
    >>> shown.add("similar", ["emma", "dracula", "emma"])
    >>> shown.counts("similar"), shown.counts("search")
    ({'emma': 2, 'dracula': 1}, {})
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._slots: dict[str, int] = {}
        self._minute, self._shown = 0, {name: array("L") for name in SURFACES}
        self._past: deque[tuple[int, dict[str, tuple[Slots, Slots]]]] = deque()

    def add(self, surface: str, item_ids: Iterable[str]) -> None:
        """Count items as shown now."""
        with self._lock:
            self._turn()
            slots, shown = self._slots, self._shown[surface]
            for item_id in item_ids:
                shown.append(slots.setdefault(item_id, len(slots)))

    def counts(self, surface: str = "all") -> dict[str, int]:
        """Return how often each item was shown over the last hour, without those that were not."""
        with self._lock:
            self._turn()
            total = np.zeros(len(self._slots), dtype=np.int64)
            wanted = SURFACES if surface == "all" else (surface,)
            for _, minute in self._past:
                for name in wanted:
                    slots, counts = minute[name]
                    total[slots] += counts
            for name in wanted:
                total += np.bincount(np.asarray(self._shown[name], dtype=np.int64), minlength=len(total))
            return {item_id: n for item_id, n in zip(self._slots, total.tolist(), strict=True) if n}

    def _turn(self) -> None:
        """Put a minute that has ended to the past, and forget what is older than an hour."""
        minute = int(self._clock() / STEP)
        if minute != self._minute:
            packed = {name: _packed(shown) for name, shown in self._shown.items()}
            self._past.append((self._minute, packed))
            self._minute, self._shown = minute, {name: array("L") for name in SURFACES}
        while self._past and self._past[0][0] <= minute - WINDOW / STEP:
            self._past.popleft()


def _packed(shown: array[int]) -> tuple[Slots, Slots]:
    slots, counts = np.unique(np.asarray(shown, dtype=np.uint32), return_counts=True)
    return slots, counts.astype(np.uint32)


def curve(counts: NDArray[Any], n_items: int) -> tuple[list[tuple[float, float]], float]:
    """Return how concentrated exposure is.

    Parameters
    ----------
    counts : array, shape (n_shown,)
        How often each item was shown that was shown at all.
    n_items : int
        Of the catalogue, at least n_shown.

    Returns
    -------
    curve : list of (float, float)
        Share of the catalogue, the most shown first, and the share of all shown that went to it; (0, 0) to (1, 1).
    gini : float
        0 where all are shown alike, near 1 where a few get everything; 0 where nothing was shown.

    Examples
    --------
    >>> curve(np.array([2, 2]), 4)[0][50], round(curve(np.array([2, 2]), 4)[1], 2)
    ((0.5, 1.0), 0.5)
    """
    shown = np.zeros(max(n_items, len(counts)))
    shown[: len(counts)] = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    total = shown.sum()
    places = np.linspace(0.0, 1.0, POINTS + 1)
    if total == 0:
        return [(round(float(p), 6), round(float(p), 6)) for p in places], 0.0
    grown = np.concatenate([[0.0], np.cumsum(shown) / total])  # (n_items + 1,)
    shares = np.interp(places, np.linspace(0.0, 1.0, len(grown)), grown)
    area = float(((grown[1:] + grown[:-1]) / 2).mean())
    return [(round(float(x), 6), round(float(y), 6)) for x, y in zip(places, shares, strict=True)], 2 * area - 1
