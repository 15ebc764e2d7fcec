"""RunRecord: what a run has finished, from which inputs, and what it cost; kept in ``run.json``.

::

    {
      "stages": {"embed": {"fingerprint": "5f0c2a91d3e4b7aa", "generation": "g-5f0c2a91d3e4", "seconds": 41.2, ...}},
      "models": {"ease": {...}},
      "digests": {"items.parquet": [size, modified, sha256]}
    }

An entry is written when its stage has ended and names the generation of the artifact that came out. A stop before
leaves both as they were; a stop between the two leaves an entry that names another generation and counts for nothing.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from llm_tail.artifacts import fingerprint, generation_of, sha256, write_json
from llm_tail.errors import CorruptArtifactError, DataError
from llm_tail.progress import is_first_process

Kind = Literal["stages", "models"]


@dataclass(frozen=True)
class StageResult:
    """What one stage did.

    Parameters
    ----------
    name : str
        The stage.
    state : {"done", "skipped"}
        Skipped where it was finished before, from the same inputs and settings.
    seconds : float
        What it took when it ran.
    peak_mb : float
        The most memory the process had held when the stage ended, all earlier stages of that process included, in MB.
    finished : str
        When it ended, local time.
    note : str
        One line on what came out.
    """

    name: str
    state: Literal["done", "skipped"]
    seconds: float = 0.0
    peak_mb: float = 0.0
    finished: str = ""
    note: str = ""


class RunRecord:
    """The record of one run folder.

    Parameters
    ----------
    folder : Path
        The folder of the run; nothing is written before a stage ends.

    Raises
    ------
    CorruptArtifactError
        If ``run.json`` is there but holds no record.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.json"
        self._values = self._read()

    def matches(self, kind: Kind, name: str, made_from: str, folder: Path) -> bool:
        """Say whether what lies in `folder` is what came out when `name` was finished from inputs of this digest."""
        entry = self._values[kind].get(name, {})
        generation = generation_of(folder)
        same = entry.get("generation", generation) == generation
        return bool(generation) and same and entry.get("fingerprint") == made_from

    def __contains__(self, name: str) -> bool:
        return name in self._values["stages"]

    def skipped(self, name: str) -> StageResult:
        """Return the result of a stage that was finished before."""
        entry = self._values["stages"][name]
        kept = {field.name: entry[field.name] for field in fields(StageResult) if field.name in entry}
        return StageResult(**{**kept, "name": name, "state": "skipped"})

    def seconds(self, kind: Kind, name: str) -> float:
        """Return what it took; 0 where it is not known."""
        return float(self._values[kind].get(name, {}).get("seconds", 0.0))

    def forget(self, kind: Kind, name: str) -> None:
        """Take `name` for not finished: what came out of it is damaged."""
        self._write(kind, name, None)

    def end(self, kind: Kind, name: str, made_from: str, folder: Path, seconds: float, note: str = "") -> StageResult:
        """Keep that `name` is finished and that its result lies in `folder`, and return what it cost."""
        done = time.strftime("%Y-%m-%d %H:%M:%S")
        result = StageResult(name, "done", round(seconds, 3), peak_mb(), done, note)
        made = {"fingerprint": made_from, "generation": generation_of(folder)}
        self._write(kind, name, {**asdict(result), **made})
        return result

    def digest(self, source: str) -> str:
        """Return a digest of the bytes of a file or folder; a file that has not changed since is not read again.

        A data set that is no file (``hf:...``) and a model that is a mere name stand for themselves.

        Raises
        ------
        DataError
            If it looks like a path and is not there.
        """
        path = Path(source)
        if source.startswith("hf:") or not source:
            return source
        if path.is_file():
            return self._file(path)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            return fingerprint([(p.relative_to(path).as_posix(), self._file(p)) for p in files])
        raise DataError(f"there is no file or folder {source}; the paths in a config file are relative to that file")

    def _file(self, path: Path) -> str:
        state = path.stat()
        known = self._values["digests"].get(str(path))
        if not isinstance(known, list) or len(known) != 3 or known[:2] != [state.st_size, state.st_mtime_ns]:
            known = [state.st_size, state.st_mtime_ns, sha256(path)]
            self._values["digests"][str(path)] = known
        return str(known[2])

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self.path.is_file():
            return {"stages": {}, "models": {}, "digests": {}}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            values: dict[str, dict[str, Any]] = {"digests": dict(found["digests"])}
            for kind in ("stages", "models"):
                values[kind] = {name: dict(entry) for name, entry in found[kind].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptArtifactError(
                f"{self.path} is no record of a run ({error!r})", "remove it and run again"
            ) from error
        return values

    def _write(self, kind: Kind, name: str, entry: dict[str, Any] | None) -> None:
        """Change one entry; what another run in the same folder has written since stays."""
        if not is_first_process():
            return
        values = self._read()
        values[kind].pop(name, None)
        if entry is not None:
            values[kind][name] = entry
        values["digests"] |= self._values["digests"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, values)
        self._values = values


def peak_mb() -> float:
    """Return the most memory this process has held so far, in MB (10^6 bytes); 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)
