"""CollaborativeEmbeddings: what interactions alone say of an item, as one vector for each warm item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.ids import Rows
from llm_tail.errors import DataError
from llm_tail.recommenders.closed_form import Weights, l3ae_weights, text_weights

TYPICAL = 10.0  # items of a person who counts 1 whatever the damping


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
        self._taken = train[:, self.warm]
        self.text = text_weights(vectors[self.warm], text_ridge)  # (n_warm, n_warm)
        self._solved: dict[tuple[float, float, float], CollaborativeEmbeddings] = {}

    def fit(self, ridge: float, pull: float, person_damping: float = 0.0) -> CollaborativeEmbeddings:
        """Solve for some penalties; O(n_warm^3) time at the first call, n_warm^2 float32 are kept.

        A person counts with (n / 10)^-person_damping, n being how many items they took.
        """
        key = (ridge, pull, person_damping)
        if key not in self._solved:
            weights = l3ae_weights(gram_of(self._taken, person_damping), self.text, ridge, pull)
            self._solved[key] = CollaborativeEmbeddings(weights, self.warm)
        return self._solved[key]


def gram_of(taken: sp.csr_matrix, person_damping: float = 0.0) -> sp.csr_matrix:
    """Return how many people took both of two items, each counting (n / 10)^-person_damping for n items taken.

    Examples
    --------
    >>> gram_of(sp.csr_matrix([[1.0, 1.0], [1.0, 0.0]])).toarray().tolist()
    [[2.0, 1.0], [1.0, 1.0]]
    """
    if person_damping == 0.0:
        return sp.csr_matrix(taken.T @ taken)
    voice = (np.maximum(np.diff(taken.indptr), 1) / TYPICAL) ** -person_damping
    return sp.csr_matrix(taken.T @ sp.diags(voice.astype(taken.dtype)) @ taken)


def check_size(train: sp.csr_matrix, max_items: int) -> Rows:
    """Return the rows of the items that have interactions; raise `DataError` where these are more than `max_items`."""
    warm: Rows = np.flatnonzero(np.asarray(train.sum(axis=0)).ravel() > 0).astype(np.int64)
    n = len(warm)
    if n > max_items:
        raise DataError(
            f"{n:,} items have interactions and the closed form is set to take at most {max_items:,}; "
            f"{n:,} would need about {20 * n * n / 2**30:.0f} GB. Raise [hybrid] max_items if you have them, "
            "or leave out the least popular items' interactions"
        )
    return warm
