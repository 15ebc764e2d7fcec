"""TextSpace: where items lie by their texts, by what these mean and by the words that stand in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from llm_tail.config import HybridConfig
from llm_tail.errors import DataError
from llm_tail.recommenders.fusion import Floats, text_signal
from llm_tail.recommenders.tuning import ValidationTask, objective

if TYPE_CHECKING:
    from llm_tail.embedding.embeddings import Embeddings

SHARES = (0.0, 0.15, 0.3, 0.5)  # of the words; past a half every catalogue that was looked at lost
NEARLY = 0.01  # of two shares that are as good the smaller one is taken


@dataclass(frozen=True)
class TextSpace:
    """Unit vectors around their centre, of meaning and of words side by side: their cosine is the weighted mean.

    Attributes
    ----------
    centre : array of float32, shape (dim,)
        What all vectors share, and so tells none apart.
    words_centre : array of float32, shape (dim_words,), or None
        The same of the vectors of words; None where there are none.
    share : float
        How much of the cosine is that of the words, in [0, 1]; at 0 they are left out.

    Examples
    --------
    >>> from llm_tail.embedding.embeddings import Embeddings
    >>> items = Embeddings("abcd", np.eye(4)[[0, 0, 1, 1]]).with_words(np.eye(4)[[2, 3, 2, 3]])
    >>> vectors = TextSpace.around(items, share=0.25).place(items)
    >>> (vectors @ vectors[0]).round(3).tolist()  # a shares its meaning with b, a word with c, nothing with d
    [1.0, 0.5, -0.5, -1.0]
    """

    centre: Floats
    words_centre: Floats | None
    share: float

    @classmethod
    def around(cls, embeddings: Embeddings, share: float) -> Self:
        """Return the space around the mean of these vectors."""
        return cls(_mean(embeddings.vectors), None if embeddings.words is None else _mean(embeddings.words), share)

    @property
    def hears_words(self) -> bool:
        """Whether vectors of words have any weight."""
        return self.words_centre is not None and self.share > 0

    def check(self, embeddings: Embeddings) -> None:
        """Raise `DataError` where vectors have another width."""
        if embeddings.dim != len(self.centre):
            raise DataError(f"vectors are {embeddings.dim} wide, expected {len(self.centre)}")
        if self.words_centre is not None and self.hears_words and embeddings.words is not None:
            width = embeddings.words.shape[1]
            if width != len(self.words_centre):
                raise DataError(f"vectors of words are {width} wide, expected {len(self.words_centre)}")

    def place(self, embeddings: Embeddings) -> Floats:
        """Return unit vectors in this space, shape (n_items, dim or dim + dim_words); without any text zero.

        Items that come without vectors of words lie where their meaning alone puts them.
        """
        n, dim = embeddings.vectors.shape
        if self.words_centre is None or not self.hears_words:
            return _around(embeddings.vectors, self.centre, np.empty((n, dim), dtype=np.float32))
        both = np.zeros((n, dim + len(self.words_centre)), dtype=np.float32)
        _around(embeddings.vectors, self.centre, both[:, :dim], np.sqrt(1.0 - self.share))
        if embeddings.words is not None:
            _around(embeddings.words, self.words_centre, both[:, dim:], np.sqrt(self.share))
        return _scaled(both)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that are written to disk; the share stands with the settings."""
        words = {} if self.words_centre is None else {"words_centre": self.words_centre}
        return {"centre": self.centre, **words}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]], share: float) -> Self:
        """Return the space whose arrays were written."""
        return cls(state["centre"], state.get("words_centre"), share)


def choose_share(task: ValidationTask, embeddings: Embeddings, config: HybridConfig) -> tuple[float, dict[str, Any]]:
    """Return how much the words are to say, by what the texts alone reach on validation, and what was measured."""
    tried, goal = {}, config.goal
    for share in sorted({*SHARES, config.word_share}):
        vectors = TextSpace.around(embeddings, share).place(embeddings)
        tried[share] = task.measure(text_signal(task.histories, vectors, config.kernel_power))
        del vectors  # before the next ones are made
    found = {share: objective(measured, goal) for share, measured in tried.items()}
    enough = max(found.values()) * (1.0 - NEARLY)
    best = min(share for share, quality in found.items() if quality >= enough)
    return best, {f"{share:g}": measured for share, measured in tried.items()}


def _mean(vectors: Floats) -> Floats:
    there = vectors.any(axis=1)
    if not there.any():
        return np.zeros(vectors.shape[1], dtype=np.float32)
    return np.asarray(vectors.mean(axis=0, dtype=np.float64) * (len(vectors) / there.sum()), dtype=np.float32)


def _around(vectors: Floats, centre: Floats, out: Floats, length: float = 1.0) -> Floats:
    """Write vectors of this length around the centre; zero vectors stay zero."""
    np.subtract(vectors, centre, out=out)
    out[~vectors.any(axis=1)] = 0.0
    return _scaled(out, length)


def _scaled(vectors: Floats, length: float = 1.0) -> Floats:
    """Scale rows to a length in place; what is next to nothing becomes zero."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    factors = np.divide(length, lengths, out=np.zeros_like(lengths), where=lengths > 1e-6)
    vectors *= factors[:, None]
    return vectors
