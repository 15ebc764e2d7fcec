"""Engine: who runs the encoder over the shards of a catalogue; the store plans, checks and writes them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from llm_tail.errors import DataError

Vectors = NDArray[np.float32]


class TextEncoder(Protocol):
    """What the store asks of an encoder; `llm_tail.embedding.encoder.Encoder` is one."""

    @property
    def dim(self) -> int:
        """The width of a vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that a vector depends on besides its text."""
        ...

    def encode(self, texts: Sequence[str], *, kind: Any = "document", batch_tokens: int = 2048) -> Vectors:
        """Return unit vectors, shape (n_texts, dim)."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """An encoder that can say how long texts are, and where it cuts them."""

    @property
    def max_tokens(self) -> int:
        """Texts are cut at this many tokens."""
        ...

    def token_counts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return how many tokens each text has before it is cut, shape (n_texts,)."""
        ...


@runtime_checkable
class CountsWhileEncoding(Protocol):
    """An encoder that counts the tokens of texts while it encodes them: no second pass of the tokenizer."""

    def encode_counted(
        self, texts: Sequence[str], *, kind: Any = "document", batch_tokens: int = 2048
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """Return the vectors as `encode` does, and the tokens of each text before the cut, shape (n_texts,)."""
        ...


@dataclass(frozen=True)
class Encoded:
    """What an engine gives back for one shard.

    Parameters
    ----------
    vectors : array of float32, shape (n_texts, dim)
        Unit vectors in the order of the texts.
    tokens : array of int64, shape (n_texts,)
        Tokens of each text before it was cut; all 0 where the encoder cannot say.
    """

    vectors: Vectors
    tokens: NDArray[np.int64]


class Engine(Protocol):
    """Runs an encoder over shards of texts: in this process, in several, or on a cluster.

    What an engine has to hold, so that a store is the same byte for byte whoever made it:

    - results come in the order of the shards, one for each;
    - a shard goes through `encode_shard` (or what gives the same bytes) as a whole and alone, so that its vectors
      depend neither on the number of workers nor on the other shards;
    - `shards` is advanced in the thread that iterates over the result, and only as far as there is work for all
      workers, such as two shards for each: texts of a shard that nobody works on lie in memory;
    - a shard may have no texts at all; its result has the shape (0, dim).
    """

    def encode_shards(
        self, encoder: TextEncoder, shards: Iterable[list[str]], *, batch_tokens: int = 2048
    ) -> Iterator[Encoded]:
        """Yield what becomes of each shard's texts, in order."""
        ...


class LocalEngine:
    """The engine of one process: a shard at a time, by the encoder as it is.

    Examples
    --------
    >>> class Lengths:
    ...     dim, fingerprint = 1, "lengths"
    ...     def encode(self, texts, *, kind="document", batch_tokens=2048):
    ...         return np.array([[len(text)] for text in texts], dtype=np.float32)
    >>> [shard.vectors.ravel().tolist() for shard in LocalEngine().encode_shards(Lengths(), [["a", "bcd"], ["ef"]])]
    [[1.0, 3.0], [2.0]]
    """

    def encode_shards(
        self, encoder: TextEncoder, shards: Iterable[list[str]], *, batch_tokens: int = 2048
    ) -> Iterator[Encoded]:
        """Yield what becomes of each shard's texts, in order; the next one is asked for when its turn has come."""
        for texts in shards:
            yield encode_shard(encoder, texts, batch_tokens, progress=True)

    def __repr__(self) -> str:
        return "LocalEngine()"


def encode_shard(
    encoder: TextEncoder, texts: list[str], batch_tokens: int = 2048, *, progress: bool = False
) -> Encoded:
    """Return the vectors and token counts of one shard's texts; every engine's workers call this.

    Parameters
    ----------
    encoder : TextEncoder
        One that has `encode_counted` is not asked for counts again.
    texts : list of str
        None of them empty; the list may be.
    batch_tokens : int
        Padded tokens in one batch.
    progress : bool
        Ask the encoder for a progress bar if it knows how.

    Raises
    ------
    DataError
        If the encoder yields something else than finite vectors of its width.
    """
    tokens = np.zeros(len(texts), dtype=np.int64)  # (n_texts,)
    if not texts:
        return Encoded(np.zeros((0, encoder.dim), dtype=np.float32), tokens)
    counted = isinstance(encoder, CountsWhileEncoding)
    encode: Any = encoder.encode_counted if isinstance(encoder, CountsWhileEncoding) else encoder.encode
    known = progress and "progress" in inspect.signature(encode).parameters
    result = encode(texts, kind="document", batch_tokens=batch_tokens, **({"progress": True} if known else {}))
    if counted:
        result, tokens = result
    elif isinstance(encoder, CountsTokens):
        tokens = np.asarray(encoder.token_counts(texts), dtype=np.int64)
    vectors = np.asarray(result)
    if vectors.shape != (len(texts), encoder.dim) or not np.isfinite(vectors).all():
        raise DataError(
            f"the encoder gave vectors of shape {vectors.shape}, expected {(len(texts), encoder.dim)} "
            "with finite values only"
        )
    return Encoded(vectors.astype(np.float32, copy=False), tokens)
