"""evaluate: several models, one split, four rankings, the same people.

::

    warm      candidates = items not held out as cold;           relevant = what the person took of these
    tail      the same ranking;                                  relevant = those that are not head items
    cold      candidates = the cold items of the phase;          relevant = what the person took of these
    overall   candidates = both;                                 relevant = both

Every ranking is full: no sampled negatives. What a person has in training (and, in the test, in validation) is no
candidate. An item that has validation and test events, and none in training, is cold in both phases. Means run over
the people who have something relevant.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions, Mask
from llm_tail.data.splits import Segments
from llm_tail.errors import ConfigError, DataError
from llm_tail.evaluation import metrics
from llm_tail.evaluation.report import Interval, Report
from llm_tail.progress import Bar
from llm_tail.recommenders.base import BLOCK_BYTES, Recommender, top_k

if TYPE_CHECKING:
    from llm_tail.data.splits import Split
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph

__all__ = ["PerPerson", "Report", "evaluate", "per_person"]


@dataclass(frozen=True)
class Task:
    """One ranking: who is judged, on which candidates, and what would be right."""

    name: str
    candidates: NDArray[np.int64]  # item rows, ascending
    relevant: sp.csr_matrix  # (n_users, n_items)

    @property
    def people(self) -> Mask:
        """Who has something relevant, shape (n_users,)."""
        return np.asarray(np.diff(self.relevant.indptr) > 0)


def evaluate(
    models: Sequence[Recommender] | Mapping[str, Recommender],
    split: Split,
    k: int | Sequence[int] = 20,
    *,
    embeddings: Embeddings | None = None,
    graph: ItemGraph | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    phase: Literal["test", "validation"] = "test",
) -> Report:
    """Fit what is not fitted yet, rank for everyone, and put all models into one table.

    Parameters
    ----------
    models : sequence of Recommender, or mapping of name to Recommender
        What is compared. Those of a sequence are called by their ``name``; a second one of it gets a number. A mapping
        is asked for one model at a time, and no model is held beyond its turn.
    split : Split
        Training, validation and test.
    k : int or sequence of int
        Lengths of the lists that are judged, at least 1.
    embeddings, graph : optional
        Passed on to models that still have to be fitted.
    n_bootstrap : int
        Resamples of people behind each 95 % interval; 0 leaves the intervals out.
    seed : int
        Of the resamples.
    phase : {"test", "validation"}
        What is held against the rankings: ``validation`` is for choosing settings, so that the test stays unseen.

    Returns
    -------
    Report

    Raises
    ------
    ConfigError
        If `k`, `n_bootstrap` or `phase` is out of range.
    DataError
        If there is no model or nothing to judge, or a model has learned from what it is judged by.

    Notes
    -----
    One pass of scores serves all rankings: O(n_users n_items) a model beside the model's own cost, in blocks of 128
    MB. People without a training history are ranked by popularity, as `Recommender.recommend` does.
    """
    named, ks = _named(models), _lengths(k)
    if phase not in ("test", "validation"):
        raise ConfigError(f"phase is {phase!r}, expected 'test' or 'validation'")
    if n_bootstrap < 0:
        raise ConfigError(f"n_bootstrap is {n_bootstrap}, expected at least 0")
    tasks = make_tasks(split, phase)
    train, held = split.train, split.test if phase == "test" else split.validation
    seen = _seen(split, phase)
    values: dict[str, dict[str, dict[str, NDArray[np.float64]]]] = {task.name: {} for task in tasks}
    exposure, seconds = {}, {}
    for name, model in named.items():
        started = time.perf_counter()
        was_fitted = model.is_fitted
        if not was_fitted:
            vectors = None if embeddings is None else embeddings.on(train.items)
            model.fit(train, vectors, graph, validation=split.validation)
        fitted = time.perf_counter()
        _check_leak(name, model, train, held)
        tops = _rank(name, model, train, seen, tasks, ks[-1])
        seconds[name] = {
            "fit": 0.0 if was_fitted else fitted - started,
            "score": time.perf_counter() - fitted,
        }
        for task in tasks:
            values[task.name][name] = metrics.per_user(tops[task.name], task.relevant[task.people], ks)
        exposure[name] = _exposure(tops["overall"], tasks[-1].candidates, train)
    cells, differences = _summary(values, n_bootstrap, seed)
    return Report(
        models=tuple(named),
        segments=tuple(task.name for task in tasks),
        k=ks,
        cells=cells,
        differences=differences,
        n_users={task.name: int(task.people.sum()) for task in tasks},
        exposure=exposure,
        seconds=seconds,
        facts={
            "method": split.method,
            "split_seed": split.seed,
            "phase": phase,
            "n_bootstrap": n_bootstrap,
            "seed": seed,
        },
    )


class PerPerson(NamedTuple):
    """What one ranking gave each person.

    Attributes
    ----------
    people : array of int64, shape (n_people,)
        Rows of the people of the split who have something relevant.
    values : dict
        Metric, such as ``ndcg@20``, to one number each, shape (n_people,).
    """

    people: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]


def per_person(
    model: Recommender, split: Split, k: int = 20, *, phase: Literal["test", "validation"] = "test"
) -> dict[str, PerPerson]:
    """Judge one fitted model as `evaluate` does, and return what stands behind the means: the numbers of each person.

    Parameters
    ----------
    model : Recommender
        Fitted on ``split.train``.
    split : Split
        Training, validation and test.
    k : int
        Length of the lists, at least 1.
    phase : {"test", "validation"}
        What is held against the rankings.

    Returns
    -------
    dict of str to PerPerson
        One for each of warm, tail, cold and overall that somebody can be judged on.

    Raises
    ------
    DataError
        As `evaluate`.
    """
    tasks, (depth,) = make_tasks(split, phase), _lengths(k)
    _check_leak(model.name, model, split.train, split.test if phase == "test" else split.validation)
    tops = _rank(model.name, model, split.train, _seen(split, phase), tasks, depth)
    return {
        task.name: PerPerson(
            np.flatnonzero(task.people), metrics.per_user(tops[task.name], task.relevant[task.people], [depth])
        )
        for task in tasks
    }


def make_tasks(split: Split, phase: Literal["test", "validation"] = "test") -> list[Task]:
    """Return the rankings of a split: warm, tail, cold, overall; without those that nobody can be judged on.

    Raises
    ------
    DataError
        If nobody has anything relevant.
    """
    held = _same_rows(split.test if phase == "test" else split.validation, split.train)
    cold = split.cold_validation
    if phase == "test":
        # Cuts made elsewhere, by time for one, may hold an item in validation and test alone: cold in both of them.
        cold = split.cold_test | (split.cold_validation & (held.counts() > 0))
    warm = ~(split.cold_test | split.cold_validation)
    # An item without training events that was not held out on purpose ranks among the warm ones, as a tail item.
    tail = warm & ~Segments.of(split.train).head
    matrix = held.matrix()
    tasks = [
        Task(name, np.flatnonzero(candidates), _only(matrix, relevant))
        for name, candidates, relevant in (
            ("warm", warm, warm),
            ("tail", warm, tail),
            ("cold", cold, cold),
            ("overall", warm | cold, warm | cold),
        )
    ]
    tasks = [task for task in tasks if task.people.any()]
    if not tasks:
        raise DataError(f"nobody has anything in the {phase} part of the split; expected at least one event")
    return tasks


def _seen(split: Split, phase: str) -> sp.csr_matrix:
    """Return what each person has already and is not asked for, shape (n_users, n_items)."""
    seen = split.train.matrix()
    return seen if phase == "validation" else (seen + _same_rows(split.validation, split.train).matrix()).tocsr()


def _rank(
    name: str, model: Recommender, train: Interactions, seen: sp.csr_matrix, tasks: Sequence[Task], k: int
) -> dict[str, NDArray[np.int64]]:
    """Return for each task the k best candidates of each of its people, shape (n_people, k)."""
    histories = model.history_matrix(train)
    columns = _columns(model.items, train.items)
    needed = np.flatnonzero(np.logical_or.reduce([task.people for task in tasks]))
    tops: dict[str, list[NDArray[np.int64]]] = {task.name: [] for task in tasks}
    step = max(1, BLOCK_BYTES // (8 * len(train.items)))
    with Bar(f"ranking {name}", len(needed)) as bar:
        for start in range(0, len(needed), step):
            people = needed[start : start + step]
            scores = _scores(model, histories[people], columns)  # (n_block, n_items)
            scores[seen[people].nonzero()] = -np.inf
            for candidates, group in _by_candidates(tasks):
                # tail looks at the lists of warm: both are ranked once, for the people of either
                judged = np.logical_or.reduce([task.people[people] for task in group])
                best, _ = top_k(scores[np.ix_(judged, candidates)], k)  # (n_judged, <= k)
                rows = np.full((len(people), k), -1, dtype=np.int64)
                rows[judged, : best.shape[1]] = np.where(best >= 0, candidates[best], -1)
                for task in group:
                    tops[task.name].append(rows[task.people[people]])
            bar.advance(len(people))
    return {task: np.concatenate(parts) for task, parts in tops.items()}


def _by_candidates(tasks: Sequence[Task]) -> Iterator[tuple[NDArray[np.int64], list[Task]]]:
    """Yield the tasks in groups that rank the same candidates."""
    left = list(tasks)
    while left:
        candidates = left[0].candidates
        yield candidates, [task for task in left if np.array_equal(task.candidates, candidates)]
        left = [task for task in left if not np.array_equal(task.candidates, candidates)]


def _scores(model: Recommender, histories: sp.csr_matrix, columns: NDArray[np.int64] | None) -> NDArray[np.float32]:
    """Return the model's scores in our item rows, shape (n_block, n_items): popularity where there is no history."""
    n_items = histories.shape[1]
    if columns is not None:
        known = np.flatnonzero(columns >= 0)
        ours_to_theirs = sp.csr_matrix(
            (np.ones(len(known), dtype=np.float32), (known, columns[known])), shape=(n_items, len(model.items))
        )
        histories = (histories @ ours_to_theirs).tocsr()
    scores = np.array(model.score(histories), dtype=np.float32)
    empty = np.diff(histories.indptr) == 0
    if empty.any():
        scores[empty] = model._popularity().astype(np.float32)
    if columns is None:
        return scores
    # What the model does not know it cannot recommend.
    return np.where(columns >= 0, scores[:, np.maximum(columns, 0)], np.float32(-np.inf))


def _columns(theirs: IdMap, ours: IdMap) -> NDArray[np.int64] | None:
    return None if theirs == ours else theirs.rows(ours.values)


def _check_leak(name: str, model: Recommender, train: Interactions, held: Interactions) -> None:
    """Refuse a model whose histories hold events that it is judged by and that training does not hold."""
    users, items = model.users.rows(held.users.values), model.items.rows(held.items.values)
    rows, columns = users[held.user_rows], items[held.item_rows]
    known = (rows >= 0) & (columns >= 0)
    if not known.any():
        return
    learned = np.zeros(len(held), dtype=bool)
    learned[known] = np.asarray(model.histories[rows[known], columns[known]]).ravel() > 0
    ours = np.asarray(train.matrix()[_same_rows(held, train).user_rows, held.item_rows]).ravel() > 0
    n_leaked = int((learned & ~ours).sum())
    if n_leaked:
        raise DataError(
            f"{name} has learned from {n_leaked:,} of the {len(held):,} events that it would be judged by; "
            "expected a model fitted on split.train"
        )


def _summary(
    values: Mapping[str, Mapping[str, Mapping[str, NDArray[np.float64]]]], n_bootstrap: int, seed: int
) -> tuple[dict[tuple[str, str, str], Interval], dict[tuple[str, str, str, str], Interval]]:
    """Return the mean of each (model, segment, metric) and of each pair's difference, with intervals."""
    cells, differences = {}, {}
    for segment, by_model in values.items():
        keys = [(model, metric) for model, by_metric in by_model.items() for metric in by_metric]
        table = np.stack([by_model[model][metric] for model, metric in keys], axis=1)  # (n_users, n_columns)
        means, drawn = table.mean(axis=0), metrics.resample_means(table, n_bootstrap, seed)
        place = {key: column for column, key in enumerate(keys)}
        low, high = _borders(drawn)
        for (model, metric), column in place.items():
            cells[model, segment, metric] = Interval(float(means[column]), float(low[column]), float(high[column]))
        for a, b in combinations(by_model, 2):
            left = [place[a, metric] for metric in by_model[a]]
            right = [place[b, metric] for metric in by_model[a]]
            low, high = _borders(drawn[:, left] - drawn[:, right])
            for n, metric in enumerate(by_model[a]):
                gap = float(means[left[n]] - means[right[n]])
                differences[a, b, segment, metric] = Interval(gap, float(low[n]), float(high[n]))
    return cells, differences


def _borders(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 2.5 and 97.5 percentiles of each column, shape (2, n_columns); NaN without a row."""
    if not len(drawn):
        return np.full((2, drawn.shape[1]), np.nan)
    return np.asarray(np.quantile(drawn, [0.025, 0.975], axis=0))


def _exposure(top: NDArray[np.int64], candidates: NDArray[np.int64], train: Interactions) -> dict[str, float]:
    segments, counts = Segments.of(train), train.counts()
    mask = np.zeros(len(train.items), dtype=bool)
    mask[candidates] = True
    return {
        "head_share": metrics.exposure_share(top, segments.head),
        "tail_share": metrics.exposure_share(top, segments.tail),
        "cold_share": metrics.exposure_share(top, segments.cold),
        "coverage": metrics.coverage(top, mask),
        "gini": metrics.gini(top, mask),
        "average_popularity": metrics.average_popularity(top, counts),
        "novelty": metrics.novelty(top, counts, len(train.users)),
    }


def _named(models: Sequence[Recommender] | Mapping[str, Recommender]) -> Mapping[str, Recommender]:
    if isinstance(models, Recommender):
        models = [models]
    if not models:
        raise DataError("there is no model to evaluate; expected at least one")
    if isinstance(models, Mapping):
        return models
    named: dict[str, Recommender] = {}
    for model in models:
        n = 1
        while (name := model.name if n == 1 else f"{model.name} #{n}") in named:
            n += 1
        named[name] = model
    return named


def _lengths(k: int | Sequence[int]) -> tuple[int, ...]:
    ks = tuple(sorted({int(k)} if isinstance(k, (int, np.integer)) else {int(x) for x in k}))
    if not ks or ks[0] < 1:
        raise ConfigError(f"k is {k}, expected one or more whole numbers of at least 1")
    return ks


def _same_rows(events: Interactions, like: Interactions) -> Interactions:
    """Check that two parts of a split share users and items, and return the first."""
    if events.users != like.users or events.items != like.items:
        raise DataError("the parts of the split differ in users or items; expected the same IdMaps in all of them")
    return events


def _only(matrix: sp.csr_matrix, mask: Mask) -> sp.csr_matrix:
    """Return the matrix with all columns outside of the mask emptied."""
    kept = sp.csr_matrix(matrix @ sp.diags(mask.astype(np.float32)))
    kept.eliminate_zeros()
    return kept
