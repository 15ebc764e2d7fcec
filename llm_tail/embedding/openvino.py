"""OpenvinoEncoder: an encoder compiled by OpenVINO for the processor at hand, in fp32, bf16 or int8."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from llm_tail.artifacts import Artifact, fingerprint, write_artifact
from llm_tail.embedding.runtimes import SAVED_KIND, Kind, Vectors, check_runtime, check_texts, scaled_rows
from llm_tail.embedding.tokens import Tokens, ahead, batches, padded
from llm_tail.errors import ConfigError, DataError, MissingExtraError
from llm_tail.progress import Bar

if TYPE_CHECKING:
    from llm_tail.embedding.encoder import Encoder

EXTRA = "openvino"
MODEL = "model.xml"
CALIBRATION_TEXTS = 300
_BLOCK = 2048  # texts tokenised at once, while those before them are computed: enough to sort by length
_TRIED = ("a", "two words", "a text of some more words, to see that padding changes nothing " * 3)
_LEAST_COSINE = 0.999  # of the converted model in fp32 with torch; what rounding does is far below


class OpenvinoEncoder:
    """The same weights in another machine room; made by `convert`, opened again by `read`.

    Parameters
    ----------
    model : openvino.Model
        Takes token numbers and mask, gives pooled vectors.
    tokens : Tokens
        What makes the token numbers.
    precision : {"fp32", "bf16", "int8"}
        Number format of the matrix products; sums and norms are always in fp32.
    dim : int
        The width that vectors are cut to.
    name, made_of : str
        The encoder's name, and the digest of all that the vectors depend on.
    hint : {"f32", "bf16"}
        Format of the products that are not in int8.

    Notes
    -----
    The vector of a text does not depend on the texts beside it: within 1e-5 in fp32 and 5e-3 in bf16 and int8, in each
    component. Batches are sorted by length and computed side by side, one on each core where that is faster; texts are
    tokenised while others are computed. Memory: the weights twice while converting, once afterwards.
    """

    runtime = "openvino"

    def __init__(
        self, model: Any, tokens: Tokens, *, precision: str, dim: int, name: str, made_of: str, hint: str = "f32"
    ) -> None:
        self.model, self.tokens, self.precision, self.dim = model, tokens, precision, dim
        self.name, self._made_of, self.hint = name, made_of, hint
        self._compiled: Any = None

    @classmethod
    def convert(cls, encoder: Encoder, precision: str = "auto", texts: Sequence[str] = ()) -> Self:
        """Convert an encoder; takes a few seconds for a small one, half a minute more for int8.

        Parameters
        ----------
        encoder : Encoder
            On any device, in any precision; an adapter is merged into a copy.
        precision : {"auto", "fp32", "bf16", "int8"}
            "auto" takes bf16 where the processor multiplies it, else fp32.
        texts : sequence of str
            The catalogue's own; int8 takes the ranges of its numbers from 300 of them.

        Raises
        ------
        MissingExtraError
            If openvino, or nncf for int8, is not installed.
        ConfigError
            If the processor has no such numbers, or the model cannot be converted.
        DataError
            If int8 is wanted and no text is given.
        """
        check_runtime("openvino", precision)
        precision = _possible(precision)
        _import(EXTRA)
        merged = encoder.merge().with_precision("fp32")
        tokens = Tokens.of(merged)
        sample: list[str] = []
        if precision == "int8":
            sample = _spread([text for text in check_texts(texts) if text.strip()], CALIBRATION_TEXTS)
            if not sample:
                raise DataError("int8 needs texts to be calibrated by, and none with words was given; pass texts=")
        model = _converted(merged)
        made_of = fingerprint("openvino-1", merged.fingerprint, precision, sample)
        made = cls(model, tokens, precision="fp32", dim=merged.dim, name=merged.config.name, made_of=made_of)
        made._compare(merged)
        if precision == "int8":
            made.model = _quantized(model, tokens, sample)
        made.hint = "bf16" if precision != "fp32" and _has_bf16() else "f32"
        made.precision, made._compiled = precision, None
        return made

    @property
    def max_tokens(self) -> int:
        """Texts are cut at this many tokens."""
        return self.tokens.max_tokens

    @property
    def fingerprint(self) -> str:
        """Digest of the encoder, the precision, and for int8 the texts that it was calibrated by."""
        return self._made_of

    def encode(
        self, texts: Sequence[str], *, kind: Kind = "document", batch_tokens: int = 2048, progress: bool = False
    ) -> Vectors:
        """Return the unit vectors of texts, as `Encoder.encode` does; `batch_tokens` of about 2,048 are fastest."""
        return self.encode_counted(texts, kind=kind, batch_tokens=batch_tokens, progress=progress)[0]

    def encode_counted(
        self, texts: Sequence[str], *, kind: Kind = "document", batch_tokens: int = 2048, progress: bool = False
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """Return vectors as `encode` does, and the tokens of each text before the cut; 0 for one without words."""
        texts = check_texts(texts)
        counts = np.zeros(len(texts), dtype=np.int64)  # (n_texts,)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)  # (n_texts, dim)
        rows = np.array([i for i, text in enumerate(texts) if text.strip()], dtype=np.int64)
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
        line = _Line(self._requests(), vectors)
        with Bar("encoding", len(rows)) if progress else nullcontext() as bar:
            for block, (tokens, whole) in ahead(blocks, lambda b: self.tokens.counted([texts[i] for i in b], kind)):
                counts[block] = whole
                for batch in batches(np.array([len(one) for one in tokens]), batch_tokens):
                    line.start(padded([tokens[i] for i in batch], self.tokens.pad), block[batch])
                    if bar is not None:
                        bar.advance(len(batch))
            line.finish()
        if not np.isfinite(vectors).all():
            raise DataError(
                f"{self.name} gave values that are not finite for {int((~np.isfinite(vectors)).any(1).sum())} of "
                f"{len(texts)} texts in {self.precision} by openvino; try [encoder] precision = 'fp32'"
            )
        return scaled_rows(vectors), counts

    def token_counts(self, texts: Sequence[str], *, kind: Kind = "document") -> NDArray[np.int64]:
        """Return the number of tokens of each text before it is cut, shape (n_texts,); the prompt counts."""
        return self.tokens.counts(check_texts(texts), kind)

    def save(self, folder: str | Path, made_from: str = "") -> Path:
        """Write the converted model and its tokenizer, to be opened by `open_runtime`; weights take 4 bytes each."""
        openvino = _import(EXTRA)
        own = {name: getattr(self, name) for name in ("runtime", "precision", "dim", "name", "hint")}
        with write_artifact(folder, SAVED_KIND, made_from, {**own, "made_of": self._made_of}) as draft:
            openvino.save_model(self.model, str(draft.file(MODEL)), compress_to_fp16=False)
            draft.facts["tokens"] = self.tokens.save(draft.data)
        return Path(folder)

    @classmethod
    def read(cls, artifact: Artifact) -> Self:
        """Return what `save` wrote."""
        openvino = _import(EXTRA)
        facts = artifact.facts
        model = openvino.Core().read_model(str(artifact.file(MODEL)))
        own = {name: facts[name] for name in ("precision", "dim", "name", "made_of", "hint")}
        return cls(model, Tokens.read(artifact.data, facts["tokens"]), **own)

    def _requests(self) -> list[Any]:
        """Return as many requests to the compiled model as it computes side by side."""
        if self._compiled is None:
            hints = {"INFERENCE_PRECISION_HINT": self.hint, "PERFORMANCE_HINT": "THROUGHPUT"}
            if threads := os.environ.get("OMP_NUM_THREADS", ""):  # which OpenVINO itself does not look at
                hints["INFERENCE_NUM_THREADS"] = threads
            self._compiled = _import(EXTRA).Core().compile_model(self.model, "CPU", hints)
        n = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        return [self._compiled.create_infer_request() for _ in range(n)]

    def _compare(self, encoder: Encoder) -> None:
        """Refuse a conversion that is not the model any more: what tracing saw of a branch is fixed for good."""
        expected = encoder.encode(_TRIED, batch_tokens=1024)
        for size in (1, 1024):
            near = (self.encode(_TRIED, batch_tokens=size) * expected).sum(axis=1)  # (3,)
            if near.min() < _LEAST_COSINE:
                raise ConfigError(
                    f"{self.name} becomes another model when it is converted (cosine {near.min():.3f} with the "
                    "original); set [encoder] runtime = 'torch'"
                )

    def __repr__(self) -> str:
        return f"OpenvinoEncoder({self.name}, {self.dim} wide, {self.max_tokens} tokens, {self.precision})"


class _Line:
    """Requests that take turns, each with one batch under way.

    Without callbacks, as AsyncInferQueue has them: a thread of OpenVINO that has once run Python can hang the process
    when its model is dropped (openvinotoolkit/openvino#37073 and what it leaves open).
    """

    def __init__(self, requests: list[Any], vectors: Vectors) -> None:
        self.requests, self.vectors = requests, vectors
        self.under_way: list[NDArray[np.int64] | None] = [None] * len(requests)
        self.turn = 0

    def start(self, feed: Sequence[NDArray[np.int64]], rows: NDArray[np.int64]) -> None:
        """Begin with a batch whose vectors belong into `rows`; waits for the batch that this request had before."""
        self._collect(self.turn)
        self.requests[self.turn].start_async(dict(enumerate(feed)))
        self.under_way[self.turn] = rows
        self.turn = (self.turn + 1) % len(self.requests)

    def finish(self) -> None:
        """Wait for all batches."""
        for turn in range(len(self.requests)):
            self._collect(turn)

    def _collect(self, turn: int) -> None:
        rows = self.under_way[turn]
        if rows is not None:
            self.requests[turn].wait()
            self.vectors[rows] = self.requests[turn].get_output_tensor(0).data[:, : self.vectors.shape[1]]
            self.under_way[turn] = None


def _converted(encoder: Encoder) -> Any:
    """Return an encoder in fp32 as an OpenVINO model: token numbers and mask -> pooled vectors."""
    import torch

    from llm_tail.embedding.families import quiet

    openvino = _import(EXTRA)
    model = encoder.model

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.model({"input_ids": input_ids, "attention_mask": attention_mask})[
                "sentence_embedding"
            ]
            return found

    ids = torch.ones((2, 7), dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    device = model.device
    try:
        with quiet(), torch.no_grad():
            model.to("cpu")
            return openvino.convert_model(Pooled().eval(), example_input={"input_ids": ids, "attention_mask": mask})
    except Exception as error:  # tracing runs the model's own code, which raises what it likes
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"{encoder.config.name} cannot be converted for openvino ({type(error).__name__}: "
            f"{reason[0] if reason else 'no reason given'}); set [encoder] runtime = 'torch'"
        ) from error
    finally:
        model.to(device)


def _quantized(model: Any, tokens: Tokens, texts: Sequence[str]) -> Any:
    """Return the model with matrix products in int8, ranges taken from the texts (static, per tensor, smoothed)."""
    nncf = _import("nncf")
    ids = tokens.ids(texts)
    lengths = np.array([len(one) for one in ids])
    feeds = [dict(enumerate(padded([ids[i] for i in batch], tokens.pad))) for batch in batches(lengths, 512)]
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # bars that would stand among the results
            return nncf.quantize(
                model, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds)
            )
    finally:
        logger.setLevel(level)


def _possible(precision: str) -> str:
    """Return the precision to use, or refuse one that this processor does not multiply itself."""
    if precision == "auto":
        return "bf16" if _has_bf16() else "fp32"
    if precision == "bf16" and not _has_bf16():
        raise ConfigError(
            "precision is bf16, and this processor has no bf16 products (avx512_bf16 or amx_bf16); take 'auto' or fp32"
        )
    if precision == "int8" and not has_fast_int8():
        raise ConfigError(
            "precision is int8, and this processor has no int8 products (avx512_vnni, avx_vnni or amx_int8), so that "
            "it would be slower and no smaller; take 'auto'"
        )
    return precision


def _has_bf16() -> bool:
    import torch

    from llm_tail.embedding.loading import has_fast_bf16

    return has_fast_bf16(torch.device("cpu"))


def has_fast_int8() -> bool:
    """Whether the processor sums products of int8 itself (VNNI or AMX)."""
    import torch

    names = ("_is_vnni_supported", "_is_avx512_vnni_supported", "_is_amx_tile_supported")
    probes = [probe for name in names if (probe := getattr(torch.cpu, name, None)) is not None]
    return any(probe() for probe in probes)


def _spread(texts: list[str], n: int) -> list[str]:
    """Return at most `n` of the texts, evenly spread over all."""
    if len(texts) <= n:
        return texts
    return [texts[i] for i in np.linspace(0, len(texts) - 1, n).astype(np.int64)]


def _import(library: str) -> Any:
    """Import openvino or nncf; both would tell their maker of each use, and are kept from it."""
    with _untold():
        try:
            if library == "nncf":
                import nncf

                return nncf
            import openvino
            import openvino.tools.ovc

            return openvino
        except ImportError:
            raise MissingExtraError(library, EXTRA) from None


@contextmanager
def _untold() -> Iterator[None]:
    """Hide the package that sends usage data while its users are imported: they then do without."""
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
