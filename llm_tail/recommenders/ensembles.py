"""Ensembles of any recommenders: by rank (RankFusion), by learned weights (Stacked), sparse and dense (the mixer)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.errors import ConfigError
from llm_tail.recommenders.base import Recommender, top_k
from llm_tail.recommenders.members import Ensemble, packed, scaled, standardised
from llm_tail.recommenders.tuning import ValidationTask, is_better, objective

Floats = NDArray[np.float32]
Member = Recommender | Mapping[str, Any]
WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # beside members whose weights add up to 1
ALPHAS, BETAS = [n / 10 for n in range(11)], [n / 4 for n in range(5)]
ROUNDS = 3


def usual_members() -> list[Recommender]:
    """Return who is asked where no members are given: one for warm items, one for words, one for both."""
    from llm_tail.recommenders.baselines import ContentSimilarity, Ease, L3ae

    return [Ease(), L3ae(), ContentSimilarity()]


class RankFusion(Ensemble):
    """Reciprocal rank fusion: score_i = sum over members of 1 / (k0 + rank of i by that member).

    Ranks are from 1 among the items that the person does not have; equal scores share the worst of their ranks, so
    that a member that knows nothing of some items lifts none of them. Nothing is learned, and scales do not matter.

    Parameters
    ----------
    members : sequence of Recommender, optional
        Any; Ease, L3ae and ContentSimilarity if not given. Those not fitted on the same events and people are fitted.
    k0 : float
        Above 0; the higher, the less the first places count beside the next ones.

    Notes
    -----
    Asking costs what the members cost and O(n_items log n_items) a person and member. `parts` says what each brings.
    G. Cormack, C. Clarke, S. Buettcher, "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning
    Methods", SIGIR 2009, with their k = 60.

    Examples
    --------
    >>> from llm_tail.recommenders.baselines import Ease, ItemKnn
    >>> from llm_tail.data.interactions import Interactions
    >>> train = Interactions.from_pairs([("ann", "emma"), ("ann", "persuasion"), ("bob", "emma"), ("eve", "dune")])
    >>> RankFusion([Ease(), ItemKnn()]).fit(train).recommend(["bob"], k=1)[0][0][0]
    'persuasion'
    """

    name = "rank-fusion"

    def __init__(self, members: Sequence[Member] | None = None, k0: float = 60.0) -> None:
        super().__init__(usual_members() if members is None else members)
        if not k0 > 0:
            raise ConfigError(f"k0 is {k0}, expected a number above 0")
        self.k0 = float(k0)

    @classmethod
    def search_space(cls) -> dict[str, Any]:
        """Return the settings worth tuning: bounds and scale of each."""
        return {"k0": (1.0, 200.0, "log")}

    def _parts(self, histories: sp.csr_matrix) -> dict[str, Floats]:
        parts, has = {}, histories.nonzero()
        for label, member in zip(self.labels, self.members, strict=True):
            scores = np.array(member.score(histories))
            scores[has] = -np.inf
            parts[label] = (1.0 / (self.k0 + worst_ranks(scores))).astype(np.float32)
        return parts

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"k0": self.k0}


def worst_ranks(scores: Floats) -> NDArray[np.int64]:
    """Return how many items of its line score as much as an item or more, shape (n, n_items); 1 is best.

    Examples
    --------
    >>> worst_ranks(np.array([[5.0, 1.0, 1.0, -np.inf]], np.float32)).tolist()
    [[1, 3, 3, 4]]
    """
    order = np.argsort(scores, axis=1)
    ascending = np.take_along_axis(scores, order, axis=1)
    first = np.zeros(scores.shape, dtype=np.int64)  # of those that score the same
    first[:, 1:] = np.where(ascending[:, 1:] != ascending[:, :-1], np.arange(1, scores.shape[1]), 0)
    ranks = np.empty(scores.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, scores.shape[1] - np.maximum.accumulate(first, axis=1), axis=1)
    return ranks


class Stacked(Ensemble):
    """A weighted sum of standardised scores, whose weights are learned on validation; one member alone if that is best.

    score_i = sum over members of w_m (s_mi - mean_m) / deviation_m, mean and deviation over the items that a person
    does not have. A member that cannot serve the cold says 0 of items that nobody took: neither good nor bad.

    Parameters
    ----------
    members : sequence of Recommender, optional
        Any; Ease, L3ae and ContentSimilarity if not given. Those not fitted on the same events and people are fitted.

    Attributes
    ----------
    weights : array of float32, shape (n_members,)
        After `fit`: at least 0, summing to 1. With one member above 0 the scores are the member's own, but
        that nobody is told here what came last: a member with ``recency`` hears all of a history alike.
    training : dict
        ``alone`` (what each member measured), ``found`` (what the sum measured) and ``weights``, by name.

    Notes
    -----
    The search begins with the best member and goes round the others, keeping a weight where the mean NDCG@20 of warm,
    tail, cold and overall rises by more than .3 % (on up to 2,000 people). Without validation all weigh the same.
    Memory while fitting: 128 MB at most for each member. Asking costs what the members above 0 cost.
    After D. Wolpert, "Stacked Generalization", Neural Networks 1992.

    Examples
    --------
    >>> from llm_tail.recommenders.baselines import Ease, ItemKnn
    >>> Stacked([Ease(), ItemKnn(k=50)])
    Stacked(ease + item-knn, not fitted)
    """

    name = "stacked"
    weights: Floats

    def __init__(self, members: Sequence[Member] | None = None) -> None:
        super().__init__(usual_members() if members is None else members)

    @classmethod
    def search_space(cls) -> dict[str, Any]:
        """Return nothing: `fit` chooses the weights itself."""
        return {}

    def _weigh(self, task: ValidationTask | None) -> None:
        n = len(self.members)
        self.weights, self.training = np.full(n, 1.0 / n, dtype=np.float32), {}
        if task is None:
            return
        scores = [member.score(task.histories) for member in self.members]
        alone = [task.measure(part) for part in scores]
        scores = [self._standardised(m, part, task.histories) for m, part in enumerate(scores)]
        best = int(np.argmax([objective(measured) for measured in alone]))
        self.weights, found = _search(scores, task, best, alone[best])
        self.training = {
            "alone": dict(zip(self.labels, alone, strict=True)),
            "found": found,
            "weights": {label: float(w) for label, w in zip(self.labels, self.weights, strict=True)},
        }

    def _standardised(self, m: int, scores: Floats, histories: sp.csr_matrix) -> Floats:
        cold = None if self.members[m].serves_cold else self._cold
        return standardised(scores, histories, cold)

    @property
    def _cold(self) -> NDArray[np.bool_]:
        return np.asarray(np.asarray(self.histories.sum(axis=0)).ravel() == 0)

    def _parts(self, histories: sp.csr_matrix) -> dict[str, Floats]:
        used = np.flatnonzero(self.weights).tolist()
        if len(used) == 1:
            return {self.labels[used[0]]: self.members[used[0]].score(histories)}
        return {
            self.labels[m]: self.weights[m] * self._standardised(m, self.members[m].score(histories), histories)
            for m in used
        }

    def _state(self) -> dict[str, NDArray[Any]]:
        return super()._state() | {"weights": self.weights}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(state)
        self.weights = state["weights"]

    def _said(self) -> str:
        if not self.is_fitted:
            return super()._said()
        pairs = zip(self.weights, self.labels, strict=True)
        return " + ".join(f"{weight:.2f} {label}" for weight, label in pairs if weight)


def _search(
    scores: Sequence[Floats], task: ValidationTask, best: int, alone: Mapping[str, float]
) -> tuple[Floats, dict[str, float]]:
    """Return the weights of standardised scores found from the best member on, and what they measured."""
    weights = np.zeros(len(scores), dtype=np.float64)
    weights[best] = 1.0
    found, quality = dict(alone), objective(alone)
    for _ in range(ROUNDS):
        before = weights.copy()
        for m in range(len(scores)):
            rest = weights.copy()
            rest[m] = 0.0
            if not rest.any():
                continue  # alone, a member's weight means nothing
            rest /= rest.sum()
            others = sum((np.float32(w) * s for w, s in zip(rest, scores, strict=True) if w), start=np.float32(0))
            for weight in WEIGHTS:
                measured = task.measure(np.asarray(others + np.float32(weight) * scores[m], dtype=np.float32))
                if is_better(objective(measured), quality):
                    weights, found, quality = rest.copy(), measured, objective(measured)
                    weights[m] = weight
        weights /= weights.sum()
        if np.allclose(weights, before):
            break
    return weights.astype(np.float32), found


class SparseDenseMixer(Ensemble):
    """The mix of a sparse and a dense model: R = a (1 - b) e_i . M(x_u) + a b e_i . r_u + (1 - a) M_u . R_i.

    For each item i and person u, with a = `alpha` and b = `beta`:

    ==========  ===========================================================================================
    r_u         the person's row: 1 where they took an item
    e_i         what each item says of item i by the sparse (item-item) model; e_i . r_u is that model's score
    x_u         the history as the dense model reads it, the same items as vectors
    M(x_u)      the row as the dense model continues it: what it expects the person to take next, weights on
                its `width` best warm items that they do not have, as much in sum as r_u
    e_i . M(x_u)  the sparse model asked with that row: it speaks even where it knows nothing of the history
    M_u, R_i    the dense model's vectors of person and item; M_u . R_i is its score, for cold items too
    ==========  ===========================================================================================

    Each of the three is divided by its standard deviation over the items that the person does not have, so that a and
    b mean the same for all models. a = 0 ranks as the dense model, a = b = 1 as the sparse one; a = 1, b = 0 is the
    sparse model with nothing but what the dense one foretells.

    Parameters
    ----------
    alpha : float, optional
        Weight of the sparse model, in [0, 1]; chosen on validation if not given, one half where there is none.
    beta : float, optional
        Within it, weight of what the person took against what is foretold, in [0, 1]; chosen likewise.
    sparse : Recommender, optional
        An item-item model whose score grows with the row it is given; Ease if not given.
    dense : Recommender, optional
        A model of vectors, of text best; ContentSimilarity if not given.
    width : int
        Items of M(x_u), at least 1.

    Attributes
    ----------
    mix : tuple of (float, float)
        Alpha and beta after `fit`.
    training : dict
        Where they were chosen: ``alone`` (what the sparse and the dense model measured) and ``found``.

    Notes
    -----
    Asking costs the dense model once and the sparse one twice. Choosing costs about 30 measurements of rankings of up
    to 2,000 people, and three score matrices of at most 128 MB. `parts` says what each of the three terms brings.

    Examples
    --------
    >>> from llm_tail.recommenders.baselines import ItemKnn
    >>> SparseDenseMixer(alpha=0.7, beta=0.5, sparse=ItemKnn())
    SparseDenseMixer(item-knn + content, not fitted)
    """

    name = "mixer"
    mix: tuple[float, float]

    def __init__(
        self,
        alpha: float | None = None,
        beta: float | None = None,
        sparse: Member | None = None,
        dense: Member | None = None,
        width: int = 50,
    ) -> None:
        usual = usual_members()
        super().__init__([usual[0] if sparse is None else sparse, usual[-1] if dense is None else dense])
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}, expected a number from 0 to 1")
        if width < 1:
            raise ConfigError(f"width is {width}, expected at least 1")
        self.alpha, self.beta, self.width = alpha, beta, int(width)

    @classmethod
    def search_space(cls) -> dict[str, Any]:
        """Return the settings worth tuning: choices of each; alpha and beta are chosen by `fit`."""
        return {"width": [10, 20, 50, 100, 200]}

    @property
    def sparse(self) -> Recommender:
        """The item-item model."""
        return self.members[0]

    @property
    def dense(self) -> Recommender:
        """The model of vectors."""
        return self.members[1]

    def foretell(self, histories: sp.csr_matrix) -> sp.csr_matrix:
        """Return M(x_u), shape (n_histories, n_items): the row as the dense model continues it.

        How far each of the `width` best items scores above the best that is left out, scaled to the sum of the history.
        """
        return self._foretold(histories, self.dense.score(histories))

    def _foretold(self, histories: sp.csr_matrix, scores: Floats) -> sp.csr_matrix:
        scores = np.array(scores)
        scores[:, np.asarray(self.histories.sum(axis=0)).ravel() == 0] = -np.inf  # the sparse model knows none of these
        scores[histories.nonzero()] = -np.inf
        rows, best = top_k(scores, self.width + 1)  # (n_histories, at most width + 1)
        there = rows >= 0
        border = np.min(best, axis=1, where=there, initial=np.inf, keepdims=True)  # (n_histories, 1)
        above = np.subtract(best, border, out=np.zeros_like(best), where=there)
        mass = np.asarray(histories.sum(axis=1)) / np.maximum(above.sum(axis=1, keepdims=True), 1e-12)
        ends = np.arange(len(rows) + 1) * rows.shape[1]
        data = (above * mass).astype(np.float32)
        row = sp.csr_matrix((data.ravel(), np.maximum(rows, 0).ravel(), ends), shape=histories.shape)
        row.eliminate_zeros()
        row.sort_indices()
        return row

    def _weigh(self, task: ValidationTask | None) -> None:
        given = (self.alpha, self.beta)
        self.mix = (0.5 if self.alpha is None else self.alpha, 0.5 if self.beta is None else self.beta)
        self.training = {}
        if task is None or None not in given:
            return
        terms = self._terms(task.histories, (1.0, 1.0, 1.0))

        tried: dict[tuple[float, float], dict[str, float]] = {}

        def measure(mix: tuple[float, float]) -> dict[str, float]:
            if mix not in tried:
                total = sum(np.float32(w) * terms[n] for n, w in enumerate(_shares(*mix)) if w)
                tried[mix] = task.measure(np.asarray(total, dtype=np.float32))
            return tried[mix]

        for _ in range(ROUNDS):
            before = self.mix
            for n, values in enumerate((ALPHAS, BETAS)):
                if given[n] is None:
                    line = [self.mix, *((value, self.mix[1]) if n == 0 else (self.mix[0], value) for value in values)]
                    self.mix = max(line, key=lambda mix: objective(measure(mix)))  # the first of equals
            if self.mix == before:
                break
        alone = {"sparse": measure((1.0, 1.0)), "dense": measure((0.0, 1.0))}
        self.training = {"alone": alone, "found": measure(self.mix), "alpha": self.mix[0], "beta": self.mix[1]}

    def _terms(self, histories: sp.csr_matrix, shares: tuple[float, float, float]) -> dict[int, Floats]:
        """Return the terms whose share is not 0 by number, each of shape (n_histories, n_items) and on one scale."""
        terms: dict[int, Floats] = {}
        if shares[0] or shares[2]:
            dense = self.dense.score(histories)
            if shares[0]:
                terms[0] = scaled(self.sparse.score(self._foretold(histories, dense)), histories)
            if shares[2]:
                terms[2] = scaled(dense, histories)
        if shares[1]:
            terms[1] = scaled(self.sparse.score(histories), histories)
        return terms

    def _parts(self, histories: sp.csr_matrix) -> dict[str, Floats]:
        shares = _shares(*self.mix)
        names = ("sparse of foretold", "sparse", "dense")
        terms = self._terms(histories, shares)
        return {names[n]: np.float32(shares[n]) * terms[n] for n in sorted(terms)}

    def _state(self) -> dict[str, NDArray[Any]]:
        return super()._state() | {"mix": np.array(self.mix)}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(state)
        self.mix = (float(state["mix"][0]), float(state["mix"][1]))

    def _settings(self) -> dict[str, Any]:
        settings = {"alpha": self.alpha, "beta": self.beta, "width": self.width}
        return settings | {"sparse": packed(self.sparse), "dense": packed(self.dense)}

    def _said(self) -> str:
        said = super()._said()
        return f"{said}, alpha={self.mix[0]:g}, beta={self.mix[1]:g}" if self.is_fitted else said


def _shares(alpha: float, beta: float) -> tuple[float, float, float]:
    """Return the weights of e_i . M(x_u), e_i . r_u and M_u . R_i.

    Examples
    --------
    >>> _shares(0.5, 0.25)
    (0.375, 0.125, 0.5)
    """
    return alpha * (1.0 - beta), alpha * beta, 1.0 - alpha
