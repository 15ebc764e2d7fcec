"""ProcessEngine: the workers of one machine, one for each GPU or for some cores; no cluster, no guard in the script."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_tail.embedding.engine import Encoded, TextEncoder, encode_shard
from llm_tail.embedding.parcel import pack
from llm_tail.embedding.worker import (
    ERROR,
    TEXTS,
    error_from_bytes,
    receive,
    result_from_bytes,
    send,
    texts_to_bytes,
)
from llm_tail.errors import ConfigError, WorkerError
from llm_tail.threads import n_cores

AHEAD = 2  # shards for each worker: one that it works on, one that waits


@dataclass(frozen=True)
class ProcessEngine:
    """Several processes of this machine, each with the encoder on its own GPU or its own threads.

    The processes are started anew and import nothing of the calling script, so that it needs no
    ``if __name__ == "__main__"``. A shard goes through one of them as a whole: the vectors do not depend on how many
    there are. One that dies is replaced, and its shards are given out again.

    Parameters
    ----------
    workers : int
        How many processes; 0 is one for each GPU, or for each `threads` cores where there is no GPU.
    gpus_per_worker : float, optional
        GPUs of each: 0.5 puts two on one, 0 leaves them alone; 1 where there are any if not given.
    threads : int
        Processor threads of each.
    retries : int
        How often a shard is given out again after its worker died.

    Notes
    -----
    Memory: an encoder for each worker, and two shards for each. A start takes a few seconds and is left out as long as
    no shard has texts.
    """

    workers: int = 0
    gpus_per_worker: float | None = None
    threads: int = 1
    retries: int = 3

    def encode_shards(
        self, encoder: TextEncoder, shards: Iterable[list[str]], *, batch_tokens: int = 2048
    ) -> Iterator[Encoded]:
        """Yield what becomes of each shard's texts, in order.

        Parameters
        ----------
        encoder : TextEncoder
            What every worker makes vectors with; see `llm_tail.embedding.parcel.pack` for those that can travel.
        shards : iterable of list of str
            Taken from two for each worker ahead of the results; a list may be empty.
        batch_tokens : int
            Padded tokens in one batch.

        Raises
        ------
        WorkerError
            If a shard's worker died more than `retries` times after the first, or something unforeseen happened in one.
        ConfigError
            If there are fewer GPUs than asked for, or the encoder cannot be sent to another process.
        """
        nothing = encode_shard(encoder, [], batch_tokens)
        source = iter(shards)
        with tempfile.TemporaryDirectory(prefix="llm-tail-") as folder:
            pool = _Pool(self, encoder, Path(folder) / "encoder", batch_tokens)
            try:
                waiting: deque[int | None] = deque()  # a number for each shard that has texts
                ended = False
                while True:
                    while not ended and len(waiting) < AHEAD * pool.size:
                        texts = next(source, None)
                        ended = texts is None
                        if texts is not None:
                            waiting.append(pool.give(texts) if texts else None)
                    if not waiting:
                        return
                    number = waiting.popleft()
                    yield nothing if number is None else pool.take(number)
            finally:
                pool.close()


class _Pool:
    """The processes, what each has to do, and what they have done."""

    def __init__(self, engine: ProcessEngine, encoder: TextEncoder, folder: Path, batch_tokens: int) -> None:
        self.retries, self.encoder, self.folder, self.batch_tokens = engine.retries, encoder, folder, batch_tokens
        self.places = places(engine.workers, engine.gpus_per_worker, engine.threads)
        self.size = len(self.places)
        self.workers: list[_Worker] = []
        self.inbox: queue.SimpleQueue[tuple[_Worker, tuple[bytes, bytes] | None]] = queue.SimpleQueue()
        self.texts: dict[int, list[str]] = {}
        self.done: dict[int, Encoded] = {}
        self.deaths: Counter[int] = Counter()
        self.n_given = 0

    def give(self, texts: list[str]) -> int:
        """Hand a shard to a worker and return its number; workers are started as they are needed."""
        if not self.folder.exists():
            pack(self.encoder, self.folder, here=True)
        number = self.n_given
        self.n_given += 1
        self.texts[number] = texts
        self._assign(number)
        return number

    def take(self, number: int) -> Encoded:
        """Wait for a shard and return what became of it."""
        while number not in self.done:
            worker, message = self.inbox.get()
            if worker not in self.workers:
                continue  # its death is known
            if message is None:
                self._replace(worker)
            elif message[0] == ERROR:
                raise error_from_bytes(message[1])
            else:
                finished = worker.shards.popleft()
                self.done[finished] = result_from_bytes(message[1])
                del self.texts[finished]
        return self.done.pop(number)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.workers = []

    def _assign(self, number: int) -> None:
        worker = min(self.workers, key=lambda w: len(w.shards), default=None)
        if worker is None or (worker.shards and len(self.workers) < self.size):
            taken = {w.place for w in self.workers}
            place = next(place for place in range(self.size) if place not in taken)
            worker = _Worker(place, self.places[place], self.folder, self.batch_tokens, self.inbox)
            self.workers.append(worker)
        worker.shards.append(number)
        worker.send(self.texts[number])

    def _replace(self, worker: _Worker) -> None:
        status = worker.kill()
        self.workers.remove(worker)
        if worker.shards:
            suspect = worker.shards[0]
            self.deaths[suspect] += 1
            if self.deaths[suspect] > self.retries:
                raise WorkerError(
                    f"{self.deaths[suspect]} workers died over the same {len(self.texts[suspect]):,} texts, the last "
                    f"with status {status}{' (killed: out of memory?)' if status == -9 else ''}; finished shards are "
                    "kept. Take smaller [embedding] shard_items or batch_tokens, or fewer workers, and run again"
                )
        for number in worker.shards:
            self._assign(number)


class _Worker:
    """One process and the thread that hears it."""

    def __init__(
        self,
        place: int,
        environment: dict[str, str],
        folder: Path,
        batch_tokens: int,
        inbox: queue.SimpleQueue[tuple[_Worker, tuple[bytes, bytes] | None]],
    ) -> None:
        self.place = place
        self.shards: deque[int] = deque()  # in the order in which it goes through them
        device = "cuda" if environment["CUDA_VISIBLE_DEVICES"] else "cpu"
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "llm_tail.embedding.worker", str(folder), device, str(batch_tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
            start_new_session=True,  # Ctrl-C is for the caller, who then ends them
        )
        self._inbox = inbox
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, texts: list[str]) -> None:
        if self._process.stdin is None:
            return
        try:
            send(self._process.stdin, TEXTS, texts_to_bytes(texts))
        except OSError:
            return  # it has died, and the thread that hears it says so

    def kill(self) -> int:
        """End the process whatever it does, and return its exit status: -9 where it was killed, by whomever."""
        self._process.kill()
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue  # what was still to be sent has no reader
        return status

    def _listen(self) -> None:
        stream = self._process.stdout
        try:
            while stream is not None and (message := receive(stream)) is not None:
                self._inbox.put((self, message))
        except (OSError, ValueError):  # closed by `kill`
            return
        self._inbox.put((self, None))


def places(workers: int, gpus_per_worker: float | None, threads: int) -> list[dict[str, str]]:
    """Return the environment of each worker: which GPUs it sees, how many threads it takes.

    Raises
    ------
    ConfigError
        If there are fewer GPUs than a worker needs.
    """
    gpus = _visible_gpus()
    each = (1.0 if gpus else 0.0) if gpus_per_worker is None else gpus_per_worker
    if each > len(gpus):
        raise ConfigError(f"setting 'embedding.gpus_per_worker' is {each:g}, and there are {len(gpus)} GPUs here")
    room = int(len(gpus) / each) if each else n_cores() // threads
    common = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if not each:  # beside a GPU, the tokenizer may have the whole processor
        common |= {"RAYON_NUM_THREADS": str(threads)}
    found = []
    for number in range(workers or max(room, 1)):
        first = int(number % max(room, 1) * each)
        seen = gpus[first : first + max(1, int(each))] if each else []
        found.append({**common, "CUDA_VISIBLE_DEVICES": ",".join(seen)})
    return found


def _visible_gpus() -> list[str]:
    import torch

    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:n] if len(named) >= n else [str(number) for number in range(n)]
