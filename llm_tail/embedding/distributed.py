"""RayEngine: the same embedding job on a Ray cluster, by Ray Data; and the choice among the engines.

::

    this process                      the cluster
    shards of texts ──> _Feeder ──> _feed ──> _Actor, _Actor, ... (one encoder each) ──> results, in order
          ^                                                                                  │
          └──────────── one more for each that comes back ───────────────────────────────────┘

One data set runs through the whole job: actors are started once. A row of it is a shard and a block of its own, so that
what an actor gets is what the local engine would get. The feeder keeps a shard until its result is here: whatever is
lost on the way can be made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm_tail.config import EmbeddingConfig
from llm_tail.embedding.engine import Encoded, Engine, LocalEngine, TextEncoder, encode_shard
from llm_tail.embedding.parcel import pack, unpack
from llm_tail.embedding.processes import AHEAD, ProcessEngine
from llm_tail.embedding.worker import error_from_bytes, error_to_bytes, result_from_bytes, result_to_bytes
from llm_tail.errors import ConfigError, LlmTailError, MissingExtraError, WorkerError

_ANSWER_SECONDS = 5.0
_RAY_SECONDS = 30.0
_STARTS = 3
_HOW = "start one there with: ray start --head, or leave [embedding] address out for a local cluster"


def make_engine(config: EmbeddingConfig) -> Engine:
    """Return the engine that the settings name; nothing is started yet.

    Examples
    --------
    >>> make_engine(EmbeddingConfig(engine="processes", workers=2))
    ProcessEngine(workers=2, gpus_per_worker=None, threads=1, retries=3)
    """
    settings = (config.workers, config.gpus_per_worker, config.threads_per_worker, config.retries)
    if config.engine == "ray":
        return RayEngine(config.address, *settings)
    return ProcessEngine(*settings) if config.engine == "processes" else LocalEngine()


@dataclass(frozen=True)
class RayEngine:
    """The workers of a Ray cluster, each with an encoder of its own.

    Parameters
    ----------
    address : str
        Of a cluster's head, such as ``10.0.0.1:6379``; "auto" for one on this machine. If empty, a local one is
        started for the job and ended after it. A connection that this process has already is used as it is.
    workers : int
        How many actors; 0 is as many as the cluster has room for.
    gpus_per_worker : float, optional
        GPUs of each, may be a part of one; 1 where the cluster has any if not given.
    threads : int
        Processor cores of each.
    retries : int
        How often a shard is tried again after its actor died; actors that die are replaced.

    Notes
    -----
    The machines need the same versions of this package and its libraries; the encoder's files are sent to them. Memory
    here: two shards for each worker. Nothing is started as long as no shard has texts.
    """

    address: str = ""
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
        MissingExtraError
            If Ray is not installed.
        ConfigError
            If the address does not answer, the cluster has no room for a worker, or the encoder cannot travel.
        WorkerError
            If a shard's actor died more than `retries` times after the first, or something unforeseen happened in one.
        """
        nothing = encode_shard(encoder, [], batch_tokens)
        source = iter(shards)
        for first in source:
            if first:
                break
            yield nothing
        else:
            return
        with _connected(self) as ray:
            yield from self._run(ray, encoder, chain([first], source), batch_tokens, nothing)

    def _run(
        self, ray: Any, encoder: TextEncoder, source: Iterator[list[str]], batch_tokens: int, nothing: Encoded
    ) -> Iterator[Encoded]:
        workers, gpus = self._size(ray.cluster_resources())
        feeder = _Feeder.on_this_node(ray, self.retries)
        waiting: deque[bool] = deque()  # whether there are texts in each shard that has been taken
        n_sent, ended = 0, False
        results: Iterator[Encoded] | None = None
        try:
            while True:
                while not ended and len(waiting) < AHEAD * workers:
                    texts = next(source, None)
                    ended = texts is None
                    if texts:
                        ray.get(feeder.put.remote(n_sent, texts))
                        n_sent += 1
                    if texts is not None:
                        waiting.append(bool(texts))
                if ended:
                    ray.get(feeder.end.remote(n_sent))
                if not waiting:
                    return
                if results is None:
                    parcel = ray.put(_files_of(encoder))
                    setting = (feeder, parcel, batch_tokens, self.threads, "cuda" if gpus else "cpu")
                    results = self._results(ray, feeder, min(workers, n_sent), gpus, setting)
                yield next(results) if waiting.popleft() else nothing
        finally:
            del results  # which ends the actors
            ray.kill(feeder)

    def _results(self, ray: Any, feeder: Any, workers: int, gpus: float, setting: tuple[Any, ...]) -> Iterator[Encoded]:
        from ray.data import ActorPoolStrategy, DataContext

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that it copies itself
            context = DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        context.target_max_block_size = 1  # no two rows in a block
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a shard of long texts may take an hour
        with DataContext.current(context):
            data = (
                ray.data.from_items([{"start": 0}])
                .map_batches(_feed, fn_kwargs={"feeder": feeder}, batch_format="pyarrow", num_cpus=0)
                .map_batches(
                    _Actor,
                    fn_constructor_args=setting,
                    batch_size=1,
                    batch_format="pyarrow",
                    compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=AHEAD),
                    num_cpus=self.threads,
                    num_gpus=gpus,
                )
            )
        try:
            for row in data.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
                feeder.release.remote(row["number"][0].as_py())
                yield _result(row)
        except LlmTailError:
            raise
        except Exception as error:  # Ray raises what its parts raise
            said = str(error).strip().splitlines()
            raise WorkerError(f"Ray failed with {type(error).__name__}: {said[-1] if said else ''}") from error

    def _size(self, resources: dict[str, float]) -> tuple[int, float]:
        """Return how many workers there are, and how many GPUs each has."""
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        each = (1.0 if gpus else 0.0) if self.gpus_per_worker is None else self.gpus_per_worker
        room = int(min(cpus // self.threads, gpus / each if each else cpus))
        if not room:
            raise ConfigError(
                f"a worker shall have {self.threads} cores and {each:g} GPUs, and the whole cluster has {cpus:g} cores "
                f"and {gpus:g} GPUs; set [embedding] threads_per_worker and gpus_per_worker to less"
            )
        return self.workers or room, each


class _Feeder:
    """Hands out shards by their numbers, and waits for those that are still to come; an actor beside the caller."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._shards: dict[int, list[str]] = {}
        self._tries: Counter[int] = Counter()
        self._n_released, self._n_shards = 0, -1
        self._changed = asyncio.Condition()

    @classmethod
    def on_this_node(cls, ray: Any, retries: int) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ray.remote(cls).options(num_cpus=0, scheduling_strategy=here).remote(retries)

    async def put(self, number: int, texts: list[str]) -> None:
        async with self._changed:
            self._shards[number] = texts
            self._changed.notify_all()

    async def end(self, n_shards: int) -> None:
        async with self._changed:
            self._n_shards = n_shards
            self._changed.notify_all()

    async def release(self, number: int) -> None:
        self._shards.pop(number, None)
        self._n_released = max(self._n_released, number + 1)

    async def begin(self, number: int) -> bool:
        """Say whether an actor may try a shard, or too many have died over it."""
        self._tries[number] += 1
        return self._tries[number] <= self._retries + 1

    async def take(self, number: int) -> list[str] | None:
        """Return a shard; nothing in it where its result has come already, None behind the last."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: number in self._shards or number < self._n_released or number == self._n_shards
            )
        return None if number == self._n_shards else self._shards.get(number, [])


def _feed(_: pa.Table, feeder: Any) -> Iterator[pa.Table]:
    """Yield all shards from the first on; run again after a loss, it yields the same."""
    import ray

    number = 0
    while (texts := ray.get(feeder.take.remote(number))) is not None:
        yield pa.table({"number": [number], "texts": [json.dumps(texts)]})
        number += 1


class _Actor:
    """An encoder, and what it does to a shard."""

    def __init__(self, feeder: Any, parcel: Any, batch_tokens: int, threads: int, device: str) -> None:
        os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        if device == "cpu":
            os.environ["RAYON_NUM_THREADS"] = str(threads)
        self._feeder, self._parcel, self._batch_tokens = feeder, parcel, batch_tokens
        self._threads, self._device = threads, device
        self._encoder: TextEncoder | None = None

    def __call__(self, row: pa.Table) -> pa.Table:
        """Return the row of a result, or of an error: those that Ray raises itself have lost their class."""
        try:
            content, error = result_to_bytes(self._encode(row)), b""
        except Exception as found:  # whatever it is, the caller has to hear of it
            content, error = b"", error_to_bytes(found)
        blobs = {"result": pa.array([content], pa.large_binary()), "error": pa.array([error], pa.large_binary())}
        return pa.table({"number": row["number"], **blobs})

    def _encode(self, row: pa.Table) -> Encoded:
        import ray

        number, texts = row["number"][0].as_py(), json.loads(row["texts"][0].as_py())
        if not ray.get(self._feeder.begin.remote(number)):
            raise WorkerError(
                f"one worker after another died over the same {len(texts):,} texts (out of memory?); finished shards "
                "are kept. Take smaller [embedding] shard_items or batch_tokens, or fewer workers, and run again"
            )
        if self._encoder is None:
            self._encoder = self._unpacked(ray.get(self._parcel))
        return encode_shard(self._encoder, texts, self._batch_tokens)

    def _unpacked(self, files: dict[str, NDArray[np.uint8]]) -> TextEncoder:
        with tempfile.TemporaryDirectory(prefix="llm-tail-") as folder:
            for name, content in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                content.tofile(path)
            encoder = unpack(Path(folder), self._device)
        if "torch" in sys.modules:  # it may have been loaded before the settings of `__init__`
            sys.modules["torch"].set_num_threads(self._threads)
        return encoder


def _result(row: pa.Table) -> Encoded:
    error = row["error"][0].as_py()
    if error:
        raise error_from_bytes(error)
    return result_from_bytes(row["result"][0].as_py())


def _files_of(encoder: TextEncoder) -> dict[str, NDArray[np.uint8]]:
    with tempfile.TemporaryDirectory(prefix="llm-tail-") as temporary:
        folder = pack(encoder, Path(temporary) / "encoder", here=False)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): np.fromfile(path, dtype=np.uint8) for path in files}


@contextlib.contextmanager
def _connected(engine: RayEngine) -> Iterator[Any]:
    """Give the connected library; what was started or connected here is ended, what was there stays."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ != "SessionFileHandler":  # what it says goes to its own files only
            handler.setLevel(logging.CRITICAL + 1)
    if ray.is_initialized():
        yield ray
        return
    with _quiet_start():
        if engine.address:
            _check_answers(engine.address)
            settings: dict[str, Any] = {"address": engine.address}
        else:
            n_cpus = engine.workers * engine.threads or None
            local = {"num_cpus": n_cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            settings = {"address": "local", **local}
        for left in reversed(range(1 if engine.address else _STARTS)):
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
                break
            except Exception as error:  # Ray raises what its parts raise; on a busy machine it gives up after 30 s
                ray.shutdown()
                if left == 0:
                    raise ConfigError(_not_connected(engine.address, error)) from error
    try:
        with _news_on_stderr():
            yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _news_on_stderr() -> Iterator[None]:
    """Let Ray tell of workers that died on stderr; it does so on stdout, which is for results."""
    import ray._private.worker as its

    tell = getattr(its, "print_to_stdstream", None)
    if tell is not None:
        its.print_to_stdstream = lambda data, *args, **settings: tell({**data, "is_err": True}, *args, **settings)
    try:
        yield
    finally:
        if tell is not None:
            its.print_to_stdstream = tell


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Let Ray report to nobody while it starts, and give back the signal that it takes.

    Its C++ part writes to stderr as it likes: that it was told to write less is the one thing it still says.
    """
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    before = {name: os.environ.get(name) for name in wanted}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    os.environ |= wanted
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if main:
            signal.signal(signal.SIGTERM, handler)


def _check_answers(address: str) -> None:
    """Knock at an address: Ray itself would wait for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ConfigError(
            f"setting 'embedding.address' is {address!r}, expected host:port of the head, such as 10.0.0.1:6379; run "
            "this on a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
        # Somebody is there. In a process of its own, since one that waits for a stranger's answer cannot be stopped.
        ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
        subprocess.run(ask, timeout=_RAY_SECONDS, check=True, capture_output=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        reason = error if isinstance(error, OSError) else "what listens there is no healthy Ray cluster"
        raise ConfigError(_not_connected(address, reason)) from error


def _not_connected(address: str, error: Exception | str) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not address:
        return f"a local Ray cluster could not be started ({reason}); [embedding] engine = 'processes' needs none"
    return f"no Ray cluster answers at {address!r}, the setting 'embedding.address' ({reason}); {_HOW}"
