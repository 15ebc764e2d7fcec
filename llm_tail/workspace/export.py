"""Taking an encoder out of a run: a plain sentence-transformers folder, with a card that says what it is."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from llm_tail.artifacts import read_artifact, write_json
from llm_tail.errors import DataError
from llm_tail.workspace.adapters import BASE, CURRENT, VERDICT, find_adapter, kind_of, open_encoder
from llm_tail.workspace.card import model_card, public_name

if TYPE_CHECKING:
    from llm_tail.embedding.encoder import Encoder
    from llm_tail.workspace.workspace import Workspace

MARK = "llm_tail.json"  # in a folder that `export_encoder` wrote, and may write again


def export_encoder(workspace: Workspace, folder: str | Path, name: str | None = None, *, made: str = "") -> Path:
    """Write an encoder of the run as a plain sentence-transformers folder with a model card, and return its path.

    Parameters
    ----------
    workspace : Workspace
        The run.
    folder : path
        A new or empty folder, or one that this wrote before, which is replaced.
    name : str, optional
        As in `compare_adapters`; what the run itself uses if not given: the adapter where the guard kept it.
    made : str
        The date on the card; left out if empty, so that equal runs give equal folders.

    Raises
    ------
    DataError
        If the folder holds something else, or is the one that this process runs in.

    Notes
    -----
    Needs the space of the whole model beside what is there: a former export makes way only once the new one is whole
    on the disk, and comes back if the new one cannot take its place.
    """
    target = Path(folder).resolve()
    if Path.cwd().is_relative_to(target):  # a former export is replaced as a whole, and would take the ground away
        raise DataError(f"{target} is where this runs; name a folder in it, such as {target / 'encoder'}")
    if target.exists() and not (target / MARK).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} is there already and is no former export; name a new folder")
    encoder = workspace.encoder if name is None else open_encoder(workspace, name)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        encoder.save(draft)
        _without_paths(draft)
        (draft / "README.md").write_text(_card(workspace, encoder, name, target.name, made), encoding="utf-8")
        write_json(draft / MARK, {"encoder": encoder.fingerprint, "base": public_name(workspace.config.encoder.name)})
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _swap(draft: Path, target: Path) -> None:
    """Let `draft` take the place of `target`, by two renames where a folder is there already."""
    former = draft.with_name(f"{draft.name}-former")
    if target.exists():
        target.replace(former)
    try:
        draft.replace(target)
    except OSError:
        if former.exists():
            former.replace(target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def losses_of(folder: Path) -> list[float]:
    """Return the loss of each step from the training log beside an adapter; empty where there is none."""
    log = next(iter(sorted(folder.rglob("training.jsonl"))), None)
    if log is None:
        return []
    entries = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip())
    return [float(entry["loss"]) for entry in entries if "loss" in entry and "step" in entry]


def _card(workspace: Workspace, encoder: Encoder, name: str | None, title: str, made: str) -> str:
    from llm_tail.workspace.guard import Verdict

    tuned = name != BASE and (name is not None or workspace.config.lora.enabled)
    folder = find_adapter(workspace, name or CURRENT) if tuned else None
    artifact = read_artifact(folder, "encoder") if folder and kind_of(folder) == "encoder" else None
    config = workspace.config
    settings = {"text": config.text.model_dump()}
    if config.pretrain.enabled:
        settings["pretrain"] = config.pretrain.model_dump()
    learned = encoder.adapter is not None  # where the guard kept the base, the card tells why, and of no training
    return model_card(
        title,
        base=config.encoder.name,
        config=encoder.config,
        dim=encoder.dim,
        pooling=encoder.pooling,
        adapter=learned,
        settings=settings,
        facts=artifact.facts if artifact and learned else {},
        losses=losses_of(folder) if folder and learned else [],
        verdict=Verdict.load(artifact.file(VERDICT)) if artifact else None,
        made=made,
    )


def _without_paths(folder: Path) -> None:
    """Take out of the model's settings where it was loaded from: that is nobody's business and nowhere else true."""
    for path in folder.rglob("*.json"):
        if path.name in ("tokenizer.json", "vocab.json"):
            continue
        raw = json.loads(path.read_text(encoding="utf-8"))
        there = {"_name_or_path", "name_or_path"} & raw.keys() if isinstance(raw, dict) else set()
        if there:
            path.write_text(json.dumps({k: v for k, v in raw.items() if k not in there}, indent=2), encoding="utf-8")
