"""Engine: what searches the vectors of a table; `ExactEngine`, and what all approximate ones share.

An engine speaks of rows alone. Approximate ones hold entries of their own (*slots*) and remember which row each stands
for: a new vector always gets a new slot, and that of the old one is marked dead. Putting another vector into an old
slot, as hnswlib offers, can leave items that no search reaches any more (W. Xiao et al., "Enhancing HNSW Index for
Real-Time Updates", https://arxiv.org/abs/2407.07871); dead slots only cost room, until the links are made anew.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from safetensors.numpy import load_file, save_file

from llm_tail.config import IndexConfig
from llm_tail.data.ids import Rows
from llm_tail.errors import MissingExtraError
from llm_tail.neighbors.exact import Similarities, Vectors, search
from llm_tail.neighbors.table import ItemTable

SLOTS = "slots.safetensors"
HOMES = {
    "hnswlib": ("llm_tail.neighbors.hnsw", "HnswEngine"),
    "faiss": ("llm_tail.neighbors.with_faiss", "FaissEngine"),
    "usearch": ("llm_tail.neighbors.with_usearch", "UsearchEngine"),
}


class Engine(Protocol):
    """What an engine can do. Any number of threads may search at once; whoever changes it has to be alone.

    Attributes
    ----------
    name : str
        As the setting ``engine`` calls it.
    is_exact : bool
        Whether every vector is compared.
    n_dead : int
        Entries that are held for nothing.
    dead_share : float
        Their share of all entries, in [0, 1].
    """

    name: ClassVar[str]
    is_exact: ClassVar[bool]

    @property
    def n_dead(self) -> int: ...  # noqa: D102

    @property
    def dead_share(self) -> float: ...  # noqa: D102

    def put(self, rows: Rows, vectors: Vectors, n_threads: int = 1) -> None:
        """Take the vectors of these rows, new or in place of those they had; none of them is zero."""
        ...

    def drop(self, rows: Rows) -> None:
        """Forget these rows, whether they were put or not."""
        ...

    def move(self, old: Rows, new: Rows) -> None:
        """Call what stands in the rows `old` by the rows `new` from now on; nothing stands in these."""
        ...

    def set_ef(self, ef: int) -> None:
        """Let every search look at `ef` candidates at least; may be raised while others search."""
        ...

    def search(self, queries: Vectors, k: int, ef: int) -> tuple[Rows, Similarities]:
        """Return the k nearest rows of each query, shape (n_queries, k), -1 and -inf where fewer are found.

        Parameters
        ----------
        queries : array of float32, shape (n_queries, dim)
            Of length 1 or 0.
        k : int
            At least 1, at most the number of rows that are held.
        ef : int
            Candidates to look at, where that means something.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what `load_engine` needs into a folder."""
        ...


class ExactEngine:
    """Compares a query with every vector of the table, which it looks at and does not copy."""

    name: ClassVar[str] = "exact"
    is_exact: ClassVar[bool] = True
    n_dead = 0
    dead_share = 0.0

    def __init__(self, table: ItemTable) -> None:
        self._table = table

    def put(self, rows: Rows, vectors: Vectors, n_threads: int = 1) -> None:
        """Do nothing: the table has them."""

    def drop(self, rows: Rows) -> None:
        """Do nothing: the table has them no longer."""

    def move(self, old: Rows, new: Rows) -> None:
        """Do nothing: they have moved in the table."""

    def set_ef(self, ef: int) -> None:
        """Do nothing: all are looked at."""

    def search(self, queries: Vectors, k: int, ef: int) -> tuple[Rows, Similarities]:
        """Return the k nearest rows of each query."""
        return search(queries, self._table.vectors, k, live=self._table.live)

    def save(self, folder: Path) -> None:
        """Do nothing: the table is saved beside it."""


class SlotEngine:
    """What approximate engines share: which slot stands for which row.

    A subclass holds the vectors: `_insert` them at slots, `_kill` slots, `_find` the nearest slots of queries.
    """

    name: ClassVar[str]
    is_exact: ClassVar[bool] = False

    def __init__(self, dim: int, config: IndexConfig, seed: int) -> None:
        self.dim, self.config, self.seed = dim, config, seed
        self.n_slots = self.n_dead = 0
        self._row_of = np.empty(0, dtype=np.int64)  # of each slot; -1 where it is dead
        self._slot_of = np.empty(0, dtype=np.int64)  # of each row; -1 where it has none

    @property
    def n_held(self) -> int:
        """How many rows can be found."""
        return self.n_slots - self.n_dead

    @property
    def dead_share(self) -> float:
        """Share of the slots that are dead, in [0, 1]."""
        return self.n_dead / self.n_slots if self.n_slots else 0.0

    def make_room(self, n_slots: int) -> None:
        """Be ready for this many slots in all."""

    def put(self, rows: Rows, vectors: Vectors, n_threads: int = 1) -> None:
        """Take the vectors of rows, new or in place of those they had."""
        if not len(rows):
            return
        self.drop(rows)
        slots = np.arange(self.n_slots, self.n_slots + len(rows))
        self.make_room(self.n_slots + len(rows))
        self._insert(slots, vectors, n_threads)
        self._row_of = _grown(self._row_of, self.n_slots + len(rows))
        self._slot_of = _grown(self._slot_of, int(rows.max()) + 1)
        self._row_of[slots], self._slot_of[rows] = rows, slots
        self.n_slots += len(rows)

    def drop(self, rows: Rows) -> None:
        """Forget rows."""
        known = rows[rows < len(self._slot_of)]
        slots = self._slot_of[known]
        held = slots[slots >= 0]
        if len(held):
            self._kill(held)
            self._row_of[held], self._slot_of[known] = -1, -1
            self.n_dead += len(held)

    def move(self, old: Rows, new: Rows) -> None:
        """Call rows by other numbers."""
        known = old < len(self._slot_of)
        old, new = old[known], new[known]
        slots = self._slot_of[old]
        self._slot_of[old] = -1
        self._slot_of[new] = slots
        self._row_of[slots[slots >= 0]] = new[slots >= 0]

    def set_ef(self, ef: int) -> None:
        """Do nothing where the library takes it with each question."""

    def search(self, queries: Vectors, k: int, ef: int) -> tuple[Rows, Similarities]:
        """Return the k nearest rows of each query."""
        slots, similarities = self._find(queries, k, max(ef, k))
        return self._row_of[slots], similarities

    def save(self, folder: Path) -> None:
        """Write the slots; subclasses add what they hold."""
        save_file({"row_of": self._row_of[: self.n_slots], "n_rows": np.array([len(self._slot_of)])}, folder / SLOTS)

    def restore(self, folder: Path) -> None:
        """Read the slots; subclasses read what they hold."""
        stored = load_file(folder / SLOTS)
        self._row_of, self.n_slots = stored["row_of"], len(stored["row_of"])
        self._slot_of = np.full(int(stored["n_rows"][0]), -1, dtype=np.int64)
        held = np.flatnonzero(self._row_of >= 0)
        self._slot_of[self._row_of[held]] = held
        self.n_dead = self.n_slots - len(held)

    def _insert(self, slots: Rows, vectors: Vectors, n_threads: int) -> None:
        raise NotImplementedError

    def _kill(self, slots: Rows) -> None:
        raise NotImplementedError

    def _find(self, queries: Vectors, k: int, ef: int) -> tuple[Any, Similarities]:
        """Return the nearest slots, best first, shape (n_queries, k); -inf where none was found, the slot being any."""
        raise NotImplementedError


def engine_for(config: IndexConfig, n_live: int) -> str:
    """Return the name of the engine for so many items with a vector."""
    if n_live < 2 or (config.engine == "auto" and n_live <= config.exact_below):
        return "exact"
    return "hnswlib" if config.engine == "auto" else config.engine


def make_engine(name: str, table: ItemTable, config: IndexConfig, seed: int, n_slots: int = 0) -> Engine:
    """Make an empty engine with room for `n_slots`.

    Raises
    ------
    MissingExtraError
        If its library is not installed.
    """
    if name == "exact":
        return ExactEngine(table)
    module, kind = HOMES[name]
    try:  # the library of an extra is imported when its engine is made
        engine: SlotEngine = getattr(import_module(module), kind)(table.dim, config, seed)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or name, name) from error
    engine.make_room(n_slots)
    return engine


def load_engine(name: str, table: ItemTable, config: IndexConfig, seed: int, folder: Path) -> Engine:
    """Read an engine that was saved; its files have been checked against their digests before."""
    engine = make_engine(name, table, config, seed)
    if isinstance(engine, SlotEngine):
        engine.restore(folder)
    return engine


def _grown(numbers: Rows, size: int) -> Rows:
    if size <= len(numbers):
        return numbers
    grown = np.full(max(size, len(numbers) + len(numbers) // 4), -1, dtype=np.int64)
    grown[: len(numbers)] = numbers
    return grown
