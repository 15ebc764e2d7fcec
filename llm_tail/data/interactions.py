"""Interactions: who took which item, when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.artifacts import fingerprint
from llm_tail.data.ids import IdMap, Rows
from llm_tail.errors import DataError

if TYPE_CHECKING:
    from llm_tail.data.catalog import Catalog
    from llm_tail.data.readers import BadRows

Mask = NDArray[np.bool_]


class Interactions:
    """Events by row numbers: user, item, and where known a weight, a time and a place in the person's sequence.

    Parameters
    ----------
    users, items : IdMap
        What the rows stand for. `items` may hold items without any event: they are cold.
    user_rows, item_rows : array of int64, shape (n_events,)
        Rows of `users` and `items`.
    weights : array of float32, shape (n_events,), optional
        Ratings, counts or any strength; finite. None where an event is just an event.
    times : array of float64, shape (n_events,), optional
        Seconds since 1970 (UTC).
    positions : array of int64, shape (n_events,), optional
        Place in the person's sequence, 0 first; for data that is ordered but not dated.
    bad_rows : BadRows, optional
        What a reader set aside.

    Raises
    ------
    DataError
        If the arrays differ in length, a row lies outside of its ids, or a weight or time is not finite.

    Examples
    --------
    >>> events = Interactions.from_pairs([("ann", "emma"), ("ann", "dracula"), ("bob", "emma")])
    >>> events
    Interactions(3 events, 2 users, 2 items)
    >>> events.matrix().toarray().tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """

    def __init__(
        self,
        users: IdMap,
        items: IdMap,
        user_rows: NDArray[Any],
        item_rows: NDArray[Any],
        *,
        weights: NDArray[Any] | None = None,
        times: NDArray[Any] | None = None,
        positions: NDArray[Any] | None = None,
        bad_rows: BadRows | None = None,
    ) -> None:
        self.users, self.items = users, items
        self.user_rows = np.asarray(user_rows, dtype=np.int64)
        self.item_rows = np.asarray(item_rows, dtype=np.int64)
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float32)
        self.times = None if times is None else np.asarray(times, dtype=np.float64)
        self.positions = None if positions is None else np.asarray(positions, dtype=np.int64)
        self.bad_rows = bad_rows
        self._check()

    def _check(self) -> None:
        columns = {
            "item_rows": self.item_rows,
            "weights": self.weights,
            "times": self.times,
            "positions": self.positions,
        }
        for name, column in columns.items():
            if column is not None and column.shape != self.user_rows.shape:
                raise DataError(f"{name} has shape {column.shape}, expected {self.user_rows.shape} like user_rows")
        for name, rows, ids in (("user", self.user_rows, self.users), ("item", self.item_rows, self.items)):
            if rows.size and (rows.min() < 0 or rows.max() >= len(ids)):
                raise DataError(f"{name} rows run from {rows.min()} to {rows.max()}, expected 0 to {len(ids) - 1}")
        for name, column in (("weights", self.weights), ("times", self.times)):
            if column is not None and not np.isfinite(column).all():
                n_bad = int((~np.isfinite(column)).sum())
                raise DataError(f"{n_bad} {name} are NaN or infinite; drop these events or give them a value")

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[Any, ...]], items: IdMap | None = None) -> Interactions:
        """Make interactions of (user_id, item_id) pairs, or of triples with a weight."""
        rows = list(pairs)
        names = ["user_id", "item_id", "weight"][: len(rows[0]) if rows else 2]
        return cls.from_frame(pd.DataFrame(rows, columns=names), items=items)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, items: IdMap | None = None, users: IdMap | None = None) -> Interactions:
        """Make interactions of a data frame.

        Parameters
        ----------
        frame : pandas.DataFrame
            Columns ``user_id`` and ``item_id``; optional ``weight`` (or ``rating``), ``timestamp`` (a datetime,
            ISO 8601 words, or numbers since 1970: s, ms, us or ns by their size) and ``position``. A column that is
            empty throughout counts as missing.
        items, users : IdMap, optional
            The rows to use; else the ids in order of first appearance (items) and sorted (users).

        Raises
        ------
        DataError
            If a column is missing, an id is unknown to `items` or `users`, or a weight or time is NaN.
        """
        missing = {"user_id", "item_id"} - set(frame.columns)
        if missing:
            raise DataError(f"no column {' and '.join(sorted(missing))}; found: {', '.join(map(str, frame.columns))}")
        if frame[["user_id", "item_id"]].isna().any(axis=None):
            raise DataError("some events have no user_id or no item_id; drop them first")
        user_ids, item_ids = frame["user_id"].astype(str), frame["item_id"].astype(str)
        users = users if users is not None else IdMap(sorted(user_ids.unique()), "user")
        items = items if items is not None else IdMap(item_ids.unique(), "item")
        user_rows, item_rows = users.rows(user_ids), items.rows(item_ids)
        for rows, ids, given in ((user_rows, users, user_ids), (item_rows, items, item_ids)):
            if (rows < 0).any():
                shown = ", ".join(given[rows < 0].unique()[:3])
                raise DataError(
                    f"{int((rows < 0).sum())} of {len(rows)} events name {ids.kind}s that do not exist, such as {shown}"
                )

        def column(*names: str, read: Callable[[pd.Series], NDArray[np.float64]] = _numbers) -> NDArray[Any] | None:
            found = next((name for name in names if name in frame.columns and frame[name].notna().any()), None)
            return None if found is None else read(frame[found])

        positions = column("position")
        return cls(
            users,
            items,
            user_rows,
            item_rows,
            weights=column("weight", "rating"),
            times=column("timestamp", "time", read=_seconds),
            positions=None if positions is None else _whole(positions),
        )

    @classmethod
    def from_parquet(cls, path: str | Path, *, columns: Mapping[str, str] | None = None) -> Interactions:
        """Read a parquet file; `columns` maps our names to the file's."""
        return cls.read(path, format="parquet", columns=columns)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        format: str = "auto",
        columns: Mapping[str, str] | None = None,
        max_bad_share: float = 0.01,
    ) -> Interactions:
        """Read a file, folder or Hugging Face data set; see `llm_tail.data.readers.read_interactions`."""
        from llm_tail.data.readers import read_interactions

        return read_interactions(path, format=format, columns=columns, max_bad_share=max_bad_share)

    def to_frame(self) -> pd.DataFrame:
        """Return the events with their outside ids, one row each."""
        columns: dict[str, Any] = {
            "user_id": self.users.values[self.user_rows],
            "item_id": self.items.values[self.item_rows],
        }
        for name, values in (("weight", self.weights), ("timestamp", self.times), ("position", self.positions)):
            if values is not None:
                columns[name] = values
        return pd.DataFrame(columns)

    def on(self, catalog: Catalog | IdMap) -> Interactions:
        """Return the same events with item rows of `catalog`; events on other items are left out.

        Raises
        ------
        DataError
            If no event at all names an item of the catalogue.
        """
        items = catalog if isinstance(catalog, IdMap) else catalog.ids
        if items == self.items:
            return self
        rows = items.rows(self.items.values)[self.item_rows]
        known = rows >= 0
        if len(self) and not known.any():
            ours = ", ".join(self.items.values[self.item_rows[:3]])
            raise DataError(
                f"none of the {len(self):,} interactions names an item of the catalogue; interactions say {ours}, "
                f"the catalogue says {', '.join(items.values[:3])}; are the right columns mapped?"
            )
        kept = self.where(known)
        return Interactions(
            self.users,
            items,
            kept.user_rows,
            rows[known],
            weights=kept.weights,
            times=kept.times,
            positions=kept.positions,
            bad_rows=self.bad_rows,
        )

    def for_users(self, users: IdMap) -> Interactions:
        """Return the same events with user rows of `users`, which has to hold everybody who is named here."""
        if users == self.users:
            return self
        rows = users.rows(self.users.values)[self.user_rows]
        return Interactions(
            users,
            self.items,
            rows,
            self.item_rows,
            weights=self.weights,
            times=self.times,
            positions=self.positions,
            bad_rows=self.bad_rows,
        )

    def where(self, mask: Mask | Rows) -> Interactions:
        """Return the events of a boolean mask or of event numbers; users and items keep their rows."""

        def pick(values: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if values is None else values[mask]

        return Interactions(
            self.users,
            self.items,
            self.user_rows[mask],
            self.item_rows[mask],
            weights=pick(self.weights),
            times=pick(self.times),
            positions=pick(self.positions),
            bad_rows=self.bad_rows,
        )

    def positive(self, threshold: float | None) -> Interactions:
        """Return the events whose weight is at least `threshold`; where it is None, those above 0: a return is no wish.

        All where there are no weights.
        """
        if self.weights is None:
            return self
        kept = self.weights > 0 if threshold is None else self.weights >= threshold
        return self if kept.all() else self.where(kept)

    def distinct(self) -> Interactions:
        """Return one event for each (user, item): the first in time, else the first in the data."""
        order = self.order()
        keys = self.user_rows[order] * np.int64(max(len(self.items), 1)) + self.item_rows[order]
        _, first = np.unique(keys, return_index=True)
        return self.where(np.sort(order[first]))

    def order(self) -> Rows:
        """Return event numbers by user, then by time or position where known; stable, shape (n_events,)."""
        when = self.times if self.times is not None else self.positions
        keys = (self.user_rows,) if when is None else (when, self.user_rows)
        return np.lexsort(keys).astype(np.int64)

    def matrix(self) -> sp.csr_matrix:
        """Return the binary matrix, shape (n_users, n_items), float32: 1 where the user took the item.

        Every event counts, whatever its weight; `positive` leaves out those that are no positive sign.
        """
        ones = np.ones(len(self), dtype=np.float32)
        matrix = sp.csr_matrix((ones, (self.user_rows, self.item_rows)), shape=(len(self.users), len(self.items)))
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix

    def counts(self) -> NDArray[np.int64]:
        """Return how many distinct users took each item, shape (n_items,)."""
        return np.asarray(self.matrix().sum(axis=0)).ravel().astype(np.int64)

    def fingerprint(self) -> str:
        """Return a digest of all events."""
        empty = np.zeros(0)
        return fingerprint(
            self.users.values,
            self.items.values,
            self.user_rows,
            self.item_rows,
            *(empty if x is None else x for x in (self.weights, self.times, self.positions)),
        )

    def __len__(self) -> int:
        return len(self.user_rows)

    def __repr__(self) -> str:
        return f"Interactions({len(self):,} events, {len(self.users):,} users, {len(self.items):,} items)"


def _numbers(values: pd.Series) -> NDArray[np.float64]:
    """Return a column as float64; dates become seconds, what is missing NaN."""
    if pd.api.types.is_datetime64_any_dtype(values):
        micros = values.to_numpy("datetime64[us]")
        return np.where(np.isnat(micros), np.nan, micros.astype(np.int64) / 1e6)
    try:
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"column {values.name!r} holds what is no number ({error}); drop these rows, or read the file with "
            "Interactions.read, which sets them aside"
        ) from None


def _seconds(values: pd.Series) -> NDArray[np.float64]:
    """Return times as seconds since 1970, as the readers of files do."""
    from llm_tail.data.readers.columns import time_column

    try:
        read = time_column(pa.chunked_array([pa.Array.from_pandas(values)]))
    except pa.ArrowException:  # words and numbers in one column
        read = time_column(pa.chunked_array([pa.array([None if pd.isna(v) else str(v) for v in values])]))
    if read.wrong.any():
        shown = ", ".join(map(str, values[read.wrong][:3]))
        raise DataError(
            f"column {values.name!r} holds what is no time in {int(read.wrong.sum())} of {len(values)} rows, such as "
            f"{shown}; expected a datetime, ISO 8601 words or seconds since 1970"
        )
    return read.values


def _whole(positions: NDArray[np.float64]) -> Rows:
    if not np.isfinite(positions).all():
        raise DataError(f"{int((~np.isfinite(positions)).sum())} positions are missing; drop these events")
    return positions.astype(np.int64)
