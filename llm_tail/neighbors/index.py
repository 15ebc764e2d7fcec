"""NeighborIndex: which items lie near an item or a vector, while items come and go.

Small catalogues are searched exactly; larger ones through a navigable small-world graph (HNSW, Malkov and Yashunin,
https://arxiv.org/abs/1603.09320). The libraries that build one trust their caller: a query of the wrong width corrupts
the heap, a truncated file crashes the process, adding beside a question is not safe, a k that cannot be served raises.
So nothing reaches them unchecked, no file is opened before its digest was compared, one lock keeps changes and
questions apart, and exact search answers what they cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_tail.config import IndexConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import Rows
from llm_tail.data.segments import Segments
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError
from llm_tail.neighbors.answers import Neighbors, check_answer
from llm_tail.neighbors.columns import Columns, Where
from llm_tail.neighbors.exact import Similarities, Vectors, check_excluded, check_k, nearest, unit_vectors
from llm_tail.neighbors.keeping import KeptIndex
from llm_tail.neighbors.living import LivingSearch, sample_of
from llm_tail.neighbors.saving import stored
from llm_tail.neighbors.table import ItemTable

__all__ = ["NeighborIndex", "Neighbors", "nearest"]


class NeighborIndex(KeptIndex):
    """Items by the directions of their vectors; made with `build` or `load`.

    An item with the zero vector (it has no text) keeps its row, is nobody's neighbour and has none.

    Attributes
    ----------
    config : IndexConfig
        The settings.
    encoder : str
        Fingerprint of the encoder that made the vectors.
    folder : Path or None
        Where it was last saved or loaded; its snapshots lie there.

    Notes
    -----
    Any number of threads may ask while one changes items. The rows of an answer are those of `ids` until the next
    change: an item that is removed leaves its row to the last one. Beside a writer ask `similar` or `near`, which
    answer in ids. Memory: the vectors once (4 or 2 bytes a number), and again inside the engine (4 bytes) with about 8
    ``links`` bytes an item where the search is approximate.

    Examples
    --------
    >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> index = NeighborIndex.build(Embeddings(["emma", "persuasion", "dracula"], vectors))
    >>> index
    NeighborIndex(3 x 2, cosine, exact)
    >>> index.similar("emma", k=2)
    Neighbors(persuasion 0.994, dracula 0.000)
    >>> index.remove(["persuasion"])
    >>> index.similar("emma", k=2)
    Neighbors(dracula 0.000)
    """

    @classmethod
    def build(
        cls,
        embeddings: Embeddings,
        config: IndexConfig | None = None,
        *,
        seed: int = 0,
        n_threads: int = 1,
        progress: bool = False,
    ) -> NeighborIndex:
        """Build an index over item vectors.

        Parameters
        ----------
        embeddings : Embeddings
            The items and their vectors.
        config : IndexConfig, optional
            Which engine, how it links, and what share of the true neighbours a query has to find.
        seed : int
            Seeds the levels of the graph.
        n_threads : int
            Threads that link items. One gives the same index every time; more are faster and link in an order that
            differs from run to run (-1: all cores).
        progress : bool
            Show a bar.

        Raises
        ------
        DataError
            If there is no item.
        MissingExtraError
            If the library of the engine is not installed.

        Notes
        -----
        About O(n_items log n_items) comparisons where approximate (some 25 s for 59,000 x 384 on one thread), none
        where exact; then 256 exact queries, and as many for each ``ef`` that is tried, at most six.
        """
        config = config or IndexConfig()
        if len(embeddings) == 0:
            raise DataError("there are no vectors to index; expected at least one item")
        vectors = stored(unit_vectors(embeddings.vectors, "the embeddings"), config)
        table = ItemTable(embeddings.ids, vectors)
        living = LivingSearch.build(table, config, seed, n_threads=n_threads, progress=progress)
        return cls(living, embeddings.encoder)

    # ---- asking

    def query(
        self,
        vectors: ArrayLike,
        k: int,
        *,
        exclude_rows: ArrayLike | None = None,
        where: Where | None = None,
    ) -> tuple[Rows, Similarities]:
        """Return the k nearest items of each vector.

        Parameters
        ----------
        vectors : array, shape (n_queries, dim)
            Finite numbers of any length; a zero vector has no neighbours.
        k : int
            How many, at least 1; may exceed the number of items.
        exclude_rows : array of int, shape (n_queries,), optional
            For each query one item that is left out, or -1.
        where : str, array or sequence, optional
            Which items may be found: a filter in words (see `llm_tail.neighbors.filters`; after `attach`), a mask of
            shape (n_items,), ids, or rows. Ids that are not there are passed over.

        Returns
        -------
        rows : array of int64, shape (n_queries, k)
            Best first; -1 where there are fewer than k.
        similarities : array of float32, shape (n_queries, k)
            Cosines in [-1, 1]; -inf where there are fewer than k.

        Raises
        ------
        DataError
            If a shape, a dtype or k is wrong, a value is not finite, or a filter cannot be read.

        Notes
        -----
        Approximate: O(max(ef, k) log n_items) comparisons a query, the queries spread over all cores. Exact:
        O(n_items) comparisons, in blocks of 64 MiB. With a filter: whichever is cheaper of comparing all items that
        pass, and of asking for so many more that k pass.
        """
        living = self._living
        k, queries = check_k(k), unit_vectors(vectors, "the queries", living.table.dim)
        with living.lock.read():
            if exclude_rows is None and where is None and k <= len(living.table):
                return living.find(queries, k)
            return self._find(queries, k, exclude_rows, where)

    def _find(
        self, queries: Vectors, k: int, exclude_rows: ArrayLike | None, where: Where | None
    ) -> tuple[Rows, Similarities]:
        living = self._living
        if exclude_rows is not None:
            exclude_rows = check_excluded(exclude_rows, len(queries), len(living.table))
        allowed = None if where is None else self._gate.allowed(where, living.table)
        if k > len(living.table):
            check_answer(len(queries), k, len(living.table))
        return living.find(queries, k, exclude_rows, allowed)

    def near(self, vectors: ArrayLike, k: int = 10, *, where: Where | None = None) -> list[Neighbors]:
        """Return the items nearest to each vector, in ids; the rest as `query` says."""
        k, queries = check_k(k), unit_vectors(vectors, "the queries", self.dim)
        with self._living.lock.read():
            rows, similarities = self._find(queries, k, None, where)
            return [self._named(*line) for line in zip(rows, similarities, strict=True)]

    def similar(self, item: str | ArrayLike, k: int = 10, *, where: Where | None = None) -> Neighbors:
        """Return the items nearest to an item, which is itself left out, or to a vector.

        Parameters
        ----------
        item : str or array of shape (dim,)
            An item id, or a vector such as an encoded text.
        k : int
            How many, at least 1; fewer come back where there are fewer.
        where : str, array or sequence, optional
            Which items may be found, as of `query`.

        Raises
        ------
        UnknownIdError
            If there is no such item.
        DataError
            If the vector is not of shape (dim,) or not finite.

        Examples
        --------
        >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> index = NeighborIndex.build(Embeddings(["emma", "persuasion", "dracula"], vectors))
        >>> items = [{"item_id": "persuasion", "year": 1817}, {"item_id": "dracula", "year": 1897}]
        >>> index.attach(Catalog.from_items(items)).similar("emma", where="year > 1850")
        Neighbors(dracula 0.000)
        """
        if not isinstance(item, str):
            vector = np.asarray(item)
            if vector.ndim != 1:
                raise DataError(f"the vector has shape {vector.shape}, expected ({self.dim},) or an item id")
            k, queries = check_k(k), unit_vectors(vector[None], "the queries", self.dim)
            with self._living.lock.read():
                rows, similarities = self._find(queries, k, None, where)
                return self._named(rows[0], similarities[0])
        k = check_k(k)
        with self._living.lock.read():
            row = np.array([self._living.table.row(item)])
            rows, similarities = self._find(self._of_rows(row), k, row, where)
            return self._named(rows[0], similarities[0])

    def similar_rows(self, rows: ArrayLike, k: int, *, where: Where | None = None) -> tuple[Rows, Similarities]:
        """Return the k nearest items of each of these items, itself left out; the rest as `query` says."""
        array: NDArray[Any] = np.asarray(rows)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(f"rows have shape {array.shape} and dtype {array.dtype}, expected (n,) whole numbers")
        k = check_k(k)
        with self._living.lock.read():
            if array.size and (array.min() < 0 or array.max() >= len(self)):
                raise DataError(f"rows run from {array.min()} to {array.max()}, expected 0 to {len(self) - 1}")
            return self._find(self._of_rows(array), k, array, where)

    def vector(self, item_id: str) -> Vectors:
        """Return the vector of one item, shape (dim,); an unknown one raises `UnknownIdError`."""
        with self._living.lock.read():
            found: Vectors = self._of_rows(np.array([self._living.table.row(item_id)]))[0]
        return found

    def cosines(self, vector: ArrayLike, item_ids: Sequence[str]) -> Similarities:
        """Return the cosine of a vector with each of some items, shape (n,); 0 for one without a vector or unknown."""
        query = unit_vectors(np.asarray(vector)[None], "the vector", self.dim)[0]
        with self._living.lock.read():
            rows = self._living.table.rows(list(item_ids))
            found = np.zeros(len(rows), dtype=np.float32)
            found[rows >= 0] = self._living.table.floats(rows[rows >= 0]) @ query
        return np.clip(found, -1.0, 1.0)

    def _of_rows(self, rows: NDArray[Any]) -> Vectors:
        return unit_vectors(self._living.table.floats(rows), "the items", self.dim)

    def _named(self, rows: Rows, similarities: Similarities) -> Neighbors:
        if rows[-1] < 0:
            rows, similarities = rows[rows >= 0], similarities[rows >= 0]
        return Neighbors(tuple(self._living.table.names(rows)), similarities)

    def attach(self, catalog: Catalog, segments: Segments | None = None) -> NeighborIndex:
        """Let filters in words look at the columns of a catalogue; return the index itself.

        Parameters
        ----------
        catalog : Catalog
            Some or all of the items, in any order; attach again when its columns have changed.
        segments : Segments, optional
            Of the catalogue; adds the column ``segment`` with ``head``, ``tail`` and ``cold``.
        """
        self._gate.attach(Columns(catalog, segments))
        return self

    def recall(self, k: int = 10, n: int = 200, seed: int = 0) -> float:
        """Return the share of the true k nearest that `similar_rows` finds, over n items drawn with `seed`, in [0, 1].

        An item that is as near as the k-th true one counts as found: among equal texts no answer is the right one.
        """
        k = check_k(k)
        living = self._living
        if living.engine.is_exact or living.table.n_live < 2:
            return 1.0
        with living.writing:
            return sample_of(living.table, living.engine, living.measured.ef, k=k, n=n, seed=seed).recall

    def __repr__(self) -> str:
        return f"NeighborIndex({len(self):,} x {self.dim}, cosine, {self.manner})"
