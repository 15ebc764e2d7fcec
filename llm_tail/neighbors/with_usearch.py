"""UsearchEngine: the same kind of graph as hnswlib's, by usearch, which can hold it in float16; an extra brings it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_tail.config import IndexConfig
from llm_tail.data.ids import Rows
from llm_tail.neighbors.engines import SlotEngine
from llm_tail.neighbors.exact import Similarities, Vectors

FILE = "index.usearch"


class UsearchEngine(SlotEngine):
    """Slots in usearch, by inner products; questions take turns, since each of them uses all of its threads."""

    name: ClassVar[str] = "usearch"

    def __init__(self, dim: int, config: IndexConfig, seed: int) -> None:
        super().__init__(dim, config, seed)
        from usearch.index import Index

        self._usearch: Any = Index(
            ndim=dim,
            metric="ip",
            dtype="f16" if config.storage == "float16" else "f32",
            connectivity=config.links,
            expansion_add=config.ef_construction,
            expansion_search=1,  # it looks at as many as it is asked for
        )
        self._turn = threading.Lock()

    def _insert(self, slots: Rows, vectors: Vectors, n_threads: int) -> None:
        self._usearch.add(slots.astype(np.uint64), vectors, threads=max(n_threads, 0))

    def _kill(self, slots: Rows) -> None:
        self._usearch.remove(slots.astype(np.uint64))

    def _find(self, queries: Vectors, k: int, ef: int) -> tuple[Any, Similarities]:
        with self._turn:
            found = self._usearch.search(queries, min(ef, self.n_held))
        # A single question is answered with arrays of one dimension, as long as what was found.
        n, counts = len(queries), np.atleast_1d(getattr(found, "counts", len(found)))  # (n_queries,)
        slots, similarities = np.zeros((n, k), dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
        keys, distances = found.keys.reshape(n, -1)[:, :k], found.distances.reshape(n, -1)[:, :k]
        there = np.arange(keys.shape[1]) < counts[:, None]
        slots[:, : keys.shape[1]] = np.where(there, keys, 0)
        similarities[:, : keys.shape[1]] = np.where(there, np.minimum(1.0 - distances, 1.0), -np.inf)
        return slots, similarities

    def save(self, folder: Path) -> None:
        """Write the slots and the links."""
        super().save(folder)
        self._usearch.save(str(folder / FILE))

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""
        super().restore(folder)
        self._usearch.load(str(folder / FILE))
