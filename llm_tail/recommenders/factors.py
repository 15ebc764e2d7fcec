"""Learned factors: Bpr, SampledSoftmaxFactors for a million items, and FeatureFactors that lend words to the cold.

A person is nothing but a history here as everywhere: none of the three keeps a vector for a person.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError, DataError, MissingExtraError
from llm_tail.recommenders.base import Recommender
from llm_tail.recommenders.content import TfidfSimilarity, centre

if TYPE_CHECKING:
    from llm_tail.data.catalog import Catalog, Item
    from llm_tail.embedding.store import Embeddings
    from llm_tail.embedding.text import ItemText
    from llm_tail.neighbors.graph import ItemGraph
    from llm_tail.recommenders.nets import HistoryNet

Floats = NDArray[np.float32]
SearchSpace = dict[str, tuple[float, float, str] | list[Any]]


class Bpr(Recommender):
    """Matrix factorization that learns from pairs: what was taken has to score above what was not.

    argmin - sum log sigmoid(p_u . (q_i - q_j) + b_i - b_j) + regularization (|P|^2 + |Q|^2) over what u took (i) and
    did not (j), fitted by the `implicit` library. A person's vector is then read off the history h by the regression
    that best foretells the training's person vectors from their items: p_u ~ [|h|^-1/2 sum_{i in h} q_i, 1] M. So a
    person never seen is served like any other, and on real data as well as with the trained vectors.

    Parameters
    ----------
    factors : int
        Width of the vectors, at least 1.
    learning_rate : float
        Above 0.
    regularization : float
        L2 penalty, at least 0.
    iterations : int
        Passes over the events, at least 1.
    seed : int
        Of the vectors it starts from and of the pairs drawn.

    Raises
    ------
    MissingExtraError
        From `fit`, if `implicit` is not installed. A saved model is loaded and asked without it.

    Notes
    -----
    O(iterations n_events factors) on one thread: several would write over each other, and no two runs were alike.
    Equation for BPR-Opt in section 4.1 of S. Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit
    Feedback", UAI 2009; the regression is ours. Items without events score below all others.
    """

    name = "bpr"
    item_vectors: Floats
    fold_in: Floats

    def __init__(
        self,
        factors: int = 64,
        learning_rate: float = 0.05,
        regularization: float = 0.01,
        iterations: int = 100,
        seed: int = 0,
    ) -> None:
        check_least(factors=(factors, 1), iterations=(iterations, 1), regularization=(regularization, 0))
        check_above_zero(learning_rate=learning_rate)
        self.factors, self.iterations, self.seed = int(factors), int(iterations), int(seed)
        self.learning_rate, self.regularization = float(learning_rate), float(regularization)

    @classmethod
    def search_space(cls) -> SearchSpace:
        """Return what is worth tuning: ranges, or lists of choices."""
        return {
            "factors": [32, 64, 128],
            "learning_rate": (0.01, 0.3, "log"),
            "regularization": (1e-4, 0.1, "log"),
            "iterations": (30, 300, "int"),
        }

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        try:
            from implicit.cpu.bpr import BayesianPersonalizedRanking
        except ImportError as error:
            raise MissingExtraError("implicit", "als") from error
        model = BayesianPersonalizedRanking(
            factors=self.factors,
            learning_rate=self.learning_rate,
            regularization=self.regularization,
            iterations=self.iterations,
            random_state=self.seed,
            num_threads=1,
        )
        model.fit(self.histories, show_progress=False)
        items, people = (np.array(x, dtype=np.float32) for x in (model.item_factors, model.user_factors))
        if not (np.isfinite(items).all() and np.isfinite(people).all()):
            raise DataError(f"{self.name} did not converge: its vectors are not finite; lower its learning_rate")
        items[self._popularity() == 0] = 0.0
        self.item_vectors = items  # (n_items, factors + 1): the last one is the bias
        asked = np.flatnonzero(np.diff(self.histories.indptr))
        sums = self._sums(self.histories[asked]).astype(np.float64)
        left = sums.T @ sums
        left[np.diag_indices_from(left)] += 1e-6 * np.trace(left) / len(left)
        self.fold_in = np.linalg.solve(left, sums.T @ people[asked]).astype(np.float32)

    def _sums(self, histories: sp.csr_matrix) -> Floats:
        """Return the scaled sum of item vectors of each history and a one, shape (n_histories, factors + 1)."""
        sums: Floats = histories @ self.item_vectors
        sums /= np.sqrt(np.maximum(np.asarray(histories.sum(axis=1)), 1.0))
        sums[:, -1] = 1.0  # of the bias there is nothing to learn
        return sums

    def _score(self, histories: sp.csr_matrix) -> Floats:
        people: Floats = self._sums(histories) @ self.fold_in  # (n_histories, factors + 1)
        people[:, -1] = 1.0
        return sink(people @ self.item_vectors.T, self._popularity() == 0)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"item_vectors": self.item_vectors, "fold_in": self.fold_in}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.item_vectors, self.fold_in = state["item_vectors"], state["fold_in"]

    def _settings(self) -> dict[str, Any]:
        return settings_of(self)


class SampledSoftmaxFactors(Recommender):
    """Factors for catalogues of any size: two vectors and a bias an item, learned by a sampled softmax.

    s_ui = |h|^-power sum_{j in h} x_j . y_i + b_i for the history h of person u. The loss is the softmax over all items
    with events; it is estimated from negatives that a batch shares, with the logQ correction (see `PeopleBatches`),
    and exact where the catalogue holds no more than `negatives`. Items without events score below all others.

    Parameters
    ----------
    factors : int
        Width of the vectors, at least 1.
    epochs : int
        Most passes over the events, at least 1. With validation it ends early, and the best weights are kept.
    learning_rate : float
        Of the tables, above 0 (Adagrad).
    regularization : float
        L2 penalty on the vectors of a batch, at least 0.
    dropout : float
        Share of a history that is hidden while learning, in [0, 1).
    power : float
        How a history is scaled, in [0, 1]: 0 adds up, 1 takes the mean.
    negatives : int
        Items that a batch is told from, at least 1.
    batch_events : int
        Events of a batch, at least 1.
    max_history : int
        Most items of a person that one epoch looks at, at least 2.
    patience : int
        Looks at validation without a gain before it ends, at least 1.
    max_minutes : float, optional
        Wall-clock limit of the training.
    seed : int
        Seeds every random choice.

    Notes
    -----
    O(epochs n_events negatives factors) time. Memory: 16 factors bytes an item for the two tables and their Adagrad
    state (1.0 GB for a million items of 64 factors), 8 more where validation is given (the best weights), 16 bytes an
    event, and 4 batch_events negatives bytes for each of the few arrays of a batch.
    One core learns from 70,000 to 90,000 events a second with the defaults (``tests/benchmarks/factors_scale.py``): an
    epoch over 10 M events of a million items takes 2.5 minutes, ten epochs 25. `fit` on a million items and as many
    events, with validation, held 2.5 GB at most. For such sizes set `epochs` or `max_minutes`.
    The two tables are those of S. Kabbur, X. Ning, G. Karypis, "FISM: Factored Item Similarity Models", KDD 2013; the
    loss is that of recent two-tower models, X. Yi et al., "Sampling-Bias-Corrected Neural Modeling", RecSys 2019.

    Examples
    --------
    >>> train = Interactions.from_pairs([(u, i) for u in range(20) for i in ("abc" if u % 2 else "xyz")])
    >>> model = SampledSoftmaxFactors(factors=4).fit(train)
    >>> model.recommend(history=["a", "b"], k=1)[0][0][0]
    'c'
    """

    name = "softmax-factors"
    taken: Floats
    shown: Floats
    bias: Floats

    def __init__(
        self,
        *,
        factors: int = 64,
        epochs: int = 50,
        learning_rate: float = 0.05,
        regularization: float = 1e-3,
        dropout: float = 0.3,
        power: float = 0.5,
        negatives: int = 1024,
        batch_events: int = 4096,
        max_history: int = 200,
        patience: int = 4,
        max_minutes: float | None = None,
        seed: int = 0,
    ) -> None:
        check_least(factors=(factors, 1), epochs=(epochs, 1), negatives=(negatives, 1), batch_events=(batch_events, 1))
        check_least(max_history=(max_history, 2), patience=(patience, 1), regularization=(regularization, 0))
        check_above_zero(learning_rate=learning_rate, max_minutes=1.0 if max_minutes is None else max_minutes)
        check_share(dropout=dropout, power=power / 2)
        self.factors, self.epochs, self.negatives, self.seed = int(factors), int(epochs), int(negatives), int(seed)
        self.batch_events, self.max_history, self.patience = int(batch_events), int(max_history), int(patience)
        self.learning_rate, self.regularization = float(learning_rate), float(regularization)
        self.dropout, self.power = float(dropout), float(power)
        self.max_minutes = max_minutes

    @classmethod
    def search_space(cls) -> SearchSpace:
        """Return what is worth tuning: ranges, or lists of choices."""
        return {
            "factors": [64, 128, 256],
            "learning_rate": (0.02, 0.5, "log"),
            "regularization": (1e-5, 1e-1, "log"),
            "dropout": (0.0, 0.7, "linear"),
            "power": (0.0, 1.0, "linear"),
        }

    def _net(self, train: Interactions, embeddings: Embeddings | None) -> HistoryNet:
        """Return the untrained net over `self.items`."""
        from llm_tail.recommenders.nets import HistoryNet, ItemTable

        cold = np.flatnonzero(self._popularity() == 0)
        taken, shown = (ItemTable(len(self.items), self.factors) for _ in range(2))
        taken.clear(cold)
        shown.clear(cold)
        return HistoryNet(taken, shown, **self._shared())

    def _shared(self) -> dict[str, float]:
        return {"power": self.power, "dropout": self.dropout, "regularization": self.regularization}

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        from llm_tail.recommenders.drawing import PeopleBatches
        from llm_tail.recommenders.loop import Budget, descend, look_on, seeded
        from llm_tail.recommenders.nets import optimizers

        cold = self._popularity() == 0
        drawn = PeopleBatches(self.histories, self.batch_events, self.negatives, self.max_history, self.seed)
        with seeded(self.seed):
            net = self._net(train, embeddings)

            def score(histories: sp.csr_matrix) -> Floats:
                self._restore(net.arrays(cold))
                return self._score(histories)

            self.training = descend(
                net,
                optimizers(net, self.learning_rate),
                drawn.epoch,
                net,
                name=self.name,
                budget=Budget(self.epochs, self.patience, self.max_minutes),
                look=look_on(
                    score, self.histories, None if validation is None else validation.matrix(), seed=self.seed
                ),
                n_batches=drawn.n_batches,
                seed=self.seed,
            )
            self._restore(net.arrays(cold))

    def _people(self, histories: sp.csr_matrix) -> Floats:
        """Return the vector of each history, shape (n_histories, factors)."""
        n = np.maximum(np.asarray(histories.sum(axis=1), dtype=np.float32), 1.0)  # (n_histories, 1)
        people: Floats = (histories @ self.taken) * n ** np.float32(-self.power)
        return people

    def _score(self, histories: sp.csr_matrix) -> Floats:
        scores = self._people(histories) @ self.shown.T
        scores += self.bias
        return scores if self.serves_cold else sink(scores, self._popularity() == 0)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"taken": self.taken, "shown": self.shown, "bias": self.bias}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.taken, self.shown, self.bias = state["taken"], state["shown"], state["bias"]

    def _settings(self) -> dict[str, Any]:
        return settings_of(self)


class FeatureFactors(SampledSoftmaxFactors):
    """Factors that are sums over what an item is: a vector of its own, and vectors of its features.

    x_i = e_i + sum_w t_iw f_w with words w and their TF-IDF weights t, or x_i = e_i + v_i W with text vectors v, or all
    three; y_i alike. So a cold item stands where its features put it. This is LightFM, but that people are histories
    and that the loss is the sampled softmax of `SampledSoftmaxFactors` in place of its WARP.

    Parameters
    ----------
    catalog : Catalog, optional
        Where the words are; needed for `fit` where `features` asks for them, not for `load`.
    text : ItemText or callable, optional
        How an item becomes one text; title and description if not given.
    features : {"vectors", "words", "both"}
        Text vectors (`fit` needs embeddings), words of the catalogue, or both.
    own_dropout : float
        Share of the items whose own vector and bias are hidden while learning, in [0, 1), so that features alone have
        to find them; 0 as in LightFM.
    seed : int
        Seeds every random choice.
    settings
        The others of `SampledSoftmaxFactors`.

    Notes
    -----
    Time and memory as `SampledSoftmaxFactors`, plus 8 factors bytes a word, and O(dim factors) an event with vectors.
    Equation 1 of M. Kula, "Metadata Embeddings for User and Item Cold-start Recommendations", 2015
    (arXiv:1507.08439).
    """

    name = "feature-factors"
    serves_cold: ClassVar[bool] = True

    def __init__(
        self,
        catalog: Catalog | None = None,
        text: ItemText | Callable[[Item], str] | None = None,
        *,
        features: Literal["vectors", "words", "both"] = "vectors",
        own_dropout: float = 0.3,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(seed=seed, **settings)
        if features not in ("vectors", "words", "both"):
            raise ConfigError(f"features is {features!r}, expected 'vectors', 'words' or 'both'")
        check_share(own_dropout=own_dropout)
        self.catalog, self.text, self.features, self.own_dropout = catalog, text, features, float(own_dropout)

    @classmethod
    def search_space(cls) -> SearchSpace:
        """Return what is worth tuning: ranges, or lists of choices."""
        return super().search_space() | {"own_dropout": (0.0, 0.7, "linear")}

    def _net(self, train: Interactions, embeddings: Embeddings | None) -> HistoryNet:
        from llm_tail.recommenders.nets import HistoryNet, ItemTable

        vectors, words = None, None
        if self.features != "words":
            if embeddings is None:
                raise DataError(f"{self.name} needs item vectors: fit(train, embeddings), or features='words'")
            vectors = centre(embeddings.vectors)
        if self.features != "vectors":
            if self.catalog is None:
                raise DataError(f"{self.name} needs the words of the items: FeatureFactors(catalog, features='words')")
            words = TfidfSimilarity(self.catalog, self.text).fit(train).matrix
        n, cold = len(self.items), np.flatnonzero(self._popularity() == 0)
        taken, shown = (ItemTable(n, self.factors, vectors=vectors, words=words) for _ in range(2))
        taken.clear(cold)
        shown.clear(cold)
        net = HistoryNet(taken, shown, **self._shared(), own_dropout=self.own_dropout)
        net.start_alike()
        return net


def sink(scores: NDArray[Any], items: NDArray[np.bool_]) -> NDArray[Any]:
    """Set the scores of some items below all others of the same line, in place: nothing is known of them."""
    if items.any():
        rest = ~items
        lowest = scores[:, rest].min(axis=1, keepdims=True) if rest.any() else np.zeros((len(scores), 1), np.float32)
        scores[:, items] = lowest - 1.0
    return scores


def settings_of(model: Recommender) -> dict[str, Any]:
    """Return the constructor's parameters by name, those of its base classes too, as far as JSON can hold them."""
    found: dict[str, Any] = {}
    for home in type(model).__mro__:
        parameters = inspect.signature(home).parameters.values()
        names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - {"catalog", "text"}
        found |= {name: getattr(model, name) for name in sorted(names)}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return found


def check_least(**settings: tuple[float, float]) -> None:
    """Raise `ConfigError` for each (value, least) whose value is smaller, or NaN."""
    for name, (value, least) in settings.items():
        if not value >= least:
            raise ConfigError(f"{name} is {value}, expected at least {least}")


def check_above_zero(**settings: float) -> None:
    """Raise `ConfigError` for a value that is not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}, expected a number above 0")


def check_share(**settings: float) -> None:
    """Raise `ConfigError` for a value outside of [0, 1)."""
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{name} is {value}, expected at least 0 and below 1")
