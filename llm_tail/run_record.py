"""RunRecord: what a run has finished, from which inputs, and what it cost; kept in ``run.json``.

::

    {
      "stages": {"embed": {"fingerprint": "5f0c2a91d3e4b7aa", "seconds": 41.2, "peak_mb": 912, "finished": "...", ...}},
      "models": {"ease": {...}},
      "digests": {"items.parquet": [size, modified, sha256]}
    }

An entry is removed before its stage starts and written when it has ended: what a crash leaves is never taken for whole.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from llm_tail.artifacts import fingerprint, sha256, write_json
from llm_tail.errors import CorruptArtifactError, DataError

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
    seconds: float
    peak_mb: float
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
        self._values: dict[str, dict[str, Any]] = {"stages": {}, "models": {}, "digests": {}}
        if self.path.is_file():
            try:
                found = json.loads(self.path.read_text(encoding="utf-8"))
                self._values |= {key: dict(found[key]) for key in self._values}
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptArtifactError(
                    f"{self.path} is no record of a run ({error!r}); remove it and run again"
                ) from error

    def matches(self, kind: Kind, name: str, expected: str) -> bool:
        """Say whether `name` was finished from inputs of this fingerprint."""
        return bool(self._values[kind].get(name, {}).get("fingerprint") == expected)

    def __contains__(self, name: str) -> bool:
        return name in self._values["stages"]

    def skipped(self, name: str) -> StageResult:
        """Return the result of a stage that was finished before."""
        entry = {key: value for key, value in self._values["stages"][name].items() if key != "fingerprint"}
        return StageResult(**{**entry, "name": name, "state": "skipped"})

    def seconds(self, kind: Kind, name: str) -> float:
        """Return what it took; 0 where it is not known."""
        return float(self._values[kind].get(name, {}).get("seconds", 0.0))

    def begin(self, kind: Kind, name: str) -> float:
        """Forget the last time, and return the clock."""
        if self._values[kind].pop(name, None) is not None:
            self._write()
        return time.perf_counter()

    def end(self, kind: Kind, name: str, made_from: str, started: float, note: str = "") -> StageResult:
        """Keep that `name` is finished, and return what it cost."""
        seconds = round(time.perf_counter() - started, 3)
        result = StageResult(name, "done", seconds, peak_mb(), time.strftime("%Y-%m-%d %H:%M:%S"), note)
        self._values[kind][name] = {**asdict(result), "fingerprint": made_from}
        self._write()
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
        if known is None or known[:2] != [state.st_size, state.st_mtime_ns]:
            known = [state.st_size, state.st_mtime_ns, sha256(path)]
            self._values["digests"][str(path)] = known
        return str(known[2])

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self._values)


def peak_mb() -> float:
    """Return the most memory this process has held so far, in MB (10^6 bytes); 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)
