"""The same store by one process, by several, and by Ray; and with a worker that is killed on the way.

::

    python -m tests.benchmarks.ray_embed                          # a minute or two on two cores; needs llm-tail[ray]
    python -m tests.benchmarks.ray_embed --items 20000 --workers 1 2 4

Each line is a store made from nothing: seconds (a start of Ray included), texts a second, and the digest of its files.
All digests have to be equal; the exit code is 1 where they are not. The texts are titles of the shipped books, mixed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from llm_tail.artifacts import fingerprint
from llm_tail.config import EmbeddingConfig
from llm_tail.data.books import load_books
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.distributed import RayEngine
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.engine import Encoded, Engine, LocalEngine
from llm_tail.embedding.processes import ProcessEngine
from llm_tail.embedding.store import EmbeddingStore

WORKERS = {"ray": "ray::MapWorker", "processes": "llm_tail.embedding.worker"}


class Killing:
    """An engine of which one worker is killed when a third of the shards are there."""

    def __init__(self, engine: Engine, name: str, n_shards: int) -> None:
        self.engine, self.name, self.at = engine, name, n_shards // 3

    def encode_shards(self, *args: object, **settings: object) -> Iterator[Encoded]:
        for number, result in enumerate(self.engine.encode_shards(*args, **settings)):  # type: ignore[arg-type]
            if number == self.at:
                kill_a_descendant(self.name)
            yield result


def kill_a_descendant(name: str) -> None:
    """Kill one of the processes below this one whose command holds `name`."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    known = {int(line.split()[0]): (int(line.split()[1]), line) for line in lines.splitlines()}

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in known and is_ours(known[pid][0]))

    pid = next(pid for pid, (_, line) in known.items() if name in line and is_ours(pid))
    os.kill(pid, signal.SIGKILL)


def items(n: int) -> Catalog:
    """Return n items whose titles are those of the books, two by two."""
    titles = [title for title in load_books()[0].table["title"].to_pylist() if title]
    random = np.random.default_rng(0)
    pairs = random.integers(len(titles), size=(n, 2))
    return Catalog.from_items(
        [{"item_id": f"i{i}", "title": f"{titles[a]}, {titles[b]}"} for i, (a, b) in enumerate(pairs)]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--shard-items", type=int, default=100)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--address", default="", help="of a Ray cluster that is there")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as many as each worker has: the last digits depend on it
    catalog, config = items(given.items), EmbeddingConfig(shard_items=given.shard_items)
    encoder, n_shards = Encoder.load(), -(-given.items // given.shard_items)
    engines: dict[str, Engine] = {"this process": LocalEngine()}
    for n in given.workers:
        engines[f"processes, {n}"] = ProcessEngine(n)
        engines[f"ray, {n}"] = RayEngine(given.address, n)
    most = max(given.workers)
    engines[f"processes, {most}, one killed"] = Killing(ProcessEngine(most), WORKERS["processes"], n_shards)
    if not given.address:
        engines[f"ray, {most}, one killed"] = Killing(RayEngine("", most), WORKERS["ray"], n_shards)
    print(f"{'| by':<32} | seconds | texts/s | digest |\n| --- | --- | --- | --- |")
    digests = set()
    for name, engine in engines.items():
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            report = EmbeddingStore.open(folder).update(catalog, encoder, config=config, engine=engine)
            seconds = time.perf_counter() - started
            files = sorted(path for path in Path(folder).iterdir() if path.is_file())
            digest = fingerprint(*[path.name for path in files], *files)
            digests.add(digest)
            print(
                f"| {name:<30} | {seconds:.1f} | {report.n_encoded / seconds:,.0f} | {digest} |",
                flush=True,
            )
    return int(len(digests) != 1)


if __name__ == "__main__":
    sys.exit(main())
