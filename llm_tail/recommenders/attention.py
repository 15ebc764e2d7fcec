"""NeighborAttention: how much each semantic neighbour has to say about an item."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class NeighborAttention(nn.Module):
    r"""Attention of an item over its semantic neighbours, on top of fixed text vectors.

    The weight of neighbour j for item i is a softmax over

    .. math:: \ell_{ij} = \frac{(W_q v_i)^\top (W_k v_j)}{\tau} + a \log(1 + n_j) + \sum_r b_r e_{rij}

    with text vectors v, the number n_j of people who took j, and e_{rij} = 1 where the item graph ties i and j by
    relation r. Both projections are the identity plus a product of rank `rank` whose second factor starts at zero, and
    a and b start at zero: untrained, this is a softmax over cosines at temperature tau, and training can only move
    away from there as far as it pays.

    Parameters
    ----------
    dim : int
        Width of the text vectors.
    n_relations : int
        How many relations of the graph are told apart.
    rank : int
        Rank of what is added to the identity.
    temperature : float
        Where tau starts.

    Notes
    -----
    4 dim rank + n_relations + 2 parameters. The scaled dot product is equation 1 of A. Vaswani et al., "Attention Is
    All You Need", 2017, with a learned tau for the root of dim and projections that start at the identity.

    Examples
    --------
    >>> attention = NeighborAttention(dim=2, temperature=1.0)
    >>> items, neighbors = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> weights = attention(items, neighbors, torch.zeros(1, 2), torch.zeros(1, 2, 0), torch.ones(1, 2).bool())
    >>> [round(w, 3) for w in weights[0].tolist()]  # e / (e + 1), 1 / (e + 1)
    [0.731, 0.269]
    """

    def __init__(self, dim: int, n_relations: int = 0, rank: int = 16, temperature: float = 0.05) -> None:
        super().__init__()
        self.query = Residual(dim, rank)
        self.key = Residual(dim, rank)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.evidence = nn.Parameter(torch.zeros(()))
        self.relations = nn.Parameter(torch.zeros(n_relations))

    def forward(self, items: Tensor, neighbors: Tensor, evidence: Tensor, edges: Tensor, mask: Tensor) -> Tensor:
        """Return the weights.

        Parameters
        ----------
        items : Tensor, shape (n, dim)
            Text vectors.
        neighbors : Tensor, shape (n, k, dim)
            Text vectors of their neighbours.
        evidence : Tensor, shape (n, k)
            log(1 + number of people) of each neighbour.
        edges : Tensor, shape (n, k, n_relations)
            1 where the graph ties the item and the neighbour.
        mask : Tensor of bool, shape (n, k)
            False where there is no neighbour.

        Returns
        -------
        Tensor, shape (n, k)
            Non-negative, each row sums to 1; all zero for an item without any neighbour.
        """
        logits = self.key.dot(self.query(items), neighbors) / self.log_temperature.exp()  # (n, k)
        logits = logits + self.evidence * evidence + edges @ self.relations
        weights = logits.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        return weights.nan_to_num(0.0)  # the softmax over nothing is nothing


class Residual(nn.Module):
    """x + x down up: the identity at first, since `up` starts at zero."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(dim, rank) / math.sqrt(dim))
        self.up = nn.Parameter(torch.zeros(rank, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return x of shape (..., dim), moved."""
        moved: Tensor = x + (x @ self.down) @ self.up
        return moved

    def dot(self, query: Tensor, x: Tensor) -> Tensor:
        """Return the products, shape (n, k), of query (n, dim) and x (n, k, dim) moved; moving x itself is slower."""
        turned = query @ self.up.T  # (n, rank)
        products: Tensor = torch.einsum("nd,nkd->nk", query, x) + torch.einsum("nr,nkr->nk", turned, x @ self.down)
        return products
