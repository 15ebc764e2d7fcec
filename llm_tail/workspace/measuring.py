"""Measuring one runtime in a process of its own: how many texts a second, how much memory, which vectors.

::

    this process                     a child                          another child
    texts ── job.json ── make ──►  encoder ── converted, distilled ──► saved runtime
                        └ run ─────────────────────────────────────►   opened, warmed up, timed ── vectors

The most memory that a process ever held cannot be reset: in one process, the peak of one runtime would hide in that of
the one before. What makes a runtime (the encoder, torch) is no part of what runs it, hence the two children.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from llm_tail.artifacts import write_json
from llm_tail.config import RunConfig
from llm_tail.errors import ConfigError, LlmTailError
from llm_tail.threads import n_cores, n_threads
from llm_tail.workspace.child import REFUSED, RESULT, run_child
from llm_tail.workspace.record import peak_mb

if TYPE_CHECKING:
    from llm_tail.embedding.runtimes import Runtime

MAKE, RUN = "make", "run"
VECTORS = "vectors.safetensors"
N_PARTS, SMALLEST_PART, N_WARM_UP = 8, 256, 32
_PROC = Path("/proc")

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """What one runtime did with the texts of a catalogue.

    Parameters
    ----------
    runtime : str
        Such as ``torch-bf16``.
    device : str
        Where it ran: cpu, cuda ...
    dim : int
        The width of its vectors.
    n_texts : int
        Distinct texts that were encoded.
    texts_per_s : float
        The median over parts of the texts, each timed by itself.
    slowest, fastest : float
        Of these parts.
    peak_mb : float
        The most memory that the process held, in MB (10^6 bytes), libraries and model included.
    gpu_mb : float
        The most memory that was held on a GPU; 0 without one.
    make_seconds : float
        What converting, distilling or fitting it took before; 0 for torch, which needs none of it.
    """

    runtime: str
    device: str
    dim: int
    n_texts: int
    texts_per_s: float
    slowest: float
    fastest: float
    peak_mb: float
    gpu_mb: float = 0.0
    make_seconds: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on.

    Parameters
    ----------
    cpu : str
        Name of the processor.
    cores : int
        Those that a process may use here.
    threads : int
        Those that it does use: fewer where ``OMP_NUM_THREADS`` says so. These are paid for.
    gpus : tuple of str
        Names; empty without one.
    """

    cpu: str
    cores: int
    threads: int
    gpus: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> Machine:
        """Return the machine at hand; no GPU library is asked."""
        cpu = _named(_PROC / "cpuinfo", "model name") or platform.processor() or platform.machine()
        cards = sorted((_PROC / "driver/nvidia/gpus").glob("*/information"))
        return cls(cpu, n_cores(), n_threads(), tuple(_named(card, "Model") for card in cards))

    def __str__(self) -> str:
        cores = f"{self.cores} core" if self.cores == 1 else f"{self.cores} cores"
        if self.threads != self.cores:
            cores = f"{self.threads} of {cores}"
        gpus = ", ".join(f"{self.gpus.count(name)} x {name}" for name in sorted(set(self.gpus)))
        return f"{self.cpu}, {cores}, {gpus or 'no GPU'}"


def measure(
    config: RunConfig,
    runtime: str,
    texts: Sequence[str],
    folder: Path,
    *,
    on_texts: Callable[[int], None] = lambda n: None,
) -> Measured:
    """Run one runtime over texts in a child process; its vectors are then in ``folder/vectors.safetensors``.

    Parameters
    ----------
    config : RunConfig
        The run whose encoder it is.
    runtime : str
        One of ``[value] runtimes``.
    texts : sequence of str
        Distinct, with words, in an order that does not go by length.
    folder : Path
        An empty one, for what the processes say to each other.
    on_texts : callable
        Told how many texts have been encoded since it was last called.

    Raises
    ------
    FailedError
        If it cannot run here: a library is missing, the processor lacks something, the process died.
    """
    write_json(folder / "job.json", {"config": config.model_dump(), "runtime": runtime})
    (folder / "texts.json").write_text(json.dumps(list(texts)), encoding="ascii")  # halves of characters pass too

    def heard(line: str) -> None:
        if line.isdecimal():  # a library may have its own words
            on_texts(int(line))

    def child(step: str) -> dict[str, Any]:
        found: dict[str, Any] = run_child(__name__, folder, step, heard)
        return found

    made = {"seconds": 0.0} if runtime.startswith("torch") else child(MAKE)
    return Measured(runtime=runtime, make_seconds=made["seconds"], **child(RUN))


# ---- in the child


def main(folder: Path, step: str) -> None:
    """Do one step of the job in `folder` and write down what came of it."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    config = RunConfig(**job["config"])
    try:
        result = _make(config, job["runtime"], texts, folder) if step == MAKE else _run(config, job, texts, folder)
    except LlmTailError as error:
        write_json(folder / REFUSED, str(error))
        return
    write_json(folder / RESULT, result)


def _make(config: RunConfig, runtime: str, texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Make a runtime of the run's encoder and save it."""
    from llm_tail.embedding.runtimes import load_runtime
    from llm_tail.workspace.workspace import Workspace

    name, _, precision = runtime.partition("-")
    started = time.perf_counter()
    if name == "tfidf":  # it knows no encoder, and its time shall not hold the loading of one
        from llm_tail.embedding.tfidf import TfidfEncoder

        made: Any = TfidfEncoder.fit(texts)
    else:
        made = load_runtime(Workspace(config).encoder, name, texts, precision=precision or "auto")
    made.save(folder / "runtime")
    return {"seconds": time.perf_counter() - started}


def _run(config: RunConfig, job: dict[str, Any], texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Open a runtime, time it and write its vectors."""
    from llm_tail.embedding.runtimes import open_runtime

    name, _, precision = job["runtime"].partition("-")
    runtime = _torch(config, precision) if name == "torch" else open_runtime(folder / "runtime")
    vectors, rates = timed(runtime, texts, config.embedding.batch_tokens, config.value.min_seconds, tell=_tell)
    device, gpu_mb = _device(runtime) if name == "torch" else ("cpu", 0.0)
    facts = {
        "device": device,
        "dim": int(vectors.shape[1]),
        "n_texts": len(texts),
        "texts_per_s": median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "peak_mb": own_peak_mb(),
        "gpu_mb": gpu_mb,
    }
    save_file({"vectors": vectors}, folder / VECTORS)
    return facts


def timed(
    runtime: Runtime,
    texts: Sequence[str],
    batch_tokens: int = 2048,
    min_seconds: float = 0.0,
    *,
    tell: Callable[[int], None] = lambda n: None,
) -> tuple[Vectors, list[float]]:
    """Return the vectors of texts and the rates of several parts of them, each timed by itself.

    Parameters
    ----------
    runtime : Runtime
        Anything with ``encode`` and ``dim``.
    texts : sequence of str
        At least one, in an order that does not go by length, so that the parts are alike.
    batch_tokens : int
        Padded tokens in one batch, >= 1.
    min_seconds : float
        All texts are encoded again until this has passed.
    tell : callable
        Told of the texts of each part of the first pass.

    Returns
    -------
    array of float32, shape (n_texts, dim)
    list of float
        Texts a second.
    """
    runtime.encode(texts[:N_WARM_UP], batch_tokens=batch_tokens)
    n_parts = max(1, min(N_PARTS, math.ceil(len(texts) / SMALLEST_PART)))
    parts = np.array_split(np.arange(len(texts)), n_parts)
    vectors = np.zeros((len(texts), runtime.dim), dtype=np.float32)  # (n_texts, dim)
    rates: list[float] = []
    spent = 0.0
    while not rates or spent < min_seconds:
        for part in parts:
            words = [texts[i] for i in part]
            started = time.perf_counter()
            found = runtime.encode(words, batch_tokens=batch_tokens)  # (n_part, dim)
            seconds = max(time.perf_counter() - started, 1e-9)
            spent += seconds
            if len(rates) < n_parts:
                vectors[part] = found
                tell(len(part))
            rates.append(len(part) / seconds)
    return vectors, rates


def _torch(config: RunConfig, precision: str) -> Runtime:
    from llm_tail.embedding.loading import has_fast_bf16
    from llm_tail.embedding.runtimes import load_runtime
    from llm_tail.workspace.workspace import Workspace

    encoder = Workspace(config).encoder
    if precision == "bf16" and not has_fast_bf16(encoder.model.device):
        raise ConfigError("this processor has no bf16, which is then up to a hundred times slower than fp32")
    return load_runtime(encoder, "torch", precision=precision)


def _device(runtime: Any) -> tuple[str, float]:
    """Return where torch ran, and the most memory that it held there, in MB."""
    from llm_tail.embedding.loading import peak_gpu_mb

    return str(runtime.model.device.type), peak_gpu_mb(runtime.model.device)


def own_peak_mb() -> float:
    """Return the most memory this program has held, in MB.

    What ``getrusage`` says is not asked first: on Linux a child begins with the peak of the process that started it.
    """
    status = _named(_PROC / "self/status", "VmHWM")  # such as "812345 kB", of 1024 bytes each
    return round(int(status.split()[0]) * 1024 / 1e6, 1) if status else peak_mb()


def _named(path: Path, name: str) -> str:
    """Return the value of the first ``name: value`` line of a file; empty where there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def _tell(n_texts: int) -> None:
    sys.stdout.write(f"{n_texts}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
