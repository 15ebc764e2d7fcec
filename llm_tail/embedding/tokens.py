"""Tokens: the tokenizer of an encoder on its own, without torch; and work that a thread does ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from llm_tail.errors import ConfigError

if TYPE_CHECKING:
    from llm_tail.embedding.encoder import Encoder

T = TypeVar("T")
R = TypeVar("R")
FILE = "tokenizer.json"


class Tokens:
    """Texts -> token numbers, as the encoder makes them: prompt before, special tokens around, cut at the limit.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Of one's own: it is set to neither cut nor pad.
    max_tokens : int
        Texts are cut at this many tokens, special ones included.
    prompts : mapping
        What stands before a text of each kind.
    pad : int
        The token that fills up shorter texts of a batch.
    side : {"right", "left"}
        Where the cut takes tokens away.

    Notes
    -----
    About 5,000 texts of 100 words a second and core; the library's own threads share a call among cores.
    """

    def __init__(
        self, backend: Any, max_tokens: int, *, prompts: Mapping[str, str], pad: int = 0, side: str = "right"
    ) -> None:
        from tokenizers import Tokenizer

        backend.no_padding()
        backend.no_truncation()
        self.whole = backend
        self.cut = Tokenizer.from_str(backend.to_str())
        self.cut.enable_truncation(max_tokens, direction=side)
        self.max_tokens, self.prompts, self.pad, self.side = max_tokens, dict(prompts), pad, side

    @classmethod
    def of(cls, encoder: Encoder) -> Self:
        """Return those of an encoder; `ConfigError` if its tokenizer is one of the slow ones, written in Python."""
        from tokenizers import Tokenizer

        tokenizer, config = encoder.model.tokenizer, encoder.config
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigError(
                f"{config.name} has a {type(tokenizer).__name__}, expected one of the tokenizers library; "
                "set [encoder] runtime = 'torch'"
            )
        prompts = {"query": config.query_prompt or "", "document": config.document_prompt or ""}
        own = Tokenizer.from_str(backend.to_str())
        side = getattr(tokenizer, "truncation_side", "right")
        return cls(own, encoder.max_tokens, prompts=prompts, pad=tokenizer.pad_token_id or 0, side=side)

    def ids(self, texts: Sequence[str], kind: str = "document") -> list[NDArray[np.int64]]:
        """Return the token numbers of each text, cut at the limit."""
        return [np.array(one.ids, dtype=np.int64) for one in self._encode(self.cut, texts, kind)]

    def counted(self, texts: Sequence[str], kind: str = "document") -> tuple[list[NDArray[np.int64]], list[int]]:
        """Return the token numbers of each text, cut at the limit, and how many there were before the cut."""
        found = self._encode(self.cut, texts, kind)
        # What is cut off comes in pieces, each with special tokens of its own.
        rest = [sum(len(p) - sum(p.special_tokens_mask) for p in one.overflowing) for one in found]
        ids = [np.array(one.ids, dtype=np.int64) for one in found]
        return ids, [len(one) + more for one, more in zip(ids, rest, strict=True)]

    def counts(self, texts: Sequence[str], kind: str = "document") -> NDArray[np.int64]:
        """Return the number of tokens of each text before the cut, shape (n_texts,)."""
        found = self._encode(self.whole, texts, kind)
        return np.fromiter((len(one) for one in found), dtype=np.int64, count=len(texts))

    def pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Return the token numbers of single words, without a prompt and without special tokens."""
        return [one.ids for one in self.cut.encode_batch_fast(list(words), add_special_tokens=False)]

    def _encode(self, backend: Any, texts: Sequence[str], kind: str) -> Any:
        if kind not in ("query", "document"):
            raise ConfigError(f"kind is {kind!r}, expected 'document' or 'query'")
        prompt = self.prompts.get(kind, "")
        return backend.encode_batch_fast([prompt + text for text in texts] if prompt else list(texts))

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer into a folder and return what `read` needs beside it."""
        self.whole.save(str(folder / FILE), pretty=False)
        return {"max_tokens": self.max_tokens, "prompts": self.prompts, "pad": self.pad, "side": self.side}

    @classmethod
    def read(cls, folder: Path, facts: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
        from tokenizers import Tokenizer

        backend = Tokenizer.from_file(str(folder / FILE))
        return cls(backend, facts["max_tokens"], prompts=facts["prompts"], pad=facts["pad"], side=facts["side"])


def ahead(items: Iterable[T], make: Callable[[T], R]) -> Iterator[tuple[T, R]]:
    """Yield each item with what `make` makes of it, the next one being made in a thread while one is in use.

    Examples
    --------
    >>> list(ahead([1, 2, 3], lambda n: n * n))
    [(1, 1), (2, 4), (3, 9)]
    """
    with ThreadPoolExecutor(1, thread_name_prefix="tokens") as pool:
        waiting = None
        for item in items:
            begun = (item, pool.submit(make, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = begun
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def padded(tokens: Sequence[NDArray[np.int64]], pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return one batch as token numbers filled up on the right and their mask, both of shape (n_texts, longest).

    Examples
    --------
    >>> ids, mask = padded([np.array([5, 6]), np.array([7])], pad=0)
    >>> ids.tolist(), mask.tolist()
    ([[5, 6], [7, 0]], [[1, 1], [1, 0]])
    """
    lengths = np.array([len(one) for one in tokens], dtype=np.int64)
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]  # (n_texts, longest)
    ids = np.full(mask.shape, pad, dtype=np.int64)
    ids[mask] = np.concatenate(tokens)
    return ids, mask.astype(np.int64)


def batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch, longest texts first, so that ``n_texts * longest`` stays within `batch_tokens`.

    Examples
    --------
    >>> [batch.tolist() for batch in batches(np.array([2, 9, 2, 3]), 9)]
    [[1], [3, 0, 2]]
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, int(batch_tokens // max(int(lengths[order[start]]), 1)))
        yield order[start : start + size]
        start += size
