"""Runtimes: one encoder, run in several ways, behind one contract.

::

    torch      fp32, bf16         the model itself, on any device
    openvino   fp32, bf16, int8   the same weights, compiled for the processor at hand
    static                        one vector a word, learned from the encoder: hundreds of times faster, and coarser
    tfidf                         words counted, weighted and folded: no encoder at all
    auto                          torch or openvino, whichever is the fastest of those that stay true to the encoder

`load_runtime` makes one of an encoder, `open_runtime` opens what one has saved; `llm_tail.embedding.choosing` measures.
This module itself loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from llm_tail.artifacts import read_artifact, read_manifest
from llm_tail.errors import ConfigError, DataError, StaleArtifactError, closest

if TYPE_CHECKING:
    from llm_tail.embedding.encoder import Encoder

Kind = Literal["document", "query"]
Vectors = NDArray[np.float32]
RUNTIMES = ("torch", "openvino", "static", "tfidf")
PRECISIONS = {"torch": ("fp32", "bf16"), "openvino": ("fp32", "bf16", "int8"), "static": (), "tfidf": ()}
SAVED_KIND = "runtime"  # what the manifest of a saved runtime says it is


@runtime_checkable
class Runtime(Protocol):
    """What turns texts into vectors, whatever does it; `llm_tail.embedding.encoder.Encoder` is the one called torch."""

    @property
    def runtime(self) -> str:
        """Which of `RUNTIMES` it is."""
        ...

    @property
    def precision(self) -> str:
        """Number format of its products: fp32, bf16 or int8."""
        ...

    @property
    def dim(self) -> int:
        """The width of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Texts are cut at this many tokens."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that a vector depends on besides its text: runtimes and precisions differ in it."""
        ...

    def encode(
        self, texts: Sequence[str], *, kind: Kind = "document", batch_tokens: int = 2048, progress: bool = False
    ) -> Vectors:
        """Return unit vectors, shape (n_texts, dim), float32; the zero vector for a text without words.

        Parameters
        ----------
        texts : sequence of str
            Any number.
        kind : {"document", "query"}
            Which prompt stands before them, where the runtime looks at prompts.
        batch_tokens : int
            Padded tokens in one batch, >= 1, where the runtime has batches.
        progress : bool
            Show a bar on stderr.

        Raises
        ------
        DataError
            If `texts` is one str, or something in it is no str.
        """
        ...

    def token_counts(self, texts: Sequence[str], *, kind: Kind = "document") -> NDArray[np.int64]:
        """Return the number of tokens of each text before it is cut, shape (n_texts,)."""
        ...


def load_runtime(
    encoder: Encoder, name: str = "auto", texts: Sequence[str] = (), *, precision: str = "auto"
) -> Runtime:
    """Return the encoder run in another way.

    Parameters
    ----------
    encoder : Encoder
        Any; an adapter is merged into it first.
    name : {"auto", "torch", "openvino", "static", "tfidf"}
        How it runs.
    texts : sequence of str
        Some of the catalogue's own: "auto" measures on them, int8 is calibrated by them, static and tfidf learn from
        them. torch and openvino in fp32 and bf16 need none.
    precision : {"auto", "fp32", "bf16", "int8"}
        Number format of torch and openvino; "auto" takes bf16 where the processor has it, else fp32. Of the runtime
        "auto", only that format is tried where one is given.

    Returns
    -------
    Runtime

    Raises
    ------
    ConfigError
        If there is no such runtime, it has no such precision, the processor lacks it, or the model cannot be converted.
    MissingExtraError
        If openvino or nncf is not installed.
    DataError
        If texts are needed and none has words.
    """
    if name == "auto":
        from llm_tail.embedding.choosing import choose_runtime

        chosen = choose_runtime(encoder, texts, precision=precision).runtime
        return encoder if chosen is None else chosen
    check_runtime(name, precision)
    if name == "torch":
        return encoder.with_precision(precision)
    if name == "openvino":
        from llm_tail.embedding.openvino import OpenvinoEncoder

        return OpenvinoEncoder.convert(encoder, precision, texts)
    if name == "static":
        from llm_tail.embedding.static import StaticEncoder

        return StaticEncoder.distill(encoder, texts)
    from llm_tail.embedding.tfidf import TfidfEncoder

    return TfidfEncoder.fit(texts)


def open_runtime(folder: str | Path, made_from: str | None = None) -> Runtime:
    """Open what the `save` of an openvino, static or tfidf runtime wrote; neither torch nor the encoder is needed.

    Parameters
    ----------
    folder : path
        Where it lies.
    made_from : str, optional
        If given, the fingerprint that it has to have been saved with.

    Raises
    ------
    StaleArtifactError
        If nothing lies there, something else does, or it was made from something else.
    CorruptArtifactError
        If a file is not what was written.
    """
    name = ((read_manifest(folder) or {}).get("facts") or {}).get("runtime")
    artifact = read_artifact(folder, SAVED_KIND, made_from)
    if name == "openvino":
        from llm_tail.embedding.openvino import OpenvinoEncoder

        return OpenvinoEncoder.read(artifact)
    if name == "static":
        from llm_tail.embedding.static import StaticEncoder

        return StaticEncoder.read(artifact)
    if name == "tfidf":
        from llm_tail.embedding.tfidf import TfidfEncoder

        return TfidfEncoder.read(artifact)
    raise StaleArtifactError(f"{folder} holds a runtime {name!r} that this version does not know; make it again")


def check_runtime(name: str, precision: str = "auto") -> None:
    """Refuse a runtime that is not there, or a precision that it does not have.

    Examples
    --------
    >>> check_runtime("torch", "int8")
    Traceback (most recent call last):
    ...
    llm_tail.errors.ConfigError: the runtime 'torch' has no precision 'int8'; expected auto, fp32 or bf16
    """
    if name not in (*RUNTIMES, "auto"):
        near = closest(name, (*RUNTIMES, "auto"), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected {either(RUNTIMES)} or auto"
        raise ConfigError(f"there is no runtime {name!r}; {hint}")
    known = PRECISIONS.get(name, PRECISIONS["openvino"])
    if known and precision not in ("auto", *known):
        raise ConfigError(f"the runtime {name!r} has no precision {precision!r}; expected {either(('auto', *known))}")


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list of str, each of which can be written as UTF-8.

    Halves of characters that stand alone ("surrogates", left by a wrong decoding) become question marks.

    Raises
    ------
    DataError
        If it is one str, or something in it is no str; its place and type are named.

    Examples
    --------
    >>> check_texts(["whale", b"whale"])
    Traceback (most recent call last):
    ...
    llm_tail.errors.DataError: text 1 is bytes, expected str: b'whale'; decode it first, such as with .decode('utf-8')
    """
    if isinstance(texts, (str, bytes)):
        raise DataError(f"encode takes a list of texts, and one {type(texts).__name__} was given; put it into a list")
    found: list[Any] = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            said = repr(text)
            shown = said if len(said) <= 40 else f"{said[:40]}..."
            remedy = "decode it first, such as with .decode('utf-8')" if isinstance(text, bytes) else "make it str(...)"
            raise DataError(f"text {place} is {type(text).__name__}, expected str: {shown}; {remedy}")
    return [_whole(text) for text in found]


def _whole(text: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return text.encode("utf-8", "replace").decode("utf-8")
    return text


def either(words: Sequence[str]) -> str:
    """Return words as a list to choose from.

    Examples
    --------
    >>> either(["fp32", "bf16", "int8"])
    'fp32, bf16 or int8'
    """
    *front, last = words
    return f"{', '.join(front)} or {last}" if front else last


def scaled_rows(vectors: NDArray[Any]) -> Vectors:
    """Return rows of length 1, float32; those that are (nearly) zero become zero."""
    array = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(array, axis=1, keepdims=True)  # (n, 1)
    scaled: Vectors = np.divide(array, lengths, out=np.zeros_like(array), where=lengths > 1e-12)
    return scaled
