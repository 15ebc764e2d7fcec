"""Encoder: texts -> unit vectors, through sentence-transformers or any plain transformers model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from llm_tail.artifacts import fingerprint, read_artifact, write_artifact
from llm_tail.config import EncoderConfig, LoraConfig
from llm_tail.embedding import adapters
from llm_tail.embedding.families import family_of, is_decoder, quiet, resolve_prompts
from llm_tail.embedding.loading import POOLING, choose_precision, find_device, pooling_module, read_model
from llm_tail.embedding.runtimes import check_runtime, check_texts
from llm_tail.embedding.sources import locate, weights_digest
from llm_tail.embedding.tokens import ahead, batches
from llm_tail.errors import ConfigError, DataError, NotFittedError, StaleArtifactError
from llm_tail.progress import Bar

if TYPE_CHECKING:
    from llm_tail.embedding.finetune import TrainingLog

Kind = Literal["document", "query"]
Vectors = NDArray[np.float32]
ADAPTER_KIND = "lora-adapter"
UNTRAINED = "untrained"  # stands for the digest of an adapter whose weights are not final yet
_NO_ADAPTER = "this encoder has no adapter; make one with finetune(encoder, pairs)"
_BLOCK = 4096  # texts tokenised at once, while those before them are computed: enough to sort by length


class Encoder:
    """A model that turns texts into unit vectors; made by `load`, `finetune` or `merge`.

    Parameters
    ----------
    model : SentenceTransformer
        Transformer, pooling and whatever else the model brings.
    config : EncoderConfig
        Its settings, with ``query_prompt``, ``document_prompt`` and ``precision`` resolved.
    base_weights : str
        Digest of the weights without an adapter.
    adapter : str, optional
        Digest of the adapter's weights where there is one.
    tuning : Tuning, optional
        What the adapter is.

    Attributes
    ----------
    training : TrainingLog or None
        How the adapter was trained, where that happened in this process.

    Notes
    -----
    The vector of a text does not depend on the texts beside it: within 1e-5 in fp32, within 5e-3 in bf16, in each
    component. A text without words has the zero vector.

    Examples
    --------
    >>> encoder = Encoder.load("sentence-transformers/all-MiniLM-L6-v2", precision="fp32")
    >>> encoder
    Encoder(sentence-transformers/all-MiniLM-L6-v2, 384 wide, mean pooling, 128 tokens, fp32 on cpu)
    >>> vectors = encoder.encode(["a novel about whales", "a book on sea mammals", "a frying pan"])
    >>> bool(vectors[0] @ vectors[1] > vectors[0] @ vectors[2])
    True
    """

    def __init__(
        self,
        model: SentenceTransformer,
        config: EncoderConfig,
        *,
        base_weights: str,
        adapter: str | None = None,
        tuning: adapters.Tuning | None = None,
    ) -> None:
        self.model = model.eval()
        self.config = config
        self.base_weights = base_weights
        self.adapter = adapter
        self.tuning = tuning
        self.training: TrainingLog | None = None
        # Padding on the left keeps a decoder's last state at the last place, where its pooling looks.
        self.padding_side: Literal["left", "right"] = "left" if is_decoder(model[0].config) else "right"

    @classmethod
    def load(
        cls,
        name: str | Path | None = None,
        config: EncoderConfig | None = None,
        *,
        adapter: str | Path | None = None,
        **overrides: Any,
    ) -> Self:
        """Load a model from a folder, the installed wheel, the local cache or the hub, in this order.

        Parameters
        ----------
        name : str or path, optional
            A folder or a name on the hub; that of `config` if not given.
        config : EncoderConfig, optional
            All settings.
        adapter : path, optional
            A folder written by `save_adapter`; it has to have been trained on this very base.
        **overrides
            Single settings that win over `config`, such as ``max_tokens=256``.

        Raises
        ------
        DataError
            If the model cannot be found or read, or has only pickled weights.
        ConfigError
            If a setting does not fit the model.
        StaleArtifactError
            If the adapter was trained on another base.
        CorruptArtifactError
            If a file is not what was written.

        Notes
        -----
        Decoder models (Qwen3, Llama, Mistral ...) are read at their last token and padded on the left. Prompts come
        from the settings, else from the model's own files, else from ``prompts/encoders.toml``, else there are none.
        """
        values = (config or EncoderConfig()).model_dump()
        settings = EncoderConfig(**{**values, **({"name": str(name)} if name is not None else {}), **overrides})
        check_runtime(settings.runtime, settings.precision)
        folder = locate(settings.name, trust_remote_code=settings.trust_remote_code)
        family = family_of(settings.name)
        device = find_device(settings.device)
        precision = choose_precision(settings.precision, device)
        model = read_model(folder, settings, family, device, precision)
        prompts = resolve_prompts(model, settings, family)
        model.prompts = dict(prompts)
        model.max_seq_length = min(settings.max_tokens, model.max_seq_length or settings.max_tokens)
        settings = settings.replace(
            query_prompt=prompts["query"],
            document_prompt=prompts["document"],
            precision=precision,
            device=str(device),
            max_tokens=model.max_seq_length,
        )
        encoder = cls(model, settings, base_weights=weights_digest(folder))
        if adapter is not None:
            encoder._attach(Path(adapter))
        return encoder

    def encode(
        self, texts: Sequence[str], *, kind: Kind = "document", batch_tokens: int = 2048, progress: bool = False
    ) -> Vectors:
        """Return the unit vectors of texts.

        Parameters
        ----------
        texts : sequence of str
            Any number; one without words gets the zero vector.
        kind : {"document", "query"}
            Which prompt stands before them.
        batch_tokens : int
            Padded tokens in one batch, >= 1; a longer text makes a batch of its own.
        progress : bool
            Show a bar on stderr.

        Returns
        -------
        array of float32, shape (n_texts, dim)

        Raises
        ------
        DataError
            If something among `texts` is no str, or the model yields a value that is not finite.

        Notes
        -----
        Texts are tokenised once and put into batches of similar length, so little is spent on padding.
        """
        return self.encode_counted(texts, kind=kind, batch_tokens=batch_tokens, progress=progress)[0]

    def encode_counted(
        self, texts: Sequence[str], *, kind: Kind = "document", batch_tokens: int = 2048, progress: bool = False
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """Return vectors as `encode` does, and the tokens of each text before the cut; 0 for one without words."""
        texts = check_texts(texts)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)  # (n_texts, dim)
        counts = np.zeros(len(texts), dtype=np.int64)  # (n_texts,)
        rows = np.array([i for i, text in enumerate(texts) if text.strip()], dtype=np.int64)
        with Bar("encoding", len(rows)) if progress else nullcontext() as bar:
            blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
            for block, (tokens, whole) in ahead(blocks, lambda block: self._counted([texts[i] for i in block], kind)):
                counts[block] = whole
                for batch in batches(np.array([len(t) for t in tokens]), batch_tokens):
                    with torch.inference_mode():
                        output = self.forward([tokens[i] for i in batch])  # (n_batch, dim)
                    vectors[block[batch]] = output.cpu().numpy()
                    if bar is not None:
                        bar.advance(len(batch))
        if not np.isfinite(vectors).all():
            raise DataError(
                f"{self.config.name} gave values that are not finite for {int((~np.isfinite(vectors)).any(1).sum())} "
                f"of {len(texts)} texts in {self.config.precision}; try [encoder] precision = 'fp32'"
            )
        return vectors, counts

    def forward(self, tokens: Sequence[Sequence[int]], model: Any = None) -> torch.Tensor:
        """Return the unit vectors of one batch of token lists, shape (n_texts, dim), float32, with gradients.

        `model` is what to call in place of ``self.model``: the same one, wrapped for training by several processes.
        """
        width = max(map(len, tokens))
        pad = self.model.tokenizer.pad_token_id or 0
        ids = torch.full((len(tokens), width), pad, dtype=torch.long)  # (n_texts, width)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(tokens):
            place = slice(width - len(text), width) if self.padding_side == "left" else slice(0, len(text))
            ids[row, place] = torch.tensor(text)
            mask[row, place] = 1
        features = {"input_ids": ids, "attention_mask": mask}
        if self.padding_side == "left":  # positions count from the first real token, not from the padding
            features["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        device = self.model.device
        with self._autocast():
            output = (model or self.model)({n: value.to(device) for n, value in features.items()})["sentence_embedding"]
        return torch.nn.functional.normalize(output.float()[:, : self.dim], dim=1)  # (n_texts, dim)

    def tokenize(self, texts: Sequence[str], *, kind: Kind = "document", max_tokens: int | None = None) -> list[Any]:
        """Return the token numbers of `texts`, special ones and the prompt of `kind` included, cut at `max_tokens`."""
        return self._tokens(texts, kind, min(max_tokens or self.max_tokens, self.max_tokens))

    def token_counts(self, texts: Sequence[str], *, kind: Kind = "document") -> NDArray[np.int64]:
        """Return the number of tokens of each text before it is cut, shape (n_texts,); the prompt counts."""
        counts = np.zeros(len(texts), dtype=np.int64)  # (n_texts,)
        for start in range(0, len(texts), _BLOCK):
            block = self._tokens(texts[start : start + _BLOCK], kind, cut=False)
            counts[start : start + _BLOCK] = [len(t) for t in block]
        return counts

    @property
    def dim(self) -> int:
        """The width of a vector: that of the model, or what it is cut to before it is scaled to length 1."""
        return int(self.model.get_embedding_dimension())

    @property
    def max_tokens(self) -> int:
        """Texts are cut at this many tokens."""
        return self.config.max_tokens

    @property
    def runtime(self) -> str:
        """What runs it: torch; `llm_tail.embedding.runtimes` tells the others."""
        return "torch"

    @property
    def precision(self) -> str:
        """Number format of the forward pass: fp32 or bf16."""
        return self.config.precision

    @property
    def pooling(self) -> str:
        """How token states become one vector: mean, cls, last, or what else the model says; empty if it has none."""
        module = pooling_module(self.model)
        names = {value: key for key, value in POOLING.items()}
        return "" if module is None else names.get(str(module.pooling_mode), str(module.pooling_mode))

    @property
    def fingerprint(self) -> str:
        """Digest of all that a vector depends on: weights, adapter, pooling, tokens, prompts, precision, width."""
        return self._digest(*([] if self.model.truncate_dim is None else [self.dim]))

    @property
    def uncut_fingerprint(self) -> str:
        """The same for vectors of the model's own width: those of a lesser one follow from them without encoding."""
        return self._digest()

    def _digest(self, *cut: int) -> str:
        config = self.config
        prompts = [config.query_prompt, config.document_prompt]
        weights = [self.base_weights, self.adapter]
        return fingerprint("encoder-1", weights, self.pooling, config.max_tokens, prompts, config.precision, *cut)

    @property
    def n_trainable(self) -> int:
        """How many parameters the adapter learned or learns; 0 without one."""
        return self.tuning.n_trainable if self.tuning else 0

    @property
    def trainable_share(self) -> float:
        """The same as a share of the parameters of the base, in [0, 1]."""
        return self.tuning.n_trainable / self.tuning.n_base if self.tuning else 0.0

    def save(self, folder: str | Path) -> Path:
        """Write a plain sentence-transformers folder and return its path; an adapter is merged into it.

        Raises
        ------
        ConfigError
            If the adapter is a prefix, which cannot be merged.
        """
        folder = Path(folder)
        with quiet():
            self.merge().model.save(str(folder), create_model_card=False)
        return folder

    def save_adapter(self, folder: str | Path) -> Path:
        """Write what was tuned alone, to be loaded with ``Encoder.load(base, adapter=folder)``.

        A few MB for LoRA and its kin, four bytes for each changed weight of top-layers and full.

        Raises
        ------
        NotFittedError
            If there is no adapter, or its weights are not final yet.
        """
        model, tuning = self._tuned()
        facts = {"base": self.config.name, "base_weights": self.base_weights, "adapter": self.adapter}
        with write_artifact(folder, ADAPTER_KIND, fingerprint(self.base_weights, self.adapter), facts) as draft:
            draft.facts.update(adapters.write(model, tuning, draft.data))
            if self.training is not None:
                self.training.write(draft.file("training.jsonl"))
        return Path(folder)

    def merge(self) -> Encoder:
        """Return an encoder with the adapter inside its own weights; the same vectors (within 1e-5 in fp32).

        Raises
        ------
        ConfigError
            If the adapter is a prefix, which cannot be merged.
        """
        if self.adapter is None:
            return self
        model = adapters.merged(*self._tuned())
        encoder = Encoder(model, self.config, base_weights=fingerprint(self.base_weights, self.adapter))
        encoder.training = self.training
        return encoder

    def with_strength(self, strength: float) -> Encoder:
        """Return an encoder on the way from the base (0) to the full adapter (1), and what is saved is that one.

        A part of the way often ranks better than either end: what fine-tuning forgot is mostly still there, what it
        learned mostly there already (M. Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, who mix
        weights). What the way is for each kind of adapter stands at the head of `llm_tail.embedding.adapters`.

        Raises
        ------
        NotFittedError
            If there is no adapter.
        ConfigError
            If the strength is negative or no number.
        """
        model, tuning = self._tuned()
        encoder = Encoder(
            adapters.scaled(model, tuning, strength),
            self.config,
            base_weights=self.base_weights,
            adapter=self.adapter,
            tuning=tuning,
        )
        encoder.training = self.training
        encoder.seal_adapter()
        return encoder

    def with_adapter(self, config: LoraConfig | None = None) -> Encoder:
        """Return a copy with something to train, as `llm_tail.embedding.adapters.attach` does."""
        model, tuning = adapters.tuned_copy(self.model, config or LoraConfig(), self.config.name)
        return Encoder(model, self.config, base_weights=self.base_weights, adapter=UNTRAINED, tuning=tuning)

    def cut_at(self, max_tokens: int) -> Encoder:
        """Return the same encoder, weights shared, for texts that are cut at `max_tokens`, or sooner if it does so."""
        config = self.config.replace(max_tokens=min(max_tokens, self.max_tokens))
        return Encoder(self.model, config, base_weights=self.base_weights, adapter=self.adapter, tuning=self.tuning)

    def with_precision(self, precision: str) -> Encoder:
        """Return the same encoder, weights shared where they can be, that computes in another number format."""
        precision = choose_precision(precision, self.model.device)
        model, config = self.model, self.config.replace(precision=precision)
        if precision == "fp32" and any(p.dtype == torch.bfloat16 for p in model.parameters()):
            model = copy.deepcopy(model).float()
        return Encoder(model, config, base_weights=self.base_weights, adapter=self.adapter, tuning=self.tuning)

    def seal_adapter(self) -> None:
        """Freeze the adapter and take the digest of it as it is now; called once its weights are final."""
        if self.tuning is None:
            raise NotFittedError(_NO_ADAPTER)
        self.model, self.tuning = adapters.sealed(self.model, self.tuning)
        self.adapter = adapters.digest(self.model, self.tuning)

    def _tuned(self) -> tuple[SentenceTransformer, adapters.Tuning]:
        if self.tuning is None:
            raise NotFittedError(_NO_ADAPTER)
        if self.adapter == UNTRAINED:
            raise NotFittedError("the adapter of this encoder is still in training; call seal_adapter() after it")
        return self.model, self.tuning

    def _attach(self, folder: Path) -> None:
        artifact = read_artifact(folder, ADAPTER_KIND, stage="llm-tail finetune")
        if artifact.facts["base_weights"] != self.base_weights:
            raise StaleArtifactError(
                f"the adapter at {folder} was trained on {artifact.facts['base']} (weights "
                f"{artifact.facts['base_weights']}), and the encoder is {self.config.name} (weights "
                f"{self.base_weights}); load that base, or run: llm-tail finetune"
            )
        self.model, self.tuning = adapters.read(self.model, artifact.data, artifact.facts)
        self.seal_adapter()

    def _tokens(
        self, texts: Sequence[str], kind: Kind, max_tokens: int | None = None, *, cut: bool = True
    ) -> list[list[int]]:
        return list(self._tokenized(texts, kind, max_tokens, cut=cut)["input_ids"]) if len(texts) else []

    def _counted(self, texts: Sequence[str], kind: Kind) -> tuple[list[list[int]], Sequence[int]]:
        """Return the tokens of texts, and how many each had before the cut: the tokenizer keeps what it cuts off."""
        output = self._tokenized(texts, kind)
        if output.encodings is None:  # a tokenizer written in Python keeps nothing
            return output["input_ids"], [len(t) for t in self._tokens(texts, kind, cut=False)]
        rest = [sum(len(p.ids) - sum(p.special_tokens_mask) for p in one.overflowing) for one in output.encodings]
        return output["input_ids"], [len(one.ids) + more for one, more in zip(output.encodings, rest, strict=True)]

    def _tokenized(self, texts: Sequence[str], kind: Kind, max_tokens: int | None = None, *, cut: bool = True) -> Any:
        prompt = {"query": self.config.query_prompt, "document": self.config.document_prompt}.get(kind)
        if kind not in ("query", "document"):
            raise ConfigError(f"kind is {kind!r}, expected 'document' or 'query'")
        limits = {"truncation": True, "max_length": max_tokens or self.max_tokens} if cut else {"truncation": False}
        return self.model.tokenizer(
            [(prompt or "") + text for text in texts],
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # what is cut is counted and reported, not logged
            **limits,
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        # Weights stay as they were stored; only the products are made in bf16. That costs a tenth of the speed of
        # casting everything and keeps sums, normalisation and what is saved exact.
        enabled = self.config.precision == "bf16"
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=enabled)

    def __repr__(self) -> str:
        adapter = f", with adapter ({self.tuning.kind})" if self.tuning else ""
        return (
            f"Encoder({self.config.name}, {self.dim} wide, {self.pooling or 'own'} pooling, {self.max_tokens} tokens, "
            f"{self.config.precision} on {self.model.device.type}{adapter})"
        )
