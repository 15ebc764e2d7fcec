"""Pictures: drawn by matplotlib (extra ``plot``) into a file, without a window."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_tail.errors import ConfigError, MissingExtraError
from llm_tail.neighbors.drawing import new_figure

if TYPE_CHECKING:
    from llm_tail.evaluation.bench_table import BenchTable
    from llm_tail.evaluation.pareto import Choice
    from llm_tail.recommenders.explaining import SignalShares
    from llm_tail.workspace.value_report import ValueReport

SUFFIXES = (".png", ".svg", ".pdf")
MARKERS = {"float32": "o", "float16": "s", "int8": "D"}
FAINT = 0.25
BORROWED = {"cold": "#2fa4a9", "warm": "#4f7cac"}
GROUPS = {  # of the models of a benchmark: what they are called, and their colour
    "ours": ("ours", "#c1121f"),
    "peer": ("peers", "#1d3557"),
    "tuned": ("peers with our vectors", "#8d99ae"),
    "blend": ("blends", "#2a9d8f"),
    "bound": ("best peer of each set", "#999999"),
}


def check_picture(path: str | Path) -> Path:
    """Return the path of a picture to be drawn, before the minutes that come before the drawing.

    Raises
    ------
    ConfigError
        If it does not end like a picture.
    MissingExtraError
        If matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path} is no name of a picture; expected one that ends in {', '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot")
    return path


def draw_value(report: ValueReport, path: str | Path, taken: Choice | None = None) -> Path:
    """Draw what each choice costs against what it gives, and return the path.

    Money (seconds, where it costs none) on the left, room on disk on the right, against the share of the best quality;
    where nobody was judged, the two costs against each other. What is on the front is filled, the rest is faint.

    Parameters
    ----------
    report : ValueReport
        What has been measured.
    path : path
        Where the picture goes; its suffix says which kind it is.
    taken : Choice, optional
        The one with a ring around it.
    """
    from matplotlib.figure import Figure

    path = check_picture(path)
    judged = bool(report.segments)
    figure = Figure(figsize=(11 if judged else 6, 5), layout="constrained")
    axes = figure.subplots(1, 2 if judged else 1, squeeze=False)[0]
    free = all(choice.money <= 0 for choice in report.choices)
    price = ("seconds", "seconds") if free else ("money", report.settings.currency)
    for axis, (cost, unit) in zip(axes, [price, ("mb", "MB on disk")], strict=False):
        _panel(axis, report, cost, taken)
        axis.set_xlabel(f"{unit} for a million items")
        axis.set_ylabel("share of the best NDCG@20" if judged else "MB on disk for a million items")
    _legend(figure, report, taken)
    figure.suptitle(str(report.machine), fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def draw_bench(table: BenchTable, path: str | Path) -> Path:
    """Draw NDCG of each model in each column, the best on top, and return the path.

    Bars are standard deviations over the cuts; models stand in the order of their mean over the columns.

    Parameters
    ----------
    table : BenchTable
        What was found.
    path : path
        Where the picture goes; its suffix says which kind it is.
    """
    from matplotlib.figure import Figure

    path, metric = check_picture(path), table.metrics[1]
    rows = sorted(table.rows, key=lambda row: sum(row.cells[segment, metric].mean for segment in table.segments))
    size = (2.6 * len(table.segments) + 1.6, 0.26 * len(rows) + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(table.segments), sharey=True, squeeze=False)[0]
    for panel, segment in zip(panels, table.segments, strict=True):
        for group, (words, colour) in GROUPS.items():
            there = [n for n, row in enumerate(rows) if row.group == group]
            cells = [rows[n].cells[segment, metric] for n in there]
            if cells:
                spread = [0.0 if math.isnan(cell.sd) else cell.sd for cell in cells]
                look = {"fmt": "o", "color": colour, "markersize": 5, "linewidth": 1, "label": words}
                panel.errorbar([cell.mean for cell in cells], there, xerr=spread, **look)
        panel.set_title(segment, fontsize=10)
        panel.set_xlim(left=0.0)
        panel.locator_params(axis="x", nbins=4)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", linewidth=0.4)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [row.model for row in rows])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    figure.suptitle(table.title.replace(f"R@{table.k}/N@{table.k}", f"NDCG@{table.k}"), fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def borrowed(shares: SignalShares, path: str | Path | None = None, *, ax: Any = None) -> Any:
    """Draw how much of each item's score is borrowed from its neighbours, against how many people took it.

    One point an item; the line is the mean over items that equally many people took, in steps of the logarithm.

    Parameters
    ----------
    shares : SignalShares
        Of `HybridRecommender.signal_shares`.
    path : path, optional
        Where the picture goes; its suffix says which kind it is.
    ax : matplotlib axes, optional
        Where to draw; a figure of its own if left out.

    Returns
    -------
    matplotlib.figure.Figure
    """
    path = None if path is None else check_picture(path)
    figure, ax = (ax.figure, ax) if ax is not None else new_figure(8, 4)
    people = shares.counts.astype(float)
    jitter = np.random.default_rng(0).uniform(-0.15, 0.15, len(people))  # else all cold items are one column
    for name, mine in (("cold", people == 0), ("warm", people > 0)):
        look = {"s": 9, "alpha": 0.5, "linewidths": 0, "color": BORROWED[name]}
        ax.scatter(people[mine] + 1 + jitter[mine], shares.borrowed[mine], label=f"{name} items", **look)
    steps = np.floor(2 * np.log2(people + 1)).astype(int)
    there = np.unique(steps)
    middle = [float((people[steps == step] + 1).mean()) for step in there]
    ax.plot(middle, [float(shares.borrowed[steps == step].mean()) for step in there], color="#333333", label="mean")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda amount, _: f"{amount - 1:g}")
    ticks = [1, *(10**n + 1 for n in range(7) if 10**n <= people.max(initial=1))]
    ax.set_xticks(ticks, minor=False)
    ax.set_xticks([], minor=True)
    ax.set(xlabel="people who took the item in training", ylabel="share of the score that is borrowed")
    ax.set_ylim(-0.02, 1.02)
    ax.legend(frameon=False, fontsize="small")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure


def _panel(axis: Any, report: ValueReport, cost: str, taken: Choice | None) -> None:
    """Draw all choices against one of their costs."""
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    colours, widest = _colours(report), max(choice.dim for choice in report.choices)
    front = report.front
    labels = {choice.label for choice in front}
    for one in report.choices:
        x, y = getattr(one, cost), _height(one)
        size, alpha = 25 + 75 * one.dim / widest, 1.0 if one.label in labels else FAINT
        axis.scatter(x, y, s=size, marker=MARKERS[one.storage], color=colours[one.runtime], alpha=alpha, zorder=2)
        if taken is not None and one.label == taken.label:
            axis.scatter(x, y, s=4 * size, marker="o", facecolors="none", edgecolors="black", zorder=3)
    steps = _staircase(front, cost)
    if report.segments:
        axis.step([x for x, _ in steps], [y for _, y in steps], where="post", color="grey", linewidth=1, zorder=1)
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda amount, _: f"{amount:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=FAINT)


def _staircase(front: list[Choice], cost: str) -> list[tuple[float, float]]:
    """Return the corners of what can be had for a cost: the most quality for each amount, ascending."""
    steps: list[tuple[float, float]] = []
    for x, y in sorted((getattr(one, cost), _height(one)) for one in front):
        if not steps or y > steps[-1][1]:
            steps.append((x, y))
    return steps


def _height(choice: Choice) -> float:
    return choice.mb if choice.share is None else choice.share


def _colours(report: ValueReport) -> dict[str, str]:
    return {runtime: f"C{n}" for n, runtime in enumerate(report.measured)}


def _legend(figure: Any, report: ValueReport, taken: Choice | None) -> None:
    """Say which colour is which runtime and which marker which format; large is wide."""
    from matplotlib.lines import Line2D

    used = [storage for storage in MARKERS if any(choice.storage == storage for choice in report.choices)]
    handles = [Line2D([], [], color=c, marker="o", linestyle="", label=r) for r, c in _colours(report).items()]
    handles += [Line2D([], [], color="grey", marker=MARKERS[s], linestyle="", label=s) for s in used]
    if taken is not None:
        ring = Line2D([], [], color="black", marker="o", linestyle="", fillstyle="none", markersize=11)
        ring.set_label(f"to take: {taken.label}")
        handles.append(ring)
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize="small", frameon=False)
