"""HybridRecommender: cold and tail items inherit collaborative signal from their semantic neighbours.

The score of item i for a person is a sum over the items h that the person owns::

    s(h, i) = w_h [ g_i B_hi  +  (1 - g_i) b sum_j A_ij B_hj  +  m t_i max(0, cos(v_h, v_i))^p ]
                    own ID        borrowed                      text

    B    collaborative ID embeddings (`CollaborativeEmbeddings`), learned from interactions
    A    attention of i over its semantic neighbours (`NeighborAttention`); rows sum to 1
    g_i  = n_i / (n_i + gate): how far an item with n_i people trusts its own ID; 0 where it is cold
    b    scale of what is borrowed
    t_i  = text_weight + (1 - g_i) b thin_text_weight; m makes the text signal as large as the own one
    w_h  = n_h^-damping recency^age_h: items that everybody owns say less of a person, and so do those taken long ago

A cold item the person owns has no row in B; it speaks through its neighbours' rows. Nothing in the sum depends on who
the person is, so a new person needs no refit, and nothing but v_i is needed of a new item.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import HybridConfig
from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import split_cold_items
from llm_tail.errors import DataError
from llm_tail.recommenders.base import Recommender
from llm_tail.recommenders.collaborative import CollaborativeEmbeddings, GramFitter, check_size
from llm_tail.recommenders.explaining import Explanation, audience, explain
from llm_tail.recommenders.fusion import Floats, Signals, speech, text_kernel, text_weights, trust
from llm_tail.recommenders.recency import aged_history, ages, is_ordered, weigh

__all__ = ["Explanation", "HybridRecommender"]

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph
    from llm_tail.recommenders.attention import NeighborAttention
    from llm_tail.recommenders.learning import Neighborhood

# Who took what says nothing of a cold item, and "similar" is what the attention looks at anyway.
NOT_TEXT = {"similar", "taken_together"}
MASS_USERS = 2000  # people on whom the two signals are brought to one scale
BLOCK_BYTES = 64 << 20
WHOLE_BYTES = 2 << 30  # a larger score matrix is not kept; its rows are made when somebody owns them


class HybridRecommender(Recommender):
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
        Validation figures before and after, the settings chosen, and whether the trained attention was kept.

    Notes
    -----
    Where training has times or positions, ``recommend(history=[...])`` reads the list in that order, the latest last;
    otherwise, or with ``recency`` 1, its order does not matter.

    Fit: O(n_warm^3) time for each pair of penalties tried, about 20 n_warm^2 bytes and up to 2 GiB for the matrix of
    scores. Score: one product of a sparse history with that matrix; past 23,000 items its rows are made as they are
    asked for, O(dim n_items) for each item owned.

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
        self.seed = seed

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
        if graph is not None and graph.ids != self.items:
            raise DataError(
                f"the graph has {len(graph):,} items that are not the {len(self.items):,} with vectors, or stand in "
                "another order; build it over the same catalogue"
            )
        check_size(self.histories, self.config.max_items)  # before an hour is spent on choosing
        self._place(embeddings)
        if not is_ordered(train):
            self.config = self.config.replace(recency=1.0)
        taken = train.matrix()
        attention = self._new_attention(graph)
        fitter = None
        if self.config.tune or self.config.learn:
            fitter = self._choose(train, validation, graph, attention)
        fitter = fitter or GramFitter(taken, self._vectors, self.config.text_ridge, self.config.max_items)
        self._collaborative = fitter.fit(self.config.ridge, self.config.pull)
        self._counts = _counts(taken)
        self._learned = {name: tensor.numpy() for name, tensor in attention.state_dict().items()}
        self._borrowing = self._attend(attention, self._neighborhood(self._counts, graph))
        self._take(ages(train) if is_ordered(train) else None)
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
        train: Interactions,
        validation: Interactions | None,
        graph: ItemGraph | None,
        attention: NeighborAttention,
    ) -> GramFitter | None:
        """Set the best settings and attention; return what can solve for the final matrix, if that is at hand."""
        from llm_tail.recommenders.choosing import Chooser

        inner, outer = train, None if validation is None else validation.matrix()
        given = outer is not None and outer.nnz > 0
        if not given:
            inner, outer = self._inner_split(train)
        if outer is None or outer.nnz == 0:  # too few events to hold any back
            return None
        taken, aged = inner.matrix(), ages(inner) if is_ordered(inner) else None
        neighborhood = self._neighborhood(_counts(taken), graph)
        chooser = Chooser(taken, outer, self._vectors, neighborhood, attention, self.config, self.seed, aged)
        self.training = chooser.choose()
        self.config = chooser.config
        return chooser.fitter if given else None

    def _place(self, embeddings: Embeddings) -> None:
        """Centre the vectors: what all items share tells none apart."""
        there = np.abs(embeddings.vectors).max(axis=1) > 0
        self._centre = embeddings.vectors[there].mean(axis=0) if there.any() else np.zeros(embeddings.dim, np.float32)
        self._vectors = self._centred(embeddings.vectors)

    def _centred(self, vectors: Floats) -> Floats:
        """Return unit vectors around the centre; zero vectors stay zero."""
        there = np.abs(vectors).max(axis=1, keepdims=True) > 0
        moved = np.where(there, vectors - self._centre, 0.0)
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        unit = np.divide(moved, lengths, out=np.zeros_like(moved), where=lengths > 1e-6)
        return np.asarray(unit, dtype=np.float32)

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

    def _inner_split(self, train: Interactions) -> tuple[Interactions, sp.csr_matrix | None]:
        """Cut training itself, for want of validation interactions; None where nothing would be left to learn from."""
        try:
            split = split_cold_items(train, self.items, cold_share=0.1, held_share=0.1, seed=self.seed)
        except DataError:
            return train, None
        held = split.validation.matrix() + split.test.matrix()
        return split.train, sp.csr_matrix(held)

    def _neighborhood(
        self, counts: NDArray[np.int64], graph: ItemGraph | None, items: Rows | None = None
    ) -> Neighborhood:
        from llm_tail.recommenders.learning import Neighborhood

        items = np.arange(len(self._vectors)) if items is None else items
        ties = [None if graph is None else graph.matrix(relation) for relation in self._relations]
        return Neighborhood.find(self._vectors, counts, items, self.config.neighbors, ties)

    def _attend(
        self, attention: NeighborAttention, neighborhood: Neighborhood, new: Rows | None = None
    ) -> sp.csr_matrix:
        from llm_tail.recommenders.learning import attend

        vectors = self._vectors if new is None else self._vectors[new]
        return attend(attention, neighborhood, vectors, self._vectors[self._collaborative.warm])

    def _text_mass(self) -> float:
        """Return the factor that brings the text kernel to the scale of the collaborative signal."""
        people = np.flatnonzero(np.diff(self.histories.indptr))  # who is known from validation alone says nothing
        people = np.random.default_rng(self.seed).permutation(people)[:MASS_USERS]
        histories = sp.csr_matrix(self.histories[people] @ sp.diags(speech(self._counts, self.config)))
        return Signals.of(histories, self._collaborative, None, self._vectors, self.config.kernel_power).mass

    # ---- the matrix of scores

    def _rows(self, owned: Rows) -> tuple[Floats, Floats, Floats]:
        """Return the own, borrowed and text part of what owned items say, each of shape (n_owned, n_items)."""
        n, warm = len(self._vectors), self._collaborative.warm
        place = np.full(n, -1, dtype=np.int64)
        place[warm] = np.arange(len(warm))
        is_warm = place[owned] >= 0
        said = np.empty((len(owned), len(warm)), dtype=np.float32)  # what each owned item says of the warm items
        said[is_warm] = self._collaborative.weights[place[owned[is_warm]]]
        said[~is_warm] = self._borrowing[owned[~is_warm]] @ self._collaborative.weights
        voice = speech(self._counts, self.config)[owned][:, None]  # (n_owned, 1)
        said *= voice
        own_share = trust(self._counts, self.config)
        own = np.zeros((len(owned), n), dtype=np.float32)
        own[:, warm] = said * own_share[warm]
        borrowed = np.ascontiguousarray((self._borrowing @ said.T).T)  # (n_owned, n_items)
        borrowed *= (1.0 - own_share) * np.float32(self.config.borrow)
        text = text_kernel(self._vectors[owned], self._vectors, self.config.kernel_power)
        text *= text_weights(self._counts, self.config) * np.float32(self._mass) * voice
        for part in (own, borrowed, text):
            part[np.arange(len(owned)), owned] = 0.0  # no item speaks for itself
        return own, borrowed, text

    def _assemble(self) -> None:
        """Add the parts up once, where the whole matrix is small enough to be kept."""
        n = len(self._vectors)
        self._weights: Floats | None = None
        if 4 * n * n <= WHOLE_BYTES:
            self._weights = np.empty((n, n), dtype=np.float32)
            for owned, rows in self._blocks(np.arange(n)):
                self._weights[owned] = rows

    def _blocks(self, owned: Rows) -> Iterator[tuple[Rows, Floats]]:
        """Yield items and what they say, shape (n_block, n_items), block by block."""
        block = max(1, BLOCK_BYTES // (4 * len(self._vectors)))
        for start in range(0, len(owned), block):
            part = owned[start : start + block]
            own, borrowed, text = self._rows(part)
            own += borrowed
            own += text
            yield part, own

    def _score(self, histories: sp.csr_matrix) -> NDArray[Any]:
        if self._weights is not None:
            return np.asarray(histories @ self._weights)
        scores = np.zeros(histories.shape, dtype=np.float32)
        columns = histories.tocsc()
        for owned, rows in self._blocks(np.unique(histories.indices).astype(np.int64)):
            scores += columns[:, owned].tocsr() @ rows
        return scores

    def _column(self, row: int) -> Floats:
        """Return what every item says of one item, shape (n_items,)."""
        warm, weights = self._collaborative.warm, self._collaborative.weights
        own_share = trust(self._counts[[row]], self.config)[0]
        lenders = self._borrowing[row]
        said = (weights[:, lenders.indices] @ lenders.data) * ((1.0 - own_share) * np.float32(self.config.borrow))
        place = np.flatnonzero(warm == row)
        if len(place):
            said += own_share * weights[:, place[0]]
        column = np.asarray(self._borrowing @ said, dtype=np.float32)  # what cold items say, through their neighbours
        column[warm] = said
        text = text_kernel(self._vectors, self._vectors[[row]], self.config.kernel_power)[:, 0]
        column += text * (text_weights(self._counts[[row]], self.config)[0] * np.float32(self._mass))
        column *= speech(self._counts, self.config)
        column[row] = 0.0
        return column

    def _popularity(self) -> NDArray[Any]:
        """Return own popularity where there is evidence, that of the neighbours where there is none."""
        counts = self._counts.astype(np.float32)
        own_share = trust(self._counts, self.config)
        lent = self._borrowing @ counts[self._collaborative.warm]
        return np.asarray(own_share * counts + (1.0 - own_share) * self.config.borrow * lent)

    # ---- answers

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
            Of the new items only, by the same encoder.

        Raises
        ------
        DataError
            If an id is known already or the width differs.

        Notes
        -----
        No refit: O(n_new n_items dim) for their neighbours, and one assembly of the score matrix.
        """
        self._check_fitted()
        known = [x for x in embeddings.ids if x in self.items]
        if known:
            raise DataError(f"{len(known)} items are there already, such as {', '.join(known[:3])}")
        if embeddings.dim != self._vectors.shape[1]:
            raise DataError(f"vectors are {embeddings.dim} wide, expected {self._vectors.shape[1]}")
        n_old, n_new = len(self.items), len(embeddings)
        self._vectors = np.vstack([self._vectors, self._centred(embeddings.vectors)])
        self._counts = np.concatenate([self._counts, np.zeros(n_new, dtype=np.int64)])
        new = np.arange(n_old, n_old + n_new)
        lent = self._attend(self._learned_attention(), self._neighborhood(self._counts, None, new), new)
        self._borrowing = sp.vstack([self._borrowing, lent], format="csr")
        self.items = IdMap([*self.items, *embeddings.ids], "item")
        self.histories, self._seen = (_widened(matrix, n_new) for matrix in (self.histories, self._seen))
        self._ages = None if self._ages is None else _widened(self._ages, n_new)
        self._assemble()
        return self

    # ---- on disk

    def _settings(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(), "seed": self.seed}

    def _state(self) -> dict[str, NDArray[Any]]:
        return (
            {f"attention.{name}": array for name, array in self._learned.items()}
            | {
                "collaborative": self._collaborative.weights,
                "warm": self._collaborative.warm,
                "borrowing.data": self._borrowing.data,
                "borrowing.indices": self._borrowing.indices,
                "borrowing.indptr": self._borrowing.indptr,
                "vectors": self._vectors,
                "centre": self._centre,
                "counts": self._counts,
                "mass": np.array([self._mass]),
            }
            | ({} if self._ages is None else {"ages": self._ages.data})
        )

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._collaborative = CollaborativeEmbeddings(state["collaborative"], state["warm"])
        self._vectors, self._centre, self._counts = state["vectors"], state["centre"], state["counts"]
        self._mass = float(state["mass"][0])
        self._borrowing = sp.csr_matrix(
            (state["borrowing.data"], state["borrowing.indices"], state["borrowing.indptr"]),
            shape=(len(self._vectors), len(self._collaborative.warm)),
        )
        self._learned = {k.removeprefix("attention."): v for k, v in state.items() if k.startswith("attention.")}
        self._relations = [""] * len(self._learned["relations"])  # their names no longer matter
        kept = self.histories
        self._take(
            sp.csr_matrix((state["ages"], kept.indices, kept.indptr), shape=kept.shape) if "ages" in state else None
        )
        self._assemble()


def _counts(matrix: sp.csr_matrix) -> NDArray[np.int64]:
    """Return how many people took each item, shape (n_items,)."""
    return np.asarray(matrix.sum(axis=0)).ravel().astype(np.int64)


def _widened(matrix: sp.csr_matrix, n: int) -> sp.csr_matrix:
    """Return the matrix with `n` empty columns more."""
    return sp.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], matrix.shape[1] + n))
