"""ImplicitAls: matrix factorization, by the `implicit` library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError, MissingExtraError
from llm_tail.recommenders.base import BLOCK_BYTES, Recommender

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph

Floats = NDArray[np.float32]


class ImplicitAls(Recommender):
    """Weighted matrix factorization by alternating least squares, fitted by the `implicit` library.

    argmin sum_ui c_ui (x_ui - p_u . q_i)^2 + regularization (|P|^2 + |Q|^2) with c_ui = 1 + alpha x_ui. People are
    folded in from their histories by the same ridge that made the training's person vectors, so that a person never
    seen is served like any other.

    Parameters
    ----------
    factors : int
        Width of the vectors, at least 1.
    regularization : float
        L2 penalty, at least 0.
    alpha : float
        How much more an event counts than its absence, at least 0.
    iterations : int
        Rounds of alternation, at least 1.
    seed : int
        Of the vectors it starts from.

    Raises
    ------
    MissingExtraError
        From `fit`, if `implicit` is not installed. A saved model is loaded and asked without it.

    Notes
    -----
    O(iterations (n_events factors^2 + (n_users + n_items) factors^3)) at most. Folding in costs
    O(history factors^2 + factors^3) a person, in blocks of 128 MB.
    Y. Hu, Y. Koren, C. Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.
    """

    name = "als"
    item_vectors: Floats

    def __init__(
        self,
        factors: int = 128,
        regularization: float = 0.01,
        alpha: float = 10.0,
        iterations: int = 15,
        seed: int = 0,
    ) -> None:
        if factors < 1 or iterations < 1 or not (regularization >= 0 and alpha >= 0):
            raise ConfigError(
                f"factors is {factors}, iterations {iterations}, regularization {regularization}, alpha {alpha}; "
                "expected at least 1, 1, 0 and 0"
            )
        self.factors, self.iterations, self.seed = int(factors), int(iterations), int(seed)
        self.regularization, self.alpha = float(regularization), float(alpha)

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        try:
            from implicit.cpu.als import AlternatingLeastSquares
        except ImportError as error:
            raise MissingExtraError("implicit", "als") from error
        confidence = self.histories.copy()
        confidence.data = 1.0 + self.alpha * confidence.data  # `implicit` takes c itself
        # Its own threads do the work; a second pool inside BLAS would only be in their way.
        with threadpool_limits(1, user_api="blas"):
            model = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=1.0,
                iterations=self.iterations,
                random_state=self.seed,
            )
            model.fit(confidence, show_progress=False)
        self.item_vectors = np.array(model.item_factors, dtype=np.float32)  # (n_items, factors)

    def _score(self, histories: sp.csr_matrix) -> Floats:
        return np.asarray(self._people(histories) @ self.item_vectors.T, dtype=np.float32)

    def _people(self, histories: sp.csr_matrix) -> Floats:
        """Return the ridge solution for each history, shape (n_histories, factors)."""
        n_factors = self.item_vectors.shape[1]
        base = self.item_vectors.T.astype(np.float64) @ self.item_vectors  # (factors, factors)
        base[np.diag_indices_from(base)] += max(self.regularization, 1e-9)
        target = histories.copy().astype(np.float32)
        target.data = np.where(target.data > 0, 1.0 + self.alpha * target.data, 0.0).astype(np.float32)
        right = target @ self.item_vectors  # (n_histories, factors)
        people = np.zeros((histories.shape[0], n_factors), dtype=np.float32)
        lengths = np.diff(histories.indptr)
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        start = 0
        while start < len(order):  # alike lengths go together, so that little is padding
            longest = int(lengths[order[min(len(order) - 1, start + 1023)]])
            step = max(1, min(1024, BLOCK_BYTES // (8 * n_factors * max(longest, n_factors))))
            rows = order[start : start + step]
            events, weights = _padded(histories, rows)  # (n_rows, longest)
            taken = self.item_vectors[events]  # (n_rows, longest, factors)
            left = base + (taken * (self.alpha * weights)[:, :, None]).transpose(0, 2, 1) @ taken
            people[rows] = np.linalg.solve(left, right[rows][:, :, None])[:, :, 0]
            start += step
        return people

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"item_vectors": self.item_vectors}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.item_vectors = state["item_vectors"]

    def _settings(self) -> dict[str, Any]:
        return {
            "factors": self.factors,
            "regularization": self.regularization,
            "alpha": self.alpha,
            "iterations": self.iterations,
            "seed": self.seed,
        }


def _padded(histories: sp.csr_matrix, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
    """Return item rows and weights of some histories, shape (len(rows), longest), padded with row 0, weight 0."""
    part = histories[rows]
    lengths = np.diff(part.indptr)
    filled = np.arange(lengths.max()) < lengths[:, None]  # (n_rows, longest)
    events, weights = np.zeros(filled.shape, dtype=np.int64), np.zeros(filled.shape, dtype=np.float32)
    events[filled], weights[filled] = part.indices, part.data
    return events, weights
