"""Embeddings: one unit vector for each item, in hand."""

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
    words : array, shape (n_items, dim_words), optional
        Another vector of each item, by the words that stand in its text and not by what they mean: see `with_words`.

    Raises
    ------
    DataError
        If a shape does not fit the ids or a value is not finite.

    Examples
    --------
    >>> Embeddings(["a", "b"], np.array([[3.0, 4.0], [0.0, 0.0]])).vectors.round(2).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """

    def __init__(
        self,
        ids: IdMap | Iterable[str],
        vectors: NDArray[Any],
        *,
        encoder: str = "",
        words: NDArray[Any] | None = None,
    ) -> None:
        self.ids = ids if isinstance(ids, IdMap) else IdMap(ids)
        self.vectors: Vectors = _of_length_one(vectors, len(self.ids), "vectors")
        self.words: Vectors | None = None if words is None else _of_length_one(words, len(self.ids), "words")
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
        check_all_there(ids, rows)
        words = None if self.words is None else self.words[rows]
        return Embeddings(ids, self.vectors[rows], encoder=self.encoder, words=words)

    def with_words(self, words: NDArray[Any]) -> Embeddings:
        """Return the same with another vector of each item beside the first, made of counted words.

        An encoder puts what means the same close together and loses the words themselves: a model number, a pattern, a
        series. The hybrid takes both and weighs them by validation (``hybrid.word_share``).

        Parameters
        ----------
        words : array, shape (n_items, dim_words)
            Such as those of one `TfidfEncoder`; zero for an item without known words.

        Raises
        ------
        DataError
            If the shape does not fit the ids or a value is not finite.

        Examples
        --------
        >>> from llm_tail.embedding.tfidf import TfidfEncoder
        >>> texts = ["a blue tea cup", "a red tea cup", "an iron pan"]
        >>> words = TfidfEncoder.fit(texts, pairs=True)
        >>> Embeddings("abc", np.eye(3)).with_words(words.encode(texts)).words.shape
        (3, 3)
        """
        return Embeddings(self.ids, self.vectors, encoder=self.encoder, words=words)

    def cut(self, dim: int) -> Embeddings:
        """Return the first `dim` components of each vector, scaled to length 1 again.

        Made for encoders trained that way (``lora.matryoshka``), and of use with most others: half the width keeps
        nearly all of the ranking. A. Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022.

        Raises
        ------
        DataError
            If `dim` is below 1 or above the width there is.

        Examples
        --------
        >>> Embeddings(["a"], np.array([[3.0, 4.0, 12.0]])).cut(2).vectors.round(2).tolist()
        [[0.6000000238418579, 0.800000011920929]]
        """
        if not 1 <= dim <= self.dim:
            raise DataError(f"vectors are {self.dim} wide and cannot be cut to {dim}; take 1 to {self.dim}")
        if dim == self.dim:
            return self
        return Embeddings(self.ids, unit(self.vectors[:, :dim]), encoder=self.encoder, words=self.words)

    def fingerprint(self) -> str:
        """Return a digest of ids, vectors and words."""
        return fingerprint(self.ids.values, self.vectors, *([] if self.words is None else [self.words]))

    def __getitem__(self, item_id: str) -> Vectors:
        vector: Vectors = self.vectors[self.ids.row(item_id)]
        return vector

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Embeddings({len(self):,} x {self.dim})"


def _of_length_one(vectors: NDArray[Any], n: int, what: str) -> Vectors:
    array = np.asarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[0] != n or array.shape[1] == 0:
        raise DataError(f"{what} have shape {array.shape}, expected ({n}, dim)")
    lengths = np.sqrt(np.einsum("ij,ij->i", array, array))  # (n_items,)
    if not np.isfinite(lengths).all():
        raise DataError(f"{int((~np.isfinite(lengths)).sum())} {what} hold NaN or infinite values")
    off = np.abs(lengths - 1.0) > 1e-6
    return unit(array) if (off & (lengths > 0)).any() else array


def unit(vectors: NDArray[Any]) -> Vectors:
    """Return rows scaled to length 1 as float32, shape (n, dim); zero rows stay zero."""
    array = np.array(vectors, dtype=np.float32, order="C")
    # In double precision, since the square of a large value would be infinite in single.
    lengths = np.sqrt(np.einsum("ij,ij->i", array, array, dtype=np.float64))  # (n,)
    array /= np.where(lengths > 0, lengths, 1.0).astype(np.float32)[:, None]
    return array


def check_all_there(ids: IdMap, rows: NDArray[np.int64]) -> None:
    """Raise `DataError` with the first missing ids where a row is -1."""
    if (rows < 0).any():
        missing = ", ".join(ids.values[rows < 0][:3])
        raise DataError(f"{int((rows < 0).sum())} items have no vector, such as {missing}; embed them first")
