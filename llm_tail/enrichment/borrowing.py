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
    if min(k, neighbors, min_lenders) < 1 or not -1 <= min_similarity <= 1:
        given = f"k is {k}, neighbors {neighbors}, min_lenders {min_lenders}, min_similarity {min_similarity}"
        raise ConfigError(f"{given}; expected at least 1 of the first three and a cosine")
    if len(vectors) != len(texts):
        raise DataError(f"{len(vectors)} vectors for {len(texts)} texts; expected one for each")
    vectors = unit(vectors)
    there = np.any(vectors != 0, axis=1)
    lenders = np.arange(len(texts)) if lenders is None else np.unique(np.asarray(lenders, np.int64))
    lenders = lenders[there[lenders]]
    if not len(lenders) or not len(borrowers):
        return [[] for _ in borrowers]
    held, names, idf = _held_words(texts, lenders)
    found: list[list[Loan]] = []
    for start in range(0, len(borrowers), _BLOCK):
        block = np.asarray(borrowers[start : start + _BLOCK], np.int64)
        near, cosines = _asked(vectors, block, lenders, neighbors, min_similarity, search or nearest_blocks)
        own = [set(words_of(texts[row])) for row in block]
        found += _loans(near, cosines, held, names, idf, own, lenders, k, min_lenders)
    return found


def _held_words(texts: Sequence[str], lenders: Rows) -> tuple[sp.csr_matrix, list[str], NDArray[np.float64]]:
    """Return which lender holds which word, shape (n_lenders, n_words), the words and their rarity."""
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
    held = sp.csr_matrix((ones, columns, ends), shape=(len(lenders), max(len(places), 1)))
    counts = np.bincount(held.indices, minlength=held.shape[1])
    return held, list(places), np.log((1 + len(lenders)) / (1 + counts)) + 1


def _asked(
    vectors: Floats, borrowers: Rows, lenders: Rows, n: int, min_similarity: float, search: Search
) -> tuple[Rows, Floats]:
    """Return places in `lenders` and cosines of those that are asked, best first; -1 and 0 where there is none."""
    rows, cosines = search(vectors[borrowers], vectors[lenders], min(n + 1, len(lenders)))
    fit = (rows >= 0) & (cosines >= min_similarity) & (cosines > 0)
    fit &= lenders[np.maximum(rows, 0)] != borrowers[:, None]
    fit &= np.cumsum(fit, axis=1) <= n  # one more was looked up, for where the borrower finds itself
    return np.where(fit, rows, -1), np.where(fit, cosines, 0.0).astype(np.float32)


def _loans(
    near: Rows,
    cosines: Floats,
    held: sp.csr_matrix,
    names: list[str],
    idf: NDArray[np.float64],
    own: list[set[str]],
    lenders: Rows,
    k: int,
    min_lenders: int,
) -> list[list[Loan]]:
    """Return the loans of one block."""
    line, place = np.nonzero(near >= 0)
    asked = sp.csr_matrix((cosines[line, place], (line, near[line, place])), shape=(len(near), held.shape[0]))
    weights = (asked @ held).tocsr()  # (n_block, n_words): the lenders' similarities
    one_each = sp.csr_matrix((np.ones_like(asked.data), asked.indices, asked.indptr), shape=asked.shape)
    counts = (one_each @ held).tocsr()
    weights.sort_indices()
    counts.sort_indices()
    totals = cosines.sum(axis=1)
    found = []
    for row in range(len(near)):
        part = slice(weights.indptr[row], weights.indptr[row + 1])
        enough = counts.data[part] >= min_lenders
        words, near_by = weights.indices[part][enough], weights.data[part][enough]
        worth = np.round(near_by * idf[words], 5)
        order = sorted(range(len(words)), key=lambda one: (-worth[one], names[words[one]]))
        taken = [one for one in order if names[words[one]] not in own[row]][:k]
        best = max((worth[one] for one in taken), default=1.0)
        loans = []
        for one in taken:
            column = int(words[one])
            who = [int(lenders[j]) for j in near[row] if j >= 0 and held[j, column]]
            share = float(near_by[one] / totals[row])
            loans.append(Loan(names[column], round(float(worth[one] / best), 4), round(share, 4), tuple(who)))
        found.append(loans)
    return found
