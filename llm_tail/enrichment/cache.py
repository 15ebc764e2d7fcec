"""AnswerCache: every answer that was ever paid for, in one SQLite file; a killed run goes on from it.

::

    answers.sqlite
    ├── answers     one row a question: state, what came back, tokens, why it was set aside
    └── decisions   what a person made of it: accept, reject, edit, ask again

    open ── sent ──┬── kept            checked and fit to be used
                   ├── bad             broke form or content once; will be asked again with the complaint, and is
                   │                   ``mending`` while that is under way
                   ├── aside           the same after that; waits for a review
                   └── failed          the server's fault, or its silence; the next run asks again

A row is ``sent`` before its request leaves (written ahead), so that a run that was killed knows what may have been paid
for; such a request is sent again under the same idempotency key. Write-ahead log, one commit a change: a kill loses
nothing, a power cut may lose the last moments. One process asks at a time; its lock ends with it, however that ends.
"""

from __future__ import annotations

import json
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from llm_tail.artifacts import fingerprint
from llm_tail.enrichment.backends import Reply, Request
from llm_tail.errors import DataError, UnfinishedError

VERSION = 1
MIGRATIONS: dict[int, str] = {}  # version to the statements that make the next one of it
NAME = "answers.sqlite"
State = Literal["sent", "kept", "bad", "mending", "aside", "failed"]
Verdict = Literal["accept", "reject", "edit", "ask-again"]

_TABLES = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, subject TEXT NOT NULL, task TEXT NOT NULL, prompt TEXT NOT NULL, model TEXT NOT NULL,
    state TEXT NOT NULL, text TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
    borrowed TEXT NOT NULL DEFAULT '[]', n_asked INTEGER NOT NULL DEFAULT 0,
    tokens_in INTEGER NOT NULL DEFAULT 0, tokens_out INTEGER NOT NULL DEFAULT 0, money REAL NOT NULL DEFAULT 0,
    changed REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX answers_by_subject ON answers (subject, task);
CREATE TABLE decisions (key TEXT PRIMARY KEY, verdict TEXT NOT NULL, text TEXT NOT NULL DEFAULT '',
                        changed REAL NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Kept:
    """One row of the cache.

    Parameters
    ----------
    key, subject, task, prompt, model : str
        What was asked, of whom, about what.
    state : {"sent", "kept", "bad", "mending", "aside", "failed"}
        See the module.
    text, reason : str
        What came back last, and what is wrong with it.
    borrowed : tuple of str
        Items whose words went into it.
    n_asked : int
        How often it was asked.
    tokens_in, tokens_out : int
        Paid for in all.
    money : float
        What that cost.
    verdict : str
        What a person decided; empty where nobody has.
    edited : str
        The answer that a person wrote instead.
    """

    key: str
    subject: str
    task: str
    prompt: str
    model: str
    state: State
    text: str
    reason: str
    borrowed: tuple[str, ...]
    n_asked: int
    tokens_in: int
    tokens_out: int
    money: float
    verdict: str = ""
    edited: str = ""


@dataclass(frozen=True)
class Spent:
    """Tokens and money of all answers so far."""

    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0
    n_answers: int = 0

    @property
    def tokens(self) -> int:
        """Both ways together."""
        return self.tokens_in + self.tokens_out


class AnswerCache:
    """The answers of one run folder.

    Parameters
    ----------
    folder : path
        Made if missing. A cache of an older version is brought up to date; one of another kind or a newer version, or
        a damaged file, is set aside by renaming, never deleted.

    Examples
    --------
    >>> import tempfile
    >>> question = Request(key="k", task="summary", subject="emma", domain="books", language="en", fields={})
    >>> with tempfile.TemporaryDirectory() as folder, AnswerCache(folder) as cache:
    ...     cache.sent(question, prompt="summary.en@1", model="m")
    ...     cache.answered(Reply("k", "{}", tokens_in=90, tokens_out=2), "bad", "the answer is empty")
    ...     cache.get("k").state, cache.spent().tokens
    ('bad', 92)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / NAME
        self._lock: sqlite3.Connection | None = None
        self._db = self._opened()

    def _opened(self) -> sqlite3.Connection:
        for attempt in range(2):
            db = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            try:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=NORMAL")
                if self._brought_up_to_date(db):
                    return db
                why = f"is of version {db.execute('PRAGMA user_version').fetchone()[0]}, expected {VERSION}"
            except sqlite3.OperationalError:
                db.close()
                raise
            except sqlite3.DatabaseError as error:
                why = f"cannot be read ({error})"
            db.close()
            if attempt == 0:
                self._set_aside(why)
        raise DataError(f"{self.path} cannot be opened as a cache of answers; is the folder writable?")

    def _brought_up_to_date(self, db: sqlite3.Connection) -> bool:
        """Make the tables, or change those of an older version; False where that is not known how."""
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        there = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and not there:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
            return True
        while version < VERSION and version in MIGRATIONS:
            db.executescript(f"BEGIN; {MIGRATIONS[version]} PRAGMA user_version = {version + 1}; COMMIT;")
            version += 1
        return version == VERSION and {"answers", "decisions"} <= {
            row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }

    def _set_aside(self, why: str) -> None:
        number = 1
        while (other := self.path.with_name(f"{NAME}.{number}.old")).exists():
            number += 1
        for suffix in ("", "-wal", "-shm"):
            source = self.path.with_name(NAME + suffix)
            if source.exists():
                source.rename(other.with_name(other.name + suffix))
        warnings.warn(f"{self.path} {why}; it was renamed to {other.name} and a new cache is begun", stacklevel=4)

    # ---- who writes

    def lock(self) -> None:
        """Let no other process ask in this folder until this one ends or `close` is called.

        Raises
        ------
        UnfinishedError
            If another process is asking.
        """
        if self._lock is not None:
            return
        lock = sqlite3.connect(self.folder / "asking.lock", isolation_level=None, timeout=0)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            lock.close()
            raise UnfinishedError(
                f"another process is enriching in {self.folder}; wait for it, so that nothing is paid for twice"
            ) from None
        self._lock = lock

    def sent(self, request: Request, *, prompt: str, model: str, mends: bool = False) -> None:
        """Write down that a request is about to leave; before it does. What it is to mend stays."""
        self._db.execute(
            "INSERT INTO answers (key, subject, task, prompt, model, state, n_asked, changed) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET state = excluded.state, "
            "n_asked = excluded.n_asked, changed = excluded.changed",
            (
                request.key,
                request.subject,
                request.task,
                prompt,
                model,
                "mending" if mends else "sent",
                request.attempt,
                time.time(),
            ),
        )

    def answered(self, reply: Reply, state: State, reason: str = "", money: float = 0.0) -> None:
        """Keep a reply, what became of it, and what it cost; costs of one question add up."""
        self._db.execute(
            "UPDATE answers SET state = ?, text = CASE WHEN ? THEN text ELSE ? END, reason = ?, borrowed = ?, "
            "tokens_in = tokens_in + ?, tokens_out = tokens_out + ?, money = money + ?, changed = ? WHERE key = ?",
            (
                state,
                bool(reply.error),  # what came before stays where nothing came now
                reply.text,
                reason or reply.error,
                json.dumps(reply.borrowed),
                reply.tokens_in,
                reply.tokens_out,
                money,
                time.time(),
                reply.key,
            ),
        )

    def judge(self, key: str, state: State, reason: str = "") -> None:
        """Change what is thought of an answer that is already there."""
        self._db.execute("UPDATE answers SET state = ?, reason = ? WHERE key = ?", (state, reason, key))

    def decide(self, key: str, verdict: Verdict, text: str = "") -> None:
        """Keep what a person decided; it wins over every check, in this run and in later ones."""
        self._db.execute(
            "INSERT OR REPLACE INTO decisions (key, verdict, text, changed) VALUES (?, ?, ?, ?)",
            (key, verdict, text, time.time()),
        )

    def undecide(self, key: str) -> None:
        """Forget what a person decided."""
        self._db.execute("DELETE FROM decisions WHERE key = ?", (key,))

    # ---- who reads

    def get(self, key: str) -> Kept | None:
        """Return the row of a key; None where it was never asked."""
        return next(self._rows("answers.key = ?", (key,)), None)

    def find(
        self, *, state: State | None = None, subject: str | None = None, task: str | None = None
    ) -> Iterator[Kept]:
        """Yield the rows of a state, an item, a task, in order of item and task."""
        given = {"state": state, "subject": subject, "task": task}
        wanted = {name: value for name, value in given.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in wanted) or "1"
        return self._rows(where, tuple(wanted.values()))

    def _rows(self, where: str, values: Iterable[Any]) -> Iterator[Kept]:
        names = [field.name for field in fields(Kept)][:-2]
        columns = ", ".join(f"answers.{name}" for name in names)
        query = (  # `where` names columns of ours; what comes from outside is bound
            f"SELECT {columns}, decisions.verdict, decisions.text FROM answers "  # noqa: S608
            f"LEFT JOIN decisions USING (key) WHERE {where} ORDER BY answers.subject, answers.task, answers.key"
        )
        for row in self._db.execute(query, tuple(values)):
            values_ = dict(zip([*names, "verdict", "edited"], row, strict=True))
            values_ |= {"borrowed": tuple(json.loads(values_["borrowed"])), "verdict": values_["verdict"] or ""}
            yield Kept(**{**values_, "edited": values_["edited"] or ""})

    def counts(self) -> Mapping[str, int]:
        """Return how many rows there are of each state."""
        return dict(self._db.execute("SELECT state, count(*) FROM answers GROUP BY state"))

    def spent(self) -> Spent:
        """Return what all answers have cost, those of stopped runs included."""
        row = self._db.execute(
            "SELECT coalesce(sum(tokens_in), 0), coalesce(sum(tokens_out), 0), coalesce(sum(money), 0), "
            "count(*) FILTER (WHERE tokens_in + tokens_out > 0) FROM answers"
        ).fetchone()
        return Spent(*row)

    def decisions_key(self) -> str:
        """Return a digest of all decisions; the same where nobody has decided anything."""
        return fingerprint(list(self._db.execute("SELECT key, verdict, text FROM decisions ORDER BY key")))

    def close(self) -> None:
        """Close the file and let others ask."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        told = ", ".join(f"{state}: {n:,}" for state, n in sorted(self.counts().items()))
        return f"AnswerCache({told or 'empty'})"


def decisions_key(folder: str | Path) -> str:
    """Return `AnswerCache.decisions_key` of a folder without making or changing anything there."""
    path = Path(folder) / NAME
    if not path.is_file():
        return fingerprint([])
    try:
        with closing(sqlite3.connect(f"file:{path.resolve().as_posix()}?mode=ro", uri=True)) as db:
            return fingerprint(list(db.execute("SELECT key, verdict, text FROM decisions ORDER BY key")))
    except sqlite3.Error:
        return fingerprint([])  # another version or a damaged file: it will be set aside when it is opened
