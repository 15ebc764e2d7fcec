"""Batches of pairs, planned beforehand: which texts, which pairs of them, who is no negative of whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import Dataset

from llm_tail.config import LoraConfig
from llm_tail.data.ids import Rows
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.losses import PairBatch
from llm_tail.embedding.negatives import Search, mine_negatives
from llm_tail.embedding.pairs import CO_INTERACTION, HISTORY, TextPairs
from llm_tail.errors import DataError

NEGATIVES = "negatives.npy"
_ENCODE_BLOCK = 8192
_MEAN_TEXTS = 2048  # texts that the mean of the catalogue is taken from; more move it by less than a hundredth


@dataclass(frozen=True)
class BatchPlan:
    """One batch: rows of texts, and places among them.

    Parameters
    ----------
    texts : array of int64, shape (n_texts,)
        Rows of the distinct texts of the batch; a text that stands in several pairs is encoded once.
    anchors, positives : array of int64, shape (n,)
        Places of the two sides of each pair in `texts`.
    negatives : array of int64, shape (n_negatives,)
        Places of the hard negatives.
    pairs : array of int64, shape (n,)
        Which pairs these are.
    """

    texts: Rows
    anchors: Rows
    positives: Rows
    negatives: Rows
    pairs: Rows


class BatchPlanner(Dataset[dict[str, int]]):
    """All batches of a training, each a function of the seed and its number; as a data set, the numbers alone.

    Parameters
    ----------
    pairs : TextPairs
        What is trained on; pairs of different kinds never share a batch, so that an easy kind lends no easy negatives
        to a hard one.
    base : Encoder
        The encoder before training: tokenizes, and is the guide that tells false negatives.
    config : LoraConfig
        Batch size, negatives, augmentation.
    seed : int
        Seeds order and augmentation.
    search : callable, optional
        Finds neighbours for hard negatives, see `mine_negatives`; exact search where it is left out.
    """

    def __init__(
        self, pairs: TextPairs, base: Encoder, config: LoraConfig, seed: int, search: Search | None = None
    ) -> None:
        self.pairs, self.base, self.config, self.seed, self.search = pairs, base, config, seed, search
        self.batches = _order(pairs, config, np.random.default_rng(seed))
        # Equal texts bear the same number: they are no negatives of each other, whatever their rows.
        self._same = pd.factorize(np.array(pairs.texts, dtype=object))[0]  # (n_texts,)
        self._tokens: dict[int, list[int]] = {}
        self._guide: NDArray[np.float16] | None = None
        self.mean = self._mean() if config.centre else None  # (dim,)
        if config.keep:
            self._staying, self._base_vectors = self._stay()
        self.negatives: NDArray[np.int64] | None = None  # (n_pairs, hard_negatives), -1 where there is none
        guide = (
            self._vectors(base, self._sides) if config.false_negatives == "similar" or config.hard_negatives else None
        )
        if config.false_negatives == "similar":
            self._guide = guide
        if config.hard_negatives and guide is not None:
            self.negatives = self._mine(guide, 0)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, int]:
        return {"step": step}  # the plan is made when its turn has come: hard negatives change on the way

    def plan(self, step: int) -> BatchPlan:
        """Return the batch of a step."""
        chosen = self.batches[step]
        anchors, positives = self.pairs.anchors[chosen], self.pairs.positives[chosen]
        hard = np.empty(0, np.int64)
        if self.negatives is not None:
            hard = np.unique(self.negatives[chosen])
            hard = hard[hard >= 0]
        others = self._others(step)
        if self._apart and self.pairs.kinds[chosen[0]] in (CO_INTERACTION, HISTORY):
            touched = others[
                np.diff(self.pairs.readers.indptr)[others] > 0
            ]  # who was never shown was never turned down
            hard = np.union1d(hard, np.setdiff1d(touched, np.concatenate([anchors, positives])))
        texts = np.unique(np.concatenate([anchors, positives, hard, others]))
        first, second, third = (np.searchsorted(texts, rows) for rows in (anchors, positives, hard))
        return BatchPlan(texts, first, second, third, chosen)

    def _others(self, step: int) -> Rows:
        """Return rows of texts of any items that only have to stay true to the base."""
        if not self.config.others or not (self.config.keep or self._apart):
            return np.empty(0, np.int64)
        n = self.pairs.n_items
        drawn = np.random.default_rng([self.seed, step, 1]).choice(n, min(self.config.others, n), replace=False)
        return drawn[[bool(self.pairs.texts[row].strip()) for row in drawn]].astype(np.int64)

    def tokens(self, plan: BatchPlan, step: int) -> list[list[int]]:
        """Return the token lists of a batch's texts; words drop out where ``word_dropout`` says so."""
        new = [int(row) for row in plan.texts if int(row) not in self._tokens]
        self._tokens.update(zip(new, self._tokenize([self.pairs.texts[row] for row in new]), strict=True))
        tokens = [self._tokens[int(row)] for row in plan.texts]
        rng = np.random.default_rng([self.seed, step])  # the same after a restart
        if self.config.field_dropout:
            shorter = self.pairs.shortened(plan.texts, self.config.field_dropout, rng)
            for place, found in zip(shorter, self._tokenize(list(shorter.values())), strict=True):
                tokens[place] = found
        if self.config.word_dropout:
            tokens = [_thinned(text, self.config.word_dropout, rng) for text in tokens]
        return tokens

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.base.tokenize(texts, max_tokens=self.config.max_tokens)

    def batch(self, plan: BatchPlan, vectors: Tensor) -> PairBatch:
        """Return what the loss sees: vectors by side, masks, popularities, strengths."""
        pairs, device = self.pairs, vectors.device
        before = self._before(plan.texts).to(device) if self.config.keep else None
        vectors = self._centred(vectors)
        before = None if before is None else self._centred(before)
        rows = [plan.texts[place] for place in (plan.anchors, plan.positives, plan.negatives)]
        anchors, positives, hard = rows

        def put(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        masked = self._masked(anchors, positives, positives, hard=False)
        np.fill_diagonal(masked, False)
        popularity = [put(pairs.log_popularity[side]) for side in rows]
        kind = int(pairs.kinds[plan.pairs[0]])
        targets = put(pairs.strengths_between(anchors, positives, kind)) if self._soft else None
        return PairBatch(
            vectors[put(plan.anchors)],
            vectors[put(plan.positives)],
            put(masked),
            (popularity[0], popularity[1]),
            negatives=vectors[put(plan.negatives)] if len(hard) else None,
            masked_negatives=put(self._masked(anchors, positives, hard, hard=True)) if len(hard) else None,
            negative_popularity=popularity[2] if len(hard) else None,
            strengths=put(pairs.strengths[plan.pairs]),
            targets=targets,
            texts=vectors,
            before=before,
        )

    def _centred(self, vectors: Tensor) -> Tensor:
        return vectors if self.mean is None else normalize(vectors - self.mean.to(vectors.device), dim=1)

    def _before(self, rows: Rows) -> Tensor:
        """Return the vectors that texts had before training, shape (n_texts, dim)."""
        return torch.from_numpy(self._base_vectors[np.searchsorted(self._staying, rows)].astype(np.float32))

    def _stay(self) -> tuple[Rows, NDArray[np.float16]]:
        """Return the rows of all texts that any step will see, and the base's vectors of them, cut as in training.

        Made at once: in half precision a vector depends a little on what it is batched with, and a training that goes
        on after a kill has to hold its texts to the same ones.
        """
        rows = np.unique(np.concatenate([self._sides, *(self._others(step) for step in range(len(self)))]))
        return rows, self._encoded(self.base.cut_at(self.config.max_tokens), rows)

    @property
    def _apart(self) -> bool:
        return self.config.loss == "contrastive" and self.config.others_apart

    @property
    def _soft(self) -> bool:
        return self.config.loss == "contrastive" and self.config.soft_labels > 0

    def _masked(self, anchors: Rows, positives: Rows, candidates: Rows, *, hard: bool) -> NDArray[np.bool_]:
        """Return which candidates are no negatives: the anchor itself, its positive, and what the setting names."""
        same = self._same
        masked: NDArray[np.bool_] = same[anchors][:, None] == same[candidates]  # (n, n_candidates)
        twins = same[positives][:, None] == same[candidates]
        soft = self._soft and not hard  # soft labels say of each positive of the batch what it is, its own again
        masked |= twins & (positives[:, None] != candidates) if soft else twins
        if hard or (self.config.false_negatives == "together" and not soft):
            masked |= self.pairs.together(anchors, candidates)
        if self.config.false_negatives == "similar":
            guide = self._guide
            if guide is None:
                raise DataError("the guide's vectors are missing")
            near = guide[anchors].astype(np.float32) @ guide[candidates].astype(np.float32).T  # (n, n_candidates)
            own = np.einsum("ij,ij->i", guide[anchors].astype(np.float32), guide[positives].astype(np.float32))
            masked |= near > own[:, None]  # closer than the positive is: likely one too (GISTEmbed, Solatorio 2024)
        return masked

    def renew(self, step: int, encoder: Encoder) -> None:
        """Mine hard negatives again half-way, with the encoder as it is by then."""
        if self.negatives is not None and step == len(self) // 2 and step > 0:
            encoder.model.eval()
            self.negatives = self._mine(self._vectors(encoder, self._sides), step)

    def _mean(self) -> Tensor:
        """Return the mean vector of the items' texts by the base: what all of them share tells none apart."""
        rows = np.random.default_rng(self.seed).permutation(self.pairs.n_items)[:_MEAN_TEXTS]
        vectors = self._vectors(self.base, np.sort(rows))[rows].astype(np.float32)
        return torch.from_numpy(vectors.sum(axis=0) / max(int(vectors.any(axis=1).sum()), 1))

    def _mine(self, vectors: NDArray[np.float16], step: int) -> NDArray[np.int64]:
        config = self.config
        return mine_negatives(
            vectors,
            self.pairs,
            n=config.hard_negatives,
            window=(config.negative_ranks[0], config.negative_ranks[1]),
            margin=config.negative_margin,
            seed=self.seed + step,
            search=self.search,
        )

    @property
    def _sides(self) -> Rows:
        return np.unique(np.concatenate([self.pairs.anchors, self.pairs.positives]))

    def _vectors(self, encoder: Encoder, rows: Rows) -> NDArray[np.float16]:
        """Return the vectors of the texts of `rows`, zero for others, in half precision, shape (n_texts, dim).

        Neither a guide nor a search among far more than 50 needs more digits, and a million take 0.8 GB.
        """
        vectors = np.zeros((len(self.pairs.texts), encoder.dim), dtype=np.float16)
        vectors[rows] = self._encoded(encoder, rows)
        return vectors

    def _encoded(self, encoder: Encoder, rows: Rows) -> NDArray[np.float16]:
        """Return the vectors of the texts of `rows` alone, shape (n_rows, dim), made in blocks."""
        vectors = np.empty((len(rows), encoder.dim), dtype=np.float16)
        for start in range(0, len(rows), _ENCODE_BLOCK):
            block = slice(start, start + _ENCODE_BLOCK)
            vectors[block] = encoder.encode([self.pairs.texts[row] for row in rows[block]], progress=True)
        return vectors

    def save(self, folder: Path) -> None:
        """Write what a restart cannot make again: the hard negatives, which depend on the weights of their time."""
        if self.negatives is not None:
            np.save(folder / NEGATIVES, self.negatives, allow_pickle=False)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        if self.negatives is not None:
            self.negatives = np.load(folder / NEGATIVES, allow_pickle=False)


def _order(pairs: TextPairs, config: LoraConfig, rng: np.random.Generator) -> list[Rows]:
    """Return the pairs of each batch, of one kind each, in random order; whole batches only, anew in each epoch."""
    found: list[Rows] = []
    for _ in range(config.epochs):
        one: list[Rows] = []
        for kind in np.unique(pairs.kinds):
            rows = rng.permutation(np.flatnonzero(pairs.kinds == kind))
            size = min(config.batch_size, len(rows))
            if size > 1:  # a pair alone has nothing to be told apart from
                one += [rows[i * size : (i + 1) * size] for i in range(len(rows) // size)]
        found += [one[i] for i in rng.permutation(len(one))]
    return found


def _thinned(tokens: list[int], share: float, rng: np.random.Generator) -> list[int]:
    """Return tokens with some left out; the first and the last, which may be special, always stay."""
    kept = rng.random(len(tokens)) >= share
    kept[:1] = kept[-1:] = True
    return [token for token, keep in zip(tokens, kept, strict=True) if keep]
