"""Domain adaptation: the encoder reads the catalogue's own text before it learns who took what.

Two ways to learn from text alone: ``lm`` guesses words that are hidden (bidirectional models) or come next (decoders),
``tsdae`` writes a text again from the vector of what is left of it after most of its tokens were deleted. What learns
beside the encoder, a head or a decoder, is thrown away afterwards.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from llm_tail.artifacts import disk_errors, fingerprint, read_artifact, write_artifact
from llm_tail.config import EncoderConfig, PretrainConfig
from llm_tail.embedding.checkpoints import CheckpointedTrainer, last_whole_checkpoint, mark_whole, own_randomness
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.families import quiet
from llm_tail.embedding.finetune import TrainingLog
from llm_tail.embedding.objectives import Denoising, Objective, Tokens, WordGuessing
from llm_tail.embedding.sources import weights_digest
from llm_tail.errors import ConfigError, DataError
from llm_tail.progress import Bar

PRETRAINED_KIND = "pretrained-encoder"
_DRAFT = "training"  # the folder of checkpoints, beside what is finished
_WEIGHTS = "model.safetensors"
_BLOCK = 16_384  # texts tokenised at once
_POOL = 50  # batches whose texts are sorted by length together


def pretrain(
    base: Encoder,
    texts: Sequence[str],
    config: PretrainConfig | None = None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Encoder:
    """Return an encoder whose weights were trained further on `texts`; `base` itself stays as it is.

    Parameters
    ----------
    base : Encoder
        Any transformer encoder, without an adapter.
    texts : sequence of str
        At least two with words; those without are left out, long ones are cut at ``max_tokens``.
    config : PretrainConfig, optional
        Method, epochs, learning rates and so on.
    seed : int
        Seeds order, masking, dropout and the head; the random state of the process is left alone.
    folder : path, optional
        Where the result is written once training is through, for `load_pretrained`. Until then checkpoints lie there,
        and the same call after a kill goes on from the last one, to the same result.

    Raises
    ------
    DataError
        If fewer than two texts have words, or the loss stops being a number.
    ConfigError
        If the method does not fit the architecture; the one that does is named.

    Notes
    -----
    ``lm`` is the masked language modelling of Devlin et al. ("BERT", NAACL 2019) or, for decoders, next-token
    prediction. The head is the architecture's own, with its weights where the model's folder holds them, and only the
    tokens to guess go through it. ``tsdae`` is that of Wang, Reimers and Gurevych ("TSDAE: Using Transformer-based
    Sequential Denoising Auto-Encoder for Unsupervised Sentence Embedding Learning", Findings of EMNLP 2021). All
    weights are trained, embeddings included; new ones have a learning rate of their own.
    Memory: five times the weights, those of `base` included, and one batch. On disk a checkpoint takes three times the
    weights; two are kept.

    Examples
    --------
    >>> encoder = Encoder.load("sentence-transformers/all-MiniLM-L6-v2")
    >>> settings = PretrainConfig(method="lm", max_steps=1, max_tokens=8)
    >>> adapted = pretrain(encoder, ["a novel about whales", "an iron pan"], settings)
    >>> len(adapted.training.steps), adapted.base_weights == encoder.base_weights
    (1, False)
    """
    config = config or PretrainConfig()
    if isinstance(texts, str):
        raise DataError("pretrain takes a list of texts, and one str was given; put it into a list")
    kept = [text for text in texts if text.strip()]
    if len(kept) < 2:
        raise DataError(
            f"pre-training needs at least 2 texts with words, found {len(kept)} of {len(texts)}; name the columns "
            "that hold the words under [text] fields"
        )
    if base.adapter is not None:
        raise ConfigError("this encoder has an adapter; call merge() first, or start from the base")
    settings = config.model_dump(exclude={"enabled", "minutes", "checkpoint_steps"})
    key = fingerprint("pretrain-1", base.fingerprint, settings, seed, *kept)
    with TemporaryDirectory() as own, own_randomness(base.model.device, seed), quiet():
        draft = Path(own) if folder is None else Path(folder) / _DRAFT / key
        encoder = _train(base, kept, config, seed, draft, keep=folder is not None)
        if folder is None:
            encoder.base_weights = weights_digest(encoder.save(Path(own) / "model"))
        else:
            _write(encoder, base, Path(folder), key)
    return encoder


def load_pretrained(folder: str | Path, config: EncoderConfig | None = None, **more: Any) -> Encoder:
    """Return the encoder that `pretrain` has written.

    Parameters
    ----------
    folder : path
        Where `pretrain` was told to write.
    config : EncoderConfig, optional
        The settings of its base.
    **more
        As `Encoder.load` takes it: ``adapter``, single settings.

    Raises
    ------
    StaleArtifactError
        If there is none yet.
    CorruptArtifactError
        If a file is not what was written.
    """
    artifact = read_artifact(folder, PRETRAINED_KIND, stage="llm-tail pretrain")
    return Encoder.load(artifact.file("model"), config, **more)


def _train(base: Encoder, texts: list[str], config: PretrainConfig, seed: int, draft: Path, *, keep: bool) -> Encoder:
    model = copy.deepcopy(base.model).float().requires_grad_(True)
    stored, attention = base.model[0].model.dtype, model[0].model.config._attn_implementation
    bf16 = base.config.precision == "bf16"
    objective: Objective = (
        WordGuessing(model, config.masked_share, bf16)
        if config.method == "lm"
        else Denoising(model, config.deleted_share, bf16)
    )
    if model.device.type == "cpu":  # there the backward pass of the fused attention takes a third of the step
        objective.attend_by("eager")
    tokens = _tokens(base, texts, config.max_tokens)
    plan = _Plan(objective, tokens, config, seed)
    log = _fit(objective, plan, config, seed, draft, keep=keep)
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise DataError(f"the last step left weights that are not finite; {_remedy(config)}")
    objective.attend_by(attention)
    model = model.to(base.model.device).to(stored)
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is not None:  # where it last cut and padded would be saved with it, and change the digest of the files
        backend.no_truncation()
        backend.no_padding()
    encoder = Encoder(model, base.config, base_weights="")  # its digest is that of its files
    provenance = {"n_texts": len(texts), "pretrain": config.model_dump()}
    encoder.training = TrainingLog(steps=log, provenance=provenance)
    return encoder


def _fit(
    objective: Objective, plan: _Plan, config: PretrainConfig, seed: int, draft: Path, *, keep: bool
) -> list[dict[str, float]]:
    """Train by the plan, from the last checkpoint in `draft` on, and return the log of the steps."""
    on_cpu = objective.body.device.type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(draft),
        per_device_train_batch_size=1,  # an element of the plan is a batch
        num_train_epochs=1,  # and the plan holds all epochs
        save_strategy="steps" if keep else "no",
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=True,
        use_cpu=on_cpu,
        seed=seed,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one device; several by `accelerate launch`
    arguments.warmup_steps = math.ceil(config.warmup_share * len(plan) / arguments.world_size)
    with arguments.main_process_first(local=False):
        if keep and arguments.process_index == 0:
            _drop_others(draft)
    new = objective.new_parameters()
    fresh = {id(weight) for weight in new}
    groups = [
        {"params": [p for p in objective.parameters() if id(p) not in fresh], "lr": config.learning_rate},
        {"params": new, "lr": config.head_learning_rate},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.01, fused=True)
    watch = _Watch(config)
    trainer = _Trainer(objective, arguments, train_dataset=plan, optimizers=(optimizer, None), callbacks=[watch])
    trainer.remove_callback(PrinterCallback)
    trainer.settings = config
    with watch.bar(len(plan)):
        resume = last_whole_checkpoint(draft)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    names = ("step", "loss", "learning_rate")
    return [{name: line[name] for name in names} for line in trainer.state.log_history if "loss" in line]


class _Plan(Dataset[dict[str, torch.Tensor]]):
    """All batches of a training in their order; each is made when asked for and depends on its number alone."""

    def __init__(self, objective: Objective, tokens: list[Tokens], config: PretrainConfig, seed: int) -> None:
        self._objective, self._tokens, self._seed = objective, tokens, seed
        rng = np.random.default_rng(seed)
        lengths = np.array([len(text) for text in tokens])
        epochs = (bucketed(lengths, config.batch_size, rng) for _ in range(config.epochs))
        self._batches = [batch for epoch in epochs for batch in epoch][: config.max_steps or None]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        return self._objective.batch([self._tokens[row] for row in self._batches[number]], seed)


def bucketed(lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return the rows of each batch of one epoch: random order, but texts of like length together.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sorted(batch.tolist() for batch in bucketed(np.array([9, 2, 8, 2]), 2, rng))
    [[0, 2], [1, 3]]
    """
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), _POOL * batch_size):
        pool = order[start : start + _POOL * batch_size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        batches += [np.sort(pool[i : i + batch_size]) for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _tokens(base: Encoder, texts: list[str], max_tokens: int) -> list[Tokens]:
    blocks = (texts[start : start + _BLOCK] for start in range(0, len(texts), _BLOCK))
    return [np.array(t, dtype=np.int32) for block in blocks for t in base.tokenize(block, max_tokens=max_tokens)]


class _Trainer(CheckpointedTrainer):
    """The library's loop with our batches, our checkpoints, and a look at every loss."""

    settings: PretrainConfig

    def get_train_dataloader(self) -> Any:
        """Return the plan, each of its batches as it is."""
        order = SequentialSampler(self.train_dataset)
        return self.accelerator.prepare(DataLoader(self.train_dataset, sampler=order, collate_fn=lambda one: one[0]))

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Return the loss of a batch; one that is no number ends the training."""
        loss: torch.Tensor = model(**inputs)["loss"]
        if not math.isfinite(value := float(loss.detach())):
            step, n_steps = self.state.global_step + 1, self.state.max_steps
            raise DataError(f"the loss became {value} at step {step} of {n_steps}; {_remedy(self.settings)}")
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        path = Path(output_dir or self.args.output_dir)
        path.mkdir(parents=True, exist_ok=True)
        with disk_errors(path):
            save_model(self.model, str(path / _WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(model or self.model, Path(resume_from_checkpoint) / _WEIGHTS)


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Draws the bar, looks at the clock, and marks what has been written to its end."""

    def __init__(self, config: PretrainConfig) -> None:
        self._seconds = 60 * config.minutes
        self._bar: Bar | None = None
        self._started = time.monotonic()

    @contextmanager
    def bar(self, n_steps: int) -> Iterator[None]:
        with Bar("pre-training", n_steps) as self._bar:
            yield

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        spent = state.log_history[-1].get("seconds", 0.0) if state.log_history else 0.0
        self._started = time.monotonic() - spent
        if self._bar is not None and state.global_step:
            self._bar.advance(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.log_history[-1]["seconds"] = time.monotonic() - self._started  # what a training that goes on has used up
        if self._bar is not None and "loss" in state.log_history[-1]:
            self._bar.advance(note=f"loss {state.log_history[-1]['loss']:.3f}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._seconds and time.monotonic() - self._started >= self._seconds:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _drop_others(draft: Path) -> None:
    """Remove checkpoints of other texts or settings."""
    for old in draft.parent.iterdir() if draft.parent.is_dir() else ():
        if old != draft:
            shutil.rmtree(old, ignore_errors=True)


def _write(encoder: Encoder, base: Encoder, folder: Path, key: str) -> None:
    """Write the encoder as an artifact, and drop the checkpoints; of several processes the first does it."""
    log, processes = encoder.training or TrainingLog(), PartialState()
    facts = {"base": base.config.name, "base_weights": base.base_weights, **log.provenance}
    if processes.is_main_process:
        with write_artifact(folder, PRETRAINED_KIND, key, facts) as draft:
            encoder.save(draft.file("model"))
            log.write(draft.file("training.jsonl"))
        shutil.rmtree(folder / _DRAFT, ignore_errors=True)
    processes.wait_for_everyone()
    encoder.base_weights = weights_digest(read_artifact(folder, PRETRAINED_KIND).file("model"))


def _remedy(config: PretrainConfig) -> str:
    return (
        f"nothing was saved; try a smaller [pretrain] learning_rate (now {config.learning_rate:g}) or [encoder] "
        "precision = 'fp32'"
    )
