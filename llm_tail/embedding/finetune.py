"""LoRA on an encoder: item texts that the same people took are pulled together."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_tail.config import LoraConfig
from llm_tail.data.ids import Rows
from llm_tail.embedding.adapters import attach
from llm_tail.embedding.encoder import Encoder, batches
from llm_tail.embedding.pairs import TextPairs
from llm_tail.errors import DataError
from llm_tail.progress import Bar

_PART_TOKENS = 2048  # padded tokens that go through the model at once; a fifth faster than the whole batch on a CPU


@dataclass
class TrainingLog:
    """How a training went.

    Parameters
    ----------
    steps : list of dict
        For each step its number (from 1), ``loss`` and ``learning_rate``.
    provenance : dict
        What the pairs were made from.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [step["loss"] for step in self.steps]

    def write(self, path: str | Path) -> Path:
        """Write one JSON object a line: first the provenance, then each step."""
        lines = [{"provenance": self.provenance}, *self.steps]
        path = Path(path)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    def __repr__(self) -> str:
        if not self.steps:
            return "TrainingLog(0 steps)"
        return f"TrainingLog({len(self.steps):,} steps, loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f})"


def finetune(
    base: Encoder,
    pairs: TextPairs,
    config: LoraConfig | None = None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Encoder:
    """Return the encoder with a LoRA adapter trained on the pairs; `base` itself stays as it is.

    Parameters
    ----------
    base : Encoder
        Any transformer encoder, without an adapter; its weights are shared and stay frozen.
    pairs : TextPairs
        At least two; seen once each, in random order. With fewer than a batch, all of them make the batch.
    config : LoraConfig, optional
        Rank, learning rate, temperature and so on.
    seed : int
        Seeds the adapter, the order and the dropout; the random state of the process is left alone.
    folder : path, optional
        Where to save the adapter and the loss curve (``training.jsonl``) once training is through.

    Raises
    ------
    DataError
        If there are fewer than two pairs, or the loss stops being a number; nothing is saved then.
    ConfigError
        If no layer of the model bears a name in ``target_modules``; the layers there are get named.

    Notes
    -----
    The loss is InfoNCE with in-batch negatives, in both directions: the cosine over the temperature, minus
    ``popularity_correction`` times the log-popularity of the candidate, which else would be pushed away for being in
    many batches (logQ; Yi et al., "Sampling-bias-corrected neural modeling", RecSys 2019, equation 3, where the weight
    is 1). Equal items and pairs known to be positive are no negatives of each other. The adapter is that of Hu et al.,
    "LoRA: Low-rank adaptation of large language models", ICLR 2022, on every linear layer of the blocks.
    One step costs about three forward passes over 2 * batch_size texts; a batch is held in memory whole.
    """
    config = config or LoraConfig()
    if len(pairs) < 2:
        raise DataError(f"fine-tuning needs at least 2 pairs to tell apart, found {len(pairs)}")
    devices = [base.model.device] if base.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        encoder = attach(base, config)
        encoder.training = _train(encoder, pairs, config, np.random.default_rng(seed))
    encoder.seal_adapter()
    if folder is not None:
        encoder.save_adapter(folder)
    return encoder


def _train(encoder: Encoder, pairs: TextPairs, config: LoraConfig, rng: np.random.Generator) -> TrainingLog:
    size = min(config.batch_size, len(pairs))
    n_steps = len(pairs) // size
    weights = [p for p in encoder.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, n_steps, config.warmup_share))
    known = np.unique(_keys(pairs.anchors, pairs.positives, len(pairs.texts)))
    tokens = _Tokens(encoder, pairs.texts, config.max_tokens)
    log = TrainingLog(provenance={**pairs.provenance, "lora": config.model_dump()})
    order = rng.permutation(len(pairs))
    _only_adapter_dropout(encoder)
    with Bar("fine-tuning", n_steps) as bar:
        for step in range(n_steps):
            batch = order[step * size : (step + 1) * size]
            rows = np.concatenate([pairs.anchors[batch], pairs.positives[batch]])  # (2 * size,)
            items, places = np.unique(rows, return_inverse=True)  # an item in several pairs is encoded once
            vectors = _encode(encoder, tokens.of(items))[places]  # (2 * size, dim)
            loss = contrastive_loss(vectors[:size], vectors[size:], *_corrections(rows, pairs, known, config, vectors))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DataError(
                    f"the loss became {value} at step {step + 1} of {n_steps}; nothing was saved; try a smaller "
                    f"[lora] learning_rate (now {config.learning_rate:g}) or [encoder] precision = 'fp32'"
                )
            log.steps.append({"step": step + 1, "loss": value, "learning_rate": float(schedule.get_last_lr()[0])})
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            bar.advance(note=f"loss {value:.3f}")
    encoder.model.eval()
    return log


def _encode(encoder: Encoder, tokens: list[Any]) -> Tensor:
    """Return the vectors of a training batch, with gradients, made in parts that fit the processor's caches."""
    parts = list(batches(np.array([len(text) for text in tokens]), _PART_TOKENS))
    vectors = torch.cat([encoder.forward([tokens[i] for i in part]) for part in parts])  # (n, dim), longest first
    return vectors[torch.from_numpy(np.argsort(np.concatenate(parts))).to(vectors.device)]


def contrastive_loss(
    anchors: Tensor, positives: Tensor, masked: Tensor, correction: tuple[Tensor, Tensor], temperature: float
) -> Tensor:
    """Return the mean InfoNCE loss of both directions.

    Parameters
    ----------
    anchors, positives : Tensor, shape (n, dim)
        Unit vectors.
    masked : Tensor of bool, shape (n, n)
        Candidates that are no negatives of an anchor (line); the diagonal is False.
    correction : two Tensors, shape (n,)
        Subtracted from the logits of each anchor and each positive where it is the candidate.
    temperature : float
        Divides the cosines.
    """
    logits = anchors @ positives.T / temperature  # (n, n)
    target = torch.arange(len(anchors), device=anchors.device)
    forth = (logits - correction[1]).masked_fill(masked, -torch.inf)
    back = (logits.T - correction[0]).masked_fill(masked.T, -torch.inf)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(forth, target) + cross_entropy(back, target)) / 2


def _corrections(
    rows: Rows, pairs: TextPairs, known: NDArray[np.int64], config: LoraConfig, like: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor], float]:
    """Return the mask of false negatives, the popularity terms and the temperature for one batch."""
    anchors, positives = rows.reshape(2, -1)  # (n,) each
    keys = _keys(anchors[:, None], positives[None, :], len(pairs.texts))  # (n, n)
    places = np.searchsorted(known, keys).clip(max=len(known) - 1)
    same = (anchors[:, None] == anchors) | (positives[:, None] == positives) | (anchors[:, None] == positives)
    masked = (known[places] == keys) | same
    np.fill_diagonal(masked, False)
    weighted = config.popularity_correction * pairs.log_popularity[rows]
    terms = torch.from_numpy(weighted.astype(np.float32)).to(like.device)
    n = len(anchors)
    return torch.from_numpy(masked).to(like.device), (terms[:n], terms[n:]), config.temperature


def _keys(first: Rows, second: Rows, n_items: int) -> NDArray[np.int64]:
    """Return one number for each unordered pair of item rows."""
    return np.minimum(first, second) * np.int64(n_items) + np.maximum(first, second)


def _rate(step: int, n_steps: int, warmup_share: float) -> float:
    """Return the share of the learning rate at a step: up in a line, then down in a line."""
    warmup = math.ceil(warmup_share * n_steps)
    if step < warmup:
        return (step + 1) / warmup
    return (n_steps - step) / max(n_steps - warmup, 1)


def _only_adapter_dropout(encoder: Encoder) -> None:
    # The frozen part stays as it is in use: its own dropout would only blur the teacher, and costs the fast attention.
    for name, module in encoder.model.named_modules():
        module.training = "lora_dropout" in name


class _Tokens:
    """Token lists by item row, made when first asked for and kept."""

    def __init__(self, encoder: Encoder, texts: list[str], max_tokens: int) -> None:
        self._encoder, self._texts, self._max_tokens = encoder, texts, max_tokens
        self._known: dict[int, Any] = {}

    def of(self, rows: Rows) -> list[Any]:
        new = [int(row) for row in rows if int(row) not in self._known]
        tokens = self._encoder.tokenize([self._texts[row] for row in new], max_tokens=self._max_tokens)
        self._known.update(zip(new, tokens, strict=True))
        return [self._known[int(row)] for row in rows]
