import threading
import time

import pytest

from llm_tail.config import EnrichmentConfig
from llm_tail.enrichment.backends import Reply, Request
from llm_tail.enrichment.cache import Spent
from llm_tail.enrichment.limits import Ledger, Pace
from llm_tail.errors import ConfigError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def pace(**limits):
    clock = Clock()
    return clock, Pace(**limits, clock=clock, sleep=clock.sleep)


def test_requests_and_tokens_keep_their_pace():
    clock, one = pace(requests=120)
    for _ in range(103):
        one.wait(500)
    assert clock.now == pytest.approx(50.0)  # two a second, after a burst of one second
    clock, one = pace(tokens=60_000)
    for _ in range(10):
        one.wait(3000)
    assert clock.now == pytest.approx(26.0)  # a thousand a second; the first waits for nothing, and counts
    one.correct(-3000)
    before = clock.now
    one.wait(0)
    assert clock.now == pytest.approx(before)
    clock, one = pace()
    for _ in range(100):
        one.wait(10**6)
    assert clock.now == 0.0


def test_a_pause_holds_everybody():
    clock, one = pace()
    one.close(7.0)
    one.close(3.0)
    one.wait(1)
    assert clock.now == 7.0
    one.wait(1)
    assert clock.now == 7.0


def test_threads_share_the_pace():
    one, started = Pace(requests=60 * 200), time.monotonic()
    threads = [threading.Thread(target=lambda: [one.wait(0) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= (400 - 201) / 200


def request(key, n_bytes=3000, max_tokens=100):
    messages = ({"role": "user", "content": "x" * n_bytes},)
    return Request(
        key=key,
        task="summary",
        subject="a",
        domain="d",
        language="en",
        fields={},
        messages=messages,
        max_tokens=max_tokens,
    )


def test_what_is_under_way_counts_at_its_worst():
    ledger = Ledger(EnrichmentConfig(max_tokens=3500), Spent())
    assert ledger.estimate(request("a")) == (1516, 100)
    ledger.leaves(request("a"))
    assert ledger.has_room(request("b"))
    ledger.leaves(request("b"))
    assert not ledger.has_room(request("c"))
    ledger.comes(Reply("a", "{}", tokens_in=200, tokens_out=10))
    assert ledger.has_room(request("c")), "it took less than was feared"
    ledger.comes(Reply("b", error="failed", passing=True))
    assert (ledger.tokens_in, ledger.tokens_out) == (200, 10)


def test_money_and_words():
    config = EnrichmentConfig(price_in=1.0, price_out=4.0, max_money=1.0, currency="EUR")
    ledger = Ledger(config, Spent(400_000, 100_000, 0.8, 500))
    assert not ledger.has_room(request("a", n_bytes=600_000))
    assert ledger.has_room(request("a"))
    ledger.leaves(request("a"))
    assert ledger.comes(Reply("a", "{}", tokens_in=1000, tokens_out=250)) == pytest.approx(0.002)
    assert ledger.told(50) == "501,250 tokens, 0.80 EUR, about 0.10 to come"
    with pytest.raises(ConfigError, match="max_money is set and price_in and price_out are 0"):
        Ledger(EnrichmentConfig(max_money=1.0), Spent())


@pytest.mark.parametrize("name", ["max_money", "max_tokens"])
def test_a_budget_of_zero_pays_for_nothing(name):
    with pytest.raises(ConfigError, match="a budget of zero pays for no answer; leave it out"):
        EnrichmentConfig(**{name: 0})


def test_estimates_learn_from_what_the_server_counts():
    ledger = Ledger(EnrichmentConfig(), Spent())
    for n in range(6):
        ledger.leaves(request(str(n)))
        ledger.comes(Reply(str(n), "{}", tokens_in=600, tokens_out=1))
    assert ledger.estimate(request("x"))[0] == pytest.approx(600 * 1.2 + 16, abs=1)
