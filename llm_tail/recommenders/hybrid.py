"""HybridRecommender: cold and tail items inherit collaborative signal from their semantic neighbours.

The score of item i for a person is a sum over the items h that the person owns::

    s(h, i) = w_h l_i [ g_i B_hi  +  (1 - g_i) b sum_j A_ij B_hj  +  m t_i max(0, cos(v_h, v_i))^p ]
                        own ID        borrowed                      text

    B    collaborative ID embeddings (`collaborative`, `low_rank`), learned from interactions
    A    attention of i over its semantic neighbours (`NeighborAttention`); rows sum to 1
    v    where an item lies by its texts (`TextSpace`); neighbours may be sought under another metric than v
    g_i  = n_i / (n_i + gate): how far an item with n_i people trusts its own ID; 0 where it is cold
    b    scale of what is borrowed
    t_i  = text_weight + (1 - g_i) b thin_text_weight; m makes the text signal as large as the own one
    l_i  = tail_lift for tail items, 1 for others: so that they fall as little as may be behind the texts alone
    w_h  = n_h^-damping recency^age_h: items that everybody owns say less of a person, and so do those taken long ago

A cold item the person owns has no row in B; it speaks through its neighbours' rows. Nothing in the sum depends on who
the person is, so a new person needs no refit, and nothing but v_i is needed of a new item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import HybridConfig, IndexConfig
from llm_tail.data.ids import Rows
from llm_tail.data.interactions import Interactions
from llm_tail.errors import DataError
from llm_tail.recommenders.base import Recommender
from llm_tail.recommenders.collaborative import Fitter, check_size, fitter_for, from_state, is_low_rank, item_counts
from llm_tail.recommenders.explaining import Explanation, audience, explain
from llm_tail.recommenders.fusion import Floats, Signals, speech
from llm_tail.recommenders.recency import aged_history, ages, is_ordered, weigh
from llm_tail.recommenders.scoring import ScoreMatrix
from llm_tail.recommenders.serving import ItemVectors, ServingIndex, item_vectors
from llm_tail.recommenders.text_space import Spaces, TextSpace, lay_out
from llm_tail.recommenders.tuning import cut_for_choosing
from llm_tail.recommenders.updates import update

__all__ = ["Explanation", "HybridRecommender"]

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph
    from llm_tail.recommenders.attention import NeighborAttention
    from llm_tail.recommenders.learning import Neighborhood

# Who took what says nothing of a cold item, and "similar" is what the attention looks at anyway.
NOT_TEXT = {"similar", "taken_together"}
MASS_USERS, MASS_SCORES = 2000, 160_000_000  # people on whom the two signals are brought to one scale; theirs


class HybridRecommender(ScoreMatrix, Recommender):
    """The hybrid of ID embeddings, attention over semantic neighbours, and words.

    Parameters
    ----------
    config : HybridConfig or mapping
        Where it starts; with ``tune`` the best settings are chosen on validation, with ``learn`` the attention is
        trained on items that are pretended cold and kept only where it is better on validation.
    seed : int
        Seeds every random choice.

    Attributes
    ----------
    config : HybridConfig
        After `fit`: what was chosen.
    training : dict
        Validation figures before and after (with the share of the words as it was chosen), the settings chosen, and
        whether the trained attention was kept.

    Notes
    -----
    Where training has times or positions, ``recommend(history=[...])`` reads the list in that order, the latest last;
    otherwise, or with ``recency`` 1, its order does not matter.

    Fit: O(n_warm^3) time for each pair of penalties tried, about 20 n_warm^2 bytes and up to 2 GiB for the matrix of
    scores; past ``max_items`` ID embeddings are of low rank (`low_rank`) and the attention stays as it begins. Score:
    one product of a sparse history with that matrix; past 23,000 items its rows are made as they are asked for, O(dim
    n_items) for each item owned.

    Examples
    --------
    >>> import numpy as np
    >>> from llm_tail.embedding.store import Embeddings
    >>> events = Interactions.from_pairs([(u, i) for u in range(8) for i in ("ab" if u % 2 else "cd")])
    >>> words = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.1, 0.9, 0], [0.8, 0, 0.2]])
    >>> hybrid = HybridRecommender(HybridConfig(tune=False, learn=False)).fit(events, Embeddings("badce", words))
    >>> sorted(item for item, _ in hybrid.recommend(history=["a"], k=2)[0])  # e is cold, and near a and b
    ['b', 'e']
    """

    name = "hybrid"
    serves_cold = True
    needs_embeddings = True

    def __init__(self, config: HybridConfig | Mapping[str, Any] | None = None, *, seed: int = 0) -> None:
        self.config = config if isinstance(config, HybridConfig) else HybridConfig(**(config or {}))
        self._given, self.seed = self.config, seed

    # ---- learning

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        if embeddings is None:
            raise DataError("the hybrid needs item vectors: fit(train, embeddings)")
        self.config, self.training = self._given, {}  # an earlier fit has put what it chose in their place
        if graph is not None and graph.ids != self.items:
            raise DataError(
                f"the graph has {len(graph):,} items that are not the {len(self.items):,} with vectors, or stand in "
                "another order; build it over the same catalogue"
            )
        if not is_low_rank(self.histories, self.config):
            check_size(self.histories, self.config.max_items)  # before an hour is spent on choosing
        if embeddings.words is None:
            self.config = self.config.replace(word_share=0.0)
        if not is_ordered(train):
            self.config = self.config.replace(recency=1.0)
        taken = train.matrix()
        chosen = self.config.tune or self.config.learn
        cut = cut_for_choosing(train, validation, self.items, self.seed) if chosen else None
        spaces, self.config, self.training = lay_out(embeddings, taken, cut, self.config, self.seed)
        self._space, self._vectors = spaces.at(self.config.text_metric), spaces.place(self.config.text_metric)
        attention = self._new_attention(graph)
        self._near: Neighborhood | None = None
        fitter = None if cut is None else self._choose(cut, graph, attention, spaces, given=cut[0] is train)
        if fitter is None and cut is not None:  # chosen on a cut of training, learned from all of it
            spaces = Spaces(embeddings, self.config.word_share, taken, self.seed)
            self._space, self._vectors = spaces.at(self.config.text_metric), spaces.place(self.config.text_metric)
        fitter = fitter or fitter_for(taken, self._vectors, self.config, self.seed)
        self._collaborative = fitter.fit(self.config.ridge, self.config.pull, self.config.text_ridge)
        self._counts, metric = item_counts(taken), self.config.neighbor_metric
        self._near_space, self._near_vectors = spaces.at(metric), spaces.place(metric)
        self._learned = {name: tensor.numpy() for name, tensor in attention.state_dict().items()}
        self._borrowing = self._attend(attention, self._near or self._neighborhood(self._counts, graph))
        self._near = None
        self._take(ages(train) if is_ordered(train) else None)
        self._unlearned: sp.csr_matrix | None = None  # what `update` put into the histories and nowhere else
        self._mass = self._text_mass()
        self._assemble()

    def _take(self, aged: sp.csr_matrix | None) -> None:
        """Keep how old everything in the histories is, and weigh them by it; None where nobody knows."""
        self._ages = aged
        if aged is not None:
            self.histories = weigh(aged, self.config.recency)

    def history_matrix(self, events: Interactions) -> sp.csr_matrix:
        """Return the events as histories in which an item of age n counts recency^n; 1 where no order is known."""
        aged = self.config.recency < 1.0 and is_ordered(events)
        return weigh(ages(events), self.config.recency) if aged else events.matrix()

    def _history(self, item_ids: Sequence[str]) -> sp.csr_matrix:
        rows = [self.items.row(x) for x in item_ids]
        return weigh(aged_history(rows, len(self.items)), self.config.recency)

    def _choose(
        self,
        cut: tuple[Interactions, sp.csr_matrix],
        graph: ItemGraph | None,
        attention: NeighborAttention,
        spaces: Spaces,
        *,
        given: bool,
    ) -> Fitter | None:
        """Set the best settings and attention; return what can solve for the final matrix, if that is at hand."""
        from llm_tail.recommenders.choosing import Chooser

        inner, outer = cut
        taken, aged = inner.matrix(), ages(inner) if is_ordered(inner) else None

        def near(metric: float) -> tuple[Floats, Neighborhood]:
            self._near_vectors = spaces.place(metric)
            return self._near_vectors, self._neighborhood(item_counts(taken), graph)

        chooser = Chooser(taken, outer, self._vectors, near, attention, self.config, self.seed, aged)
        self.training = {**self.training, **chooser.choose()}
        self.config = chooser.config
        self._near = chooser.neighborhood if given else None  # found once: in a large catalogue it takes long
        return chooser.fitter if given else None

    def _new_attention(self, graph: ItemGraph | None) -> NeighborAttention:
        import torch

        from llm_tail.recommenders.attention import NeighborAttention

        self._relations = [] if graph is None else [r for r in graph.relations if r not in NOT_TEXT]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return NeighborAttention(self._vectors.shape[1], len(self._relations), temperature=self.config.temperature)

    def _learned_attention(self) -> NeighborAttention:
        """Return the attention that `fit` left behind."""
        import torch

        from llm_tail.recommenders.attention import NeighborAttention

        attention = NeighborAttention(self._vectors.shape[1], len(self._relations))
        shapes = {name: tensor.shape for name, tensor in attention.state_dict().items()}
        attention.load_state_dict({n: torch.as_tensor(a).reshape(shapes[n]) for n, a in self._learned.items()})
        return attention

    def _neighborhood(
        self, counts: NDArray[np.int64], graph: ItemGraph | None, items: Rows | None = None
    ) -> Neighborhood:
        from llm_tail.recommenders.learning import Neighborhood

        items = np.arange(len(self._vectors)) if items is None else items
        ties = [None if graph is None else graph.matrix(relation) for relation in self._relations]
        config, vectors = self.config, self._near_vectors
        return Neighborhood.find(vectors, counts, items, config.neighbors, ties, config.tied_neighbors)

    def _attend(
        self, attention: NeighborAttention, neighborhood: Neighborhood, new: Rows | None = None
    ) -> sp.csr_matrix:
        from llm_tail.recommenders.learning import attend

        vectors = self._near_vectors if new is None else self._near_vectors[new]
        return attend(attention, neighborhood, vectors, self._near_vectors[self._collaborative.warm])

    def _text_mass(self) -> float:
        """Return the factor that brings the text kernel to the scale of the collaborative signal."""
        people = np.flatnonzero(np.diff(self.histories.indptr))  # who is known from validation alone says nothing
        n_asked = min(MASS_USERS, max(100, MASS_SCORES // len(self.items)))
        people = np.random.default_rng(self.seed).permutation(people)[:n_asked]
        histories = sp.csr_matrix(self.histories[people] @ sp.diags(speech(self._counts, self.config)))
        return Signals.of(histories, self._collaborative, None, self._vectors, self.config.kernel_power).mass

    # ---- answers

    @property
    def hears_words(self) -> bool:
        """Whether the words of the texts have a say beside what they mean; new items should bring theirs then."""
        return self._space.hears_words

    def explain(
        self, item: str, *, user: str | None = None, history: Sequence[str] | None = None, n: int = 5
    ) -> Explanation:
        """Say why `item` would be recommended to a known user, or to a person with this history.

        Parameters
        ----------
        item : str
            Any item of the catalogue.
        user : str, optional
            A known person.
        history : sequence of str, optional
            Items of one person; give this or `user`.
        n : int
            How many owned items and neighbours are named.

        Raises
        ------
        UnknownIdError, NotFittedError, DataError
        """
        return explain(self, item, user=user, history=history, n=n)

    def audience(self, item: str, k: int = 5) -> list[tuple[str, float]]:
        """Return the k known people to whom `item` fits best and who do not have it, with their scores."""
        return audience(self, item, k)

    def add_items(self, embeddings: Embeddings) -> Self:
        """Take in items that were not there at `fit`; they can be recommended at once, from their text alone.

        Parameters
        ----------
        embeddings : Embeddings
            Of the new items only, by the same encoder, as for `update`.

        Notes
        -----
        No refit: O(n_new n_items dim) for their neighbours, and one assembly of the score matrix. Raises as `update`.
        """
        return self.update(new_items=embeddings)

    def update(
        self,
        new_items: Embeddings | None = None,
        new_interactions: Interactions | None = None,
        *,
        fold: bool = True,
    ) -> Self:
        """Take in new items, new people and new events, without a refit and with the settings as they are.

        Parameters
        ----------
        new_items : Embeddings, optional
            Of items that are not there yet, by the same encoder (and with words by the same `TfidfEncoder` where the
            others have them): they can be recommended at once, by their text.
        new_interactions : Interactions, optional
            What happened since: of people known or new, on items known or in `new_items`. Where the model knows of
            order, these events come after all it has.
        fold : bool
            True lets what is learned follow: items get an own ID embedding as people take them, trust it more, and
            lend it to others. False only lengthens the histories, which is enough to answer a person's last clicks
            and costs next to nothing.

        Returns
        -------
        self
            What each call did and which equations it solved stands in ``training["updates"]``.

        Raises
        ------
        DataError
            If an item is there already, or an event names one that is nowhere, or the width differs. Nothing is
            changed then.

        Notes
        -----
        Against a refit with the same settings: counts, gates, histories and the ID embeddings of all items that the
        people concerned have are exact, those of other items are old but for what they are told by the former, which
        is of second order (see `folding`; where that is faster everything is solved again, and is exact).
        Neighbours by text are exact; ties of the graph are neither heard nor followed where an item's neighbours have
        changed, and the scale, centre and metric of the texts and the trained attention stay.

        Costs the solution (`folding.fold_in`), O(n_new n_items dim) for neighbours, and one assembly of the scores.

        Examples
        --------
        >>> import numpy as np
        >>> from llm_tail.embedding.store import Embeddings
        >>> train = Interactions.from_pairs([("ann", "a"), ("bob", "b")])
        >>> hybrid = HybridRecommender({"tune": False, "learn": False}).fit(train, Embeddings("ab", np.eye(2)))
        >>> news = Interactions.from_pairs([("eve", "c"), ("eve", "b")])
        >>> hybrid.update(Embeddings("c", np.array([[1.0, 0.5]])), news)
        HybridRecommender(hybrid, 3 people, 3 items)
        >>> hybrid.recommend(["bob"], k=1)[0][0][0]
        'c'
        """
        update(self, new_items, new_interactions, fold)
        return self

    # ---- one vector for each item

    def item_vectors(self, dim: int = 256) -> ItemVectors:
        """Return each item as one vector, inherited ID and text in one, so that scores are nearly inner products.

        Parameters
        ----------
        dim : int
            Width; from n_items on the inner products are the scores, but for rounding.

        Returns
        -------
        ItemVectors
            Keys of candidates and queries of owned items; a person is the weighted sum of the latter.

        Notes
        -----
        O(n_items^2 dim) time in ten products with the matrix of scores, which is made five times over where it is not
        kept; three arrays of (n_items, dim) memory. How it is done, and what it loses: `serving`.
        """
        return item_vectors(self, dim, self.seed)

    def to_index(self, dim: int = 256, config: IndexConfig | None = None, *, rescore: int = 100) -> ServingIndex:
        """Return the hybrid behind a search structure, for catalogues where scoring everything takes too long.

        Parameters
        ----------
        dim : int
            Width of the item vectors.
        config : IndexConfig, optional
            Of the structure; small catalogues are searched exactly.
        rescore : int
            How many of the nearest the hybrid scores exactly; 0 leaves it at the inner products.

        Returns
        -------
        ServingIndex
            Its ``measured`` (and ``training["serving"]``) says what is lost: the shared part of the first 20 with and
            without exact scores, and NDCG@20 on the validation that `fit` was given, of which scoring everything is
            ``ndcg_full``.

        Examples
        --------
        >>> import numpy as np
        >>> from llm_tail.embedding.store import Embeddings
        >>> train = Interactions.from_pairs([("ann", "a"), ("ann", "b"), ("bob", "c"), ("bob", "d")])
        >>> words = Embeddings("abcde", np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.8, 0.2]]))
        >>> hybrid = HybridRecommender({"tune": False, "learn": False}).fit(train, words)
        >>> sorted(item for item, _ in hybrid.to_index(dim=2).recommend(history=["a"], k=2)[0])
        ['b', 'e']
        """
        index = ServingIndex.build(self, self.item_vectors(dim), config, rescore, self.seed)
        index.measured = index.measure()
        self.training = {**self.training, "serving": index.measured}
        return index

    # ---- on disk

    def _settings(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(), "seed": self.seed}

    def _state(self) -> dict[str, NDArray[Any]]:
        state = (
            self._collaborative.state()
            | self._space.state()
            | {f"attention.{n}": array for n, array in self._learned.items()}
            | {
                "borrowing.data": self._borrowing.data,
                "borrowing.indices": self._borrowing.indices,
                "borrowing.indptr": self._borrowing.indptr,
                "vectors": self._vectors,
                "counts": self._counts,
                "mass": np.array([self._mass]),
            }
        )
        metrics = {"text_metric": self._space.metric, "neighbor_metric": self._near_space.metric}
        state |= {name: metric for name, metric in metrics.items() if metric is not None}
        if self._near_vectors is not self._vectors:
            state["near_vectors"] = self._near_vectors
        if self._ages is not None:
            state["ages"] = self._ages.data
        if self._unlearned is not None:
            state["unlearned"] = np.stack(self._unlearned.nonzero()).astype(np.int64)  # (2, n_events)
        return state

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._collaborative = from_state(state)
        self._vectors, self._counts = state["vectors"], state["counts"]
        self._near_vectors = state.get("near_vectors", self._vectors)
        self._space, self._near_space = (
            TextSpace.from_state(state, self.config.word_share, state.get(name))
            for name in ("text_metric", "neighbor_metric")
        )
        self._mass = float(state["mass"][0])
        self._borrowing = sp.csr_matrix(
            (state["borrowing.data"], state["borrowing.indices"], state["borrowing.indptr"]),
            shape=(len(self._vectors), len(self._collaborative.warm)),
        )
        self._learned = {k.removeprefix("attention."): v for k, v in state.items() if k.startswith("attention.")}
        self._relations = [""] * self._learned["relations"].shape[1]  # their names no longer matter
        shape, kept, aged = self.histories.shape, self.histories, state.get("ages")
        self._take(None if aged is None else sp.csr_matrix((aged, kept.indices, kept.indptr), shape=shape))
        late = state.get("unlearned")
        self._unlearned = (
            None if late is None else sp.csr_matrix((np.ones(late.shape[1], np.float32), tuple(late)), shape=shape)
        )
        self._assemble()
