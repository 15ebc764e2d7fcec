"""KeptParts: the half of a `ShardedIndex` that changes items and holds parts; the other half answers."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import fingerprint as digest
from llm_tail.artifacts import read_artifact, write_artifact
from llm_tail.config import IndexConfig
from llm_tail.data.ids import IdMap, Rows
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError, StaleArtifactError
from llm_tail.neighbors.answers import names_of
from llm_tail.neighbors.columns import Gate
from llm_tail.neighbors.exact import unit_vectors
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.neighbors.lock import ReadWriteLock
from llm_tail.neighbors.parts import about, facts_of, part_of
from llm_tail.neighbors.saving import fingerprint_at, write_index

KIND = "sharded-index"


class KeptParts:
    """Parts, whose items come and go, and where they lie; the base of `ShardedIndex`, which documents it."""

    def __init__(
        self, parts: Sequence[NeighborIndex | Path | None], rows: Sequence[Rows], facts: dict[str, Any], held: int
    ) -> None:
        self.n_parts, self.dim, self.encoder = len(parts), int(facts["dim"]), str(facts["encoder"])
        self.config, self.seed = IndexConfig(**facts["config"]), int(facts["seed"])
        self.folder: Path | None = None
        self.version = 0  # another number after every change
        self._about: list[dict[str, Any]] = list(facts["about"])
        self._parts, self._rows, self._held = list(parts), list(rows), held
        self._open: OrderedDict[int, NeighborIndex] = OrderedDict()
        self._opening, self._lock, self._writing = threading.Lock(), ReadWriteLock(), threading.RLock()
        self._gate = Gate()
        self._locate()

    def _locate(self) -> None:
        n_items = sum(len(part) for part in self._rows)
        self._owner = np.empty(n_items, dtype=np.int32)  # (n_items,)
        self._local = np.empty(n_items, dtype=np.int64)  # (n_items,)
        for number, here in enumerate(self._rows):
            self._owner[here], self._local[here] = number, np.arange(len(here))
        self._ids: IdMap | None = None
        self.version += 1

    # ---- what it is

    @property
    def n_live(self) -> int:
        """How many items can be found: those whose vector is not zero."""
        return sum(int(part["n_live"]) for part in self._about)

    @property
    def is_exact(self) -> bool:
        """True where every query is compared with every item."""
        return all(part["exact"] for part in self._about)

    @property
    def measured_recall(self) -> float:
        """The mean of the parts', each measured on its own items; merged answers find no smaller share."""
        return float(self._facts["measured_recall"])

    @property
    def _facts(self) -> dict[str, Any]:
        return facts_of(self._about, self.config, self.seed, self.encoder)

    @property
    def live(self) -> NDArray[np.bool_]:
        """Which items are there, shape (n_items,): all; parts know which of theirs have a vector."""
        return np.ones(len(self), dtype=bool)

    def _row(self, item_id: str) -> int:
        number = int(part_of([item_id], self.n_parts)[0])
        if self._parts[number] is None:
            return self._all_ids().row(item_id)  # which says what ids look like
        return int(self._rows[number][self._part(number).table.row(item_id)])

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """Return the rows of many items, -1 for each unknown one."""
        names, found = list(map(str, item_ids)), np.full(len(item_ids), -1, dtype=np.int64)
        owners = part_of(names, self.n_parts)
        for number in np.unique(owners).tolist():
            if self._parts[number] is not None:
                here = np.flatnonzero(owners == number)
                local = self._part(number).table.rows([names[n] for n in here])
                found[here[local >= 0]] = self._rows[number][local[local >= 0]]
        return found

    def names(self, rows: Rows) -> list[str]:
        """Do what `ids_of` does, for who holds the lock."""
        values = np.empty(len(rows), dtype=object)
        for number in np.unique(self._owner[rows]):
            here = self._owner[rows] == number
            values[here] = self._part(int(number)).table.names(self._local[rows[here]])
        return [str(value) for value in values]

    def _all_ids(self) -> IdMap:
        if self._ids is None:
            self._ids = IdMap(self.names(np.arange(len(self))))
        return self._ids

    # ---- changing

    def add(self, embeddings: Embeddings, *, n_threads: int = 1) -> None:
        """Add new items, each to its part; errors as of `NeighborIndex.add`, before anything has changed.

        Parts on disk that change are written anew beside the old ones, and the manifest last.
        """
        with self._writing:
            rows = self.rows(embeddings.ids.values.tolist())
            if (rows >= 0).any():
                known = ", ".join(embeddings.ids.values[rows >= 0][:3])
                raise DataError(f"{int((rows >= 0).sum())} items are in the index already, such as {known}; use update")
            self.update(embeddings, n_threads=n_threads)

    def update(self, embeddings: Embeddings, *, n_threads: int = 1) -> None:
        """Give items other vectors, and add those that are new."""
        unit_vectors(embeddings.vectors, "the embeddings", self.dim)
        names = embeddings.ids.values
        owners = part_of(names.tolist(), self.n_parts)
        with self._writing:
            for number in np.unique(owners).tolist():
                here = np.flatnonzero(owners == number)
                items = Embeddings(names[here].tolist(), embeddings.vectors[here], encoder=embeddings.encoder)
                with self._lock.write():
                    self._put(number, items, n_threads)
            self._keep(np.unique(owners).tolist())

    def _put(self, number: int, items: Embeddings, n_threads: int) -> None:
        if self._parts[number] is None:
            part = NeighborIndex.build(items, self.config, seed=self.seed, n_threads=n_threads)
        else:
            part = self._part(number)
            part.update(items, n_threads=n_threads)
        more = len(part) - len(self._rows[number])
        self._rows[number] = np.concatenate([self._rows[number], np.arange(len(self), len(self) + more)])
        self._changed(number, part)

    def remove(self, item_ids: str | Iterable[str], *, n_threads: int = 1) -> None:
        """Take items out, all of them or, where one is unknown, none.

        Raises
        ------
        UnknownIdError
            If an item is not there.
        """
        names = names_of(item_ids)
        with self._writing:
            rows = self.rows(names)
            if (rows < 0).any():
                self._row(names[int(np.argmax(rows < 0))])
            owners = self._owner[rows]
            for number in np.unique(owners).tolist():
                with self._lock.write():
                    part, gone = self._part(number), np.flatnonzero(owners == number)
                    order = part.removed([names[n] for n in gone], n_threads)
                    self._rows[number] = self._rows[number][order]
                    left = np.zeros(len(self), dtype=bool)
                    left[np.concatenate(self._rows)] = True
                    close_up = np.cumsum(left) - 1  # the new row of each old one
                    self._rows = [close_up[part_rows] for part_rows in self._rows]
                    self._changed(number, part)
            self._keep(np.unique(owners).tolist())

    def compact(self, *, n_threads: int = 1) -> None:
        """Link all items of the parts that hold removed ones anew, as `NeighborIndex.compact` does."""
        with self._writing:
            changed = []
            for number, part in self._each():
                if part.n_removed:
                    with self._lock.write():
                        part.compact(n_threads=n_threads)
                        self._changed(number, part)
                    changed.append(number)
            self._keep(changed)

    def _changed(self, number: int, part: NeighborIndex) -> None:
        self._parts[number] = part  # held until it is written
        with self._opening:
            self._open.pop(number, None)
        self._about[number] = about(part, named=False)
        self._locate()

    # ---- on disk

    def fingerprint(self) -> str:
        """Return a digest of the parts and of the rows of their items."""
        with self._writing:
            for number, part in enumerate(self._parts):
                if not self._about[number]["made_from"] and isinstance(part, NeighborIndex):
                    self._about[number] = about(part)
            return digest([part["made_from"] for part in self._about], *self._rows)

    def save(self, folder: str | Path, *, fingerprint: str | None = None) -> Path:
        """Write the parts that do not lie there yet, then the manifest, and return the folder."""
        with self._writing:
            made = fingerprint or self.fingerprint()
            places = {number: self._put_away(Path(folder), number, part) for number, part in self._each()}
            return self._write(Path(folder), made, places)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None, *, held: int = 0) -> Self:
        """Open an index that `save` or `build` wrote; a part is checked and read when it is first asked.

        Parameters
        ----------
        folder : path
            Where it lies.
        fingerprint : str, optional
            If given, the fingerprint it has to have.
        held : int
            How many parts stay in memory once they have been asked; 0 is all.

        Raises
        ------
        StaleArtifactError
            If it is not there, or was made from something else than `fingerprint` says.
        CorruptArtifactError
            If a file is not what was written; that of a part is found when the part is read.
        """
        artifact = read_artifact(folder, KIND, fingerprint, stage="ShardedIndex.build")
        rows, facts = load_file(artifact.file("rows.safetensors")), artifact.facts
        if "places" not in facts:
            raise StaleArtifactError(f"the {KIND} at {folder} was written by an earlier version; build it again")
        places = [Path(folder) / name if name else None for name in facts["places"]]
        index = cls(places, [rows[f"{number:05d}"] for number in range(len(places))], facts, held)
        index.folder = Path(folder)
        return index

    def _keep(self, changed: Iterable[int]) -> None:
        """Write changed parts where the index lies in a folder, then the manifest that names them."""
        folder = self.folder
        if folder is None:
            return
        made = self.fingerprint()
        parts = {number: part for number in changed if isinstance(part := self._parts[number], NeighborIndex)}
        places = {number: self._put_away(folder, number, part) for number, part in parts.items()}
        self._write(folder, made, places)
        for number, part in parts.items():
            with self._opening:
                self._parts[number], self._open[number] = places[number], part

    def _put_away(self, folder: Path, number: int, part: NeighborIndex) -> Path:
        """Write a part where nothing is overwritten that a manifest may name, and return its place."""
        made = self._about[number]["made_from"]
        place = folder / f"part-{number:05d}"
        if self._parts[number] == place or fingerprint_at(place) == made:
            return place
        if place.exists():
            place = folder / f"part-{number:05d}-{uuid.uuid4().hex[:8]}"
        write_index(part.living, part.encoder, place, made)
        return place

    def _write(self, folder: Path, made_from: str, places: dict[int, Path]) -> Path:
        known = {number: place for number, place in enumerate(self._parts) if isinstance(place, Path)}
        names = [
            {**known, **places}[number].name if number in {**known, **places} else "" for number in range(self.n_parts)
        ]
        with write_artifact(folder, KIND, made_from, {**self._facts, "places": names}) as draft:
            save_file({f"{n:05d}": rows for n, rows in enumerate(self._rows)}, draft.file("rows.safetensors"))
        for old in folder.glob("part-*"):
            if old.name not in names:
                shutil.rmtree(old, ignore_errors=True)
        return folder

    # ---- small helpers

    def _each(self) -> Iterator[tuple[int, NeighborIndex]]:
        for number, part in enumerate(self._parts):
            if part is not None:
                yield number, self._part(number)

    def _part(self, number: int) -> NeighborIndex:
        part = self._parts[number]
        if isinstance(part, NeighborIndex):
            return part
        if part is None:
            raise DataError(f"part {number} has no items")
        with self._opening:
            if number not in self._open:
                while self._held and len(self._open) >= self._held:
                    self._open.popitem(last=False)
                self._open[number] = NeighborIndex.load(part, self._about[number]["made_from"])
            self._open.move_to_end(number)
            return self._open[number]

    def _excluded_in(self, number: int, excluded: Rows | None) -> Rows | None:
        if excluded is None:
            return None
        here = (excluded >= 0) & (self._owner[excluded] == number)
        return np.where(here, self._local[excluded], -1)

    def __len__(self) -> int:
        return len(self._owner)
