"""What an encoder can learn from text alone: to guess words, or to write a text again from its vector."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, DataCollatorForLanguageModeling
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from llm_tail.embedding.families import is_decoder, quiet
from llm_tail.errors import ConfigError

Tokens = NDArray[np.int32]
_LOGITS = 1 << 26  # numbers in one part of the logits: 256 MB


class Objective(nn.Module):
    """An encoder with what it needs beside it to learn from text.

    Parameters
    ----------
    model : SentenceTransformer
        The encoder; its weights are trained in place.
    bf16 : bool
        Make the products in bf16.
    """

    def __init__(self, model: SentenceTransformer, bf16: bool) -> None:
        super().__init__()
        self.body: Any = model[0].model
        self._bf16 = bf16
        # A copy, so that the encoder's own keeps the side on which it pads.
        self.tokenizer: Any = copy.deepcopy(model.tokenizer)
        self.tokenizer.padding_side = "right"

    def batch(self, texts: Sequence[Tokens], seed: int) -> dict[str, Tensor]:
        """Return what `forward` takes for these texts; equal for equal seeds."""
        raise NotImplementedError

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss of a batch."""
        raise NotImplementedError

    def new_parameters(self) -> list[nn.Parameter]:
        """Return the weights that are thrown away in the end."""
        own = {id(p) for p in self.body.parameters()}
        return [p for p in self.parameters() if id(p) not in own]

    def attend_by(self, implementation: str) -> None:
        """Choose how attention is computed."""
        self.body.set_attn_implementation(implementation)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return the loss under its name."""
        with torch.autocast(next(iter(batch.values())).device.type, torch.bfloat16, enabled=self._bf16):
            return {"loss": self.loss(batch)}


class WordGuessing(Objective):
    """Masked language modelling for bidirectional models, next-token prediction for decoders.

    Parameters
    ----------
    model : SentenceTransformer
        The encoder.
    masked_share : float
        Share of the tokens to guess, in (0, 1); decoders guess all.
    bf16 : bool
        Make the products in bf16.

    Raises
    ------
    ConfigError
        If the architecture has no head that guesses words, or its tokenizer nothing to hide them with.
    """

    def __init__(self, model: SentenceTransformer, masked_share: float, bf16: bool) -> None:
        super().__init__(model, bf16)
        self._causal = is_decoder(self.body.config)
        if not self._causal and self.tokenizer.mask_token is None:
            raise ConfigError("method 'lm' hides words, and this tokenizer has no mask token; use method 'tsdae'")
        self._collate = DataCollatorForLanguageModeling(
            self.tokenizer, mlm=not self._causal, mlm_probability=masked_share
        )
        with quiet():
            self.head = _head(self.body, self._causal)
        self._n_together = max(1, _LOGITS // int(self.body.get_input_embeddings().num_embeddings))

    def batch(self, texts: Sequence[Tokens], seed: int) -> dict[str, Tensor]:
        """Return padded tokens, some of them hidden, and those to guess (-100 elsewhere)."""
        self._collate.generator = torch.Generator().manual_seed(seed)
        made = self._collate([{"input_ids": tokens.tolist(), "attention_mask": [1] * len(tokens)} for tokens in texts])
        return {name: made[name] for name in ("input_ids", "attention_mask", "labels")}

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of the tokens to guess."""
        more = {"use_cache": False} if self._causal else {}
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        states: Tensor = self.body(**inputs, **more).last_hidden_state  # (n_texts, width, dim)
        labels = batch["labels"]
        if self._causal:
            states, labels = states[:, :-1], labels[:, 1:]
        asked = labels != -100
        states, labels = states[asked], labels[asked]  # (n_asked, dim): the others need not go through the head
        if not len(labels):  # texts so short that nothing was drawn
            return states.sum() * 0.0
        n = self._n_together
        parts = [(states[start : start + n], labels[start : start + n]) for start in range(0, len(labels), n)]
        if len(parts) == 1:
            return self._part(*parts[0]) / len(labels)
        # Logits of large vocabularies are made again on the way back: there is room for those of one part only.
        losses = [checkpoint(self._part, *part, use_reentrant=False) for part in parts]
        return torch.stack(losses).sum() / len(labels)

    def _part(self, states: Tensor, labels: Tensor) -> Tensor:
        logits = self.head(inputs_embeds=states[None]).logits[0]  # (n_asked, n_words)
        return nn.functional.cross_entropy(logits.float(), labels, reduction="sum")


def _head(body: Any, causal: bool) -> Any:
    """Return the language model that goes with `body`, with a stand-in where `body` was."""
    auto = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    folder = Path(str(body.config._name_or_path))
    try:
        if (folder / "config.json").is_file():
            model, told = auto.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
            missing = set(told["missing_keys"])
        else:
            model, missing = auto.from_config(copy.deepcopy(body.config)), None
    except ValueError as error:
        raise ConfigError(
            f"method 'lm' needs an architecture that guesses words, and {body.config.model_type} has no such head; "
            "use method 'tsdae'"
        ) from error
    setattr(model, model.base_model_prefix, body)
    model.tie_weights()
    out, words = model.get_output_embeddings(), body.get_input_embeddings()
    name = next((name for name, weight in model.named_parameters() if weight is out.weight), "")
    if missing is None or name in missing:  # not stored: the word vectors are the best start
        out.weight = words.weight
    setattr(model, model.base_model_prefix, _StandIn())
    return model.to(words.weight.device)


class _StandIn(nn.Module):
    """Takes the place of a transformer whose states are known."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


class Denoising(Objective):
    """TSDAE: a decoder with the encoder's own weights writes a text again from the vector of what is left of it.

    Parameters
    ----------
    model : SentenceTransformer
        The encoder.
    deleted_share : float
        Share of the tokens that the encoder does not see, in (0, 1).
    bf16 : bool
        Make the products in bf16.

    Raises
    ------
    ConfigError
        If the architecture cannot look at a vector while it decodes.
    """

    def __init__(self, model: SentenceTransformer, deleted_share: float, bf16: bool) -> None:
        super().__init__(model, bf16)
        self._share = deleted_share
        # A vector of length one says too little to a decoder that starts from nothing.
        pooled = SentenceTransformer(modules=[m for m in model if not isinstance(m, Normalize)], device=model.device)
        with quiet():
            self.autoencoder = _autoencoder(pooled).to(model.device)

    def attend_by(self, implementation: str) -> None:
        """Choose how attention is computed."""
        super().attend_by(implementation)
        self.autoencoder.decoder.set_attn_implementation(implementation)

    def batch(self, texts: Sequence[Tokens], seed: int) -> dict[str, Tensor]:
        """Return what is left of the texts, and the texts."""
        rng = np.random.default_rng(seed)
        left = self._padded([self._damaged(tokens, rng) for tokens in texts])
        return {**{f"left_{name}": value for name, value in left.items()}, **self._padded(texts)}

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of the tokens of the whole texts."""
        left = {name: batch[f"left_{name}"] for name in ("input_ids", "attention_mask")}
        loss: Tensor = self.autoencoder([left, {"input_ids": batch["input_ids"]}], None)
        return loss

    def _damaged(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """Return the tokens with a share of them left out; special ones stay, and one of the others at least."""
        special = np.array(self.tokenizer.get_special_tokens_mask(tokens.tolist(), already_has_special_tokens=True))
        kept = rng.random(len(tokens)) >= self._share
        if (words := np.flatnonzero(special == 0)).size:
            kept[rng.choice(words)] |= not kept[words].any()
        damaged: Tokens = tokens[kept | (special == 1)]
        return damaged

    def _padded(self, texts: Sequence[Tokens]) -> dict[str, Tensor]:
        mask = [torch.ones(len(tokens), dtype=torch.long) for tokens in texts]
        ids = [torch.from_numpy(tokens.astype(np.int64)) for tokens in texts]
        pad = float(self.tokenizer.pad_token_id or 0)
        pad_sequence = nn.utils.rnn.pad_sequence
        return {"input_ids": pad_sequence(ids, True, pad), "attention_mask": pad_sequence(mask, True, 0.0)}


def _autoencoder(model: SentenceTransformer) -> Any:
    """Return the library's loss, its decoder tied to the weights that `model` has now."""
    body = model[0].model
    name, kind = body.config._name_or_path, body.config.model_type
    refusal = f"method 'tsdae' needs an architecture that decodes from a vector, as BERT, RoBERTa and GPT-2 do; {kind}"
    with model.truncate_embeddings(None):  # training has the whole vector, however much of it is used later
        width = model.get_embedding_dimension()
    if width != body.config.hidden_size:
        raise ConfigError(f"{refusal} has vectors of another width than its states here; use method 'lm'")
    with TemporaryDirectory() as folder:
        # The loss reads its decoder from a folder and lays it over the encoder: it has to find today's weights there.
        model.save(folder, create_model_card=False)
        body.config._name_or_path = folder
        try:
            loss = DenoisingAutoEncoderLoss(model)
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{refusal} does not; use method 'lm'") from error
        finally:
            body.config._name_or_path = name
    if not any("crossattention" in weight for weight, _ in loss.decoder.named_parameters()):
        raise ConfigError(f"{refusal} does not; use method 'lm'")
    return loss
