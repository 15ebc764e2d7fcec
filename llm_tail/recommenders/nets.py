"""The nets of the learned peers: tables of item vectors, and people as sums of what they took."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm_tail.recommenders.drawing import PeopleBatch

Floats = NDArray[np.float32]
BLOCK_ROWS = 65_536
NOTHING = -1e30  # the logit of what does not compete: a row of -inf would have no gradient but NaN


class ItemTable(nn.Module):
    r"""One vector for each item: x_i = e_i + v_i W + sum_w t_{iw} f_w.

    e_i is learned for the item alone, W turns its text vector v_i, f_w is learned for each word w that t_{iw} says
    the item has. Each of the three may be missing.

    Parameters
    ----------
    n_items, factors : int
        Shape of what comes out.
    vectors : array of float32, shape (n_items, dim), optional
        Text vectors.
    words : csr_matrix, shape (n_items, n_words), optional
        Weights of words.
    ids : bool
        Whether items have a vector of their own; those without training events should be left at zero.
    spread : float
        Standard deviation of e and f at the start.

    Notes
    -----
    4 factors bytes an item for e; its gradient is sparse, so that a step costs what its batch holds.
    """

    def __init__(
        self,
        n_items: int,
        factors: int,
        *,
        vectors: Floats | None = None,
        words: sp.csr_matrix | None = None,
        ids: bool = True,
        spread: float = 0.1,
    ) -> None:
        super().__init__()
        self.n_items, self.factors = n_items, factors
        self.own = nn.Embedding(n_items, factors, sparse=True) if ids else None
        if self.own is not None:
            nn.init.normal_(self.own.weight, std=spread)
        self.turn: nn.Parameter | None = None
        self._vectors: Tensor | None = None
        if vectors is not None:
            self._vectors = torch.from_numpy(np.ascontiguousarray(vectors))  # no buffer: it is no weight to be kept
            self.turn = nn.Parameter(torch.randn(vectors.shape[1], factors) / math.sqrt(factors))
        self.words: nn.EmbeddingBag | None = None
        self._words = words
        if words is not None:
            self.words = nn.EmbeddingBag(max(1, words.shape[1]), factors, mode="sum", sparse=True)
            nn.init.normal_(self.words.weight, std=spread)

    def forward(self, rows: Tensor, without_own: Tensor | None = None) -> Tensor:
        """Return the vectors of some items, shape (n, factors).

        Parameters
        ----------
        rows : Tensor of int64, shape (n,)
        without_own : Tensor of bool, shape (n,), optional
            True for items that are pretended cold.
        """
        found = torch.zeros(len(rows), self.factors)
        if self.own is not None:
            own = self.own(rows)  # (n, factors)
            found = own if without_own is None else own.masked_fill(without_own[:, None], 0.0)
        return found + self.features(rows)

    def features(self, rows: Tensor) -> Tensor:
        """Return what the text says of some items, shape (n, factors); zero where there is no text."""
        found = torch.zeros(len(rows), self.factors)
        if self._vectors is not None and self.turn is not None:
            found = found + self._vectors[rows] @ self.turn  # (n, factors)
        if self._words is not None and self.words is not None:
            part = self._words[rows.numpy()]
            found = found + self.words(
                torch.from_numpy(part.indices.astype(np.int64)),
                torch.from_numpy(part.indptr[:-1].astype(np.int64)),
                per_sample_weights=torch.from_numpy(part.data.astype(np.float32)),
            )
        return found

    @torch.no_grad()
    def all(self) -> Floats:
        """Return the vectors of all items, shape (n_items, factors)."""
        parts = np.empty((self.n_items, self.factors), dtype=np.float32)
        for start in range(0, self.n_items, BLOCK_ROWS):
            rows = torch.arange(start, min(start + BLOCK_ROWS, self.n_items))
            parts[start : start + BLOCK_ROWS] = self(rows).numpy()
        return parts

    @torch.no_grad()
    def clear(self, rows: NDArray[np.int64]) -> None:
        """Set the own vectors of some items to zero: nothing will ever be learned of them."""
        if self.own is not None:
            self.own.weight[torch.from_numpy(rows)] = 0.0


class HistoryNet(nn.Module):
    r"""A person is the sum of what they took, an item a vector and a bias: s_ui = q_u . y_i + b_i.

    .. math:: q_u = |h|^{-power} \sum_{j \in h} x_j

    x and y are two tables (asymmetric factors, as in S. Kabbur et al., "FISM", KDD 2013), so that a person never seen
    needs no training. In training the item that is asked for is left out of its own history, and others at random.

    Parameters
    ----------
    taken, shown : ItemTable
        x and y.
    power : float
        0 adds up, 1 takes the mean.
    dropout : float
        Share of the history that is left out of a batch.
    own_dropout : float
        Share of the candidates and of the history whose own vectors and biases are left out: pretended cold.
    regularization : float
        L2 penalty on the vectors of a batch.
    """

    def __init__(
        self,
        taken: ItemTable,
        shown: ItemTable,
        *,
        power: float = 0.5,
        dropout: float = 0.0,
        own_dropout: float = 0.0,
        regularization: float = 0.0,
    ) -> None:
        super().__init__()
        self.taken, self.shown = taken, shown
        self.bias = nn.Embedding(taken.n_items, 1, sparse=True)
        nn.init.zeros_(self.bias.weight)
        self.cold_bias = nn.Parameter(torch.zeros(()))
        self.power, self.dropout, self.own_dropout = power, dropout, own_dropout
        self.regularization = regularization

    def forward(self, batch: PeopleBatch) -> Tensor:
        """Return the mean negative log likelihood of what was taken, plus the penalty."""
        items, candidates = torch.from_numpy(batch.items), torch.from_numpy(batch.candidates)
        x = self.taken(items, self._pretend(len(items)))  # (n_events, factors)
        query = self.queries(x, torch.from_numpy(batch.person), batch.n_people)  # (n_events, factors)
        right, wrong = self._pretend(len(items)), self._pretend(len(candidates))
        y, others = self.shown(items, right), self.shown(candidates, wrong)
        positive = (query * y).sum(dim=1) + self.biases(items, right)  # (n_events,)
        loss = softmax_loss(positive, query, others, self.biases(candidates, wrong), batch)
        if self.regularization:
            loss = loss + self.regularization * (x.square().sum() + y.square().sum()) / len(items)
        return loss

    def queries(self, x: Tensor, person: Tensor, n_people: int) -> Tensor:
        """Return for each event its person without that event, shape (n_events, factors)."""
        kept = torch.ones(len(x), 1)
        if self.training and self.dropout:
            kept = (torch.rand(len(x), 1) >= self.dropout).float()
        x = x * kept
        total = torch.zeros(n_people, x.shape[1]).index_add(0, person, x)
        n = torch.zeros(n_people, 1).index_add(0, person, kept)
        rest, n_rest = total[person] - x, n[person] - kept
        return rest * n_rest.clamp(min=1.0).pow(-self.power)

    def biases(self, rows: Tensor, without_own: Tensor | None = None) -> Tensor:
        """Return the biases of some items, shape (n,): one for all that are pretended cold."""
        own = self.bias(rows)[:, 0]
        return own if without_own is None else torch.where(without_own, self.cold_bias, own)

    @torch.no_grad()
    def start_alike(self) -> None:
        """Give both tables the same features at first: items whose texts are alike then speak for each other."""
        for mine, theirs in ((self.shown.turn, self.taken.turn), (self.shown.words, self.taken.words)):
            if isinstance(mine, nn.Module) and isinstance(theirs, nn.Module):
                mine.load_state_dict(theirs.state_dict())
            elif isinstance(mine, nn.Parameter) and isinstance(theirs, nn.Parameter):
                mine.copy_(theirs)

    def _pretend(self, n: int) -> Tensor | None:
        if not self.training or not self.own_dropout:
            return None
        return torch.rand(n) < self.own_dropout

    @torch.no_grad()
    def arrays(self, cold: NDArray[np.bool_]) -> dict[str, Floats]:
        """Return x, y and b of all items; `cold` ones share the bias that was learned for such."""
        bias = self.bias.weight[:, 0].numpy().copy()
        bias[cold] = float(self.cold_bias) if self.own_dropout else (bias[~cold].mean() if (~cold).any() else 0.0)
        return {"taken": self.taken.all(), "shown": self.shown.all(), "bias": bias}


def softmax_loss(positive: Tensor, query: Tensor, others: Tensor, bias: Tensor, batch: PeopleBatch) -> Tensor:
    """Return the mean of log(exp(positive) + sum_j w_j exp(q . y_j + b_j)) - positive, with the weights of the batch.

    Parameters
    ----------
    positive : Tensor, shape (n_events,)
        Scores of what was taken.
    query : Tensor, shape (n_events, factors)
        q.
    others, bias : Tensor, shapes (n_candidates, factors) and (n_candidates,)
        y and b of the candidates.
    batch : PeopleBatch
        Their weights w, and what does not compete.
    """
    hits = (torch.from_numpy(batch.hit_event), torch.from_numpy(batch.hit_candidate))
    logits = torch.addmm(bias + torch.from_numpy(batch.log_weight), query, others.T)  # (n_events, n_candidates)
    logits = logits.index_put_(hits, torch.tensor(NOTHING))
    return (torch.logaddexp(positive, logits.logsumexp(dim=1)) - positive).mean()


def optimizers(net: nn.Module, learning_rate: float, dense_rate: float = 1e-3) -> Sequence[torch.optim.Optimizer]:
    """Return Adagrad for the tables, whose gradients are sparse, and Adam for all else.

    Adagrad keeps one number for each weight (Adam two) and moves rare items as far as common ones.
    J. Duchi et al., "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011.
    """
    sparse = [m.weight for m in net.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.sparse]
    known = {id(p) for p in sparse}
    dense = [p for p in net.parameters() if id(p) not in known]
    found: list[torch.optim.Optimizer] = []
    if sparse:
        found.append(torch.optim.Adagrad(sparse, lr=learning_rate))
    if dense:
        found.append(torch.optim.Adam(dense, lr=dense_rate))
    return found
