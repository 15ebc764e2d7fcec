"""What a person took last says more: histories that are weighted by age, and Recent, which gives them to any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError
from llm_tail.recommenders.base import Recommender
from llm_tail.recommenders.members import Ensemble

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph

LEAST = 1e-6  # what is very old still counts as taken


def is_ordered(events: Interactions) -> bool:
    """Return whether it is known what came after what: by times or by positions."""
    return events.times is not None or events.positions is not None


def ages(events: Interactions) -> sp.csr_matrix:
    """Return how long ago each person took each item, shape (n_users, n_items): 1 is the last, 2 what came before it.

    What happened at one time, such as a basket, is of one age. An item that was taken twice is as old as the last time.

    Parameters
    ----------
    events : Interactions
        With times or positions; without, everything is of age 1.

    Returns
    -------
    csr_matrix of int32
        With sorted indices and one entry for each distinct (user, item).

    Notes
    -----
    O(n_events log n_events).

    Examples
    --------
    >>> from llm_tail.data.ids import IdMap
    >>> people, items = IdMap(["ann"], "user"), IdMap(["emma", "dune", "ulysses"])
    >>> ages(Interactions(people, items, [0, 0, 0], [0, 1, 2], times=[5, 9, 9])).toarray().tolist()
    [[2, 1, 1]]
    """
    when = events.times if events.times is not None else events.positions
    order = events.order()
    users, items = events.user_rows[order], events.item_rows[order]
    moment = np.zeros(len(users), dtype=np.int64)
    if when is not None and len(users):
        later = (np.diff(users) != 0) | (np.diff(when[order]) != 0)
        moment[1:] = np.cumsum(later)
    latest = np.zeros(len(events.users), dtype=np.int64)
    latest[users] = moment  # of equal rows the last stays
    keys = users * np.int64(max(1, len(events.items))) + items
    _, back = np.unique(keys[::-1], return_index=True)  # in the order of users, then items
    kept = len(keys) - 1 - back
    starts = np.concatenate([[0], np.cumsum(np.bincount(users[kept], minlength=len(events.users)))])
    age = (latest[users[kept]] - moment[kept] + 1).astype(np.int32)
    return sp.csr_matrix((age, items[kept], starts), shape=(len(events.users), len(events.items)))


def weigh(aged: sp.csr_matrix, decay: float) -> sp.csr_matrix:
    """Return histories of `ages`: decay^(age - 1), so that the last item counts 1; a decay of 1 weighs all alike.

    Examples
    --------
    >>> weigh(sp.csr_matrix([[3, 0, 1, 2]]), 0.5).toarray().tolist()
    [[0.25, 0.0, 1.0, 0.5]]
    """
    weights = np.maximum(np.float64(decay) ** (aged.data.astype(np.float64) - 1.0), LEAST)
    return sp.csr_matrix((weights.astype(np.float32), aged.indices, aged.indptr), shape=aged.shape)


def aged_history(rows: Sequence[int] | NDArray[Any], n_items: int) -> sp.csr_matrix:
    """Return the ages of one person's items, shape (1, n_items); the rows stand in the order of taking, latest last."""
    found = np.zeros(n_items, dtype=np.int32)
    found[np.asarray(rows, dtype=np.int64)] = len(rows) - np.arange(len(rows))  # of equal ones the last stays
    return sp.csr_matrix(found[None, :])


class Recent(Ensemble):
    """Any recommender, asked with histories in which an item of age n counts decay^n.

    For those whose score is a sum over what a person took: ContentSimilarity, Ease, L3ae, ItemKnn. Nothing changes
    where it is not known what came after what.

    Parameters
    ----------
    recommender : Recommender
        Fitted as ever; only what it is asked with is weighted.
    decay : float
        In (0, 1]; 1 weighs all alike.
    members : sequence of Recommender
        In the place of `recommender`: one, as `save` has written it.

    Attributes
    ----------
    ordered : bool
        Whether training was ordered. If not, ``recommend(history=[...])`` takes no notice of the order of the list;
        else its last item is the latest.

    Examples
    --------
    >>> from llm_tail.recommenders.baselines import ItemKnn
    >>> events = Interactions.from_pairs([("ann", "emma"), ("ann", "persuasion"), ("bob", "dune"), ("bob", "solaris")])
    >>> events = Interactions(events.users, events.items, events.user_rows, events.item_rows, times=np.arange(4))
    >>> model = Recent(ItemKnn(), decay=0.5).fit(events)
    >>> [model.recommend(history=h, k=1)[0][0][0] for h in (["emma", "dune"], ["dune", "emma"])]
    ['solaris', 'persuasion']
    """

    ordered: bool = False

    def __init__(
        self,
        recommender: Recommender | None = None,
        decay: float = 0.8,
        *,
        members: Sequence[Recommender | Mapping[str, Any]] = (),
    ) -> None:
        super().__init__([recommender] if recommender is not None else members)
        if not 0 < decay <= 1:
            raise ConfigError(f"decay is {decay}, expected a number above 0 and at most 1")
        self.decay = float(decay)
        self.name = f"recent-{self.members[0].name}"

    @classmethod
    def search_space(cls) -> dict[str, Any]:
        """Return the settings worth tuning: bounds and scale of each."""
        return {"decay": (0.5, 1.0, "linear")}

    def history_matrix(self, events: Interactions) -> sp.csr_matrix:
        """Return the events as weighted histories; where they are not ordered, all weigh 1."""
        return weigh(ages(events), self.decay) if is_ordered(events) else events.matrix()

    def _history(self, item_ids: Sequence[str]) -> sp.csr_matrix:
        if not self.ordered:
            return super()._history(item_ids)
        return weigh(aged_history([self.items.row(x) for x in item_ids], len(self.items)), self.decay)

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        self.ordered = is_ordered(train)
        if not self._is_ready(self.members[0]):
            self.members[0].fit(train, embeddings, graph, validation=validation)

    def _parts(self, histories: sp.csr_matrix) -> dict[str, NDArray[np.float32]]:
        return {self.labels[0]: self.members[0].score(histories)}

    def _popularity(self) -> NDArray[Any]:
        return self.members[0]._popularity()

    def _state(self) -> dict[str, NDArray[Any]]:
        own = {"weights": self.histories.data, "ordered": np.array([self.ordered])}
        return super()._state() | own | {"plain": self.members[0].histories.data}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(state)  # gives the member a copy of what is there
        self.ordered = bool(state["ordered"][0])
        self.members[0].histories = _with(self.histories, state["plain"])
        self.histories = _with(self.histories, state["weights"])

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"decay": self.decay}


def _with(matrix: sp.csr_matrix, data: NDArray[Any]) -> sp.csr_matrix:
    """Return the matrix with other numbers in the same places."""
    return sp.csr_matrix((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)
