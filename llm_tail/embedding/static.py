"""StaticEncoder: one vector a word, learned from an encoder; a text is the weighted sum of its words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import Artifact, fingerprint, write_artifact
from llm_tail.embedding.runtimes import SAVED_KIND, Kind, Vectors, check_texts, scaled_rows
from llm_tail.embedding.tokens import Tokens
from llm_tail.embedding.words import Words, document_shares, weighted
from llm_tail.errors import ConfigError
from llm_tail.progress import Bar

if TYPE_CHECKING:
    from llm_tail.embedding.encoder import Encoder

Floats = NDArray[np.float32]
_TENSORS = ("table", "shares", "mean", "pieces")
_BLOCK = 8192  # texts counted at once: bounds the memory of a call
_STEPS = 40  # of conjugate gradients; 20 to 30 are needed
_HELD_SHARE = 0.05  # of the taught texts, to say how well others are met
_PIECE_RIDGE = 1.0  # times the mean diagonal: how strongly pieces are drawn to what all words share


class StaticEncoder:
    """A table of word vectors; made by `distill`, opened again by `read`.

    Parameters
    ----------
    words : Words
        Those that have a row of their own.
    table : array of float32, shape (n_words, dim)
        Their vectors.
    shares : array of float32, shape (n_words,)
        Their inverse document frequencies.
    mean : array of float32, shape (dim,)
        What all texts share.
    pieces : array of float16, shape (n_pieces, dim)
        Vectors of the encoder's word pieces; a word without a row is the mean of its pieces.
    tokens : Tokens, optional
        What cuts words into pieces; without it unknown words say nothing.
    name : str
        The encoder it was learned from.
    agreement : float
        Mean cosine with the encoder on texts that were held out when learning; nan where there were too few.

    Notes
    -----
    The vector of a text does not depend on the texts beside it: within 1e-6 in each component. Order of words, and
    what they mean together, is lost; prompts are not looked at. Needs no torch.
    """

    runtime = "static"
    precision = "fp32"

    def __init__(
        self,
        words: Words,
        table: Floats,
        shares: Floats,
        mean: Floats,
        pieces: NDArray[np.float16],
        tokens: Tokens | None,
        *,
        name: str,
        agreement: float = float("nan"),
    ) -> None:
        self.words, self.table, self.shares, self.mean = words, table, shares, mean
        self.pieces, self.tokens, self.name, self.agreement = pieces, tokens, name, agreement

    @classmethod
    def distill(
        cls,
        encoder: Encoder,
        texts: Sequence[str],
        *,
        n_texts: int = 20_000,
        n_words: int = 50_000,
        ridge: float = 0.3,
    ) -> Self:
        """Learn a table with which the sum of a text's words comes near to the encoder's vector of the text.

        Parameters
        ----------
        encoder : Encoder
            The teacher, tuned or not.
        texts : sequence of str
            The catalogue's own. Words are taken from all, vectors from at most `n_texts`, spread evenly.
        n_texts : int
            Texts that the teacher encodes; most of the time goes there.
        n_words : int
            Words that get a row, those of most texts first.
        ridge : float
            How strongly rows are held to the teacher's vectors of the single words; 0.1 to 1 hardly differ.

        Raises
        ------
        DataError
            If no text holds a word.

        Notes
        -----
        Single words encoded by the teacher, weighted by inverse document frequency, are where model2vec (S. Tulkens,
        T. van Dongen, "Model2Vec: fast state-of-the-art static embeddings", 2024) ends and this begins: with X the
        weighted counts of words, T the teacher's centred vectors of the texts and Z those of the words, the table
        solves min |X W - T|^2 + ridge |W - Z|^2 by conjugate gradients. There is no PCA: the width stays the teacher's,
        so that both can be compared. Time: that of the teacher on the texts and words, plus 0.2 s a thousand texts.
        """
        texts = [text for text in check_texts(texts) if text.strip()]
        words = Words.learn(texts, n_words, encoder.max_tokens)
        taught = texts if len(texts) <= n_texts else [texts[i] for i in _even(len(texts), n_texts)]
        shares = document_shares(words.count(texts)[0] if len(texts) <= n_texts else _counts(words, texts), len(words))
        counts = weighted(words.count(taught)[0][:, : len(words)], shares)  # (n_taught, n_words)
        target = encoder.encode(taught, progress=True)  # (n_taught, dim)
        single = encoder.encode(words.words, progress=True)  # (n_words, dim)
        held = _held(len(taught))
        mean = target[~held].mean(axis=0)
        table = _solved(counts[~held], target[~held] - mean, single - single.mean(axis=0), ridge)
        tokens = _tokens(encoder)
        pieces = _pieces(encoder, tokens, words, table)
        made = cls(words, table, shares, mean, pieces, tokens, name=encoder.config.name)
        if held.any():
            there = made.encode([text for text, out in zip(taught, held, strict=True) if out])
            made.agreement = float((there * target[held]).sum(axis=1).mean())
        return made

    @property
    def dim(self) -> int:
        """The width of a vector: the teacher's."""
        return int(self.table.shape[1])

    @property
    def max_tokens(self) -> int:
        """Texts are cut at this many words."""
        return self.words.max_words

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the table and all that goes with it."""
        parts = (self.table, self.shares, self.mean, self.pieces)
        return fingerprint("static-1", self.words.words, self.max_tokens, *parts)

    def encode(
        self, texts: Sequence[str], *, kind: Kind = "document", batch_tokens: int = 2048, progress: bool = False
    ) -> Vectors:
        """Return the unit vectors of texts, as `Encoder.encode` does; `batch_tokens` changes nothing."""
        return self.encode_counted(texts, kind=kind, batch_tokens=batch_tokens, progress=progress)[0]

    def encode_counted(
        self, texts: Sequence[str], *, kind: Kind = "document", batch_tokens: int = 2048, progress: bool = False
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """Return vectors as `encode` does, and the words of each text before the cut."""
        if kind not in ("query", "document"):
            raise ConfigError(f"kind is {kind!r}, expected 'document' or 'query'")
        texts = check_texts(texts)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)  # (n_texts, dim)
        lengths = np.zeros(len(texts), dtype=np.int64)
        with Bar("encoding", len(texts)) if progress else nullcontext() as bar:
            for start in range(0, len(texts), _BLOCK):
                block = texts[start : start + _BLOCK]
                counts, unknown, lengths[start : start + len(block)] = self.words.count(block)
                rare = np.full(len(unknown), self._rarest, dtype=np.float32)
                weights = weighted(counts, np.concatenate([self.shares, rare]))  # (n_block, n_words + n_unknown)
                sums = weights[:, : len(self.words)] @ self.table
                if unknown:
                    sums += weights[:, len(self.words) :] @ self._spelled(unknown)
                sums += self.mean
                sums[np.diff(counts.indptr) == 0] = 0.0
                vectors[start : start + len(block)] = scaled_rows(sums)
                if bar is not None:
                    bar.advance(len(block))
        return vectors, lengths

    def token_counts(self, texts: Sequence[str], *, kind: Kind = "document") -> NDArray[np.int64]:
        """Return the number of words of each text before it is cut, shape (n_texts,)."""
        return self.words.numbers(check_texts(texts))

    def save(self, folder: str | Path, made_from: str = "") -> Path:
        """Write the table as safetensors and the words as JSON, to be opened by `open_runtime`."""
        facts: dict[str, Any] = {"runtime": self.runtime, "name": self.name, "max_words": self.max_tokens}
        facts["agreement"] = self.agreement if np.isfinite(self.agreement) else None
        with write_artifact(folder, SAVED_KIND, made_from, facts) as draft:
            tensors: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _TENSORS}
            save_file(tensors, draft.file("table.safetensors"))
            draft.file("words.json").write_text(json.dumps(self.words.words, ensure_ascii=False), encoding="utf-8")
            draft.facts["tokens"] = self.tokens.save(draft.data) if self.tokens else None
        return Path(folder)

    @classmethod
    def read(cls, artifact: Artifact) -> Self:
        """Return what `save` wrote."""
        tensors, facts = load_file(artifact.file("table.safetensors")), artifact.facts
        words = Words(json.loads(artifact.file("words.json").read_text(encoding="utf-8")), facts["max_words"])
        tokens = Tokens.read(artifact.data, facts["tokens"]) if facts["tokens"] else None
        arrays: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
        agreement = float("nan") if facts["agreement"] is None else facts["agreement"]
        return cls(words, tokens=tokens, name=facts["name"], agreement=agreement, **arrays)

    @cached_property
    def _rarest(self) -> float:
        """The share of a word that stands in no text: a little rarer than the rarest."""
        return float(self.shares.max()) + float(np.log(2.0))

    def _spelled(self, unknown: list[str]) -> Floats:
        """Return the vectors of words without a row, shape (n_unknown, dim)."""
        if self.tokens is None or not len(self.pieces):
            return np.zeros((len(unknown), self.dim), dtype=np.float32)
        return _means(self.pieces, self.tokens.pieces(unknown))

    def __repr__(self) -> str:
        return f"StaticEncoder({len(self.words):,} words of {self.name}, {self.dim} wide)"


def _solved(counts: sp.csr_matrix, target: Floats, single: Floats, ridge: float) -> Floats:
    """Return the table that `StaticEncoder.distill` tells, shape (n_words, dim)."""
    there = counts @ single
    scale = float((there * target).sum() / max(float((there * there).sum()), 1e-12))
    table = single * np.float32(scale)
    back = counts.T.tocsr()
    left = back @ (target - counts @ table)  # (n_words, dim)
    size = np.sqrt((left * left).sum())
    usual = 1 / (np.asarray(counts.multiply(counts).sum(axis=0)).ravel() + ridge)[:, None]  # (n_words, 1)
    move = usual * left
    step = move.copy()
    strength = (left * move).sum(axis=0)  # (dim,)
    for _ in range(_STEPS):
        if size == 0 or np.sqrt((left * left).sum()) < 1e-2 * size:
            break
        turned = back @ (counts @ step) + ridge * step
        along = strength / np.maximum((step * turned).sum(axis=0), 1e-20)
        table += along * step
        left -= along * turned
        move = usual * left
        now = (left * move).sum(axis=0)
        step = move + (now / np.maximum(strength, 1e-20)) * step
        strength = now
    return table.astype(np.float32)


def _pieces(encoder: Encoder, tokens: Tokens | None, words: Words, table: Floats) -> NDArray[np.float16]:
    """Return a vector for each word piece: the linear map of the encoder's input table that best spells the words."""
    if tokens is None:
        return np.zeros((0, table.shape[1]), dtype=np.float16)
    inputs = encoder.model[0].auto_model.get_input_embeddings().weight.detach().float().cpu().numpy()
    spelled = _means(inputs, tokens.pieces(words.words))  # (n_words, hidden)
    middle, mean = spelled.mean(axis=0), table.mean(axis=0)
    left = (spelled - middle).astype(np.float64)
    gram = left.T @ left
    gram += np.eye(len(gram)) * max(float(np.trace(gram)) / len(gram), 1e-9) * _PIECE_RIDGE
    turn = np.linalg.solve(gram, left.T @ (table - mean)).astype(np.float32)  # (hidden, dim)
    made: NDArray[np.float16] = ((inputs - middle) @ turn + mean).astype(np.float16)
    return made


def _means(rows: NDArray[Any], numbers: list[list[int]]) -> Floats:
    """Return the mean of the rows of each list, zero for an empty one, shape (n_lists, width)."""
    lengths = np.array([len(one) for one in numbers], dtype=np.int64)
    flat = np.array([number for one in numbers for number in one], dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    used, columns = np.unique(flat, return_inverse=True)
    shares = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    mean = sp.csr_matrix((shares, columns, ends), shape=(len(numbers), len(used)))
    return np.asarray(mean @ rows[used].astype(np.float32), dtype=np.float32)


def _tokens(encoder: Encoder) -> Tokens | None:
    try:
        return Tokens.of(encoder)
    except ConfigError:
        return None


def _counts(words: Words, texts: Sequence[str]) -> sp.csr_matrix:
    """Return the counts of many texts, made in blocks."""
    blocks = (words.count(texts[start : start + _BLOCK])[0] for start in range(0, len(texts), _BLOCK))
    return sp.csr_matrix(sp.vstack([block[:, : len(words)] for block in blocks]))


def _even(n: int, k: int) -> NDArray[np.int64]:
    return np.linspace(0, n - 1, k).astype(np.int64)


def _held(n: int) -> NDArray[np.bool_]:
    """Return which of `n` texts are held out: one in twenty, none of fewer than 200."""
    held = np.zeros(n, dtype=bool)
    if n >= 200:
        held[_even(n, int(n * _HELD_SHARE))] = True
    return held
