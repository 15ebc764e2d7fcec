"""Where a walker who starts at some items spends the time: personalised PageRank, over the graph or close to the start.

L. Page et al., "The PageRank Citation Ranking", 1999, with a start of one's own; `push` is the local way of
R. Andersen, F. Chung and K. Lang, "Local Graph Partitioning using PageRank Vectors", FOCS 2006, with whole frontiers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.ids import IdMap
from llm_tail.errors import DataError
from llm_tail.html import html_table
from llm_tail.neighbors.walks import Ties

Method = Literal["auto", "power", "push"]
Shares = NDArray[np.float64]
POWER_EDGES = 3_000_000  # beyond so many ties, a few starting items are walked from locally
TOLERANCE = 1e-9  # power: change of all shares in a step at which it ends
EPSILON = 1e-6  # push: a smaller part of the walk than this is not followed any further
MOST_STEPS = 500


@dataclass(frozen=True, repr=False, eq=False)
class Walk:
    """Where a random walk spends its time: items and shares, most first.

    Parameters
    ----------
    item_ids : tuple of str
        The items, those that the walk starts from left out.
    shares : array of float64, shape (n,)
        Share of all steps that end at the item, in (0, 1).
    titles : tuple of str
        As many, for reading.
    left : float
        Share of the walk that was not followed to its end; 0 but for walks that stay close to the start.
    """

    item_ids: tuple[str, ...]
    shares: Shares
    titles: tuple[str, ...] = ()
    left: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the walk as JSON-like values."""
        rows = zip(self.item_ids, self.titles, self.shares.tolist(), strict=True)
        return {"items": [{"item_id": i, "title": t, "share": s} for i, t, s in rows], "left": self.left}

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(zip(self.item_ids, self.shares.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.item_ids)

    def __getitem__(self, place: int) -> tuple[str, float]:
        return self.item_ids[place], float(self.shares[place])

    def __repr__(self) -> str:
        shown = [f"{item_id} {share:.4f}" for item_id, share in list(self)[:5]]
        return f"Walk({', '.join([*shown, '...'] if len(self) > 5 else shown) or 'nowhere'})"

    def _repr_html_(self) -> str:
        rows = ([i, t, s] for i, t, s in zip(self.item_ids, self.titles, self.shares.tolist(), strict=True))
        return html_table(["item", "title", "share"], rows)


def starting_shares(ids: IdMap, items: str | Sequence[str] | Mapping[str, float]) -> Shares:
    """Return where a walk starts, shape (n_items,), summing to 1.

    Raises
    ------
    UnknownIdError, DataError
        If an item is not there; if there is none, or a weight is not above 0.
    """
    weights = (
        dict(items) if isinstance(items, Mapping) else dict.fromkeys([items] if isinstance(items, str) else items, 1.0)
    )
    if not weights:
        raise DataError("a walk has to start somewhere; give at least one item")
    amounts = np.array(list(weights.values()), dtype=np.float64)
    if not np.isfinite(amounts).all() or (amounts <= 0).any():
        raise DataError("the weights that a walk starts with have to be finite and above 0")
    start = np.zeros(len(ids))
    start[[ids.row(item) for item in weights]] = amounts / amounts.sum()
    return start


def check_restart(restart: float) -> float:
    """Return the share of steps that go back to the start, after checking it."""
    if not 0 < restart < 1:
        raise DataError(f"restart is {restart!r}, expected a share between 0 and 1 such as 0.15")
    return float(restart)


def power(ties: sp.csr_matrix, start: Shares, restart: float, tolerance: float = TOLERANCE) -> Shares:
    """Return the share of steps that end at each item, shape (n_items,); they sum to 1.

    A step goes back to `start` with probability `restart`, and from an item without ties always; else along a tie,
    drawn by its strength. O(n_edges) time a step, about log(tolerance) / log(1 - restart) steps; one copy of the ties
    in double precision.
    """
    double = ties.astype(np.float64)
    degree = np.asarray(double.sum(axis=1)).ravel()
    scale = np.divide(1.0, degree, out=np.zeros_like(degree), where=degree > 0)
    shares = start.copy()
    for _ in range(MOST_STEPS):
        moved = double @ (shares * scale)  # ties are symmetric
        after = (1.0 - restart) * (moved + start * shares[degree == 0].sum()) + restart * start
        change = float(np.abs(after - shares).sum())
        shares = after
        if change < tolerance:
            break
    return np.asarray(shares / shares.sum())


def push(ties: Ties, start: Shares, restart: float, epsilon: float = EPSILON) -> tuple[Shares, float]:
    """Return what `power` does, but for parts below `epsilon` that are not followed, and how much these are together.

    Looks at no more than 1 / (epsilon restart) items, mostly far fewer, however large the graph is; O(n_items) memory.
    """
    shares, waiting = np.zeros_like(start), start.copy()
    active = np.flatnonzero(waiting > epsilon)
    while active.size:
        part = ties[active]  # (n_active, n_items)
        degree = np.asarray(part.sum(axis=1, dtype=np.float64)).ravel()
        amount = waiting[active]
        shares[active] += restart * amount
        waiting[active] = 0.0
        onward = (1.0 - restart) * amount
        rate = np.divide(onward, degree, out=np.zeros_like(onward), where=degree > 0)
        sent = np.repeat(rate, np.diff(part.indptr)) * part.data
        waiting += np.bincount(part.indices, sent, minlength=len(start))
        waiting += start * onward[degree == 0].sum()
        active = np.flatnonzero(waiting > epsilon)
    return shares, float(waiting.sum())
