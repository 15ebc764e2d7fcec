"""ReadWriteLock: many may read at once, one may write, never both."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Let many threads read at once and one write alone; a waiting writer goes before new readers.

    Not re-entrant: a thread that holds it must not ask for it again.

    Examples
    --------
    >>> lock = ReadWriteLock()
    >>> with lock.read(), lock.read():
    ...     "two readers"
    'two readers'
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._n_readers = 0
        self._n_writers_waiting = 0
        self._writing = False

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the lock beside other readers."""
        with self._free:
            self._free.wait_for(lambda: not (self._writing or self._n_writers_waiting))
            self._n_readers += 1
        try:
            yield
        finally:
            with self._free:
                self._n_readers -= 1
                self._free.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._free:
            self._n_writers_waiting += 1
            try:
                self._free.wait_for(lambda: not (self._writing or self._n_readers))
            finally:
                self._n_writers_waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._free:
                self._writing = False
                self._free.notify_all()
