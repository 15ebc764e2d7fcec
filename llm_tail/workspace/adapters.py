"""What happens to an encoder after fine-tuning: judged, kept, listed, compared.

::

    run/
    ├── encoder/               the last fine-tuning: adapter/, verdict.json, and its facts in the manifest
    └── adapters/1f0c2a91d3e4/ the ones before it, whole, the five newest

Fine-tuning again puts the former result aside before the new one takes its place, so that the two can be compared and
the better one exported. What is put aside shares its bytes with what was there (hard links) where the disk allows it.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_tail.artifacts import MANIFEST, generation_of, read_artifact, read_manifest
from llm_tail.errors import CorruptArtifactError, StaleArtifactError, UnknownIdError
from llm_tail.workspace.card import public_name

if TYPE_CHECKING:
    from llm_tail.data.splits import Split
    from llm_tail.embedding.encoder import Encoder
    from llm_tail.embedding.pairs import TextPairs
    from llm_tail.workspace.guard import Look, Probe, Verdict
    from llm_tail.workspace.workspace import Workspace

BASE, CURRENT, SOURCE = "base", "current", "source"
VERDICT = "verdict.json"
N_FORMER = 5


@dataclass(frozen=True)
class AdapterInfo:
    """One fine-tuning, as `llm-tail adapters` lists it.

    Parameters
    ----------
    name : str
        What it is called in the commands: the start of its generation.
    current : bool
        Whether it is the run's last one.
    made : str
        When, local time.
    kind : str
        What was trained, such as ``lora``.
    rank : int or None
        Of the update, where it has one.
    kept : bool
        Whether the guard kept it.
    strength : float
        Share of the update that is in the adapter, in [0, 1]; 0 where it was not kept.
    base : str
        The model it was trained on.
    data : str
        Fingerprint of the training events.
    before, after : float
        Mean validation NDCG@20 of the base and of what was kept.
    folder : str
        Where it lies.
    """

    name: str
    current: bool
    made: str
    kind: str
    rank: int | None
    kept: bool
    strength: float
    base: str
    data: str
    before: float
    after: float
    folder: str


# ---- judging


def judging_split(workspace: Workspace) -> Split:
    """Return the split to train and judge an encoder on: the run's, or a cut of its training where that has no judge.

    What is judged on must not have been trained on; without validation events a tenth of the items is held out.
    """
    from llm_tail.data.splits import split_cold_items

    split = workspace.split
    if len(split.validation):
        return split
    return split_cold_items(split.train, workspace.catalog, cold_share=0.1, seed=workspace.config.seed)


def make_probe(workspace: Workspace) -> Probe | None:
    """Return the run's probe of general text similarity, the same for every encoder."""
    from llm_tail.workspace.guard import Probe

    return Probe.of(workspace.catalog, workspace.item_text, seed=workspace.config.seed)


def look_at(workspace: Workspace, encoder: Encoder, probe: Probe | None) -> Look:
    """Encode the catalogue and the probe; one pass over the texts, and at most 4,000 more of the probe."""
    from llm_tail.workspace.guard import Look

    size = workspace.config.embedding.batch_tokens
    vectors = encoder.encode(workspace.item_text.texts(workspace.catalog), batch_tokens=size, progress=True)
    return Look(vectors, probe.score(encoder, batch_tokens=size) if probe else None)


def judge(workspace: Workspace, encoders: Mapping[str, Encoder], split: Split, *, shown: Sequence[str] = ()) -> Verdict:
    """Hold encoders against the first of them, by `judge_encoders`, with the settings of the run."""
    from llm_tail.workspace.guard import OneByOne, judge_encoders

    probe = make_probe(workspace)
    return judge_encoders(
        OneByOne(tuple(encoders), lambda label: look_at(workspace, encoders[label], probe)),
        split,
        shown=shown,
        probe=probe.kind if probe else "",
        max_forgetting=workspace.config.lora.max_forgetting,
        seed=workspace.config.seed,
    )


def facts_of(workspace: Workspace, split: Split, pairs: TextPairs, verdict: Verdict, strength: float) -> dict[str, Any]:
    """Return what the manifest of a fine-tuned encoder tells without opening a file."""
    config, report = workspace.config, verdict.report
    return {
        "kept": verdict.kept != verdict.base,
        "strength": strength,
        "verdict": str(verdict),
        "mean_ndcg": {label: verdict.mean(label) for label in dict.fromkeys((verdict.base, verdict.kept))},
        "validation_ndcg": {n: {s: report.value(n, s) for s in report.segments} for n in report.models},
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "base": public_name(config.encoder.name),
        "lora": config.lora.model_dump(),
        "pairs": pairs.provenance,
        "data": {
            "n_items": len(workspace.catalog),
            "n_users": len(split.train.users),
            "n_events": len(split.train),
            "catalog": workspace.catalog.fingerprint(),
            "train": split.train.fingerprint(),
        },
    }


def verdict_of(workspace: Workspace) -> Verdict:
    """Return why the run's encoder is what it is.

    Raises
    ------
    StaleArtifactError
        If it was not fine-tuned with the settings at hand yet.
    """
    from llm_tail.workspace.guard import Verdict

    return workspace._load("finetune", lambda folder: Verdict.load(read_artifact(folder, "encoder").file(VERDICT)))


# ---- what there is


def put_aside(folder: Path, former: Path, n_most: int = N_FORMER) -> None:
    """Keep what lies in an artifact's folder among the former ones before it is replaced; the newest `n_most` stay."""
    generation = generation_of(folder)
    if not generation or not (folder / generation).is_dir():
        return
    target = former / generation.removeprefix("g-")
    if not target.exists():
        draft = former / f".{uuid.uuid4().hex[:12]}"
        try:
            shutil.copytree(folder, draft, copy_function=_link, ignore=lambda *_: {".lock"})
            draft.replace(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    known = sorted(former.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in known[n_most:]:
        shutil.rmtree(old.parent, ignore_errors=True)


def list_adapters(workspace: Workspace) -> list[AdapterInfo]:
    """Return the run's fine-tunings, newest first: the current one and those put aside; damaged ones with a warning."""
    found = []
    for folder, current in _folders(workspace):
        try:
            manifest = read_manifest(folder)
        except (CorruptArtifactError, StaleArtifactError) as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        if manifest is not None and "mean_ndcg" in manifest["facts"]:
            found.append(_info(folder, manifest, current))
    return sorted(found, key=lambda info: info.made, reverse=True)


def compare_adapters(workspace: Workspace, first: str, second: str) -> Verdict:
    """Hold one encoder of the run against another: the guard's table, the second beside the first.

    Parameters
    ----------
    workspace : Workspace
        The run whose catalogue and validation events judge.
    first, second : str
        ``base``, ``current``, the name of a former adapter or its beginning, or the folder of any adapter.

    Raises
    ------
    UnknownIdError
        If there is none of that name.
    """
    split = judging_split(workspace)
    for name in (first, second):
        data = _facts(workspace, name).get("data", {})
        if data and data.get("train") != split.train.fingerprint():
            warnings.warn(
                f"{name} was trained on other events than this run's training part; some of what it is judged on "
                "may have been among them",
                stacklevel=2,
            )
    names = [first, second if second != first else f"{second} again"]
    encoders = (open_encoder(workspace, name) for name in (first, second))
    return judge(workspace, dict(zip(names, encoders, strict=True)), split)


def open_encoder(workspace: Workspace, name: str = CURRENT) -> Encoder:
    """Return the base or an adapter on it, even one that the guard did not keep; named as in `compare_adapters`."""
    from llm_tail.embedding.encoder import Encoder

    if name == BASE:
        return workspace.base_encoder
    folder = find_adapter(workspace, name)
    inner = folder / read_artifact(folder, "encoder").data.name / "adapter" if kind_of(folder) == "encoder" else folder
    return Encoder.load(config=workspace.base_encoder.config, adapter=inner)


def find_adapter(workspace: Workspace, name: str) -> Path:
    """Return the folder of an adapter by its name, the beginning of it, or its path."""
    known = {_name(folder): folder for folder, _ in _folders(workspace)}
    if name == CURRENT:
        if kind_of(workspace.folder / "encoder"):
            return workspace.folder / "encoder"
        raise StaleArtifactError(f"this run has no fine-tuned encoder yet; run: llm-tail finetune {workspace.source}")
    if name in known:
        return known[name]
    near = [folder for other, folder in known.items() if name and other.startswith(name)]
    if len(near) == 1:
        return near[0]
    if kind_of(Path(name)) in ("encoder", "lora-adapter"):
        return Path(name)
    raise UnknownIdError("adapter", name, [BASE, *([CURRENT] if known else []), *known])


# ---- small helpers


def _folders(workspace: Workspace) -> Iterator[tuple[Path, bool]]:
    current, former = workspace.folder / "encoder", workspace.folder / "adapters"
    if (current / MANIFEST).is_file():
        yield current, True
    for path in sorted(former.glob(f"*/{MANIFEST}")):
        if path.parent.name != generation_of(current).removeprefix("g-"):  # it may stand here already when a stop comes
            yield path.parent, False


def _info(folder: Path, manifest: Mapping[str, Any], current: bool) -> AdapterInfo:
    facts = manifest["facts"]
    lora, means = facts.get("lora", {}), list(facts["mean_ndcg"].values())
    return AdapterInfo(
        name=_name(folder),
        current=current,
        made=facts["made"],
        kind=str(lora.get("kind", lora.get("method", "lora"))),
        rank=lora.get("rank"),
        kept=facts["kept"],
        strength=float(facts["strength"]),
        base=facts["base"],
        data=facts["data"]["train"],
        before=means[0],
        after=means[-1],
        folder=str(folder),
    )


def _name(folder: Path) -> str:
    return generation_of(folder).removeprefix("g-")[:8]


def kind_of(folder: Path) -> str:
    """Return what kind of artifact lies in a folder; empty where there is none."""
    manifest = read_manifest(folder)
    return str(manifest["kind"]) if manifest else ""


def _facts(workspace: Workspace, name: str) -> dict[str, Any]:
    manifest = None if name == BASE else read_manifest(find_adapter(workspace, name))
    return manifest["facts"] if manifest else {}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
