"""Many models on many cuts of the data: means over cuts, and ours against the best peer of each column.

The unit of chance is a person. A person is judged on every cut, and what they do on one resembles what they do on the
next: hence people are drawn again, each with all their cuts, and not single rankings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_tail.errors import DataError
from llm_tail.evaluation.bench_table import BenchTable, Cell, Row, Versus
from llm_tail.evaluation.evaluate import PerPerson
from llm_tail.evaluation.report import Interval

Floats = NDArray[np.float64]

SEGMENTS = ("warm", "tail", "cold", "overall")
OURS, PEER, TUNED, BLEND = "ours", "peer", "tuned", "blend"
BOUND = "best peer of each set"
BLOCK_NUMBERS = 8 << 20  # of the draws that are held at once


@dataclass(frozen=True, eq=False)
class Result:
    """What one model did on one cut.

    Parameters
    ----------
    model : str
        Its name in the table.
    seed : int
        Of the cut.
    rankings : dict of str to PerPerson
        Segment to what each of its people got.
    facts : dict
        JSON-like: ``settings``, ``n_trials``, ``tune_seconds``, ``fit_seconds``, ``score_seconds``, ``peak_mb`` ...
    """

    model: str
    seed: int
    rankings: dict[str, PerPerson]
    facts: dict[str, Any] = field(default_factory=dict)

    def mean(self, segment: str, metric: str) -> float:
        """Return the mean over people."""
        return float(self.rankings[segment].values[metric].mean())

    def to_parts(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return JSON-like values, and arrays by name (float32: seven digits are enough of a share)."""
        arrays: dict[str, NDArray[Any]] = {}
        for segment, one in self.rankings.items():
            arrays[segment] = one.people
            arrays |= {f"{segment}.{metric}": values.astype(np.float32) for metric, values in one.values.items()}
        means = {s: {m: self.mean(s, m) for m in one.values} for s, one in self.rankings.items()}
        return {"model": self.model, "seed": self.seed, "means": means, "facts": self.facts}, arrays

    @classmethod
    def from_parts(cls, raw: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Result:
        """Return what `to_parts` was made of."""
        rankings = {
            segment: PerPerson(arrays[segment], {m: arrays[f"{segment}.{m}"].astype(np.float64) for m in metrics})
            for segment, metrics in raw["means"].items()
        }
        return cls(raw["model"], raw["seed"], rankings, dict(raw["facts"]))


class _Column(NamedTuple):
    """One comparison to be made."""

    ours: str
    peer: str
    segment: str
    metric: str


Results = Mapping[str, Mapping[int, Result]]  # model to seed to result, of one set


def compare(
    sets: Mapping[str, Sequence[Result]],
    groups: Mapping[str, str],
    *,
    k: int = 20,
    phase: str = "test",
    n_bootstrap: int = 1000,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> BenchTable:
    """Put results into one table: of one data set, or means over several.

    Parameters
    ----------
    sets : mapping of str to sequence of Result
        Data set to what the models did there, one result for each model and cut.
    groups : mapping of str to str
        Model to ``ours``, ``peer``, ``tuned`` (a peer with our vectors) or ``blend``, in the order of the table.
    k : int
        Length of the lists that were judged.
    phase : str
        What was judged on: ``test`` or ``validation``.
    n_bootstrap : int
        Draws of people behind each interval; 0 leaves the intervals out.
    seed : int
        Of the draws.
    notes : sequence of str
        What else has to be known.

    Returns
    -------
    BenchTable
        Each of ours stands against the peer with the best mean of that column. A model that is not there on every cut
        is shown with those it has and is nobody's rival; over several sets it is left out.

    Raises
    ------
    DataError
        If there is no result at all, or nothing that all sets are judged on.

    Notes
    -----
    Per set, people are drawn with replacement, each with all their cuts; a draw's value is the mean over cuts of the
    mean over people, and over sets drawn apart. O(n_bootstrap n_people n_cuts) for each comparison.
    """
    by_set: dict[str, dict[str, dict[int, Result]]] = {}
    for name, results in sets.items():
        by_model = by_set.setdefault(name, {})
        for one in results:
            by_model.setdefault(one.model, {})[one.seed] = one
    if not by_set or not all(by_set.values()):
        raise DataError(f"no model came to a result: {'; '.join(notes) or 'there was none'}")
    segments = _segments(by_set)
    metrics = (f"recall@{k}", f"ndcg@{k}")
    cuts = {name: sorted({s for by_seed in by_model.values() for s in by_seed}) for name, by_model in by_set.items()}
    whole = [m for m in groups if all(set(by_set[n].get(m, {})) == set(cuts[n]) for n in by_set)]
    shown = whole if len(by_set) > 1 else [m for m in groups if any(m in by_model for by_model in by_set.values())]
    rows = [_row(model, groups[model], by_set, segments, metrics) for model in shown]
    peers = [row for row in rows if row.group == PEER and row.model in whole]
    columns = [
        _Column(one.model, max(peers, key=lambda row: row.cells[s, m].mean).model, s, m)
        for one in rows
        if one.group == OURS and one.model in whole and peers
        for s in segments
        for m in metrics
    ]
    extra = [f"{m} is not there on every set and cut" for m in groups if m not in whole and len(by_set) > 1]
    if len(by_set) > 1 and peers:
        rows.append(_bound(by_set, [row.model for row in peers], segments, metrics))
    return BenchTable(
        data=tuple(by_set),
        phase=phase,
        k=k,
        seeds=tuple(sorted({s for seeds in cuts.values() for s in seeds})),
        segments=segments,
        n_users={s: _n_people(by_set, s) for s in segments},
        rows=tuple(rows),
        versus=tuple(_versus(by_set, columns, n_bootstrap, seed)),
        n_bootstrap=n_bootstrap,
        notes=(*notes, *extra),
    )


def _segments(by_set: Mapping[str, Results]) -> tuple[str, ...]:
    """Return the columns that everyone was judged on everywhere."""
    every = [r for by_model in by_set.values() for by_seed in by_model.values() for r in by_seed.values()]
    found = tuple(s for s in SEGMENTS if all(s in r.rankings for r in every))
    if not found:
        raise DataError("the sets and cuts have no column in common that somebody can be judged on")
    return found


def _row(model: str, group: str, by_set: Mapping[str, Results], segments: Sequence[str], metrics: Sequence[str]) -> Row:
    """Return a model's means over cuts and then over sets, with the spread over cuts."""
    there = [by_model[model] for by_model in by_set.values()]
    cells = {}
    for segment in segments:
        for metric in metrics:
            means = [{s: one.mean(segment, metric) for s, one in by_seed.items()} for by_seed in there]
            # The spread over cuts is known where all sets have the same ones.
            common = sorted(means[0]) if all(set(one) == set(means[0]) for one in means) else []
            over_sets = [float(np.mean([one[s] for one in means])) for s in common]
            sd = float(np.std(over_sets, ddof=1)) if len(over_sets) > 1 else float("nan")
            cells[segment, metric] = Cell(float(np.mean([np.mean(list(one.values())) for one in means])), sd)
    every = [one for by_seed in there for one in by_seed.values()]

    def cost(name: str) -> float:
        known = [float(one.facts[name]) for one in every if one.facts.get(name) is not None]
        return float(np.mean(known)) if known else float("nan")

    return Row(
        model,
        group,
        cells,
        n_cuts=len(every),
        fit_seconds=cost("fit_seconds"),
        score_seconds=cost("score_seconds"),
        tune_seconds=cost("tune_seconds"),
        peak_mb=max((float(one.facts.get("peak_mb") or "nan") for one in every), default=float("nan")),
        n_trials=cost("n_trials"),
        settings=[dict(one.facts.get("settings", {})) for one in every],
    )


def _bound(by_set: Mapping[str, Results], peers: Sequence[str], segments: Sequence[str], metrics: Sequence[str]) -> Row:
    """Return the mean of each set's best peer, column by column: no single model reaches it."""
    cells = {}
    for segment in segments:
        for metric in metrics:
            best = [
                max(float(np.mean([r.mean(segment, metric) for r in by_model[m].values()])) for m in peers)
                for by_model in by_set.values()
            ]
            cells[segment, metric] = Cell(float(np.mean(best)), float("nan"))
    return Row(BOUND, "bound", cells)


def _n_people(by_set: Mapping[str, Results], segment: str) -> int:
    """Return how many people are judged: per set the mean over cuts, summed over sets."""
    total = 0.0
    for by_model in by_set.values():
        by_cut = {s: len(r.rankings[segment].people) for by_seed in by_model.values() for s, r in by_seed.items()}
        total += float(np.mean(list(by_cut.values())))
    return round(total)


# ---- the bootstrap


def _versus(by_set: Mapping[str, Results], columns: Sequence[_Column], n_bootstrap: int, seed: int) -> Iterator[Versus]:
    if not columns:
        return
    drawn = np.zeros((n_bootstrap, len(columns)))
    gaps, values, others = np.zeros((3, len(columns)))
    for n, by_model in enumerate(by_set.values()):
        drawn += draw_gaps(by_model, columns, n_bootstrap, seed + n) / len(by_set)
        for c, one in enumerate(columns):
            own, other = (
                np.mean([r.mean(one.segment, one.metric) for r in by_model[name].values()])
                for name in (one.ours, one.peer)
            )
            values[c] += own / len(by_set)
            others[c] += other / len(by_set)
    gaps = values - others
    borders = np.nanquantile(drawn, [0.025, 0.975], axis=0) if n_bootstrap else np.full((2, len(columns)), np.nan)
    for c, one in enumerate(columns):
        gap = Interval(float(gaps[c]), float(borders[0, c]), float(borders[1, c]))
        yield Versus(one.ours, one.segment, one.metric, one.peer, float(values[c]), float(others[c]), gap)


def draw_gaps(results: Results, columns: Sequence[tuple[str, str, str, str]], n_bootstrap: int, seed: int) -> Floats:
    """Return differences of means with people drawn again, each with all their cuts, shape (n_bootstrap, n_columns).

    Parameters
    ----------
    results : mapping of str to mapping of int to Result
        Model to cut to result; the rows of people mean the same person on every cut.
    columns : sequence of (model, other model, segment, metric)
        What is compared; both models are there on the same cuts.
    n_bootstrap : int
        How often people are drawn.
    seed : int
        The same seed and people give the same draws.

    Returns
    -------
    array of float64
        NaN where a draw holds nobody who is judged there.
    """
    cuts = sorted(results[columns[0][0]])
    judged = [r.people for by_seed in results.values() for one in by_seed.values() for r in one.rankings.values()]
    everyone = np.unique(np.concatenate(judged))
    shape = (len(everyone), len(columns), len(cuts))
    gaps, there = np.zeros(shape), np.zeros(shape)
    for c, (model, other, segment, metric) in enumerate(columns):
        for s, cut in enumerate(cuts):
            own, others = results[model][cut].rankings[segment], results[other][cut].rankings[segment]
            if not np.array_equal(own.people, others.people):
                raise DataError(f"{model} and {other} were judged on other people ({segment}, cut {cut})")
            rows = np.searchsorted(everyone, own.people)
            gaps[rows, c, s] = own.values[metric] - others.values[metric]
            there[rows, c, s] = 1.0
    flat, weight = gaps.reshape(len(everyone), -1), there.reshape(len(everyone), -1)
    drawn = np.empty((n_bootstrap, len(columns)))
    rng, step = np.random.default_rng(seed), max(1, BLOCK_NUMBERS // len(everyone))
    for start in range(0, n_bootstrap, step):
        n = min(step, n_bootstrap - start)
        picked = rng.integers(0, len(everyone), (n, len(everyone))) + np.arange(n)[:, None] * len(everyone)
        times = np.bincount(picked.ravel(), minlength=n * len(everyone)).reshape(n, -1).astype(np.float64)
        total = times @ weight  # (n, n_columns * n_cuts)
        means = np.divide(times @ flat, total, out=np.full(total.shape, np.nan), where=total > 0)
        drawn[start : start + n] = means.reshape(n, len(columns), len(cuts)).mean(axis=2)
    return drawn
