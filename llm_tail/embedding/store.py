"""EmbeddingStore: the vectors of a catalogue on disk, brought up to date, read whole or where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from llm_tail.config import EmbeddingConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.embedding.embeddings import Embeddings, Vectors, check_all_there
from llm_tail.embedding.engine import Encoded, Engine, LocalEngine, TextEncoder
from llm_tail.embedding.job import EmbedReport, Job
from llm_tail.embedding.shards import (
    Shard,
    Tensors,
    ids_of,
    map_tensors,
    names_of,
    read_manifest,
    sweep,
    unpack,
    write_manifest,
    write_shard,
)
from llm_tail.embedding.text import ItemText
from llm_tail.errors import DataError, StaleArtifactError

__all__ = [
    "EmbedReport",
    "EmbeddingStore",
    "Embeddings",
    "Encoded",
    "Engine",
    "LocalEngine",
    "StoredVectors",
    "TextEncoder",
]


class EmbeddingStore:
    """The vectors of a catalogue on disk: in shards, each written once it is done, so that a job can be resumed.

    How they lie there stands at the head of `llm_tail.embedding.shards`. A vector is kept under the hash of its text,
    the text template and the encoder: what has not changed is not encoded again, wherever it stands in the catalogue,
    and equal texts are encoded once. An item stays in its shard; only shards with a changed or deleted item are
    written anew, new items get new shards, and where many of these are small their items move together. One process
    may write at a time.

    Parameters
    ----------
    folder : Path
        Where it lies; made by the first `embed`.

    Attributes
    ----------
    report : EmbedReport or None
        What the last `embed` or `update` of this object did.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.report: EmbedReport | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a store, which may be empty or not be there yet."""
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file, expected a folder for embeddings; name another place")
        return cls(folder)

    def embed(
        self,
        catalog: Catalog,
        encoder: TextEncoder,
        text: ItemText | None = None,
        config: EmbeddingConfig | None = None,
        engine: Engine | None = None,
    ) -> Embeddings:
        """Return a vector for each item in the order of the catalogue, encoding only what is not in the store yet.

        Parameters
        ----------
        catalog : Catalog
            The items; those that the store has and the catalogue has not are dropped.
        encoder : TextEncoder
            What makes vectors of texts.
        text : ItemText, optional
            What makes a text of an item.
        config : EmbeddingConfig, optional
            Sizes of batches and shards, number format on disk.
        engine : Engine, optional
            Who runs the encoder; this process if left out. The store is the same byte for byte.

        Raises
        ------
        DataError
            If no item at all has a text, or the encoder yields something else than finite vectors of its width.

        Notes
        -----
        ``self.report`` says what was done. After a crash the next call goes on where it was; the shards in flight are
        lost. Memory: 24 bytes an item, the shards in flight, and at the end all vectors; `update` leaves out these.
        """
        self.update(catalog, encoder, text, config, engine)
        return self.load(catalog)

    def update(
        self,
        catalog: Catalog,
        encoder: TextEncoder,
        text: ItemText | None = None,
        config: EmbeddingConfig | None = None,
        engine: Engine | None = None,
    ) -> EmbedReport:
        """Bring the store up to date as `embed` does, and load no vectors: for catalogues larger than memory."""
        job = Job(self.folder, catalog, encoder, text or ItemText(), config or EmbeddingConfig(), engine)
        self.report = job.run()
        return self.report

    def load(
        self,
        items: IdMap | Catalog | None = None,
        *,
        expect: TextEncoder | str | None = None,
        text: ItemText | None = None,
    ) -> Embeddings:
        """Return the vectors of the last complete job; every shard is checked against its digest first.

        Parameters
        ----------
        items : IdMap or Catalog, optional
            Whose vectors, and in which order; all in the order of the store if left out.
        expect : TextEncoder or str, optional
            The encoder, or its fingerprint, that has to have made them.
        text : ItemText, optional
            The template that has to have made the texts.

        Raises
        ------
        StaleArtifactError
            If no job has been completed here, or one with another encoder or template; both fingerprints are named.
        CorruptArtifactError
            If a shard is missing or damaged; `embed` makes only that one anew.
        DataError
            If one of `items` has no vector here.
        """
        stored = self.open_vectors(expect=expect, text=text)
        if items is None:
            vectors, rows = np.empty(stored.shape, dtype=np.float32), None  # (n_items, dim)
            ids = stored.ids
        else:
            ids = items if isinstance(items, IdMap) else items.ids
            vectors, rows = np.zeros((len(ids), stored.dim), dtype=np.float32), ids
        there, start = np.zeros(len(ids), dtype=bool), 0
        for names, block in stored.blocks():
            places = np.arange(start, start + len(names)) if rows is None else rows.rows(names)
            start += len(names)
            vectors[places[places >= 0]] = block[places >= 0]
            there[places[places >= 0]] = True
        check_all_there(ids, np.where(there, 0, -1))
        return Embeddings(ids, vectors, encoder=stored.encoder)

    def open_vectors(self, *, expect: TextEncoder | str | None = None, text: ItemText | None = None) -> StoredVectors:
        """Return the vectors of the last complete job where they lie, to be walked in blocks or looked up by row.

        Takes the same `expect` and `text` as `load` and raises the same; a shard is checked when it is first read.
        """
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise StaleArtifactError(f"there are no complete embeddings at {self.folder}; run: llm-tail embed")
        wanted = {
            "encoder": expect if isinstance(expect, str) else getattr(expect, "fingerprint", None),
            "text": text.fingerprint() if text else None,
        }
        for name, value in wanted.items():
            if value is not None and value != manifest[name]:
                what = "encoder" if name == "encoder" else "text template"
                raise StaleArtifactError(
                    f"the embeddings at {self.folder} were made with another {what} (fingerprint {manifest[name]}, "
                    f"expected {value}); run: llm-tail embed"
                )
        return StoredVectors(self.folder, manifest)

    def compact(self, shard_items: int | None = None) -> int:
        """Move the items of shards that are not full into full ones, and return how many files fewer there are.

        Nothing is encoded, and `load` gives the same vectors, if in another order. Memory: a shard.

        Parameters
        ----------
        shard_items : int, optional
            Items in a full shard; as in the last job if left out.
        """
        manifest = read_manifest(self.folder)
        if manifest is None:
            return 0
        size, before = int(shard_items or manifest["shard_items"]), list(manifest["shards"])
        full = [shard for shard in before if shard.n_items == size]
        odd = [shard for shard in before if shard.n_items != size]
        if len(odd) < 2 and all(shard.n_items < size for shard in odd):
            return 0
        numbers = iter(sorted(set(range(len(before) + sum(s.n_items for s in odd))) - {s.number for s in full}))
        written = [
            write_shard(
                self.folder,
                next(numbers),
                manifest["salt"],
                ids,
                tensors["keys"],
                tensors["tokens"].astype(np.int64),
                {name: tensors[name] for name in names_of(manifest["storage"])},
                max_tokens=manifest["max_tokens"],
            )
            for ids, tensors in _regrouped(self.folder, odd, size)
        ]
        counted = ("kind", "format", "generation", "shards", "n_items", "n_tokens", "n_truncated", "n_lost")
        facts = {name: value for name, value in manifest.items() if name not in counted}
        write_manifest(self.folder, {**facts, "shard_items": size}, [*full, *written])
        sweep(self.folder, [*full, *written])
        return len(before) - len(full) - len(written)

    def __repr__(self) -> str:
        manifest = read_manifest(self.folder)
        what = f"{manifest['n_items']:,} x {manifest['dim']}" if manifest else "empty"
        return f"EmbeddingStore({what}, {self.folder})"


class StoredVectors:
    """The vectors of a store where they lie: memory-mapped, read when they are looked at, more than memory holds.

    Parameters
    ----------
    folder : Path
        The folder of the store.
    manifest : dict
        What `llm_tail.embedding.shards.read_manifest` says of it.

    Attributes
    ----------
    shape : tuple of int
        Items and width.
    dim : int
        The width of a vector.
    storage : str
        The number format on disk; what is given out is float32 of unit length.
    encoder : str
        Fingerprint of the encoder that made them.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.shards: list[Shard] = manifest["shards"]
        self.shape = (int(manifest["n_items"]), int(manifest["dim"]))
        self.dim = self.shape[1]
        self.storage, self.encoder = str(manifest["storage"]), str(manifest["encoder"])
        self._starts = np.cumsum([0, *(shard.n_items for shard in self.shards)])  # (n_shards + 1,)
        self._checked: set[str] = set()

    @cached_property
    def ids(self) -> IdMap:
        """The items in the order of the store; about 100 bytes each."""
        return IdMap([item for shard in self.shards for item in ids_of(self._open(shard))])

    def blocks(self) -> Iterator[tuple[list[str], Vectors]]:
        """Yield ids and vectors, shape (n, dim), shard by shard; memory holds one of them."""
        for shard in self.shards:
            tensors = self._open(shard)
            yield ids_of(tensors), unpack(tensors, self.storage)

    def take(self, rows: NDArray[np.integer[Any]]) -> Vectors:
        """Return the vectors of these rows, shape (n_rows, dim); a shard is opened once for all rows in it."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise DataError(f"rows run from {rows.min()} to {rows.max()}, and there are {len(self):,}")
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        owners = np.searchsorted(self._starts, rows, side="right") - 1  # (n_rows,)
        for owner in np.unique(owners):
            here = np.flatnonzero(owners == owner)
            tensors = self._open(self.shards[owner])
            packed = {name: tensors[name][rows[here] - self._starts[owner]] for name in names_of(self.storage)}
            vectors[here] = unpack(packed, self.storage)
        return vectors

    def _open(self, shard: Shard) -> Tensors:
        if shard.file not in self._checked:
            shard.check(self.folder)
            self._checked.add(shard.file)
        return map_tensors(self.folder / shard.file)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"StoredVectors({len(self):,} x {self.dim}, {self.storage})"


def _regrouped(folder: Path, shards: list[Shard], size: int) -> Iterator[tuple[list[str], Tensors]]:
    """Yield the items of shards, `size` at a time; the last time there may be fewer."""
    ids: list[str] = []
    held: list[Tensors] = []

    def joined() -> Tensors:
        return {name: np.concatenate([tensors[name] for tensors in held]) for name in held[0]}

    for shard in shards:
        shard.check(folder)
        tensors = map_tensors(folder / shard.file)
        ids += ids_of(tensors)
        held.append({name: np.array(values) for name, values in tensors.items() if name != "ids"})
        while len(ids) >= size:
            whole = joined()
            yield ids[:size], {name: values[:size] for name, values in whole.items()}
            ids, held = ids[size:], [{name: values[size:] for name, values in whole.items()}]
    if ids:
        yield ids, joined()
