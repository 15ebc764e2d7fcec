"""UserKnn: what people took who took the same things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError
from llm_tail.recommenders.base import BLOCK_BYTES, Recommender, top_k

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph

Floats = NDArray[np.float32]


class UserKnn(Recommender):
    """People who took the same things took this: score_i = sum of s_uv over the k nearest people v who took item i.

    s_uv = n_uv / (sqrt(n_u n_v) + shrink), with n_uv how many items both took: the cosine of their histories, drawn
    towards 0 where it rests on few items. Who has nothing that the person does not have is no neighbour, since there
    is nothing to learn there; so nobody is an own neighbour, known or not.

    Items without any interaction score 0 (`serves_cold` is False).

    Parameters
    ----------
    k : int
        Neighbours of each person, at least 1.
    shrink : float
        At least 0; the higher, the less a few shared items count.

    Notes
    -----
    Nothing is computed before somebody asks: O(sum over the items of a history of how many took each) a person, in
    blocks of 128 MB of similarities. Only the histories are kept.
    After P. Resnick et al., "GroupLens: An Open Architecture for Collaborative Filtering of Netnews", CSCW 1994, with
    the similarity of `ItemKnn`.

    Examples
    --------
    >>> train = Interactions.from_pairs([("ann", "emma"), ("ann", "persuasion"), ("bob", "emma"), ("eve", "dune")])
    >>> UserKnn().fit(train).recommend(["bob"], k=1)[0][0][0]
    'persuasion'
    """

    name = "user-knn"
    _by_item: sp.csr_matrix
    _sizes: Floats

    def __init__(self, k: int = 100, shrink: float = 5.0) -> None:
        if k < 1 or not shrink >= 0:
            raise ConfigError(f"k is {k} and shrink is {shrink}, expected at least 1 and at least 0")
        self.k, self.shrink = int(k), float(shrink)

    @classmethod
    def search_space(cls) -> dict[str, Any]:
        """Return the settings worth tuning: bounds and scale of each."""
        return {"k": (10, 1000, "log"), "shrink": (0.0, 50.0, "linear")}

    def neighbors(self, histories: sp.csr_matrix) -> sp.csr_matrix:
        """Return how much each known person counts for each history, shape (n_histories, n_users); at most k a row."""
        self._check_fitted()
        n_users, blocks = len(self.users), []
        step = max(1, BLOCK_BYTES // (12 * n_users))  # a dense block, its ranking and a mask of it
        for start in range(0, histories.shape[0], step):
            part = histories[start : start + step]
            shared = (part @ self._by_item).toarray()  # (n_block, n_users)
            lengths = np.sqrt(np.asarray(part.multiply(part).sum(axis=1)))  # (n_block, 1)
            owned = part.copy()
            owned.data = (owned.data > 0).astype(np.float32)
            has_more = (owned @ self._by_item).toarray() < self._sizes  # (n_block, n_users)
            shared /= np.maximum(lengths * np.sqrt(self._sizes) + np.float32(self.shrink), 1e-9)
            rows, best = top_k(np.where(has_more, shared, 0.0), self.k)  # (n_block, k)
            best = np.where(rows >= 0, best, 0.0)
            ends = np.arange(len(rows) + 1) * rows.shape[1]
            block = sp.csr_matrix((best.ravel(), np.maximum(rows, 0).ravel(), ends), shape=(len(rows), n_users))
            block.eliminate_zeros()
            blocks.append(block)
        return sp.csr_matrix(sp.vstack(blocks)) if blocks else sp.csr_matrix(np.zeros((0, n_users), np.float32))

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        self._turn()

    def _turn(self) -> None:
        self._by_item = self.histories.T.tocsr()  # (n_items, n_users)
        self._sizes = np.diff(self.histories.indptr).astype(np.float32)

    def _score(self, histories: sp.csr_matrix) -> Floats:
        return np.asarray((self.neighbors(histories) @ self.histories).toarray(), dtype=np.float32)

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._turn()

    def _settings(self) -> dict[str, Any]:
        return {"k": self.k, "shrink": self.shrink}
