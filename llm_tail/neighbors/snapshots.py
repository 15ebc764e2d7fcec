"""Snapshots: numbered copies of an index beside it, kept to a count.

::

    index/
    ├── manifest.json, g-.../
    └── snapshots/
        ├── 00007/ manifest.json, g-.../     each an artifact of its own
        └── 00008/ ...
"""

from __future__ import annotations

import shutil
from pathlib import Path

from llm_tail.artifacts import MANIFEST
from llm_tail.errors import StaleArtifactError

FOLDER = "snapshots"


class Snapshots:
    """The snapshots of what is saved in a folder.

    Parameters
    ----------
    folder : path
        Of the index.
    keep : int
        How many stay; the oldest go when a new one is whole.
    """

    def __init__(self, folder: str | Path, keep: int = 5) -> None:
        self.folder, self.keep = Path(folder) / FOLDER, keep

    @property
    def numbers(self) -> list[int]:
        """Those that are whole, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if path.name.isdigit() and (path / MANIFEST).is_file())
        return sorted(int(path.name) for path in found)

    def next(self) -> Path:
        """Return the folder of the next one; a number is never used twice while its folder is there."""
        taken = [int(path.name) for path in self.folder.glob("*") if path.name.isdigit()]
        return self._place(max(taken, default=0) + 1)

    def drop_old(self) -> None:
        """Remove the oldest above the count."""
        for number in self.numbers[: -self.keep]:
            shutil.rmtree(self._place(number), ignore_errors=True)

    def of(self, number: int | None = None) -> Path:
        """Return the folder of a snapshot, the last one if no number is given.

        Raises
        ------
        StaleArtifactError
            If there is no such snapshot.
        """
        numbers = self.numbers
        if not numbers or (number is not None and number not in numbers):
            there = f"there are {', '.join(map(str, numbers))}" if numbers else "there is none"
            which = "" if number is None else f" {number}"
            raise StaleArtifactError(f"there is no snapshot{which} at {self.folder}: {there}; take one with snapshot()")
        return self._place(numbers[-1] if number is None else number)

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:05d}"
