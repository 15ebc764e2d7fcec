"""ShardedIndex: a neighbour index in parts, for more items than one index should hold.

::

    index/
    ├── manifest.json, g-.../rows.safetensors     which item is where; written last
    ├── part-00000/                               a NeighborIndex of its own, opened on any machine without the others
    └── part-00001/ ...

An item belongs to the part that the hash of its id names: the same one today and tomorrow, whatever other items there
are. A part is built while no other one is in memory. A question goes to all parts, and the k best of their k best are
the k best of all: nothing is lost by the cut itself, and each part searches as well as an index of its size does.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import fingerprint as digest
from llm_tail.artifacts import read_artifact, write_artifact
from llm_tail.config import IndexConfig
from llm_tail.data.ids import IdMap, Rows
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.neighbors.exact import Similarities, Vectors, check_excluded, check_k, search, unit_vectors
from llm_tail.neighbors.index import NeighborIndex, Neighbors
from llm_tail.progress import track

KIND = "sharded-index"


class VectorSource(Protocol):
    """Vectors that need not fit into memory, as `llm_tail.embedding.store.StoredVectors` gives them."""

    encoder: str

    def blocks(self) -> Iterator[tuple[list[str], Vectors]]:
        """Yield ids and vectors from the first row to the last, some at a time."""
        ...

    def take(self, rows: Rows) -> Vectors:
        """Return the vectors of these rows, shape (n_rows, dim)."""
        ...


def part_of(item_ids: Iterable[str], n_parts: int) -> NDArray[np.int32]:
    """Return the part that each item belongs to, shape (n_items,): the first 8 bytes of BLAKE2b of its id, modulo.

    Examples
    --------
    >>> part_of(["emma", "persuasion", "dracula"], 4).tolist()
    [0, 3, 1]
    """
    hashes = b"".join(hashlib.blake2b(x.encode("utf-8", "surrogatepass"), digest_size=8).digest() for x in item_ids)
    return (np.frombuffer(hashes, dtype="<u8") % np.uint64(n_parts)).astype(np.int32)


def merge(answers: Sequence[tuple[Rows, Similarities]], k: int) -> tuple[Rows, Similarities]:
    """Return the k best of several answers to the same questions, equal ones by row.

    Parameters
    ----------
    answers : sequence of (rows, similarities)
        Of any widths; shape (n_queries, any), with -1 and -inf where there are no more. No row stands in two of them.
    k : int
        How many.

    Returns
    -------
    rows, similarities : arrays, shape (n_queries, k)
        As of `NeighborIndex.query`.

    Examples
    --------
    >>> one = np.array([[4, 2]]), np.array([[0.9, 0.5]], dtype=np.float32)
    >>> other = np.array([[7, -1]]), np.array([[0.7, -np.inf]], dtype=np.float32)
    >>> merge([one, other], 3)[0].tolist()
    [[4, 7, 2]]
    """
    rows = np.concatenate([answer[0] for answer in answers], axis=1)  # (n_queries, sum of widths)
    similarities = np.concatenate([answer[1] for answer in answers], axis=1)
    order = np.lexsort((rows, -similarities), axis=1)[:, :k]
    rows, similarities = np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarities, order, axis=1)
    missing = k - rows.shape[1]
    if missing > 0:
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)
        similarities = np.pad(similarities, ((0, 0), (0, missing)), constant_values=-np.inf)
    return np.where(similarities > -np.inf, rows, -1), similarities


class ShardedIndex:
    """Parts of an index that answer as one; made with `build` or `load`.

    It is asked like a `NeighborIndex`, and its rows are those of the vectors that it was built from.

    Attributes
    ----------
    n_parts : int
        How many parts; one without items is not there.
    measured_recall : float
        The mean of the parts', each measured on its own items; merged answers find no smaller share.

    Notes
    -----
    A question costs what it costs in each part, one after another here: n_parts times O(log n_items / n_parts), so
    more than in a single index. It is memory that is won: 12 bytes an item, and the parts that are held. Where not all
    are held, each is read from disk again for every call: ask many things at once.

    Examples
    --------
    >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> index = ShardedIndex.build(Embeddings(["emma", "persuasion", "dracula"], vectors), n_parts=2)
    >>> index
    ShardedIndex(3 x 2 in 2 parts, cosine, exact)
    >>> index.similar("emma", k=2)
    Neighbors(persuasion 0.994, dracula 0.000)
    """

    def __init__(
        self, parts: Sequence[NeighborIndex | Path | None], rows: Sequence[Rows], facts: dict[str, Any], held: int
    ) -> None:
        self.n_parts, self.dim, self.encoder = len(parts), int(facts["dim"]), str(facts["encoder"])
        self.n_live, self.is_exact = int(facts["n_live"]), bool(facts["exact"])
        self.measured_recall = float(facts["measured_recall"])
        self._facts, self._parts, self._rows, self._held = facts, list(parts), list(rows), held
        n_items = sum(len(part) for part in rows)
        self._owner = np.empty(n_items, dtype=np.int32)  # (n_items,)
        self._local = np.empty(n_items, dtype=np.int64)  # (n_items,)
        for number, here in enumerate(rows):
            self._owner[here], self._local[here] = number, np.arange(len(here))
        self._open: OrderedDict[int, NeighborIndex] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def build(
        cls,
        source: Embeddings | VectorSource,
        config: IndexConfig | None = None,
        *,
        n_parts: int,
        folder: str | Path | None = None,
        held: int = 0,
        seed: int = 0,
        n_threads: int = 1,
        progress: bool = False,
    ) -> ShardedIndex:
        """Build the parts one after another.

        Parameters
        ----------
        source : Embeddings or VectorSource
            The items and their vectors; those that `EmbeddingStore.open_vectors` gives need not fit into memory.
        config : IndexConfig, optional
            The settings of each part.
        n_parts : int
            How many, such as one for each million items.
        folder : path, optional
            Each part is written here as soon as it is built, and leaves the memory; in memory if left out. After a
            crash, or when some items have changed, only the parts that are not there yet are built.
        held : int
            How many parts of a folder stay in memory once they have been asked; 0 is all.
        seed, n_threads, progress
            As of `NeighborIndex.build`.

        Raises
        ------
        DataError
            If there is no item, or n_parts is below 1.

        Notes
        -----
        Memory with a folder: the vectors of one part twice, its links, and 50 bytes for each item of all. Vectors on
        disk are read once for their ids, then the rows of each part where they lie.
        """
        if n_parts < 1 or held < 0:
            raise DataError(f"n_parts is {n_parts} and held is {held}, expected at least 1 and 0")
        config = config or IndexConfig()
        ids = _ids(source)
        owners = _owners(ids, n_parts)
        if not len(owners):
            raise DataError("there are no vectors to index; expected at least one item")
        parts: list[NeighborIndex | Path | None] = []
        rows, about = [], []
        for number in track(range(n_parts), "building parts") if progress else range(n_parts):
            here = np.flatnonzero(owners == number).astype(np.int64)
            part = None
            if len(here):
                place = None if folder is None else Path(folder) / f"part-{number:05d}"
                part = _built(_some(source, ids, here), config, place, seed, n_threads)
            parts.append(part if part is None or folder is None else place)
            rows.append(here)
            about.append(_about(part))
        index = cls(parts, rows, _facts(about, config, seed, source.encoder), held)
        if folder is not None:
            index._write(Path(folder), index.fingerprint())
        return index

    def query(self, vectors: ArrayLike, k: int, *, exclude_rows: ArrayLike | None = None) -> tuple[Rows, Similarities]:
        """Return the k nearest items of each vector: results and errors as of `NeighborIndex.query`.

        Parameters
        ----------
        vectors : array, shape (n_queries, dim)
            Finite numbers of any length.
        k : int
            How many, at least 1.
        exclude_rows : array of int, shape (n_queries,), optional
            For each query one item that is left out, or -1.
        """
        k, queries = check_k(k), unit_vectors(vectors, "the queries", self.dim)
        excluded = check_excluded(exclude_rows, len(queries), len(self))
        found: tuple[Rows, Similarities] | None = None
        for number, part in self._each():
            rows, similarities = part.query(queries, k, exclude_rows=self._excluded_in(number, excluded))
            answer = np.where(rows >= 0, self._rows[number][rows], -1), similarities
            found = merge([answer] if found is None else [found, answer], k)
        if found is None:
            raise DataError("there are no vectors to search; expected at least one item")
        return found

    def similar(self, item: str | ArrayLike, k: int = 10) -> Neighbors:
        """Return the items nearest to an item, which is itself left out, or to a vector.

        Raises
        ------
        UnknownIdError
            If there is no such item; the closest ids are those of its part.
        DataError
            If the vector is not of shape (dim,) or not finite.
        """
        if isinstance(item, str):
            rows, similarities = self.similar_rows([self.row(item)], k)
        else:
            vector = np.asarray(item)
            if vector.ndim != 1:
                raise DataError(f"the vector has shape {vector.shape}, expected ({self.dim},) or an item id")
            rows, similarities = self.query(vector[None], k)
        found = rows[0] >= 0
        return Neighbors(tuple(self.ids_of(rows[0][found])), similarities[0][found])

    def similar_rows(self, rows: ArrayLike, k: int) -> tuple[Rows, Similarities]:
        """Return the k nearest items of each of these items, itself left out; shapes and costs as of `query`."""
        array: NDArray[Any] = np.asarray(rows)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(f"rows have shape {array.shape} and dtype {array.dtype}, expected (n,) whole numbers")
        if array.size and (array.min() < 0 or array.max() >= len(self)):
            raise DataError(f"rows run from {array.min()} to {array.max()}, expected 0 to {len(self) - 1}")
        return self.query(self.vectors_of(array), k, exclude_rows=array)

    def row(self, item_id: str) -> int:
        """Return the row of one item; looked up in its part alone."""
        number = int(part_of([item_id], self.n_parts)[0])
        if self._parts[number] is None:
            return self.ids.row(item_id)  # which says what ids look like
        return int(self._rows[number][self._part(number).ids.row(item_id)])

    def ids_of(self, rows: Rows) -> list[str]:
        """Return the ids of these rows."""
        values = np.empty(len(rows), dtype=object)
        for number in np.unique(self._owner[rows]):
            here = self._owner[rows] == number
            values[here] = self._part(int(number)).ids.values[self._local[rows[here]]]
        return [str(value) for value in values]

    def vectors_of(self, rows: Rows) -> Vectors:
        """Return the vectors of these rows, shape (n_rows, dim), each of length 1 or 0."""
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        for number in np.unique(self._owner[rows]):
            here = self._owner[rows] == number
            vectors[here] = self._part(int(number)).vectors[self._local[rows[here]]]
        return vectors

    @cached_property
    def ids(self) -> IdMap:
        """All items by row; about 100 bytes each, and needed by no question."""
        return IdMap(self.ids_of(np.arange(len(self))))

    def recall(self, k: int = 10, n: int = 200, seed: int = 0) -> float:
        """Return the share of the true k nearest that `similar_rows` finds, as `NeighborIndex.recall` does."""
        k = min(check_k(k), self.n_live - 1)
        if self.is_exact or k < 1:
            return 1.0
        rows = np.random.default_rng(seed).permutation(len(self))
        rows = rows[: 2 * n][self.vectors_of(rows[: 2 * n]).any(axis=1)][:n]
        queries, true = self.vectors_of(rows), np.full((len(rows), 0), -np.inf, dtype=np.float32)
        for number, part in self._each():
            _, cosines = search(queries, part.vectors, k, self._excluded_in(number, rows))
            true = -np.sort(-np.concatenate([true, cosines], axis=1), axis=1)[:, :k]
        return float((self.similar_rows(rows, k)[1] >= true[:, -1:] - 1e-6).mean())

    def fingerprint(self) -> str:
        """Return a digest of the parts and of the rows of their items."""
        return digest(self._facts["parts"], *self._rows)

    def save(self, folder: str | Path, *, fingerprint: str | None = None) -> Path:
        """Write the parts that do not lie there yet, then the manifest, and return the folder."""
        for number, part in self._each():
            place = Path(folder) / f"part-{number:05d}"
            if self._parts[number] != place:
                part.save(place, fingerprint=self._facts["parts"][number])
        return self._write(Path(folder), fingerprint or self.fingerprint())

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None, *, held: int = 0) -> ShardedIndex:
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
        rows = load_file(artifact.file("rows.safetensors"))
        made = artifact.facts["parts"]
        places = [Path(folder) / f"part-{n:05d}" if part else None for n, part in enumerate(made)]
        return cls(places, [rows[f"{number:05d}"] for number in range(len(made))], artifact.facts, held)

    def _write(self, folder: Path, made_from: str) -> Path:
        with write_artifact(folder, KIND, made_from, self._facts) as draft:
            save_file({f"{n:05d}": rows for n, rows in enumerate(self._rows)}, draft.file("rows.safetensors"))
        return folder

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
        with self._lock:
            if number not in self._open:
                while self._held and len(self._open) >= self._held:
                    self._open.popitem(last=False)
                self._open[number] = NeighborIndex.load(part, self._facts["parts"][number])
            self._open.move_to_end(number)
            return self._open[number]

    def _excluded_in(self, number: int, excluded: Rows | None) -> Rows | None:
        if excluded is None:
            return None
        here = (excluded >= 0) & (self._owner[excluded] == number)
        return np.where(here, self._local[excluded], -1)

    def __len__(self) -> int:
        return len(self._owner)

    def __repr__(self) -> str:
        config = IndexConfig(**self._facts["config"])
        how = f"M={config.links}, ef={config.ef}, recall@10 {self.measured_recall:.2f}"
        how = "exact" if self.is_exact else how
        return f"ShardedIndex({len(self):,} x {self.dim} in {self.n_parts} parts, cosine, {how})"


def _ids(source: Embeddings | VectorSource) -> pa.ChunkedArray:
    """Return all ids in one pass over the vectors; Arrow holds them in a quarter of what Python's strings take."""
    blocks = [source.ids.values] if isinstance(source, Embeddings) else (ids for ids, _ in source.blocks())
    return pa.chunked_array([pa.array(ids, pa.large_string()) for ids in blocks], pa.large_string())


def _owners(ids: pa.ChunkedArray, n_parts: int) -> NDArray[np.int32]:
    found = [part_of(chunk.to_pylist(), n_parts) for chunk in ids.chunks]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int32)


def _some(source: Embeddings | VectorSource, ids: pa.ChunkedArray, rows: Rows) -> Embeddings:
    vectors = source.vectors[rows] if isinstance(source, Embeddings) else source.take(rows)
    return Embeddings(ids.take(pa.array(rows)).to_pylist(), vectors, encoder=source.encoder)


def _built(items: Embeddings, config: IndexConfig, place: Path | None, seed: int, n_threads: int) -> NeighborIndex:
    """Return the index of a part; where one of the very same items lies there, it is taken as it is."""
    if place is None:
        return NeighborIndex.build(items, config, seed=seed, n_threads=n_threads)
    vectors = unit_vectors(items.vectors, "the embeddings")
    made_from = digest(items.ids.values, vectors, config.model_dump(), seed)  # as `NeighborIndex.fingerprint`
    try:
        return NeighborIndex.load(place, made_from)
    except (StaleArtifactError, CorruptArtifactError):
        part = NeighborIndex.build(items, config, seed=seed, n_threads=n_threads)
        part.save(place)
        return part


def _about(part: NeighborIndex | None) -> dict[str, Any]:
    if part is None:
        return {"made_from": "", "n_live": 0, "exact": True, "recall": 1.0, "dim": 0}
    facts = {"n_live": part.n_live, "exact": part.is_exact, "recall": part.measured_recall, "dim": part.dim}
    return {"made_from": part.fingerprint(), **facts}


def _facts(about: list[dict[str, Any]], config: IndexConfig, seed: int, encoder: str) -> dict[str, Any]:
    n_live = sum(part["n_live"] for part in about)
    return {
        "parts": [part["made_from"] for part in about],
        "n_live": n_live,
        "exact": all(part["exact"] for part in about),
        "measured_recall": sum(part["recall"] * part["n_live"] for part in about) / n_live if n_live else 1.0,
        "dim": max(part["dim"] for part in about),
        "config": config.model_dump(),
        "seed": seed,
        "encoder": encoder,
    }
