"""One process at a time makes results in a folder: two would take each other's drafts for leftovers and remove them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from llm_tail.errors import ConfigError
from llm_tail.progress import is_first_process

LOCK = ".lock"  # held by the system for a process, and let go by it however that process ends


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder of a run for as long as something is made in it.

    Raises
    ------
    ConfigError
        If another process is at work there.
    """
    if not is_first_process():  # the others of a distributed training write nothing
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"another process is at work in {folder}; wait until it has ended, or give this run a folder of its own: "
            "--set folder=..."
        ) from None
    try:
        yield
    finally:
        lock.release()
