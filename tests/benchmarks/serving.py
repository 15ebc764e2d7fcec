"""How fast the hybrid answers: everybody at once, one person after the other, with all scores and by vectors.

    python -m tests.benchmarks.serving                                   # a made catalogue of 4,385 items
    python -m tests.benchmarks.serving --model runs/shop/models/hybrid   # one that was fitted and saved

Prints people a second in batch (k = 20, the median of three after one that does not count), the median and the 99th
percentile of one person in milliseconds, and what the vectors lose, as a markdown table. Figures hang on the machine:
run it alone on its cores. On two cores of an AMD EPYC without AVX-512, the made catalogue: all scores 15,600 people/s
(the first time 4,600) and 1.8 ms (p99) for one; vectors of 256 with 100 scored again 3,700 and 2.5 ms, without 12,500
and 1.5 ms; ready in 3 s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import llm_tail as lt
from llm_tail.data.ids import IdMap

PLAIN = {"tune": False, "learn": False}


def main() -> None:
    """Fit or load, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a saved HybridRecommender")
    parser.add_argument("--items", type=int, default=4385)
    parser.add_argument("--people", type=int, default=8000)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--rescore", type=int, default=100)
    parser.add_argument("--asked", type=int, default=500, help="people asked one by one")
    arguments = parser.parse_args()
    model = lt.HybridRecommender.load(arguments.model) if arguments.model else made(arguments.items, arguments.people)
    print(f"{model}\n\n| | people/s | one: median ms | one: p99 ms | ready in s | shared | NDCG@20 |\n|{' --- |' * 7}")
    users = list(model.users)
    rng = np.random.default_rng(0)
    histories = [
        [model.items[row] for row in model.histories[user].indices]
        for user in rng.choice(np.flatnonzero(np.diff(model.histories.indptr)), arguments.asked)
    ]
    line("all scores", model.recommend, users, histories, 0.0, {})
    for dim in arguments.dims:
        started = time.perf_counter()
        index = model.to_index(dim=dim, rescore=arguments.rescore)
        ready = time.perf_counter() - started
        line(f"vectors of {dim}, {arguments.rescore} again", index.recommend, users, histories, ready, index.measured)
        index.rescore = 0
        line(f"vectors of {dim}", index.recommend, users, histories, ready, index.measured, "vectors")


def line(
    name: str,
    ask: Callable[..., lt.Recommendations],
    users: list[str],
    histories: list[list[str]],
    ready: float,
    measured: dict,
    kind: str = "rescored",
) -> None:
    """Time one way of asking and print its line."""
    took = []
    for _ in range(4):
        started = time.perf_counter()
        ask(users, k=20)
        took.append(time.perf_counter() - started)
    rate = len(users) / float(np.median(took[1:]))  # the first asks the system for its memory, and takes thrice as long
    spent = []
    for history in histories:
        started = time.perf_counter()
        ask(history=history, k=20)
        spent.append(1000 * (time.perf_counter() - started))
    shared = f"{measured[f'overlap_{kind}']:.3f}" if measured else "1"
    quality = measured.get("ndcg_full") and f"{measured[f'ndcg_{kind}']:.4f} of {measured['ndcg_full']:.4f}"
    median, late = np.percentile(spent, [50, 99])
    print(
        f"| {name} | {rate:,.0f} | {median:.2f} | {late:.2f} | {ready:.1f} | {shared} | {quality or ''} |", flush=True
    )


def made(n_items: int, n_people: int, dim: int = 384, n_topics: int = 40) -> lt.HybridRecommender:
    """Fit a hybrid on people with a taste and items whose vectors show it."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((n_topics, dim))
    topic = np.arange(n_items) % n_topics
    vectors = topics[topic] + 1.5 * rng.standard_normal((n_items, dim))
    taste = rng.integers(0, n_topics, n_people)
    sizes = 3 + rng.geometric(0.25, n_people)
    users = np.repeat(np.arange(n_people), sizes)
    own = rng.random(len(users)) < 0.7
    nth = rng.integers(0, n_items // n_topics, len(users))
    items = np.where(own, nth * n_topics + taste[users], rng.integers(0, n_items, len(users)))
    people = IdMap([f"u{n}" for n in range(n_people)], "user")
    ids = IdMap([f"i{n}" for n in range(n_items)])
    return lt.HybridRecommender(PLAIN).fit(lt.Interactions(people, ids, users, items), lt.Embeddings(ids, vectors))


if __name__ == "__main__":
    main()
