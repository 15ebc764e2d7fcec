"""Pareto: of many choices that each cost and give something, which are worth a look, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from llm_tail.errors import ConfigError

STEP = 0.005  # of a share of quality: less than that is luck, or not worth four times the room
SIGNIFICANT = 2  # digits of seconds, money and MB that count: two clocks agree no better


@dataclass(frozen=True)
class Choice:
    """One way to embed a catalogue: what it costs and what it gives.

    Parameters
    ----------
    runtime : str
        How the encoder runs, such as ``torch-bf16``.
    dim : int
        The width of a vector, at least 1.
    storage : str
        Number format of the vectors on disk.
    texts_per_s : float
        Above 0.
    peak_mb : float
        The most memory that a process which does nothing else holds, in MB (10^6 bytes).
    seconds, money, mb : float
        What a million items cost: time, money, room on disk (MB).
    ndcg : dict
        Column (warm, tail, cold, overall) to NDCG@20 of ranking by the texts alone; empty where nobody could be judged.
    share : float or None
        The mean of the columns as a share of the best choice's, in [0, 1]; None where nobody could be judged.

    Examples
    --------
    >>> Choice("static", 128, "int8", 20_000.0, 300.0, 50.0, 0.001, 144.0).label
    'static, 128 wide, int8'
    """

    runtime: str
    dim: int
    storage: str
    texts_per_s: float
    peak_mb: float
    seconds: float
    money: float
    mb: float
    ndcg: dict[str, float] = field(default_factory=dict)
    share: float | None = None

    @property
    def label(self) -> str:
        """What it is, in words."""
        return f"{self.runtime}, {self.dim:,} wide, {self.storage}"

    @property
    def mean(self) -> float | None:
        """The mean of the columns."""
        return float(np.mean(list(self.ndcg.values()))) if self.ndcg else None

    @property
    def rank(self) -> tuple[float, float, float, float]:
        """Quality lost, seconds, money, MB, rounded to what can be told apart; less is better in each."""
        lost = 0.0 if self.share is None else round((1.0 - self.share) / STEP) * STEP
        return (lost, rounded(self.seconds), rounded(self.money), rounded(self.mb))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        return {**asdict(self), "mean": self.mean}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Choice:
        """Return what `to_dict` was made of."""
        return cls(**{one.name: values[one.name] for one in fields(cls)})


class Budget(NamedTuple):
    """What a million items may cost at most: money, seconds, MB on disk; None sets no limit.

    Examples
    --------
    >>> Budget(money=0.5, mb=200.0)
    Budget(money=0.5, seconds=None, mb=200.0)
    """

    money: float | None = None
    seconds: float | None = None
    mb: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits there are, by the name of what they limit."""
        return {name: limit for name, limit in self._asdict().items() if limit is not None}

    def checked(self) -> Budget:
        """Return the same budget; `ConfigError` where a limit is no number above 0."""
        for name, limit in self.limits.items():
            if not (limit > 0 and math.isfinite(limit)):
                raise ConfigError(f"the budget of {name} is {limit:g}; expected a number above 0, for a million items")
        return self

    def excess(self, choice: Choice) -> dict[str, float]:
        """Return what is over the budget: its name to cost / limit, above 1."""
        over = {name: getattr(choice, name) / limit for name, limit in self.limits.items()}
        return {name: ratio for name, ratio in over.items() if ratio > 1}


@dataclass(frozen=True)
class Advice:
    """Which choice to take.

    Parameters
    ----------
    choice : Choice or None
        None where nothing fits.
    best : Choice or None
        The one that gives most, whatever it costs; None where nobody could be judged.
    nearest : Choice or None
        Where nothing meets the budget, what comes nearest to it.
    excess : dict
        What of the nearest is over the budget: money, seconds or mb to cost / limit.
    """

    choice: Choice | None
    best: Choice | None = None
    nearest: Choice | None = None
    excess: dict[str, float] | None = None


def rounded(value: float) -> float:
    """Return a number with as many digits as count.

    Examples
    --------
    >>> rounded(10_449.0), rounded(0.0261), rounded(0.0)
    (10000.0, 0.026, 0.0)
    """
    return float(f"{value:.{SIGNIFICANT}g}")


def front(choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices that no other one dominates, in their order.

    One dominates another if it is at least as good in quality, seconds, money and MB for a million items, and better
    in one of them. Differences that a second measurement would not confirm do not count (see `Choice.rank`): else
    every format on disk would stand on the front for the sixth digit of its quality. Equal ones stand there together.

    Parameters
    ----------
    choices : sequence of Choice

    Notes
    -----
    O(n_choices^2).

    Examples
    --------
    >>> slow = Choice("torch-fp32", 384, "float32", 50.0, 900.0, 20_000.0, 0.5, 1600.0, share=1.0)
    >>> fast = Choice("torch-bf16", 384, "float32", 100.0, 900.0, 10_000.0, 0.25, 1600.0, share=0.9999)
    >>> small = Choice("torch-fp32", 96, "int8", 50.0, 900.0, 20_000.0, 0.5, 120.0, share=0.9)
    >>> [choice.label for choice in front([slow, fast, small])]
    ['torch-bf16, 384 wide, float32', 'torch-fp32, 96 wide, int8']
    """
    if not choices:
        return []
    ranks = np.array([choice.rank for choice in choices])  # (n_choices, 4)
    as_good = (ranks[:, None] <= ranks[None]).all(axis=2)  # (n_choices, n_choices)
    better = (ranks[:, None] < ranks[None]).any(axis=2)  # (n_choices, n_choices)
    dominated = np.asarray((as_good & better).any(axis=0))  # (n_choices,)
    return [choice for choice, worse in zip(choices, dominated, strict=True) if not worse]


def advise(choices: Sequence[Choice], budget: Budget | None = None, keep_share: float = 0.99) -> Advice:
    """Say which choice to take: the best within a budget, or the cheapest that keeps most of the quality.

    Parameters
    ----------
    choices : sequence of Choice
        At least one; either all of them have been judged or none.
    budget : Budget, optional
        Of equally good ones within it the cheapest is taken, then the smallest on disk.
    keep_share : float
        Without a budget, what has to be kept of the best quality, in (0, 1].

    Raises
    ------
    ConfigError
        If a limit of the budget is not above 0.

    Notes
    -----
    Where nobody could be judged, nothing is recommended: what is cheap is not known to be good.

    Examples
    --------
    >>> good = Choice("torch-bf16", 384, "float32", 100.0, 900.0, 10_000.0, 0.25, 1600.0, share=1.0)
    >>> cheap = Choice("static", 384, "int8", 9000.0, 300.0, 111.0, 0.01, 400.0, share=0.9)
    >>> advise([good, cheap]).choice == good, advise([good, cheap], Budget(money=0.1)).choice == cheap
    (True, True)
    """
    budget = (budget or Budget()).checked()
    judged = [choice for choice in choices if choice.share is not None]
    best = min(judged, key=lambda c: (c.rank, -(c.share or 0.0)), default=None)
    within = [choice for choice in choices if not budget.excess(choice)]
    if not within:
        nearest = min(choices, key=lambda c: (*_distance(budget.excess(c)), c.rank), default=None)
        return Advice(None, best, nearest, budget.excess(nearest) if nearest else None)
    within = [choice for choice in within if choice.share is not None]
    if budget.limits:
        return Advice(min(within, key=lambda c: (c.rank[0], *_cost(c)), default=None), best)
    kept = [choice for choice in within if (choice.share or 0.0) >= keep_share]
    return Advice(min(kept, key=lambda c: (*_cost(c), c.rank[0]), default=None), best)


def _cost(choice: Choice) -> tuple[float, float, float]:
    """Return what is looked at first when two choices are equally good."""
    _, seconds, money, mb = choice.rank
    return money, seconds, mb


def _distance(excess: dict[str, float]) -> tuple[float, int]:
    """Return how far over a budget something is: by the worst of its limits, then by how many."""
    return max(excess.values()), len(excess)
