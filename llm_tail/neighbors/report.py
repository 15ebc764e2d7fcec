"""GraphReport: how many ties there are, how they are spread over the items, and into how many parts the graph falls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from llm_tail.html import html_table

ALL = "all together"


@dataclass(frozen=True)
class Degrees:
    """How many others the items are tied to.

    Parameters
    ----------
    edges : int
        Ties, each pair counted once.
    n_tied : int
        Items with at least one.
    mean, median : float
        Ties of an item, over those that have any.
    most : int
        Ties of the item that has most.
    """

    edges: int
    n_tied: int
    mean: float
    median: float
    most: int

    @classmethod
    def of(cls, degrees: NDArray[np.int64]) -> Degrees:
        """Count what each item's number of ties says."""
        tied = degrees[degrees > 0]
        if not len(tied):
            return cls(0, 0, 0.0, 0.0, 0)
        return cls(int(tied.sum() // 2), len(tied), float(tied.mean()), float(np.median(tied)), int(tied.max()))


@dataclass(frozen=True)
class GraphReport:
    """What is tied to what, and what is not.

    Parameters
    ----------
    n_items : int
        Items of the graph.
    edges : dict
        Ties of each relation, each pair counted once.
    n_hubs : dict
        For each column, how many values were left out because too many items share them.
    hubs : dict
        For each column, the largest of these (at most 20) with their numbers of items.
    n_untied : int
        Items without any tie.
    degrees : dict
        `Degrees` of each relation, and of all together, where a pair counts once.
    components : tuple of int
        Sizes of the parts that hang together, largest first, items without a tie left out; at most 20.
    n_components : int
        How many such parts there are.
    n_bytes : int
        What all arrays take.
    """

    n_items: int
    edges: dict[str, int]
    n_hubs: dict[str, int] = field(default_factory=dict)
    hubs: dict[str, dict[str, int]] = field(default_factory=dict)
    n_untied: int = 0
    degrees: dict[str, Degrees] = field(default_factory=dict)
    components: tuple[int, ...] = ()
    n_components: int = 0
    n_bytes: int = field(default=0, compare=False)  # grows as questions are asked

    def table(self) -> pd.DataFrame:
        """Return one row for each relation and one for all together: edges, n_tied, mean, median and most ties."""
        return pd.DataFrame({name: asdict(one) for name, one in self.degrees.items()}).T.astype(
            {"edges": int, "n_tied": int, "most": int}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        return {**asdict(self), "components": list(self.components)}

    def __str__(self) -> str:
        lines = [f"{name}: {n:,} edges" for name, n in self.edges.items()]
        for name, hubs in self.hubs.items():
            if hubs:
                shown = ", ".join(f"{value} ({n:,} items)" for value, n in list(hubs.items())[:3])
                lines.append(f"{name}: {self.n_hubs[name]:,} values too common to tie items, such as {shown}")
        if ALL in self.degrees:
            one = self.degrees[ALL]
            lines.append(f"an item is tied to {one.mean:.1f} others (median {one.median:g}, most {one.most:,})")
        if self.components:
            parts = "part" if self.n_components == 1 else "parts"
            lines.append(
                f"{self.n_components:,} {parts}, the largest with {self.components[0] / self.n_items:.1%} of the items"
            )
        lines.append(f"{self.n_untied:,} items have no edge")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"GraphReport({self.n_items:,} items, {sum(self.edges.values()):,} edges, "
            f"{self.n_components:,} components, {self.n_untied:,} untied)"
        )

    def _repr_html_(self) -> str:
        rows = ([name, *asdict(one).values()] for name, one in self.degrees.items())
        note = str(self).splitlines()
        return html_table(
            ["relation", "edges", "items tied", "mean", "median", "most"], rows, title=repr(self), note="; ".join(note)
        )


def components_of(matrices: Mapping[str, sp.csr_matrix], n_items: int) -> NDArray[np.int64]:
    """Return the number of the part that each item hangs together with, shape (n_items,); memory for one relation."""
    labels = np.arange(n_items, dtype=np.int64)
    for matrix in matrices.values():
        _, found = connected_components(matrix, directed=False)  # (n_items,)
        # An item joins the part it was in with the part that this relation puts it into.
        n_old, n_new = int(labels.max(initial=-1)) + 1, int(found.max(initial=-1)) + 1
        joins = sp.coo_matrix((np.ones(n_items, dtype=np.int8), (labels, found)), shape=(n_old, n_new))
        both: Any = sp.bmat([[None, joins], [joins.T, None]], format="csr") if n_items else sp.csr_matrix((0, 0))
        _, parts = connected_components(both, directed=False)
        labels = parts[labels].astype(np.int64)
    return labels


def sizes_of(labels: NDArray[np.int64], tied: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the sizes of the parts among items that are tied at all, largest first."""
    counts = np.bincount(labels[tied]) if tied.any() else np.zeros(0, dtype=np.int64)
    return np.sort(counts[counts > 0])[::-1].astype(np.int64)
