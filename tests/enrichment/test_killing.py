import os
import signal
import subprocess
import sys
import time

import pytest

from llm_tail.enrichment.cache import AnswerCache

from . import killing

N, IN_FLIGHT = 240, 8


def start(folder):
    command = [sys.executable, "-m", "tests.enrichment.killing", str(folder), str(N), str(IN_FLIGHT)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def wait_for(mind, n, child):
    until = time.monotonic() + 120
    while sum(mind.computed.values()) < n and time.monotonic() < until and child.poll() is None:
        time.sleep(0.005)


@pytest.mark.parametrize("knows_keys", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_three_kills_lose_nothing_and_pay_for_nothing_twice(knows_keys, serve, tmp_path):
    """A server that knows idempotency keys bills a question once; another may bill those under way again."""
    mind = serve(latency=0.01, knows_keys=knows_keys)
    under_way = 0
    for n in (40, 100, 170):
        child = start(tmp_path)
        wait_for(mind, n, child)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        with AnswerCache(tmp_path) as cache:
            counts = cache.counts()
        assert set(counts) <= {"kept", "sent"} and counts.get("sent", 0) <= IN_FLIGHT
        assert sum(mind.computed.values()) - under_way <= counts["kept"] + IN_FLIGHT + under_way
        under_way += counts.get("sent", 0)
    out, err = start(tmp_path).communicate()
    assert f"{N} of {N} answers in use" in out, err
    assert len(mind.computed) == N, "nothing is lost"
    twice = sum(mind.computed.values()) - N
    assert twice == 0 if knows_keys else twice <= under_way
    with AnswerCache(tmp_path) as cache:
        assert cache.counts() == {"kept": N} and cache.spent().n_answers == N
        for row in cache.find():
            assert row.n_asked == 1
    assert len(killing.catalog(N)) == N


def test_an_interrupt_waits_for_what_is_under_way(serve, tmp_path):
    mind = serve(latency=0.3)
    child = start(tmp_path)
    wait_for(mind, 10, child)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode != 0
    with AnswerCache(tmp_path) as cache:
        assert cache.counts() == {"kept": sum(mind.computed.values())}


INTERRUPTED = """
import signal, sys
from llm_tail.enrichment.interrupts import gentle_interrupts

before, reached = signal.getsignal(signal.SIGINT), []
try:
    with gentle_interrupts() as interrupted:
        for _ in range(int(sys.argv[1])):
            signal.raise_signal(signal.SIGINT)
            reached.append(interrupted())
except KeyboardInterrupt:
    reached.append("raised")
print(reached, signal.getsignal(signal.SIGINT) is before)
"""


@pytest.mark.parametrize(("n_signals", "reached"), [(0, []), (1, [True, "raised"]), (2, [True, "raised"])])
def test_the_first_interrupt_is_noted_and_the_second_raises(n_signals, reached):
    """In a process of its own: an interrupt may hit whoever runs the tests."""
    words = [sys.executable, "-c", INTERRUPTED, str(n_signals)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"{reached} True"
