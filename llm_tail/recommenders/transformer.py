"""The net of SasRec: causal self-attention over what a person took, one after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm_tail.recommenders.drawing import PeopleBatch
from llm_tail.recommenders.nets import ItemTable, softmax_loss


class SequenceEncoder(nn.Module):
    """Turns the items of a sequence, each with those before it, into one vector a place.

    Parameters
    ----------
    factors : int
        Width of the item vectors and of all layers.
    max_length : int
        Most places, one for the start included.
    n_blocks, n_heads : int
        Blocks on top of each other, and heads of each; heads divide `factors`.
    dropout : float
        In [0, 1).

    Notes
    -----
    O(n length (length + factors) factors) time for n sequences. Numbers in the code are the equations of W.-C. Kang and
    J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. What is not theirs: a learned vector for the
    start, so that a first item is foretold too, and several heads where wanted (they found one as good).
    """

    def __init__(self, factors: int, max_length: int, n_blocks: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.factors, self.max_length = factors, max_length
        self.start = nn.Parameter(torch.zeros(factors))
        self.places = nn.Parameter(torch.randn(max_length, factors) / math.sqrt(factors))
        self.blocks = nn.ModuleList(Block(factors, n_heads, dropout) for _ in range(n_blocks))
        self.norm, self.dropout = nn.LayerNorm(factors), nn.Dropout(dropout)

    def forward(self, items: Tensor, there: Tensor) -> Tensor:
        """Return one vector for each place: the last is that of the whole sequence.

        Parameters
        ----------
        items : Tensor, shape (n, length, factors)
            Item vectors, oldest first, at the right end; the start goes before them.
        there : Tensor of bool, shape (n, length)
            False where a sequence is shorter.

        Returns
        -------
        Tensor, shape (n, length + 1, factors)
        """
        n, length = there.shape
        x = torch.cat([torch.zeros(n, 1, self.factors), items * math.sqrt(self.factors)], dim=1)
        filled = torch.cat([torch.zeros(n, 1, dtype=torch.bool), there], dim=1)  # (n, length + 1)
        first = filled.logical_not() & functional.pad(filled[:, 1:], (0, 1), value=True)  # where the sequence starts
        x = x.masked_fill(~filled[:, :, None], 0.0) + first[:, :, None] * self.start
        x = x + self.places[self.max_length - length - 1 :]  # (1) E^ = E + P
        x = self.dropout(x)
        seen = torch.ones(length + 1, length + 1, dtype=torch.bool).tril()  # no place looks ahead
        seen = seen & (filled | first)[:, None, None, :] | torch.eye(length + 1, dtype=torch.bool)
        for block in self.blocks:  # (5) S^b = SA(F^(b-1)), F^b = FFN(S^b)
            x = block(x, seen)
        made: Tensor = self.norm(x)
        return made


class Block(nn.Module):
    """Self-attention and a feed-forward net, each as x + Dropout(g(LayerNorm(x)))."""

    def __init__(self, factors: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.before_attention, self.before_net = nn.LayerNorm(factors), nn.LayerNorm(factors)
        self.project = nn.Linear(factors, 3 * factors, bias=False)  # W^Q, W^K, W^V
        self.net = nn.Sequential(
            nn.Linear(factors, factors), nn.ReLU(), nn.Dropout(dropout), nn.Linear(factors, factors)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return x of shape (n, length, factors), moved; `seen` says which places look at which."""
        x = x + self.dropout(self.attend(self.before_attention(x), seen))
        moved: Tensor = x + self.dropout(self.net(self.before_net(x)))  # (4) ReLU(S W1 + b1) W2 + b2
        return moved

    def attend(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return the attention of each place over those that it may see, shape (n, length, factors)."""
        n, length, factors = x.shape
        query, key, value = (
            part.view(n, length, self.n_heads, -1).transpose(1, 2)  # (n, heads, length, factors / heads)
            for part in self.project(x).chunk(3, dim=2)  # (3) Attention(E^ W^Q, E^ W^K, E^ W^V)
        )
        found = functional.scaled_dot_product_attention(query, key, value, seen)  # (2) softmax(Q K' / sqrt(d)) V
        return found.transpose(1, 2).reshape(n, length, factors)


class SequenceNet(nn.Module):
    """An item table and a `SequenceEncoder`: each event has to be foretold from those before it.

    Parameters
    ----------
    table : ItemTable
        Vectors of the items, both as input and as output.
    encoder : SequenceEncoder
        What reads the sequences.
    own_dropout : float
        Share of the items whose own vectors are left out of a batch, so that their texts have to do.
    """

    def __init__(self, table: ItemTable, encoder: SequenceEncoder, own_dropout: float = 0.0) -> None:
        super().__init__()
        self.table, self.encoder, self.own_dropout = table, encoder, own_dropout

    def forward(self, batch: PeopleBatch) -> Tensor:
        """Return the mean negative log likelihood of each event, given those before it."""
        person = torch.from_numpy(batch.person)
        lengths = torch.bincount(person, minlength=batch.n_people)
        longest = int(lengths.max())
        ends = lengths.cumsum(0)
        place = torch.arange(len(person)) - (ends - lengths)[person] + (longest - lengths)[person]  # right-aligned
        items = torch.from_numpy(batch.items)
        right, wrong = self._pretend(len(items)), self._pretend(len(batch.candidates))
        taken = self.table(items, right)  # (n_events, factors)
        padded = torch.zeros(batch.n_people, longest, self.table.factors).index_put((person, place), taken)
        there = torch.zeros(batch.n_people, longest, dtype=torch.bool)
        there[person, place] = True
        # The last one stands in no input, and so every place is asked for what comes next, as it will be later.
        query = self.encoder(padded[:, :-1], there[:, :-1])[person, place]  # (n_events, factors)
        others = self.table(torch.from_numpy(batch.candidates), wrong)  # (n_candidates, factors)
        positive = (query * taken).sum(dim=1)  # (6) r = F_t . M_i
        return softmax_loss(positive, query, others, torch.zeros(len(others)), batch)

    def _pretend(self, n: int) -> Tensor | None:
        if not self.training or not self.own_dropout:
            return None
        return torch.rand(n) < self.own_dropout
