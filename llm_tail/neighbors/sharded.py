"""ShardedIndex: a neighbour index in parts, for more items than one index should hold.

::

    index/
    ├── manifest.json, g-.../rows.safetensors     which item is where; written last
    ├── part-00000/                               a NeighborIndex of its own, opened on any machine without the others
    └── part-00001-5f0c2a91/ ...                  one that has changed since lies beside the old one, until the manifest
                                                  names it

An item belongs to the part that the hash of its id names: the same one today and tomorrow, whatever other items there
are. A part is built while no other one is in memory. A question goes to all parts, and the k best of their k best are
the k best of all: nothing is lost by the cut itself, and each part searches as well as an index of its size does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_tail.config import IndexConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.segments import Segments
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError
from llm_tail.neighbors.answers import check_answer
from llm_tail.neighbors.columns import Columns, Where
from llm_tail.neighbors.exact import Similarities, Vectors, check_excluded, check_k, search, unit_vectors
from llm_tail.neighbors.index import NeighborIndex, Neighbors
from llm_tail.neighbors.keeping_parts import KeptParts
from llm_tail.neighbors.parts import VectorSource, about, built, facts_of, ids_in, merge, owners_of, part_of, taken
from llm_tail.progress import track

__all__ = ["ShardedIndex", "VectorSource", "merge", "part_of"]


class ShardedIndex(KeptParts):
    """Parts of an index that answer as one; made with `build` or `load`.

    It is asked and changed like a `NeighborIndex`. Its rows are those of the vectors that it was built from; new items
    come behind them, and where some are removed the others close up, in the same order.

    Attributes
    ----------
    n_parts : int
        How many parts; one without items is not there.

    Notes
    -----
    A question costs what it costs in each part, one after another here: n_parts times O(log n_items / n_parts), so
    more than in a single index. It is memory that is won: 12 bytes an item, and the parts that are held. Where not all
    are held, each is read from disk again for every call: ask many things at once. Questions wait while a part changes.

    Examples
    --------
    >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> index = ShardedIndex.build(Embeddings(["emma", "persuasion", "dracula"], vectors), n_parts=2)
    >>> index
    ShardedIndex(3 x 2 in 2 parts, cosine, exact)
    >>> index.similar("emma", k=2)
    Neighbors(persuasion 0.994, dracula 0.000)
    """

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
        ids = ids_in(source)
        owners = owners_of(ids, n_parts)
        if not len(owners):
            raise DataError("there are no vectors to index; expected at least one item")
        parts: list[NeighborIndex | Path | None] = []
        rows, found = [], []
        for number in track(range(n_parts), "building parts") if progress else range(n_parts):
            here = np.flatnonzero(owners == number).astype(np.int64)
            part = None
            if len(here):
                place = None if folder is None else Path(folder) / f"part-{number:05d}"
                part = built(taken(source, ids, here), config, place, seed, n_threads)
            parts.append(part if part is None or folder is None else place)
            rows.append(here)
            found.append(about(part))
        index = cls(parts, rows, facts_of(found, config, seed, source.encoder), held)
        if folder is not None:
            index.folder = Path(folder)
            index._write(index.folder, index.fingerprint(), {})
        return index

    # ---- asking

    def query(
        self, vectors: ArrayLike, k: int, *, exclude_rows: ArrayLike | None = None, where: Where | None = None
    ) -> tuple[Rows, Similarities]:
        """Return the k nearest items of each vector: results and errors as of `NeighborIndex.query`.

        Parameters
        ----------
        vectors : array, shape (n_queries, dim)
            Finite numbers of any length.
        k : int
            How many, at least 1.
        exclude_rows : array of int, shape (n_queries,), optional
            For each query one item that is left out, or -1.
        where : str, array or sequence, optional
            Which items may be found.
        """
        k, queries = check_k(k), unit_vectors(vectors, "the queries", self.dim)
        with self._lock.read():
            return self._find(queries, k, exclude_rows, where)

    def _find(
        self, queries: Vectors, k: int, exclude_rows: ArrayLike | None, where: Where | None
    ) -> tuple[Rows, Similarities]:
        excluded = check_excluded(exclude_rows, len(queries), len(self))
        check_answer(len(queries), k, len(self))
        mask = None if where is None else self._gate.allowed(where, self).mask
        found = np.full((len(queries), k), -1, dtype=np.int64), np.full((len(queries), k), -np.inf, dtype=np.float32)
        for number, part in self._each():
            let = None if mask is None else mask[self._rows[number]]
            if len(part) == 0 or (let is not None and not let.any()):
                continue
            rows, similarities = part.query(queries, k, exclude_rows=self._excluded_in(number, excluded), where=let)
            found = merge([found, (np.where(rows >= 0, self._rows[number][rows], -1), similarities)], k)
        return found

    def similar(self, item: str | ArrayLike, k: int = 10, *, where: Where | None = None) -> Neighbors:
        """Return the items nearest to an item, which is itself left out, or to a vector; as `NeighborIndex.similar`.

        Raises
        ------
        UnknownIdError
            If there is no such item; the closest ids are those of its part.
        DataError
            If the vector is not of shape (dim,) or not finite.
        """
        with self._lock.read():
            if isinstance(item, str):
                row = np.array([self._row(item)])
                rows, similarities = self._find(self._vectors_of(row), check_k(k), row, where)
            else:
                vector = np.asarray(item)
                if vector.ndim != 1:
                    raise DataError(f"the vector has shape {vector.shape}, expected ({self.dim},) or an item id")
                queries = unit_vectors(vector[None], "the queries", self.dim)
                rows, similarities = self._find(queries, check_k(k), None, where)
            found = rows[0] >= 0
            return Neighbors(tuple(self.names(rows[0][found])), similarities[0][found])

    def similar_rows(self, rows: ArrayLike, k: int, *, where: Where | None = None) -> tuple[Rows, Similarities]:
        """Return the k nearest items of each of these items, itself left out; the rest as `query` says."""
        array: NDArray[Any] = np.asarray(rows)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(f"rows have shape {array.shape} and dtype {array.dtype}, expected (n,) whole numbers")
        with self._lock.read():
            if array.size and (array.min() < 0 or array.max() >= len(self)):
                raise DataError(f"rows run from {array.min()} to {array.max()}, expected 0 to {len(self) - 1}")
            return self._find(self._vectors_of(array), check_k(k), array, where)

    def attach(self, catalog: Catalog, segments: Segments | None = None) -> ShardedIndex:
        """Let filters in words look at the columns of a catalogue, as `NeighborIndex.attach` does."""
        self._gate.attach(Columns(catalog, segments))
        return self

    def row(self, item_id: str) -> int:
        """Return the row of one item; looked up in its part alone."""
        with self._lock.read():
            return self._row(item_id)

    def ids_of(self, rows: Rows) -> list[str]:
        """Return the ids of these rows."""
        with self._lock.read():
            return self.names(rows)

    def vectors_of(self, rows: Rows) -> Vectors:
        """Return the vectors of these rows, shape (n_rows, dim), each of length 1 or 0."""
        with self._lock.read():
            return self._vectors_of(rows)

    def _vectors_of(self, rows: NDArray[Any]) -> Vectors:
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        for number in np.unique(self._owner[rows]):
            here = self._owner[rows] == number
            vectors[here] = self._part(int(number)).table.floats(self._local[rows[here]])
        return unit_vectors(vectors, "the items", self.dim)

    @property
    def ids(self) -> IdMap:
        """All items by row; about 100 bytes each, and needed by no question."""
        with self._lock.read():
            return self._all_ids()

    def recall(self, k: int = 10, n: int = 200, seed: int = 0) -> float:
        """Return the share of the true k nearest that `similar_rows` finds, as `NeighborIndex.recall` does."""
        k = min(check_k(k), self.n_live - 1)
        if self.is_exact or k < 1:
            return 1.0
        rows = np.random.default_rng(seed).permutation(len(self))
        rows = rows[: 2 * n][self.vectors_of(rows[: 2 * n]).any(axis=1)][:n]
        queries, true = self.vectors_of(rows), np.full((len(rows), 0), -np.inf, dtype=np.float32)
        for number, part in self._each():
            _, cosines = search(queries, part.table.vectors, k, self._excluded_in(number, rows))
            true = -np.sort(-np.concatenate([true, cosines], axis=1), axis=1)[:, :k]
        return float((self.similar_rows(rows, k)[1] >= true[:, -1:] - 1e-5).mean())

    def __repr__(self) -> str:
        facts = self._facts
        how = f"M={self.config.links}, ef={facts['ef']}, recall@10 {self.measured_recall:.2f}"
        how = "exact" if self.is_exact else how
        return f"ShardedIndex({len(self):,} x {self.dim} in {self.n_parts} parts, cosine, {how})"
