"""Recommenders whose vectors spread over the graph of people and items: learned IDs (LightGcn), words (AlphaRec).

With R the binary matrix of who took what, D_u and D_i the diagonal matrices of how many items a person and how many
people an item has::

    R~ = D_u^-1/2 R D_i^-1/2                              the normalised graph A, from people to items
    E_u^(l+1) = R~ E_i^(l),  E_i^(l+1) = R~' E_u^(l)      one step over it, for vectors of people and of items

torch is needed to fit them, not to load or to ask them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError
from llm_tail.recommenders.base import Recommender
from llm_tail.recommenders.content import centre
from llm_tail.recommenders.propagation import (
    KnownPeople,
    means,
    normalised,
    project,
    ridge_map,
    spread,
    steps,
    unit,
)

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph
    from llm_tail.recommenders.graph_learning import BprNet, Events, WordNet

Floats = NDArray[np.float32]
LOOK_EVERY = 5  # epochs between two looks at validation


class LightGcn(Recommender):
    """ID embeddings spread over the graph, learned by BPR: a person's vector times an item's, each a mean over layers.

    ::

        E^(l+1) = A E^(l)                      A the normalised graph of people and items         (eq. 3)
        e = sum_l E^(l) / (layers + 1)                                                             (eq. 4)
        score(u, i) = e_u . e_i                                                                    (eq. 5)
        loss = -sum ln sigmoid(score(u, i) - score(u, j)) + regularization |E^(0)|^2              (eq. 15)

    with j drawn from the items that u did not take. Known people have the vectors that were learned for them. Whoever
    is not known by exactly that history is given the layer 0 that people with such a first layer learned (a ridge
    regression), and the other layers from the items as all others. Items without any interaction score below all
    others (`serves_cold` is False).

    Parameters
    ----------
    factors : int
        Width of the vectors, at least 1.
    layers : int
        Steps over the graph, at least 0; 0 is plain matrix factorization.
    learning_rate, regularization : float
        Of Adam, above 0; weight of the L2 penalty on the vectors of a batch, at least 0.
    batch : int
        Events of one step, at least 1.
    epochs : int
        Most rounds over the events, at least 1. With validation the best state is kept, and training ends where it has
        not become better for `patience` looks.
    patience : int
        Looks without gain before training ends, at least 1.
    max_minutes : float, optional
        Training ends after so long, above 0; where this decides, two runs need not agree.
    seed : int
        Of the first vectors and all draws.

    Notes
    -----
    A step costs O(layers factors n_events): about 0.02 s for 45,000 events on one core. Memory: a dozen
    arrays of (n_users + n_items, factors) float32. A look every five epochs is the mean NDCG@20 of warm, tail, cold and
    overall on up to 2,000 people. X. He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation", SIGIR 2020 (arXiv:2002.02126). The layer 0 of strangers is ours; the paper has none.

    Examples
    --------
    >>> train = Interactions.from_pairs([("ann", "emma"), ("ann", "persuasion"), ("bob", "emma"), ("eve", "dune")])
    >>> LightGcn(factors=8, epochs=20).fit(train).recommend(["bob"], k=1)[0][0][0]
    'persuasion'
    """

    name = "lightgcn"
    item_layers: Floats
    person_layer: Floats
    fold: Floats
    _known: KnownPeople

    def __init__(
        self,
        factors: int = 64,
        layers: int = 3,
        learning_rate: float = 0.005,
        regularization: float = 1e-4,
        batch: int = 2048,
        epochs: int = 300,
        patience: int = 6,
        max_minutes: float | None = 10.0,
        seed: int = 0,
    ) -> None:
        _check_counts(factors=factors, batch=batch, epochs=epochs, patience=patience)
        if layers < 0 or not (learning_rate > 0 and regularization >= 0 and (max_minutes or 1.0) > 0):
            raise ConfigError(
                f"layers is {layers}, learning_rate {learning_rate}, regularization {regularization}, max_minutes "
                f"{max_minutes}; expected at least 0, above 0, at least 0 and above 0"
            )
        self.factors, self.layers, self.batch, self.epochs = int(factors), int(layers), int(batch), int(epochs)
        self.learning_rate, self.regularization = float(learning_rate), float(regularization)
        self.patience, self.max_minutes, self.seed = int(patience), max_minutes, int(seed)

    @classmethod
    def search_space(cls) -> dict[str, Any]:
        """Return the settings worth tuning: bounds and scale, or choices, of each."""
        return {
            "layers": (1, 4, "int"),
            "learning_rate": (1e-3, 2e-2, "log"),
            "regularization": (1e-6, 1e-2, "log"),
            "factors": [64, 128],
        }

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        from llm_tail.recommenders.graph_learning import BprNet, Events
        from llm_tail.recommenders.loop import seeded

        events = Events(self.histories, self.batch)
        with seeded(self.seed):
            net = BprNet(events, self.factors, self.layers, self.regularization)

        def score(histories: sp.csr_matrix) -> Floats:
            self._take(*net.arrays())
            return self._score(histories)

        self.training = _learn(self, net, events, score, validation)
        self._take(*net.arrays())

    def _take(self, people: Floats, items: Floats) -> None:
        """Work out from the learned layer 0 all that is needed to answer."""
        self.item_layers, first = spread(normalised(self.histories), people, items, self.layers)
        self.person_layer, self.fold = people, np.zeros((self.factors, self.factors), dtype=np.float32)
        if self.layers:
            there = np.diff(self.histories.indptr) > 0
            self.fold = ridge_map(first[there], people[there])
        self._known = KnownPeople(self.histories)

    def _score(self, histories: sp.csr_matrix) -> Floats:
        later = steps(histories, self.item_layers[:-1], self._counts)  # layers 1 and later, summed; and layer 1
        first = later[1] @ self.fold if self.layers else np.zeros((histories.shape[0], self.factors), np.float32)
        people = (self._known.vectors(histories, self.person_layer, first) + later[0]) / np.float32(self.layers + 1)
        people[np.diff(histories.indptr) == 0] = 0.0
        scores: Floats = people @ self.item_layers.mean(axis=0).T
        scores[:, self._counts == 0] = scores.min(axis=1, keepdims=True) - 1.0  # nothing is known of these
        return scores

    @property
    def _counts(self) -> NDArray[Any]:
        return np.asarray(self.histories.sum(axis=0)).ravel()

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"item_layers": self.item_layers, "person_layer": self.person_layer, "fold": self.fold}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.item_layers, self.person_layer, self.fold = state["item_layers"], state["person_layer"], state["fold"]
        self._known = KnownPeople(self.histories)

    def _settings(self) -> dict[str, Any]:
        names = ("factors", "layers", "learning_rate", "regularization", "batch")
        return {n: getattr(self, n) for n in (*names, "epochs", "patience", "max_minutes", "seed")}


class AlphaRec(Recommender):
    """Item texts in place of IDs: text vectors through a small network, spread over the graph, learned by InfoNCE.

    ::

        z_u = mean of z_i over the items that u took           z_i the text vector of item i, never changed
        E^(0) = W2 leaky_relu(W1 z + b1) + b2                  for items and people, the same network
        E^(l+1) = A E^(l);  e = sum_l E^(l) / (layers + 1)     A the normalised graph
        score(u, i) = cos(e_u, e_i)
        loss = -ln exp(score(u, i) / t) / (exp(score(u, i) / t) + sum_j exp(score(u, j) / t))

    with t the temperature. An item without any interaction has its layer 0 only, which comes from its words, so that
    it is ranked like all others. Nothing is learned for a person, so that a stranger is served by the same formula.

    Parameters
    ----------
    factors, hidden : int
        Width of the vectors and of the hidden layer, at least 1.
    layers : int
        Steps over the graph, at least 0.
    temperature : float
        Of the loss, above 0.
    learning_rate : float
        Of Adam, above 0.
    negatives : int
        Items j drawn for each batch, at least 1; what the person took is left out.
    batch : int
        Events of one step, at least 1.
    epochs : int
        Most rounds over the events, at least 1. With validation the best state is kept, and training ends where it has
        not become better for `patience` looks.
    patience : int
        Looks without gain before training ends, at least 1.
    max_minutes : float, optional
        Training ends after so long, above 0; where this decides, two runs need not agree.
    seed : int
        Of the first weights and all draws.

    Notes
    -----
    A step costs O((n_users + n_items) dim hidden + layers factors n_events + batch negatives factors). Memory: a dozen
    arrays of (n_users + n_items, hidden) float32.
    After L. Sheng et al., "Language Representations Can be What Recommenders Need: Findings and Potentials", ICLR 2025
    (arXiv:2407.05441). Different here: the text vectors are centred, and the negatives are shared by a batch.

    Examples
    --------
    >>> from llm_tail.embedding.store import Embeddings
    >>> train = Interactions.from_pairs([("ann", "emma"), ("bob", "emma"), ("bob", "dracula"), ("eve", "dune")])
    >>> words = np.array([[1, 0.1], [1, 0.2], [0, 1.0], [-1, 0.3]])
    >>> vectors = Embeddings(["emma", "persuasion", "dracula", "dune"], words)
    >>> AlphaRec(factors=4, hidden=4, epochs=3).fit(train, vectors).recommend(["ann"], k=4)[0][-1][0]
    'dune'
    """

    name = "alpharec"
    serves_cold: ClassVar[bool] = True
    needs_embeddings: ClassVar[bool] = True
    vectors: Floats
    item_layers: Floats
    network: dict[str, Floats]

    def __init__(
        self,
        factors: int = 64,
        hidden: int = 256,
        layers: int = 2,
        temperature: float = 0.15,
        learning_rate: float = 0.001,
        negatives: int = 512,
        batch: int = 2048,
        epochs: int = 200,
        patience: int = 6,
        max_minutes: float | None = 10.0,
        seed: int = 0,
    ) -> None:
        _check_counts(
            factors=factors, hidden=hidden, negatives=negatives, batch=batch, epochs=epochs, patience=patience
        )
        if layers < 0 or not (temperature > 0 and learning_rate > 0 and (max_minutes or 1.0) > 0):
            raise ConfigError(
                f"layers is {layers}, temperature {temperature}, learning_rate {learning_rate}, max_minutes "
                f"{max_minutes}; expected at least 0, and the others above 0"
            )
        self.factors, self.hidden, self.layers, self.batch = int(factors), int(hidden), int(layers), int(batch)
        self.temperature, self.learning_rate, self.negatives = float(temperature), float(learning_rate), int(negatives)
        self.epochs, self.patience, self.max_minutes, self.seed = int(epochs), int(patience), max_minutes, int(seed)

    @classmethod
    def search_space(cls) -> dict[str, Any]:
        """Return the settings worth tuning: bounds and scale, or choices, of each."""
        return {
            "layers": (0, 3, "int"),
            "temperature": (0.05, 0.5, "log"),
            "learning_rate": (3e-4, 1e-2, "log"),
            "hidden": [128, 256, 512],
        }

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        from llm_tail.recommenders.graph_learning import Events, WordNet
        from llm_tail.recommenders.loop import seeded

        assert embeddings is not None  # noqa: S101  (`fit` has seen to it; this is for the type checker)
        self.vectors = centre(embeddings.vectors)
        events = Events(self.histories, self.batch)
        names = ("hidden", "factors", "layers", "temperature", "negatives")
        with seeded(self.seed):
            net = WordNet(events, self.vectors, **{name: getattr(self, name) for name in names})

        def score(histories: sp.csr_matrix) -> Floats:
            self._take(net.arrays())
            return self._score(histories)

        self.training = _learn(self, net, events, score, validation)
        self._take(net.arrays())

    def _take(self, network: dict[str, Floats]) -> None:
        """Work out from the learned network all that is needed to answer."""
        self.network = network
        people, items = (project(network, x) for x in (means(self.histories, self.vectors), self.vectors))
        self.item_layers, _ = spread(normalised(self.histories), people, items, self.layers)

    def _score(self, histories: sp.csr_matrix) -> Floats:
        counts = np.asarray(self.histories.sum(axis=0)).ravel()
        people = project(self.network, means(histories, self.vectors))  # (n_histories, factors)
        people = unit(people + steps(histories, self.item_layers[:-1], counts)[0])
        people[np.diff(histories.indptr) == 0] = 0.0
        scores: Floats = people @ unit(self.item_layers.sum(axis=0)).T
        return scores

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"vectors": self.vectors, "item_layers": self.item_layers} | {
            f"network.{name}": array for name, array in self.network.items()
        }

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.vectors, self.item_layers = state["vectors"], state["item_layers"]
        self.network = {n.removeprefix("network."): a for n, a in state.items() if n.startswith("network.")}

    def _settings(self) -> dict[str, Any]:
        names = ("factors", "hidden", "layers", "temperature", "learning_rate", "negatives", "batch")
        return {n: getattr(self, n) for n in (*names, "epochs", "patience", "max_minutes", "seed")}


def _learn(
    model: LightGcn | AlphaRec,
    net: BprNet | WordNet,
    events: Events,
    score: Callable[[sp.csr_matrix], Floats],
    validation: Interactions | None,
) -> dict[str, Any]:
    """Train a net in place and return what was measured; `score` answers with the weights of the moment."""
    import torch

    from llm_tail.recommenders.loop import Budget, descend, look_on

    held = None if validation is None else validation.matrix()
    return descend(
        net,
        [torch.optim.Adam(net.parameters(), lr=model.learning_rate)],
        events.epoch,
        net,
        name=model.name,
        budget=Budget(model.epochs, model.patience, model.max_minutes, look_every=LOOK_EVERY),
        look=look_on(score, model.histories, held, seed=model.seed),
        n_batches=events.n_batches,
        seed=model.seed,
    )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}, expected at least 1")
