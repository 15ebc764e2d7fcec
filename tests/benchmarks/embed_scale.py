"""Whether a store of a million items needs more memory, or more time a text, than one of some thousand.

Texts are made by permuting the fields of the shipped books, or of a parquet file::

    python -m tests.benchmarks.embed_scale --encoder hash --items 1000000
    python -m tests.benchmarks.embed_scale --encoder static --items 1000000 --plot runs/embed-static.png
    python -m tests.benchmarks.embed_scale --encoder minilm --items 100000 --fields title --plot runs/embed-minilm.png

One process makes a small store and then the large one. It prints rates and peaks as a line of a table; the plot shows
memory and rate over time. Memory is what the process holds (resident set) above the arrow table of the catalogue, which
is there before anything starts; both are printed. Where the machine does other things too, texts a second of processor
time tell more than texts a second of wall time.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm_tail.config import EmbeddingConfig, TextConfig
from llm_tail.data.books import load_books
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.engine import Encoded, LocalEngine, TextEncoder
from llm_tail.embedding.store import EmbeddingStore
from llm_tail.embedding.text import ItemText

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


class HashEncoder:
    """An encoder that costs next to nothing: what is measured is the store alone."""

    dim, fingerprint = 256, "hash-256"

    def encode(self, texts: Sequence[str], *, kind: str = "document", batch_tokens: int = 2048) -> np.ndarray:
        """Return pseudo-random unit vectors."""
        digests = b"".join(hashlib.shake_128(text.encode()).digest(self.dim) for text in texts)
        vectors = np.frombuffer(digests, dtype=np.int8).reshape(-1, self.dim).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Clocked(LocalEngine):
    """The engine of this process, which notes when each shard was done, and how many texts by then.

    `times` and `texts` have an entry for the beginning, each shard and the end; `cpu` is the processor time of all.
    """

    def __init__(self) -> None:
        self.times, self.texts, self.cpu = [time.perf_counter()], [0], -time.process_time()

    def encode_shards(
        self, encoder: TextEncoder, shards: Iterable[list[str]], *, batch_tokens: int = 2048
    ) -> Iterator[Encoded]:
        """Yield what becomes of each shard."""
        for encoded in super().encode_shards(encoder, shards, batch_tokens=batch_tokens):
            self.times.append(time.perf_counter())
            self.texts.append(self.texts[-1] + len(encoded.vectors))
            yield encoded


class Sampler(threading.Thread):
    """Notes how much memory the process holds, five times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.held: list[float] = []
        self._stop_now = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self._stop_now.wait(0.2):
            self.times.append(time.perf_counter())
            self.held.append(held_mb())

    def stop(self) -> None:
        """End."""
        self._stop_now.set()
        self.join()

    def between(self, start: float, end: float) -> np.ndarray:
        """Return what was held within a time, in MB."""
        times = np.array(self.times)
        return np.array(self.held)[(times >= start) & (times <= end)]


def held_mb() -> float:
    """Return the resident set of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB


def permuted(n_items: int, source: Catalog, fields: Sequence[str], seed: int) -> Catalog:
    """Return items whose fields come from different items of `source`, and whose titles end in words of another."""
    rng = np.random.default_rng(seed)

    def drawn(name: str) -> pa.Array:
        column = source.table[name]
        if pa.types.is_list(column.type):
            column = pc.binary_join(column, ", ")
        words = column.cast(pa.string()).fill_null("").combine_chunks()
        return words.take(pa.array(rng.integers(len(source), size=n_items)))

    columns = {name: drawn(name) for name in fields}
    columns["title"] = pc.binary_join_element_wise(drawn("title"), drawn("title"), " ")
    ids = pc.binary_join_element_wise("item", pa.array(np.arange(n_items)).cast(pa.string()), "-")
    return Catalog(pa.table({"item_id": ids, **columns}))


def make_encoder(name: str, texts: Sequence[str]) -> TextEncoder:
    """Return the encoder of that name."""
    if name == "hash":
        return HashEncoder()
    from llm_tail.embedding.encoder import Encoder
    from llm_tail.embedding.runtimes import load_runtime

    base = Encoder.load()
    return base if name == "minilm" else load_runtime(base, name, texts)


def measure(catalog: Catalog, encoder: TextEncoder, text: ItemText, config: EmbeddingConfig, folder: Path) -> Clocked:
    """Make a store from nothing."""
    clock = Clocked()
    report = EmbeddingStore.open(folder).update(catalog, encoder, text, config, clock)
    clock.times.append(time.perf_counter())
    clock.texts.append(clock.texts[-1])
    clock.cpu += time.process_time()
    print(f"  {report}")
    return clock


def rate(clock: Clocked, first: int = 0, last: int = -1) -> float:
    """Return texts a second between two shards, by their places; the last place is the end of all."""
    return (clock.texts[last] - clock.texts[first]) / max(clock.times[last] - clock.times[first], 1e-9)


def draw(path: Path, sampler: Sampler, clock: Clocked, table_mb: float, title: str) -> None:
    """Draw memory and rate over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    start, end = clock.times[0], clock.times[-1]
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(8, 5), layout="constrained")
    times = np.array(sampler.times)
    inside = (times >= start) & (times <= end)
    axes[0].plot(times[inside] - start, np.array(sampler.held)[inside], label="held by the process")
    axes[0].axhline(table_mb, color="grey", linestyle=":", label="before it began (catalogue, encoder, libraries)")
    axes[0].set(ylabel="MB", ylim=(0, None), title=title)
    axes[0].legend(loc="lower right")
    at, done = np.array(clock.times[:-1]) - start, np.array(clock.texts[:-1])
    window = max(1, len(at) // 50)
    axes[1].plot(at[window:], (done[window:] - done[:-window]) / (at[window:] - at[:-window]))
    axes[1].set(xlabel="seconds", ylabel="texts/s", ylim=(0, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Make both stores and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=("hash", "static", "tfidf", "minilm", "openvino", "auto"), default="hash")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=0, help="items of the small store; a twentieth if left out")
    parser.add_argument("--source", help="a parquet file with items instead of the shipped books")
    parser.add_argument("--fields", nargs="+", default=["title", "author"])
    parser.add_argument("--storage", choices=("float32", "float16", "int8"), default="float32")
    parser.add_argument("--shard-items", type=int, default=EmbeddingConfig().shard_items)
    parser.add_argument("--folder", help="where the stores go; a temporary folder if left out")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()

    source = Catalog.from_parquet(given.source) if given.source else load_books()[0]
    fields = [name for name in given.fields if name in source.columns]
    text = ItemText(TextConfig(fields=fields))
    config = EmbeddingConfig(storage=given.storage, shard_items=given.shard_items)
    n_small = given.small or max(given.items // 20, 1)
    small, large = (permuted(n, source, fields, seed) for seed, n in enumerate((n_small, given.items)))
    encoder = make_encoder(given.encoder, text.texts(small))
    gc.collect()
    table_mb, before = large.table.nbytes / 1e6, held_mb()
    sampler = Sampler()
    sampler.start()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        clocks = [measure(c, encoder, text, config, Path(folder) / str(len(c))) for c in (small, large)]
    sampler.stop()
    report(given, clocks, sampler, before, table_mb)
    if given.plot:
        draw(given.plot, sampler, clocks[1], before, f"{given.items:,} texts, {given.encoder}")


def report(given: argparse.Namespace, clocks: list[Clocked], sampler: Sampler, before: float, table_mb: float) -> None:
    """Print the line of the table."""
    little, clock = clocks
    held = sampler.between(clock.times[0], clock.times[-1])
    n = len(clock.times) - 2  # shards
    tenth = max(n // 10, 1)
    first, last = rate(clock, 0, tenth), rate(clock, n - tenth, n)
    half = len(held) // 2
    per_cpu = [c.texts[-1] / c.cpu for c in clocks]
    titles = ("encoder", "texts", "texts/s", "of the small run's", "a CPU second", "of the small run's")
    print(f"\n| {' | '.join(titles)} | first, last tenth | peak MB | growth in the 2nd half |")
    print("| --- " * 9 + "|")
    print(
        f"| {given.encoder} | {clock.texts[-1]:,} | {rate(clock):,.0f} | {rate(clock) / rate(little):.1%} | "
        f"{per_cpu[1]:,.0f} | {per_cpu[1] / per_cpu[0]:.1%} | {first:,.0f}, {last:,.0f} | {held.max():,.0f} | "
        f"{held[half:].max() - held[:half].max():+,.0f} MB |"
    )
    print(f"\nBefore it began the process held {before:,.0f} MB, {table_mb:,.0f} of them the catalogue's table.")


if __name__ == "__main__":
    main()
