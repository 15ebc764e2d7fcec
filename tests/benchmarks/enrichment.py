"""Whether items go through a server at its stated rate, killed three times, with nothing lost and nothing paid twice.

A scripted server (``tests.enrichment.server``) in a process of its own takes so many requests a second and answers each
after so many seconds; `llm-tail`'s client runs in another, which is killed (SIGKILL) at a quarter, a half and three
quarters and started again::

    python -m tests.benchmarks.enrichment                                    # 10,000 items, 16 in flight, 50 a second
    python -m tests.benchmarks.enrichment --n 1000 --rate 50 --latency 0.1

Throughput is answers a second between the first and the last answer of each run of the client, starts of processes left
out, beside the server's stated rate or, where that is lower, what so many in flight can reach at this latency. The
billing is the server's own: how often each question was computed, with and without knowing idempotency keys.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from llm_tail.enrichment.cache import AnswerCache
from tests.enrichment.server import KEY

KILLS = (0.25, 0.5, 0.75)


def bill(address: str, since: int = 0) -> tuple[int, int, float]:
    """Return how many questions and answers the server has computed, and the seconds since answer `since`."""
    url = f"{address.removesuffix('/v1')}/bill?{since}"
    with urllib.request.urlopen(url) as response:  # noqa: S310  (our own)
        told = json.load(response)
    return told["questions"], told["answers"], told["times"][1] - told["times"][0]


def client(folder: Path, given: argparse.Namespace) -> subprocess.Popen[str]:
    """Start the client."""
    words = [str(folder), str(given.n), str(given.in_flight), str(given.rate)]
    command = [sys.executable, "-m", "tests.enrichment.killing", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Run it and print a line of a table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--n", type=int, default=10_000)
    options.add_argument("--in-flight", type=int, default=16)
    options.add_argument("--rate", type=float, default=50.0, help="requests a second that the server takes")
    options.add_argument("--latency", type=float, default=0.2, help="seconds until an answer")
    options.add_argument("--forgets", action="store_true", help="the server does not know idempotency keys")
    given = options.parse_args()
    server_words = ["--port", "0", "--rate", str(given.rate), "--latency", str(given.latency)]
    command = [sys.executable, "-m", "tests.enrichment.server", *server_words, *(["--forgets"] * given.forgets)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().split()[0].removeprefix("OPENAI_BASE_URL=")
    os.environ |= {"OPENAI_BASE_URL": address.rstrip(","), "OPENAI_API_KEY": KEY}
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), given, os.environ["OPENAI_BASE_URL"])
    finally:
        server.kill()


def measure(folder: Path, given: argparse.Namespace, address: str) -> None:
    """Kill and start again, then tell what was lost, paid twice, and how fast it was."""
    seconds, n_answers, unsure = 0.0, 0, 0
    for share in (*KILLS, 1.0):
        _, before, _ = bill(address)
        child = client(folder, given)
        while child.poll() is None and (share == 1.0 or bill(address)[0] < share * given.n):
            time.sleep(0.2)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.communicate()
        time.sleep(2 * given.latency + 0.5)  # what the server still had under way belongs to this run
        _, after, took = bill(address, before)
        seconds, n_answers = seconds + took, n_answers + after - before - 1
        with AnswerCache(folder) as cache:
            unsure += cache.counts().get("sent", 0)
    questions, answers, _ = bill(address)
    with AnswerCache(folder) as cache:
        n_kept, n_paid = cache.counts().get("kept", 0), cache.spent().n_answers
    bound = min(given.rate or 1e9, given.in_flight / given.latency)
    print(
        f"{given.n:,} items, {given.in_flight} in flight, {len(KILLS)} kills: kept {n_kept:,}, "
        f"lost {given.n - n_kept:,}, under way at a kill {unsure}, "
        f"computed twice {answers - questions}, answers paid {n_paid:,}; "
        f"{n_answers / seconds:.1f} answers/s, {100 * n_answers / seconds / bound:.0f} % of {bound:g}/s"
    )


if __name__ == "__main__":
    main()
