"""What a catalogue costs to embed, to keep and to search: a table from a formula and a measured rate.

::

    python -m tests.benchmarks.cluster_cost --items 100e6 --tokens 125 --texts-per-s 180 --workers 100 --price 0.05
    python -m tests.benchmarks.cluster_cost --items 100e6 --tokens 125 --mflop-per-token 900 --tflops 200

``llm-tail value CONFIG`` measures texts/s on your texts; the price is that of a worker for an hour.

    FLOPs        = items x tokens x FLOPs a token; about 2 for each parameter outside the word table
    hours        = items / (texts/s x workers) / 3600
    GB           = items x (width x bytes of a number, and 4 for the scale of int8)
    index        = items x (8 x width for vectors, held twice, and 10 x links)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

BYTES = {"float32": (4, 0), "float16": (2, 0), "int8": (1, 4)}  # of a number, and of a vector beside its numbers


def gigabytes(items: float, dim: int, storage: str) -> float:
    """Return the size of stored vectors."""
    number, vector = BYTES[storage]
    return items * (dim * number + vector) / 1e9


def index_gigabytes(items: float, dim: int, links: int) -> float:
    """Return the memory of an approximate index: vectors beside it and in it, twice `links` on the lowest level."""
    return items * (8 * dim + 10 * links) / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=float, default=100e6)
    parser.add_argument("--tokens", type=float, default=125, help="of a text, on average")
    parser.add_argument("--mflop-per-token", type=float, default=21, help="21 for all-MiniLM-L6-v2")
    parser.add_argument("--texts-per-s", type=float, help="of a worker, as measured")
    parser.add_argument("--tflops", type=float, help="of a worker in practice, in place of a measured rate")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--price", type=float, default=0.0, help="of a worker for an hour")
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 128])
    parser.add_argument("--links", type=int, default=16)
    parser.add_argument("--parts", type=int, default=100)
    given = parser.parse_args(arguments)
    flops = given.items * given.tokens * given.mflop_per_token * 1e6
    rate = given.texts_per_s or (given.tflops or 0) * 1e12 / (given.tokens * given.mflop_per_token * 1e6)
    print(f"{given.items:,.0f} items x {given.tokens:g} tokens: {flops / 1e15:,.0f} PFLOP")
    if rate:
        hours = given.items / rate / 3600
        print(f"{rate:,.0f} texts/s a worker: {hours:,.1f} worker-hours, {hours / given.workers:,.1f} hours", end="")
        print(f" with {given.workers:,} workers, {hours * given.price:,.2f} in money")
    print("\n| width | float32 GB | float16 GB | int8 GB | index GB | a part of it |")
    print("| --- | --- | --- | --- | --- | --- |")
    for dim in given.dims:
        stored = " | ".join(f"{gigabytes(given.items, dim, storage):,.1f}" for storage in BYTES)
        index = index_gigabytes(given.items, dim, given.links)
        print(f"| {dim} | {stored} | {index:,.0f} | {index / given.parts:,.1f} |")


if __name__ == "__main__":
    main()
