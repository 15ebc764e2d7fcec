"""Progress bars on stderr: rate and time left for a person who watches, silence for a log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # where accelerate looks too


class Bar:
    """A progress bar, drawn while the block runs; silent where stderr is no terminal.

    Parameters
    ----------
    description : str
        What is going on, in a word or two.
    total : int, optional
        How many steps there will be, >= 0; the time left is unknown without it.
    listens : bool
        Whether a bar that begins within it, and is not drawn for that, moves this one.

    Examples
    --------
    >>> with Bar("reading", total=3) as bar:
    ...     bar.advance(2)
    ...     bar.advance(note="almost")
    >>> bar.done
    3
    """

    _drawn: Bar | None = None  # the one that is on the screen

    def __init__(self, description: str, total: int | None = None, *, listens: bool = False) -> None:
        self.done, self.listens = 0, listens
        self._outer: Bar | None = None
        self._description, self._total = description, total
        self._progress: Progress | None = None

    def advance(self, n: int = 1, *, note: str | None = None) -> None:
        """Go on by `n` steps; `note`, such as the loss, is shown behind the bar until the next one comes."""
        self.done += n
        if self._outer is not None:
            self._outer.advance(n)
        if self._progress is not None:
            task = self._progress.tasks[0]
            self._progress.update(task.id, advance=n, note=task.fields["note"] if note is None else note)

    def skip(self, n: int) -> None:
        """Leave `n` steps out, since they were done before: rate and time left speak of the work that there is."""
        if self._total is not None:
            self._total -= n
            if self._progress is not None:
                self._progress.update(self._progress.tasks[0].id, total=self._total)

    def __enter__(self) -> Self:
        # Nothing is set up for a pipe or a log file: thousands of half-drawn bars help no reader there.
        # A bar within a bar, such as a ranking in the midst of training, would draw over it.
        if Bar._drawn is not None:
            self._outer = Bar._drawn if Bar._drawn.listens else None
        elif is_first_process() and sys.stderr is not None and sys.stderr.isatty():
            Bar._drawn = self
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._progress.add_task(self._description, total=self._total, note="")
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            Bar._drawn = None
        self._outer = None


def is_first_process() -> bool:
    """Say whether this process is the only or the first of those that ``accelerate launch`` started."""
    return not any(os.environ.get(name, "0") not in ("0", "-1", "") for name in _RANKS)


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the elements of `iterable` under a progress bar; `total` is taken from its length where it has one.

    Examples
    --------
    >>> sum(track([1, 2, 3], "adding"))
    6
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Bar(description, total) as bar:
        for element in iterable:
            yield element
            bar.advance()


class _Rate(ProgressColumn):
    """Steps a second, over the last seconds."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")
