"""HnswEngine: a navigable small-world graph (HNSW), as hnswlib builds and searches it.

Yu. Malkov, D. Yashunin, https://arxiv.org/abs/1603.09320. That library trusts its caller: a query of the wrong width
corrupts the heap, a truncated file crashes the process, adding while another thread asks is not safe, and a k that it
cannot serve raises. What reaches it has been checked, and is locked, by `NeighborIndex`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import hnswlib
import numpy as np

from llm_tail.config import IndexConfig
from llm_tail.data.ids import Rows
from llm_tail.neighbors.engines import SlotEngine
from llm_tail.neighbors.exact import Similarities, Vectors

FILE = "index.hnsw"
GROWTH = 1.25
LEAST_EF = 10


class HnswEngine(SlotEngine):
    """Slots in hnswlib, by inner products of vectors of length 1."""

    name: ClassVar[str] = "hnswlib"

    def __init__(self, dim: int, config: IndexConfig, seed: int) -> None:
        super().__init__(dim, config, seed)
        self._hnsw: Any = hnswlib.Index(space="ip", dim=dim)
        self._room, self._ef = 0, LEAST_EF

    def make_room(self, n_slots: int) -> None:
        """Be ready for this many slots in all."""
        if n_slots <= self._room:
            return
        if not self._room:
            self._room = n_slots
            links, wide = self.config.links, self.config.ef_construction
            self._hnsw.init_index(max_elements=n_slots, M=links, ef_construction=wide, random_seed=self.seed)
            self._hnsw.set_ef(self._ef)
        else:
            self._room = max(n_slots, int(GROWTH * self._room))
            self._hnsw.resize_index(self._room)

    def set_ef(self, ef: int) -> None:
        """Let every search look at `ef` candidates at least."""
        self._ef = max(ef, LEAST_EF)
        self._hnsw.set_ef(self._ef)

    def _insert(self, slots: Rows, vectors: Vectors, n_threads: int) -> None:
        self._hnsw.add_items(vectors, slots, num_threads=n_threads)

    def _kill(self, slots: Rows) -> None:
        for slot in slots.tolist():
            self._hnsw.mark_deleted(slot)

    def search(self, queries: Vectors, k: int, ef: int) -> tuple[Rows, Similarities]:
        """Return the k nearest rows of each query."""
        # The same as in the base, with fewer steps: a question takes as long as twenty lines of Python.
        if k <= self._ef and ef <= self._ef:
            try:
                slots, distances = self._hnsw.knn_query(queries, k)  # (n_queries, k)
                return self._row_of[slots.view(np.int64)], np.subtract(1.0, distances, out=distances)
            except RuntimeError:  # it reached fewer than k for one of the queries at least
                pass
        return super().search(queries, k, ef)

    def _find(self, queries: Vectors, k: int, ef: int) -> tuple[Any, Similarities]:
        # It looks at max(ef, k) candidates, and its ef is shared by all threads: who wants more asks for more.
        asked = k if ef <= self._ef else min(ef, self.n_held)
        try:
            slots, distances = self._hnsw.knn_query(queries, k=asked)  # (n_queries, asked)
        except RuntimeError:
            return self._find_apart(queries, k, ef)
        if asked > k:
            slots, distances = slots[:, :k], distances[:, :k]
        return slots, np.subtract(1.0, distances, out=distances)

    def _find_apart(self, queries: Vectors, k: int, ef: int) -> tuple[Any, Similarities]:
        n = len(queries)
        if n == 1:
            return np.zeros((1, k), dtype=np.int64), np.full((1, k), -np.inf, dtype=np.float32)
        halves = [self._find(part, k, ef) for part in (queries[: n // 2], queries[n // 2 :])]
        return tuple(np.concatenate(parts) for parts in zip(*halves, strict=True))  # type: ignore[return-value]

    def save(self, folder: Path) -> None:
        """Write the slots and the links."""
        super().save(folder)
        self._hnsw.save_index(str(folder / FILE))

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""
        super().restore(folder)
        self._hnsw.load_index(str(folder / FILE))
        self._room = self._hnsw.get_max_elements()
        self._hnsw.set_ef(self._ef)  # the file does not hold it
