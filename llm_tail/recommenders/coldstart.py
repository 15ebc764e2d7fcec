"""Peers made for cold items: DropoutNet rebuilds what another model learned, ClcRec contrasts IDs with texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError
from llm_tail.recommenders.als import ImplicitAls
from llm_tail.recommenders.base import Recommender
from llm_tail.recommenders.content import centre
from llm_tail.recommenders.factors import (
    SampledSoftmaxFactors,
    SearchSpace,
    check_above_zero,
    check_least,
    check_share,
    settings_of,
)

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph
    from llm_tail.recommenders.nets import HistoryNet

Floats = NDArray[np.float32]


class ClcRec(SampledSoftmaxFactors):
    """Factors whose text encoder is taught, by contrast, to foretell an item's ID vector; cold items take what it says.

    The loss is (1 - contrast) L_UI + contrast L_RE. L_UI is the softmax of what people took, in which a share of the
    items is replaced by their encoded texts; L_RE the contrast, over the items of a batch, between an item's ID vector
    and its encoded text.

    Parameters
    ----------
    contrast : float
        Weight of L_RE, in [0, 1).
    temperature : float
        Of the cosines of L_RE, above 0.
    own_dropout : float
        Share of items that are replaced by their encoded texts in L_UI, in [0, 1).
    hidden : int
        Width of the encoder's hidden layer, at least 1.
    seed : int
        Seeds every random choice.
    settings
        The others of `SampledSoftmaxFactors`.

    Notes
    -----
    Time as `SampledSoftmaxFactors`, plus O((dim + factors) hidden) an event; dim 4 bytes an item more.
    After Y. Wei et al., "Contrastive Learning for Cold-Start Recommendation", MM 2021 (arXiv:2107.05315), whose two
    mutual informations, user-item and between an item's representations (sections 3.2 and 3.3), are L_UI and L_RE.
    There every person has a vector of the own; here, as everywhere, a person is a history, and items have two vectors,
    each with its encoder, so that cold items can stand in a history too. Negatives are weighed by logQ.
    """

    name = "clcrec"
    serves_cold: ClassVar[bool] = True
    needs_embeddings: ClassVar[bool] = True

    def __init__(
        self,
        *,
        contrast: float = 0.5,
        temperature: float = 0.2,
        own_dropout: float = 0.5,
        hidden: int = 256,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(seed=seed, **settings)
        check_share(contrast=contrast, own_dropout=own_dropout)
        check_above_zero(temperature=temperature)
        check_least(hidden=(hidden, 1))
        self.contrast, self.temperature = float(contrast), float(temperature)
        self.own_dropout, self.hidden = float(own_dropout), int(hidden)

    @classmethod
    def search_space(cls) -> SearchSpace:
        """Return what is worth tuning: ranges, or lists of choices."""
        return super().search_space() | {
            "contrast": (0.1, 0.9, "linear"),
            "temperature": (0.05, 1.0, "log"),
            "own_dropout": (0.1, 0.7, "linear"),
        }

    def _net(self, train: Interactions, embeddings: Embeddings | None) -> HistoryNet:
        from llm_tail.recommenders.coldnets import ContrastiveNet, EncodedTable

        assert embeddings is not None  # noqa: S101  (`fit` has seen to it; this is for the type checker)
        vectors, cold = centre(embeddings.vectors), self._popularity() == 0
        taken, shown = (EncodedTable(vectors, cold, self.factors, self.hidden) for _ in range(2))
        return ContrastiveNet(
            taken,
            shown,
            contrast=self.contrast,
            temperature=self.temperature,
            own_dropout=self.own_dropout,
            **self._shared(),
        )


class DropoutNet(Recommender):
    """Two towers that rebuild another model's scores, while the items' preference vectors are dropped at random.

    argmin sum_uv (U_u . V_v - f_U(U_u) . f_V(V_v, t_v))^2 with V_v = 0 for a share of the items, so that f_V learns to
    make do with the text t_v. Cold items have no V_v.

    Parameters
    ----------
    factors : int
        Width of the preference vectors and of what the towers give, at least 1.
    preferences : {"als", "svd"}
        Where U and V come from: `ImplicitAls`, or the largest singular vectors, which need no further library.
    alpha, regularization : float
        Those of `ImplicitAls`.
    dropout : float
        Share of the items of a batch whose preferences are dropped, in [0, 1).
    hidden : int
        Width of the hidden layer of both towers, at least 1.
    learning_rate : float
        Above 0 (Adam).
    epochs : int
        Most passes over the people, at least 1. With validation it ends early, and the best weights are kept.
    batch_people, batch_items : int
        A batch is all pairs of so many; one half of the items is from the people's histories.
    patience : int
        Looks at validation without a gain before it ends, at least 1.
    max_minutes : float, optional
        Wall-clock limit of the training, without that of the preferences.
    seed : int
        Seeds every random choice.

    Raises
    ------
    MissingExtraError
        From `fit` with ``preferences="als"``, if `implicit` is not installed.

    Notes
    -----
    The preferences first, then O(n_users / batch_people) batches an epoch. A person costs one fold-in and one small
    net. Memory: 4 (2 factors + dim) bytes an item, and 4 factors bytes a person.
    Equation 2 and algorithm 1 of M. Volkovs, G. Yu, T. Poutanen, "DropoutNet: Addressing Cold Start in Recommender
    Systems", NeurIPS 2017. Dropping and transforming people is left out: a new person is folded in instead.
    """

    name = "dropoutnet"
    serves_cold: ClassVar[bool] = True
    needs_embeddings: ClassVar[bool] = True
    arrays: dict[str, Floats]

    def __init__(
        self,
        *,
        factors: int = 128,
        preferences: Literal["als", "svd"] = "als",
        alpha: float = 10.0,
        regularization: float = 0.01,
        dropout: float = 0.5,
        hidden: int = 256,
        learning_rate: float = 1e-3,
        epochs: int = 100,
        batch_people: int = 256,
        batch_items: int = 1024,
        patience: int = 5,
        max_minutes: float | None = None,
        seed: int = 0,
    ) -> None:
        check_least(factors=(factors, 1), hidden=(hidden, 1), epochs=(epochs, 1), patience=(patience, 1))
        check_least(batch_people=(batch_people, 1), batch_items=(batch_items, 1))
        check_least(alpha=(alpha, 0), regularization=(regularization, 0))
        check_above_zero(learning_rate=learning_rate, max_minutes=1.0 if max_minutes is None else max_minutes)
        check_share(dropout=dropout)
        if preferences not in ("als", "svd"):
            raise ConfigError(f"preferences is {preferences!r}, expected 'als' or 'svd'")
        self.factors, self.hidden, self.epochs, self.patience = int(factors), int(hidden), int(epochs), int(patience)
        self.batch_people, self.batch_items, self.seed = int(batch_people), int(batch_items), int(seed)
        self.alpha, self.regularization, self.dropout = float(alpha), float(regularization), float(dropout)
        self.learning_rate, self.max_minutes, self.preferences = float(learning_rate), max_minutes, preferences

    @classmethod
    def search_space(cls) -> SearchSpace:
        """Return what is worth tuning: ranges, or lists of choices."""
        return {
            "factors": [32, 64, 128],
            "alpha": (1.0, 100.0, "log"),
            "regularization": (1e-3, 10.0, "log"),
            "dropout": (0.1, 0.9, "linear"),
            "learning_rate": (1e-4, 1e-2, "log"),
        }

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        import torch

        from llm_tail.recommenders.coldnets import PreferenceNet
        from llm_tail.recommenders.loop import Budget, descend, look_on, seeded

        assert embeddings is not None  # noqa: S101  (`fit` has seen to it; this is for the type checker)
        texts = centre(embeddings.vectors) * np.float32(np.sqrt(embeddings.dim))  # entries as large as the net's own
        self.arrays = {"preferences": self._prefer(train)}
        liked, people = self.arrays["preferences"], self._preferences(self.histories)
        scale = 1.0 / max(float(np.sqrt((people**2).mean())), 1e-9), 1.0 / max(float(np.sqrt((liked**2).mean())), 1e-9)
        self.arrays["scale"] = np.array(scale, dtype=np.float32)
        asked = np.flatnonzero(np.diff(self.histories.indptr))
        with seeded(self.seed):
            net = PreferenceNet(liked.shape[1], texts.shape[1], self.hidden, self.factors)

            def loss(batch: tuple[NDArray[np.int64], NDArray[np.int64]]) -> torch.Tensor:
                rows, items = batch
                wanted = torch.from_numpy(people[rows] @ liked[items].T)  # (n_people, n_items)
                kept = (torch.rand(len(items), 1) >= self.dropout).float()
                given = torch.from_numpy(liked[items] * self.arrays["scale"][1]) * kept
                found = net(torch.from_numpy(people[rows] * scale[0]), given, torch.from_numpy(texts[items]))
                error: torch.Tensor = (found - wanted).square().mean()
                return error

            def take() -> None:
                self.arrays |= net.arrays(liked * self.arrays["scale"][1], texts)

            folded: list[Floats] = []  # every look asks the same people

            def score(histories: sp.csr_matrix) -> Floats:
                take()
                if not folded:
                    folded.append(self._preferences(histories))
                return self._rebuild(folded[0])

            held = None if validation is None else validation.matrix()
            self.training = descend(
                net,
                [torch.optim.Adam(net.parameters(), lr=self.learning_rate)],
                lambda rng: self._draw(asked, rng),
                loss,
                name=self.name,
                budget=Budget(self.epochs, self.patience, self.max_minutes),
                look=look_on(score, self.histories, held, seed=self.seed),
                n_batches=-(-len(asked) // self.batch_people),
                seed=self.seed,
            )
            take()

    def _draw(
        self, asked: NDArray[np.int64], rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield people and items: half of these from their histories, half from all items with events."""
        order, warm = rng.permutation(asked), np.flatnonzero(self._popularity() > 0)
        half = self.batch_items // 2
        for start in range(0, len(order), self.batch_people):
            rows = order[start : start + self.batch_people]
            theirs = self.histories[rows].indices
            items = np.concatenate([rng.choice(theirs, half), rng.choice(warm, self.batch_items - half)])
            yield rows, np.unique(items).astype(np.int64)

    def _prefer(self, train: Interactions) -> Floats:
        """Return V, shape (n_items, <= factors); zero for items without events."""
        if self.preferences == "als":
            als = self._als().fit(train)
            liked = als.item_vectors
        else:
            from sklearn.utils.extmath import randomized_svd

            n = min(self.factors, *self.histories.shape)
            liked = np.asarray(randomized_svd(self.histories, n, random_state=self.seed)[2].T, dtype=np.float32)
        liked[self._popularity() == 0] = 0.0
        return np.ascontiguousarray(liked)

    def _als(self) -> ImplicitAls:
        return ImplicitAls(self.factors, self.regularization, self.alpha, seed=self.seed)

    def _preferences(self, histories: sp.csr_matrix) -> Floats:
        """Return U for some histories, shape (n_histories, <= factors)."""
        if self.preferences == "svd":
            return np.asarray(histories @ self.arrays["preferences"], dtype=np.float32)
        als = self._als()
        als.item_vectors = self.arrays["preferences"]
        return als._people(histories)

    def _score(self, histories: sp.csr_matrix) -> Floats:
        return self._rebuild(self._preferences(histories))

    def _rebuild(self, people: Floats) -> Floats:
        """Return the scores of people given as U, shape (n_people, n_items)."""
        tower = self.arrays
        hidden = np.tanh(
            (people * tower["scale"][0]) @ tower["person.0.weight"].T + tower["person.0.bias"]
        )  # (n_histories, hidden)
        made = hidden @ tower["person.2.weight"].T + tower["person.2.bias"]  # (n_histories, factors)
        return np.asarray(made @ tower["item_vectors"].T, dtype=np.float32)

    def _state(self) -> dict[str, NDArray[Any]]:
        return dict(self.arrays)

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.arrays = dict(state)

    def _settings(self) -> dict[str, Any]:
        return settings_of(self)
