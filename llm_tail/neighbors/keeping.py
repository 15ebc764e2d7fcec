"""KeptIndex: the half of a `NeighborIndex` that changes items and writes to disk; the other half answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np

from llm_tail.data.ids import IdMap, Rows
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError
from llm_tail.neighbors.answers import names_of
from llm_tail.neighbors.columns import Gate
from llm_tail.neighbors.exact import Vectors, unit_vectors
from llm_tail.neighbors.living import LivingSearch
from llm_tail.neighbors.saving import fingerprint_at, made_from, read_index, write_index
from llm_tail.neighbors.snapshots import Snapshots
from llm_tail.neighbors.table import ItemTable


class KeptIndex:
    """Items that come and go, and where they lie; the base of `NeighborIndex`, which documents its attributes."""

    def __init__(self, living: LivingSearch, encoder: str = "") -> None:
        self.config, self.seed, self.encoder = living.config, living.seed, encoder
        self.folder: Path | None = None
        self._living = living
        self._gate = Gate()

    # ---- what it is

    @property
    def living(self) -> LivingSearch:
        """The table and its engine; for the rooms beside this one."""
        return self._living

    @property
    def table(self) -> ItemTable:
        """The items and their vectors; for the rooms beside this one."""
        return self._living.table

    @property
    def ids(self) -> IdMap:
        """The items; their rows are the rows of every answer."""
        with self._living.lock.read():
            return self._living.table.ids

    @property
    def vectors(self) -> Vectors:
        """The vectors, of length 1 or 0, shape (n_items, dim), float32; not a copy unless they are stored otherwise."""
        return self._living.table.vectors.astype(np.float32, copy=False)

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return self._living.table.dim

    @property
    def n_live(self) -> int:
        """How many items can be found: those whose vector is not zero."""
        return self._living.table.n_live

    @property
    def engine(self) -> str:
        """What searches: ``exact``, ``hnswlib``, ``faiss`` or ``usearch``."""
        return self._living.engine.name

    @property
    def is_exact(self) -> bool:
        """True where every query is compared with every item."""
        return self._living.engine.is_exact

    @property
    def ef(self) -> int:
        """Candidates that a query looks at: as set, or tuned to the recall target; 0 where search is exact."""
        return self._living.measured.ef

    @property
    def measured_recall(self) -> float:
        """Share of the true ten nearest that a query finds, as last measured; 1.0 where search is exact."""
        return self._living.measured.recall

    @property
    def n_removed(self) -> int:
        """Entries that the engine still holds of items that were removed or replaced; `compact` frees them."""
        return self._living.engine.n_dead

    # ---- changing

    def add(self, embeddings: Embeddings, *, n_threads: int = 1) -> None:
        """Add new items; questions are answered meanwhile, with those that are in already.

        Parameters
        ----------
        embeddings : Embeddings
            Items that are not there yet, with vectors of the same encoder.
        n_threads : int
            As of `build`.

        Raises
        ------
        DataError
            If an item is there already, or the vectors have another width or come from another encoder.

        Notes
        -----
        About 1 ms an item of 384 numbers on one thread. Where more than a tenth of the items has changed, recall is
        measured again and `ef` follows; where that is not enough, or more than ``compact_above`` of the entries are of
        removed items, all links are made anew beside the questions.
        """
        with self._living.writing:
            rows = self._living.table.rows(embeddings.ids.values.tolist())
            if (rows >= 0).any():
                known = ", ".join(embeddings.ids.values[rows >= 0][:3])
                raise DataError(f"{int((rows >= 0).sum())} items are in the index already, such as {known}; use update")
            self._put(embeddings, n_threads)

    def update(self, embeddings: Embeddings, *, n_threads: int = 1) -> None:
        """Give items other vectors, and add those that are new; arguments, errors and costs as of `add`."""
        with self._living.writing:
            self._put(embeddings, n_threads)

    def _put(self, embeddings: Embeddings, n_threads: int) -> None:
        if len(embeddings) == 0:
            return
        vectors = unit_vectors(embeddings.vectors, "the embeddings", self.dim)
        if self.encoder and embeddings.encoder and self.encoder != embeddings.encoder:
            raise DataError(
                f"the vectors come from the encoder {embeddings.encoder}, those of the index from {self.encoder}; "
                "encode them with that one, or build the index anew"
            )
        self._living.put(embeddings.ids.values.tolist(), vectors, n_threads)

    def remove(self, item_ids: str | Iterable[str], *, n_threads: int = 1) -> None:
        """Take items out, all of them or, where one is unknown, none.

        Raises
        ------
        UnknownIdError
            If an item is not there.
        """
        self.removed(item_ids, n_threads)

    def removed(self, item_ids: str | Iterable[str], n_threads: int = 1) -> Rows:
        """Do what `remove` does and return the old rows in their new order, shape (n_items left,)."""
        names = names_of(item_ids)
        with self._living.writing:
            rows = self._living.table.rows(names)
            if (rows < 0).any():
                self._living.table.row(names[int(np.argmax(rows < 0))])
            return self._living.remove(rows, n_threads)

    def compact(self, *, n_threads: int = 1, progress: bool = False) -> None:
        """Link all items anew, which frees what removed ones held; questions are answered meanwhile.

        Notes
        -----
        Takes as long as `build`, and the memory of both engines until the new one is ready.
        """
        self._living.rebuild(n_threads, progress=progress)

    # ---- on disk

    def fingerprint(self) -> str:
        """Return a digest of the items, their vectors, the settings and the seed."""
        with self._living.writing:
            return made_from(self.ids, self._living.table.vectors, self.config, self.seed)

    def save(self, folder: str | Path, *, fingerprint: str | None = None) -> Path:
        """Write the index and return its folder; questions are answered meanwhile, changes wait.

        Parameters
        ----------
        folder : path
            Gets ``vectors.safetensors``, ``ids.parquet`` and, where approximate, the engine's files.
        fingerprint : str, optional
            Digest of what it was made from; `fingerprint` of the index itself if left out.
        """
        with self._living.writing:
            write_index(self._living, self.encoder, folder, fingerprint)
            self.folder = Path(folder)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None) -> Self:
        """Read an index that `save` wrote; every file is checked against its digest before it is opened.

        Raises
        ------
        StaleArtifactError
            If it is not there, or was made from something else than `fingerprint` says.
        CorruptArtifactError
            If a file is not what was written.
        MissingExtraError
            If the library of its engine is not installed.
        """
        index = cls(*read_index(folder, fingerprint))
        index.folder = Path(folder)
        return index

    def snapshot(self, folder: str | Path | None = None) -> Path:
        """Write a numbered copy and return its folder; the oldest above ``snapshots`` are removed.

        Parameters
        ----------
        folder : path, optional
            Of the index; where it was last saved or loaded, if left out. Copies lie in ``snapshots`` in there.
        """
        with self._living.writing:
            place = self._snapshots(folder).next()
            write_index(self._living, self.encoder, place, fingerprint_at(folder or self.folder))
        self._snapshots(folder).drop_old()
        return place

    @property
    def snapshots(self) -> list[int]:
        """The numbers of the snapshots beside where it was last saved or loaded, oldest first."""
        return [] if self.folder is None else self._snapshots(None).numbers

    @classmethod
    def restore(cls, folder: str | Path, number: int | None = None) -> Self:
        """Make a snapshot the index of a folder again, and return it; the last one if no number is given.

        Raises
        ------
        StaleArtifactError
            If there is no such snapshot; those that there are, are named.
        CorruptArtifactError
            If it is damaged; nothing has changed then.
        """
        place = Snapshots(folder).of(number)
        index = cls.load(place)
        index.save(folder, fingerprint=fingerprint_at(place))
        return index

    def _snapshots(self, folder: str | Path | None) -> Snapshots:
        folder = folder or self.folder
        if folder is None:
            raise DataError("the index was never saved; name a folder for its snapshots, or save it first")
        return Snapshots(folder, self.config.snapshots)

    def __len__(self) -> int:
        return len(self._living.table)

    @property
    def manner(self) -> str:
        """How it searches, in words."""
        config, measured = self.config, self._living.measured
        if self.is_exact:
            return "exact" if config.storage == "float32" else f"exact, {config.storage}"
        name = "" if self.engine == "hnswlib" else f"{self.engine}, "
        said = f"{name}M={config.links}, ef={measured.ef}, recall@10 {measured.recall:.2f}"
        if config.storage != "float32":
            said += f", {config.storage}"
        return (
            said if measured.recall >= config.recall_target else f"{said} (target {config.recall_target:g} not reached)"
        )
