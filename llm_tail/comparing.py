"""Two items side by side: what each says of itself, how near they are, and what lies near or is tied to both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_tail.errors import ConfigError, StaleArtifactError

if TYPE_CHECKING:
    from llm_tail.workspace import Workspace

WIDE = 50  # neighbours of each that are looked at for those of both


@dataclass(frozen=True)
class Comparison:
    """What two items have in common.

    Parameters
    ----------
    items : tuple of str
        The two.
    fields : dict
        Column to what each item has there, as text; columns that are empty for both are left out.
    cosine : float
        Of their vectors, in [-1, 1].
    ties : list of (relation, strength)
        What ties the one to the other, strongest first.
    neighbors : list of (item_id, cosine, cosine)
        Items near both.
    tied : list of (item_id, strength, strength)
        Items that the graph ties to both.
    """

    items: tuple[str, str]
    fields: dict[str, tuple[str, str]]
    cosine: float
    ties: list[tuple[str, float]]
    neighbors: list[tuple[str, float, float]]
    tied: list[tuple[str, float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values."""
        return asdict(self)


def compared(workspace: Workspace, a: str, b: str, k: int = 10) -> Comparison:
    """Compare two items of a run; what is common to both is ordered by the product of the two numbers.

    Raises
    ------
    UnknownIdError
        If there is no such item.
    StaleArtifactError
        If the run has no vectors yet; a missing graph only leaves the ties out.
    """
    embeddings = workspace.embeddings
    near = [dict(workspace.similar(item, WIDE)) for item in (a, b)]
    ties: list[tuple[str, float]] = []
    tied: list[dict[str, float]] = [{}, {}]
    try:
        graph = workspace.graph
        tied = [{one.item_id: one.weight for one in graph.related(item, k=len(graph))} for item in (a, b)]
        ties = graph.between(a, b)
    except (ConfigError, StaleArtifactError):
        pass
    return Comparison(
        (a, b),
        _fields(workspace, a, b),
        float(np.dot(embeddings[a], embeddings[b])),
        ties,
        _common(near[0], near[1], k),
        _common(tied[0], tied[1], k),
    )


def _fields(workspace: Workspace, a: str, b: str) -> dict[str, tuple[str, str]]:
    sides = [workspace.catalog[item] for item in (a, b)]
    told = [{"description": item.description, **item.fields} for item in sides]
    names = [name for name in dict.fromkeys([*told[0], *told[1]]) if told[0].get(name) or told[1].get(name)]
    return {name: (_words(told[0].get(name)), _words(told[1].get(name))) for name in names}


def _words(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _common(left: dict[str, float], right: dict[str, float], k: int) -> list[tuple[str, float, float]]:
    both = [(item, left[item], right[item]) for item in left if item in right]
    return sorted(both, key=lambda row: (-row[1] * row[2], row[0]))[:k]
