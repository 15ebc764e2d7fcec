"""How fast the service answers under a load that does not wait for it, and whether its memory stays where it is.

    python -m tests.benchmarks.service                        # 60,000 made items, 30 s a load
    python -m tests.benchmarks.service --minutes 10           # and a soak of 10 minutes at 150 questions a second
    python -m tests.benchmarks.service --n 3000 --seconds 5   # to try it

The server is uvicorn in a process of its own, the load comes from this one: questions are sent at their times, however
many are still under way, and the time of each runs from when it was due (an open loop: a server that falls behind is
seen to). Free texts are new every time and read by MiniLM; their vectors find made ones, which moves no time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np

import llm_tail as lt

WORDS = """
copper steel wooden small large red blue kettle lamp valve garden bread knife star atlas violin string hose pump filter
bolt nut washer table chair cover screen light quiet warm cold sharp soft heavy for kitchen office winter
""".split()  # noqa: SIM905
DIM, TOPICS = 384, 200


def main() -> None:
    """Start a server, load it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=60_000, help="items")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument("--similar-rate", type=float, default=300.0)
    parser.add_argument("--search-rate", type=float, default=30.0)
    parser.add_argument("--how", default="both", help="of free texts: vectors, words or both")
    parser.add_argument("--minutes", type=float, default=0.0, help="of the soak; 0 for none")
    parser.add_argument("--soak-rate", type=float, default=150.0)
    parser.add_argument("--folder", type=Path, help="keeps the made run for the next time")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)) / f"items-{arguments.n}"
        if arguments.serve:
            serve(folder, arguments.n, arguments.serve)
            return
        make(folder, arguments.n)
        with Running(folder, arguments.n) as server:
            print(f"{arguments.n:,} items; ready in {server.ready:.1f} s, {server.rss():,.0f} MB\n")
            print("| load | asked | failed | median ms | p95 ms | p99 ms | longest ms |\n|" + " --- |" * 7)
            rng = random.Random(0)
            load("warm-up", server, similar(rng, arguments.n), 50, 3)
            load("similar", server, similar(rng, arguments.n), arguments.similar_rate, arguments.seconds)
            load("search", server, search(rng, arguments.how), arguments.search_rate, arguments.seconds)
            if arguments.minutes:
                soak(server, rng, arguments.n, arguments.soak_rate, 60 * arguments.minutes)


# ---- what is asked


def similar(rng: random.Random, n: int) -> Callable[[], bytes]:
    """Return what makes questions for the neighbours of an item."""
    return lambda: get(f"/items/i{rng.randrange(n)}/similar?k=10")


def search(rng: random.Random, how: str = "both") -> Callable[[], bytes]:
    """Return what makes questions in words, each another."""
    return lambda: get(f"/search?how={how}&k=10&q={quote(' '.join(rng.choices(WORDS, k=6)))}%20{rng.randrange(10**6)}")


def mixed(rng: random.Random, n: int) -> Callable[[], bytes]:
    """Return what makes questions of all kinds, in the shares of a shop's day."""

    def told() -> bytes:
        body = json.dumps({"user": f"u{rng.randrange(5000)}", "item_id": f"i{rng.randrange(n)}", "event": "viewed"})
        return post("/feedback", body)

    kinds = {
        similar(rng, n): 60,
        search(rng): 8,
        lambda: get(f"/suggest?q={rng.choice(WORDS)[:3]}"): 12,
        lambda: get(f"/items/i{rng.randrange(n)}"): 10,
        lambda: get(f"/items/i{rng.randrange(n)}/similar?where=color%20%3D%20c{rng.randrange(5)}"): 5,
        told: 5,
    }
    return lambda: rng.choices(list(kinds), list(kinds.values()))[0]()


def get(path: str) -> bytes:
    """Return a question as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: str) -> bytes:
    """Return a question with a body."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n{body}".encode()


# ---- how it is asked


def load(name: str, server: Running, make_one: Callable[[], bytes], rate: float, seconds: float) -> None:
    """Ask at a rate for some time and print a line."""
    times, failed = asyncio.run(ask(server.port, make_one, rate, seconds))
    cuts = [*np.percentile(times, [50, 95, 99]), times.max()] if len(times) else [np.nan] * 4
    figures = " | ".join(f"{1000 * cut:.1f}" for cut in cuts)
    print(f"| {name}, {rate:g} a second | {len(times) + failed:,} | {failed} | {figures} |", flush=True)


async def ask(
    port: int, make_one: Callable[[], bytes], rate: float, seconds: float
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], int]:
    """Send questions at their times; return the seconds of those that were answered with 200, and how many were not."""
    idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
    times: list[float] = []
    failed = 0

    async def one(due: float, question: bytes) -> None:
        nonlocal failed
        try:
            while idle and idle[0][0].at_eof():  # the server closes what has waited for some seconds
                idle.popleft()
            reader, writer = idle.popleft() if idle else await asyncio.open_connection("127.0.0.1", port)
            writer.write(question)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
        except (OSError, asyncio.IncompleteReadError):
            failed += 1
            return
        idle.append((reader, writer))
        if head.startswith(b"HTTP/1.1 200"):
            times.append(time.perf_counter() - due)
        else:
            failed += 1

    started, waiting = time.perf_counter(), set()
    for number in range(int(rate * seconds)):
        due = started + number / rate
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(due, make_one()))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    for _, writer in idle:
        writer.close()
    return np.array(times), failed


def soak(server: Running, rng: random.Random, n: int, rate: float, seconds: float) -> None:
    """Ask all kinds of questions for long, and print the memory of the first minute and of the last."""
    part = min(60.0, seconds / 3)
    memory: list[tuple[float, float]] = []
    started = time.perf_counter()

    async def watch() -> None:
        while time.perf_counter() - started < seconds:
            memory.append((time.perf_counter() - started, server.rss()))
            await asyncio.sleep(1)

    async def both() -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], int]:
        watching = asyncio.create_task(watch())
        answer = await ask(server.port, mixed(rng, n), rate, seconds)
        await watching
        return answer

    times, failed = asyncio.run(both())
    figures = " | ".join(f"{1000 * cut:.1f}" for cut in [*np.percentile(times, [50, 95, 99]), times.max()])
    print(f"| soak, {rate:g} a second | {len(times) + failed:,} | {failed} | {figures} |", flush=True)
    first = np.mean([mb for at, mb in memory if at < part])
    last = np.mean([mb for at, mb in memory if at > seconds - part])
    print(f"\nmemory: {first:,.0f} MB in the first {part:.0f} s, {last:,.0f} MB in the last ({last / first - 1:+.1%})")


# ---- what is asked of


def make(folder: Path, n: int) -> None:
    """Make a run of n items: words, vectors that lie in clouds, an index, words beside it, a graph."""
    from llm_tail.neighbors.words import WordIndex

    if (folder / "graph" / "manifest.json").is_file():
        return
    started = time.perf_counter()
    rng = np.random.default_rng(0)
    titles = [" ".join(words) for words in rng.choice(WORDS, (n, 5))]
    colors = [f"c{x}" for x in rng.integers(0, 5, n)]
    rows = [{"item_id": f"i{x}", "title": titles[x], "description": titles[-x], "color": colors[x]} for x in range(n)]
    catalog = lt.Catalog.from_items(rows)
    catalog.save(folder / "items.parquet")
    topics = rng.standard_normal((TOPICS, DIM)).astype(np.float32)
    vectors = topics[rng.integers(0, TOPICS, n)] + 1.2 * rng.standard_normal((n, DIM)).astype(np.float32)
    index = lt.NeighborIndex.build(lt.Embeddings(catalog.ids, vectors), n_threads=-1)
    index.save(folder / "index")
    WordIndex.build(catalog.ids, lt.ItemText().texts(catalog)).save(folder / "words", fingerprint="made")
    lt.ItemGraph.build(catalog, index=index).save(folder / "graph")
    print(f"made in {time.perf_counter() - started:.0f} s: {index}", flush=True)


def open_made(folder: Path, n: int) -> lt.Workspace:
    """Open the made run."""
    from llm_tail.config import DEFAULT_ENCODER, RunConfig
    from llm_tail.neighbors.words import WordIndex

    class Made(lt.Workspace):
        """A run whose parts are given and count as finished."""

        def fingerprint(self, stage: str) -> str:
            return "made"

        def _made(self, stage: str) -> Path:
            return self.folder

    settings = {"rate": 0, "watch_seconds": 0}
    data, encoder = {"catalog": str(folder / "items.parquet")}, {"name": DEFAULT_ENCODER}
    workspace = Made(RunConfig(folder=str(folder), data=data, encoder=encoder, serve=settings))
    workspace.record.end("stages", "embed", "made", folder, 0.0)
    index = lt.NeighborIndex.load(folder / "index")
    places = {"xy": index.vectors[:, :2], "community": np.full(n, -1), "names": (), "kind": "made"}
    workspace.__dict__ |= {
        "index": index,
        "words": WordIndex.load(folder / "words", "made"),
        "graph": lt.ItemGraph.load(folder / "graph"),
        "embeddings": lt.Embeddings(index.ids, index.vectors),
        "runtime": lt.Encoder.load(config=workspace.config.encoder),
        "map": SimpleNamespace(**places),
    }
    return workspace


def serve(folder: Path, n: int, port: int) -> None:
    """Serve the made run; this is the other process."""
    import uvicorn

    from llm_tail.cli.serve import SWITCH_INTERVAL
    from llm_tail.service import create_app

    sys.setswitchinterval(SWITCH_INTERVAL)
    app = create_app(open_made(folder, n))
    uvicorn.run(app, port=port, log_level="warning", access_log=False, ws="none")


class Running:
    """A server in a process of its own; its thread of answers and this process share what cores there are."""

    def __init__(self, folder: Path, n: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        asked = ["-m", "tests.benchmarks.service", "--folder", folder.parent, "--n", n, "--serve", self.port]
        started = time.perf_counter()
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, *map(str, asked)], env=env)
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                time.sleep(0.05)
        self.ready = time.perf_counter() - started

    def rss(self) -> float:
        """Return the memory of the server in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1000

    def __enter__(self) -> Running:
        if self.process.poll() is not None:
            raise SystemExit("the server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


if __name__ == "__main__":
    main()
