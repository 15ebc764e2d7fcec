"""TfidfEncoder: words counted, weighted and folded to a few hundred numbers; no model at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import Artifact, fingerprint, write_artifact
from llm_tail.embedding.runtimes import SAVED_KIND, Kind, Vectors, check_texts, scaled_rows
from llm_tail.embedding.words import Words, document_shares, weighted
from llm_tail.errors import ConfigError
from llm_tail.progress import Bar

Floats = NDArray[np.float32]
_BLOCK = 8192  # texts counted at once: bounds the memory of a call
_MAX_WORDS = 1024


class TfidfEncoder:
    """TF-IDF and a truncated singular value decomposition; made by `fit`, opened again by `read`.

    Parameters
    ----------
    words : Words
        Those that are counted.
    shares : array of float32, shape (n_words,)
        Their inverse document frequencies.
    components : array of float32, shape (n_words, dim)
        The right singular vectors of the weighted counts.

    Notes
    -----
    The same weights as `TfidfSimilarity`: (1 + ln count) times inverse document frequency, unit length, without English
    stop words unless pairs are counted. The vector of a text does not depend on the texts beside it: within 1e-6 in
    each component. A text without a known word has the zero vector. Needs no torch, and scikit-learn only to be fitted.

    Examples
    --------
    >>> encoder = TfidfEncoder.fit(["a white whale", "the whale hunt", "an iron pan", "a pan of iron and steel"], dim=2)
    >>> vectors = encoder.encode(["whale", "white hunt", "pan"])
    >>> bool(vectors[0] @ vectors[1] > 0.99), bool(abs(vectors[0] @ vectors[2]) < 0.01)
    (True, True)
    """

    runtime = "tfidf"
    precision = "fp32"

    def __init__(self, words: Words, shares: Floats, components: Floats) -> None:
        self.words, self.shares, self.components = words, shares, components

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        dim: int = 384,
        n_words: int = 50_000,
        n_texts: int = 100_000,
        pairs: bool = False,
        seed: int = 0,
    ) -> Self:
        """Learn words, weights and the folding.

        Parameters
        ----------
        texts : sequence of str
            The catalogue's own; at most `n_texts` of them, spread evenly, are looked at.
        dim : int
            The width of a vector; less where there are fewer texts or words.
        n_words, n_texts : int
            Words that are counted, those of most texts first, and texts that they are taken from.
        pairs : bool
            Count pairs of words that follow each other too; English stop words are kept then, since they part what
            belongs together from what does not.
        seed : int
            Of the randomised decomposition.

        Raises
        ------
        DataError
            If no text holds a word that says something.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        texts = [text for text in check_texts(texts) if text.strip()]
        if len(texts) > n_texts:
            texts = [texts[i] for i in np.linspace(0, len(texts) - 1, n_texts).astype(np.int64)]
        left_out = () if pairs else ENGLISH_STOP_WORDS
        words = Words.learn(texts, n_words, _MAX_WORDS, left_out=left_out, pairs=pairs, least=2 if pairs else 1)
        blocks = (texts[start : start + _BLOCK] for start in range(0, len(texts), _BLOCK))
        counts = sp.vstack([words.count(block, unknown=False)[0] for block in blocks], format="csr")
        shares = document_shares(counts, len(words))
        matrix = weighted(counts, shares)  # (n_texts, n_words)
        dim = min(dim, *matrix.shape)
        if dim == min(matrix.shape):  # the randomised way needs a larger matrix than what is asked of it
            _, _, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
            components = right[:dim].T
        else:
            components = TruncatedSVD(dim, random_state=seed).fit(matrix).components_.T
        return cls(words, shares, np.ascontiguousarray(components, dtype=np.float32))

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return int(self.components.shape[1])

    @property
    def max_tokens(self) -> int:
        """Texts are cut at this many words."""
        return self.words.max_words

    @cached_property
    def fingerprint(self) -> str:
        """Digest of words, weights and folding."""
        kind = ["pairs"] if self.words.pairs else []
        return fingerprint("tfidf-1", self.words.words, self.max_tokens, self.shares, self.components, *kind)

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
                counts, _, lengths[start : start + len(block)] = self.words.count(block, unknown=False)
                weights = weighted(counts, self.shares)  # (n_block, n_words)
                vectors[start : start + len(block)] = scaled_rows(weights @ self.components)
                if bar is not None:
                    bar.advance(len(block))
        return vectors, lengths

    def token_counts(self, texts: Sequence[str], *, kind: Kind = "document") -> NDArray[np.int64]:
        """Return the number of words of each text before it is cut, shape (n_texts,)."""
        return self.words.numbers(check_texts(texts))

    def save(self, folder: str | Path, made_from: str = "", **more: Any) -> Path:
        """Write the folding as safetensors and the words as JSON, to be opened by `open_runtime`.

        Parameters
        ----------
        folder : str or Path
            Replaced whole, and only at the end.
        made_from : str
            Digest of what it was learned from.
        **more : JSON values
            Facts that stand in its manifest, such as what the texts are made of.
        """
        facts = {**more, "runtime": self.runtime, "max_words": self.max_tokens, "pairs": self.words.pairs}
        with write_artifact(folder, SAVED_KIND, made_from, facts) as draft:
            save_file({"shares": self.shares, "components": self.components}, draft.file("table.safetensors"))
            draft.file("words.json").write_text(json.dumps(self.words.words, ensure_ascii=False), encoding="utf-8")
        return Path(folder)

    @classmethod
    def read(cls, artifact: Artifact) -> Self:
        """Return what `save` wrote."""
        tensors = load_file(artifact.file("table.safetensors"))
        known, facts = json.loads(artifact.file("words.json").read_text(encoding="utf-8")), artifact.facts
        words = Words(known, facts["max_words"], pairs=facts.get("pairs", False))
        return cls(words, tensors["shares"], tensors["components"])

    def __repr__(self) -> str:
        return f"TfidfEncoder({len(self.words):,} words, {self.dim} wide)"
