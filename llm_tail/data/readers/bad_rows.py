"""BadRows: what a reader set aside, and why; Ledger, which keeps the account while a file is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.readers.sources import Source
from llm_tail.errors import DataError

SHOWN = 5
CUT = 120


@dataclass(frozen=True)
class BadRows:
    """The rows of a file that could not be used.

    Parameters
    ----------
    total : int
        Rows read, the bad ones among them.
    n_bad : int
        Rows set aside.
    reasons : dict of str to int
        How many for each reason; they sum to `n_bad`.
    first : list of (int, str, str)
        At most five: line number (from 1; the row number for files without lines), reason, the row cut at 120
        characters.

    Examples
    --------
    >>> print(BadRows(200, 1, {"no item_id": 1}, [(7, "no item_id", "ann,,5")]))
    1 of 200 rows is bad (0.50 %): 1 no item_id
      line 7: no item_id: ann,,5
    """

    total: int = 0
    n_bad: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Bad rows as a share of all, in [0, 1]."""
        return self.n_bad / self.total if self.total else 0.0

    def __bool__(self) -> bool:
        return self.n_bad > 0

    def __str__(self) -> str:
        if not self.n_bad:
            return f"all {self.total:,} rows are good"
        counts = ", ".join(f"{n:,} {reason}" for reason, n in sorted(self.reasons.items(), key=lambda x: -x[1]))
        verb = "is" if self.n_bad == 1 else "are"
        lines = [f"{self.n_bad:,} of {self.total:,} rows {verb} bad ({100 * self.share:.2f} %): {counts}"]
        lines += [f"  line {number}: {reason}: {text}" for number, reason, text in self.first]
        return "\n".join(lines)


class Ledger:
    """The account of bad rows while blocks of a file go by; rows are counted over the parsable ones, from 0."""

    def __init__(self) -> None:
        self.n_rows = 0
        self.reasons: Counter[str] = Counter()
        self._first: list[tuple[int, str]] = []

    def flag(self, rows: NDArray[Any], reason: str) -> None:
        """Count parsable rows (their numbers, not yet flagged) as bad."""
        if len(rows):
            self.reasons[reason] += len(rows)
            fresh = [(int(row), reason) for row in np.sort(rows)[:SHOWN]]
            self._first = sorted([*self._first, *fresh])[:SHOWN]

    def close(self, source: Source, max_bad_share: float) -> BadRows:
        """Return the account; raise `DataError` where the file is empty or too much of it is bad."""
        unparsable = sorted(source.unparsable)
        for _, reason, n_lines in unparsable:
            self.reasons[reason] += n_lines
        places = np.asarray([place for place, _, _ in unparsable], dtype=np.int64)
        before = places - np.arange(len(places))  # parsable rows in front of each unparsable one
        good = [(row + int(np.searchsorted(before, row, side="right")), reason) for row, reason in self._first]
        first = sorted([*good, *((place, reason) for place, reason, _ in unparsable[:SHOWN])])[:SHOWN]
        found = source.locate([place for place, _ in first]) if first else {}
        shown = [(*_cut(found.get(place, (place + 1, "?"))), reason) for place, reason in first]
        n_unparsable = sum(n_lines for _, _, n_lines in unparsable)
        bad = BadRows(
            self.n_rows + n_unparsable,
            sum(self.reasons.values()),
            dict(self.reasons),
            [(number, reason, text) for number, text, reason in shown],
        )
        if bad.total == 0:
            raise DataError(f"{source.name} is empty; expected at least one row below the names of the columns")
        if bad.share > max_bad_share:
            raise DataError(
                f"{source.name}: {bad}\nexpected at most {100 * max_bad_share:g} % bad rows; mend the file, or let "
                "more pass with max_bad_share (in a config: [data] max_bad_share)"
            )
        return bad


def _cut(found: tuple[int, str]) -> tuple[int, str]:
    number, text = found
    return number, text if len(text) <= CUT else text[: CUT - 3] + "..."
