"""NeighborAttention: how much each semantic neighbour has to say about an item."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class NeighborAttention(nn.Module):
    r"""Attention of an item over its semantic neighbours, on top of fixed text vectors.

    The weight of neighbour j for item i is the mean over heads h, weighed by softmax(c), of a softmax over

    .. math:: \ell_{hij} = \frac{(W^q_h v_i)^\top (W^k_h v_j)}{\tau_h} + a_h \log(1 + n_j) + \sum_r b_{hr} e_{rij}

    with text vectors v, the number n_j of people who took j, and e_{rij} = 1 where the item graph ties i and j by
    relation r. All projections are the identity plus a product of rank `rank` whose second factor starts at zero, and
    a, b and c start at zero: untrained, every head is a softmax over cosines at temperature tau, and so is their mean;
    training can only move away from there as far as it pays.

    Parameters
    ----------
    dim : int
        Width of the text vectors.
    n_relations : int
        How many relations of the graph are told apart.
    rank : int
        Rank of what each head adds to the identity.
    temperature : float
        Where all tau start.
    heads : int
        How many heads look at the neighbours.

    Notes
    -----
    heads (4 dim rank + n_relations + 3) parameters. The scaled dot product is equation 1 of A. Vaswani et al.,
    "Attention Is All You Need", 2017, with a learned tau for the root of dim and projections that start at the
    identity; what the heads say is averaged, as in equation 6 of P. Velickovic et al., "Graph Attention Networks",
    2018, since what is weighed are ID embeddings, in which all heads have to agree on the axes.

    Examples
    --------
    >>> attention = NeighborAttention(dim=2, temperature=1.0)
    >>> items, neighbors = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> weights = attention(items, neighbors, torch.zeros(1, 2), torch.zeros(1, 2, 0), torch.ones(1, 2).bool())
    >>> [round(w, 3) for w in weights[0].tolist()]  # e / (e + 1), 1 / (e + 1)
    [0.731, 0.269]
    """

    def __init__(
        self, dim: int, n_relations: int = 0, rank: int = 8, temperature: float = 0.05, heads: int = 4
    ) -> None:
        super().__init__()
        self.query = Residual(dim, rank, heads)
        self.key = Residual(dim, rank, heads)
        self.log_temperature = nn.Parameter(torch.full((heads,), math.log(temperature)))
        self.evidence = nn.Parameter(torch.zeros(heads))
        self.relations = nn.Parameter(torch.zeros(heads, n_relations))
        self.say = nn.Parameter(torch.zeros(heads))

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
        logits = self.key.dot(self.query(items), neighbors) / self.log_temperature.exp()[:, None]  # (n, heads, k)
        logits = logits + self.evidence[:, None] * evidence[:, None] + self.relations @ edges.transpose(1, 2)
        each = logits.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)
        each = each.nan_to_num(0.0)  # the softmax over nothing is nothing
        weights: Tensor = torch.einsum("h,nhk->nk", self.say.softmax(dim=0), each)
        return weights


class Residual(nn.Module):
    """x + x down up in each head: the identity at first, since `up` starts at zero."""

    def __init__(self, dim: int, rank: int, heads: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(heads, dim, rank) / math.sqrt(dim))
        self.up = nn.Parameter(torch.zeros(heads, rank, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return x of shape (n, dim), moved by each head: (n, heads, dim)."""
        moved: Tensor = x[:, None] + torch.einsum("nd,hdr,hre->nhe", x, self.down, self.up)
        return moved

    def dot(self, query: Tensor, x: Tensor) -> Tensor:
        """Return the products, shape (n, heads, k), of query (n, heads, dim) and x (n, k, dim) moved.

        Moving x itself would be slower.
        """
        turned = torch.einsum("nhd,hrd->nhr", query, self.up)
        narrow = x @ self.down.movedim(0, 1).flatten(1)  # (n, k, heads rank)
        per_head = narrow.view(*x.shape[:2], len(self.down), -1).movedim(2, 1)  # (n, heads, k, rank)
        products: Tensor = query @ x.transpose(1, 2) + (per_head @ turned[..., None])[..., 0]
        return products
