"""Places: where every item lies on the map, packed so that all of them fit into one answer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.segments import Segments
from llm_tail.errors import MissingExtraError
from llm_tail.workspace.overview import kept_map

if TYPE_CHECKING:
    from llm_tail.workspace import Workspace

MADE_AT_ONCE = 3_000  # items of a catalogue whose map is made when the service starts
FINEST = 65_535  # steps of a coordinate; as a code, none
NAMES = ("head", "tail", "cold")


@dataclass(frozen=True, eq=False)
class Places:
    """Where items lie in two dimensions, and what they belong to.

    Parameters
    ----------
    points : array of float32, shape (n_items, 2)
        Finite.
    communities : array of int64, shape (n_items,)
        -1 for none.
    names : sequence of str
        Of the communities.
    kind : str
        How the points were found.
    """

    points: NDArray[np.float32]
    communities: NDArray[np.int64]
    names: Sequence[str]
    kind: str

    def answer(self, segments: Segments | None) -> dict[str, Any]:
        """Return all of it as `MapAnswer` has it: 7 bytes an item before base64."""
        n = len(self.points)
        codes = np.zeros(n, dtype=np.uint8)
        if segments is not None:
            codes = np.select([segments.head, segments.tail], [0, 1], 2).astype(np.uint8)
        groups = np.where(self.communities < 0, FINEST, self.communities).astype("<u2")
        return {
            "n_items": n,
            "x": _coordinates(self.points[:, 0]),
            "y": _coordinates(self.points[:, 1]),
            "segment": _column(codes, NAMES if segments is not None else ()),
            "community": _column(groups, self.names),
            "kind": self.kind,
        }


def of_run(workspace: Workspace, vectors: NDArray[Any]) -> Places:
    """Return the map that the run keeps, or makes where that takes seconds; else the two main directions.

    ``llm-tail map`` makes it for a catalogue of any size.
    """
    try:
        found = workspace.map if len(vectors) <= MADE_AT_ONCE else kept_map(workspace)
    except MissingExtraError:  # communities of so dense a graph need the extra; a page without them is still a page
        found = None
    if found is None:
        return by_components(vectors)
    return Places(found.xy, found.community, found.names, found.kind)


def by_components(vectors: NDArray[Any]) -> Places:
    """Return the items by the two directions in which their vectors differ most; without communities.

    O(n_items dim^2) time.
    """
    there = np.abs(vectors).max(axis=1, keepdims=True) > 0
    moved = np.where(there, vectors - vectors.mean(axis=0), 0.0).astype(np.float32)
    _, directions = np.linalg.eigh(moved.T @ moved)
    points = moved @ directions[:, :-3:-1]  # (n_items, 2), or fewer columns
    flat = np.zeros((len(points), 2), dtype=np.float32)
    flat[:, : points.shape[1]] = points
    return Places(flat, np.full(len(points), -1, dtype=np.int64), (), "pca")


def _coordinates(values: NDArray[np.float32]) -> dict[str, Any]:
    low, high = float(values.min()), float(values.max())
    steps = np.zeros(len(values)) if high == low else (values - low) / (high - low) * FINEST
    return {**_column(np.round(steps).astype("<u2"), ()), "low": low, "high": high}


def _column(codes: NDArray[Any], names: Sequence[str]) -> dict[str, Any]:
    packed = base64.b64encode(codes.tobytes()).decode("ascii")
    return {"dtype": codes.dtype.name, "data": packed, "low": 0.0, "high": 0.0, "names": list(names)}
