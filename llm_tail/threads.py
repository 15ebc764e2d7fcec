"""Arithmetic in blocks of rows, several at a time: numpy and scipy let go of the interpreter while they compute."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def n_cores() -> int:
    """Return how many processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def n_threads() -> int:
    """Return how many threads compute at a time: one for each core, or as few as ``OMP_NUM_THREADS`` says."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return min(n_cores(), int(said)) if said.isdecimal() and int(said) else n_cores()


def in_blocks(work: Callable[[slice], None], n_rows: int, size: int) -> None:
    """Do `work` for each block of rows, in several threads where there are several blocks.

    Parameters
    ----------
    work : callable
        Takes a slice of rows and writes what comes of it into places of its own: the result is then the same for any
        number of threads. What it raises is raised here.
    n_rows : int
        Of all blocks together.
    size : int
        Rows of a block; as many as stay in the cache.

    Examples
    --------
    >>> squares = [0] * 5
    >>> def square(rows):
    ...     squares[rows] = [n * n for n in range(*rows.indices(5))]
    >>> in_blocks(square, 5, size=2)
    >>> squares
    [0, 1, 4, 9, 16]
    """
    blocks = [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]
    threads = min(n_threads(), len(blocks))
    if threads <= 1:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(threads, "blocks") as pool:
        for _ in pool.map(work, blocks):
            pass
