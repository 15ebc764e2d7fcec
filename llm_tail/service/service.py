"""Service: the run that is served now, what was told since, and how a newer run takes its place.

::

    questions ──> Gate ──> routes ──┬─> ServedRun (index, graph, hybrid, titles; swapped as a whole)
                                    │      └── Stock   (upserted items)
    feedback, items ──> Journal ────┴─> People         (what each person did since)
                       (SQLite)

Whoever asks takes the run at the beginning and keeps it to the end, so that a swap disturbs nobody. What changes the
stock or the people is done by the one thread that writes the journal, in the order of the journal: a restart, which
reads the journal from the beginning, comes to the same state.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from llm_tail.artifacts import fingerprint
from llm_tail.data.catalog import Item
from llm_tail.errors import LlmTailError
from llm_tail.service.exposure import Exposure
from llm_tail.service.journal import Journal, StoredItem
from llm_tail.service.metrics import Metrics
from llm_tail.service.people import People
from llm_tail.service.problems import BusyError
from llm_tail.service.served import ServedRun, check_finished, encode_items, key_of
from llm_tail.service.stock import restored, stored

if TYPE_CHECKING:
    from llm_tail.workspace import Workspace

LOG = logging.getLogger("llm_tail.service")
STATE = "service.sqlite"
GRACE = 30.0  # seconds that a run is kept after another took its place, for those who still ask it
PATIENCE = 2.0  # seconds that an upsert waits for the hybrid to know the new items
MOST_ENCODER_WAITS = 256
T = TypeVar("T")


class Service:
    """All that the routes ask.

    Parameters
    ----------
    workspace : Workspace
        A finished run.
    reopen : callable, optional
        Returns the run as its config file describes it now; the same settings again if left out.

    Raises
    ------
    StaleArtifactError, CorruptArtifactError
        If the run is not finished.
    DataError
        If another service holds the state.
    """

    def __init__(self, workspace: Workspace, reopen: Callable[[], Workspace] | None = None) -> None:
        self.settings = workspace.config.serve
        self._reopen = reopen or (lambda: type(workspace)(workspace.config, workspace.source))
        self.exposure, self.people = Exposure(), People()
        self.newer: str | None = None
        self.run = ServedRun.load(workspace)
        self.journal = Journal(Path(self.settings.state or workspace.folder / STATE))
        for event in self.journal.events():
            self.people.note(event)
        self._restock(self.run, list(self.journal.items()))
        self.run.stock.tell()
        self.metrics = Metrics(lambda: self.run, self.exposure, lambda: self.people.n_events)
        self._pool = ThreadPoolExecutor(self.settings.threads, "answers")
        self._slow = ThreadPoolExecutor(4, "changes")  # upserts and reloads, which wait more than they work
        self._n_waiting = 0
        self._reloading = threading.Lock()
        self._untold, self._stop = threading.Event(), threading.Event()
        self._draw(self.run)
        self._threads = [threading.Thread(target=self._tell_on, name="teller", daemon=True)]
        if self.settings.watch_seconds:
            self._threads.append(threading.Thread(target=self._watch_on, name="watcher", daemon=True))
        for thread in self._threads:
            thread.start()

    # ---- asking

    async def work(self, ask: Callable[[], T]) -> T:
        """Do what computes on one of a few threads; whoever comes when too many wait already is told so."""
        if self._n_waiting >= self.settings.max_waiting + self.settings.threads:
            raise BusyError(f"{self._n_waiting:,} questions wait already; come again in a moment")
        self._n_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, ask)
        finally:
            self._n_waiting -= 1

    async def change(self, do: Callable[[], T]) -> T:
        """Do what takes its time beside the questions."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, do)

    async def vector(self, run: ServedRun, text: str) -> Any:
        """Return the vector of a free text."""
        if run.encoder.n_waiting > MOST_ENCODER_WAITS:
            raise BusyError("too many texts wait for the encoder; come again in a moment")
        return await asyncio.wrap_future(run.encoder.ask(text))

    # ---- being told

    async def note(self, user: str, item_id: str, event: str, when: float | None) -> tuple[int, int]:
        """Keep one event; return its number and how many the person has told, once it is on disk and counts."""
        self.run.check(item_id)
        now = time.time()
        kept = self.journal.add_event(
            user,
            item_id,
            event,
            now if when is None else when,
            now,
            then=lambda stored_event: (stored_event.event_id, self.people.note(stored_event)),
        )
        number, n_events = await asyncio.wrap_future(kept)
        return number, n_events

    def upsert(self, items: Sequence[Item]) -> dict[str, Any]:
        """Keep items and let them be found; return what `UpsertAnswer` tells."""
        items = list({item.item_id: item for item in items}.values())
        n_new = sum(item.item_id not in self.run for item in items)
        placed = False
        while not placed:  # a run that was swapped in meanwhile has an encoder of its own
            run = self.run
            vectors, by, now = encode_items(run, items), run.encoder.runtime.fingerprint, time.time()
            kept = [stored(item, vector, by, now) for item, vector in zip(items, vectors, strict=True)]
            placed = self.journal.put_items(kept, then=self._place).result()
        self._untold.set()
        ids, deadline = [item.item_id for item in items], time.monotonic() + PATIENCE
        while not (scored := self.run.stock.is_told(ids)) and time.monotonic() < deadline and self.run.hybrid:
            time.sleep(0.01)
        silent = [item.item_id for item, vector in zip(items, vectors, strict=True) if not vector.any()]
        return {
            "n_new": n_new,
            "n_changed": len(items) - n_new,
            "searchable": True,
            "scored": scored,
            "without_text": silent,
        }

    def _place(self, kept: list[StoredItem]) -> bool:
        """Let stored items be found; False where their vectors are of another encoder than the run's."""
        run = self.run
        if any(one.encoder != run.encoder.runtime.fingerprint for one in kept):
            return False
        pairs = [restored(one) for one in kept]
        _shelve(run, [item for item, _ in pairs], np.stack([vector for _, vector in pairs]))
        return True

    def _tell_on(self) -> None:
        while self._untold.wait() and not self._stop.is_set():
            self._untold.clear()
            try:
                self.run.stock.tell()
            except Exception:
                LOG.exception("the hybrid could not take in new items; they are found, and not recommended")

    @staticmethod
    def _draw(run: ServedRun) -> None:
        """Let the map be drawn beside the answers; until it is there, a plain one is shown."""

        def work() -> None:
            try:
                run.draw()
            except Exception:
                LOG.exception("the map could not be drawn; a plain one is shown")

        threading.Thread(target=work, name="map", daemon=True).start()

    # ---- a newer run

    def reload(self, *, why: str = "asked") -> dict[str, Any]:
        """Load the run as it lies on disk now, beside the one that is served, then put it in its place.

        Raises
        ------
        LlmTailError
            If what lies there is not finished or damaged; the old run is served on, and `newer` says why.
        """
        started = time.perf_counter()
        with self._reloading:
            try:
                changed = self._take_newer()
                self.newer = None
            except (LlmTailError, OSError) as error:
                self.newer = str(error)
                LOG.warning("the run on disk is not served (%s); the one before is: %s", why, error)
                raise
        seconds = time.perf_counter() - started
        if changed:
            LOG.info("a newer run is served after %.1f s (%s)", seconds, why)
        return {"reloaded": changed, "run": self.run.key, "seconds": round(seconds, 3)}

    def _take_newer(self) -> bool:
        workspace = self._reopen()
        check_finished(workspace)
        if key_of(workspace) == self.run.key:
            return False
        run = ServedRun.load(workspace)
        try:
            self._restock(run, known := list(self.journal.items()))
            run.stock.tell()
            old = self.journal.write(lambda _: None, then=lambda _: self._swap(run, known)).result()
        except BaseException:
            run.close()
            raise
        self._draw(run)
        closing = threading.Timer(GRACE, old.close)
        closing.daemon = True
        closing.start()
        self._untold.set()
        return True

    def _swap(self, run: ServedRun, known: list[StoredItem]) -> ServedRun:
        """Put a run in the place of another, with what came while it was loaded; on the journal's thread."""
        seen = {one.item_id: one.received for one in known}
        self._restock(run, [one for one in self.journal.items() if seen.get(one.item_id) != one.received])
        old, self.run = self.run, run
        return old

    def _restock(self, run: ServedRun, kept: Sequence[StoredItem]) -> None:
        """Give a run the upserted items; those that it has itself by now are its own, unless they changed after it."""
        embedded = _seconds(run.workspace.record.skipped("embed").finished)
        kept = [one for one in kept if one.item_id not in run.row_of or one.received > embedded]
        if not kept:
            return
        pairs = [restored(one) for one in kept]
        by = run.encoder.runtime.fingerprint
        other = [place for place, one in enumerate(kept) if one.encoder != by]
        vectors = [vector for _, vector in pairs]
        for place, vector in zip(other, encode_items(run, [pairs[n][0] for n in other]), strict=True):
            vectors[place] = vector
        _shelve(run, [item for item, _ in pairs], np.stack(vectors))

    def _watch_on(self) -> None:
        path, seen = self.run.workspace.record.path, self._state_on_disk()
        while not self._stop.wait(self.settings.watch_seconds):
            found = self._state_on_disk()
            if found != seen:
                seen = found
                try:
                    self.reload(why=f"{path.name} has changed")
                except Exception as error:  # said at /ready, and tried again when it changes again
                    LOG.debug("not reloaded: %s", error)

    def _state_on_disk(self) -> str:
        path = self.run.workspace.record.path
        try:
            state = path.stat()
        except OSError:
            return ""
        return fingerprint(state.st_mtime_ns, state.st_size, state.st_ino)

    def close(self) -> None:
        """Write what waits and end all threads."""
        self._stop.set()
        self._untold.set()
        for pool in (self._slow, self._pool):
            pool.shutdown(wait=True)
        for thread in self._threads:
            thread.join(timeout=10)
        self.journal.close()
        self.run.close()


def _shelve(run: ServedRun, items: Sequence[Item], vectors: Any) -> None:
    """Let items be found by their vectors and by their words."""
    run.stock.put(items, vectors)
    run.words.add([item.item_id for item in items], [run.text_of(item) for item in items])


def _seconds(local: str) -> float:
    """Return a time of the record as seconds since 1970; 0 where there is none."""
    try:
        return time.mktime(time.strptime(local, "%Y-%m-%d %H:%M:%S")) + 1.0
    except ValueError:
        return 0.0
