"""The guard: a tuned encoder is kept only where it ranks better and has not forgotten what texts mean.

Two looks are taken at every encoder. On validation, items are ranked by its vectors alone (`ContentSimilarity`): warm,
tail, cold and overall, each beside the base with a bootstrap interval of the paired difference over people. And on a
probe made from the catalogue itself, which has nothing to do with who took what: does a title find its own description
among all others? Fine-tuning may blur that a little; where it is lost, so is what the encoder knew of language.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from llm_tail.artifacts import write_json
from llm_tail.config import TextConfig
from llm_tail.embedding.store import Embeddings
from llm_tail.embedding.text import ItemText
from llm_tail.errors import CorruptArtifactError, DataError
from llm_tail.evaluation.evaluate import evaluate
from llm_tail.evaluation.report import Interval, Report, short, sign_of, signed
from llm_tail.recommenders.content import ContentSimilarity
from llm_tail.workspace.samples import few_people

if TYPE_CHECKING:
    from llm_tail.data.catalog import Catalog
    from llm_tail.data.splits import Split
    from llm_tail.recommenders.base import Recommender

K = 20
METRIC = f"ndcg@{K}"
METRICS = (METRIC, f"recall@{K}")
FEWEST, MOST = 50, 500  # items of a probe: fewer say nothing, more cost without telling more
MOST_PEOPLE = 20_000  # of validation: more make the intervals no narrower than anybody needs
TITLES, HALVES = "title -> own description", "first half of the text -> second half"
_TIE = 1e-6  # cosines closer than this are equal but for rounding
_ROUNDING = 1e-9

Vectors = NDArray[np.float32]
T = TypeVar("T")


class TurnsToVectors(Protocol):
    """The part of an encoder that the guard needs."""

    def encode(self, texts: Sequence[str], *, kind: Any = ..., batch_tokens: int = ...) -> Vectors:
        """Return the unit vectors of texts, shape (n_texts, dim)."""
        ...


class ProbeScore(NamedTuple):
    """How well texts find their own counterparts: share at the first place, mean of 1 / rank; both in [0, 1]."""

    recall_at_1: float
    mrr: float


@dataclass(frozen=True)
class Probe:
    """Texts, and for each the one among all others that belongs to it.

    Parameters
    ----------
    kind : str
        What looks for what.
    queries : list of str
        n_queries texts.
    documents : list of str
        Distinct texts, n_documents of them.
    own : array of int64, shape (n_queries,)
        Row of the document that belongs to each query.
    """

    kind: str
    queries: list[str]
    documents: list[str]
    own: NDArray[np.int64]

    @classmethod
    def of(cls, catalog: Catalog, text: ItemText | None = None, *, n_most: int = MOST, seed: int = 0) -> Probe | None:
        """Make a probe from a catalogue, the same for every encoder; None where fewer than 50 items are fit for it.

        Parameters
        ----------
        catalog : Catalog
            Where titles and descriptions are.
        text : ItemText, optional
            How an item becomes one text: halves of it are taken where too few items have both title and description.
        n_most : int
            More items than these are drawn from, at least 1.
        seed : int
            Of the draw.

        Examples
        --------
        >>> from llm_tail.data.books import load_catalog
        >>> probe = Probe.of(load_catalog())
        >>> probe.kind, len(probe.queries), probe.queries[0]
        ('title -> own description', 500, 'The Epic of Gilgamesh')
        """
        titles, descriptions = (ItemText(TextConfig(fields=[name])).texts(catalog) for name in ("title", "description"))
        pairs = [(q, d) for q, d in zip(titles, descriptions, strict=True) if q and d and q != d]
        kind = TITLES
        if len(pairs) < FEWEST:
            words = [one.split() for one in (text or ItemText()).texts(catalog)]
            pairs = [(" ".join(w[: len(w) // 2]), " ".join(w[len(w) // 2 :])) for w in words if len(w) >= 4]
            kind = HALVES
        if len(pairs) < FEWEST:
            return None
        drawn = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:n_most])
        documents, own = np.unique([pairs[n][1] for n in drawn], return_inverse=True)
        return cls(kind, [pairs[n][0] for n in drawn], documents.tolist(), np.asarray(own, dtype=np.int64))

    def score(self, encoder: TurnsToVectors, *, batch_tokens: int = 2048) -> ProbeScore:
        """Return how well the encoder's vectors bring the queries to their own documents.

        Parameters
        ----------
        encoder : Encoder
            Anything with `encode`.
        batch_tokens : int
            Padded tokens in one batch, >= 1.

        Notes
        -----
        Equal cosines share their places, so that vectors which are all alike find nothing. O(n_queries n_documents
        dim) after encoding both.
        """
        asked = encoder.encode(self.queries, kind="query", batch_tokens=batch_tokens)
        there = encoder.encode(self.documents, batch_tokens=batch_tokens)
        cosines = asked @ there.T  # (n_queries, n_documents)
        right = np.take_along_axis(cosines, self.own[:, None], axis=1)  # (n_queries, 1)
        better, equal = (cosines > right + _TIE).sum(1), (np.abs(cosines - right) <= _TIE).sum(1) - 1
        ranks = 1 + better + equal / 2
        return ProbeScore(float((ranks == 1).mean()), float((1 / ranks).mean()))


class Look(NamedTuple):
    """What the guard sees of one encoder: its item vectors, shape (n_items, dim), and its score on the probe."""

    vectors: Vectors
    probe: ProbeScore | None = None


class OneByOne(Mapping[str, T]):
    """A mapping whose values are made when they are asked for, and not kept.

    Examples
    --------
    >>> list(OneByOne(["base", "tuned"], len).items())
    [('base', 4), ('tuned', 5)]
    """

    def __init__(self, names: Sequence[str], make: Callable[[str], T]) -> None:
        self._names, self._make = names, make

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Verdict:
    """Which encoder is kept, why, and the table behind it.

    Parameters
    ----------
    report : Report
        Content-only ranking on validation by each encoder; the first is what the others are held against.
    probes : dict
        Label to the score on the probe, None where no probe could be made.
    probe : str
        What the probe asks; empty where there is none.
    kept : str
        The label that won.
    why : str
        The reason in words.
    max_forgetting : float
        The largest share of the probe's MRR that may be lost.
    """

    report: Report
    probes: dict[str, ProbeScore | None]
    probe: str
    kept: str
    why: str
    max_forgetting: float

    @property
    def labels(self) -> tuple[str, ...]:
        """The base, then the candidates."""
        return self.report.models

    @property
    def base(self) -> str:
        """What the others are held against."""
        return self.report.models[0]

    @property
    def segments(self) -> tuple[str, ...]:
        """The columns: those of warm, tail, cold and overall that somebody could be judged on."""
        return self.report.segments

    def mean(self, label: str, metric: str = METRIC) -> float:
        """Return the mean of a metric over the columns."""
        return _mean(self.report, label, metric)

    def difference(self, label: str, segment: str, metric: str = METRIC) -> Interval:
        """Return how much better than the base, over the same people, with its 95 % interval."""
        return self.report.paired_difference(label, self.base, segment, metric)

    def forgotten(self, label: str) -> float | None:
        """Return which share of the base's MRR on the probe is lost; below 0 where it rose, None without a probe."""
        return _forgotten(self.probes, self.base, label)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        return {
            "kept": self.kept,
            "why": self.why,
            "mean": {metric: {label: self.mean(label, metric) for label in self.labels} for metric in METRICS},
            "probe": {
                "kind": self.probe or None,
                "max_forgetting": self.max_forgetting,
                "scores": {label: score and score._asdict() for label, score in self.probes.items()},
            },
            "report": self.report.to_dict(),
        }

    def save(self, path: str | Path) -> Path:
        """Write the verdict to one JSON file and return its path."""
        write_json(Path(path), self.to_dict())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Verdict:
        """Read what `save` wrote; `CorruptArtifactError` where that is something else."""
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            probe = raw["probe"]
            scores = {label: ProbeScore(**score) if score else None for label, score in probe["scores"].items()}
            report = Report.from_dict(raw["report"])
            return cls(report, scores, probe["kind"] or "", raw["kept"], raw["why"], probe["max_forgetting"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{path} is no readable verdict ({type(error).__name__}: {error})"
            raise CorruptArtifactError(what, "fine-tune again") from error

    def to_markdown(self) -> str:
        """Return one table for each metric, the paired differences with their intervals, and the probe."""
        lines = []
        for metric in METRICS:
            lines += [
                f"| {_title(metric)} | {' | '.join(self.segments)} | mean |",
                f"|{' --- |' * (len(self.segments) + 2)}",
            ]
            for label in self.labels:
                cells = [self._cell(label, segment, metric) for segment in self.segments]
                lines.append(f"| {self._bold(label)} | {' | '.join(cells)} | {short(self.mean(label, metric))} |")
            lines.append("")
        if self.probe:
            lines += [f"| {self.probe} | recall@1 | MRR |", "| --- | --- | --- |"]
            scores = [(label, score) for label, score in self.probes.items() if score]
            lines += [f"| {self._bold(n)} | {short(s.recall_at_1, 3)} | {short(s.mrr, 3)} |" for n, s in scores]
        return "\n".join(lines).rstrip() + "\n"

    def _bold(self, label: str) -> str:
        return f"**{label}**" if label == self.kept else label

    def _cell(self, label: str, segment: str, metric: str) -> str:
        value = short(self.report.value(label, segment, metric))
        return value if label == self.base else f"{value} ({signed(self.difference(label, segment, metric))})"

    def __str__(self) -> str:
        return f"{self.kept} wins: {self.why}"


def judge_encoders(
    looks: Mapping[str, Look],
    split: Split,
    *,
    shown: Sequence[str] = (),
    probe: str = "",
    max_forgetting: float = 0.2,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Verdict:
    """Decide which of several encoders is kept.

    The rule: a candidate has to beat the base on the mean of the columns (NDCG@20 of content-only ranking on
    validation: warm, tail, cold, overall), must in none of them stand below it with the whole of the 95 % interval of
    the difference, and must not lose more than the share `max_forgetting` of the base's MRR on the probe. It is a share
    because probes differ: MiniLM reaches .71 on articles of a shop and .16 on novels, whose titles hardly say what they
    are about. Of those that do, the one with the highest mean is kept, the earlier of equals, but one that stands below
    the base in some column only where all do; if there is none, the base. What cold and tail items lose is not made
    good by warm ones, which have people of their own to speak for them.

    Parameters
    ----------
    looks : mapping of str to Look
        The base first, then the candidates; vectors in the item order of `split`. Each is asked for once.
    split : Split
        Its validation part is what is judged on, by at most 20,000 people; nothing may have been trained on it.
    shown : sequence of str
        Labels that only stand beside the others: the encoder before pre-training. Where none of those that may be kept
        ranks better, the verdict says so.
    probe : str
        What the probe of the looks asks, for the table.
    max_forgetting : float
        In [0, 1].
    n_bootstrap : int
        Resamples of people behind the intervals.
    seed : int
        Of the resamples, and of the draw where there are more people.

    Returns
    -------
    Verdict

    Raises
    ------
    DataError
        If there is no look at all, or nothing in validation.

    Notes
    -----
    Costs one content-only ranking for each look. They are judged one after another: with an `OneByOne`, the vectors of
    one or two are held at a time.
    """
    if not looks:
        raise DataError("there is no encoder to judge; give the base and at least one candidate")
    sample, probes = few_people(split, MOST_PEOPLE, seed=seed), {}

    def model_of(label: str) -> Recommender:
        look = looks[label]
        probes[label] = look.probe
        return ContentSimilarity().fit(sample.train, Embeddings(sample.items, look.vectors))

    models = OneByOne(tuple(looks), model_of)
    report = evaluate(models, sample, K, n_bootstrap=n_bootstrap, seed=seed, phase="validation")
    sure = {label: _surely_fallen(report, label) for label in report.models[1:]} if n_bootstrap else {}
    kept, why = _decide(report, probes, max_forgetting, shown, sure)
    why = "; ".join([why, *_unbeaten(report, kept, shown)])
    return Verdict(report, probes, probe if any(probes.values()) else "", kept, why, max_forgetting)


def _decide(
    report: Report,
    probes: Mapping[str, ProbeScore | None],
    max_forgetting: float,
    shown: Sequence[str] = (),
    sure: Mapping[str, Sequence[str]] | None = None,
) -> tuple[str, str]:
    """Return the label that wins and the reason, by the rule that `judge_encoders` tells."""
    base, *others = (label for label in report.models if label not in shown)
    means = {label: _mean(report, label) for label in report.models}
    fallen = {label: _fallen(report, base, label) for label in others}
    better = (label for label in others if means[label] > means[base] + _ROUNDING)
    winners = sorted(better, key=lambda label: (bool(fallen[label]), -means[label]))
    if not others:
        return base, "there was no candidate"
    if not winners:
        best = max(others, key=lambda label: means[label])
        gap = sign_of(means[best] - means[base])
        return base, f"no candidate ranks better (the best, {best}, differs by {gap} in mean N@{K})"
    lost = []
    for label in winners:
        if sure and sure.get(label):
            lost.append(f"{label} ranks better in the mean but surely worse in {', '.join(sure[label])}")
            continue
        drop = _forgotten(probes, base, label)
        if drop is not None and drop > max_forgetting + _ROUNDING:
            lost.append(
                f"{label} ranks better but forgot ({drop:.0%} of the probe's MRR, at most {max_forgetting:.0%} may go)"
            )
            continue
        gain = f"mean N@{K} over {', '.join(report.segments)} {sign_of(means[label] - means[base])}"
        price = [f"{', '.join(fallen[label])} below the base, though not beyond chance"] if fallen[label] else []
        return label, "; ".join([gain, *price, *lost])
    return base, "; ".join(lost)


def _unbeaten(report: Report, kept: str, shown: Sequence[str]) -> list[str]:
    """Return a line for each encoder that was only shown and that what is kept does not beat."""
    gaps = {label: _mean(report, label) - _mean(report, kept) for label in shown}
    return [
        f"pre-training did harm: {label}, the encoder before it, is not beaten (mean N@{K} {sign_of(gap)} above "
        f"{kept}); set [pretrain] enabled = false"
        for label, gap in gaps.items()
        if gap >= 0
    ]


def _mean(report: Report, label: str, metric: str = METRIC) -> float:
    return mean(report.value(label, segment, metric) for segment in report.segments)


def _fallen(report: Report, base: str, label: str) -> list[str]:
    """Return the columns in which a candidate stands below the base."""
    return [s for s in report.segments if report.value(label, s, METRIC) < report.value(base, s, METRIC) - _ROUNDING]


def _surely_fallen(report: Report, label: str) -> list[str]:
    """Return the columns in which a candidate stands below the base with all of the 95 % interval."""
    base = report.models[0]
    return [s for s in report.segments if report.paired_difference(label, base, s, METRIC).high < 0]


def _forgotten(probes: Mapping[str, ProbeScore | None], base: str, label: str) -> float | None:
    before, after = probes[base], probes[label]
    return None if before is None or after is None else (before.mrr - after.mrr) / before.mrr


def _title(metric: str) -> str:
    name, _, k = metric.partition("@")
    return f"{ {'ndcg': 'NDCG'}.get(name, name.capitalize()) }@{k}"
