"""Parts of a sharded index: which item belongs where, how one is built, and how answers are put together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm_tail.config import IndexConfig
from llm_tail.data.ids import Rows
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, StaleArtifactError
from llm_tail.neighbors.exact import Similarities, Vectors, unit_vectors
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.neighbors.saving import made_from, stored


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


def ids_in(source: Embeddings | VectorSource) -> pa.ChunkedArray:
    """Return all ids in one pass over the vectors; Arrow holds them in a quarter of what Python's strings take."""
    blocks = [source.ids.values] if isinstance(source, Embeddings) else (ids for ids, _ in source.blocks())
    return pa.chunked_array([pa.array(ids, pa.large_string()) for ids in blocks], pa.large_string())


def owners_of(ids: pa.ChunkedArray, n_parts: int) -> NDArray[np.int32]:
    """Return the part of each item."""
    found = [part_of(chunk.to_pylist(), n_parts) for chunk in ids.chunks]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int32)


def taken(source: Embeddings | VectorSource, ids: pa.ChunkedArray, rows: Rows) -> Embeddings:
    """Return some items and their vectors."""
    vectors = source.vectors[rows] if isinstance(source, Embeddings) else source.take(rows)
    return Embeddings(ids.take(pa.array(rows)).to_pylist(), vectors, encoder=source.encoder)


def built(items: Embeddings, config: IndexConfig, place: Path | None, seed: int, n_threads: int) -> NeighborIndex:
    """Return the index of a part; where one of the very same items lies there, it is taken as it is."""
    if place is None:
        return NeighborIndex.build(items, config, seed=seed, n_threads=n_threads)
    vectors = stored(unit_vectors(items.vectors, "the embeddings"), config)
    try:
        return NeighborIndex.load(place, made_from(items.ids, vectors, config, seed))
    except (StaleArtifactError, CorruptArtifactError):
        part = NeighborIndex.build(items, config, seed=seed, n_threads=n_threads)
        part.save(place)
        return part


def about(part: NeighborIndex | None, *, named: bool = True) -> dict[str, Any]:
    """Return what the manifest says of a part; its fingerprint, which takes a look at every byte, where `named`."""
    if part is None:
        return {"made_from": "", "n_live": 0, "exact": True, "recall": 1.0, "ef": 0, "dim": 0}
    found = {"n_live": part.n_live, "exact": part.is_exact, "recall": part.measured_recall}
    return {"made_from": part.fingerprint() if named else "", **found, "ef": part.ef, "dim": part.dim}


def facts_of(parts: Sequence[dict[str, Any]], config: IndexConfig, seed: int, encoder: str) -> dict[str, Any]:
    """Return what the manifest says of all of it."""
    n_live = sum(part["n_live"] for part in parts)
    return {
        "parts": [part["made_from"] for part in parts],
        "about": list(parts),
        "n_live": n_live,
        "exact": all(part["exact"] for part in parts),
        "ef": max(part["ef"] for part in parts),
        "measured_recall": sum(part["recall"] * part["n_live"] for part in parts) / n_live if n_live else 1.0,
        "dim": max(part["dim"] for part in parts),
        "config": config.model_dump(),
        "seed": seed,
        "encoder": encoder,
    }
