"""The nets of the graph recommenders and what they learn from: BPR for LightGcn, InfoNCE for AlphaRec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from llm_tail.recommenders.propagation import SLOPE, Floats, averaging, normalised

Rows = NDArray[np.int64]
REDRAWS = 8  # of an item drawn as one that the person did not take, but did


class SparseProduct(torch.autograd.Function):
    """matrix @ x for a fixed sparse matrix; scipy's is faster on a CPU than torch's own, forth and back."""

    @staticmethod
    def forward(ctx: Any, matrix: sp.csr_matrix, turned: sp.csr_matrix, x: Tensor) -> Tensor:
        """Return the product; `turned` is the transposed matrix, for the way back."""
        ctx.turned = turned
        return torch.from_numpy(matrix @ x.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        """Return the gradient of x."""
        return None, None, torch.from_numpy(ctx.turned @ gradients[0].numpy())


def product(matrix: sp.csr_matrix, turned: sp.csr_matrix, x: Tensor) -> Tensor:
    """Return matrix @ x, through which gradients flow; `turned` is the transposed matrix."""
    found: Tensor = SparseProduct.apply(matrix, turned, x)  # type: ignore[no-untyped-call]
    return found


class Spreading:
    """The mean over layers of people's and items' vectors.

    Parameters
    ----------
    histories : csr_matrix, shape (n_users, n_items)
    layers : int
        Steps over the graph, at least 0.
    """

    def __init__(self, histories: sp.csr_matrix, layers: int) -> None:
        self._graph = normalised(histories)
        self._turned = self._graph.T.tocsr()
        self._layers = layers

    def __call__(self, people: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means for layer 0 of shape (n_users, dim) and (n_items, dim)."""
        all_people, all_items = people, items
        for _ in range(self._layers):
            people, items = (
                product(self._graph, self._turned, items),
                product(self._turned, self._graph, people),
            )
            all_people, all_items = all_people + people, all_items + items
        return all_people / (self._layers + 1), all_items / (self._layers + 1)


class Events:
    """The events of training, in batches, and items that the same people did not take.

    Parameters
    ----------
    histories : csr_matrix, shape (n_users, n_items)
    size : int
        Events of a batch.
    """

    def __init__(self, histories: sp.csr_matrix, size: int) -> None:
        self.histories, self._size = histories, size
        self.people = np.repeat(np.arange(histories.shape[0]), np.diff(histories.indptr))
        self.items = histories.indices.astype(np.int64)
        self.warm = np.unique(self.items)
        self._taken = np.sort(self.people * np.int64(histories.shape[1]) + self.items)

    @property
    def n_batches(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.items) // self._size)

    def epoch(self, rng: np.random.Generator) -> Iterator[tuple[Rows, np.random.Generator]]:
        """Yield all event numbers in a new order, batch by batch, and with each what to draw more by."""
        order = rng.permutation(len(self.items))
        for start in range(0, len(order), self._size):
            yield order[start : start + self._size], rng

    def others(self, people: Rows, rng: np.random.Generator) -> Rows:
        """Draw a warm item for each person that the person did not take; one who took nearly all may get one taken."""
        drawn = rng.choice(self.warm, len(people))
        for _ in range(REDRAWS):
            keys = people * np.int64(self.histories.shape[1]) + drawn
            place = np.minimum(np.searchsorted(self._taken, keys), len(self._taken) - 1)
            wrong = np.flatnonzero(self._taken[place] == keys)
            if not len(wrong):
                break
            drawn[wrong] = rng.choice(self.warm, len(wrong))
        return drawn


class BprNet(nn.Module):
    """Layer 0 of LightGcn and its loss.

    Parameters
    ----------
    events : Events
    factors, layers : int
        Width of the vectors, and steps over the graph.
    regularization : float
        L2 penalty on layer 0 of a batch.
    """

    def __init__(self, events: Events, factors: int, layers: int, regularization: float) -> None:
        super().__init__()
        self._events, self._regularization = events, regularization
        self._spread = Spreading(events.histories, layers)
        n_users, n_items = events.histories.shape
        self.people, self.items = (nn.Parameter(torch.randn(n, factors) * 0.1) for n in (n_users, n_items))
        with torch.no_grad():  # nothing will ever be learned of these
            self.people[torch.from_numpy(np.diff(events.histories.indptr) == 0)] = 0.0
            self.items[torch.from_numpy(np.bincount(events.items, minlength=n_items) == 0)] = 0.0

    def forward(self, batch: tuple[Rows, np.random.Generator]) -> Tensor:
        """Return the loss of a batch."""
        rows, rng = batch
        users = self._events.people[rows]
        u, i, j = (torch.from_numpy(x) for x in (users, self._events.items[rows], self._events.others(users, rng)))
        people, items = self._spread(self.people, self.items)
        margin = (people[u] * (items[i] - items[j])).sum(dim=1)  # (n_batch,)
        size = self.people[u].square().sum() + self.items[i].square().sum() + self.items[j].square().sum()
        return functional.softplus(-margin).mean() + self._regularization * size / (2 * len(rows))

    def arrays(self) -> tuple[Floats, Floats]:
        """Return layer 0 of people and items, shape (n_users, factors) and (n_items, factors)."""
        return self.people.detach().numpy().copy(), self.items.detach().numpy().copy()


class WordNet(nn.Module):
    """The network of AlphaRec, from text vectors to layer 0, and its loss.

    Parameters
    ----------
    events : Events
    vectors : array of float32, shape (n_items, dim)
        Text vectors.
    hidden, factors, layers : int
        Widths of the hidden layer and of the vectors, and steps over the graph.
    temperature : float
        Above 0.
    negatives : int
        Items drawn for a batch.
    """

    def __init__(
        self,
        events: Events,
        vectors: Floats,
        *,
        hidden: int,
        factors: int,
        layers: int,
        temperature: float,
        negatives: int,
    ) -> None:
        super().__init__()
        self._events, self._temperature, self._negatives = events, temperature, negatives
        self._spread = Spreading(events.histories, layers)
        self._mean = averaging(events.histories)
        self._mean_turned = self._mean.T.tocsr()
        self._words = torch.from_numpy(vectors)  # no buffer: it is no weight to be kept
        self.first, self.second = nn.Linear(vectors.shape[1], hidden), nn.Linear(hidden, factors)

    def forward(self, batch: tuple[Rows, np.random.Generator]) -> Tensor:
        """Return the loss of a batch."""
        rows, rng = batch
        events = self._events
        people, items = (functional.normalize(x, dim=1) for x in self._spread(*self._layer()))
        users, n = events.people[rows], min(self._negatives, len(events.warm))
        others = np.sort(rng.choice(events.warm, n, replace=False))
        has = torch.from_numpy(events.histories[users][:, others].toarray() > 0)  # (n_batch, n_negatives)
        asked = people[torch.from_numpy(users)]  # (n_batch, factors)
        right = (asked * items[torch.from_numpy(events.items[rows])]).sum(dim=1, keepdim=True)  # (n_batch, 1)
        wrong = (asked @ items[torch.from_numpy(others)].T).masked_fill(has, -torch.inf)
        logits = torch.cat([right, wrong], dim=1) / self._temperature
        return functional.cross_entropy(logits, torch.zeros(len(rows), dtype=torch.int64))

    def _layer(self) -> tuple[Tensor, Tensor]:
        """Return layer 0 of people and items."""
        lifted = self._words @ self.first.weight.T  # (n_items, hidden)
        # The mean of what is lifted is what is lifted of the mean, and far cheaper to make.
        both = (product(self._mean, self._mean_turned, lifted), lifted)
        people, items = (self.second(functional.leaky_relu(x + self.first.bias, SLOPE)) for x in both)
        return people, items

    def arrays(self) -> dict[str, Floats]:
        """Return w1 (hidden, dim), b1 (hidden,), w2 (factors, hidden) and b2 (factors,)."""
        parts = {"w1": self.first.weight, "b1": self.first.bias, "w2": self.second.weight, "b2": self.second.bias}
        return {name: tensor.detach().numpy().copy() for name, tensor in parts.items()}
