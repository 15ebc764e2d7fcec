"""EmbeddingStore and Embeddings: vectors of a catalogue, on disk and in hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_tail.artifacts import fingerprint
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.errors import DataError

Vectors = NDArray[np.float32]


class Embeddings:
    """One vector for each item, of unit length; an item without any text has the zero vector.

    Parameters
    ----------
    ids : IdMap or iterable of str
        The items.
    vectors : array, shape (n_items, dim)
        Finite; every row that is not zero is scaled to length 1 (float32).
    encoder : str
        Fingerprint of the encoder that made them.

    Raises
    ------
    DataError
        If the shape does not fit the ids or a value is not finite.

    Examples
    --------
    >>> Embeddings(["a", "b"], np.array([[3.0, 4.0], [0.0, 0.0]])).vectors.round(2).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """

    def __init__(self, ids: IdMap | Iterable[str], vectors: NDArray[Any], *, encoder: str = "") -> None:
        self.ids = ids if isinstance(ids, IdMap) else IdMap(ids)
        array = np.asarray(vectors, dtype=np.float32)
        if array.ndim != 2 or array.shape[0] != len(self.ids) or array.shape[1] == 0:
            raise DataError(f"vectors have shape {array.shape}, expected ({len(self.ids)}, dim)")
        lengths = np.linalg.norm(array, axis=1, keepdims=True)  # (n_items, 1)
        if not np.isfinite(lengths).all():
            raise DataError(f"{int((~np.isfinite(lengths)).sum())} vectors hold NaN or infinite values")
        off = np.abs(lengths - 1.0) > 1e-6
        if (off & (lengths > 0)).any():
            array = np.divide(array, lengths, out=np.zeros_like(array), where=lengths > 0)
        self.vectors: Vectors = array
        self.encoder = encoder

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return int(self.vectors.shape[1])

    def on(self, items: IdMap | Catalog) -> Embeddings:
        """Return the vectors in the order of `items`; every one of these needs a vector here."""
        ids = items if isinstance(items, IdMap) else items.ids
        if ids == self.ids:
            return self
        rows = self.ids.rows(ids.values)
        if (rows < 0).any():
            missing = ", ".join(ids.values[rows < 0][:3])
            raise DataError(f"{int((rows < 0).sum())} items have no vector, such as {missing}; embed them first")
        return Embeddings(ids, self.vectors[rows], encoder=self.encoder)

    def fingerprint(self) -> str:
        """Return a digest of ids and vectors."""
        return fingerprint(self.ids.values, self.vectors)

    def __getitem__(self, item_id: str) -> Vectors:
        vector: Vectors = self.vectors[self.ids.row(item_id)]
        return vector

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Embeddings({len(self):,} x {self.dim})"
