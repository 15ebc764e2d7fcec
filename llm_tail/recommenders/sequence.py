"""SasRec: what a person takes next, from what they took one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.ids import Rows
from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError
from llm_tail.recommenders.base import BLOCK_BYTES, Recommender
from llm_tail.recommenders.content import centre
from llm_tail.recommenders.factors import (
    SearchSpace,
    check_above_zero,
    check_least,
    check_share,
    settings_of,
    sink,
)

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph
    from llm_tail.recommenders.transformer import SequenceEncoder, SequenceNet

Floats = NDArray[np.float32]


class SasRec(Recommender):
    """Self-attention over the sequence of a person's items; each item is foretold from those before it.

    Needs events with times or positions; without them it says so and takes the order of the data. A history is a row
    whose weights are places in the sequence, the oldest first: ``recommend(history=[...])`` takes the order of the
    list, `history_matrix` that of interactions. Equal weights stand in the order of the catalogue.

    Parameters
    ----------
    factors : int
        Width of the item vectors and of all layers, at least 1.
    n_blocks, n_heads : int
        Blocks on top of each other, and heads of each, at least 1; heads divide `factors`.
    max_history : int
        Most items of a person that are looked at, the last ones; at least 2.
    dropout : float
        In [0, 1); the paper takes 0.5 for sparse data and 0.2 for dense.
    learning_rate : float
        Of the net, above 0 (Adam).
    table_rate : float
        Of the item vectors, above 0 (Adagrad).
    epochs : int
        Most passes over the people, at least 1. With validation it ends early, and the best weights are kept.
    negatives : int
        Items that a batch is told from, at least 1: all of them where there are no more.
    batch_events : int
        Events of a batch, at least 1.
    patience : int
        Looks at validation without a gain before it ends, at least 1.
    max_minutes : float, optional
        Wall-clock limit of the training.
    seed : int
        Seeds every random choice.

    Notes
    -----
    O(n_events (negatives + max_history + factors) factors) an epoch; 8 factors bytes an item with the optimizer's.
    W.-C. Kang, J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; its equations stand beside the code
    of `transformer`. The loss is the softmax with logQ (`PeopleBatches`) in place of one negative an event, which
    is known to cost SASRec much of its quality: A. Klenitskiy, A. Vasilev, "Turning Dross Into Gold Loss: is
    BERT4Rec really better than SASRec?", RecSys 2023. Items without events score below all others.

    Examples
    --------
    >>> events = [(u, "abcd"[(u + n) % 4]) for u in range(40) for n in range(3)]  # a, b, c, d, a, b ...
    >>> people = Interactions.from_pairs(events)
    >>> people = Interactions(people.users, people.items, people.user_rows, people.item_rows, times=np.arange(120))
    >>> model = SasRec(factors=8, n_blocks=1).fit(people)
    >>> [model.recommend(history=h, k=1)[0][0][0] for h in (["a", "b"], ["c", "d"])]
    ['c', 'a']
    """

    name = "sasrec"
    item_vectors: Floats
    weights: dict[str, NDArray[Any]]

    def __init__(
        self,
        *,
        factors: int = 64,
        n_blocks: int = 2,
        n_heads: int = 1,
        max_history: int = 50,
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
        table_rate: float = 0.1,
        epochs: int = 100,
        negatives: int = 4096,
        batch_events: int = 4096,
        patience: int = 5,
        max_minutes: float | None = None,
        seed: int = 0,
    ) -> None:
        check_least(factors=(factors, 1), n_blocks=(n_blocks, 1), n_heads=(n_heads, 1), max_history=(max_history, 2))
        check_least(
            epochs=(epochs, 1), negatives=(negatives, 1), batch_events=(batch_events, 1), patience=(patience, 1)
        )
        check_above_zero(learning_rate=learning_rate, table_rate=table_rate)
        check_above_zero(max_minutes=1.0 if max_minutes is None else max_minutes)
        check_share(dropout=dropout)
        if factors % n_heads:
            raise ConfigError(f"n_heads is {n_heads}, expected a divisor of factors, which is {factors}")
        self.factors, self.n_blocks, self.n_heads = int(factors), int(n_blocks), int(n_heads)
        self.max_history, self.dropout, self.epochs = int(max_history), float(dropout), int(epochs)
        self.learning_rate, self.table_rate = float(learning_rate), float(table_rate)
        self.negatives, self.batch_events, self.patience = int(negatives), int(batch_events), int(patience)
        self.max_minutes, self.seed = max_minutes, int(seed)

    @classmethod
    def search_space(cls) -> SearchSpace:
        """Return what is worth tuning: ranges, or lists of choices."""
        return {
            "factors": [64, 128],
            "n_blocks": [1, 2, 3],
            "dropout": (0.0, 0.6, "linear"),
            "learning_rate": (3e-4, 5e-3, "log"),
            "table_rate": (0.02, 0.3, "log"),
        }

    # ---- order

    def history_matrix(self, events: Interactions) -> sp.csr_matrix:
        """Return the events as histories, shape (n_users, n_items): the weight is the place, 1 is the oldest.

        Of an item that a person took twice the last time counts.
        """
        order = events.order()
        users, items = events.user_rows[order], events.item_rows[order]
        latest = np.full(len(users), 0, dtype=np.int64)
        _, back = np.unique((users * np.int64(max(1, len(events.items))) + items)[::-1], return_index=True)
        latest[len(users) - 1 - back] = 1
        users, items = users[latest > 0], items[latest > 0]
        starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(events.users)))])
        places = np.arange(len(users)) - starts[users] + 1
        shape = (len(events.users), len(events.items))
        matrix = sp.csr_matrix((places.astype(np.float32), items, starts), shape=shape)
        matrix.sort_indices()
        return matrix

    def _history(self, item_ids: Sequence[str]) -> sp.csr_matrix:
        rows = np.asarray([self.items.row(x) for x in item_ids], dtype=np.int64)
        found = np.zeros(len(self.items), dtype=np.float32)
        found[rows] = np.arange(1, len(rows) + 1)  # of equal ones the last stays
        return sp.csr_matrix(found[None, :])

    def _popularity(self) -> NDArray[Any]:
        return np.bincount(self.histories.indices, minlength=len(self.items))

    # ---- learning

    def _net(self, embeddings: Embeddings | None) -> SequenceNet:
        from llm_tail.recommenders.nets import ItemTable
        from llm_tail.recommenders.transformer import SequenceNet

        table = ItemTable(len(self.items), self.factors, spread=self.factors**-0.5)
        table.clear(np.flatnonzero(self._popularity() == 0))
        return SequenceNet(table, self._encoder())

    def _encoder(self) -> SequenceEncoder:
        from llm_tail.recommenders.transformer import SequenceEncoder

        return SequenceEncoder(self.factors, self.max_history + 1, self.n_blocks, self.n_heads, self.dropout)

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

        ordered_by = "times" if train.times is not None else "positions" if train.positions is not None else "the data"
        if ordered_by == "the data":
            warnings.warn(
                f"{self.name} learns from sequences, and these events have neither times nor positions: the order in "
                "which they stand in the data is taken",
                stacklevel=3,
            )
        taken = train.matrix()
        most = self.max_history + 1  # the last one is asked for
        drawn = PeopleBatches(
            _in_order(self.histories), self.batch_events, self.negatives, most, self.seed, ordered=True
        )
        with seeded(self.seed):
            net = self._net(embeddings)

            def take() -> None:
                self.item_vectors, self._reader = net.table.all(), net.encoder
                self.weights = {name: tensor.numpy() for name, tensor in net.encoder.state_dict().items()}

            def score(histories: sp.csr_matrix) -> Floats:
                take()
                return self._score(histories)

            held = None if validation is None else validation.matrix()
            record = descend(
                net,
                optimizers(net, self.table_rate, self.learning_rate),
                drawn.epoch,
                net,
                name=self.name,
                budget=Budget(self.epochs, self.patience, self.max_minutes),
                look=look_on(score, taken, held, seed=self.seed, histories=self.histories),
                n_batches=drawn.n_batches,
                seed=self.seed,
            )
            take()
        self.training = record | {"ordered_by": ordered_by}

    # ---- answering

    def _score(self, histories: sp.csr_matrix) -> Floats:
        import torch

        people = np.empty((histories.shape[0], self.factors), dtype=np.float32)
        ordered = _in_order(histories)
        step = max(1, BLOCK_BYTES // (16 * (self.max_history + 1) * (self.factors + self.max_history)))
        with torch.inference_mode():
            for start in range(0, len(people), step):
                rows, there = _padded(ordered[start : start + step], self.max_history)
                items = torch.from_numpy(self.item_vectors[rows])  # (n, length, factors)
                people[start : start + step] = self._reader(items, torch.from_numpy(there))[:, -1].numpy()
        scores = people @ self.item_vectors.T
        return scores if self.serves_cold else np.asarray(sink(scores, self._popularity() == 0))

    # ---- keeping

    def _state(self) -> dict[str, NDArray[Any]]:
        encoder = {f"encoder.{name}": array for name, array in self.weights.items()}
        return {"item_vectors": self.item_vectors, "places": self.histories.data, **encoder}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        import torch

        self.item_vectors, self.histories.data = state["item_vectors"], state["places"].astype(np.float32)
        self.weights = {n.removeprefix("encoder."): a for n, a in state.items() if n.startswith("encoder.")}
        self._reader = self._encoder().eval()
        self._reader.load_state_dict({name: torch.from_numpy(array) for name, array in self.weights.items()})

    def _settings(self) -> dict[str, Any]:
        return settings_of(self)


class TextSasRec(SasRec):
    """`SasRec` whose item vectors are an own one plus the projected text vector, so that it knows cold items.

    Parameters
    ----------
    own_dropout : float
        Share of the items whose own vectors are left out of a batch, in [0, 1), so that their texts have to do.
    seed : int
        Seeds every random choice.
    settings
        The others of `SasRec`.

    Notes
    -----
    As `SasRec`, and O(dim factors) for each item of a batch. Not of the paper: cf. equation 1 of Y. Hou et al.,
    "Towards Universal Sequence Representation Learning for Recommender Systems", KDD 2022, for item vectors from text.
    """

    name = "text-sasrec"
    serves_cold: ClassVar[bool] = True
    needs_embeddings: ClassVar[bool] = True

    def __init__(self, *, own_dropout: float = 0.3, seed: int = 0, **settings: Any) -> None:
        super().__init__(seed=seed, **settings)
        check_share(own_dropout=own_dropout)
        self.own_dropout = float(own_dropout)

    @classmethod
    def search_space(cls) -> SearchSpace:
        """Return what is worth tuning: ranges, or lists of choices."""
        return super().search_space() | {"own_dropout": (0.0, 0.7, "linear")}

    def _net(self, embeddings: Embeddings | None) -> SequenceNet:
        from llm_tail.recommenders.nets import ItemTable
        from llm_tail.recommenders.transformer import SequenceNet

        assert embeddings is not None  # noqa: S101  (`fit` has seen to it; this is for the type checker)
        table = ItemTable(len(self.items), self.factors, vectors=centre(embeddings.vectors), spread=self.factors**-0.5)
        table.clear(np.flatnonzero(self._popularity() == 0))
        return SequenceNet(table, self._encoder(), self.own_dropout)


def _in_order(histories: sp.csr_matrix) -> sp.csr_matrix:
    """Return the histories with the entries of each row in the order of their weights; equal ones by column."""
    rows = np.repeat(np.arange(histories.shape[0]), np.diff(histories.indptr))
    order = np.lexsort((histories.indices, histories.data, rows))
    return sp.csr_matrix(
        (histories.data[order], histories.indices[order], histories.indptr.copy()), shape=histories.shape
    )


def _padded(ordered: sp.csr_matrix, most: int) -> tuple[Rows, NDArray[np.bool_]]:
    """Return the last items of each row at the right end, shape (n, longest), and where there are any."""
    lengths = np.minimum(np.diff(ordered.indptr), most)
    longest = max(1, int(lengths.max(initial=0)))
    there = np.arange(longest) >= longest - lengths[:, None]  # (n, longest)
    rows = np.zeros(there.shape, dtype=np.int64)
    back = longest - np.nonzero(there)[1]  # 1 for the last
    rows[there] = ordered.indices[ordered.indptr[1:][np.nonzero(there)[0]] - back]
    return rows, there
