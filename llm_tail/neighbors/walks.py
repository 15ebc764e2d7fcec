"""Ways through a graph: how far one gets in a few hops, and the strongest chain between two items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra

from llm_tail.data.ids import Rows
from llm_tail.html import html_table


@dataclass(frozen=True)
class Related:
    """An item that can be reached from another.

    Parameters
    ----------
    item_id : str
        The item that was reached.
    relations : tuple of str
        One hop away: all relations that tie the two, strongest first. Further: the strongest relation of each step.
    weight : float
        Strength of the best way there, in (0, 1): the product of the strengths of its steps.
    hops : int
        Steps on that way.
    via : tuple of str
        The items between, in order; empty for one hop.
    """

    item_id: str
    relations: tuple[str, ...]
    weight: float
    hops: int
    via: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of a path.

    Parameters
    ----------
    source, target : str
        The items it ties.
    relation : str
        The strongest relation between the two.
    weight : float
        How strongly they are tied, all relations taken together, in (0, 1).
    value : str, optional
        The value that the two share, the rarest where there are several; None where `relation` is no column.
    """

    source: str
    relation: str
    target: str
    weight: float
    value: str | None = None


class RelatedItems(list[Related]):
    """The answer of `ItemGraph.related`: a list that shows itself in a notebook.

    Parameters
    ----------
    items : iterable of Related
        Best first.
    titles : sequence of str
        As many, for reading.
    """

    def __init__(self, items: Iterable[Related] = (), titles: Sequence[str] = ()) -> None:
        super().__init__(items)
        self.titles = list(titles)

    def _repr_html_(self) -> str:
        titles = self.titles if len(self.titles) == len(self) else [""] * len(self)
        rows = (
            [one.item_id, title, one.weight, (" > " if one.hops > 1 else ", ").join(one.relations), ", ".join(one.via)]
            for one, title in zip(self, titles, strict=True)
        )
        return html_table(["item", "title", "strength", "tied by", "via"], rows)


class ItemPath(list[Step]):
    """The answer of `ItemGraph.path`: a list of steps that shows itself in a notebook."""

    def _repr_html_(self) -> str:
        rows = ([step.source, step.relation, step.value, step.target, step.weight] for step in self)
        return html_table(["from", "tied by", "value", "to", "strength"], rows)


class Ties(Protocol):
    """What a walk needs to know: how strongly some items are tied to all others."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n_items, n_items)."""

    def __getitem__(self, rows: Rows) -> sp.csr_matrix:
        """Return strengths in (0, 1), shape (n_rows, n_items)."""


@dataclass(frozen=True)
class Ways:
    """The best ways from one item to all that a few hops reach.

    Parameters
    ----------
    start : int
        The row they begin at.
    strengths : array of float64, shape (n_items,)
        Product of the strengths of the steps; 0 where there is no way.
    n_steps : array of int64, shape (n_items,)
        Steps of each way.
    parents : list of arrays of int64, shape (n_items,)
        For each hop, the row before, or -1 for items that the hop did not bring nearer.
    """

    start: int
    strengths: NDArray[np.float64]
    n_steps: Rows
    parents: list[Rows]

    def best(self, k: int) -> Iterator[tuple[list[int], float]]:
        """Yield the k strongest ways, as rows from start to end, with their strengths."""
        reached = np.flatnonzero(self.strengths > 0)
        reached = reached[reached != self.start]
        order = np.lexsort((reached, self.n_steps[reached], -self.strengths[reached]))
        for row in reached[order][:k].tolist():
            way = [row]
            for parent in reversed(self.parents[: self.n_steps[row]]):
                way.append(int(parent[way[-1]]))
            yield way[::-1], float(self.strengths[row])


def best_ways(ties: Ties | sp.csr_matrix, start: int, hops: int) -> Ways:
    """Return the strongest ways of at most `hops` steps from one item: Bellman and Ford's algorithm, hop by hop.

    O(ties of the items reached) time and O(n_items) memory a hop; it stops early where nothing comes nearer.
    """
    n = ties.shape[0]
    best, n_steps = np.zeros(n), np.zeros(n, dtype=np.int64)
    best[start] = 1.0
    frontier, parents = np.array([start], dtype=np.int64), []
    for hop in range(1, hops + 1):
        part = ties[frontier]  # (n_frontier, n_items)
        source = np.repeat(frontier, np.diff(part.indptr))
        strength = best[source] * part.data
        order = np.lexsort((source, -strength, part.indices))
        target, first = np.unique(part.indices[order], return_index=True)  # the strongest way to each target
        source, strength = source[order][first], strength[order][first]
        nearer = strength > best[target]
        frontier = target[nearer].astype(np.int64)
        if not frontier.size:
            break
        parent = np.full(n, -1, dtype=np.int64)
        parent[frontier], best[frontier], n_steps[frontier] = source[nearer], strength[nearer], hop
        parents.append(parent)
    return Ways(start, best, n_steps, parents)


def strongest_path(ties: sp.csr_matrix, start: int, end: int) -> list[int]:
    """Return the rows from start to end along the strongest chain; only `end` where there is no chain.

    Dijkstra's algorithm on -log(strength): O(n_ties log n_items) time.
    """
    costs = ties.copy()
    costs.data = -np.log(costs.data.astype(np.float64))
    _, before = dijkstra(costs, indices=np.array([start]), return_predecessors=True)  # (1, n_items)
    way = [end]
    while before[0, way[-1]] >= 0:
        way.append(int(before[0, way[-1]]))
    return way[::-1]
