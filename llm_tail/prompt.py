"""What helps while typing: lines remembered from one conversation to the next, and completion of commands and items."""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from llm_tail.data.catalog import Catalog

HISTORY = "explore-history"
MOST_LINES = 1000
MOST_SHOWN = 50  # candidates of one completion


class Completer:
    """What a line may be meant to become: commands after a colon, ids and titles of items elsewhere.

    Parameters
    ----------
    catalog : Catalog
        The items.
    commands : sequence of str
        Without their colons.

    Examples
    --------
    >>> books = Catalog.from_items([{"item_id": "b1", "title": "Emma"}, {"item_id": "b2", "title": "Emil"}])
    >>> complete = Completer(books, ["related", "recommend"]).candidates
    >>> complete(":rel"), complete("em"), complete(":related b1, b")
    ([':related '], ['Emil', 'Emma'], [':related b1, b1', ':related b1, b2'])
    """

    def __init__(self, catalog: Catalog, commands: Sequence[str]) -> None:
        self._catalog, self._commands = catalog, list(commands)
        self._found: tuple[str, list[str]] = ("", [])

    @cached_property
    def _words(self) -> tuple[list[str], list[str]]:
        """All ids and titles in lower case and in order, and how they are written."""
        written = {*map(str, self._catalog.ids), *filter(None, self._catalog.titles)}
        pairs = sorted((word.lower(), word) for word in written)
        return [key for key, _ in pairs], [word for _, word in pairs]

    def candidates(self, line: str) -> list[str]:
        """Return whole lines that begin with what was typed, at most 50."""
        if line.startswith(":") and " " not in line:
            return [f":{name} " for name in self._commands if f":{name}".startswith(line.lower())]
        place = max(line.find(" ") + 1 if line.startswith(":") else 0, line.rfind(",") + 1)
        begun = line[place:].lstrip()
        before = line[: len(line) - len(begun)]
        keys, written = self._words
        first = bisect_left(keys, begun.lower())
        near = range(first, min(first + MOST_SHOWN, len(keys)))
        return [before + written[n] for n in near if keys[n].startswith(begun.lower())] if begun else []

    def __call__(self, line: str, state: int) -> str | None:
        """Return the candidate of this number, as readline asks for them one by one; None after the last."""
        if state == 0:
            self._found = (line, self.candidates(line))
        found = self._found[1]
        return found[state] if state < len(found) else None


@contextlib.contextmanager
def typing_aids(folder: Path, completer: Completer) -> Iterator[None]:
    """Give `input` a memory, which is kept in the run's folder, and Tab; nothing where Python has no readline."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    path, former, delimiters = folder / HISTORY, readline.get_completer(), readline.get_completer_delims()
    readline.clear_history()
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(MOST_LINES)
    readline.set_completer_delims("")  # the completer looks at the whole line
    readline.set_completer(completer)
    is_editline = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_editline else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(former)
        readline.set_completer_delims(delimiters)
        with contextlib.suppress(OSError):  # a folder that may only be read is no reason to fail at the end
            readline.write_history_file(path)
