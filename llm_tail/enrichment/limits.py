"""How fast requests may leave, and how much they may cost in all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from llm_tail.config import EnrichmentConfig
from llm_tail.enrichment.backends import Reply, Request
from llm_tail.enrichment.cache import Spent
from llm_tail.errors import ConfigError

BURST = 1.0  # seconds of unused room that may be caught up with
BYTES_PER_TOKEN = 3.5  # of UTF-8, as most tokenizers have it
FEWEST_BYTES = 2.0  # of a token, for budgets, before replies have told better
OVERHEAD = 16  # tokens that a chat template adds to a request


class Pace:
    """Lets requests leave no faster than a server allows; shared by threads.

    Parameters
    ----------
    requests, tokens : float
        Most in a minute; 0 is no limit.
    clock, sleep : callable
        Of the system; others for tests.

    Examples
    --------
    >>> now = [0.0]
    >>> pace = Pace(requests=60, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    >>> for _ in range(4):
    ...     pace.wait(0)
    >>> now[0]
    2.0
    """

    def __init__(
        self,
        requests: float = 0.0,
        tokens: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._each = (60 / requests if requests else 0.0, 60 / tokens if tokens else 0.0)  # seconds
        self._clock, self._sleep, self._lock = clock, sleep, threading.Lock()
        start = clock() - BURST
        self._free = [start, start]  # when the next request, the next token may leave
        self._closed_until = 0.0

    def wait(self, tokens: int) -> None:
        """Return when a request of about so many tokens may leave."""
        with self._lock:
            now = self._clock()
            at = max(now, self._closed_until)
            for kind, each in enumerate(self._each):
                if each:
                    self._free[kind] = max(self._free[kind], now - BURST)
                    at = max(at, self._free[kind])
            for kind, amount in enumerate((1, tokens)):
                self._free[kind] += amount * self._each[kind]
        if at > now:
            self._sleep(at - now)

    def correct(self, tokens: int) -> None:
        """Take so many tokens more, or fewer where it is negative, than was said before."""
        with self._lock:
            self._free[1] += tokens * self._each[1]

    def close(self, seconds: float) -> None:
        """Let nothing leave for a while: the server has said that it is too much."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._clock() + seconds)


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens, each way."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0
    currency: str = "USD"

    def money(self, tokens_in: float, tokens_out: float) -> float:
        """Return what so many tokens cost."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


class Ledger:
    """What has been paid, what is under way, and whether one more request may leave.

    A request is let out only where its worst case still lies within the budget: its input by bytes (corrected by what
    the server counts), its answer at full length.

    Parameters
    ----------
    config : EnrichmentConfig
        Prices and budgets.
    spent : Spent
        What was paid before.

    Raises
    ------
    ConfigError
        If there is a budget in money and no price.

    Examples
    --------
    >>> ledger = Ledger(EnrichmentConfig(max_tokens=1000), Spent(tokens_in=950))
    >>> ledger.has_room(Request(key="k", task="summary", subject="a", domain="books", language="en", fields={}))
    False
    """

    def __init__(self, config: EnrichmentConfig, spent: Spent) -> None:
        self.prices = Prices(config.price_in, config.price_out, config.currency)
        self.max_money, self.max_tokens = config.max_money, config.max_tokens
        if self.max_money is not None and not (config.price_in or config.price_out):
            raise ConfigError(
                "[enrichment] max_money is set and price_in and price_out are 0, so nothing would ever reach it; give "
                "the prices of a million tokens, or set max_tokens"
            )
        self.tokens_in, self.tokens_out, self.money = spent.tokens_in, spent.tokens_out, spent.money
        self.paid_here, self.n_replies = 0.0, 0
        self._out: dict[str, tuple[int, int, int]] = {}  # of each request under way: tokens both ways, bytes
        self._out_in = self._out_out = 0
        self._bytes = self._counted = 0

    def estimate(self, request: Request) -> tuple[int, int]:
        """Return at most how many tokens a request sends and gets."""
        known = self._bytes > 10_000
        ratio = 1.2 * self._counted / self._bytes if known else 1 / FEWEST_BYTES
        return int(_bytes(request) * ratio) + OVERHEAD * len(request.messages), request.max_tokens

    def has_room(self, request: Request) -> bool:
        """Say whether the request fits into the budget, all that is under way taken at its worst."""
        tokens_in, tokens_out = self.estimate(request)
        tokens_in, tokens_out = tokens_in + self._out_in, tokens_out + self._out_out
        all_tokens = self.tokens_in + self.tokens_out + tokens_in + tokens_out
        if self.max_tokens is not None and all_tokens > self.max_tokens:
            return False
        return self.max_money is None or self.money + self.prices.money(tokens_in, tokens_out) <= self.max_money

    def leaves(self, request: Request) -> None:
        """Note that a request is under way."""
        tokens_in, tokens_out = self.estimate(request)
        self._out[request.key] = (tokens_in, tokens_out, _bytes(request))
        self._out_in, self._out_out = self._out_in + tokens_in, self._out_out + tokens_out

    def comes(self, reply: Reply) -> float:
        """Note what a reply cost, and return that in money."""
        tokens_in, tokens_out, n_bytes = self._out.pop(reply.key, (0, 0, 0))
        self._out_in, self._out_out = self._out_in - tokens_in, self._out_out - tokens_out
        if reply.tokens_in:
            self._bytes, self._counted = self._bytes + n_bytes, self._counted + reply.tokens_in
        money = self.prices.money(reply.tokens_in, reply.tokens_out)
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.money += money
        self.paid_here += money
        self.n_replies += 1
        return money

    def told(self, n_open: int = 0) -> str:
        """Return in words what was spent and, by the mean so far, what `n_open` more requests will cost."""
        tokens = self.tokens_in + self.tokens_out
        words = f"{tokens:,} tokens"
        if self.prices.tokens_in or self.prices.tokens_out:
            words += f", {in_words(self.money)} {self.prices.currency}"
            if n_open and self.n_replies:
                words += f", about {in_words(self.paid_here / self.n_replies * n_open)} to come"
        return words

    def __repr__(self) -> str:
        return f"Ledger({self.told()}, {len(self._out)} under way)"


def in_words(money: float) -> str:
    """Return an amount with two digits behind the point, small ones with two that say something.

    Examples
    --------
    >>> in_words(12.3456), in_words(0.0071234), in_words(0.0)
    ('12.35', '0.0071', '0.00')
    """
    return f"{money:.2f}" if money >= 0.1 or money == 0 else f"{money:.2g}"


def _bytes(request: Request) -> int:
    return sum(len(message["content"].encode()) for message in request.messages)
