"""choose_runtime: which way of running an encoder is the fastest here, among those that stay true to it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llm_tail.embedding.loading import has_fast_bf16
from llm_tail.embedding.openvino import has_fast_int8
from llm_tail.embedding.runtimes import PRECISIONS, Runtime, Vectors, check_runtime, check_texts, load_runtime
from llm_tail.errors import DataError, LlmTailError

if TYPE_CHECKING:
    from llm_tail.embedding.encoder import Encoder

MIN_COSINE = 0.999
MIN_COSINE_INT8 = 0.99
CALIBRATION_TEXTS = 300
_ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """How one runtime did, or why it was not tried.

    Parameters
    ----------
    runtime, precision : str
        Which it is.
    texts_per_s : float
        Median of the rounds; 0 where it was not tried.
    cosine : float
        Mean over the texts of the cosine with torch in fp32; nan where it was not tried.
    state : {"taken", "slower", "unfaithful", "not there"}
        What came of it.
    note : str
        Why, where it is not there.
    """

    runtime: str
    precision: str
    texts_per_s: float = 0.0
    cosine: float = float("nan")
    state: str = "slower"
    note: str = ""

    @property
    def name(self) -> str:
        """Runtime and precision in two words."""
        return f"{self.runtime} {self.precision}"


@dataclass(frozen=True)
class RuntimeChoice:
    """What `choose_runtime` found.

    Parameters
    ----------
    taken : str
        The runtime of choice.
    precision : str
        Its precision.
    why : str
        The reason, in one line.
    rows : tuple of Measured
        All that was looked at, fastest first.
    n_texts : int
        Texts that it was measured on.
    encoder : str
        Fingerprint of the encoder.
    runtime : Runtime, optional
        The runtime itself, ready for use; not kept by `to_dict`.
    """

    taken: str
    precision: str
    why: str
    rows: tuple[Measured, ...]
    n_texts: int
    encoder: str
    runtime: Runtime | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values that `from_dict` reads back."""
        kept = {name: getattr(self, name) for name in ("taken", "precision", "why", "n_texts", "encoder")}
        rows = [{key: None if value != value else value for key, value in asdict(row).items()} for row in self.rows]
        return {**kept, "rows": rows}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` gave."""

        def row(found: Mapping[str, Any]) -> Measured:
            values: dict[str, Any] = {key: float("nan") if value is None else value for key, value in found.items()}
            return Measured(**values)

        rows = tuple(map(row, values["rows"]))
        return cls(**{**values, "rows": rows})

    def __str__(self) -> str:
        lines = [f"{'runtime':<16}{'texts/s':>9}{'cosine':>9}  "]
        for row in self.rows:
            cosine = f"{row.cosine:9.5f}" if row.cosine == row.cosine else f"{'-':>9}"
            speed = f"{row.texts_per_s:9.0f}" if row.texts_per_s else f"{'-':>9}"
            lines.append(f"{row.name:<16}{speed}{cosine}  {row.state}{f': {row.note}' if row.note else ''}")
        return "\n".join([*lines, self.why])


def choose_runtime(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    precision: str = "auto",
    n_texts: int = 256,
    min_cosine: float = MIN_COSINE,
    min_cosine_int8: float = MIN_COSINE_INT8,
    batch_tokens: int = 2048,
) -> RuntimeChoice:
    """Measure the runtimes that are to be had on some texts, and take the fastest that is true to the encoder.

    Parameters
    ----------
    encoder : Encoder
        Which encoder; torch in fp32 is what the others are held against.
    texts : sequence of str
        The catalogue's own; `n_texts` of them, spread evenly, are measured on, 300 others calibrate int8.
    precision : {"auto", "fp32", "bf16", "int8"}
        "auto" tries all of them, else only that one is tried.
    n_texts : int
        How many are measured on; 256 take about half a minute for a small encoder on two cores.
    min_cosine, min_cosine_int8 : float
        What falls below this mean cosine is not taken.
    batch_tokens : int
        Padded tokens in one batch.

    Returns
    -------
    RuntimeChoice
        With the runtime in ``.runtime``. Where nothing else is faithful, that is torch in fp32.

    Raises
    ------
    DataError
        If no text has words.

    Notes
    -----
    Each is warmed up, then all take turns in three rounds, so that a busy moment of the machine hits all alike. static
    and tfidf are never taken: they are other encoders, not other ways to run this one. An encoder on an accelerator
    stays with torch there.
    """
    check_runtime("auto", precision)
    sample, others = _samples(check_texts(texts), n_texts)
    yardstick = encoder.with_precision("fp32")
    exact = yardstick.encode(sample, batch_tokens=batch_tokens)
    tried: dict[tuple[str, str], Runtime] = {}
    rows: list[Measured] = []
    for runtime, formats in PRECISIONS.items():
        for one in formats:
            if precision in ("auto", one):
                refused = _refused(encoder, runtime, one)
                try:
                    if not refused:
                        tried[runtime, one] = load_runtime(encoder, runtime, others, precision=one)
                except LlmTailError as error:
                    refused = str(error)
                if refused:
                    rows.append(Measured(runtime, one, state="not there", note=refused))
    least = {key: min_cosine_int8 if key[1] == "int8" else min_cosine for key in tried}
    rows += [
        Measured(*key, speed, near, "slower" if near >= least[key] else "unfaithful")
        for key, (speed, near) in _measured(tried, sample, exact, batch_tokens).items()
    ]
    return _chosen(rows, tried, yardstick, len(sample), encoder.fingerprint, least)


def _samples(texts: Sequence[str], n: int) -> tuple[list[str], list[str]]:
    """Return the texts to measure on and those to calibrate by: others, where there are enough."""
    whole = [text for text in texts if text.strip()]
    if not whole:
        raise DataError("a runtime is chosen by measuring on texts, and none with words was given; pass texts=")
    if len(whole) < 2 * n:
        return whole[:: max(1, len(whole) // n)][:n], whole
    rows = np.linspace(0, len(whole) - 1, n + CALIBRATION_TEXTS).astype(np.int64)
    order = np.random.default_rng(0).permutation(len(rows))  # a catalogue may be sorted
    return [whole[i] for i in rows[order[:n]]], [whole[i] for i in rows[order[n:]]]


def _refused(encoder: Encoder, runtime: str, precision: str) -> str:
    """Return why a runtime is not even tried; empty where it is."""
    device = encoder.model.device
    if runtime == "openvino" and device.type != "cpu":
        return f"the encoder is on {device.type}, openvino would run on the processor"
    if precision == "bf16" and not has_fast_bf16(device):
        return "this processor has no bf16 products" if device.type == "cpu" else f"{device.type} has no bf16 products"
    if precision == "int8" and not has_fast_int8():
        return "this processor has no int8 products (VNNI or AMX)"
    return ""


def _measured(
    tried: Mapping[tuple[str, str], Runtime], texts: list[str], exact: Vectors, batch_tokens: int
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return texts a second and mean cosine of each."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in tried}
    near: dict[tuple[str, str], float] = {}
    for key, runtime in tried.items():  # the first call compiles and warms up
        near[key] = float((runtime.encode(texts, batch_tokens=batch_tokens) * exact).sum(axis=1).mean())
    for _ in range(_ROUNDS):
        for key, runtime in tried.items():
            started = time.perf_counter()
            runtime.encode(texts, batch_tokens=batch_tokens)
            seconds[key].append(time.perf_counter() - started)
    return {key: (len(texts) / statistics.median(seconds[key]), near[key]) for key in tried}


def _chosen(
    rows: list[Measured],
    tried: Mapping[tuple[str, str], Runtime],
    yardstick: Encoder,
    n_texts: int,
    encoder: str,
    least: Mapping[tuple[str, str], float],
) -> RuntimeChoice:
    ordered = sorted(rows, key=lambda row: -row.texts_per_s)
    best = next((row for row in ordered if row.state == "slower"), None)
    if best is None:
        why = "torch fp32 is taken: nothing else that was tried is there and true to the encoder"
        return RuntimeChoice("torch", "fp32", why, tuple(ordered), n_texts, encoder, yardstick)
    ordered = [Measured(**{**asdict(row), "state": "taken"}) if row is best else row for row in ordered]
    plain = next((row for row in rows if (row.runtime, row.precision) == ("torch", "fp32")), None)
    times = f", {best.texts_per_s / plain.texts_per_s:.1f} times torch fp32" if plain and plain is not best else ""
    key = (best.runtime, best.precision)
    why = (
        f"{best.name} is taken: the fastest ({best.texts_per_s:.0f} texts/s{times}) of those with a mean cosine of at "
        f"least {least[key]:g} ({best.cosine:.5f}) on {n_texts} texts"
    )
    return RuntimeChoice(best.runtime, best.precision, why, tuple(ordered), n_texts, encoder, tried[key])
