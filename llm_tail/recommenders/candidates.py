"""What one person's history says of a few items, where ID embeddings are of low rank and no matrix of scores is kept.

The IDs' part of a score is linear in the history, so that a person is one query and an item one key, into which both
its own ID embedding and what it inherits have gone::

    s_i = key_i . q  -  what items say of themselves  +  text_i
    q = sum_h x_h voice_h queries_h,   key_i = lift_i (trust_i keys_i + (1 - trust_i) borrow sum_j a_ij keys_j)

for a cold item in the history queries_h is that of its neighbours. The names are those of `hybrid`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.ids import Rows
from llm_tail.recommenders.fusion import ITEMS_AT_ONCE, text_kernel, text_weights, trust
from llm_tail.recommenders.low_rank import FactoredEmbeddings
from llm_tail.threads import in_blocks

if TYPE_CHECKING:
    from llm_tail.recommenders.scoring import ScoreMatrix

Floats = NDArray[np.float32]


class Candidates:
    """The scores of a few items for one history at a time, the same as by the matrix of scores.

    Parameters
    ----------
    model : HybridRecommender
        Fitted. Make another once it has learned something.
    known : FactoredEmbeddings
        Its ID embeddings.

    Attributes
    ----------
    keys : array of float32, shape (n_items, rank)
        What each item hears by its own ID and by those of its neighbours.

    Notes
    -----
    Memory: `keys`, and three numbers an item. One history costs O(n_owned (rank + n_asked dim) + n_asked (rank +
    neighbors)), where a cold item that is owned counts as its neighbours.
    """

    def __init__(self, model: ScoreMatrix, known: FactoredEmbeddings) -> None:
        config = model.config
        self._model, self._known = model, known
        self._own, self._lent = hearing(model)
        self._text: Floats = text_weights(model._counts, config) * np.float32(model._mass) * model._lift
        self.keys: Floats = np.empty((len(model._counts), known.keys.shape[1]), dtype=np.float32)

        def hear(some: slice) -> None:
            self.keys[some] = heard(model, known, some)

        in_blocks(hear, len(self.keys), ITEMS_AT_ONCE)

    def score(self, owned: Rows, weights: Floats, asked: Rows) -> Floats:
        """Return the scores of the items asked for, shape (n_asked,), by a history of these items and weights."""
        model, known = self._model, self._known
        voice = weights * model._voice[owned]
        place = model._place_of[owned]
        cold = place < 0
        line, lender, share = _entries(model._borrowing, owned[cold])
        speaking = np.concatenate([place[~cold], lender])  # places among the warm items
        loudness = np.concatenate([voice[~cold], share * voice[cold][line]])
        scores = self.keys[asked] @ (loudness @ known.queries[speaking])
        scores -= self._of_themselves(speaking, loudness * known.of_itself[speaking], asked)
        kernel = text_kernel(model._vectors[owned], model._vectors[asked], model.config.kernel_power)
        scores += (voice @ kernel) * self._text[asked]
        itself = np.isin(asked, owned)
        if itself.any():  # of these not only the part that is heard by an item's own ID has to go
            scores[itself] = weights @ model._said(owned, asked[itself])
        return np.asarray(scores, dtype=np.float32)

    def _of_themselves(self, speaking: Rows, said: Floats, asked: Rows) -> Floats:
        """Return what those asked for hear of warm items that speak for themselves, shape (n_asked,)."""
        places, which = np.unique(speaking, return_inverse=True)
        words = np.append(np.bincount(which, said, minlength=len(places)), 0.0)  # the last is for those who are silent

        def told(listening: Rows) -> NDArray[np.float64]:
            found = np.searchsorted(places, listening)
            there = np.append(places, -1)[found] == listening
            return words[np.where(there, found, len(places))]

        place = self._model._place_of[asked]
        line, lender, share = _entries(self._model._borrowing, asked)
        lent = np.bincount(line, share * told(lender), minlength=len(asked))
        own = np.where(place >= 0, told(place), 0.0)
        return np.asarray(own * self._own[asked] + lent * self._lent[asked], dtype=np.float32)


def hearing(model: ScoreMatrix, some: slice = slice(None)) -> tuple[Floats, Floats]:
    """Return how much items hear by their own ID and by those of their neighbours, each (n_items,)."""
    own_share = trust(model._counts[some], model.config)
    lent = (1.0 - own_share) * np.float32(model.config.borrow)
    return own_share * model._lift[some], lent * model._lift[some]


def heard(model: ScoreMatrix, known: FactoredEmbeddings, some: slice) -> Floats:
    """Return the keys of these items, shape (n_items, rank); see above."""
    own, lent = hearing(model, some)
    keys = np.asarray(model._borrowing[some] @ known.keys, dtype=np.float32)
    keys *= lent[:, None]
    place = model._place_of[some]
    has_id = place >= 0
    keys[has_id] += known.keys[place[has_id]] * own[has_id, None]
    return keys


def _entries(matrix: sp.csr_matrix, rows: Rows) -> tuple[Rows, Rows, Floats]:
    """Return line, column and value of all entries of these rows; for a few of them, a new matrix costs more."""
    start = matrix.indptr[rows].astype(np.int64)
    length = matrix.indptr[rows + 1] - start
    line = np.repeat(np.arange(len(rows)), length)
    at = np.arange(len(line)) + (start - (np.cumsum(length) - length))[line]
    return line, matrix.indices[at], matrix.data[at]
