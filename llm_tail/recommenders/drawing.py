"""Batches of people for a softmax over items: whom to ask, which items to choose from, and how to count them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.ids import Rows

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PeopleBatch:
    """Events of some people, and the candidates that all of them share.

    Attributes
    ----------
    items : array of int64, shape (n_events,)
        What was taken; the events of a person stand together.
    person : array of int64, shape (n_events,)
        Whose it is, from 0 in this batch.
    n_people : int
        How many there are.
    candidates : array of int64, shape (n_candidates,)
        Distinct items to tell the taken ones from.
    log_weight : array of float32, shape (n_candidates,)
        log of how many items each candidate stands for; see `PeopleBatches`.
    hit_event, hit_candidate : array of int64, shape (n_hits,)
        Pairs that do not compete: the candidate is the event's own item or another one the person has.
    """

    items: Rows
    person: Rows
    n_people: int
    candidates: Rows
    log_weight: Floats
    hit_event: Rows
    hit_candidate: Rows


class PeopleBatches:
    """Draws epochs of `PeopleBatch`: every person once, in random order, with shared negatives.

    Parameters
    ----------
    histories : csr_matrix, shape (n_users, n_items)
        Who took what; people without anything are left out.
    n_events : int
        Events of a batch, about: people are never cut in two, so that one may be longer by `max_history`.
    n_negatives : int
        Items drawn for a batch, with replacement; where no more items than that have events, all of them stand there.
    max_history : int
        Most items of a person in one epoch; of longer histories another part is taken each time.
    seed : int
        Of the order in which long histories are cut.
    ordered : bool
        Whether events come in the order of `histories.indices`; then a long history is cut to a window of neighbours.

    Notes
    -----
    One half of the negatives is uniform over the items with events, the other half as popular as the events are:
    q_j = 1/2 (1/n + n_j / n_events). A candidate that came c times in N draws enters the softmax's sum with
    weight c / (N q_j), whose expectation is 1: the logQ correction, by which the sum over candidates is an unbiased
    estimate of the sum over all items. The item that was taken counts once, and is no candidate.
    After Y. Bengio and J.-S. Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic
    Language Model", IEEE Transactions on Neural Networks, 2008.

    16 bytes an event are kept. O(n_events) for a batch, but for sorting its candidates.

    Examples
    --------
    >>> taken = sp.csr_matrix([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    >>> batch = next(PeopleBatches(taken, n_events=4).epoch(np.random.default_rng(0)))
    >>> batch.candidates.tolist(), batch.log_weight.tolist()  # all that have events
    ([0, 1, 2], [0.0, 0.0, 0.0])
    """

    def __init__(
        self,
        histories: sp.csr_matrix,
        n_events: int = 4096,
        n_negatives: int = 1024,
        max_history: int = 200,
        seed: int = 0,
        ordered: bool = False,
    ) -> None:
        self._indptr = histories.indptr.astype(np.int64)
        self._items = histories.indices.astype(np.int64)
        self._ordered = ordered
        if not ordered:
            self._shuffle(np.random.default_rng(seed), max_history)
        self._n_events, self._n_negatives, self._max_history = int(n_events), int(n_negatives), int(max_history)
        counts = np.bincount(self._items, minlength=histories.shape[1])
        self.warm: Rows = np.flatnonzero(counts).astype(np.int64)
        self._q = 0.5 / max(1, len(self.warm)) + 0.5 * counts / max(1, counts.sum())
        self._people = np.flatnonzero(np.diff(self._indptr))
        self._place = np.full(histories.shape[1], -1, dtype=np.int64)

    def _shuffle(self, rng: np.random.Generator, max_history: int) -> None:
        """Mix the long histories, so that a window into one is a random part of it."""
        for person in np.flatnonzero(np.diff(self._indptr) > max_history):
            rng.shuffle(self._items[self._indptr[person] : self._indptr[person + 1]])

    @property
    def n_batches(self) -> int:
        """How many batches an epoch has, about."""
        n = np.minimum(np.diff(self._indptr), self._max_history).sum()
        return max(1, int(np.ceil(n / self._n_events)))

    @property
    def takes_all(self) -> bool:
        """Whether the candidates are all items with events: the softmax is exact."""
        return len(self.warm) <= self._n_negatives

    def epoch(self, rng: np.random.Generator) -> Iterator[PeopleBatch]:
        """Yield the batches of one epoch."""
        people = rng.permutation(self._people)
        lengths = np.minimum(np.diff(self._indptr)[people], self._max_history)
        number = (np.cumsum(lengths) - lengths) // self._n_events  # of the batch
        for part in np.split(np.arange(len(people)), np.flatnonzero(np.diff(number)) + 1) if len(people) else ():
            yield self._batch(people[part], lengths[part], rng)

    def _batch(self, people: Rows, lengths: Rows, rng: np.random.Generator) -> PeopleBatch:
        start, whole = self._indptr[people], np.diff(self._indptr)[people]
        first = rng.integers(0, whole - lengths + 1 if self._ordered else np.where(whole > lengths, whole, 1))
        person = np.repeat(np.arange(len(people)), lengths)  # (n_events,)
        ends = np.cumsum(lengths)
        place = np.arange(len(person)) - np.repeat(ends - lengths, lengths)  # within the person
        items = self._items[start[person] + (first[person] + place) % whole[person]]
        candidates, log_weight = self._candidates(rng)
        self._place[candidates] = np.arange(len(candidates))
        found = self._place[items]
        self._place[candidates] = -1
        hits = np.flatnonzero(found >= 0)
        # Each hit counts for all events of its person.
        times = lengths[person[hits]]
        until = np.cumsum(times)
        within = np.arange(int(times.sum())) - np.repeat(until - times, times)
        hit_event = np.repeat((ends - lengths)[person[hits]], times) + within
        hit_candidate = np.repeat(found[hits], times)
        return PeopleBatch(items, person, len(people), candidates, log_weight, hit_event, hit_candidate)

    def _candidates(self, rng: np.random.Generator) -> tuple[Rows, Floats]:
        if self.takes_all:
            return self.warm, np.zeros(len(self.warm), dtype=np.float32)
        n_uniform = self._n_negatives // 2
        uniform = self.warm[rng.integers(0, len(self.warm), n_uniform)]
        popular = self._items[rng.integers(0, len(self._items), self._n_negatives - n_uniform)]
        candidates, times = np.unique(np.concatenate([uniform, popular]), return_counts=True)
        expected = self._n_negatives * self._q[candidates]
        return candidates, np.log(times / expected).astype(np.float32)
