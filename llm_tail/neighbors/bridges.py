"""Bridges: by which ties a walk from the popular items gets to the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from llm_tail.html import html_table
from llm_tail.neighbors.random_walks import Shares, power


@dataclass(frozen=True)
class Bridge:
    """A tie that leads from a head item to one of the tail.

    Parameters
    ----------
    head, tail : str
        The two items; `tail` may be a cold one too.
    relation : str
        The strongest relation between the two.
    share : float
        Share of all crossings that go over this tie, in (0, 1].
    value : str, optional
        What the two share, where the relation is a column.
    """

    head: str
    tail: str
    relation: str
    share: float
    value: str | None = None


@dataclass(frozen=True, repr=False, eq=False)
class Bridges:
    """How walks get from head to tail; made by `ItemGraph.bridges`.

    Parameters
    ----------
    ties : list of Bridge
        The ties that carry most crossings, most first.
    heads : list of (item_id, float)
        The head items that most crossings leave from, with their shares.
    tails : list of (item_id, float)
        The other items that most crossings arrive at, with their shares.
    crossing_share : float
        Share of the steps along ties that go from head to tail, in [0, 1].
    n_reached, n_tail : int
        Items outside the head that a step from the head can arrive at, and how many there are.
    """

    ties: list[Bridge]
    heads: list[tuple[str, float]]
    tails: list[tuple[str, float]]
    crossing_share: float
    n_reached: int
    n_tail: int

    def table(self) -> pd.DataFrame:
        """Return one row for each tie: head, tail, relation, share, value."""
        rows = [{**asdict(one), "value": one.value or ""} for one in self.ties]
        return pd.DataFrame(rows, columns=list(Bridge.__dataclass_fields__))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        return {**asdict(self), "heads": [list(x) for x in self.heads], "tails": [list(x) for x in self.tails]}

    def __repr__(self) -> str:
        return (
            f"Bridges({self.crossing_share:.1%} of the steps go from head to tail, which reaches {self.n_reached:,} of "
            f"{self.n_tail:,} items)"
        )

    def _repr_html_(self) -> str:
        rows = ([one.head, one.relation, one.value, one.tail, one.share] for one in self.ties)
        return html_table(["head", "tied by", "value", "tail", "share"], rows, title=repr(self))


def crossings(ties: sp.csr_matrix, head: Any, start: Shares, restart: float) -> tuple[sp.coo_matrix, float]:
    """Return how many steps of a walk go over each tie from head to others, and how many go along ties in all.

    Exact for this walk, no sample of it: the steps over a tie are the walk's share at one end (`power`) times the
    probability of the step.

    Parameters
    ----------
    ties : csr_matrix, shape (n_items, n_items)
        Strengths, symmetric.
    head : array of bool, shape (n_items,)
        Where crossings start.
    start : array, shape (n_items,)
        Where the walk starts.
    restart : float
        Share of the steps that go back there.
    """
    shares = power(ties, start, restart)
    degree = np.asarray(ties.sum(axis=1, dtype=np.float64)).ravel()
    rate = np.divide((1.0 - restart) * shares, degree, out=np.zeros_like(degree), where=degree > 0)
    rows = np.flatnonzero(head)
    part = ties[rows].tocoo()  # (n_head, n_items)
    outward = ~head[part.col]
    line, column = rows[part.row[outward]], part.col[outward]
    steps = rate[line] * part.data[outward]
    total = float(((1.0 - restart) * shares)[degree > 0].sum())
    return sp.coo_matrix((steps, (line, column)), shape=ties.shape), total
