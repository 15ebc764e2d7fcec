"""ProductIndex: which keys have the largest inner product with a query, whatever their lengths.

`NeighborIndex` looks at directions alone. Where lengths count, as in the vectors of a recommender, the usual way round
(one number more that makes all keys of one length) finds little: of the hundred best among 4,385 items 63 %, where a
graph that is linked by inner products finds 99 % in the same time. Such a graph is no metric one, and works all the
same: S. Morozov, A. Babenko, "Non-metric Similarity Graphs for Maximum Inner Product Search", NeurIPS 2018.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Self

import hnswlib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import fingerprint, read_artifact, write_artifact
from llm_tail.config import IndexConfig
from llm_tail.data.ids import Rows
from llm_tail.errors import ConfigError, CorruptArtifactError, DataError
from llm_tail.neighbors.exact import BLOCK_BYTES, check_k

Floats = NDArray[np.float32]
KIND = "product-index"


class ProductIndex:
    """Keys by their inner products; made with `build` or `load`, and not changed afterwards.

    Attributes
    ----------
    keys : array of float32, shape (n_keys, dim)
    config : IndexConfig
        Below ``exact_below`` keys every query is compared with all of them.

    Notes
    -----
    Any number of threads may ask at once. Memory: the keys once, and again inside hnswlib with about 8 ``links`` bytes
    a key where the search is approximate.

    Examples
    --------
    >>> index = ProductIndex.build(np.array([[1.0, 0.0], [3.0, 3.0], [0.0, 1.0]]))
    >>> rows, products = index.query(np.array([[2.0, 1.0]]), k=2)
    >>> rows.tolist(), products.tolist()
    ([[1, 0]], [[9.0, 2.0]])
    """

    def __init__(self, keys: Floats, config: IndexConfig, seed: int) -> None:
        self.keys, self.config, self.seed = keys, config, seed
        self._hnsw: Any = None

    @classmethod
    def build(cls, keys: ArrayLike, config: IndexConfig | None = None, *, seed: int = 0) -> Self:
        """Link keys; O(n_keys log n_keys) comparisons on one thread, none where it is exact.

        Parameters
        ----------
        keys : array, shape (n_keys, dim)
            Finite numbers; one row a key.
        config : IndexConfig, optional
            How it is linked, and below how many keys it is not.
        seed : int
            Seeds the levels of the graph.

        Raises
        ------
        DataError
            If there are none, or they are no finite numbers.
        """
        index = cls(_checked(keys, "the keys"), config or IndexConfig(), seed)
        if len(index.keys) == 0:
            raise DataError("there are no keys to index; expected at least one")
        if len(index.keys) > max(index.config.exact_below, 1):
            index._hnsw = hnswlib.Index(space="ip", dim=index.dim)
            index._hnsw.init_index(
                max_elements=len(index.keys),
                M=index.config.links,
                ef_construction=index.config.ef_construction,
                random_seed=seed,
            )
            index._hnsw.add_items(index.keys, num_threads=1)  # more threads link in an order that differs each time
            index._hnsw.set_ef(index.ef)
        return index

    @property
    def dim(self) -> int:
        """The width of a key."""
        return int(self.keys.shape[1])

    @property
    def ef(self) -> int:
        """Keys looked at in a query: as set, 64 where it is left open."""
        return self.config.ef or 64

    @property
    def is_exact(self) -> bool:
        """True where every query is compared with every key."""
        return self._hnsw is None

    def query(self, queries: ArrayLike, k: int) -> tuple[Rows, Floats]:
        """Return for each query the keys with the largest inner products.

        Parameters
        ----------
        queries : array, shape (n_queries, dim)
            Finite numbers.
        k : int
            At least 1; more than n_keys counts as n_keys.

        Returns
        -------
        rows : array of int64, shape (n_queries, k)
            Best first.
        products : array of float32, shape (n_queries, k)

        Raises
        ------
        DataError
            If a shape, a dtype or k is wrong, or a value is not finite.
        """
        k, asked = min(check_k(k), len(self)), _checked(queries, "the queries", self.dim)
        if self._hnsw is not None and 2 * k < len(self) and len(asked):
            # hnswlib raises where it cannot reach k keys from its entry point.
            with contextlib.suppress(RuntimeError):
                return self._search(asked, k)
        rows, products = np.empty((len(asked), k), dtype=np.int64), np.empty((len(asked), k), dtype=np.float32)
        step = max(1, BLOCK_BYTES // (4 * len(self)))
        for start in range(0, len(asked), step):
            part = slice(start, start + step)
            found = asked[part] @ self.keys.T  # (n_block, n_keys)
            best = np.argpartition(-found, k - 1, axis=1)[:, :k]
            rows[part], products[part] = _sorted(best, np.take_along_axis(found, best, axis=1))
        return rows, products

    def _search(self, queries: Floats, k: int) -> tuple[Rows, Floats]:
        # hnswlib looks at max(ef, asked) keys; asking for twice as many keeps the far end of a long answer good.
        ask = min(k if 2 * k <= self.ef else 2 * k, len(self))
        labels, distances = self._hnsw.knn_query(queries, k=ask)  # (n_queries, ask); 1 - product
        rows, products = _sorted(labels.astype(np.int64), (1.0 - distances).astype(np.float32))
        return rows[:, :k], products[:, :k]

    def recall(self, queries: ArrayLike, k: int = 10) -> float:
        """Return the share of the true k best of these queries that are found, in [0, 1]; equally good ones count."""
        if self.is_exact:
            return 1.0
        _, found = self.query(queries, k)
        _, true = type(self)(self.keys, self.config, self.seed).query(queries, k)
        return float((found >= true[:, -1:] - 1e-6 * np.abs(true[:, -1:])).mean())

    def save(self, folder: str | Path) -> Path:
        """Write the index and return its folder: ``keys.safetensors`` and, where approximate, ``index.hnsw``."""
        facts = {"config": self.config.model_dump(), "seed": self.seed, "exact": self.is_exact}
        with write_artifact(folder, KIND, fingerprint(self.keys, facts), facts) as draft:
            save_file({"keys": self.keys}, draft.file("keys.safetensors"))
            if not self.is_exact:
                self._hnsw.save_index(str(draft.file("index.hnsw")))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read an index that `save` wrote; every file is checked against its digest first.

        Raises
        ------
        StaleArtifactError, CorruptArtifactError
            If there is none, or it is damaged.
        """
        artifact = read_artifact(folder, KIND)
        try:
            keys = load_file(artifact.file("keys.safetensors"))["keys"]
            index = cls(keys, IndexConfig(**artifact.facts["config"]), artifact.facts["seed"])
            if not artifact.facts["exact"]:
                index._hnsw = hnswlib.Index(space="ip", dim=index.dim)
                index._hnsw.load_index(str(artifact.file("index.hnsw")))
                index._hnsw.set_ef(index.ef)  # the file does not hold it
        except (KeyError, TypeError, ConfigError, RuntimeError) as error:
            raise CorruptArtifactError(f"the {KIND} at {folder} cannot be read ({error})", "make it again") from error
        return index

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        how = "exact" if self.is_exact else f"M={self.config.links}, ef={self.ef}"
        return f"ProductIndex({len(self):,} x {self.dim}, {how})"


def _checked(vectors: ArrayLike, what: str, dim: int | None = None) -> Floats:
    """Return vectors as contiguous float32: hnswlib corrupts the heap where the width is another."""
    given = np.asarray(vectors)
    if given.dtype.kind not in "fiu" or given.ndim != 2 or given.shape[1] != (dim or given.shape[1]):
        raise DataError(
            f"{what} have shape {given.shape} and dtype {given.dtype}, expected numbers (n, {dim or 'dim'})"
        )
    array = np.ascontiguousarray(given, dtype=np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{what} hold NaN or infinite values; expected finite ones")
    return array


def _sorted(rows: Rows, products: Floats) -> tuple[Rows, Floats]:
    """Return both with the best first, equal ones by row."""
    order = np.lexsort((rows, -products), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(products, order, axis=1)
