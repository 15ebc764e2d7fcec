"""How fast one process embeds, by each runtime, beside what users have today: the plain ``SentenceTransformer.encode``.

    python -m tests.benchmarks.runtimes                          # texts made of the shipped books
    python -m tests.benchmarks.runtimes --catalog items.parquet --fields title brand description

Texts of about ``--tokens`` tokens, made of the catalogue's own (the shipped books if none is given) by adding
sentences of other items. Each runtime encodes the same texts, in turns, ``--rounds`` times; what counts is the ratio
of the medians to the default (fp32, batches of 32 texts, cut at the model's own length, as all others are here). The
faster ones encode more texts, so that a round of each takes a quarter of the default's or more; all are warmed up
first. The bf16 rate is that of one large matrix product (``--square``) in the same run; a runtime's share of it counts
two operations for each weight of the blocks and token, and those of attention, without padding. ``static`` and
``tfidf`` learn from other texts than those that they are measured on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

DEFAULT = "default"


@dataclass
class Contestant:
    """One way to encode, and what was measured of it."""

    name: str
    encode: Callable[[list[str]], np.ndarray]
    made_in: float = 0.0
    n_texts: int = 0
    rates: list[float] = field(default_factory=list)
    cosine: float = float("nan")
    note: str = ""

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def main() -> None:
    """Measure all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", help="parquet, csv or jsonl file of items")
    parser.add_argument("--fields", nargs="+", default=["title", "description"])
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--tokens", type=int, default=125, help="aimed-at mean length")
    parser.add_argument("--texts", type=int, default=512, help="texts of a round of the default")
    parser.add_argument("--taught", type=int, default=2048, help="texts that static and tfidf learn from")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--square", type=int, default=4096, help="width of the large matrices")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--only", nargs="+", help="names of the runtimes to measure, beside the default")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch and openvino are loaded

    texts = some_texts(arguments)
    encoder, ways = contestants(arguments, texts)
    measure(ways, texts, arguments.rounds)
    matrix = bf16_rate(arguments.square, arguments.rounds)
    exact = encoder.with_precision("fp32").encode(texts[: arguments.texts])
    for way in ways:
        found = scaled(way.encode(texts[: arguments.texts]))
        way.cosine = float((found * exact).sum(axis=1).mean()) if found.shape == exact.shape else float("nan")
    counts = np.minimum(encoder.token_counts(texts), encoder.max_tokens)
    report(ways, counts, flops_per_token(encoder, counts), matrix, arguments)


def some_texts(arguments: argparse.Namespace) -> list[str]:
    """Return texts to measure on: distinct ones, `taught` more than the fastest needs."""
    from llm_tail.config import TextConfig
    from llm_tail.data.books import load_catalog
    from llm_tail.data.catalog import Catalog
    from llm_tail.embedding.text import ItemText

    random = np.random.default_rng(0)
    if arguments.catalog:
        catalog = Catalog.read(arguments.catalog)
        own = [text for text in ItemText(TextConfig(fields=arguments.fields)).texts(catalog) if text]
    else:
        own = ItemText(TextConfig(fields=["title", "author", "description"])).texts(load_catalog())
    parts = [part for text in own for part in text.split(". ") if part]
    wanted = int(arguments.tokens * 0.74)  # words
    texts = []
    for i in range(40 * arguments.texts):
        words = own[i % len(own)].split()[: int(wanted * random.uniform(0.6, 1.4))]
        least = wanted * random.uniform(0.6, 1.4)
        while len(words) < least:
            words += parts[random.integers(len(parts))].split()
        texts.append(" ".join(words[: int(least) + 1]))
    return texts


def contestants(arguments: argparse.Namespace, texts: list[str]) -> tuple[object, list[Contestant]]:
    """Return the encoder and all ways to run it that are to be had here."""
    import torch
    from sentence_transformers import SentenceTransformer

    from llm_tail.embedding.choosing import choose_runtime
    from llm_tail.embedding.encoder import Encoder
    from llm_tail.embedding.runtimes import PRECISIONS, load_runtime
    from llm_tail.embedding.sources import locate
    from llm_tail.errors import LlmTailError

    torch.set_num_threads(arguments.threads)
    plain = SentenceTransformer(str(locate(arguments.encoder)), local_files_only=True)
    encoder = Encoder.load(arguments.encoder, max_tokens=plain.max_seq_length)
    ways = [Contestant(DEFAULT, lambda some: plain.encode(some, show_progress_bar=False))]
    taught = texts[-arguments.taught :]
    names = [f"{name} {one}".strip() for name, formats in PRECISIONS.items() for one in formats or [""]]
    for name in [*names, "auto"]:
        if arguments.only and name not in arguments.only:
            continue
        runtime, _, precision = name.partition(" ")
        started, note = time.perf_counter(), ""
        say(f"making {name}")
        try:
            if name == "auto":
                choice = choose_runtime(encoder, taught)
                made, note = choice.runtime, f"took {choice.taken} {choice.precision}"
                say(str(choice))
            else:
                made = load_runtime(encoder, runtime, taught, precision=precision or "auto")
        except LlmTailError as error:
            say(f"{name} is left out: {error}")
            continue
        way = Contestant(name, partial(made.encode, batch_tokens=arguments.batch_tokens))
        way.made_in, way.note = time.perf_counter() - started, note
        ways.append(way)
    return encoder, ways


def measure(ways: list[Contestant], texts: list[str], rounds: int) -> None:
    """Let all take turns; the first turn warms up and says how many texts a round of each takes."""
    first = ways[0]
    n_default = len(texts) // 40
    seconds = 0.0
    for way in ways:
        say(f"warming up {way.name}")
        way.encode(texts[:64])
        way.n_texts = n_default
        if way is first:
            started = time.perf_counter()
            way.encode(texts[:n_default])
            seconds = time.perf_counter() - started
            continue
        started = time.perf_counter()
        way.encode(texts[:n_default])
        spent = time.perf_counter() - started
        way.n_texts = int(min(len(texts), max(n_default, n_default * seconds / spent / 4)))
    for number in range(rounds):
        for way in ways:
            started = time.perf_counter()
            way.encode(texts[: way.n_texts])
            way.rates.append(way.n_texts / (time.perf_counter() - started))
        say(f"round {number + 1} of {rounds}")


def bf16_rate(square: int, rounds: int) -> float:
    """Return the operations a second of a large product of bf16 matrices; 0 where the processor has none."""
    import torch

    from llm_tail.embedding.loading import has_fast_bf16

    if not has_fast_bf16(torch.device("cpu")):
        return 0.0
    left, right = (torch.randn(square, square).to(torch.bfloat16) for _ in range(2))
    left @ right
    rates = []
    for _ in range(rounds):
        started = time.perf_counter()
        left @ right
        rates.append(2 * square**3 / (time.perf_counter() - started))
    return statistics.median(rates)


def flops_per_token(encoder: object, counts: np.ndarray) -> float:
    """Return the operations that a token takes: two for each weight of the matrices, four n * width for attention."""
    model = encoder.model[0].auto_model
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    weights = sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.dim() == 2 and id(p) not in embeddings and "embeddings" not in name and "pooler" not in name
    )
    sizes = model.config
    mean_length = float((counts**2).sum() / counts.sum())
    return 2 * weights + 4 * mean_length * sizes.hidden_size * sizes.num_hidden_layers


def report(
    ways: list[Contestant], counts: np.ndarray, flops: float, matrix: float, arguments: argparse.Namespace
) -> None:
    """Print the table."""
    base = ways[0]
    lengths = counts[: arguments.texts]
    print(f"\n{len(lengths):,} texts of {lengths.mean():.0f} tokens on average, {arguments.threads} threads, ", end="")
    print(f"median of {arguments.rounds} rounds in turns; bf16 matrix products: {matrix / 1e9:,.0f} GFLOP/s\n")
    print("| runtime | texts/s | against the default | mean cosine with fp32 | share of the bf16 rate | ready after |")
    print("| --- | --- | --- | --- | --- | --- |")
    for way in ways:
        share = way.rate * float(lengths.mean()) * flops / matrix if matrix else 0.0
        model = way.name.split()[0] in (DEFAULT, "torch", "openvino", "auto")
        cosine = f"{way.cosine:.5f}" if way.cosine == way.cosine and way.name != "tfidf" else ""
        spread = f"{way.rate:,.0f} ({min(way.rates):,.0f} to {max(way.rates):,.0f})"
        name = f"{way.name} ({way.note})" if way.note else way.name
        part, made = f"{share:.0%}" if model else "", f"{way.made_in:.0f} s" if way.made_in else ""
        print(f"| {name} | {spread} | {way.rate / base.rate:,.1f}x | {cosine} | {part} | {made} |")


def scaled(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def say(words: str) -> None:
    """Tell how far it is."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
