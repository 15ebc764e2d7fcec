"""EventBuilder: blocks of interactions become integer arrays as they come."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.data.readers.bad_rows import BadRows, Ledger
from llm_tail.data.readers.columns import Numbers, id_column, number_column, time_column
from llm_tail.data.readers.sources import Block
from llm_tail.errors import DataError

Codes = NDArray[np.int32]
_WRONG = {"weight": "non-numeric rating", "timestamp": "non-numeric time", "position": "non-numeric position"}
_MISSING = {"weight": "without rating", "timestamp": "without time", "position": "without position"}


class IdCoder:
    """Gives each id a number when it first comes by."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def encode(self, words: pa.Array) -> Codes:
        """Return the number of each id, shape (n,)."""
        encoded = words.dictionary_encode()
        table = [self._codes.setdefault(word, len(self._codes)) for word in encoded.dictionary.to_pylist()]
        codes: Codes = np.asarray(table, dtype=np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]
        return codes

    def values(self) -> NDArray[np.object_]:
        """Return the ids by number."""
        return np.array(list(self._codes), dtype=object)


class EventBuilder:
    """Collects blocks of events; bad ones are flagged in `ledger` and left out.

    Parameters
    ----------
    ledger : Ledger
        Where bad rows are counted.
    columns : dict
        Our names to the file's; from user_id, item_id, weight, timestamp, position.
    """

    def __init__(self, ledger: Ledger, columns: dict[str, str]) -> None:
        self.ledger, self.columns = ledger, columns
        self.users, self.items = IdCoder(), IdCoder()
        self.numeric = [name for name in _WRONG if name in columns]
        self._ids: dict[str, list[Codes]] = {"user_id": [], "item_id": []}
        self._numbers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self.numeric}
        self._gaps: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self.numeric}  # rows of the file
        self._gap_events: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self.numeric}  # events kept
        self._n_events = 0

    def add(self, block: Block) -> None:
        """Take the good rows of a block."""
        table, n_rows = block.table, block.table.num_rows
        good = np.ones(n_rows, dtype=bool)

        def reject(mask: NDArray[np.bool_], reason: str) -> None:
            self.ledger.flag(np.flatnonzero(mask & good) + self.ledger.n_rows, reason)
            good[mask] = False

        for reason, mask in block.flaws:
            reject(mask, reason)
        words = {}
        for name in self._ids:
            words[name], missing = id_column(table[self.columns[name]], self.columns[name])
            reject(missing, f"without {name}")
        numbers: dict[str, Numbers] = {}
        for name in self.numeric:
            read = time_column if name == "timestamp" else number_column
            numbers[name] = read(table[self.columns[name]])
            # weights are kept as float32, positions as int64
            limit = {"weight": np.finfo(np.float32).max, "position": 2.0**53}.get(name, np.inf)
            reject(numbers[name].wrong | (np.abs(numbers[name].values) > limit), _WRONG[name])
        keep = pa.array(good)
        for name, coder in (("user_id", self.users), ("item_id", self.items)):
            self._ids[name].append(coder.encode(words[name].filter(keep)))
        for name, column in numbers.items():
            self._numbers[name].append(column.values[good])
            self._gaps[name].append(np.flatnonzero(good & column.missing) + self.ledger.n_rows)
            self._gap_events[name].append(np.flatnonzero(column.missing[good]) + self._n_events)
        self.ledger.n_rows += n_rows
        self._n_events += int(good.sum())

    def drop_incomplete(self) -> None:
        """Flag events that lack a value which others have; a column without any value is dropped instead."""
        self._dropped = np.zeros(self._n_events, dtype=bool)
        for name in self.numeric:
            gaps = np.concatenate([*self._gaps.pop(name), np.zeros(0, dtype=np.int64)])
            events = np.concatenate([*self._gap_events.pop(name), np.zeros(0, dtype=np.int64)])
            if len(events) == self._n_events:
                self._numbers[name] = []
                continue
            fresh = ~self._dropped[events]
            self.ledger.flag(gaps[fresh], _MISSING[name])
            self._dropped[events] = True

    def build(self, bad_rows: BadRows) -> Interactions:
        """Return the good events."""
        kept = ~self._dropped
        if not kept.any():
            raise DataError(f"no usable interaction is left: {bad_rows}")
        user_codes = np.concatenate(self._ids["user_id"])[kept]
        item_codes = np.concatenate(self._ids["item_id"])[kept]
        user_rows, user_ids = _compact(user_codes, self.users.values())
        item_rows, item_ids = _compact(item_codes, self.items.values())
        order = np.argsort(user_ids, kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        values = {name: np.concatenate(parts)[kept] for name, parts in self._numbers.items() if parts}
        positions = values.get("position")
        return Interactions(
            IdMap(user_ids[order], "user"),
            IdMap(item_ids, "item"),
            rank[user_rows],
            item_rows,
            weights=values.get("weight"),
            times=values.get("timestamp"),
            positions=None if positions is None else positions.astype(np.int64),
            bad_rows=bad_rows,
        )


def _compact(codes: Codes, ids: NDArray[np.object_]) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Return rows without the ids that only dropped events had."""
    used = np.zeros(len(ids), dtype=bool)
    used[codes] = True
    rows = np.cumsum(used) - 1
    return rows[codes].astype(np.int64), ids[used]
