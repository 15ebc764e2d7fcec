"""Fine-tuning an encoder on pairs of texts: what belongs together is pulled together."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerate import PartialState

from llm_tail.artifacts import fingerprint
from llm_tail.config import LoraConfig
from llm_tail.embedding.adapters import attach
from llm_tail.embedding.batching import BatchPlanner
from llm_tail.embedding.checkpoints import last_whole_checkpoint, own_randomness
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.families import quiet
from llm_tail.embedding.negatives import Search
from llm_tail.embedding.pairs import TextPairs
from llm_tail.embedding.training import (
    BrokenLoss,
    PairTrainer,
    TrainingLog,
    Validate,
    restore,
    training_mode,
)
from llm_tail.errors import ConfigError, DataError, MissingExtraError

EVENTS = "TENSORBOARD_LOGGING_DIR"  # where transformers looks

__all__ = ["TrainingLog", "finetune"]


def finetune(
    base: Encoder,
    pairs: TextPairs,
    config: LoraConfig | None = None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    checkpoints: str | Path | None = None,
    validate: Validate | None = None,
    search: Search | None = None,
) -> Encoder:
    """Return the encoder with an adapter trained on the pairs; `base` itself stays as it is.

    Parameters
    ----------
    base : Encoder
        Any transformer encoder, without an adapter; its weights are shared and stay frozen.
    pairs : TextPairs
        At least two. With fewer than a batch, all of them make the batch.
    config : LoraConfig, optional
        What is tuned, the loss, the learning rate and so on.
    seed : int
        Seeds the adapter, the order and the dropout; the random state of the process is left alone.
    folder : path, optional
        Where to save the adapter and the loss curve (``training.jsonl``) once training is through. Where ``log_to``
        names tensorboard, its event files go into ``tensorboard/`` beside this folder, else beside `checkpoints`.
    checkpoints : path, optional
        Where to save the state on the way. A training that was killed goes on from there when it is called again with
        the same encoder, pairs, settings and seed, to the same result; other ones begin anew. Removed once the adapter
        is saved in `folder`; without one they stay, for the caller to remove when the result is safe.
    validate : callable, optional
        ``validate(encoder)`` measures what matters (name to number, higher is better), ``validations`` times on the
        way. The weights with the best mean are kept, and training stops after ``patience`` times without a gain.
    search : callable, optional
        Finds neighbours for hard negatives, ``search(queries, base, k)``; exact search if left out.

    Raises
    ------
    DataError
        If there are fewer than two pairs, or the loss stops being a number before anything was validated.
    ConfigError
        If no layer of the model bears a name in ``target_modules``; the layers there are get named. If fields are to
        drop out of texts and the pairs do not know them. If tensorboard is asked for and there is no folder.
    MissingExtraError
        If ``log_to`` names a tool that is not installed.
    OSError
        If the disk is full; the last whole checkpoint stays.

    Notes
    -----
    The loss is one of three: `losses.Contrastive` (by default, with soft labels: how strongly any two texts of the
    batch belong together by the words of all people, or by a teacher, says more than the one pair that was drawn),
    `losses.MultipleNegatives`, `losses.SquaredError`. Soft labels hear no ``false_negatives = "together"``, which would
    leave nothing but the pair itself. What is tuned is one of seven kinds: lora (Hu et al., "LoRA", ICLR 2022; by
    default, on every linear layer of the blocks), rslora, dora, prefix, ia3, top-layers, full.
    An epoch goes through the whole batches of each kind of pairs; what is left of a kind, less than a batch, waits for
    the next epoch, which draws another order.
    Runs under ``accelerate launch`` as it is: processes share each batch and learn what one would.
    A step costs three forward passes over the distinct texts of the batch, four where it is gone through in parts.
    With ``keep`` above 0 the base encodes all texts that training will see once beforehand, one more pass over each.
    """
    config = config or LoraConfig()
    if len(pairs) < 2:
        raise DataError(f"fine-tuning needs at least 2 pairs to tell apart, found {len(pairs)}")
    beside = folder or checkpoints
    _check_tools(config, stays=beside is not None)
    if config.field_dropout and pairs.fields is None:
        raise ConfigError("setting 'lora.field_dropout' is above 0: call with_fields(catalog) on the pairs before")
    with own_randomness(base.model.device, seed), quiet(), TemporaryDirectory() as scratch:
        planner = BatchPlanner(pairs, base, config, seed, search)
        if not len(planner):
            raise DataError("no batch of at least 2 pairs can be made; bring more pairs of a kind")
        encoder = attach(base, config)
        name = _name(base, pairs, config, seed)
        place = Path(checkpoints) / name if checkpoints is not None else Path(scratch)
        events = Path(beside).parent / "tensorboard" / name if beside and "tensorboard" in config.log_to else None
        with _events_in(events):
            trainer = PairTrainer(
                encoder, planner, config, place, seed, keep=checkpoints is not None, validate=validate
            )
        with training_mode(encoder):
            encoder.training = _train(trainer)
    if encoder.training.note:
        warnings.warn(encoder.training.note, stacklevel=2)
    encoder.seal_adapter()
    processes = PartialState()
    # Without a folder the result is the caller's to save, and a kill before that is not to lose it.
    if processes.is_main_process and folder is not None:
        encoder.save_adapter(folder)
        shutil.rmtree(place, ignore_errors=True)
    processes.wait_for_everyone()
    return encoder


def _train(trainer: PairTrainer) -> TrainingLog:
    """Train from the last whole checkpoint on, and leave the weights that are to be kept in the encoder."""
    resume, note, config = last_whole_checkpoint(Path(trainer.args.output_dir)), "", trainer.lora
    try:
        with trainer.watch.bar:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except BrokenLoss as error:
        if not trainer.watch.best_step:
            raise DataError(
                f"{error}; nothing was saved; try a smaller [lora] learning_rate (now {config.learning_rate:g}) or "
                "[encoder] precision = 'fp32'"
            ) from None
        note = f"{error}; the weights of step {trainer.watch.best_step}, the best until then, are kept"
    history = trainer.state.log_history
    steps = [{k: float(e[k]) for k in ("step", "loss", "learning_rate", "grad_norm")} for e in history if "loss" in e]
    if trainer.watch.best_step:
        restore(trainer.encoder, trainer.best_weights)
    return TrainingLog(
        steps=steps,
        validations=[
            {k: float(v) for k, v in e.items() if k == "step" or k.startswith("validation")}
            for e in history
            if "validation" in e
        ],
        provenance={**trainer.planner.pairs.provenance, "lora": config.model_dump(mode="json"), "seed": trainer.seed},
        best_step=trainer.watch.best_step or int(trainer.state.global_step),
        note=note,
    )


@contextmanager
def _events_in(folder: Path | None) -> Iterator[None]:
    """Let what is made here write the event files of tensorboard to `folder`: that of the training is removed."""
    if folder is None or EVENTS in os.environ:
        yield
        return
    os.environ[EVENTS] = str(folder)
    try:
        yield
    finally:
        del os.environ[EVENTS]


def _name(base: Encoder, pairs: TextPairs, config: LoraConfig, seed: int) -> str:
    """Return what this very training is called; whatever differs bears another name."""
    return fingerprint("training-2", base.fingerprint, pairs.fingerprint, config.model_dump(mode="json"), seed)


def _check_tools(config: LoraConfig, *, stays: bool) -> None:
    for tool in config.log_to:
        if tool != "jsonl" and find_spec(tool) is None:
            raise MissingExtraError(tool, tool)
    if "tensorboard" in config.log_to and not stays and EVENTS not in os.environ:
        raise ConfigError(
            "setting 'lora.log_to' names tensorboard: give finetune a folder, beside which events are kept"
        )
