"""Pictures of a graph, drawn by matplotlib (extra ``plot``): an item and what is near it, and the whole catalogue."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_tail.errors import MissingExtraError
from llm_tail.neighbors.neighborhood import Neighborhood

if TYPE_CHECKING:
    from llm_tail.neighbors.layout import CatalogMap

COLOURS = {"similar": "#4f7cac", "taken_together": "#c8553d"}
OTHERS = ("#2a9d8f", "#e08e2b", "#7d5ba6", "#6b705c", "#b56576")  # of columns, in their order
SEGMENT_COLOURS = {"head": "#1f4e79", "tail": "#e08e2b", "cold": "#2fa4a9"}
LONGEST = 26  # letters of a title
NAMED = 14  # communities that are named on a map


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure without a window, and its axes.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def draw_neighborhood(near: Neighborhood, ax: Any = None) -> Any:
    """Draw a neighbourhood: the item in the middle, one ring a hop, ties in the colour of their strongest relation.

    Parameters
    ----------
    near : Neighborhood
        What is drawn.
    ax : matplotlib axes, optional
        Where; a figure of its own if left out.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, ax = (ax.figure, ax) if ax is not None else new_figure(9, 7)
    places = _rings(near)
    colours = _relation_colours(near)
    for edge in near.edges:
        (x0, y0), (x1, y1) = places[edge.source], places[edge.target]
        colour, direct = colours[edge.relations[0]], near.item_id in (edge.source, edge.target)
        ax.plot(
            [x0, x1],
            [y0, y1],
            color=colour,
            linewidth=0.5 + 2.5 * edge.weight,
            alpha=0.75 if direct else 0.25,
            zorder=1,
        )
    for node in near.nodes:
        x, y = places[node.item_id]
        middle = node.hops == 0
        ax.scatter(
            x,
            y,
            s=160 if middle else 30 + 90 * node.weight,
            color="#222222" if middle else "white",
            edgecolors="#222222",
            zorder=2,
        )
        words = node.title or node.item_id
        words = words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
        look = {"fontsize": 9 if middle else 7.5, "weight": "bold" if middle else "normal", "parse_math": False}
        ax.annotate(
            words, (x, y), xytext=(0, -11), textcoords="offset points", ha="center", va="center", zorder=3, **look
        )
    _keys(ax, colours)
    ax.set_axis_off()
    ax.margins(0.12)
    return figure


def _rings(near: Neighborhood) -> dict[str, tuple[float, float]]:
    """Return a place for each item: ring by ring, each item close to the angle of what it hangs on."""
    hangs_on: dict[str, list[str]] = {}
    for edge in near.edges:  # strongest first
        hangs_on.setdefault(edge.target, []).append(edge.source)
        hangs_on.setdefault(edge.source, []).append(edge.target)
    places, angles = {near.item_id: (0.0, 0.0)}, {near.item_id: 0.0}
    for hop in range(1, max((node.hops for node in near.nodes), default=0) + 1):
        ring = [node.item_id for node in near.nodes if node.hops == hop]
        if hop > 1:
            ring.sort(key=lambda item: next((angles[o] for o in hangs_on.get(item, []) if o in angles), 0.0))
        for number, item in enumerate(ring):
            angles[item] = 2 * np.pi * (number + 0.5 * (hop % 2)) / len(ring)
            radius = hop * (1.0 + 0.12 * (number % 2))  # in two rows, so that titles find room
            places[item] = float(radius * np.cos(angles[item])), float(radius * np.sin(angles[item]))
    return places


def _relation_colours(near: Neighborhood) -> dict[str, str]:
    names = sorted({edge.relations[0] for edge in near.edges})
    free = iter(OTHERS * (1 + len(names) // len(OTHERS)))
    return {name: COLOURS.get(name) or next(free) for name in names}


def _keys(ax: Any, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=name.replace("_", " ")) for name, colour in colours.items()]
    if handles:
        ax.legend(handles=handles, loc="lower right", fontsize="small", frameon=False)


def draw_map(places: CatalogMap, by: str = "community", ax: Any = None) -> Any:
    """Draw the map of a catalogue.

    Parameters
    ----------
    places : CatalogMap
        What is drawn.
    by : {"community", "segment"}
        What the colours say; the largest communities are named.
    ax : matplotlib axes, optional
        Where; a figure of its own if left out.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, ax = (ax.figure, ax) if ax is not None else new_figure(9, 8)
    x, y = places.xy.T
    size = float(np.clip(6000 / max(1, len(x)), 1.0, 26.0))
    if by == "segment" and places.segments is not None:
        for name, colour in SEGMENT_COLOURS.items():
            mine = places.segments == name
            ax.scatter(x[mine], y[mine], s=size, color=colour, linewidths=0, alpha=0.8, label=name)
        ax.legend(loc="upper right", fontsize="small", frameon=False, markerscale=max(1.0, 5 / size))
    else:
        _draw_communities(ax, places, size)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_axis_off()
    return figure


def _draw_communities(ax: Any, places: CatalogMap, size: float) -> None:
    import matplotlib as mpl

    x, y = places.xy.T
    palette = mpl.colormaps["tab20"]
    colours = np.array([palette(n % 20) for n in range(len(places.names))] or [(0.4, 0.5, 0.6, 1.0)])
    grey = np.array([(0.8, 0.8, 0.8, 1.0)])
    shades = np.concatenate([colours, grey])[places.community]  # -1 is the last: grey
    ax.scatter(x, y, s=size, c=shades, linewidths=0, alpha=0.75)
    for number, name in enumerate(places.names[:NAMED]):
        mine = places.community == number
        if mine.any():
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
            where = float(np.median(x[mine])), float(np.median(y[mine]))
            ax.annotate(name, where, ha="center", va="center", fontsize=7.5, bbox=box, parse_math=False)
