"""Search by meaning and by words at once: two rankings put together by the places that items have in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_tail.errors import DataError
from llm_tail.neighbors.answers import Neighbors
from llm_tail.neighbors.columns import Where
from llm_tail.neighbors.exact import check_k
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.neighbors.words import WordIndex

How = Literal["vectors", "words", "both"]
HOWS = ("vectors", "words", "both")
CONSTANT = 60
DEPTH, LEAST_DEPTH = 5, 100  # of each ranking, this many times k, and at least so many, are looked at


@dataclass(frozen=True, repr=False, eq=False)
class Found(Neighbors):
    """What a search found, and where each item stands in the rankings behind it.

    Parameters
    ----------
    item_ids : tuple of str
        The items, best first.
    similarities : array of float32, shape (n,)
        Cosines with the question, 0 for an item without a vector; BM25 scores where only words were looked at. Where
        both were, they do not fall from the first item to the last.
    how : str
        ``vectors``, ``words`` or ``both``.
    scores : array of float32, shape (n,)
        What the items are ordered by.
    vector_ranks, word_ranks : array of int64, shape (n,)
        The place of each item in either ranking, from 1; 0 where it is not among the first of it.
    """

    how: How
    scores: NDArray[np.float32]
    vector_ranks: NDArray[np.int64]
    word_ranks: NDArray[np.int64]


def fuse(rankings: Sequence[Sequence[str]], k: int, *, constant: int = CONSTANT) -> list[tuple[str, float]]:
    """Put rankings together: an item scores the sum of 1 / (constant + its place) over them.

    G. V. Cormack et al., "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods", SIGIR
    2009, with its constant of 60.

    Parameters
    ----------
    rankings : sequence of sequences of str
        Items, best first, each once in each.
    k : int
        How many to return at most.
    constant : int
        Large ones let the places matter less.

    Returns
    -------
    list of (item_id, score)
        Best first; of equal ones, that which comes first in the earlier ranking.

    Examples
    --------
    >>> [item for item, _ in fuse([["a", "b", "c"], ["c", "b", "d"]], k=3)]
    ['c', 'b', 'a']
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for place, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (constant + place)
    return sorted(scores.items(), key=lambda pair: -pair[1])[: check_k(k)]


class HybridSearch:
    """Search by meaning and by words.

    Parameters
    ----------
    index : NeighborIndex
        By meaning.
    words : WordIndex
        By words; of the same items.
    encode : callable
        Turns a text into a vector of shape (dim,), such as ``lambda text: encoder.encode([text], kind="query")[0]``.
        Asked for only where vectors are.

    Examples
    --------
    >>> from llm_tail.embedding.store import Embeddings
    >>> items = ["bolt", "nut", "glue"]
    >>> index = NeighborIndex.build(Embeddings(items, np.array([[1.0, 0.1], [0.9, 0.3], [0.0, 1.0]])))
    >>> words = WordIndex.build(items, ["hex bolt M8", "hex nut M8-A2", "strong glue"])
    >>> search = HybridSearch(index, words, lambda text: np.array([1.0, 0.0]))
    >>> search.search("M8-A2", k=2).item_ids
    ('bolt', 'nut')
    >>> search.search("M8-A2", k=2, how="words").item_ids
    ('nut', 'bolt')
    """

    def __init__(self, index: NeighborIndex, words: WordIndex, encode: Callable[[str], ArrayLike]) -> None:
        self.index, self.words, self.encode = index, words, encode

    def search(self, text: str, k: int = 10, *, where: Where | None = None, how: How = "both") -> Found:
        """Return the items that a text asks for.

        Parameters
        ----------
        text : str
            Some words.
        k : int
            How many at most.
        where : str, array or sequence, optional
            Which items may be found: a filter in words (after `attach` on both), or ids.
        how : {"both", "vectors", "words"}
            What is looked at.

        Raises
        ------
        DataError
            If the text is empty, k is below 1, or there is no such way.
        """
        if how not in HOWS:
            raise DataError(f"how is {how!r}, expected one of: {', '.join(HOWS)}")
        if not isinstance(text, str) or not text.strip():
            raise DataError("an empty text is near nothing; give an item id or some words")
        vector = None if how == "words" else np.asarray(self.encode(text))
        return self.ranked(vector, text if how != "vectors" else None, check_k(k), where=where)

    def ranked(
        self,
        vector: NDArray[Any] | None,
        text: str | None,
        k: int,
        *,
        where: Where | None = None,
        without: str | None = None,
    ) -> Found:
        """Search with a vector, a text or both at hand, one item left out; the rest as `search` says."""
        deep = max(DEPTH * k, LEAST_DEPTH) if vector is not None and text is not None else k
        deep += without is not None
        near = none_found() if vector is None else self.index.similar(vector, deep, where=where)
        said = none_found() if text is None else self.words.search(text, deep, where=where)
        rankings = [[item for item in found.item_ids if item != without] for found in (near, said)]
        fused = fuse(rankings, k)
        items = tuple(item for item, _ in fused)
        how: How = "words" if vector is None else "vectors" if text is None else "both"
        if vector is not None and text is not None:
            scores = np.array([score for _, score in fused], dtype=np.float32)
            cosines = self.index.cosines(vector, items)
        else:
            known = dict(near if how == "vectors" else said)
            scores = cosines = np.array([known[item] for item in items], dtype=np.float32)
        return Found(items, cosines, how, scores, _places(items, rankings[0]), _places(items, rankings[1]))


def none_found() -> Neighbors:
    """Return an answer without items."""
    return Neighbors((), np.empty(0, dtype=np.float32))


def _places(items: Sequence[str], ranking: Sequence[str]) -> NDArray[np.int64]:
    place = {item: number for number, item in enumerate(ranking, 1)}
    return np.array([place.get(item, 0) for item in items], dtype=np.int64)
