"""LivingSearch: a table and its engine, kept in step while items come and go and others ask.

One writer at a time; readers wait for it only while a handful of items is linked or the ready engine changes places
with the old one. Making new links, measuring and writing to disk happen beside the readers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llm_tail.config import IndexConfig
from llm_tail.data.ids import Rows
from llm_tail.neighbors.engines import Engine, engine_for, make_engine
from llm_tail.neighbors.exact import Similarities, Vectors
from llm_tail.neighbors.finding import Allowed, find
from llm_tail.neighbors.lock import ReadWriteLock
from llm_tail.neighbors.table import ItemTable
from llm_tail.neighbors.tuning import Measured, RecallSample, tune
from llm_tail.progress import track

LINK_BLOCK = 2048
ADD_BLOCK = 16  # items linked while readers wait: about 10 ms
REMOVE_BLOCK = 1024
LOOK_AGAIN = 0.1  # share of the items that has to have changed before recall is measured again
EXACT = Measured(0, 1.0, 0.0)


class LivingSearch:
    """What `NeighborIndex` shows to the outside, without its checks and words.

    Attributes
    ----------
    table : ItemTable
        The items.
    engine : Engine
        What searches them.
    measured : Measured
        What it found when that was last looked at, and with how many candidates.
    lock : ReadWriteLock
        Held by whoever looks at table and engine together.
    writing : RLock
        Held by whoever changes them, or must not see them change.
    """

    def __init__(self, table: ItemTable, engine: Engine, config: IndexConfig, seed: int, measured: Measured) -> None:
        self.table, self.engine, self.config, self.seed = table, engine, config, seed
        self.measured = measured
        self.lock, self.writing = ReadWriteLock(), threading.RLock()
        self._n_changed = 0
        engine.set_ef(measured.ef)

    @classmethod
    def build(
        cls, table: ItemTable, config: IndexConfig, seed: int, *, n_threads: int = 1, progress: bool = False
    ) -> LivingSearch:
        """Link the items of a table and look how well they are found."""
        engine = _linked(table, config, seed, n_threads, progress)
        return cls(table, engine, config, seed, _looked(table, engine, config))

    def find(
        self, queries: Vectors, k: int, excluded: Rows | None = None, allowed: Allowed | None = None
    ) -> tuple[Rows, Similarities]:
        """Search; the caller holds the lock for reading."""
        return find(self.table, self.engine, queries, k, self.measured.ef, excluded, allowed)

    def put(self, item_ids: Sequence[str], vectors: Vectors, n_threads: int = 1) -> None:
        """Take new items, and other vectors for those that are there; ids are distinct, vectors of length 1 or 0."""
        with self.writing:
            rows = self.table.rows(item_ids)
            new = np.flatnonzero(rows < 0)
            self.table.make_room(len(new))
            for block in _blocks(np.concatenate([np.flatnonzero(rows >= 0), new]), ADD_BLOCK):
                with self.lock.write():
                    self._put(block, rows, item_ids, vectors, n_threads)
            self._keep_up(len(item_ids), n_threads)

    def _put(self, block: Rows, rows: Rows, item_ids: Sequence[str], vectors: Vectors, n_threads: int) -> None:
        known, new = block[rows[block] >= 0], block[rows[block] < 0]
        places = [rows[known]]
        if len(known):
            self.table.replace(rows[known], vectors[known])
        if len(new):
            places.append(self.table.append([item_ids[n] for n in new], vectors[new]))
        put = np.concatenate(places)
        spoken = self.table.live[put]
        self.engine.drop(put[~spoken])
        self.engine.put(put[spoken], self.table.floats(put[spoken]), n_threads)

    def remove(self, rows: Rows, n_threads: int = 1) -> Rows:
        """Take items out; return the old rows in their new order, shape (n_items left,)."""
        with self.writing:
            order = np.arange(len(self.table))
            self.table.make_room(0)
            # From the last row down: what moves into a hole is then never one that has still to go.
            for block in _blocks(np.sort(rows)[::-1], REMOVE_BLOCK):
                with self.lock.write():
                    self.engine.drop(block)
                    old, new = self.table.remove(block)
                    self.engine.move(old, new)
                order[new] = order[old]
                order = order[: len(self.table)]
            self._keep_up(len(rows), n_threads)
            return order

    def rebuild(self, n_threads: int = 1, *, progress: bool = False) -> None:
        """Link all items anew beside the readers, then let the new engine take the place of the old one."""
        with self.writing:
            engine = _linked(self.table, self.config, self.seed, n_threads, progress)
            measured = _looked(self.table, engine, self.config)
            engine.set_ef(measured.ef)
            with self.lock.write():
                self.engine, self.measured = engine, measured
                self.table.shrink()
            self._n_changed = 0

    def _keep_up(self, n_changed: int, n_threads: int) -> None:
        """Make links anew where too many are of removed items, another engine is due, or too little is found."""
        self._n_changed += n_changed
        due = engine_for(self.config, self.table.n_live)
        changed = due != self.engine.name and not (due == "exact" and self._just_below())
        if changed or self.engine.dead_share > self.config.compact_above:
            self.rebuild(n_threads)
        elif self._n_changed > LOOK_AGAIN * self.table.n_live and not self.engine.is_exact:
            self._look_again(n_threads)

    def _just_below(self) -> bool:
        """Say whether the links may stay although the catalogue has become a little smaller than asks for them."""
        return self.table.n_live > max(0.8 * self.config.exact_below, 1)

    def _look_again(self, n_threads: int) -> None:
        self._n_changed = 0
        measured = _looked(self.table, self.engine, self.config, self.measured.ef)
        if measured.recall < self.config.recall_target and self.engine.n_dead:
            self.rebuild(n_threads)
        else:
            self.engine.set_ef(measured.ef)
            self.measured = measured


def sample_of(table: ItemTable, engine: Engine, ef: int, *, k: int, n: int, seed: int) -> Measured:
    """Return what an engine finds of a sample of the table."""
    sample = RecallSample(table, k=k, n=n, seed=seed)
    return sample.measure(lambda q, rows, e: find(table, engine, q, sample.k, e, rows), ef)


def _looked(table: ItemTable, engine: Engine, config: IndexConfig, ef: int = 0) -> Measured:
    """Return what is found: with the ef that is set, with `ef` where that is enough, else with the one that is."""
    if engine.is_exact or table.n_live < 2:
        return EXACT
    sample = RecallSample(table)

    def search(queries: Vectors, rows: Rows, wide: int) -> tuple[Rows, Similarities]:
        return find(table, engine, queries, sample.k, wide, rows)

    if config.ef:
        return sample.measure(search, config.ef)
    if ef:
        measured = sample.measure(search, ef)
        if measured.at_least >= config.recall_target:
            return measured
    return tune(sample, search, config.recall_target)


def _linked(table: ItemTable, config: IndexConfig, seed: int, n_threads: int, progress: bool) -> Engine:
    rows = np.flatnonzero(table.live)
    engine = make_engine(engine_for(config, len(rows)), table, config, seed, len(rows))
    if engine.is_exact:
        return engine
    starts: Iterable[int] = range(0, len(rows), LINK_BLOCK)
    for start in track(starts, "Linking neighbours") if progress else starts:
        part = rows[start : start + LINK_BLOCK]
        engine.put(part, table.floats(part), n_threads)
    return engine


def _blocks(numbers: NDArray[np.int64], size: int) -> Iterable[NDArray[np.int64]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))
