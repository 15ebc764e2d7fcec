"""Borrowed words: what several near items say and a thin one does not, each word with those who lent it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.embedding.embeddings import unit
from llm_tail.embedding.negatives import Search, nearest_blocks
from llm_tail.enrichment.keyphrases import CommonWords, words_of
from llm_tail.errors import ConfigError, DataError

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_BLOCK = 2048  # items whose words are looked at together
_FEWEST_LETTERS = 2


class Loan(NamedTuple):
    """A word that an item was lent.

    Attributes
    ----------
    word : str
        In lower case.
    weight : float
        Similarity of the lenders times rarity of the word, as a share of the item's best, in (0, 1].
    share : float
        Share of the nearest items, by similarity, that hold the word, in (0, 1].
    lenders : tuple of int
        Rows of the items that hold it, nearest first.
    """

    word: str
    weight: float
    share: float
    lenders: tuple[int, ...]


def borrow_words(
    texts: Sequence[str],
    vectors: Floats,
    borrowers: Rows,
    *,
    lenders: Rows | None = None,
    k: int = 8,
    neighbors: int = 10,
    min_lenders: int = 3,
    min_similarity: float = 0.4,
    search: Search | None = None,
) -> list[list[Loan]]:
    """Return the words that each borrower's nearest lenders share and that it lacks, best first.

    Parameters
    ----------
    texts : sequence of str
        Of all items; a lender's words are taken from here.
    vectors : array of float32, shape (n_texts, dim)
        Their unit vectors; a zero vector neither lends nor borrows.
    borrowers : array of int64, shape (n_borrowers,)
        Rows of the items that are to get words.
    lenders : array of int64, optional
        Rows of the items that may lend; all with a text if left out. A borrower never lends to itself.
    k : int
        Most words of an item, at least 1.
    neighbors : int
        Nearest lenders that are asked, at least 1.
    min_lenders : int
        How many of them have to hold a word, at least 1: what one alone says is its own.
    min_similarity : float
        Lenders whose cosine is below are not asked, in [-1, 1].
    search : callable, optional
        ``search(queries, base, k)`` gives rows and cosines of the nearest, as `neighbors.exact.nearest` does; exact
        search in blocks if left out.

    Raises
    ------
    ConfigError
        If a setting is out of its range.
    DataError
        If `vectors` do not fit `texts`.

    Notes
    -----
    A word w weighs idf(w) sum_j cos(i, j) over the asked lenders j that hold it. One sparse product a block of 2,048
    borrowers; beside it the words of the lenders once, and the search.

    Examples
    --------
    >>> texts = ["Moby-Dick", "whale hunt at sea", "a whale and the sea", "iron pan"]
    >>> vectors = np.array([[1, 0], [0.9, 0.1], [0.8, 0.2], [0, 1]], np.float32)
    >>> found = borrow_words(texts, vectors, np.array([0]), min_lenders=2)[0]
    >>> [(loan.word, loan.lenders) for loan in found]
    [('sea', (1, 2)), ('whale', (1, 2))]
    """
    lending = Lending(texts, vectors, lenders, search=search)
    return lending.lend(borrowers, k=k, neighbors=neighbors, min_lenders=min_lenders, min_similarity=min_similarity)


class Lending:
    """The lenders' words and vectors, gone through once, for those who ask part by part; see `borrow_words`.

    Parameters
    ----------
    texts, vectors, lenders, search
        As in `borrow_words`.

    Notes
    -----
    Memory: 12 bytes for each distinct word of each lender's text, and the lenders' vectors once more.
    """

    def __init__(
        self, texts: Sequence[str], vectors: Floats, lenders: Rows | None = None, *, search: Search | None = None
    ) -> None:
        if len(vectors) != len(texts):
            raise DataError(f"{len(vectors)} vectors for {len(texts)} texts; expected one for each")
        self.texts, self.vectors, self.search = texts, unit(vectors), search or nearest_blocks
        there = np.any(self.vectors != 0, axis=1)
        rows = np.arange(len(texts)) if lenders is None else np.unique(np.asarray(lenders, np.int64))
        self.rows = rows[there[rows]]
        self._base = self.vectors if len(self.rows) == len(texts) else self.vectors[self.rows]
        self._held, self._names = _held_words(texts, self.rows)
        counts = np.bincount(self._held.indices, minlength=self._held.shape[1])
        self._rarity = np.log((1 + len(self.rows)) / (1 + counts)) + 1

    def lend(
        self,
        borrowers: Rows,
        *,
        k: int = 8,
        neighbors: int = 10,
        min_lenders: int = 3,
        min_similarity: float = 0.4,
    ) -> list[list[Loan]]:
        """Return what `borrow_words` does, with the same parameters."""
        if min(k, neighbors, min_lenders) < 1 or not -1 <= min_similarity <= 1:
            given = f"k is {k}, neighbors {neighbors}, min_lenders {min_lenders}, min_similarity {min_similarity}"
            raise ConfigError(f"{given}; expected at least 1 of the first three and a cosine")
        borrowers = np.asarray(borrowers, np.int64)
        if not len(self.rows):
            return [[] for _ in borrowers]
        found: list[list[Loan]] = []
        for start in range(0, len(borrowers), _BLOCK):
            block = borrowers[start : start + _BLOCK]
            near, cosines = self._asked(block, neighbors, min_similarity)
            found += self._loans(block, near, cosines, k, min_lenders)
        return found

    def _asked(self, borrowers: Rows, n: int, min_similarity: float) -> tuple[Rows, Floats]:
        """Return places among the lenders and cosines of those that are asked; -1 and 0 where there is none."""
        rows, cosines = self.search(self.vectors[borrowers], self._base, min(n + 1, len(self.rows)))
        fit = (rows >= 0) & (cosines >= min_similarity) & (cosines > 0)
        fit &= self.rows[np.maximum(rows, 0)] != borrowers[:, None]
        fit &= np.cumsum(fit, axis=1) <= n  # one more was looked up, for where the borrower finds itself
        return np.where(fit, rows, -1), np.where(fit, cosines, 0.0).astype(np.float32)

    def _loans(self, borrowers: Rows, near: Rows, cosines: Floats, k: int, min_lenders: int) -> list[list[Loan]]:
        """Return the loans of one block."""
        line, place = np.nonzero(near >= 0)
        shape = (len(near), self._held.shape[0])
        asked = sp.csr_matrix((cosines[line, place], (line, near[line, place])), shape=shape)
        one_each = sp.csr_matrix((np.ones_like(asked.data), asked.indices, asked.indptr), shape=shape)
        weights, counts = (asked @ self._held).tocsr(), (one_each @ self._held).tocsr()  # (n_block, n_words)
        weights.sort_indices()
        counts.sort_indices()
        taken: list[tuple[int, int, float, float]] = []  # of all borrowers: line, word, worth, similarity
        for row, borrower in enumerate(borrowers):
            part = slice(weights.indptr[row], weights.indptr[row + 1])
            enough = counts.data[part] >= min_lenders
            words, similar = weights.indices[part][enough].tolist(), weights.data[part][enough]
            worth = np.round(similar * self._rarity[words], 5).tolist()
            own = set(words_of(self.texts[borrower]))
            order = sorted(range(len(words)), key=lambda one: (-worth[one], self._names[words[one]]))
            lent = [one for one in order if self._names[words[one]] not in own][:k]
            taken += [(row, words[one], worth[one], float(similar[one])) for one in lent]
        return self._told(near, cosines, taken)

    def _told(self, near: Rows, cosines: Floats, taken: list[tuple[int, int, float, float]]) -> list[list[Loan]]:
        """Return loans with their lenders, by borrower."""
        if not taken:
            return [[] for _ in near]
        lines = np.array([one[0] for one in taken], dtype=np.int64)
        words = np.array([one[1] for one in taken], dtype=np.int64)
        asked = near[lines]  # (n_loans, n_neighbors) places of lenders
        holds = np.zeros(asked.shape, dtype=bool)
        for slot in range(asked.shape[1]):
            said = np.asarray(self._held[np.maximum(asked[:, slot], 0), words]).ravel() > 0
            holds[:, slot] = said & (asked[:, slot] >= 0)
        totals, best = cosines.sum(axis=1), np.zeros(len(near))
        np.maximum.at(best, lines, [one[2] for one in taken])
        found: list[list[Loan]] = [[] for _ in near]
        for (line, word, worth, similar), places, held in zip(taken, asked, holds, strict=True):
            who = tuple(self.rows[places[held]].tolist())
            weight, share = round(worth / best[line], 4), round(similar / float(totals[line]), 4)
            found[line].append(Loan(self._names[word], float(weight), min(share, 1.0), who))
        return found


def _held_words(texts: Sequence[str], lenders: Rows) -> tuple[sp.csr_matrix, list[str]]:
    """Return which lender holds which word, shape (n_lenders, n_words), and the words."""
    stop, _ = CommonWords.of([texts[row] for row in lenders])
    places: dict[str, int] = {}
    columns: list[int] = []
    ends = [0]
    for row in lenders:
        for word in dict.fromkeys(words_of(texts[row])):
            if word not in stop and len(word) >= _FEWEST_LETTERS and not word.isdigit():
                columns.append(places.setdefault(word, len(places)))
        ends.append(len(columns))
    ones = np.ones(len(columns), dtype=np.float32)
    return sp.csr_matrix((ones, columns, ends), shape=(len(lenders), max(len(places), 1))), list(places)
