"""QueryEncoder: texts of many askers through one encoder, one batch after the other.

An encoder is fastest when it is alone. So one thread holds it: it takes what waits, up to a batch, questions before
the texts of new items, and so nobody waits longer than two batches for a turn. A text that was asked for before is
answered from memory.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import OrderedDict, deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from llm_tail.errors import DataError

if TYPE_CHECKING:
    from llm_tail.embedding.runtimes import Kind, Runtime

Vectors = NDArray[np.float32]
BATCH = {"query": 32, "document": 8}  # texts encoded at once: long ones must not keep questions waiting
TURN = {"query": 0, "document": 1}
LAST = 2
RECENT = 1000


class QueryEncoder:
    """One encoder behind a queue, with a memory of what it was asked.

    Parameters
    ----------
    runtime : Runtime
        What turns texts into vectors.
    cache : int
        Queries whose vectors are kept.

    Attributes
    ----------
    recent : deque of arrays
        Vectors of the last queries, oldest first, at most 1,000.
    """

    def __init__(self, runtime: Runtime, cache: int = 4096) -> None:
        self.runtime, self._most = runtime, cache
        self._known: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()
        self.recent: deque[Vectors] = deque(maxlen=RECENT)
        self.n_asked = self.n_known = 0
        self._numbers = itertools.count()
        self._waiting: queue.PriorityQueue[tuple[int, int, Kind, list[str], Future[Vectors] | None]]
        self._waiting = queue.PriorityQueue()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._worker.start()

    def ask(self, text: str) -> Future[Vectors]:
        """Return the future vector of one query, shape (dim,)."""
        words, answer = " ".join(text.split()), Future[Vectors]()
        self.n_asked += 1
        with self._lock:
            found = self._known.get(words)
            if found is not None:
                self._known.move_to_end(words)
        if found is not None:
            self.n_known += 1
            self.recent.append(found)
            answer.set_result(found)
            return answer

        def keep(encoded: Future[Vectors]) -> None:
            if error := encoded.exception():
                answer.set_exception(error)
                return
            vector = encoded.result()[0]
            with self._lock:
                self._known[words] = vector
                while len(self._known) > self._most:
                    self._known.popitem(last=False)
            self.recent.append(vector)
            answer.set_result(vector)

        self._submit("query", [words]).add_done_callback(keep)
        return answer

    @property
    def n_waiting(self) -> int:
        """How many pieces of work wait for the encoder."""
        return self._waiting.qsize()

    def documents(self, texts: list[str]) -> Vectors:
        """Return the vectors of texts of items, shape (n_texts, dim), in pieces that let questions through between."""
        if not texts:
            return np.zeros((0, self.runtime.dim), dtype=np.float32)
        step = BATCH["document"]
        parts = [self._submit("document", texts[start : start + step]) for start in range(0, len(texts), step)]
        return np.concatenate([part.result() for part in parts])

    def close(self) -> None:
        """End the thread after what waits."""
        if not self._closed:
            self._closed = True
            self._waiting.put((LAST, next(self._numbers), "query", [], None))
            self._worker.join()

    def _submit(self, kind: Kind, texts: list[str]) -> Future[Vectors]:
        future: Future[Vectors] = Future()
        if self._closed:
            future.set_exception(DataError("this run is no longer served; ask again"))
        else:
            self._waiting.put((TURN[kind], next(self._numbers), kind, texts, future))
        return future

    def _work(self) -> None:
        with threadpool_limits(limits=1):  # several threads on one short text wait for each other
            while True:
                _, _, kind, texts, future = self._waiting.get()
                if future is None:
                    return
                jobs = [(texts, future)]
                while len(jobs) < BATCH[kind] and kind == "query" and not self._waiting.empty():
                    job = self._waiting.get()
                    if job[2] != kind or job[4] is None:
                        self._waiting.put(job)
                        break
                    jobs.append((job[3], job[4]))
                self._encode(kind, jobs)

    def _encode(self, kind: Kind, jobs: list[tuple[list[str], Future[Vectors]]]) -> None:
        texts = [text for asked, _ in jobs for text in asked]
        try:
            vectors = np.asarray(self.runtime.encode(texts, kind=kind), dtype=np.float32)
        except Exception as error:
            for _, future in jobs:
                future.set_exception(error)
            return
        start = 0
        for asked, future in jobs:
            future.set_result(vectors[start : start + len(asked)])
            start += len(asked)
