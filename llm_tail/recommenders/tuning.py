"""The yardstick on which the hybrid chooses its own settings: ranking quality on validation interactions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import HybridConfig
from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import Segments, split_cold_items
from llm_tail.errors import DataError
from llm_tail.threads import in_blocks

MIN_GAIN = 0.003  # relative
MIN_SHARE = 0.01  # of the events: a ranking of a handful would weigh as much as that of thousands
PEOPLE = (100, 4000)  # at least and at most, who are asked
MORE_NEWCOMERS = 1.05  # one that is left among the warm items is in the way of everybody
SMALL = 1e-3  # of an NDCG, which is next to nothing
MOST_SCORES = 160_000_000  # people asked times items: half a dozen arrays of so many float32 are held
BLOCK_BYTES = 2 << 20  # one block of comparisons; it pays to stay in the cache


@dataclass(frozen=True)
class ValidationTask:
    """Four rankings on validation interactions, each measured by the mean NDCG@k.

    Attributes
    ----------
    users : array of int64, shape (n_users,)
        Rows of the people who are asked for.
    histories : csr_matrix, shape (n_users, n_items)
        What they took in training.
    warm_candidates, cold_candidates : array of bool, shape (n_items,)
        What may be ranked; no item is in both.
    relevant : mapping of name to csr_matrix, shape (n_users, n_items)
        What should be found: "warm", "tail", "cold" and "overall"; without those that hold next to nothing of it.
    k : int
        Length of the lists.
    """

    users: Rows
    histories: sp.csr_matrix
    warm_candidates: NDArray[np.bool_]
    cold_candidates: NDArray[np.bool_]
    relevant: Mapping[str, sp.csr_matrix]
    k: int = 20

    @classmethod
    def build(
        cls, train: sp.csr_matrix, validation: sp.csr_matrix, *, max_users: int = 4000, k: int = 20, seed: int = 0
    ) -> ValidationTask:
        """Make the task of two matrices of shape (n_users, n_items).

        Items that validation names and training does not are the cold ones. Of the items that neither names, as many
        as these (and a twentieth more) are taken for newcomers that nobody can have met yet and are left out; the rest
        stand among the warm candidates, as the items of a real shop that nobody bought.
        """
        rng = np.random.default_rng(seed)
        counts = np.asarray(train.sum(axis=0)).ravel().astype(np.int64)
        segments = Segments.from_counts(counts)
        named = np.asarray(validation.sum(axis=0)).ravel() > 0
        cold = segments.cold & named
        unnamed = np.flatnonzero(segments.cold & ~named)
        n_newcomers = min(math.ceil(MORE_NEWCOMERS * int(cold.sum())), len(unnamed))
        newcomers = rng.choice(unnamed, n_newcomers, replace=False)
        warm = ~cold
        warm[newcomers] = False
        asked = np.flatnonzero(np.diff(validation.indptr) > 0)
        if len(asked) > max_users:
            asked = np.sort(rng.choice(asked, max_users, replace=False))
        wanted = validation[asked]
        kinds = {"warm": ~cold, "tail": warm & ~segments.head, "cold": cold, "overall": np.ones_like(cold)}
        relevant = {name: _columns(wanted, mask) for name, mask in kinds.items()}
        return cls(
            asked.astype(np.int64),
            train[asked].tocsr(),
            warm,
            cold,
            {name: some for name, some in relevant.items() if some.nnz >= MIN_SHARE * wanted.nnz},
            k,
        )

    def measure(self, scores: NDArray[np.float32]) -> dict[str, float]:
        """Return the mean NDCG@k of each ranking that someone can be measured on; overwrites nothing.

        Parameters
        ----------
        scores : array of float32, shape (n_users, n_items)
        """
        gains, measured = self._gains(scores), {}
        for name, wanted in self._wanted.items():
            gained = np.bincount(wanted.person, gains[name == "overall"][wanted.places], minlength=len(self.users))
            measured[name] = float((gained[wanted.asked] / wanted.ideal).mean())
        return measured

    def chance(self) -> dict[str, float]:
        """Return for each ranking half of what one more hit at the top is worth, at least SMALL: less may be luck."""
        return {
            name: max(SMALL, 0.5 / max(1, int(np.count_nonzero(np.diff(relevant.indptr)))))
            for name, relevant in self.relevant.items()
        }

    @cached_property
    def _pairs(self) -> tuple[Rows, Rows]:
        """Who should find what, person by person."""
        return _places(self.relevant["overall"])

    @cached_property
    def _known(self) -> tuple[Rows, Rows]:
        """Who has what already, person by person."""
        return _places(self.histories)

    @cached_property
    def _wanted(self) -> dict[str, _Wanted]:
        person, item = self._pairs
        return {name: _Wanted.of(one, person, item, self.k) for name, one in self.relevant.items() if one.nnz}

    def _gains(self, scores: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return 1 / log2(1 + rank) of each relevant item within the first k: among its kind, and among all candidates.

        Nothing is sorted: a rank is the number of candidates that score as much or more. A tie counts as lost, since a
        model that scores everything alike has found nothing.
        """
        (person, item), (owner, owned) = self._pairs, self._known
        people = np.arange(len(self.users) + 1)
        first, first_owned = np.searchsorted(person, people), np.searchsorted(owner, people)
        barred = np.where(self.warm_candidates | self.cold_candidates, np.float32(0.0), np.float32(-np.inf))
        cold = np.flatnonzero(self.cold_candidates)
        mine = np.empty(len(person), dtype=np.float32)
        among_all, among_cold = np.empty((2, len(person)), dtype=np.int64)  # an item counts itself: 1 is best
        block = max(1, BLOCK_BYTES // (4 * max(1, scores.shape[1])))

        def count(people: slice) -> None:
            start, stop = people.start, people.stop
            asked = scores[people] + barred
            has = slice(first_owned[start], first_owned[stop])
            asked[owner[has] - start, owned[has]] = -np.inf
            newcomers = asked[:, cold]  # (n_block, n_cold)
            for begin in range(first[start], first[stop], block):
                part = slice(begin, min(begin + block, first[stop]))
                row = person[part] - start
                mine[part] = asked[row, item[part]]
                among_all[part] = _count(asked[row] >= mine[part, None])
                among_cold[part] = _count(newcomers[row] >= mine[part, None])

        in_blocks(count, len(self.users), block)
        among_kind = np.where(self.cold_candidates[item], among_cold, among_all - among_cold)

        def gains(rank: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.where((rank <= self.k) & np.isfinite(mine), 1.0 / np.log2(np.maximum(rank, 1) + 1.0), 0.0)

        return gains(among_kind), gains(among_all)


class _Wanted(NamedTuple):
    """What one ranking should find."""

    places: Rows  # among all pairs of a person and what they should find
    person: Rows  # whose each of these is
    asked: Rows  # the people of whom anything is wanted
    ideal: NDArray[np.float64]  # the DCG of a list that finds all of it, for each of them

    @classmethod
    def of(cls, relevant: sp.csr_matrix, person: Rows, item: Rows, k: int) -> _Wanted:
        """Find them among the pairs of person and item."""
        places = np.flatnonzero(np.asarray(relevant[person, item]).ravel())
        n_relevant = np.bincount(person[places], minlength=relevant.shape[0])
        asked = np.flatnonzero(n_relevant)
        ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
        return cls(places, person[places], asked, ideal[np.minimum(n_relevant[asked], k)])


def cut_for_choosing(
    train: Interactions, validation: Interactions | None, items: IdMap, seed: int
) -> tuple[Interactions, sp.csr_matrix] | None:
    """Return what to learn from, and who took what that it may be judged by, shape (n_users, n_items).

    For want of validation interactions training itself is cut; None where that would leave nothing to learn from.
    """
    if validation is not None and len(validation):
        return train, validation.matrix()
    try:
        split = split_cold_items(train, items, cold_share=0.1, held_share=0.1, seed=seed)
    except DataError:
        return None
    held = sp.csr_matrix(split.validation.matrix() + split.test.matrix())
    return (split.train, held) if held.nnz else None


def most_people(n_items: int) -> int:
    """Return how many people can be asked at once in a catalogue of this size.

    Examples
    --------
    >>> most_people(1000), most_people(100_000), most_people(1_000_000)
    (4000, 1600, 160)
    """
    return int(np.clip(MOST_SCORES // max(1, n_items), *PEOPLE))


def objective(measured: Mapping[str, float], goal: str = "all") -> float:
    """Return the one number that is maximised: the mean of the columns, or the one of that name if it is measured."""
    if goal in measured:
        return float(measured[goal])
    return float(np.mean(list(measured.values()))) if measured else 0.0


def lead(
    measured: Mapping[str, float],
    parts: Mapping[str, float],
    shortfall: float,
    chance: Mapping[str, float] | None = None,
) -> float:
    """Return how far a model is ahead of its parts: the harmonic mean of its rankings over theirs, 1 where level.

    A harmonic mean is ruled by the rankings that lag, and here they count even more.

    Parameters
    ----------
    measured : mapping of str to float
        What it reaches in each ranking.
    parts : mapping of str to float
        The same of the best of its parts, which need not be the same part everywhere.
    shortfall : float
        How many times more what is missing counts in a ranking that is behind.
    chance : mapping of str to float, optional
        What is found by chance in each ranking (`ValidationTask.chance`), added to both sides.

    Examples
    --------
    >>> lead({"warm": 0.1, "tail": 0.1}, {"warm": 0.1, "tail": 0.1}, shortfall=10.0)
    1.0
    >>> ahead = lead({"warm": 0.099, "tail": 0.2}, {"warm": 0.1, "tail": 0.1}, shortfall=10.0)
    >>> behind = lead({"warm": 0.09, "tail": 0.2}, {"warm": 0.1, "tail": 0.1}, shortfall=10.0)
    >>> round(ahead, 2), round(behind, 2)
    (1.24, 0.74)
    """
    luck = {name: SMALL if chance is None else chance[name] for name in parts}
    owed = [(part + luck[name]) / (measured[name] + luck[name]) for name, part in parts.items()]
    worth = [share + shortfall * max(0.0, share - 1.0) for share in owed]
    return len(worth) / sum(worth) if worth else 0.0


def is_better(found: float, best: float) -> bool:
    """Return whether a change is worth it: smaller gains than MIN_GAIN are as likely luck as not."""
    return found > best + MIN_GAIN * abs(best)


def coordinate_search(
    start: HybridConfig,
    grid: Mapping[str, Sequence[Any]],
    quality: Callable[[HybridConfig], float],
    passes: int = 2,
) -> tuple[HybridConfig, float]:
    """Return the best of the settings found by changing one after the other, and its quality.

    Parameters
    ----------
    start : HybridConfig
        Where to begin; each key of `grid` is one of its settings.
    grid : mapping of str to sequence
        The values to try.
    quality : callable
        Higher is better; asked once for each new setting.
    passes : int
        How often to go round; ends early when a round changes nothing.
    """
    best, best_quality = start, quality(start)
    for _ in range(passes):
        before = best
        for name, values in grid.items():
            for value in values:
                if value == getattr(best, name):
                    continue
                candidate = best.replace(**{name: value})
                if is_better(found := quality(candidate), best_quality):
                    best, best_quality = candidate, found
        if best == before:
            break
    return best, best_quality


def _places(matrix: sp.csr_matrix) -> tuple[Rows, Rows]:
    row, column = matrix.nonzero()
    return row.astype(np.int64), column.astype(np.int64)


def _columns(matrix: sp.csr_matrix, mask: NDArray[np.bool_]) -> sp.csr_matrix:
    kept = sp.csr_matrix(matrix @ sp.diags(mask.astype(np.float32)))
    kept.eliminate_zeros()
    return kept


def _count(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many are True in each row; sums of bytes are twice as fast as `count_nonzero` along an axis."""
    return np.asarray(mask.view(np.uint8).sum(axis=1, dtype=np.uint32), dtype=np.int64)
