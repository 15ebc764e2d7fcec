"""What the neighbour index costs beside the bare library, and what it finds after everything that may happen to it.

    python -m tests.benchmarks.index                          # 20,000 x 384, a minute or two
    python -m tests.benchmarks.index --n 100000 --seconds 60  # half an hour on one core

Prints a markdown table: build, single questions and batches as ratios to hnswlib in the same run, with the same links,
the same threads and the same candidates looked at; recall@10 in each state; filters either way; eight readers beside a
writer. The vectors are clustered, as those of texts are. Ratios say what the wrapper costs; times hang on the machine.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import hnswlib
import numpy as np

from llm_tail.config import IndexConfig
from llm_tail.embedding.store import Embeddings
from llm_tail.neighbors import finding
from llm_tail.neighbors.exact import nearest
from llm_tail.neighbors.index import NeighborIndex

K = 10
CLOCK: list[Callable[[], float]] = [time.perf_counter]


def main() -> None:
    """Build, ask, change, save, load, ask from many threads; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000, help="items")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--seconds", type=float, default=10, help="how long eight readers and a writer run")
    parser.add_argument("--threads", type=int, default=1, help="threads that link items")
    parser.add_argument("--rounds", type=int, default=5, help="times that each speed is measured; the best counts")
    parser.add_argument("--builds", type=int, default=2, help="times that either is built; the fastest counts")
    parser.add_argument("--engine", default="hnswlib", choices=["hnswlib", "faiss", "usearch"])
    parser.add_argument("--storage", default="float32", choices=["float32", "float16"])
    parser.add_argument("--cpu", action="store_true", help="time of the processor in place of the clock's, where busy")
    arguments = parser.parse_args()
    if arguments.cpu:
        CLOCK[0] = time.process_time
    items = made(arguments.n, arguments.dim, 0, "i")
    print("| what | measured |\n| --- | --- |")
    config = IndexConfig(exact_below=0, engine=arguments.engine, storage=arguments.storage)
    raw_build = build = float("inf")
    for _ in range(arguments.builds):
        raw, spent = linked(items.vectors, config, arguments.threads)
        raw_build = min(raw_build, spent)
        started = CLOCK[0]()
        index = NeighborIndex.build(items, config, n_threads=arguments.threads)
        build = min(build, CLOCK[0]() - started)
    line("index", repr(index))
    line("built in", f"{build:.1f} s, hnswlib {raw_build:.1f} s: {raw_build / build:.2f} x as fast")
    speeds(index, raw, items, arguments.rounds)
    states(index, arguments)
    filters(index)
    traffic(index, arguments)
    line("most memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def line(*cells: str) -> None:
    """Print a line of the table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def made(n: int, dim: int, seed: int, prefix: str) -> Embeddings:
    """Return clustered vectors: topics of very different sizes, subtopics in them."""
    shared, own = np.random.default_rng(123), np.random.default_rng(seed)
    topics = shared.normal(size=(200, dim))
    sub = topics[shared.integers(200, size=2000)] + 0.7 * shared.normal(size=(2000, dim))
    chosen = np.minimum((own.pareto(1.2, size=n) * 20).astype(int), 1999)
    vectors = sub[chosen].astype(np.float32) + 0.7 * own.standard_normal((n, dim), dtype=np.float32)
    return Embeddings([f"{prefix}{row}" for row in range(n)], vectors)


def linked(vectors: Any, config: IndexConfig, n_threads: int) -> tuple[Any, float]:
    """Return bare hnswlib over the vectors, and how long it took."""
    started = CLOCK[0]()
    raw = hnswlib.Index(space="cosine", dim=vectors.shape[1])
    raw.init_index(len(vectors), M=config.links, ef_construction=config.ef_construction, random_seed=0)
    raw.add_items(vectors, num_threads=n_threads)
    return raw, CLOCK[0]() - started


def best(rounds: int, ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the shortest time of each way, the ways taking turns so that a busy machine is busy for all."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = CLOCK[0]()
            way()
            times[name].append(CLOCK[0]() - started)
    return {name: min(spent) for name, spent in times.items()}


def speeds(index: NeighborIndex, raw: Any, items: Embeddings, rounds: int) -> None:
    """Ask one by one and all at once, both of the index and of the bare library."""
    raw.set_ef(index.ef)
    rows = np.random.default_rng(1).choice(len(items), min(2000, len(items)), replace=False)
    queries = np.ascontiguousarray(items.vectors[rows])
    single = [queries[n : n + 1] for n in range(min(500, len(queries)))]

    def each(ask: Callable[[Any], Any]) -> Callable[[], None]:
        def run() -> None:
            for query in single:
                ask(query)

        return run

    took = best(
        rounds,
        {
            "raw": each(lambda q: raw.knn_query(q, k=K)),
            "ours": each(lambda q: index.query(q, K)),
            "named": each(lambda q: index.similar(q[0], K)),
            "raw all": lambda: raw.knn_query(queries, k=K),
            "our all": lambda: index.query(queries, K),
        },
    )
    n = len(single)
    line(
        "one question",
        f"{n / took['ours']:,.0f}/s, hnswlib {n / took['raw']:,.0f}/s: {took['raw'] / took['ours']:.2f} x",
    )
    line("the same, answered in ids", f"{n / took['named']:,.0f}/s: {took['raw'] / took['named']:.2f} x")
    n = len(queries)
    ratio = took["raw all"] / took["our all"]
    line("2,000 at once", f"{n / took['our all']:,.0f}/s, hnswlib {n / took['raw all']:,.0f}/s: {ratio:.2f} x")


def recall(index: NeighborIndex, where: Any = None, n: int = 300) -> float:
    """Return the share of the true ten nearest that are found, against what is in the index now."""
    rows = np.random.default_rng(2).choice(len(index), min(n, len(index)), replace=False)
    among = np.arange(len(index)) if where is None else np.flatnonzero(where)
    base = index.vectors[among]
    place = np.full(len(index), -1)
    place[among] = np.arange(len(among))
    _, true = nearest(index.vectors[rows], base, K, exclude_rows=place[rows])
    found, _ = index.similar_rows(rows, K, where=where)
    said = np.einsum("nd,nkd->nk", index.vectors[rows], index.vectors[found])
    return float(((said >= true[:, -1:] - 1e-4) & (found >= 0)).mean())


def states(index: NeighborIndex, arguments: argparse.Namespace) -> None:
    """Look what is found as built, with half removed, filled again, saved and read, compacted."""
    n = arguments.n
    line("recall@10 as built", f"{recall(index):.3f}")
    gone = np.random.default_rng(3).choice(n, n // 2, replace=False)
    started = time.perf_counter()
    index.remove([f"i{row}" for row in gone])
    line("half removed", f"{recall(index):.3f}, in {time.perf_counter() - started:.1f} s; {index!r}")
    started = time.perf_counter()
    index.add(made(len(gone), arguments.dim, 4, "new"), n_threads=arguments.threads)
    line("filled again", f"{recall(index):.3f}, in {time.perf_counter() - started:.1f} s; {index!r}")
    for share in (0.5, 0.1, 0.01, 0.001):
        let = np.random.default_rng(5).random(n) < share
        if let.sum() > K:
            line(f"filtered to {share:.1%}", f"{recall(index, let):.3f}")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        index.save(folder)
        saved = time.perf_counter()
        again = NeighborIndex.load(folder)
        read = time.perf_counter()
        line("saved and read", f"{recall(again):.3f}, in {saved - started:.1f} and {read - saved:.1f} s")


def filters(index: NeighborIndex) -> None:
    """Show what either way of filtering costs, and which one is taken: the numbers behind COMPARED and LINK."""
    queries = index.vectors[:200]
    kept = finding.LINK
    for share in (0.5, 0.1, 0.05, 0.02, 0.01):
        let = np.random.default_rng(6).random(len(index)) < share
        took = {}
        for name, link in (("graph", 0.0), ("exact", 1e9), ("chosen", kept)):
            finding.LINK = link
            one, every = partial(one_by_one, index, queries[:50], let), partial(index.query, queries, K, where=let)
            took[name] = best(2, {"one": one, "all": every})
        finding.LINK = kept
        cells = [
            f"{name} {1e6 * t['one'] / 50:,.0f} one by one, {1e6 * t['all'] / len(queries):,.0f} in a batch"
            for name, t in took.items()
        ]
        line(f"filter to {share:.0%}, microseconds a question", "; ".join(cells))


def one_by_one(index: NeighborIndex, queries: Any, where: Any) -> None:
    """Ask each question alone."""
    for query in queries:
        index.query(query[None], K, where=where)


def traffic(index: NeighborIndex, arguments: argparse.Namespace) -> None:
    """Let eight readers ask while one writer adds, changes and removes; every answer has to be whole."""
    end, counts, faults = time.perf_counter() + arguments.seconds, [0] * 8, []
    waits: list[float] = []
    queries = index.vectors[np.random.default_rng(7).choice(len(index), 500)].copy()

    def read(number: int) -> None:
        random = np.random.default_rng(number)
        while time.perf_counter() < end:
            started = time.perf_counter()
            found = index.similar(queries[random.integers(500)], K)
            waits.append(time.perf_counter() - started)
            counts[number] += 1
            if len(set(found.item_ids)) != K or not np.isfinite(found.similarities).all():
                faults.append(found)

    changes = 0
    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while time.perf_counter() < end:
        fresh = made(64, arguments.dim, 1000 + changes, f"t{changes}-")
        index.add(fresh)
        index.update(Embeddings(list(fresh.ids)[:16], fresh.vectors[16:32]))
        index.remove(list(fresh.ids)[:32])
        changes += 1
    for thread in threads:
        thread.join()
    waits.sort()
    said = f"{sum(counts) / arguments.seconds:,.0f} answers/s beside {changes * 112 / arguments.seconds:,.0f} changes/s"
    p50, p99 = (1e3 * waits[int(share * (len(waits) - 1))] for share in (0.5, 0.99))
    line("eight readers, one writer", f"{said}, {len(faults)} wrong; {p50:.1f} ms, p99 {p99:.1f} ms")
    line("recall@10 after it", f"{recall(index):.3f}; {index!r}")


if __name__ == "__main__":
    main()
