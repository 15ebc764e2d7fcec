"""CollaborativeEmbeddings: what interactions alone say of an item, as one vector for each warm item.

Small catalogues are solved for as a whole, larger ones in `low_rank`; `fitter_for` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import HybridConfig
from llm_tail.data.ids import Rows
from llm_tail.errors import DataError
from llm_tail.recommenders.closed_form import TextFactors, Weights, l3ae_of_factors, text_factors
from llm_tail.recommenders.low_rank import FactoredEmbeddings, FactoredTrial, LowRankFitter


@dataclass(frozen=True)
class CollaborativeEmbeddings:
    """ID embeddings in closed form: the vector of an item says how much each other item speaks for it.

    Attributes
    ----------
    weights : array of float32, shape (n_warm, n_warm)
        Column i is the ID embedding of warm item i; its diagonal is zero, so that no item speaks for itself.
    warm : array of int64, shape (n_warm,)
        Rows of the items that have interactions.
    """

    weights: Weights
    warm: Rows

    def signal(self, histories: sp.csr_matrix) -> NDArray[np.float32]:
        """Return what histories of shape (n_histories, n_items) say of the warm items, shape (n_histories, n_warm)."""
        return np.asarray(histories[:, self.warm] @ self.weights, dtype=np.float32)

    def rows(self, places: Rows) -> NDArray[np.float32]:
        """Return what warm items at these places say of all warm items, shape (n, n_warm)."""
        return self.weights[places]

    def mixed(self, shares: sp.csr_matrix) -> NDArray[np.float32]:
        """Return what mixtures of warm items, shape (n, n_warm), say of all warm items, shape (n, n_warm)."""
        return np.asarray(shares @ self.weights, dtype=np.float32)

    def column(self, places: NDArray[Any], shares: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what all warm items say of a mixture of warm items, shape (n_warm,)."""
        return np.asarray(self.weights[:, places] @ shares, dtype=np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that are written to disk."""
        return {"collaborative": self.weights, "warm": self.warm}


class GramFitter:
    """Solves for `CollaborativeEmbeddings` again and again on the same data with other penalties; keeps each solution.

    Parameters
    ----------
    train : csr_matrix, shape (n_users, n_items)
        1 where a person took an item.
    vectors : array of float32, shape (n_items, dim)
        Unit text vectors.
    text_ridge : float
        Penalty of the text matrix, see `closed_form.text_weights`.
    max_items : int
        Most warm items to accept: time grows with their cube and memory with their square.

    Raises
    ------
    DataError
        If there are more warm items than `max_items`; says how much memory they would take.
    """

    def __init__(self, train: sp.csr_matrix, vectors: NDArray[Any], text_ridge: float, max_items: int) -> None:
        self.warm = check_size(train, max_items)
        taken = train[:, self.warm]
        self.gram = (taken.T @ taken).tocsr()
        self._vectors, self._text_ridge = vectors, text_ridge
        self._text: tuple[float, TextFactors] | None = None  # the last ones made
        self._solved: dict[tuple[float, float, float], CollaborativeEmbeddings] = {}

    @property
    def solved(self) -> list[tuple[float, float, float]]:
        """The penalties (ridge, pull, text_ridge) whose solutions are kept."""
        return list(self._solved)

    def fit(self, ridge: float, pull: float, text_ridge: float | None = None) -> CollaborativeEmbeddings:
        """Solve for these penalties; O(n_warm^3) time at the first call, n_warm^2 float32 are kept.

        `text_ridge` is that of the constructor where it is left out.
        """
        key = (ridge, pull, self._text_ridge if text_ridge is None else text_ridge)
        if key not in self._solved:
            solved = CollaborativeEmbeddings(l3ae_of_factors(self.gram, self._texts(key[2]), ridge, pull), self.warm)
            self._solved[key] = solved
        return self._solved[key]

    trial = fit  # asking a solution of low rank is much cheaper than making it whole; here it is the same

    def _texts(self, ridge: float) -> TextFactors:
        if self._text is None or self._text[0] != ridge:
            self._text = (ridge, text_factors(self._vectors[self.warm], ridge))
        return self._text[1]


Embedded = CollaborativeEmbeddings | FactoredEmbeddings
Asked = Embedded | FactoredTrial  # whatever says what histories say
Fitter = GramFitter | LowRankFitter


def fitter_for(train: sp.csr_matrix, vectors: NDArray[Any], config: HybridConfig, seed: int = 0) -> Fitter:
    """Return what solves for the ID embeddings: as a whole where that is asked for or small enough, else of low rank.

    Raises
    ------
    DataError
        If the settings ask for the whole and there are more items than they allow.
    """
    if is_low_rank(train, config):
        return LowRankFitter(train, vectors, config.text_ridge, config.rank, seed)
    return GramFitter(train, vectors, config.text_ridge, config.max_items)


def is_low_rank(train: sp.csr_matrix, config: HybridConfig) -> bool:
    """Return whether the ID embeddings of these interactions are of low rank."""
    return config.solution == "low-rank" or (config.solution == "auto" and len(warm_items(train)) > config.max_items)


def from_state(state: Mapping[str, NDArray[Any]]) -> Embedded:
    """Return the embeddings whose arrays were written."""
    if "collaborative" in state:
        return CollaborativeEmbeddings(state["collaborative"], state["warm"])
    return FactoredEmbeddings(state["collaborative.queries"], state["collaborative.keys"], state["warm"])


def item_counts(taken: sp.csr_matrix) -> Rows:
    """Return how many people took each item, shape (n_items,)."""
    return np.asarray(taken.sum(axis=0)).ravel().astype(np.int64)


def warm_items(taken: sp.csr_matrix) -> Rows:
    """Return the rows of the items that have interactions."""
    return np.flatnonzero(np.asarray(taken.sum(axis=0)).ravel() > 0).astype(np.int64)


def check_size(train: sp.csr_matrix, max_items: int) -> Rows:
    """Return the rows of the items that have interactions; raise `DataError` where these are more than `max_items`."""
    warm = warm_items(train)
    n = len(warm)
    if n > max_items:
        raise DataError(
            f"{n:,} items have interactions and the closed form is set to take at most {max_items:,}; "
            f"{n:,} would need about {20 * n * n / 2**30:.0f} GB. Raise [hybrid] max_items if you have them, "
            "or set solution to auto, which takes a form of low rank then"
        )
    return warm
