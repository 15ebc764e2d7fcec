"""Journal: what the service was told, on disk before it is acknowledged.

One thread writes. Whatever waits while it commits goes into its next commit (group commit), so that a hundred clients
pay for one sync and not for a hundred. With ``synchronous=FULL`` a commit in WAL mode is on disk when it returns:
neither a killed process nor a power cut loses what was acknowledged.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_tail.errors import CorruptArtifactError, DataError

MOST_TOGETHER = 512  # changes in one commit
SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback (
    event_id INTEGER PRIMARY KEY, user TEXT NOT NULL, item_id TEXT NOT NULL, event TEXT NOT NULL, time REAL NOT NULL,
    received REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS items (
    item_id TEXT PRIMARY KEY, record TEXT NOT NULL, vector BLOB NOT NULL, encoder TEXT NOT NULL, received REAL NOT NULL
);
PRAGMA user_version = 1;
"""


@dataclass(frozen=True)
class StoredEvent:
    """One event of feedback, as it lies on disk."""

    event_id: int
    user: str
    item_id: str
    event: str
    time: float


@dataclass(frozen=True)
class StoredItem:
    """One upserted item: `record` is JSON, `vector` little-endian float32, made by the encoder of that fingerprint."""

    item_id: str
    record: str
    vector: bytes
    encoder: str
    received: float


Change = Callable[[sqlite3.Connection], Any]


class Journal:
    """Feedback and upserted items in one SQLite file, held by this process alone.

    Parameters
    ----------
    path : Path
        The file; made if missing.

    Raises
    ------
    DataError
        If another process holds it.
    CorruptArtifactError
        If it is no such file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     journal = Journal(Path(folder) / "state.sqlite")
    ...     number = journal.add_event("ann", "emma", "taken", 0.0, 0.0).result()
    ...     journal.close()
    ...     again = Journal(Path(folder) / "state.sqlite")
    ...     kept = [(event.user, event.item_id) for event in again.events()]
    ...     again.close()
    >>> number, kept
    (1, [('ann', 'emma')])
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _open(path)
        self._waiting: queue.SimpleQueue[tuple[Change, Callable[[Any], Any] | None, Future[Any]] | None]
        self._waiting = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    # ---- writing

    def add_event(
        self,
        user: str,
        item_id: str,
        event: str,
        time: float,
        received: float,
        *,
        then: Callable[[StoredEvent], Any] | None = None,
    ) -> Future[Any]:
        """Keep one event.

        Parameters
        ----------
        user, item_id, event : str
            Who did what.
        time, received : float
            When it happened and when it was told, in seconds since 1970.
        then : callable, optional
            Called with the stored event by the writing thread after the commit, in the order of the events; what it
            returns becomes the result.

        Returns
        -------
        Future
            Of the number of the event, once it is on disk.
        """

        def change(connection: sqlite3.Connection) -> StoredEvent:
            told = connection.execute(
                "INSERT INTO feedback (user, item_id, event, time, received) VALUES (?, ?, ?, ?, ?)",
                (user, item_id, event, time, received),
            )
            return StoredEvent(int(told.lastrowid or 0), user, item_id, event, time)

        return self.write(change, then or (lambda stored: stored.event_id))

    def put_items(
        self, items: list[StoredItem], *, then: Callable[[list[StoredItem]], Any] | None = None
    ) -> Future[Any]:
        """Keep items, each in the place of what had its id; `then` is as in `add_event`."""

        def change(connection: sqlite3.Connection) -> list[StoredItem]:
            connection.executemany(
                "INSERT OR REPLACE INTO items (item_id, record, vector, encoder, received) VALUES (?, ?, ?, ?, ?)",
                [(x.item_id, x.record, x.vector, x.encoder, x.received) for x in items],
            )
            return items

        return self.write(change, then)

    def write(self, change: Change, then: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Let the writing thread do `change`, commit, then call `then` with what it returned."""
        future: Future[Any] = Future()
        if self._closed:
            future.set_exception(DataError("the service is stopping; ask again in a moment"))
        else:
            self._waiting.put((change, then, future))
        return future

    def _write(self) -> None:
        while True:
            first = self._waiting.get()
            if first is None:
                return
            jobs, last = [first], False
            while len(jobs) < MOST_TOGETHER and not self._waiting.empty():
                job = self._waiting.get()
                if job is None:
                    last = True
                    break
                jobs.append(job)
            self._commit(jobs)
            if last:
                return

    def _commit(self, jobs: list[tuple[Change, Callable[[Any], Any] | None, Future[Any]]]) -> None:
        results = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = [change(self._connection) for change, _, _ in jobs]
            self._connection.execute("COMMIT")
        except Exception as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            for _, _, future in jobs:
                future.set_exception(error)
            return
        for (_, then, future), result in zip(jobs, results, strict=True):
            try:
                future.set_result(result if then is None else then(result))
            except Exception as error:
                future.set_exception(error)

    # ---- reading

    def events(self) -> Iterator[StoredEvent]:
        """Yield all events in the order in which they were kept."""
        for row in self._read("SELECT event_id, user, item_id, event, time FROM feedback ORDER BY event_id"):
            yield StoredEvent(*row)

    def items(self) -> Iterator[StoredItem]:
        """Yield all items in the order in which they were last kept."""
        for row in self._read("SELECT item_id, record, vector, encoder, received FROM items ORDER BY received, rowid"):
            yield StoredItem(*row)

    def _read(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask on the thread that owns the connection; on it already where a change asks."""
        if threading.current_thread() is self._writer:
            return self._connection.execute(statement).fetchall()
        rows: list[tuple[Any, ...]] = self.write(lambda connection: connection.execute(statement).fetchall()).result()
        return rows

    def close(self) -> None:
        """Write what waits, then give the file free."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
            self._writer.join()
            self._connection.close()


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        # Exclusive, so that a second service is told at once and does not answer from half of what was said.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(SCHEMA)
    except sqlite3.OperationalError as error:
        connection.close()
        if "locked" in str(error):
            raise DataError(
                f"{path} is held by another service; stop that one, or name another file: --set serve.state=FILE"
            ) from None
        raise DataError(f"{path} cannot be opened ({error}); name another file: --set serve.state=FILE") from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise CorruptArtifactError(
            f"{path} holds no state of a service ({error})", "move it away, or name another: --set serve.state=FILE"
        ) from error
    return connection
