"""NeighborIndex: which items lie near an item or a vector.

Small catalogues are searched exactly; larger ones through a navigable small-world graph (HNSW, Malkov and Yashunin,
https://arxiv.org/abs/1603.09320) as built by hnswlib. That library trusts its caller: a query of the wrong width
corrupts the heap, a truncated file crashes the process, a k that it cannot serve raises. So nothing reaches it
unchecked, no file is opened before its digest was compared, and exact search answers what it cannot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import fingerprint as digest
from llm_tail.artifacts import read_artifact, write_artifact
from llm_tail.config import IndexConfig
from llm_tail.data.ids import IdMap, Rows
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import ConfigError, CorruptArtifactError, DataError
from llm_tail.neighbors.exact import Similarities, Vectors, check_excluded, check_k, nearest, search, unit_vectors
from llm_tail.neighbors.lock import ReadWriteLock
from llm_tail.progress import track

__all__ = ["NeighborIndex", "Neighbors", "nearest"]

KIND = "neighbor-index"
ADD_BLOCK = 2048
QUERY_BLOCK = 4096


@dataclass(frozen=True, repr=False, eq=False)
class Neighbors:
    """What lies near: items and their cosines, best first.

    Parameters
    ----------
    item_ids : tuple of str
        The items.
    similarities : array of float32, shape (n,)
        Their cosines, in [-1, 1].
    """

    item_ids: tuple[str, ...]
    similarities: Similarities

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(zip(self.item_ids, self.similarities.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.item_ids)

    def __getitem__(self, place: int) -> tuple[str, float]:
        return self.item_ids[place], float(self.similarities[place])

    def __repr__(self) -> str:
        shown = [f"{item_id} {similarity:.3f}" for item_id, similarity in list(self)[:5]]
        return f"Neighbors({', '.join([*shown, '...'] if len(self) > 5 else shown) or 'none'})"


class NeighborIndex:
    """Items by the directions of their vectors; made with `build` or `load`.

    An item with the zero vector (it has no text) keeps its row, is nobody's neighbour and has none.

    Attributes
    ----------
    ids : IdMap
        The items; their rows are the rows of every answer.
    vectors : array of float32, shape (n_items, dim)
        Of length 1 or 0.
    config : IndexConfig
        The settings.
    encoder : str
        Fingerprint of the encoder that made the vectors.
    measured_recall : float
        Share of the true ten nearest that a query finds, measured at build; 1.0 where search is exact.

    Notes
    -----
    Any number of threads may ask at once. Memory: the vectors once, and again inside hnswlib with about 8 ``links``
    bytes an item where the search is approximate.

    Examples
    --------
    >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> index = NeighborIndex.build(Embeddings(["emma", "persuasion", "dracula"], vectors))
    >>> index
    NeighborIndex(3 x 2, cosine, exact)
    >>> index.similar("emma", k=2)
    Neighbors(persuasion 0.994, dracula 0.000)
    """

    def __init__(
        self,
        ids: IdMap,
        vectors: Vectors,
        config: IndexConfig,
        *,
        seed: int = 0,
        encoder: str = "",
    ) -> None:
        self.ids, self.vectors, self.config = ids, vectors, config
        self.seed, self.encoder = seed, encoder
        self.measured_recall = 1.0
        self._live: Rows = np.flatnonzero(vectors.any(axis=1)).astype(np.int64)
        self._hnsw: Any = None
        self._lock = ReadWriteLock()

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
            Below ``exact_below`` items with a vector, every query is compared with all of them.
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

        Notes
        -----
        About O(n_items log n_items) comparisons where approximate (some 25 s for 59,000 x 384 on one thread), none
        where exact; then 200 exact queries to measure the recall.
        """
        if len(embeddings) == 0:
            raise DataError("there are no vectors to index; expected at least one item")
        vectors = unit_vectors(embeddings.vectors, "the embeddings")
        index = cls(embeddings.ids, vectors, config or IndexConfig(), seed=seed, encoder=embeddings.encoder)
        if index.n_live > max(index.config.exact_below, 1):
            index._hnsw = hnswlib.Index(space="cosine", dim=index.dim)
            index._hnsw.init_index(
                max_elements=index.n_live,
                M=index.config.links,
                ef_construction=index.config.ef_construction,
                random_seed=seed,
            )
            index._hnsw.set_ef(index.config.ef)
            index._link(index._live, n_threads, progress)
            index.measured_recall = index.recall()
        return index

    def _link(self, rows: Rows, n_threads: int, progress: bool) -> None:
        starts: Iterable[int] = range(0, len(rows), ADD_BLOCK)
        if progress:
            starts = track(starts, "Linking neighbours")
        for start in starts:
            part = rows[start : start + ADD_BLOCK]
            with self._lock.write():
                self._hnsw.add_items(self.vectors[part], part, num_threads=n_threads)

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return int(self.vectors.shape[1])

    @property
    def n_live(self) -> int:
        """How many items can be found: those whose vector is not zero."""
        return len(self._live)

    @property
    def is_exact(self) -> bool:
        """True where every query is compared with every item."""
        return self._hnsw is None

    def query(self, vectors: ArrayLike, k: int, *, exclude_rows: ArrayLike | None = None) -> tuple[Rows, Similarities]:
        """Return the k nearest items of each vector.

        Parameters
        ----------
        vectors : array, shape (n_queries, dim)
            Finite numbers of any length; a zero vector has no neighbours.
        k : int
            How many, at least 1; may exceed the number of items.
        exclude_rows : array of int, shape (n_queries,), optional
            For each query one item that is left out, or -1.

        Returns
        -------
        rows : array of int64, shape (n_queries, k)
            Best first; -1 where there are fewer than k.
        similarities : array of float32, shape (n_queries, k)
            Cosines in [-1, 1]; -inf where there are fewer than k.

        Raises
        ------
        DataError
            If a shape, a dtype or k is wrong, or a value is not finite.

        Notes
        -----
        Approximate: O(max(ef, k) log n_items) comparisons a query, the queries spread over all cores. Exact:
        O(n_items) comparisons, in blocks of 64 MiB.
        """
        k, queries = check_k(k), unit_vectors(vectors, "the queries", self.dim)
        excluded = check_excluded(exclude_rows, len(queries), len(self))
        n = len(queries)
        rows, similarities = np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
        width = min(k, self.n_live)
        if width == 0:
            return rows, similarities
        with self._lock.read():
            for start in range(0, n, QUERY_BLOCK):
                part = slice(start, min(start + QUERY_BLOCK, n))
                left_out = None if excluded is None else excluded[part]
                rows[part, :width], similarities[part, :width] = self._search(queries[part], width, left_out)
        return rows, similarities

    def similar(self, item: str | ArrayLike, k: int = 10) -> Neighbors:
        """Return the items nearest to an item, which is itself left out, or to a vector.

        Parameters
        ----------
        item : str or array of shape (dim,)
            An item id, or a vector such as an encoded text.
        k : int
            How many, at least 1; fewer come back where there are fewer.

        Raises
        ------
        UnknownIdError
            If there is no such item.
        DataError
            If the vector is not of shape (dim,) or not finite.
        """
        if isinstance(item, str):
            rows, similarities = self.similar_rows([self.ids.row(item)], k)
        else:
            vector = np.asarray(item)
            if vector.ndim != 1:
                raise DataError(f"the vector has shape {vector.shape}, expected ({self.dim},) or an item id")
            rows, similarities = self.query(vector[None], k)
        found = rows[0] >= 0
        return Neighbors(tuple(map(str, self.ids.values[rows[0][found]])), similarities[0][found])

    def similar_rows(self, rows: ArrayLike, k: int) -> tuple[Rows, Similarities]:
        """Return the k nearest items of each of these items, itself left out; shapes and costs as of `query`."""
        array: NDArray[Any] = np.asarray(rows)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(f"rows have shape {array.shape} and dtype {array.dtype}, expected (n,) whole numbers")
        if array.size and (array.min() < 0 or array.max() >= len(self)):
            raise DataError(f"rows run from {array.min()} to {array.max()}, expected 0 to {len(self) - 1}")
        return self.query(self.vectors[array], k, exclude_rows=array)

    def recall(self, k: int = 10, n: int = 200, seed: int = 0) -> float:
        """Return the share of the true k nearest that `similar_rows` finds, over n items drawn with `seed`, in [0, 1].

        An item that is as near as the k-th true one counts as found: among equal texts no answer is the right one.
        """
        k = min(check_k(k), self.n_live - 1)
        if self.is_exact or k < 1:
            return 1.0
        rows = np.random.default_rng(seed).choice(self._live, size=min(n, self.n_live), replace=False)
        _, found = self.similar_rows(rows, k)
        _, true = search(self.vectors[rows], self.vectors, k, rows)
        return float((found >= true[:, -1:] - 1e-6).mean())

    def _search(self, queries: Vectors, k: int, excluded: Rows | None) -> tuple[Rows, Similarities]:
        if self._hnsw is not None and 2 * k < self.n_live:
            # hnswlib raises where it cannot reach k items from its entry point.
            with contextlib.suppress(RuntimeError):
                return self._search_hnsw(queries, k, excluded)
        return search(queries, self.vectors, k, excluded)

    def _search_hnsw(self, queries: Vectors, k: int, excluded: Rows | None) -> tuple[Rows, Similarities]:
        ask = k if excluded is None else k + 1
        # hnswlib looks at max(ef, asked) candidates. Asking for twice as many keeps the far end of a long answer
        # good, and leaves `ef`, which all threads share, alone.
        ask = min(ask if 2 * ask <= self.config.ef else 2 * ask, self.n_live)
        labels, distances = self._hnsw.knn_query(queries, k=ask)  # (n_queries, ask)
        rows = labels.astype(np.int64)
        similarities = np.clip(1.0 - distances, -1.0, 1.0).astype(np.float32)  # a distance can be -1e-7
        if excluded is not None:
            similarities[rows == excluded[:, None]] = -np.inf
        order = np.lexsort((rows, -similarities), axis=1)[:, :k]
        rows, similarities = np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarities, order, axis=1)
        similarities[~queries.any(axis=1)] = -np.inf
        return np.where(similarities > -np.inf, rows, -1), similarities

    def fingerprint(self) -> str:
        """Return a digest of the items, their vectors, the settings and the seed."""
        return digest(self.ids.values, self.vectors, self.config.model_dump(), self.seed)

    def save(self, folder: str | Path, *, fingerprint: str | None = None) -> Path:
        """Write the index and return its folder.

        Parameters
        ----------
        folder : path
            Gets ``vectors.safetensors``, ``ids.parquet`` and, where approximate, ``index.hnsw``.
        fingerprint : str, optional
            Digest of what it was made from; `fingerprint` of the index itself if left out.
        """
        facts = {
            "n_items": len(self),
            "dim": self.dim,
            "exact": self.is_exact,
            "measured_recall": self.measured_recall,
            "config": self.config.model_dump(),
            "seed": self.seed,
            "encoder": self.encoder,
        }
        with self._lock.read(), write_artifact(folder, KIND, fingerprint or self.fingerprint(), facts) as draft:
            save_file({"vectors": self.vectors}, draft.file("vectors.safetensors"))
            pd.DataFrame({"id": self.ids.values.astype(str)}).to_parquet(draft.file("ids.parquet"))
            if self._hnsw is not None:
                self._hnsw.save_index(str(draft.file("index.hnsw")))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None) -> NeighborIndex:
        """Read an index that `save` wrote; every file is checked against its digest before it is opened.

        Raises
        ------
        StaleArtifactError
            If it is not there, or was made from something else than `fingerprint` says.
        CorruptArtifactError
            If a file is not what was written.
        """
        artifact = read_artifact(folder, KIND, fingerprint, stage="llm-tail index")
        try:
            config, facts = IndexConfig(**artifact.facts["config"]), artifact.facts
            ids = IdMap(pd.read_parquet(artifact.file("ids.parquet"))["id"].to_numpy(), "item")
            vectors = load_file(artifact.file("vectors.safetensors"))["vectors"]
            index = cls(ids, vectors, config, seed=facts["seed"], encoder=facts["encoder"])
            index.measured_recall = float(facts["measured_recall"])
            if not facts["exact"]:
                index._hnsw = hnswlib.Index(space="cosine", dim=index.dim)
                index._hnsw.load_index(str(artifact.file("index.hnsw")))
                index._hnsw.set_ef(config.ef)  # the file does not hold it
        except (KeyError, TypeError, ConfigError, RuntimeError) as error:
            raise CorruptArtifactError(
                f"the {KIND} at {folder} cannot be read ({error})", "remove the folder, then run: llm-tail index"
            ) from error
        return index

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        how = "exact"
        if not self.is_exact:
            how = f"M={self.config.links}, ef={self.config.ef}, recall@10 {self.measured_recall:.2f}"
        return f"NeighborIndex({len(self):,} x {self.dim}, cosine, {how})"
