"""Report: what `evaluate` found, to read, to compare and to keep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console, Group
from rich.table import Table

from llm_tail.artifacts import write_json
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError, closest
from llm_tail.html import html_table

EXPOSURE = {
    "head_share": "places that go to head items",
    "tail_share": "places that go to tail items",
    "cold_share": "places that go to cold items",
    "coverage": "candidates shown to somebody",
    "gini": "inequality of exposure, 0 to 1",
    "average_popularity": "people who took a shown item",
    "novelty": "surprise of a shown item, bits",
}


class Interval(NamedTuple):
    """A mean and its bootstrap 95 % interval; the borders are NaN where nothing was resampled."""

    value: float
    low: float
    high: float

    def __neg__(self) -> Interval:
        return Interval(-self.value, -self.high, -self.low)

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Report:
    """Rankings of several models, judged on the same people: one row for each model and segment.

    Parameters
    ----------
    models, segments : tuple of str
        In the order of the table.
    k : tuple of int
        The lengths of the lists that were judged, ascending.
    cells : dict
        (model, segment, metric) to `Interval`; a metric is named like ``recall@20``.
    differences : dict
        (model, other model, segment, metric) to the paired `Interval` of the first minus the second.
    n_users : dict
        Segment to how many people were judged.
    exposure : dict
        Model to what its longest overall lists do to the catalogue; the keys are those of `EXPOSURE`.
    seconds : dict
        Model to ``{"fit": ..., "score": ...}``; fit is 0 for a model that came fitted.
    facts : dict
        How the data was split, the phase, the seed, the resamples.
    """

    models: tuple[str, ...]
    segments: tuple[str, ...]
    k: tuple[int, ...]
    cells: dict[tuple[str, str, str], Interval]
    differences: dict[tuple[str, str, str, str], Interval]
    n_users: dict[str, int]
    exposure: dict[str, dict[str, float]]
    seconds: dict[str, dict[str, float]]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics."""
        return tuple(dict.fromkeys(metric for _, _, metric in self.cells))

    def interval(self, model: str, segment: str = "overall", metric: str | None = None) -> Interval:
        """Return a mean over people with its interval; `metric` is ndcg at the longest k if not given.

        Raises
        ------
        DataError
            If there is no such model, segment or metric; the message names those there are.
        """
        metric = metric or f"ndcg@{self.k[-1]}"
        self._check(model, segment, metric)
        return self.cells[model, segment, metric]

    def value(self, model: str, segment: str = "overall", metric: str | None = None) -> float:
        """Return a mean over people, as `interval` does."""
        return self.interval(model, segment, metric).value

    def paired_difference(self, a: str, b: str, segment: str = "overall", metric: str | None = None) -> Interval:
        """Return how much better `a` is than `b` over the same people, with the interval of the difference.

        An interval that does not hold 0 is a difference that other people like these would hardly undo. `segment` and
        `metric` are those of `interval`.
        """
        metric = metric or f"ndcg@{self.k[-1]}"
        self._check(a, segment, metric)
        self._check(b, segment, metric)
        if a == b:
            return Interval(0.0, 0.0, 0.0)
        known = self.differences.get((a, b, segment, metric))
        return known if known is not None else -self.differences[b, a, segment, metric]

    def best(self, segment: str = "overall", metric: str | None = None) -> str:
        """Return the model with the highest mean; the first of equals."""
        return max(self.models, key=lambda model: self.value(model, segment, metric))

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each model and segment: the means, and the borders as ``recall@20_low`` and ``_high``."""
        rows = []
        for model in self.models:
            for segment in self.segments:
                row: dict[str, Any] = {"model": model, "segment": segment, "n_users": self.n_users[segment]}
                for metric in self.metrics:
                    cell = self.cells[model, segment, metric]
                    row |= {metric: cell.value, f"{metric}_low": cell.low, f"{metric}_high": cell.high}
                rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values; an interval becomes a list of three numbers, NaN becomes None."""

        def plain(numbers: Interval) -> list[float | None]:
            return [None if np.isnan(x) else float(x) for x in numbers]

        return {
            "models": list(self.models),
            "segments": list(self.segments),
            "k": list(self.k),
            "facts": self.facts,
            "n_users": self.n_users,
            "cells": [[*key, *plain(cell)] for key, cell in self.cells.items()],
            "differences": [[*key, *plain(cell)] for key, cell in self.differences.items()],
            "exposure": {m: {k: None if np.isnan(v) else v for k, v in e.items()} for m, e in self.exposure.items()},
            "seconds": self.seconds,
        }

    def save(self, path: str | Path) -> Path:
        """Write the report to one JSON file, whole or not at all, and return its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.to_dict())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what `save` wrote.

        Raises
        ------
        StaleArtifactError, CorruptArtifactError
            If the file is not there, or is no report.
        """
        path = Path(path)
        if not path.is_file():
            raise StaleArtifactError(f"there is no report at {path} yet; evaluate first")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptArtifactError(
                f"{path} is no readable report ({type(error).__name__}: {error})", "evaluate again"
            ) from error

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Report:
        """Return the report that `to_dict` gave."""
        return cls(
            models=tuple(raw["models"]),
            segments=tuple(raw["segments"]),
            k=tuple(raw["k"]),
            cells={tuple(row[:3]): _interval(row[3:]) for row in raw["cells"]},
            differences={tuple(row[:4]): _interval(row[4:]) for row in raw["differences"]},
            n_users=raw["n_users"],
            exposure={m: {k: _number(v) for k, v in e.items()} for m, e in raw["exposure"].items()},
            seconds=raw["seconds"],
            facts=raw["facts"],
        )

    def to_markdown(self, k: int | None = None) -> str:
        """Return the table of recall and ndcg at `k` (the longest if not given) and that of exposure, in Markdown.

        Behind a mean stands half of its bootstrap interval.
        """
        k = self._k(k)
        lines = [f"| R@{k}/N@{k} | {' | '.join(self.segments)} |", f"| --- |{' --- |' * len(self.segments)}"]
        for model, cells in self._rows(k, "**{}**"):
            spreads = (self._spread(model, segment, k) for segment in self.segments)
            lines.append(f"| {model} | {' | '.join(f'{c} {s}'.strip() for c, s in zip(cells, spreads, strict=True))} |")
        lines += [
            "",
            f"| lists of {self.k[-1]} | {' | '.join(map(_words, EXPOSURE))} |",
            f"| --- |{' --- |' * len(EXPOSURE)}",
        ]
        lines += [f"| {model} | {' | '.join(self._exposure(model))} |" for model in self.models]
        return "\n".join(lines) + "\n"

    def _rows(self, k: int, bold: str) -> Iterator[tuple[str, list[str]]]:
        """Yield each model with its cells ``recall/ndcg``; `bold` is put around the best of each column."""
        best = {
            (segment, metric): max(round(self.value(model, segment, metric), 4) for model in self.models)
            for segment in self.segments
            for metric in (f"recall@{k}", f"ndcg@{k}")
        }

        def shown(model: str, segment: str, metric: str) -> str:
            value = round(self.value(model, segment, metric), 4)
            return (bold if value == best[segment, metric] > 0 else "{}").format(short(value))

        for model in self.models:
            yield (
                model,
                [
                    f"{shown(model, segment, f'recall@{k}')}/{shown(model, segment, f'ndcg@{k}')}"
                    for segment in self.segments
                ],
            )

    def _spread(self, model: str, segment: str, k: int) -> str:
        """Return half of the intervals of recall and ndcg, such as ``±.0083/.0057``; nothing if none was drawn."""
        halves = [(c.high - c.low) / 2 for c in (self.cells[model, segment, f"{m}@{k}"] for m in ("recall", "ndcg"))]
        return f"±{short(halves[0])}/{short(halves[1])}" if np.isfinite(halves).all() and any(halves) else ""

    def _exposure(self, model: str) -> list[str]:
        values = self.exposure[model]
        return [
            ""
            if np.isnan(values[name])
            else f"{values[name]:.1f}"
            if name in ("average_popularity", "novelty")
            else short(values[name], 3)
            for name in EXPOSURE
        ]

    def _k(self, k: int | None) -> int:
        if k is not None and k not in self.k:
            raise DataError(f"nothing was judged at k = {k}; there is: {', '.join(map(str, self.k))}")
        return self.k[-1] if k is None else k

    def _check(self, model: str, segment: str, metric: str) -> None:
        for kind, asked, known in (
            ("model", model, self.models),
            ("segment", segment, self.segments),
            ("metric", metric, self.metrics),
        ):
            if asked not in known:
                raise DataError(f"the report has no {kind} {asked!r}{_hint(asked, known)}; it has: {', '.join(known)}")

    def __rich__(self) -> Group:
        parts = []
        for k in self.k:
            table = Table(title=f"R@{k} / N@{k}", title_justify="left", title_style="bold")
            table.add_column("")
            for segment in self.segments:
                table.add_column(f"{segment}\n{self.n_users[segment]:,} people", justify="right")
            table.add_column("seconds\nfit + score", justify="right")
            for model, cells in self._rows(k, "[bold green]{}[/]"):
                spent = self.seconds.get(model, {})
                spreads = (self._spread(model, segment, k) for segment in self.segments)
                both = [
                    f"{cell}\n[dim]{spread}[/]" if spread else cell for cell, spread in zip(cells, spreads, strict=True)
                ]
                table.add_row(model, *both, f"{spent.get('fit', 0):.1f} + {spent.get('score', 0):.1f}")
            table.caption = "± half of the bootstrap 95 % interval" if self.facts.get("n_bootstrap") else None
            parts.append(table)
        k = self.k[-1]
        table = Table(title=f"MRR@{k} / hit rate@{k} / precision@{k}", title_justify="left", title_style="bold")
        table.add_column("")
        for segment in self.segments:
            table.add_column(segment, justify="right")
        for model in self.models:
            table.add_row(
                model,
                *(
                    "/".join(
                        short(self.value(model, segment, f"{name}@{k}")) for name in ("mrr", "hit_rate", "precision")
                    )
                    for segment in self.segments
                ),
            )
        parts.append(table)
        table = Table(title=f"What lists of {self.k[-1]} show", title_justify="left", title_style="bold")
        table.add_column("")
        for name in EXPOSURE:
            table.add_column(_words(name), justify="right")
        for model in self.models:
            table.add_row(model, *self._exposure(model))
        return Group(*parts, table)

    def __str__(self) -> str:
        console = Console(width=110, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def __repr__(self) -> str:
        return f"Report({len(self.models)} models, {', '.join(self.segments)}, k={list(self.k)})"

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        k = self._k(None)
        rows = ([model, *cells] for model, cells in self._rows(k, "{}"))
        judged = ", ".join(f"{segment} {self.n_users[segment]:,}" for segment in self.segments)
        return html_table([f"R@{k} / N@{k}", *self.segments], rows, title=repr(self), note=f"people judged: {judged}")


def short(value: float, digits: int = 4) -> str:
    """Return a number in [0, 1] without its leading zero.

    Examples
    --------
    >>> short(0.1922), short(1.0)
    ('.1922', '1.0000')
    """
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def sign_of(value: float, digits: int = 4) -> str:
    """Return a difference with its sign and without its leading zero.

    Examples
    --------
    >>> sign_of(0.0032), sign_of(-0.01), sign_of(-0.00001)
    ('+.0032', '-.0100', '+.0000')
    """
    return f"{'-' if round(value, digits) < 0 else '+'}{short(abs(value), digits)}"


def signed(gap: Interval) -> str:
    """Return a difference and its interval.

    Examples
    --------
    >>> signed(Interval(0.0032, -0.0001, 0.0065))
    '+.0032 [-.0001, +.0065]'
    """
    return f"{sign_of(gap.value)} [{sign_of(gap.low)}, {sign_of(gap.high)}]"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _interval(numbers: Sequence[float | None]) -> Interval:
    value, low, high = map(_number, numbers)
    return Interval(value, low, high)


def _hint(asked: str, known: Sequence[str]) -> str:
    near = closest(asked, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""
