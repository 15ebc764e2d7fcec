"""The training loop that all learned peers share: batches, early stopping, best weights, a time limit.

A model brings a net, its optimizers, a way to draw one epoch of batches, and a loss; `descend` does the rest::

    net = Net(...)
    with seeded(seed):
        record = descend(net, [torch.optim.Adam(net.parameters())], draw, loss, name="mine", look=look)

It knows nothing of interactions, so that a graph net, a transformer and two tables of factors go through the same loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm_tail.errors import ConfigError, DataError
from llm_tail.progress import Bar
from llm_tail.recommenders.tuning import ValidationTask, objective

T = TypeVar("T")
Draw = Callable[[np.random.Generator], Iterable[T]]
Look = Callable[[], Mapping[str, float]]
LOOK_BYTES = 256 << 20  # the score matrix of one look at validation


@dataclass(frozen=True)
class Budget:
    """How long to learn.

    Parameters
    ----------
    epochs : int
        Most passes over the data, at least 1.
    patience : int
        Looks at validation without a gain after which it ends, at least 1.
    max_minutes : float, optional
        Wall-clock limit, above 0; the batch at hand is finished. With a limit that is reached, results depend on the
        speed of the machine.
    look_every : int
        Epochs between two looks at validation, at least 1.
    """

    epochs: int = 30
    patience: int = 3
    max_minutes: float | None = None
    look_every: int = 1

    def __post_init__(self) -> None:
        counts = (self.epochs, self.patience, self.look_every)
        if min(counts) < 1 or not (self.max_minutes is None or self.max_minutes > 0):
            raise ConfigError(
                f"epochs is {self.epochs}, patience {self.patience}, look_every {self.look_every}, "
                f"max_minutes {self.max_minutes}; expected at least 1, 1, 1 and a number above 0"
            )


def descend(
    net: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    draw: Draw[T],
    loss: Callable[[T], Tensor],
    *,
    name: str,
    budget: Budget | None = None,
    look: Look | None = None,
    n_batches: int | None = None,
    seed: int = 0,
    max_norm: float | None = None,
) -> dict[str, Any]:
    """Train a net in place; where validation is looked at, the weights of the best look are kept.

    Parameters
    ----------
    net : Module
        Changed in place, and left in evaluation mode.
    optimizers : sequence of Optimizer
        Several where some parameters have sparse gradients and others dense ones.
    draw : callable
        Given a numpy generator, yields the batches of one epoch.
    loss : callable
        Given a batch, returns a scalar.
    name : str
        For the progress bar and for errors.
    budget : Budget, optional
        How long; 30 epochs, patience 3 if not given.
    look : callable, optional
        Measures the net in evaluation mode; the mean of the values is maximised.
    n_batches : int, optional
        Of one epoch, for the time that is left.
    seed : int
        Of the generator that `draw` is given.
    max_norm : float, optional
        Gradients are clipped to this length; dense ones only.

    Returns
    -------
    dict
        ``loss`` (mean of each epoch), ``measured`` (of each look), ``kept_epoch`` (from 1), ``epochs`` and
        ``stopped``: "epochs", "patience" or "time".

    Raises
    ------
    DataError
        If the loss is no number any more; says in which epoch and what to change.

    Notes
    -----
    The best weights are one more copy of the net, only where `look` is given.

    Examples
    --------
    >>> net = nn.Linear(1, 1, bias=False)
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> record = descend(net, [sgd], lambda rng: [x], lambda x: (net(x) - 3 * x).square().mean(), name="line")
    >>> round(net.weight.item(), 2), record["stopped"]
    (3.0, 'epochs')
    """
    budget = budget or Budget()
    rng = np.random.default_rng(seed)
    keeper = _Keeper(net, look, budget)
    deadline = math.inf if budget.max_minutes is None else time.monotonic() + 60 * budget.max_minutes
    losses: list[float] = []
    stopped = "epochs"
    # Sparse gradients come from torch itself; it warns unless it is told that they need no check.
    unchecked = torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]
    with unchecked, Bar(name, None if n_batches is None else n_batches * budget.epochs) as bar:
        for epoch in range(1, budget.epochs + 1):
            net.train()
            total, n_steps = 0.0, 0
            for batch in draw(rng):
                total += _step(net, optimizers, loss(batch), name, epoch, max_norm)
                n_steps += 1
                bar.advance()
                if time.monotonic() > deadline:
                    stopped = "time"
                    break
            losses.append(total / max(1, n_steps))
            last = stopped == "time" or epoch == budget.epochs
            if (last or epoch % budget.look_every == 0) and keeper.is_enough(epoch) and not last:
                stopped = "patience"
            if stopped != "epochs":
                break
            bar.advance(0, note=f"loss {losses[-1]:.3f}{keeper.note}")
    kept = keeper.give_back(len(losses))
    return {
        "loss": losses,
        "measured": keeper.measured,
        "kept_epoch": kept,
        "epochs": len(losses),
        "stopped": stopped,
    }


def _step(
    net: nn.Module, optimizers: Sequence[torch.optim.Optimizer], loss: Tensor, name: str, epoch: int, norm: float | None
) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DataError(
            f"the loss of {name} is {value} in epoch {epoch}, expected a number; lower its learning_rate, and look "
            "for vectors that are NaN or very long"
        )
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    if loss.requires_grad:  # a batch in which nothing can be learned is no mistake
        loss.backward()  # type: ignore[no-untyped-call]
        if norm is not None:
            nn.utils.clip_grad_norm_([p for p in net.parameters() if p.grad is not None and not p.grad.is_sparse], norm)
        for optimizer in optimizers:
            optimizer.step()
    return value


class _Keeper:
    """Remembers the weights of the best look."""

    def __init__(self, net: nn.Module, look: Look | None, budget: Budget) -> None:
        self._net, self._look, self._patience = net, look, budget.patience
        self.measured: list[dict[str, float]] = []
        self._best, self._best_epoch, self._waited = -math.inf, 0, 0
        self._weights: dict[str, Tensor] = {}

    @property
    def note(self) -> str:
        return f", validation {objective(self.measured[-1]):.4f}" if self.measured else ""

    def is_enough(self, epoch: int) -> bool:
        """Look, keep the weights if they are the best so far, and say whether patience is at an end."""
        if self._look is None:
            return False
        self._net.eval()
        with torch.inference_mode():
            self.measured.append(dict(self._look()))
        found = objective(self.measured[-1])
        self._waited += 1
        if found > self._best:
            self._best, self._best_epoch, self._waited = found, epoch, 0
            self._weights = {key: tensor.detach().clone() for key, tensor in self._net.state_dict().items()}
        return self._waited >= self._patience

    def give_back(self, n_epochs: int) -> int:
        """Put the best weights back and return the epoch that they are of."""
        self._net.eval()
        if self._weights:
            self._net.load_state_dict(self._weights)
        return self._best_epoch or n_epochs


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's own randomness inside the block, and leave that of the caller as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def look_on(
    score: Callable[[sp.csr_matrix], NDArray[Any]],
    train: sp.csr_matrix,
    validation: sp.csr_matrix | None,
    *,
    max_users: int = 2000,
    seed: int = 0,
    histories: sp.csr_matrix | None = None,
) -> Look | None:
    """Return what measures a model on validation as the project is judged: NDCG@20, warm, tail, cold and overall.

    Parameters
    ----------
    score : callable
        Histories of shape (n, n_items) in, scores of that shape out; with the weights of the moment.
    train, validation : csr_matrix, shape (n_users, n_items)
        1 where a person took an item.
    max_users : int
        Most people who are asked; fewer where their scores would not fit into 256 MB.
    seed : int
        Draws them.
    histories : csr_matrix, shape (n_users, n_items), optional
        What `score` is given, where it reads more of a history than which items it holds; `train` if not given.

    Returns
    -------
    callable or None
        None where there is no validation, or it holds nothing.
    """
    if validation is None or validation.nnz == 0:
        return None
    most = max(32, min(max_users, LOOK_BYTES // (4 * max(1, train.shape[1]))))
    task = ValidationTask.build(train, validation, max_users=most, seed=seed)
    asked = (train if histories is None else histories)[task.users].tocsr()
    return lambda: task.measure(np.asarray(score(asked), dtype=np.float32))
