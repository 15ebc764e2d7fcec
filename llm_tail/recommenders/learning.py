"""How NeighborAttention learns: warm items are pretended cold and have to be found through their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch.nn import functional

from llm_tail.config import HybridConfig, IndexConfig
from llm_tail.data.ids import Rows
from llm_tail.embedding.store import Embeddings
from llm_tail.neighbors.exact import nearest
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.progress import track
from llm_tail.recommenders.attention import NeighborAttention
from llm_tail.recommenders.collaborative import CollaborativeEmbeddings
from llm_tail.recommenders.fusion import BLOCK_BYTES, Floats, text_kernel, text_weights, trust

EXACT_PAIRS = 20_000_000_000  # of an item and a neighbour; more take minutes to compare one by one

TIED_AT_ONCE = 4096  # items whose ties are looked at


@dataclass(frozen=True)
class Neighborhood:
    """The semantic neighbours of items, and what is known of each pair.

    Attributes
    ----------
    rows : array of int64, shape (n_items, k)
        Places in the list of warm items; -1 where there is no neighbour.
    evidence : array of float32, shape (n_items, k)
        log(1 + people) of each neighbour.
    edges : array of float32, shape (n_items, k, n_relations)
        1 where the graph ties the two.
    """

    rows: Rows
    evidence: Floats
    edges: Floats

    @classmethod
    def find(
        cls,
        vectors: Floats,
        counts: NDArray[np.int64],
        items: Rows,
        k: int,
        ties: Sequence[sp.csr_matrix | None] = (),
        k_tied: int = 0,
    ) -> Neighborhood:
        """Find the semantic neighbours of `items` among all that have interactions: by their texts, and in the graph.

        Parameters
        ----------
        vectors : array of float32, shape (n_all, dim)
            Text vectors; a zero vector has no neighbours and is nobody's.
        counts : array of int64, shape (n_all,)
            How many people took each item.
        items : array of int64, shape (n_items,)
            Rows of `vectors`.
        k : int
            Neighbours of each by text.
        ties : sequence of csr_matrix of shape (n_all, n_all) or None
            One for each relation; None where nothing is known of it.
        k_tied : int
            Further neighbours of each: the nearest of those that the graph ties to it. They need no text.
        """
        warm = np.flatnonzero(counts > 0)
        place = np.full(len(vectors), -1, dtype=np.int64)
        place[warm] = np.arange(len(warm))
        rows = _nearest(vectors[items], vectors[warm], k, place[items])  # (n_items, k)
        tied = [matrix for matrix in ties if matrix is not None]
        if k_tied and tied:
            further = _nearest_tied(vectors, items, warm, rows, tied, k_tied)
            rows = np.hstack([rows, further])  # (n_items, k + k_tied)
        evidence = np.where(rows >= 0, np.log1p(counts[warm][np.maximum(rows, 0)]), 0.0).astype(np.float32)
        edges = np.zeros((*rows.shape, len(ties)), dtype=np.float32)
        line = np.repeat(np.arange(len(items)), rows.shape[1])
        for n, matrix in enumerate(ties):
            if matrix is not None:
                found = matrix[items][:, warm].tocsr()[line, np.maximum(rows, 0).ravel()]
                edges[:, :, n] = (np.asarray(found).reshape(rows.shape) > 0) & (rows >= 0)
        return cls(rows, evidence, edges)

    def tensors(self, vectors: Floats, warm_vectors: Floats, items: Rows) -> tuple[torch.Tensor, ...]:
        """Return the arguments of `NeighborAttention` for these items."""
        rows = self.rows[items]
        return (
            torch.from_numpy(vectors[items]),
            torch.from_numpy(warm_vectors[np.maximum(rows, 0)]),
            torch.from_numpy(self.evidence[items]),
            torch.from_numpy(self.edges[items]),
            torch.from_numpy(rows >= 0),
        )


def _nearest(queries: Floats, base: Floats, k: int, itself: Rows) -> Rows:
    """Return the places of the k nearest of `base`, itself left out: all compared, or through an index if many."""
    if len(queries) * len(base) <= EXACT_PAIRS:
        return nearest(queries, base, k, exclude_rows=itself)[0]
    config = IndexConfig(ef_construction=100)  # a neighbour missed is replaced by one nearly as near
    index = NeighborIndex.build(Embeddings([str(row) for row in range(len(base))], base), config, progress=True)
    return index.query(queries, k, exclude_rows=itself)[0]


def _nearest_tied(vectors: Floats, items: Rows, warm: Rows, near: Rows, ties: Sequence[sp.csr_matrix], k: int) -> Rows:
    """Return the k nearest warm items that `ties` tie to each item and that are not `near` yet, -1 for none."""
    rows = np.full((len(items), k), -1, dtype=np.int64)
    for start in range(0, len(items), TIED_AT_ONCE):
        some = items[start : start + TIED_AT_ONCE]
        pairs = np.hstack([np.stack(matrix[some][:, warm].nonzero()) for matrix in ties]).astype(np.int64)  # (2, n)
        keys = np.unique(pairs[0] * len(warm) + pairs[1])
        line, place = np.nonzero(near[start : start + TIED_AT_ONCE] >= 0)
        known = line * len(warm) + near[start + line, place]
        line, column = np.divmod(np.setdiff1d(keys, known, assume_unique=True), len(warm))
        line, column = line[some[line] != warm[column]], column[some[line] != warm[column]]
        cosines = np.empty(len(line), dtype=np.float32)
        at_once = max(1, BLOCK_BYTES // (8 * vectors.shape[1]))
        for first in range(0, len(line), at_once):
            part = slice(first, first + at_once)
            cosines[part] = np.einsum("nd,nd->n", vectors[some[line[part]]], vectors[warm[column[part]]])
        order = np.lexsort((column, -cosines, line))
        line, column = line[order], column[order]
        rank = np.arange(len(line)) - np.searchsorted(line, line)
        rows[start + line[rank < k], rank[rank < k]] = column[rank < k]
    return rows


def attend(
    attention: NeighborAttention, neighborhood: Neighborhood, vectors: Floats, warm_vectors: Floats, block: int = 2048
) -> sp.csr_matrix:
    """Return the attention of every item over the warm items, shape (n_items, n_warm), each row summing to 1 or 0."""
    n, k = neighborhood.rows.shape
    weights = np.zeros((n, k), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, n, block):
            items = np.arange(start, min(start + block, n))
            weights[items] = attention(*neighborhood.tensors(vectors, warm_vectors, items)).numpy()
    there = neighborhood.rows >= 0
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    matrix = sp.csr_matrix((weights[there], neighborhood.rows[there], indptr), shape=(n, len(warm_vectors)))
    matrix.sort_indices()
    return matrix


@dataclass(frozen=True)
class Batch:
    """People, the item that each has to find, and what is known of the candidates without any attention.

    Attributes
    ----------
    items : array of int64, shape (n_candidates,)
        Rows of the candidates.
    label : Tensor of int64, shape (n_pairs,)
        Which candidate the person took.
    fixed : Tensor, shape (n_pairs, n_candidates)
        Own and text part of the scores.
    theirs : Tensor, shape (n_pairs, n_candidates, k)
        What the person's history says of each neighbour of each candidate.
    borrowed_share : Tensor, shape (n_candidates,)
        What a candidate borrows of it: (1 - trust) borrow.
    has : Tensor of bool, shape (n_pairs, n_candidates)
        True where the person has the candidate already.
    """

    items: Rows
    label: torch.Tensor
    fixed: torch.Tensor
    theirs: torch.Tensor
    borrowed_share: torch.Tensor
    has: torch.Tensor

    def logits(self, weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return the scores under attention `weights`, shape (n_candidates, k), times `scale`; -inf for what is had."""
        borrowed = torch.einsum("pck,ck->pc", self.theirs, weights)  # (n_pairs, n_candidates)
        scores = (self.fixed + self.borrowed_share * borrowed) * scale
        return scores.masked_fill(self.has, -torch.inf)  # last: the scale would get a gradient of 0 times infinity


class PretendCold:
    """The task that the attention learns from: find what a person took among items that are pretended cold.

    Parameters
    ----------
    neighborhood : Neighborhood
        Of all items.
    collaborative : CollaborativeEmbeddings
        Fixed.
    histories : csr_matrix, shape (n_users, n_items)
        Training histories, already damped; only people with two warm items or more are asked.
    vectors : array of float32, shape (n_items, dim)
        Text vectors.
    mass : float
        Scale of the text kernel.
    config : HybridConfig
        Gate, borrow and text weights.
    n_users : int
        Most people to look at.
    rng : Generator
        Draws them, and every batch.
    near_vectors : array of float32, shape (n_items, dim), optional
        By which neighbours were sought, where these are others.

    Notes
    -----
    Memory: two arrays of (n_users, n_warm) and one of (n_warm, n_warm) float32.
    """

    def __init__(
        self,
        neighborhood: Neighborhood,
        collaborative: CollaborativeEmbeddings,
        histories: sp.csr_matrix,
        vectors: Floats,
        mass: float,
        config: HybridConfig,
        *,
        n_users: int,
        rng: np.random.Generator,
        near_vectors: Floats | None = None,
    ) -> None:
        self._neighborhood, self._weights, self.warm = neighborhood, collaborative.weights, collaborative.warm
        self._near = vectors if near_vectors is None else near_vectors
        self._mass, self._config, self._rng = np.float32(mass), config, rng
        taken = histories[:, self.warm].tocsr()
        self._evidence = np.asarray((taken > 0).sum(axis=0)).ravel()  # (n_warm,)
        people = np.flatnonzero(np.diff(taken.indptr) >= 2)
        if len(people):
            people = rng.choice(people, min(n_users, len(people)), replace=False)
        self._taken = taken[people]
        self.is_empty = len(people) == 0 or len(self.warm) < 3
        if self.is_empty:
            return
        self._own = np.asarray(self._taken @ self._weights, dtype=np.float32)  # (n_people, n_warm)
        self._kernel = text_kernel(vectors[self.warm], vectors[self.warm], config.kernel_power)  # (n_warm, n_warm)
        np.fill_diagonal(self._kernel, 0.0)
        self._text = np.asarray(self._taken @ self._kernel, dtype=np.float32)  # (n_people, n_warm)
        self._warm_vectors = np.ascontiguousarray(self._near[self.warm])
        self._event_person = np.repeat(np.arange(len(people)), np.diff(self._taken.indptr))
        chance = 1.0 / np.bincount(self._taken.indices, minlength=len(self.warm))[self._taken.indices]
        self._chance = chance / chance.sum()  # (n_events,): every item alike, so that the tail has its say

    @property
    def spread(self) -> float:
        """The standard deviation of the collaborative scores, above 0."""
        return max(float(self._own.std()), 1e-6)

    def draw(self, n_pairs: int, n_candidates: int) -> Batch:
        """Draw people and one item of each; it leaves the history, and half of all candidates lose their own ID."""
        rng, n_warm = self._rng, len(self.warm)
        events = rng.choice(len(self._chance), n_pairs, p=self._chance)
        person, target = self._event_person[events], self._taken.indices[events].astype(np.int64)
        others = rng.choice(n_warm, max(0, min(n_candidates, n_warm) - n_pairs), replace=False)
        candidates, place = np.unique(np.concatenate([target, others]), return_inverse=True)
        left_out = self._taken.data[events][:, None]  # (n_pairs, 1): the target leaves the history
        between = np.ix_(target, candidates)
        own = self._own[person][:, candidates] - left_out * self._weights[between]  # (n_pairs, n_candidates)
        text = self._text[person][:, candidates] - left_out * self._kernel[between]
        has = np.asarray((self._taken[person][:, candidates] > 0).todense())
        has[np.arange(n_pairs), place[:n_pairs]] = False
        rows = np.maximum(self._neighborhood.rows[self.warm[candidates]], 0)  # (n_candidates, k)
        theirs = self._own[person][:, rows] - left_out[:, :, None] * self._weights[target[:, None, None], rows]
        pretend = np.where(rng.random(len(candidates)) < 0.5, 0, self._evidence[candidates])  # 0 people: a cold item
        own_share = trust(pretend, self._config)
        return Batch(
            self.warm[candidates],
            torch.from_numpy(place[:n_pairs]),
            torch.from_numpy(own_share * own + self._mass * text_weights(pretend, self._config) * text),
            torch.from_numpy(theirs),
            torch.from_numpy((1.0 - own_share) * np.float32(self._config.borrow)),
            torch.from_numpy(has),
        )

    def inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Return the arguments of `NeighborAttention` for the candidates."""
        return self._neighborhood.tensors(self._near, self._warm_vectors, batch.items)


def learn_attention(
    attention: NeighborAttention,
    task: PretendCold,
    *,
    n_steps: int = 250,
    n_scale: int = 50,
    n_pairs: int = 96,
    n_candidates: int = 192,
    learning_rate: float = 3e-4,
    look: Callable[[int], bool] | None = None,
    look_every: int = 50,
) -> list[float]:
    """Train the attention in place and return its loss curve.

    Each step draws people and, for each, one item they took. It must be found among the items of the whole batch, half
    of which are scored by what they borrow and by their text alone, as cold items would be.

    Parameters
    ----------
    attention : NeighborAttention
        Changed in place.
    task : PretendCold
        What it learns from; nothing is learned where it is empty.
    n_steps, n_scale : int
        How many batches; in the first `n_scale` of them only the scale of the scores is learned.
    n_pairs, n_candidates : int
        People a batch, and items they choose from.
    learning_rate : float
        Of the attention; AdamW.
    look, look_every : callable and int, optional
        `look` is called with the step every `look_every` steps, at least 1, after the scale was found; where it
        returns False, learning ends.

    Returns
    -------
    list of float
        The loss of each step; its floor is the entropy of who takes what, its start about log(n_candidates).
    """
    if task.is_empty:
        return []
    scale = torch.nn.Parameter(torch.tensor(1.0 / task.spread).log())
    optimizer = torch.optim.AdamW(
        [
            {"params": list(attention.parameters()), "weight_decay": 1e-2, "lr": learning_rate},
            {"params": [scale], "weight_decay": 0.0, "lr": 0.05},
        ]
    )
    losses: list[float] = []
    for step in track(range(n_steps), "attention", total=n_steps):
        batch = task.draw(n_pairs, n_candidates)
        logits = batch.logits(attention(*task.inputs(batch)), scale.exp())
        loss = functional.cross_entropy(logits, batch.label)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if step < n_scale:  # a wrong scale would teach the attention to be flat
            attention.zero_grad()
        optimizer.step()
        losses.append(float(loss.detach()))
        if look is not None and step >= n_scale and (step + 1) % look_every == 0 and not look(step):
            break
    return losses
