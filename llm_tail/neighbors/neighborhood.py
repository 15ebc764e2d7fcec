"""Neighborhood: an item, what is close to it in the graph, and the ties among them all; small enough to be drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from llm_tail.html import html_table


@dataclass(frozen=True)
class Node:
    """An item of a neighbourhood.

    Parameters
    ----------
    item_id, title : str
        Which.
    weight : float
        Strength of the best way there from the item in the middle, in (0, 1]; 1 for that item itself.
    hops : int
        Steps on that way.
    """

    item_id: str
    title: str
    weight: float
    hops: int


@dataclass(frozen=True)
class Edge:
    """A tie of a neighbourhood.

    Parameters
    ----------
    source, target : str
        The two items; the one nearer to the middle comes first.
    relations : tuple of str
        All that tie the two, strongest first.
    weight : float
        How strongly, all relations together, in (0, 1).
    value : str, optional
        What the two share, where the strongest relation is a column.
    """

    source: str
    target: str
    relations: tuple[str, ...]
    weight: float
    value: str | None = None


@dataclass(frozen=True, repr=False)
class Neighborhood:
    """A part of a graph; made by `ItemGraph.neighborhood`.

    Parameters
    ----------
    item_id : str
        The item in the middle.
    nodes : list of Node
        The item itself, then the others, nearest first.
    edges : list of Edge
        All ties among them, strongest first.
    """

    item_id: str
    nodes: list[Node]
    edges: list[Edge]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"Neighborhood({self.item_id}: {len(self.nodes):,} items, {len(self.edges):,} ties)"

    def _repr_html_(self) -> str:
        rows = ([node.item_id, node.title, node.weight, node.hops] for node in self.nodes)
        return html_table(["item", "title", "strength", "hops"], rows, title=repr(self))
