"""Every error that this package raises on purpose.

::

    LlmTailError
    ├── DataError            (ValueError)    the data is not what it has to be
    ├── ConfigError          (ValueError)    a setting is unknown or out of its range
    ├── UnknownIdError       (LookupError)   no such item or user; names the three closest ids
    ├── NotFittedError       (RuntimeError)  asked before it learned; names the call to make
    ├── StaleArtifactError   (RuntimeError)  made from other inputs than those at hand; names the stage to run
    ├── CorruptArtifactError (RuntimeError)  what lies on disk is not what was written
    ├── MissingExtraError    (ImportError)   an optional library is missing; names the extra to install
    ├── WorkerError          (RuntimeError)  processes that were to do the work died; says what was kept
    ├── BackendError         (RuntimeError)  whoever was to answer is not there, or refuses; says what was kept
    └── UnfinishedError      (RuntimeError)  stopped on purpose before the end; says how to go on

Each message says what was found, what was expected and what to do. Catching ``LlmTailError`` catches all of them;
catching the built-in beside it works too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_COMPARED = 20_000


class LlmTailError(Exception):
    """The root of the family; never raised itself."""


class DataError(LlmTailError, ValueError):
    """Data is not what it has to be: an empty catalogue, NaN weights, ids that match nothing, a wrong width."""


class ConfigError(LlmTailError, ValueError):
    """A setting is unknown, of the wrong type or out of its range."""


class UnknownIdError(LlmTailError, LookupError):
    """An id that does not exist; carries the closest ones that do.

    Parameters
    ----------
    kind : str
        What the id should have named: ``"item"`` or ``"user"``.
    unknown : str
        The id that was asked for.
    known : iterable of str
        All ids there are; the three most similar are put into the message.

    Examples
    --------
    >>> str(UnknownIdError("item", "moby-dik", ["moby-dick", "emma", "ulysses"]))
    "no item has the id 'moby-dik'; the closest are: moby-dick, emma, ulysses"
    """

    def __init__(self, kind: str, unknown: str, known: Iterable[str] = ()) -> None:
        self.kind = kind
        self.unknown = unknown
        self.closest = closest(unknown, known, cutoff=0.0)  # even far ones show what the ids look like
        hint = f"; the closest are: {', '.join(self.closest)}" if self.closest else ""
        super().__init__(f"no {kind} has the id {unknown!r}{hint}")

    def __reduce__(self) -> tuple[type[UnknownIdError], tuple[str, str, list[str]]]:
        return type(self), (self.kind, self.unknown, self.closest)  # so that it travels between processes


class NotFittedError(LlmTailError, RuntimeError):
    """An object was asked for an answer before it learned one."""


class StaleArtifactError(LlmTailError, RuntimeError):
    """A stored result was made from other inputs or settings than those at hand, or is not there yet."""


class CorruptArtifactError(LlmTailError, RuntimeError):
    """A stored file is not byte for byte what was written.

    Parameters
    ----------
    found : str
        Which file, and what is wrong with it.
    remedy : str
        What to do; whoever knows a shorter way raises the same again with that.
    """

    def __init__(self, found: str, remedy: str = "") -> None:
        self.found, self.remedy = found, remedy
        super().__init__(f"{found}; {remedy}" if remedy else found)

    def __reduce__(self) -> tuple[type[CorruptArtifactError], tuple[str, str]]:
        return type(self), (self.found, self.remedy)


class MissingExtraError(LlmTailError, ImportError):
    """An optional library is not installed.

    Parameters
    ----------
    library : str
        The import that failed.
    extra : str
        The extra of this package that brings it.
    """

    def __init__(self, library: str, extra: str) -> None:
        self.library, self.extra = library, extra
        super().__init__(f"{library!r} is not installed; run: pip install 'llm-tail[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.library, self.extra)


class WorkerError(LlmTailError, RuntimeError):
    """Processes that were to do a part of the work died, again and again."""


class BackendError(LlmTailError, RuntimeError):
    """A language model's server is not there, refuses what is asked, or never answers."""


class UnfinishedError(LlmTailError, RuntimeError):
    """Work was stopped on purpose: a budget is spent, or files wait for their answers. What came before is kept."""


def closest(word: str, known: Iterable[str], n: int = 3, *, cutoff: float = 0.6) -> list[str]:
    """Return up to `n` of the words in `known` that look most like `word`, best first; `cutoff` is in [0, 1].

    Compares at most 20,000 words (0.3 s): of more, those of similar length that begin most like `word`.
    """
    words = [str(w) for w in known]
    if len(words) > MOST_COMPARED:
        words = [w for w in words if abs(len(w) - len(word)) <= 1] or words
        for n_same in range(len(word), -1, -1):
            alike = [w for w in words if w.startswith(word[:n_same])]
            if len(alike) >= n or n_same == 0:
                words = alike[:MOST_COMPARED]
                break
    return difflib.get_close_matches(word, words, n=n, cutoff=cutoff)
