"""BenchTable: what a benchmark found, to read, to keep and to draw."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from llm_tail.evaluation.report import Interval, short, signed


class Cell(NamedTuple):
    """A mean over cuts and their standard deviation, which is NaN where there is one cut only."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Row:
    """One model.

    Parameters
    ----------
    model : str
        Its name.
    group : str
        ``ours``, ``peer``, ``tuned`` (a peer with our vectors), ``blend``, or ``bound`` for what is no single model.
    cells : dict
        (segment, metric) to `Cell`.
    n_cuts : int
        How many cuts, of all sets, it was judged on.
    fit_seconds, score_seconds, tune_seconds : float
        Means over cuts: the final fit, ranking everyone, all trials together. NaN where not known, as below.
    peak_mb : float
        The most memory that a process held which loads the data, fits once and ranks, in MB (10^6 bytes).
    n_trials : float
        Settings tried, mean over cuts.
    settings : list of dict
        What was chosen on each cut.
    """

    model: str
    group: str
    cells: dict[tuple[str, str], Cell]
    n_cuts: int = 0
    fit_seconds: float = math.nan
    score_seconds: float = math.nan
    tune_seconds: float = math.nan
    peak_mb: float = math.nan
    n_trials: float = math.nan
    settings: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Versus:
    """One of ours against the best peer of a column.

    Parameters
    ----------
    ours, segment, metric, peer : str
        Who, where, by what, against whom.
    value, other : float
        The two means.
    gap : Interval
        Ours minus the peer's, over the same people.
    """

    ours: str
    segment: str
    metric: str
    peer: str
    value: float
    other: float
    gap: Interval

    @property
    def ratio(self) -> float:
        """Ours as a multiple of the peer's; infinite where that is 0."""
        return self.value / self.other if self.other else math.inf


@dataclass(frozen=True)
class BenchTable:
    """Models by columns, of one data set or as means over several.

    Parameters
    ----------
    data : tuple of str
        The data sets.
    phase : str
        What was judged on: ``test``, or ``validation`` where there is no test.
    k : int
        Length of the lists.
    seeds : tuple of int
        The cuts.
    segments : tuple of str
        The columns.
    n_users : dict
        Segment to how many people were judged, mean over cuts.
    rows : tuple of Row
        In the order of the table.
    versus : tuple of Versus
        Ours against the best peer of each column.
    n_bootstrap : int
        Draws behind each interval.
    notes : tuple of str
        What else has to be known, such as who failed and why.
    """

    data: tuple[str, ...]
    phase: str
    k: int
    seeds: tuple[int, ...]
    segments: tuple[str, ...]
    n_users: dict[str, int]
    rows: tuple[Row, ...]
    versus: tuple[Versus, ...]
    n_bootstrap: int = 0
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What was compared, in a line."""
        name = self.data[0] if len(self.data) == 1 else f"mean over {', '.join(self.data)}"
        seeds = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        return f"{name}: R@{self.k}/N@{self.k} on {self.phase}, {seeds}"

    @property
    def metrics(self) -> tuple[str, str]:
        """The two measures."""
        return f"recall@{self.k}", f"ndcg@{self.k}"

    def row(self, model: str) -> Row:
        """Return one model's row; `KeyError` where there is none."""
        return {row.model: row for row in self.rows}[model]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values; NaN and infinity become None."""

        def plain(value: float) -> float | None:
            return value if math.isfinite(value) else None

        costs = ("fit_seconds", "score_seconds", "tune_seconds", "peak_mb", "n_trials")
        return {
            "data": list(self.data),
            "phase": self.phase,
            "k": self.k,
            "seeds": list(self.seeds),
            "segments": list(self.segments),
            "n_users": self.n_users,
            "n_bootstrap": self.n_bootstrap,
            "rows": [
                {
                    "model": row.model,
                    "group": row.group,
                    "n_cuts": row.n_cuts,
                    "cells": [[*key, cell.mean, plain(cell.sd)] for key, cell in row.cells.items()],
                    **{name: plain(getattr(row, name)) for name in costs},
                    "settings": row.settings,
                }
                for row in self.rows
            ],
            "versus": [
                {
                    "ours": one.ours,
                    "segment": one.segment,
                    "metric": one.metric,
                    "peer": one.peer,
                    "value": one.value,
                    "other": one.other,
                    "ratio": plain(one.ratio),
                    "gap": [plain(x) for x in one.gap],
                }
                for one in self.versus
            ],
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """Return the table, what ours gains on the best peers, and the notes, in Markdown."""
        lines = [f"**{self.title}**", "", f"| | {' | '.join([*self.segments, *COSTS])} |"]
        lines.append(f"| --- |{' --- |' * (len(self.segments) + len(COSTS))}")
        for row, cells, spreads in self._shown("**{}**"):
            both = [f"{c} {s}".strip() for c, s in zip(cells, spreads, strict=True)]
            lines.append(f"| {row.model} | {' | '.join([*both, *_costs(row)])} |")
        for ours in dict.fromkeys(one.ours for one in self.versus):
            lines += ["", f"| {ours} against the best peer | R@{self.k} | N@{self.k} |", "| --- | --- | --- |"]
            lines += [f"| {segment} | {' | '.join(cells)} |" for segment, cells in self._gaps(ours)]
        lines += ["", *(f"- {note}" for note in self.remarks())]
        return "\n".join(lines) + "\n"

    def remarks(self) -> list[str]:
        """Return what has to be known beside the table."""
        people = ", ".join(f"{self.n_users[s]:,} {s}" for s in self.segments)
        said = [f"people: {people}"]
        if len(self.seeds) > 1:
            said.append("±: standard deviation over the cuts")
        if self.versus and self.n_bootstrap:
            draws = f"{self.n_bootstrap:,} draws of people, each with all their cuts"
            said.append(f"in brackets: bootstrap 95 % interval of the paired difference, {draws}")
        n_most = max(row.n_cuts for row in self.rows)
        few = [f"{row.model} ({row.n_cuts})" for row in self.rows if 0 < row.n_cuts < n_most]
        if few:
            said.append(f"not judged on all {n_most} cuts, and so nobody's rival: {', '.join(few)}")
        return [*said, *self.notes]

    def _shown(self, bold: str) -> Iterator[tuple[Row, list[str], list[str]]]:
        """Yield each row with its cells ``recall/ndcg`` and their spreads; `bold` is put around the best."""
        n_most = max(row.n_cuts for row in self.rows)
        whole = [row for row in self.rows if row.n_cuts == n_most]
        best = {
            (s, m): max(round(row.cells[s, m].mean, 4) for row in whole) for s in self.segments for m in self.metrics
        }
        for row in self.rows:
            cells, spreads = [], []
            for segment in self.segments:
                parts = []
                for metric in self.metrics:
                    value = round(row.cells[segment, metric].mean, 4)
                    is_best = row in whole and value == best[segment, metric] > 0
                    parts.append((bold if is_best else "{}").format(short(value)))
                sds = [row.cells[segment, metric].sd for metric in self.metrics]
                cells.append("/".join(parts))
                spreads.append("" if any(map(math.isnan, sds)) else f"±{short(sds[0])}/{short(sds[1])}")
            yield row, cells, spreads

    def _gaps(self, ours: str) -> Iterator[tuple[str, list[str]]]:
        """Yield each column with ours against its best peers."""
        for segment in self.segments:
            mine = [one for one in self.versus if (one.ours, one.segment) == (ours, segment)]
            yield segment, [f"{one.peer}: {_gap(one.gap)} ({one.ratio:.2f}x)" for one in mine]

    def __rich__(self) -> Group:
        table = _plain_table()
        table.add_column("", max_width=18)
        for name in self.segments:
            table.add_column(name, justify="right", no_wrap=True)
        for name in COSTS:
            table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
        for row, cells, spreads in self._shown("[bold green]{}[/]"):
            both = [f"{c}\n[dim]{s}[/]" if s else c for c, s in zip(cells, spreads, strict=True)]
            style = "bold" if row.group == "ours" else "dim" if row.group in ("tuned", "bound") else ""
            table.add_row(escape(row.model), *both, *_costs(row), style=style)
        parts: list[Any] = [Text(self.title, style="bold"), table]
        for ours in dict.fromkeys(one.ours for one in self.versus):
            gaps = _plain_table()
            for name in ("", f"R@{self.k}", f"N@{self.k}"):
                gaps.add_column(name)
            for segment, lines in self._gaps(ours):
                gaps.add_row(segment, *map(escape, lines))
            parts += [Text(f"\n{ours} against the best peer", style="bold"), gaps]
        return Group(*parts, Text(), *(Text(f"- {note}") for note in self.remarks()), Text())

    def save(self, path: str | Path) -> Path:
        """Write the Markdown to a file, and return its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_markdown(), encoding="utf-8")
        return path


COSTS = ("fit s", "rank s", "tuning min", "trials", "peak MB")


def _plain_table() -> Table:
    """Return a table without lines between its columns: a dozen of them have to stand beside each other."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    return table


def _costs(row: Row) -> list[str]:
    def said(value: float, words: str) -> str:
        return "" if math.isnan(value) else words.format(value)

    return [
        said(row.fit_seconds, "{:,.1f}"),
        said(row.score_seconds, "{:,.1f}"),
        said(row.tune_seconds / 60, "{:,.1f}"),
        said(row.n_trials, "{:,.3g}"),
        said(row.peak_mb, "{:,.0f}"),
    ]


def _gap(gap: Interval) -> str:
    return signed(gap) if math.isfinite(gap.low) else signed(gap).partition(" ")[0]
