"""How a finished thing lies on disk, so that nothing half-written is ever taken for whole.

An artifact is a folder::

    embeddings/
    ├── manifest.json      kind, format, fingerprint, facts, for each file its size and sha256, a digest of all this
    └── g-5f0c2a91d3e4/    one generation: the files themselves, under their plain names

Writing makes a new generation beside the old one, then replaces ``manifest.json`` in one step (``os.replace``), then
removes the generations that no manifest names. A crash, Ctrl-C or a full disk at any point leaves the old artifact
whole. Reading checks every digest before a byte is used: some readers downstream crash the process on a truncated file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from llm_tail.errors import CorruptArtifactError, StaleArtifactError

MANIFEST = "manifest.json"
FORMAT = 1


def fingerprint(*parts: Any) -> str:
    """Return a short stable digest (16 hex digits) of JSON-like values and numpy arrays.

    Equal inputs give equal fingerprints on every machine and in every process.

    Parameters
    ----------
    *parts : JSON-like, bytes, Path or numpy.ndarray
        Mappings are hashed with their keys sorted; a `Path` stands for the bytes of the file it names.

    Examples
    --------
    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            if part.dtype == object:
                digest.update(json.dumps([str(x) for x in part.ravel()]).encode())
            else:
                digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        elif isinstance(part, Path):
            digest.update(sha256(part).encode())
        elif isinstance(part, bytes):
            digest.update(part)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\x1e")
    return digest.hexdigest()[:16]


def sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON so that a reader sees the old file or the new one, never a part of it."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False, default=str)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a new file that takes the place of `path` at the end of the block, or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what safetensors raises where `path` cannot be written, as on a full disk, into the `OSError` that it is."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        number = int(code[1]) if os.name == "posix" else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


@dataclass(frozen=True)
class Artifact:
    """A finished thing on disk, its files already checked against their digests.

    Parameters
    ----------
    folder : Path
        The artifact's folder.
    kind : str
        What it is, such as ``"item-graph"``.
    fingerprint : str
        Digest of everything it was made from.
    facts : dict
        What the writer wanted to be known without opening the files.
    data : Path
        The folder that holds the files.
    """

    folder: Path
    kind: str
    fingerprint: str
    facts: dict[str, Any]
    data: Path

    def file(self, name: str) -> Path:
        """Return the path of one of the files."""
        return self.data / name


@dataclass
class Draft:
    """An artifact being written: put files into `data` and facts into `facts`."""

    data: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """Return the path to write one of the files to."""
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def write_artifact(
    folder: str | Path, kind: str, fingerprint: str, facts: Mapping[str, Any] | None = None
) -> Iterator[Draft]:
    """Write an artifact; it becomes visible whole at the end of the block, or not at all.

    Parameters
    ----------
    folder : path
        Where it shall lie; made if missing. An artifact that is already there is replaced.
    kind : str
        Checked by `read_artifact`.
    fingerprint : str
        Digest of what it is made from; `read_artifact` compares it.
    facts : mapping, optional
        JSON-like values for the manifest; more may be added to ``draft.facts`` inside the block.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with write_artifact(folder, "greeting", fingerprint("v1")) as draft:
    ...         _ = draft.file("hello.txt").write_text("hello")
    ...     read_artifact(folder, "greeting").file("hello.txt").read_text()
    'hello'
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draft = Draft(folder / f"g-{uuid.uuid4().hex[:12]}", dict(facts or {}))
    draft.data.mkdir()
    try:
        with disk_errors(folder):
            yield draft
        files = {}
        for path in sorted(p for p in draft.data.rglob("*") if p.is_file()):
            _sync(path)
            files[path.relative_to(draft.data).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        manifest = {
            "kind": kind,
            "format": FORMAT,
            "fingerprint": fingerprint,
            "generation": draft.data.name,
            "facts": json.loads(json.dumps(draft.facts, default=str)),
            "files": files,
        }
        write_json(folder / MANIFEST, {**manifest, "digest": _digest(manifest)})
    except BaseException:
        if not _is_current(folder, draft.data.name):  # Ctrl-C may come just after the new manifest took its place
            shutil.rmtree(draft.data, ignore_errors=True)
        raise
    for old in folder.glob("g-*"):
        if old != draft.data:
            shutil.rmtree(old, ignore_errors=True)


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """Return the manifest of an artifact folder, or None where there is none.

    Raises
    ------
    CorruptArtifactError
        If the manifest is there but cannot be read, or says something else than was written.
    StaleArtifactError
        If another version wrote it in another format.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptArtifactError(
            f"{path} is no readable manifest ({error})", f"remove the folder {path.parent} and run its stage again"
        ) from error
    parts = {"kind", "format", "fingerprint", "generation", "facts", "files", "digest"}
    if not isinstance(manifest, dict) or not parts <= manifest.keys():
        raise CorruptArtifactError(
            f"{path} lacks parts of a manifest", f"remove the folder {path.parent} and run its stage again"
        )
    if manifest.pop("digest") != _digest(manifest):
        raise CorruptArtifactError(
            f"{path} is not what was written", f"remove the folder {path.parent} and run its stage again"
        )
    if manifest["format"] != FORMAT:
        raise StaleArtifactError(
            f"{path} has the format {manifest['format']}, expected {FORMAT}; another version of llm_tail wrote it, "
            "run its stage again"
        )
    return manifest


def generation_of(folder: str | Path) -> str:
    """Return what tells one writing of an artifact from every other; empty where there is none that can be read."""
    try:
        manifest = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
        return str(manifest.get("generation") or fingerprint(manifest["complete"]))
    except (OSError, ValueError, KeyError, AttributeError):
        return ""


def read_artifact(
    folder: str | Path, kind: str, fingerprint: str | None = None, *, stage: str | None = None
) -> Artifact:
    """Open an artifact after checking its kind, its inputs and every byte of it.

    Parameters
    ----------
    folder : path
        The artifact's folder.
    kind : str
        The kind it has to be.
    fingerprint : str, optional
        If given, the fingerprint it has to have.
    stage : str, optional
        The command that makes it, named in the errors.

    Raises
    ------
    StaleArtifactError
        If it is not there, or was made from other inputs.
    CorruptArtifactError
        If a file is missing, of another length, or of another digest.
    """
    folder = Path(folder)
    run = f"run: {stage}" if stage else "make it again"
    manifest = read_manifest(folder)
    if manifest is None:
        raise StaleArtifactError(f"there is no {kind} at {folder} yet; {run}")
    if manifest["kind"] != kind:
        raise StaleArtifactError(f"{folder} holds a {manifest['kind']}, expected a {kind}; {run}")
    if fingerprint is not None and manifest["fingerprint"] != fingerprint:
        raise StaleArtifactError(
            f"the {kind} at {folder} was made from other inputs or settings "
            f"(fingerprint {manifest['fingerprint']}, expected {fingerprint}); {run}"
        )
    data = folder / manifest["generation"]
    if not data.is_dir() and read_manifest(folder) != manifest:  # it was replaced since the first look
        return read_artifact(folder, kind, fingerprint, stage=stage)
    for name, expected in manifest["files"].items():
        path = data / name
        found = path.stat().st_size if path.is_file() else None
        if found != expected["bytes"] or sha256(path) != expected["sha256"]:
            state = "is missing" if found is None else "is not what was written (another sha256)"
            if found not in (None, expected["bytes"]):
                state = f"is damaged ({found:,} bytes, {expected['bytes']:,} were written)"
            raise CorruptArtifactError(f"{path} {state}", f"remove the folder {folder}, then {run}")
    return Artifact(folder, kind, manifest["fingerprint"], manifest.get("facts", {}), data)


def _digest(manifest: Mapping[str, Any]) -> str:
    return fingerprint({name: manifest[name] for name in sorted(manifest)})


def _is_current(folder: Path, generation: str) -> bool:
    try:
        manifest = read_manifest(folder)
    except (CorruptArtifactError, StaleArtifactError, OSError):
        return False
    return manifest is not None and manifest["generation"] == generation


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows does so by itself."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
