"""GfCf: a graph filter in closed form; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError
from llm_tail.recommenders.base import Recommender
from llm_tail.recommenders.propagation import normalised, power_of, right_singular

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph

Floats = NDArray[np.float32]


class GfCf(Recommender):
    r"""Graph filtering in closed form: what is smooth over the graph of people and items is kept, the rest is noise.

    .. math:: s_u = r_u (\tilde R^\top \tilde R + \alpha D_i^{-1/2} V V^\top D_i^{1/2})

    with :math:`\tilde R = D_u^{-1/2} R D_i^{-1/2}` and V its `factors` leading right singular vectors: a linear filter
    plus an ideal low-pass one. Nothing is trained. Items without any interaction score 0 (`serves_cold` is False).

    Parameters
    ----------
    alpha : float
        Weight of the low-pass part, at least 0.
    factors : int
        Singular vectors kept, at least 1; fewer where the matrix has not so many.
    seed : int
        Of the vector that the decomposition starts from.

    Notes
    -----
    The decomposition (ARPACK) costs O(factors n_events + factors^2 (n_users + n_items)) a round, a minute for 30,000
    people and 41,000 items; factors n_items float32 are kept. The items x items matrix is never made: asking costs two
    sparse products with R and O(factors n_items) a person.
    Y. Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021 (arXiv:2108.07567), the closed
    form of GF-CF with its settings alpha = .3 and 256 vectors. On Gowalla that gives R@20/N@20 .1849/.1518 as published
    (tests/quality/gowalla.py).

    Examples
    --------
    >>> train = Interactions.from_pairs([("ann", "emma"), ("ann", "persuasion"), ("bob", "emma"), ("eve", "dune")])
    >>> GfCf(factors=1).fit(train).recommend(["bob"], k=1)[0][0][0]
    'persuasion'
    """

    name = "gf-cf"
    vectors: Floats
    _graph: sp.csr_matrix
    _turned: sp.csr_matrix
    _counts: NDArray[Any]

    def __init__(self, alpha: float = 0.3, factors: int = 256, seed: int = 0) -> None:
        if factors < 1 or not alpha >= 0:
            raise ConfigError(f"alpha is {alpha} and factors is {factors}, expected at least 0 and at least 1")
        self.alpha, self.factors, self.seed = float(alpha), int(factors), int(seed)

    @classmethod
    def search_space(cls) -> dict[str, Any]:
        """Return the settings worth tuning: bounds and scale, or choices, of each."""
        return {"alpha": (0.0, 2.0, "linear"), "factors": [16, 32, 64, 128, 256, 512]}

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        self._place()
        self.vectors = right_singular(self._graph, self.factors, self.seed)  # (n_items, factors)

    def _place(self) -> None:
        self._graph = normalised(self.histories)
        self._turned = self._graph.T.tocsr()  # (n_items, n_users)
        self._counts = np.asarray(self.histories.sum(axis=0)).ravel()

    def _score(self, histories: sp.csr_matrix) -> Floats:
        linear = ((histories @ self._turned) @ self._graph).toarray()  # (n_histories, n_items)
        if self.alpha > 0:
            smooth = (histories @ sp.diags(power_of(self._counts, -0.5))) @ self.vectors  # (n_histories, factors)
            linear += (smooth @ self.vectors.T) * (np.float32(self.alpha) * power_of(self._counts, 0.5))
        return np.asarray(linear, dtype=np.float32)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"vectors": self.vectors}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.vectors = state["vectors"]
        self._place()

    def _settings(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "factors": self.factors, "seed": self.seed}
