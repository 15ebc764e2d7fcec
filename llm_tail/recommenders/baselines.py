"""What has to be beaten: popularity, neighbours, closed forms, matrix factorization; all by name in `BASELINES`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError, DataError, closest
from llm_tail.recommenders.als import ImplicitAls
from llm_tail.recommenders.base import BLOCK_BYTES, Recommender, top_k
from llm_tail.recommenders.closed_form import ease_weights, l3ae_weights, text_weights
from llm_tail.recommenders.coldstart import ClcRec, DropoutNet
from llm_tail.recommenders.content import ContentSimilarity, TfidfSimilarity, centre
from llm_tail.recommenders.ensembles import RankFusion, SparseDenseMixer, Stacked
from llm_tail.recommenders.factors import Bpr, FeatureFactors, SampledSoftmaxFactors
from llm_tail.recommenders.graph_filter import GfCf
from llm_tail.recommenders.graphs import AlphaRec, LightGcn
from llm_tail.recommenders.sequence import SasRec, TextSasRec
from llm_tail.recommenders.user_knn import UserKnn

if TYPE_CHECKING:
    from llm_tail.data.catalog import Catalog, Item
    from llm_tail.embedding.store import Embeddings
    from llm_tail.embedding.text import ItemText
    from llm_tail.neighbors.graph import ItemGraph

__all__ = [
    "BASELINES",
    "ContentSimilarity",
    "Ease",
    "ImplicitAls",
    "ItemKnn",
    "L3ae",
    "Popularity",
    "TfidfSimilarity",
    "make_baseline",
]

Floats = NDArray[np.float32]


class Popularity(Recommender):
    """What most people took, the same for everyone: score_i = how many people took item i.

    Notes
    -----
    O(n_events) to fit; nothing is kept but the histories.

    Examples
    --------
    >>> train = Interactions.from_pairs([("ann", "emma"), ("bob", "emma"), ("bob", "dune"), ("eve", "dracula")])
    >>> Popularity().fit(train).recommend(["eve"], k=2)[0]
    [('emma', 2.0), ('dune', 1.0)]
    """

    name = "popularity"

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        pass

    def _score(self, histories: sp.csr_matrix) -> Floats:
        return np.tile(self._popularity().astype(np.float32), (histories.shape[0], 1))


class ItemKnn(Recommender):
    """People who took this also took that: score_i = sum_{j taken} s_ij, s_ij = n_ij / (sqrt(n_i n_j) + shrink).

    n_ij is how many people took both. Each item keeps its k most similar others.

    Parameters
    ----------
    k : int
        Neighbours kept for each item, at least 1.
    shrink : float
        At least 0; the higher, the less a few shared people count.

    Notes
    -----
    O(sum over people of history length squared) time; n_items k numbers, and blocks of 128 MB while fitting.
    After B. Sarwar et al., "Item-based Collaborative Filtering Recommendation Algorithms", WWW 2001.
    """

    name = "item-knn"
    weights: sp.csr_matrix

    def __init__(self, k: int = 100, shrink: float = 10.0) -> None:
        if k < 1 or not shrink >= 0:
            raise ConfigError(f"k is {k} and shrink is {shrink}, expected at least 1 and at least 0")
        self.k, self.shrink = int(k), float(shrink)

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        by_item = self.histories.T.tocsr()  # (n_items, n_users)
        n_items = by_item.shape[0]
        norms = np.sqrt(np.asarray(by_item.sum(axis=1)).ravel()).astype(np.float32)
        blocks, step = [], max(1, BLOCK_BYTES // (4 * n_items))
        for start in range(0, n_items, step):
            similar = (by_item[start : start + step] @ self.histories).toarray()  # (n_block, n_items)
            here = np.arange(len(similar))
            similar /= np.maximum(norms[start + here, None] * norms + np.float32(self.shrink), 1e-9)
            similar[here, start + here] = 0.0
            rows, best = top_k(similar, self.k)  # (n_block, k)
            best = np.where(rows >= 0, best, 0.0)
            ends = np.arange(len(rows) + 1) * rows.shape[1]
            block = sp.csr_matrix((best.ravel(), np.maximum(rows, 0).ravel(), ends), shape=(len(rows), n_items))
            block.eliminate_zeros()
            blocks.append(block)
        self.weights = sp.vstack(blocks).T.tocsr()  # column i holds the neighbours of item i

    def _score(self, histories: sp.csr_matrix) -> Floats:
        return np.asarray((histories @ self.weights).toarray(), dtype=np.float32)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"indptr": self.weights.indptr, "indices": self.weights.indices, "data": self.weights.data}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        shape = (len(self.items), len(self.items))
        self.weights = sp.csr_matrix((state["data"], state["indices"], state["indptr"]), shape=shape)

    def _settings(self) -> dict[str, Any]:
        return {"k": self.k, "shrink": self.shrink}


class Ease(Recommender):
    """The best linear item-item model there is: B = I - P / diag(P), P = (X'X + ridge I)^-1; scores = history @ B.

    Hard to beat on items with a past, blind to items without one (they all score 0).

    Parameters
    ----------
    ridge : float
        L2 penalty, above 0.
    max_items : int
        Largest number of items with training events that is tried; the cost is cubic.

    Notes
    -----
    See `ease_weights`. Only the items that somebody took enter the matrix, kept as n_warm^2 float32.
    H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019.

    Examples
    --------
    >>> train = Interactions.from_pairs([("ann", "emma"), ("ann", "persuasion"), ("bob", "emma"), ("eve", "dune")])
    >>> Ease(ridge=1.0).fit(train).recommend(["bob"], k=1)[0][0][0]
    'persuasion'
    """

    name = "ease"
    warm: NDArray[np.int64]
    weights: Floats

    def __init__(self, ridge: float = 100.0, max_items: int = 30_000) -> None:
        if not ridge > 0:
            raise ConfigError(f"ridge is {ridge}, expected a number above 0")
        self.ridge, self.max_items = float(ridge), int(max_items)

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        self.warm = np.flatnonzero(self._popularity() > 0).astype(np.int64)
        _check_size(self.name, len(self.warm), self.max_items)
        taken = self.histories[:, self.warm]
        self.weights = ease_weights(taken.T @ taken, self.ridge)  # (n_warm, n_warm)

    def _score(self, histories: sp.csr_matrix) -> Floats:
        scores = np.zeros(histories.shape, dtype=np.float32)
        scores[:, self.warm] = histories[:, self.warm] @ self.weights
        return scores

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"warm": self.warm, "weights": self.weights}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.warm, self.weights = state["warm"], state["weights"]

    def _settings(self) -> dict[str, Any]:
        return {"ridge": self.ridge, "max_items": self.max_items}


class L3ae(Recommender):
    """EASE that is pulled towards what the texts say: argmin |X - XB|^2 + ridge |B|^2 + pull |B - S|^2, diag(B) = 0.

    S is the ridge item-item matrix of the centred text vectors. Where interactions are many they decide, where they
    are missing the texts do: cold items are scored too. On most catalogues the strongest plain model overall.

    Parameters
    ----------
    text_ridge : float
        L2 penalty of S, above 0.
    ridge : float
        L2 penalty of B, above 0. What EASE needs of it is here done by the pull.
    pull : float
        How strongly B is pulled towards S, at least 0; 0 is EASE.
    max_items : int
        Largest number of items that is tried; the cost is cubic.

    Notes
    -----
    See `l3ae_weights` and `text_weights`; n_items^2 float32 are kept.
    After J. Moon et al., "LLM-Enhanced Linear Autoencoders for Recommendation", CIKM 2025
    (arXiv:2508.13500); there the text vectors come from a large language model and are not centred.
    """

    name = "l3ae"
    serves_cold: ClassVar[bool] = True
    needs_embeddings: ClassVar[bool] = True
    weights: Floats

    def __init__(
        self, text_ridge: float = 10.0, ridge: float = 10.0, pull: float = 200.0, max_items: int = 30_000
    ) -> None:
        if not (text_ridge > 0 and ridge > 0 and pull >= 0):
            raise ConfigError(
                f"text_ridge is {text_ridge}, ridge is {ridge}, pull is {pull}; "
                "expected above 0, above 0 and at least 0"
            )
        self.text_ridge, self.ridge, self.pull = float(text_ridge), float(ridge), float(pull)
        self.max_items = int(max_items)

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        assert embeddings is not None  # noqa: S101  (`fit` has seen to it; this is for the type checker)
        _check_size(self.name, len(self.items), self.max_items)
        text = text_weights(centre(embeddings.vectors), self.text_ridge)
        self.weights = l3ae_weights(self.histories.T @ self.histories, text, self.ridge, self.pull)

    def _score(self, histories: sp.csr_matrix) -> Floats:
        return np.asarray(histories @ self.weights, dtype=np.float32)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"weights": self.weights}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.weights = state["weights"]

    def _settings(self) -> dict[str, Any]:
        return {
            "text_ridge": self.text_ridge,
            "ridge": self.ridge,
            "pull": self.pull,
            "max_items": self.max_items,
        }


def _check_size(name: str, n_items: int, max_items: int) -> None:
    if n_items > max_items:
        gigabytes = 8 * n_items**2 / 1e9
        raise DataError(
            f"{name} inverts an items x items matrix: {n_items:,} items take {gigabytes:.0f} GB and more, the limit is "
            f"{max_items:,}; set max_items higher if the memory is there, or take item-knn"
        )


BASELINES: dict[str, Callable[..., Recommender]] = {
    "popularity": Popularity,
    "content": ContentSimilarity,
    "tfidf": TfidfSimilarity,
    "item-knn": ItemKnn,
    "ease": Ease,
    "l3ae": L3ae,
    "als": ImplicitAls,
    "user-knn": UserKnn,
    "gf-cf": GfCf,
    "lightgcn": LightGcn,
    "alpharec": AlphaRec,
    "bpr": Bpr,
    "softmax-factors": SampledSoftmaxFactors,
    "feature-factors": FeatureFactors,
    "clcrec": ClcRec,
    "dropoutnet": DropoutNet,
    "sasrec": SasRec,
    "text-sasrec": TextSasRec,
    "mixer": SparseDenseMixer,
    "rank-fusion": RankFusion,
    "stacked": Stacked,
}


def make_baseline(
    name: str,
    *,
    catalog: Catalog | None = None,
    text: ItemText | Callable[[Item], str] | None = None,
    seed: int = 0,
) -> Recommender:
    """Return an unfitted baseline with its default settings.

    Parameters
    ----------
    name : str
        One of `BASELINES`.
    catalog : Catalog, optional
        Where models of words, such as ``tfidf``, find them.
    text : ItemText or callable, optional
        How an item becomes one text, for the same models.
    seed : int
        For the models that draw anything.

    Raises
    ------
    ConfigError
        If there is no such baseline.

    Examples
    --------
    >>> make_baseline("ease")
    Ease(ease, not fitted)
    """
    if name not in BASELINES:
        near = closest(name, BASELINES)
        hint = f"; the closest is {near[0]}" if near else ""
        raise ConfigError(f"there is no baseline {name!r}{hint}; expected one of: {', '.join(BASELINES)}")
    takes = inspect.signature(BASELINES[name]).parameters
    given = {"catalog": catalog, "text": text, "seed": seed}
    return BASELINES[name](**{key: value for key, value in given.items() if key in takes})
