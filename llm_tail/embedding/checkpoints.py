"""What every training here shares: its own randomness, and checkpoints of which a half-written one is never taken."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from llm_tail.artifacts import write_json

COMPLETE = "complete.json"  # stands in a checkpoint once it has been written to its end: the size of each file


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Seed all generators, and leave those of the process as they were: the library's trainer seeds all there is."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the library sets the old one
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class CheckpointedTrainer(Trainer):  # type: ignore[misc]  # the library has no types
    """The library's trainer, which says what is wrong where a checkpoint cannot be written."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except RuntimeError as error:  # what torch says where a file cannot be written, as on a full disk
            folder = str(self.args.output_dir)
            number = errno.ENOSPC if shutil.disk_usage(folder).free < 1 << 20 else errno.EIO
            raise OSError(number, os.strerror(number), folder) from error


def mark_whole(checkpoint: Path) -> None:
    """Say that all files of a checkpoint are there; called last."""
    sizes = {path.name: path.stat().st_size for path in sorted(checkpoint.iterdir()) if path.name != COMPLETE}
    write_json(checkpoint / COMPLETE, sizes)


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; the half-written ones are left aside."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in found if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
