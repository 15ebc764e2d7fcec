"""TextSpace: where items lie by their texts: by what these mean, by their words, and by what people take together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import HybridConfig
from llm_tail.errors import DataError
from llm_tail.recommenders.fusion import Floats, text_signal
from llm_tail.recommenders.text_metric import Directions
from llm_tail.recommenders.tuning import ValidationTask, most_people, objective

if TYPE_CHECKING:
    from llm_tail.data.interactions import Interactions
    from llm_tail.embedding.embeddings import Embeddings

SHARES = (0.0, 0.15, 0.3, 0.5)  # of the words; past a half every catalogue that was looked at lost
POWERS = (0.0, 0.1, 0.25, 0.5)  # of the metric that people's baskets give
NEARLY = 0.01  # by how much two settings may differ and still be as good as each other

Key = TypeVar("Key")


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
    metric : array of float32, shape (width, width), or None
        What vectors are multiplied with in the end (`Directions`); None leaves them.

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
    metric: Floats | None = None

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
            return self._moved(_around(embeddings.vectors, self.centre, np.empty((n, dim), dtype=np.float32)))
        both = np.zeros((n, dim + len(self.words_centre)), dtype=np.float32)
        _around(embeddings.vectors, self.centre, both[:, :dim], np.sqrt(1.0 - self.share))
        if embeddings.words is not None:
            _around(embeddings.words, self.words_centre, both[:, dim:], np.sqrt(self.share))
        return self._moved(_scaled(both))

    def _moved(self, vectors: Floats) -> Floats:
        return vectors if self.metric is None else _scaled(vectors @ self.metric)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that are written to disk; share and metric stand elsewhere."""
        words = {} if self.words_centre is None else {"words_centre": self.words_centre}
        return {"centre": self.centre, **words}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]], share: float, metric: Floats | None) -> Self:
        """Return the space whose arrays were written."""
        return cls(state["centre"], state.get("words_centre"), share, metric)


class Spaces:
    """The spaces of one catalogue that differ in their metric alone, by its power; the vectors in those used are kept.

    Parameters
    ----------
    embeddings : Embeddings
        Of all items.
    share : float
        How much the words say.
    taken : csr_matrix, shape (n_users, n_items)
        Who took what, for the metric.
    seed : int
        Draws people, where there are very many.
    """

    def __init__(self, embeddings: Embeddings, share: float, taken: sp.csr_matrix, seed: int) -> None:
        self._embeddings, self._taken, self._seed = embeddings, taken, seed
        self._plain = TextSpace.around(embeddings, share)
        self._placed: dict[float, Floats] = {}

    @cached_property
    def _directions(self) -> Directions | None:
        return Directions.learn(self._plain.place(self._embeddings), self._taken, self._seed)

    def at(self, power: float) -> TextSpace:
        """Return the space with the metric to this power; without any where it is 0, or nothing is to be learned."""
        if power == 0 or self._directions is None:
            return self._plain
        return replace(self._plain, metric=self._directions.metric(power))

    def place(self, power: float) -> Floats:
        """Return the unit vectors of all items there."""
        if power not in self._placed:
            self._placed[power] = self.at(power).place(self._embeddings)
        return self._placed[power]


def lay_out(
    embeddings: Embeddings,
    taken: sp.csr_matrix,
    cut: tuple[Interactions, sp.csr_matrix] | None,
    config: HybridConfig,
    seed: int,
) -> tuple[Spaces, HybridConfig, dict[str, Any]]:
    """Choose where items lie by their texts, before all else: neighbours and ID embeddings hang on it.

    The share of the words and how strongly the metric counts where texts speak for themselves, by what the texts alone
    reach on validation. Where shares are level as the vectors are, the metric may bring out what the words of one say:
    it is tried with each of these, ever stronger until that no longer gains.

    Parameters
    ----------
    embeddings : Embeddings
        Of all items.
    taken : csr_matrix, shape (n_users, n_items)
        Who took what.
    cut : tuple, optional
        What to learn from in its place, and who took what that it may be judged by (`tuning.cut_for_choosing`).
    config : HybridConfig
        Where to begin.
    seed : int
        Draws people.

    Returns
    -------
    spaces, config, record
        The spaces to choose from, the settings with what was chosen, and what was measured.
    """
    taken = taken if cut is None else cut[0].matrix()
    if cut is None or not config.tune:
        return Spaces(embeddings, config.word_share, taken, seed), config, {}
    task = ValidationTask.build(taken, cut[1], max_users=most_people(taken.shape[1]), seed=seed)

    def measure(space: TextSpace) -> dict[str, float]:
        return task.measure(text_signal(task.histories, space.place(embeddings), config.kernel_power))

    shares = sorted({*SHARES, config.word_share}) if config.word_share > 0 else [0.0]
    spaces = {share: Spaces(embeddings, share, taken, seed) for share in shares}
    plain = {share: measure(space.at(0.0)) for share, space in spaces.items()}
    tried: dict[float, dict[float, dict[str, float]]] = {}
    for share in _level(plain, config.goal):
        tried[share] = by_power = {0.0: plain[share]}
        for power in sorted({*POWERS, config.text_metric} - {0.0}):
            before = max(objective(measured, config.goal) for measured in by_power.values())
            by_power[power] = measure(spaces[share].at(power))
            if objective(by_power[power], config.goal) < before:
                break
    both = {(share, power): m for share, by_power in tried.items() for power, m in by_power.items()}
    share, power = min(_level(both, config.goal))
    record: dict[str, Any] = {} if shares == [0.0] else {"words": {"share": share, "tried": _named(plain)}}
    record["metric"] = {"power": power, "tried": {f"{share:g}": _named(found) for share, found in tried.items()}}
    return spaces[share], config.replace(word_share=share, text_metric=power), record


def _level(tried: Mapping[Key, Mapping[str, float]], goal: str) -> list[Key]:
    """Return those that are as good as the best."""
    found = {key: objective(measured, goal) for key, measured in tried.items()}
    enough = max(found.values()) * (1.0 - NEARLY)
    return [key for key, quality in found.items() if quality >= enough]


def _named(tried: Mapping[float, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {f"{value:g}": dict(measured) for value, measured in tried.items()}


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
