"""FaissEngine: the same kind of graph as hnswlib's, by faiss; the extra ``faiss`` brings it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llm_tail.config import IndexConfig
from llm_tail.data.ids import Rows
from llm_tail.neighbors.engines import SlotEngine
from llm_tail.neighbors.exact import Similarities, Vectors

FILE = "index.faiss"


def library() -> Any:
    """Return faiss, whose stubs know its C++ side only."""
    import faiss

    return faiss


class FaissEngine(SlotEngine):
    """Slots in faiss's HNSW, by inner products; dead ones are passed over by a bitmap, since it cannot remove any."""

    name: ClassVar[str] = "faiss"

    def __init__(self, dim: int, config: IndexConfig, seed: int) -> None:
        super().__init__(dim, config, seed)
        self._lib = lib = library()
        if config.storage == "float16":
            half = lib.ScalarQuantizer.QT_fp16
            self._faiss: Any = lib.IndexHNSWSQ(dim, half, config.links, lib.METRIC_INNER_PRODUCT)
        else:
            self._faiss = lib.IndexHNSWFlat(dim, config.links, lib.METRIC_INNER_PRODUCT)
        self._faiss.hnsw.efConstruction = config.ef_construction
        self._faiss.hnsw.rng = lib.RandomGenerator(seed)
        self._alive = np.empty(0, dtype=np.uint8)  # a bit for each slot

    def _insert(self, slots: Rows, vectors: Vectors, n_threads: int) -> None:
        lib = self._lib
        before = lib.omp_get_max_threads()
        lib.omp_set_num_threads(n_threads if n_threads > 0 else before)
        try:
            if not self._faiss.is_trained:
                self._faiss.train(vectors)
            self._faiss.add(vectors)
        finally:
            lib.omp_set_num_threads(before)
        self._mark(np.concatenate([self._row_of[: self.n_slots] >= 0, np.ones(len(slots), dtype=bool)]))

    def _kill(self, slots: Rows) -> None:
        alive = self._row_of[: self.n_slots] >= 0
        alive[slots] = False
        self._mark(alive)

    def _mark(self, alive: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        self._alive = np.packbits(alive, bitorder="little")

    def _find(self, queries: Vectors, k: int, ef: int) -> tuple[Any, Similarities]:
        lib = self._lib
        asked = lib.SearchParametersHNSW()
        asked.efSearch = ef
        if self.n_dead:
            asked.sel = lib.IDSelectorBitmap(self._alive)
        similarities, slots = self._faiss.search(queries, k, params=asked)  # (n_queries, k)
        similarities[slots < 0] = -np.inf
        return slots, np.minimum(similarities, 1.0, out=similarities)

    def save(self, folder: Path) -> None:
        """Write the slots and the links."""
        super().save(folder)
        self._lib.write_index(self._faiss, str(folder / FILE))

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""
        super().restore(folder)
        self._faiss = self._lib.read_index(str(folder / FILE))
        self._mark(self._row_of >= 0)
