"""Whether what a workspace holds in memory is still what the files say; results of old data must not look new.

A fingerprint is taken of the files as they are, and what was loaded may be older than that. So the state of the files
is noted before the first of them is read, and looked at again before and after anything is made.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llm_tail.artifacts import MANIFEST
from llm_tail.errors import StaleArtifactError
from llm_tail.workspace.data import HELD
from llm_tail.workspace.generated import ENRICHED
from llm_tail.workspace.record import Kind

if TYPE_CHECKING:
    from llm_tail.workspace import Workspace

FileStates = tuple[tuple[str, int, int], ...]
States = dict[str, FileStates]

_SOURCE_DATA = {"source_catalog", "raw_interactions", "_events", "split", "segments"}


def note(workspace: Workspace) -> None:
    """Remember the state of the files before the first of them is read."""
    if workspace._loaded_from is None:
        workspace._loaded_from = states_of(workspace)


def refresh(workspace: Workspace) -> States:
    """Drop what was loaded from files that have changed since, and return the state that all it holds is of.

    To be called after the fingerprint of what is to be made was taken: a change between the two is found in the end.
    """
    before, now = workspace._loaded_from, states_of(workspace)
    workspace._loaded_from = now
    changed = [] if before is None else _changes(before, now)
    if not changed:
        return now
    kept = {"item_text"} if workspace.config.encoder.name in changed else {"item_text", "source_encoder"}
    if changed == [_generated(workspace)]:
        kept |= _SOURCE_DATA
    for name in set(workspace.__dict__) - kept:
        if isinstance(getattr(type(workspace), name, None), cached_property):
            del workspace.__dict__[name]
    workspace._models.clear()
    return now


def check_unchanged(workspace: Workspace, kind: Kind, name: str, since: States, is_same: bool) -> None:
    """Raise `StaleArtifactError` where the fingerprint of `name` is not the same any more after it was made."""
    if is_same:
        return
    workspace.record.forget(kind, name)
    changed = ", ".join(_changes(since, states_of(workspace))) or "what it is made from"
    raise StaleArtifactError(
        f"{changed} changed while {name!r} was running, so that its result is not kept as finished; expected files "
        "that stay as they are until it ends; run the same command again"
    )


def states_of(workspace: Workspace) -> States:
    """Return paths, sizes and times of all files that a run is made from; no file is read, and none is no error."""
    config = workspace.config
    data, enrichment = config.data, config.enrichment
    sources = [data.catalog, *(getattr(data, key) for key in ("interactions", *HELD)), config.encoder.name]
    sources += [enrichment.prompts, enrichment.model, _generated(workspace)]
    return {source: _state_of(Path(source)) for source in sources if source}


def _generated(workspace: Workspace) -> str:
    return str(workspace.folder / ENRICHED / MANIFEST)


def _state_of(path: Path) -> FileStates:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)


def _changes(before: States, now: States) -> list[str]:
    return [source for source, state in now.items() if before.get(source) != state]
