"""How NeighborAttention learns: warm items are pretended cold and have to be found through their neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional

from llm_tail.config import HybridConfig
from llm_tail.data.ids import Rows
from llm_tail.progress import track
from llm_tail.recommenders.attention import NeighborAttention
from llm_tail.recommenders.collaborative import CollaborativeEmbeddings
from llm_tail.recommenders.fusion import Floats, text_kernel, text_weights, trust


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


def learn_attention(
    attention: NeighborAttention,
    neighborhood: Neighborhood,
    collaborative: CollaborativeEmbeddings,
    histories: sp.csr_matrix,
    vectors: Floats,
    mass: float,
    config: HybridConfig,
    *,
    n_steps: int = 250,
    n_scale: int = 50,
    n_users: int = 4096,
    n_pairs: int = 96,
    n_candidates: int = 192,
    learning_rate: float = 3e-4,
    seed: int = 0,
    look: Callable[[int], None] | None = None,
    look_every: int = 50,
) -> list[float]:
    """Train the attention in place and return its loss curve.

    Each step draws people and, for each, one item they took, evenly over items so that the tail has its say. The item
    leaves the history and must be found among the items of the whole batch, all of which lose their own ID with
    probability 1/2 and are then scored by what they borrow and by their text, as a cold item would be.

    Parameters
    ----------
    attention : NeighborAttention
        Changed in place.
    neighborhood : Neighborhood
        Of all items.
    collaborative : CollaborativeEmbeddings
        Fixed.
    histories : csr_matrix, shape (n_users, n_items)
        Training histories, already damped.
    vectors : array of float32, shape (n_items, dim)
        Text vectors.
    mass : float
        Scale of the text kernel.
    config : HybridConfig
        Gate, borrow and text weights, all fixed here.
    n_steps, n_scale, n_users, n_pairs, n_candidates, learning_rate : int, float
        Size of the training. `n_users` people at most are looked at, so that memory stays at n_users * n_warm.
    seed : int
        Same seed, same result.
    look : callable, optional
        Called with the step every `look_every` steps after the scale was found.

    Returns
    -------
    list of float
        The loss of each step; its floor is the entropy of who takes what, its start about log(n_candidates).
    """
    rng = np.random.default_rng(seed)
    warm = collaborative.warm
    taken = histories[:, warm].tocsr()
    people = np.flatnonzero(np.diff(taken.indptr) >= 2)
    if len(people) == 0 or len(warm) < 3:
        return []
    people = rng.choice(people, min(n_users, len(people)), replace=False)
    taken = taken[people]
    own = np.asarray(taken @ collaborative.weights, dtype=np.float32)  # (n_people, n_warm)
    kernel = text_kernel(vectors[warm], vectors[warm], config.kernel_power)  # (n_warm, n_warm)
    np.fill_diagonal(kernel, 0.0)
    text = np.asarray(taken @ kernel, dtype=np.float32)
    counts = np.bincount(taken.indices, minlength=len(warm))
    event_person = np.repeat(np.arange(len(people)), np.diff(taken.indptr))
    chance = 1.0 / counts[taken.indices]
    chance /= chance.sum()
    evidence = np.asarray((histories[:, warm] > 0).sum(axis=0)).ravel()  # (n_warm,)
    gate = trust(evidence, config)
    scale = torch.nn.Parameter(torch.tensor(1.0 / max(float(own.std()), 1e-6)).log())
    optimizer = torch.optim.AdamW(
        [
            {"params": list(attention.parameters()), "weight_decay": 1e-2, "lr": learning_rate},
            {"params": [scale], "weight_decay": 0.0, "lr": 0.05},
        ]
    )
    losses: list[float] = []
    warm_vectors = np.ascontiguousarray(vectors[warm])
    for step in track(range(n_steps), "attention", total=n_steps):
        events = rng.choice(len(chance), n_pairs, p=chance)
        person, target = event_person[events], taken.indices[events].astype(np.int64)
        others = rng.choice(len(warm), max(0, min(n_candidates, len(warm)) - n_pairs), replace=False)
        candidates, place = np.unique(np.concatenate([target, others]), return_inverse=True)
        label = torch.from_numpy(place[:n_pairs])
        left_out = taken.data[events][:, None]  # (n_pairs, 1): the target leaves the history
        mine = own[person][:, candidates] - left_out * collaborative.weights[np.ix_(target, candidates)]
        words = text[person][:, candidates] - left_out * kernel[np.ix_(target, candidates)]
        has = np.asarray((taken[person][:, candidates] > 0).todense())
        has[np.arange(n_pairs), place[:n_pairs]] = False
        rows = np.maximum(neighborhood.rows[warm[candidates]], 0)  # (n_candidates, k)
        theirs = own[person][:, rows] - left_out[:, :, None] * collaborative.weights[target[:, None, None], rows]
        weights = attention(*neighborhood.tensors(vectors, warm_vectors, warm[candidates]))  # (n_candidates, k)
        borrowed = config.borrow * torch.einsum("pck,ck->pc", torch.from_numpy(theirs), weights)
        pretend = np.where(rng.random(len(candidates)) < 0.5, 0, evidence[candidates])  # 0 people: a cold item
        own_share = np.where(pretend > 0, gate[candidates], np.float32(0.0))
        fixed = own_share * mine + np.float32(mass) * text_weights(pretend, config) * words
        scores = torch.from_numpy(fixed) + torch.from_numpy(1.0 - own_share) * borrowed
        logits = (scores * scale.exp()).masked_fill(torch.from_numpy(has), -torch.inf)
        loss = functional.cross_entropy(logits, label)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if step < n_scale:  # a wrong scale would teach the attention to be flat
            attention.zero_grad()
        optimizer.step()
        losses.append(float(loss.detach()))
        if look is not None and step >= n_scale and (step + 1) % look_every == 0:
            look(step)
    return losses
