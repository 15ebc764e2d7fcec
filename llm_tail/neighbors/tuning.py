"""How much an index finds, and how many candidates a query has to look at so that it finds enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llm_tail.data.ids import Rows
from llm_tail.neighbors.exact import Similarities, Vectors, search
from llm_tail.neighbors.table import ItemTable

K = 10
N_QUERIES = 256
LADDER = (
    *(16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256),
    *(320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048),
)
Find = Callable[[Vectors, Rows, int], tuple[Rows, Similarities]]


@dataclass(frozen=True)
class Measured:
    """What a query finds.

    Parameters
    ----------
    ef : int
        Candidates it looks at.
    recall : float
        Share of the true k nearest that it finds, in [0, 1].
    error : float
        Standard error of that share.
    """

    ef: int
    recall: float
    error: float

    @property
    def at_least(self) -> float:
        """What it finds with all but certainty: two standard errors below the mean."""
        return self.recall - 2 * self.error


class RecallSample:
    """Items drawn at random, as queries, and their true nearest.

    Parameters
    ----------
    table : ItemTable
        The items.
    k : int
        How many nearest.
    n : int
        How many queries at most.
    seed : int
        Draws them.

    Notes
    -----
    n exact queries: O(n n_items dim).
    """

    def __init__(self, table: ItemTable, *, k: int = K, n: int = N_QUERIES, seed: int = 0) -> None:
        live = np.flatnonzero(table.live)
        self.k = min(k, max(len(live) - 1, 1))
        self._table = table
        self.rows: Rows = np.random.default_rng(seed).choice(live, size=min(n, len(live)), replace=False)
        self.queries = table.floats(self.rows)
        _, true = search(self.queries, table.vectors, self.k, self.rows, live=table.live)
        self._border = true[:, -1:]  # (n, 1)

    def measure(self, find: Find, ef: int) -> Measured:
        """Return what a way to search finds; an item as near as the k-th true one counts, whichever it is.

        Among equal texts no answer is the right one. The cosines are computed again, since engines round differently.
        """
        rows, _ = find(self.queries, self.rows, ef)
        cosines = np.stack([self._table.floats(near) @ q for near, q in zip(rows, self.queries, strict=True)])  # (n, k)
        hits = ((cosines >= self._border - 1e-5) & (rows >= 0)).mean(axis=1)  # (n,)
        return Measured(ef, float(hits.mean()), float(hits.std() / np.sqrt(len(hits))))


def tune(sample: RecallSample, find: Find, target: float) -> Measured:
    """Return the smallest ef of the ladder whose recall reaches a target, or the last one where none does.

    The ladder begins at 16: questions from outside are harder than items that ask for their neighbours. A recall
    counts as reached where it is so two standard errors below what was measured: a sample flatters as often as not. It
    grows with ef, so that half of the ladder is left out at each step: six measurements.
    """
    low, high = 0, len(LADDER) - 1
    best = None
    while low <= high:
        middle = (low + high) // 2
        measured = sample.measure(find, LADDER[middle])
        if measured.at_least >= target:
            best, high = measured, middle - 1
        else:
            low = middle + 1
    return best if best is not None else sample.measure(find, LADDER[-1])
