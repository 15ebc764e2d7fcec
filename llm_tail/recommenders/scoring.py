"""The matrix of scores: what every owned item says of every item, whole where it is small, made as asked where not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import HybridConfig
from llm_tail.data.ids import Rows
from llm_tail.recommenders.collaborative import Embedded
from llm_tail.recommenders.fusion import Floats, lend, lift, speech, text_kernel, text_weights, trust
from llm_tail.recommenders.low_rank import FactoredEmbeddings

if TYPE_CHECKING:
    from llm_tail.recommenders.explaining import SignalShares

BLOCK_BYTES = 64 << 20
WHOLE_BYTES = 2 << 30  # a larger score matrix is not kept; its rows are made when somebody owns them


class ScoreMatrix:
    """What a fitted hybrid says, as a matrix of shape (n_items, n_items): rows are owned, columns are scored.

    The formula stands in `hybrid`. This is a part of `HybridRecommender`, which sets what is named here.
    """

    config: HybridConfig
    _vectors: Floats
    _counts: NDArray[np.int64]
    _collaborative: Embedded
    _borrowing: sp.csr_matrix
    _mass: float
    _weights: Floats | None
    _lift: Floats
    _voice: Floats
    _place_of: Rows  # among the warm items; -1 for cold ones
    _assembled: object  # another one whenever scores have changed

    def _rows(self, owned: Rows, asked: Rows | None = None) -> tuple[Floats, Floats, Floats]:
        """Return the own, borrowed and text part of what owned items say of those asked, each (n_owned, n_asked)."""
        voice = self._voice[owned][:, None]  # (n_owned, 1)
        own, borrowed = self._heard(owned, asked)
        own *= voice
        borrowed *= voice
        counts, vectors = self._counts, self._vectors
        if asked is not None:
            counts, vectors = counts[asked], vectors[asked]
        own_share = trust(counts, self.config)
        own *= own_share
        borrowed *= (1.0 - own_share) * np.float32(self.config.borrow)
        text = text_kernel(self._vectors[owned], vectors, self.config.kernel_power)
        text *= text_weights(counts, self.config) * np.float32(self._mass) * voice
        itself = (np.arange(len(owned)), owned) if asked is None else np.equal.outer(owned, asked)
        lifted = self._lift if asked is None else self._lift[asked]
        for part in (own, borrowed, text):
            part *= lifted
            part[itself] = 0.0  # no item speaks for itself
        return own, borrowed, text

    def _heard(self, owned: Rows, asked: Rows | None) -> tuple[Floats, Floats]:
        """Return what the IDs of owned items say of those asked, and of their neighbours, each (n_owned, n_asked)."""
        warm, known, column = self._collaborative.warm, self._collaborative, self._place_of
        place, borrowing = column[owned], self._borrowing
        if asked is not None:
            column, borrowing = column[asked], borrowing[asked]
        has_id = column >= 0
        own = np.zeros((len(owned), len(column)), dtype=np.float32)
        if asked is not None and isinstance(known, FactoredEmbeddings):  # nothing of the length of the catalogue
            voices = mixture(place, self._borrowing[owned], len(warm))
            own[:, has_id] = known.between(voices, _unit(column[has_id], len(warm)))
            return own, known.between(voices, borrowing)
        said = np.empty((len(owned), len(warm)), dtype=np.float32)  # what each owned item says of the warm items
        said[place >= 0] = known.rows(place[place >= 0])
        said[place < 0] = known.mixed(self._borrowing[owned[place < 0]])
        own[:, has_id] = said[:, column[has_id]]
        return own, lend(said, borrowing)

    def signal_shares(self) -> SignalShares:
        """Return how much of each item's mean score over all known people is its own, borrowed, and text.

        Three sums over the whole matrix of scores, in blocks of 64 MiB: O(dim n_items^2) time.

        Raises
        ------
        NotFittedError
            If the model has not been fitted.
        """
        from llm_tail.recommenders.explaining import signal_shares

        return signal_shares(self)  # type: ignore[arg-type]  # this is a part of the hybrid

    def _said(self, owned: Rows, asked: Rows) -> Floats:
        """Return what owned items say of some others, shape (n_owned, n_asked)."""
        if self._weights is not None:
            return self._weights[np.ix_(owned, asked)]
        own, borrowed, text = self._rows(owned, asked)
        return own + borrowed + text

    def _assemble(self) -> None:
        """Add the parts up once, where the whole matrix is small enough to be kept."""
        n = len(self._vectors)
        self._assembled = object()
        self._lift, self._voice = lift(self._counts, self.config), speech(self._counts, self.config)
        self._place_of = np.full(n, -1, dtype=np.int64)
        self._place_of[self._collaborative.warm] = np.arange(len(self._collaborative.warm))
        self._weights: Floats | None = None
        if 4 * n * n <= WHOLE_BYTES:
            self._weights = np.empty((n, n), dtype=np.float32)
            for owned, rows in self._blocks(np.arange(n)):
                self._weights[owned] = rows

    def _blocks(self, owned: Rows) -> Iterator[tuple[Rows, Floats]]:
        """Yield items and what they say, shape (n_block, n_items), block by block."""
        block = max(1, BLOCK_BYTES // (4 * len(self._vectors)))
        for start in range(0, len(owned), block):
            part = owned[start : start + block]
            own, borrowed, text = self._rows(part)
            own += borrowed
            own += text
            yield part, own

    def _stream(self) -> Iterator[tuple[Rows, Floats]]:
        """Yield all items and what they say, shape (n_block, n_items), from the matrix where it is kept."""
        rows = np.arange(len(self._vectors))
        if self._weights is None:
            yield from self._blocks(rows)
        else:
            for start in range(0, len(rows), 4096):
                yield rows[start : start + 4096], self._weights[start : start + 4096]

    def _score(self, histories: sp.csr_matrix) -> NDArray[Any]:
        if self._weights is not None:
            return np.asarray(histories @ self._weights, dtype=np.float32)
        scores = np.zeros(histories.shape, dtype=np.float32)
        columns = histories.tocsc()
        for owned, rows in self._blocks(np.unique(histories.indices).astype(np.int64)):
            scores += columns[:, owned].tocsr() @ rows
        return scores

    def _column(self, row: int) -> Floats:
        """Return what every item says of one item, shape (n_items,)."""
        warm, known = self._collaborative.warm, self._collaborative
        own_share = trust(self._counts[[row]], self.config)[0]
        lenders = self._borrowing[row]
        said = known.column(lenders.indices, lenders.data) * ((1.0 - own_share) * np.float32(self.config.borrow))
        place = np.flatnonzero(warm == row)
        if len(place):
            said += own_share * known.column(place, np.ones(1, dtype=np.float32))
        column = np.asarray(self._borrowing @ said, dtype=np.float32)  # what cold items say, through their neighbours
        column[warm] = said
        text = text_kernel(self._vectors, self._vectors[[row]], self.config.kernel_power)[:, 0]
        column += text * (text_weights(self._counts[[row]], self.config)[0] * np.float32(self._mass))
        column *= self._voice * self._lift[row]
        column[row] = 0.0
        return column

    def _popularity(self) -> NDArray[Any]:
        """Return own popularity where there is evidence, that of the neighbours where there is none.

        What is lent is no more than the lenders have, so that nothing comes before what it borrows from.
        """
        counts = self._counts.astype(np.float32)
        own_share = trust(self._counts, self.config)
        lent = self._borrowing @ counts[self._collaborative.warm]
        borrow = np.float32(min(self.config.borrow, 1.0))
        return np.asarray(np.maximum(counts, own_share * counts + (1.0 - own_share) * borrow * lent))


def _unit(places: Rows, n: int) -> sp.csr_matrix:
    """Return rows with a 1 at one place each, shape (len(places), n)."""
    ones = np.ones(len(places), dtype=np.float32)
    return sp.csr_matrix((ones, places, np.arange(len(places) + 1)), shape=(len(places), n))


def mixture(places: Rows, lent: sp.csr_matrix, n: int) -> sp.csr_matrix:
    """Return who speaks for each item, shape (len(places), n): itself where it has a place, else its neighbours."""
    itself = _unit(np.maximum(places, 0), n)
    itself.data[places < 0] = 0.0
    return sp.csr_matrix(itself + sp.diags((places < 0).astype(np.float32)) @ lent)
