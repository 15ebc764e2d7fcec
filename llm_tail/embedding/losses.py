"""Losses on the vectors of a batch of pairs: what lies together is pulled together, all else pushed apart.

Every loss here is a function of unit vectors, so that the same batch can be cut to shorter vectors (Matryoshka), be
blurred (noise) or come from several processes, and no loss knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from llm_tail.config import LoraConfig


@dataclass(frozen=True)
class PairBatch:
    """The vectors of one batch and what is known of them.

    Parameters
    ----------
    anchors, positives : Tensor, shape (n, dim)
        Unit vectors.
    masked : Tensor of bool, shape (n, n)
        Positives (columns) that are no negatives of an anchor (rows); the diagonal is False.
    popularity : two Tensors, shape (n,)
        Log-popularity of each anchor and each positive, <= 0.
    negatives : Tensor, shape (n_negatives, dim), optional
        Hard negatives, candidates for every anchor.
    masked_negatives : Tensor of bool, shape (n, n_negatives), optional
        Hard negatives that are none for an anchor.
    negative_popularity : Tensor, shape (n_negatives,), optional
        Their log-popularity.
    strengths : Tensor, shape (n,), optional
        How strongly the two of a pair belong together, in [0, 1].
    targets : Tensor, shape (n, n), optional
        Soft labels: how strongly any anchor and any positive of the batch belong together, >= 0.
    texts, before : Tensor, shape (n_texts, dim), optional
        Unit vectors of all texts of the batch, as they are and as the base made them.
    """

    anchors: Tensor
    positives: Tensor
    masked: Tensor
    popularity: tuple[Tensor, Tensor]
    negatives: Tensor | None = None
    masked_negatives: Tensor | None = None
    negative_popularity: Tensor | None = None
    strengths: Tensor | None = None
    targets: Tensor | None = None
    texts: Tensor | None = None
    before: Tensor | None = None


Loss = Callable[[PairBatch], Tensor]


@dataclass(frozen=True)
class Contrastive:
    """InfoNCE in both directions, with logQ correction, masks for false negatives, hard negatives and soft labels.

    Parameters
    ----------
    temperature : float
        Divides the cosines, above 0.
    popularity_correction : float
        Weight of the log-popularity that is taken off the logit of a candidate, in [0, 1]. A candidate that stands in
        many batches would else be pushed away for that alone (logQ; Yi et al., "Sampling-bias-corrected neural
        modeling for large corpus item recommendations", RecSys 2019, equation 3, where the weight is 1).
    soft_labels : float
        Share of the target that is spread over the batch by ``targets``, in [0, 1].

    Notes
    -----
    With temperature t, correction b and popularity p: the mean of -log softmax((a_i . p_j) / t - b log p_j) over the
    pairs, and the same with anchors and positives swapped. Hard negatives are candidates of the anchors only.

    What the loss is least at: a softmax equals its target where the logits are the logarithm of the target up to a
    constant. Be s_ij the cosine over t, and q_j how often j stands in batches. With hard labels j is met beside i in
    proportion to p(j | i) and is a negative in proportion to q_j, so that s_ij = log(p(j | i) / q_j) + b log q_j. With
    soft labels each row carries its own target w_ij (the damped strength of the two), whoever else is in the batch, so
    that s_ij = log w_ij + b log q_j: there b makes texts of popular items nearer, and 0 adds nothing.
    A candidate that is masked is in neither the softmax nor the target; those that are left share the whole target.
    """

    temperature: float = 0.05
    popularity_correction: float = 0.5
    soft_labels: float = 0.0

    def __call__(self, batch: PairBatch) -> Tensor:
        """Return the loss, a scalar."""
        cosines = batch.anchors @ batch.positives.T  # (n, n)
        of_anchors, of_positives = (self.popularity_correction * p for p in batch.popularity)
        forth = (cosines / self.temperature - of_positives).masked_fill(batch.masked, -torch.inf)
        back = (cosines.T / self.temperature - of_anchors).masked_fill(batch.masked.T, -torch.inf)
        if batch.negatives is not None and len(batch.negatives):
            hard = batch.anchors @ batch.negatives.T / self.temperature  # (n, n_negatives)
            if batch.negative_popularity is not None:
                hard = hard - self.popularity_correction * batch.negative_popularity
            if batch.masked_negatives is not None:
                hard = hard.masked_fill(batch.masked_negatives, -torch.inf)
            forth = torch.cat([forth, hard], dim=1)  # (n, n + n_negatives)
        targets = None if batch.targets is None or not self.soft_labels else batch.targets
        if targets is None:
            places = torch.arange(len(cosines), device=cosines.device)
            return (cross_entropy(forth, places) + cross_entropy(back, places)) / 2
        return (self._soft(forth, targets, batch.masked) + self._soft(back, targets.T, batch.masked.T)) / 2

    def _soft(self, logits: Tensor, targets: Tensor, masked: Tensor) -> Tensor:
        own = torch.eye(len(targets), device=targets.device, dtype=targets.dtype)
        targets = targets.masked_fill(masked, 0.0)  # what is no candidate takes no share from those that are
        total = targets.sum(dim=1, keepdim=True)  # (n, 1)
        spread = torch.where(total > 0, targets / total.clamp(min=1e-12), own)  # without a word, the drawn pair stands
        target = self.soft_labels * spread + (1 - self.soft_labels) * own  # (n, n)
        logs = torch.log_softmax(logits, dim=1)[:, : len(targets)]
        return -(target * logs.masked_fill(masked, 0.0)).sum(dim=1).mean()


@dataclass(frozen=True)
class MultipleNegatives:
    """The in-batch loss of sentence-transformers as it is: no correction, no masks; hard negatives count for all.

    Parameters
    ----------
    temperature : float
        Divides the cosines, above 0.
    """

    temperature: float = 0.05
    _model: SentenceTransformer = field(default_factory=lambda: _no_model(), repr=False)

    def __call__(self, batch: PairBatch) -> Tensor:
        """Return the loss, a scalar."""
        loss = MultipleNegativesRankingLoss(self._model, scale=1 / self.temperature)
        vectors = [batch.anchors, batch.positives]
        if batch.negatives is not None and len(batch.negatives):
            vectors.append(batch.negatives)
        value: Tensor = loss.compute_loss_from_embeddings(vectors, torch.empty(0))
        return value


@dataclass(frozen=True)
class SquaredError:
    """The cosine is to equal the strength of the pair; pairs across the batch have strength 0.

    Parameters
    ----------
    temperature : float
        Not used; here so that all losses are made alike.

    Notes
    -----
    The regression that rating prediction comes from, kept as a baseline: each pair is met by one drawn from the others
    of the batch, through the ``CosineSimilarityLoss`` of sentence-transformers.
    """

    temperature: float = 0.05
    _model: SentenceTransformer = field(default_factory=lambda: _no_model(), repr=False)

    def __call__(self, batch: PairBatch) -> Tensor:
        """Return the loss, a scalar."""
        n = len(batch.anchors)
        strengths = torch.ones(n, device=batch.anchors.device) if batch.strengths is None else batch.strengths
        others = torch.arange(n, device=batch.anchors.device).roll(1)
        unknown = ~batch.masked[others.roll(-1), others] & (n > 1)
        first = torch.cat([batch.anchors, batch.anchors[unknown]])
        second = torch.cat([batch.positives, batch.positives[others][unknown]])
        labels = torch.cat([strengths, torch.zeros(int(unknown.sum()), device=strengths.device)])
        value: Tensor = CosineSimilarityLoss(self._model).compute_loss_from_embeddings([first, second], labels)
        return value


def make_loss(config: LoraConfig) -> Loss:
    """Return the loss that the settings describe, with Matryoshka cuts and noise around it where they ask for them."""
    loss: Loss
    if config.loss == "contrastive":
        loss = Contrastive(config.temperature, config.popularity_correction, config.soft_labels)
    elif config.loss == "multiple-negatives":
        loss = MultipleNegatives(config.temperature)
    else:
        loss = SquaredError(config.temperature)
    if config.keep:
        loss = staying_true(loss, config.keep, config.temperature)
    if config.matryoshka:
        loss = matryoshka(loss, config.matryoshka)
    return adversarial(loss, config.noise) if config.noise else loss


def matryoshka(loss: Loss, dims: Sequence[int]) -> Loss:
    """Return the mean of `loss` over the whole vectors and their first `dims` components, scaled to length 1 again.

    Vectors trained so can be cut afterwards (Kusupati et al., "Matryoshka representation learning", NeurIPS 2022).
    Widths at or above that of the vectors add nothing.
    """

    def nested(batch: PairBatch) -> Tensor:
        widths = [dim for dim in dims if dim < batch.anchors.shape[1]]
        losses = [loss(batch), *(loss(_each(batch, partial(_cut, dim=dim))) for dim in widths)]
        return torch.stack(losses).mean()

    return nested


def staying_true(loss: Loss, weight: float, temperature: float) -> Loss:
    """Return `loss` plus `weight` times how far the texts of a batch have moved among each other.

    For each text the cosines with the others of the batch, over the temperature, make a distribution; what is added is
    the mean Kullback-Leibler divergence from the base's to the one of now. Events teach about few texts and with much
    noise; without this the others, which nobody touched, are moved about at random (the distillation of Z. Li and
    D. Hoiem, "Learning without forgetting", ECCV 2016, on similarities in place of class scores).
    """

    def kept(batch: PairBatch) -> Tensor:
        value = loss(batch)
        if batch.texts is None or batch.before is None or len(batch.texts) < 2:
            return value
        own = torch.eye(len(batch.texts), dtype=torch.bool, device=batch.texts.device)
        was, now = (
            torch.log_softmax((v @ v.T / temperature).masked_fill(own, -1e4), dim=1)
            for v in (batch.before, batch.texts)
        )
        return value + weight * (was.exp() * (was - now)).sum(dim=1).mean()

    return kept


def adversarial(loss: Loss, size: float) -> Loss:
    """Return the mean of `loss` and of `loss` on vectors moved by `size` where that hurts most.

    One step along the gradient, each vector's own scaled to length `size` (Miyato, Dai, Goodfellow, "Adversarial
    training methods for semi-supervised text classification", ICLR 2017, equation 5, here on the text vectors).
    """

    def hardened(batch: PairBatch) -> Tensor:
        plain = loss(batch)
        if not torch.is_grad_enabled():
            return plain
        still = _each(batch, lambda v: v.detach().requires_grad_())
        vectors = [still.anchors, still.positives]
        gradients = torch.autograd.grad(loss(still), vectors)
        first, second = (size * normalize(g, dim=1) for g in gradients)
        moved = replace(
            batch,
            anchors=normalize(batch.anchors + first, dim=1),
            positives=normalize(batch.positives + second, dim=1),
        )
        return (plain + loss(moved)) / 2

    return hardened


def _no_model() -> SentenceTransformer:
    """Return what the losses of the library ask for and, given vectors, never call."""
    return SentenceTransformer(modules=[torch.nn.Identity()], device="cpu")


def _cut(vectors: Tensor, dim: int) -> Tensor:
    return normalize(vectors[:, :dim], dim=1)


def _each(batch: PairBatch, change: Callable[[Tensor], Tensor]) -> PairBatch:
    others: dict[str, Any] = {
        name: change(vectors)
        for name in ("negatives", "texts", "before")
        if (vectors := getattr(batch, name)) is not None
    }
    return replace(batch, anchors=change(batch.anchors), positives=change(batch.positives), **others)
