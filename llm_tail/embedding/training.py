"""The training loop: the Trainer of transformers, so accelerate, over batches that are planned beforehand.

A step's batch is the same in every process and after every restart: the pairs come in an order that depends on the seed
alone. Several processes share the texts of a batch between them and put their vectors together, so that two processes
learn what one would have learned, from the same batch with the same negatives.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from llm_tail.artifacts import disk_errors
from llm_tail.config import LoraConfig
from llm_tail.data.ids import Rows
from llm_tail.embedding.batching import BatchPlanner
from llm_tail.embedding.checkpoints import COMPLETE, CheckpointedTrainer, mark_whole
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.losses import Loss, make_loss
from llm_tail.embedding.tokens import batches
from llm_tail.errors import DataError
from llm_tail.progress import Bar

PART_TOKENS = 2048  # padded tokens that go through the model at once; a fifth faster than the whole batch on a CPU
WEIGHTS, BEST = "tuned.safetensors", "best.safetensors"
Validate = Callable[[Encoder], Mapping[str, float]]


@dataclass
class TrainingLog:
    """How a training went.

    Parameters
    ----------
    steps : list of dict
        For each step its number (from 1), ``loss``, ``learning_rate`` and ``grad_norm``.
    validations : list of dict
        For each validation the ``step`` after which it was made and what was measured.
    provenance : dict
        What the pairs were made from, and the settings.
    best_step : int
        The step whose weights were kept; the last one where nothing was validated.
    note : str
        What went wrong on the way, if something did.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    best_step: int = 0
    note: str = ""

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [step["loss"] for step in self.steps]

    def write(self, path: str | Path) -> Path:
        """Write one JSON object a line: the provenance, each step, each validation."""
        facts = {"provenance": self.provenance, "best_step": self.best_step, "note": self.note}
        lines = [facts, *self.steps, *({"validation": v} for v in self.validations)]
        path = Path(path)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    def __repr__(self) -> str:
        if not self.steps:
            return "TrainingLog(0 steps)"
        return f"TrainingLog({len(self.steps):,} steps, loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f})"


class PairTrainer(CheckpointedTrainer):
    """Trains what learns in an encoder on planned batches of pairs.

    Parameters
    ----------
    encoder : Encoder
        With something attached that learns.
    planner : BatchPlanner
        The batches.
    config : LoraConfig
        Learning rate, loss, logging and so on.
    folder : Path
        Where checkpoints go.
    seed : int
        Seeds the dropout of each step.
    keep : bool
        Whether there are checkpoints.
    validate : callable, optional
        Measures the encoder; the mean of its values is what early stopping goes by, higher is better.
    """

    def __init__(
        self, encoder: Encoder, planner: BatchPlanner, config: LoraConfig, folder: Path, seed: int, *,
        keep: bool = True, validate: Validate | None = None,
    ) -> None:  # fmt: skip
        self.encoder, self.planner, self.lora, self.validate_with = encoder, planner, config, validate
        self.seed = seed
        self.pair_loss: Loss = make_loss(config)
        learning = [p for p in encoder.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=0.01)
        n = len(planner)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, n, config.warmup_share))
        super().__init__(
            model=encoder.model,
            args=_arguments(encoder, planner, config, folder, seed, keep=keep),
            train_dataset=planner,
            data_collator=_only,
            optimizers=(optimizer, schedule),
        )
        self.best_weights: dict[str, Tensor] = {}
        self.watch = _Watch(self, n)
        self.remove_callback(PrinterCallback)  # a library does not print
        self.add_callback(self.watch)

    def get_train_dataloader(self) -> DataLoader[dict[str, int]]:
        """Return the steps in order; not cut up between processes, since each works on its share of every batch."""
        return DataLoader(self.planner, batch_size=1, collate_fn=_only)

    def training_step(self, model: Any, inputs: dict[str, int], num_items_in_batch: Any = None) -> Tensor:
        """Go forward and backward through one batch; in parts with cached gradients where it is large."""
        step = inputs["step"]
        self.planner.renew(step, self.encoder)
        plan = self.planner.plan(step)
        learning_mode(self.encoder)  # validation and mining have switched it off
        accelerator: Any = self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        mine = np.arange(len(plan.texts))[rank::world]  # places of the texts that this process encodes
        if world > len(plan.texts):
            raise DataError(f"{world} processes share a batch of {len(plan.texts)} texts; start fewer, or bring more")
        tokens = self.planner.tokens(plan, step)
        parts = [mine[part] for part in batches(np.array([len(tokens[i]) for i in mine]), PART_TOKENS)]
        cached = self._cached(sum(len(t) for t in tokens))
        with torch.no_grad() if cached else contextlib.nullcontext():
            own = torch.cat([self._embed(model, tokens, part, step) for part in parts])  # (n_mine, dim)
        leaf = own.detach().requires_grad_() if cached else own
        vectors = self._shared(leaf, np.concatenate(parts), len(plan.texts))
        loss = self.pair_loss(self.planner.batch(plan, vectors))
        self._check("loss", float(loss.detach()), step)
        # Each process holds the gradient through its own texts only, and they are averaged: hence the factor.
        if cached:
            (gradient,) = torch.autograd.grad(loss * world, [leaf])
            for part, pull in zip(parts, torch.split(gradient, [len(part) for part in parts]), strict=True):
                with contextlib.nullcontext() if part is parts[-1] else accelerator.no_sync(model):
                    accelerator.backward((self._embed(model, tokens, part, step) * pull).sum())
        else:
            accelerator.backward(loss * world)
        pulls = [p.grad for p in self.encoder.model.parameters() if p.grad is not None]
        self._check("gradient", float(torch.stack(torch._foreach_norm(pulls)).sum()), step)
        return loss.detach()

    def _embed(self, model: Any, tokens: list[list[int]], part: Rows, step: int) -> Tensor:
        with self._dropout_of(step, int(part[0])):
            return self.encoder.forward([tokens[i] for i in part], model)

    @contextlib.contextmanager
    def _dropout_of(self, *numbers: int) -> Iterator[None]:
        """Draw the same dropout each time these numbers come: the second pass of cached gradients, a restart."""
        if not self.lora.dropout:
            yield
            return
        device = self.encoder.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, *numbers]).generate_state(1)[0]))
            yield

    def _check(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise BrokenLoss(what, value, step + 1, len(self.planner))

    def _cached(self, n_tokens: int) -> bool:
        return self.lora.hold_tokens < n_tokens

    def _shared(self, own: Tensor, places: Rows, n_texts: int) -> Tensor:
        """Return the vectors of all texts in order: own ones with gradients, those of other processes without."""
        vectors = own.new_zeros(n_texts, own.shape[1])  # (n_texts, dim)
        if self.accelerator.num_processes > 1:
            width = -(-n_texts // self.accelerator.num_processes)
            padded = own.new_zeros(width, own.shape[1])
            padded[: len(own)] = own.detach()
            at = torch.full((width,), n_texts, dtype=torch.long, device=own.device)
            at[: len(own)] = torch.from_numpy(places).to(own.device)
            everyone, where = self.accelerator.gather((padded, at))
            real = where < n_texts
            vectors[where[real]] = everyone[real]
        return vectors.index_put((torch.from_numpy(places).to(own.device),), own)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / COMPLETE).unlink(missing_ok=True)  # of an older draft of this checkpoint
        with disk_errors(folder):
            save_file(learned(self.encoder), folder / WEIGHTS)
            if self.best_weights:
                save_file(self.best_weights, folder / BEST)
        self.planner.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        restore(self.encoder, load_file(folder / WEIGHTS))
        if (folder / BEST).exists():
            self.best_weights = load_file(folder / BEST)
        self.planner.load(folder)


class BrokenLoss(Exception):
    """Something is no number any more; caught by `finetune`, which keeps the best weights or says what to do."""

    def __init__(self, what: str, value: float, step: int, n_steps: int) -> None:
        super().__init__(f"the {what} became {value} at step {step} of {n_steps}")


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Draws the bar, validates, keeps the best weights, stops early, and marks a checkpoint as whole."""

    def __init__(self, trainer: PairTrainer, n_steps: int) -> None:
        self.trainer, self.bar = trainer, Bar("fine-tuning", n_steps)
        n = trainer.lora.validations if trainer.validate_with else 0
        self.due = {round(n_steps * (i + 1) / n) for i in range(n)}
        self.best, self.best_step, self.stale = -math.inf, 0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.advance(state.global_step)
        for entry in state.log_history:  # what was measured before a restart
            if "validation" in entry:
                self._compare(entry["validation"], entry["step"])
        control.should_training_stop = self._enough()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.advance()
        if state.global_step not in self.due:
            return
        trainer = self.trainer
        assert trainer.validate_with is not None  # noqa: S101 - there is nothing due without it
        trainer.encoder.model.eval()
        measured = dict(trainer.validate_with(trainer.encoder))
        score = float(np.mean(list(measured.values())))
        due = control.should_log
        trainer.log({"validation": score, **{f"validation_{name}": value for name, value in measured.items()}})
        control.should_log = due  # logging takes itself for done, and the loss of this step is still to come
        if self._compare(score, state.global_step):
            trainer.best_weights = {name: tensor.clone() for name, tensor in learned(trainer.encoder).items()}
        control.should_training_stop |= self._enough()

    def _enough(self) -> bool:
        return self.stale >= self.trainer.lora.patience

    def _compare(self, score: float, step: int) -> bool:
        better = score > self.best
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best, self.best_step = score, step
        return better

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.bar.advance(0, note=f"loss {logs['loss']:.3f}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.accelerator.wait_for_everyone()  # each process writes its random state there
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def learned(encoder: Encoder) -> dict[str, Tensor]:
    """Return what learns, by name."""
    return {n: p.detach().contiguous() for n, p in encoder.model.named_parameters() if p.requires_grad}


def restore(encoder: Encoder, weights: Mapping[str, Tensor]) -> None:
    """Put weights back that `learned` gave."""
    named = dict(encoder.model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            named[name].copy_(tensor)


def rate(step: int, n_steps: int, warmup_share: float) -> float:
    """Return the share of the learning rate at a step: up in a line, then down in a line.

    Examples
    --------
    >>> [round(rate(step, 5, 0.4), 2) for step in range(5)]
    [0.5, 1.0, 1.0, 0.67, 0.33]
    """
    warmup = math.ceil(warmup_share * n_steps)
    if step < warmup:
        return (step + 1) / warmup
    return max(n_steps - step, 0) / max(n_steps - warmup, 1)


@contextlib.contextmanager
def training_mode(encoder: Encoder) -> Iterator[None]:
    """Set the model up for training, and back afterwards.

    On a processor attention is computed step by step: backward through the fused one takes ten times as long as forward
    (torch 2.13), 40 % of all.
    """
    body = encoder.model[0].model
    holder = body.get_base_model() if hasattr(body, "get_base_model") else body
    fused = getattr(holder.config, "_attn_implementation", None)
    plain = encoder.model.device.type == "cpu" and fused == "sdpa"
    if plain:
        holder.set_attn_implementation("eager")
    try:
        yield
    finally:
        encoder.model.eval()
        if plain:
            holder.set_attn_implementation(fused)


def learning_mode(encoder: Encoder) -> None:
    """Switch on the dropout of the update alone: that of the frozen part would only blur the teacher."""
    for name, module in encoder.model.named_modules():
        module.training = "lora_dropout" in name


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    return items[0]


def _arguments(
    encoder: Encoder, planner: BatchPlanner, config: LoraConfig, folder: Path, seed: int, *, keep: bool
) -> TrainingArguments:
    n_steps = len(planner)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=n_steps,
        per_device_train_batch_size=1,  # a step is a batch
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[tool for tool in config.log_to if tool != "jsonl"] or "none",
        save_strategy="steps" if keep and config.checkpoints else "no",
        save_steps=max(1, math.ceil(n_steps / (config.checkpoints + 1))),
        save_total_limit=2,
        max_grad_norm=1.0,
        seed=seed,
        use_cpu=encoder.model.device.type == "cpu",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_broadcast_buffers=False,  # processes may go through different numbers of parts
        ddp_find_unused_parameters=config.kind == "full",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one device; several by `accelerate launch`
    return arguments
