"""Columns: what a filter may look at, and which rows of an index it lets through."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import Rows
from llm_tail.data.segments import Segments
from llm_tail.errors import DataError, UnknownIdError
from llm_tail.neighbors.filters import Filter, Mask
from llm_tail.neighbors.finding import Allowed

Where = str | Sequence[str] | ArrayLike
MOST_KEPT = 32


class Items(Protocol):
    """What has to be known of the items of an index: a table, or a `ShardedIndex`."""

    @property
    def version(self) -> int:
        """Another number after every change."""
        ...

    @property
    def live(self) -> Mask:
        """Which have a vector, shape (n_items,)."""
        ...

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """Return the rows of many items, -1 for each unknown one."""
        ...

    def names(self, rows: Rows) -> list[str]:
        """Return the ids of rows."""
        ...

    def __len__(self) -> int: ...


class Columns:
    """The columns of a catalogue, beside an index; answers to filters are kept until a column or an item changes.

    Parameters
    ----------
    catalog : Catalog
        The items; those that are not in the index are passed over, and an item of the index that is not here passes no
        filter in words.
    segments : Segments, optional
        Adds a column ``segment`` with ``head``, ``tail`` and ``cold``; of the rows of the catalogue.
    """

    def __init__(self, catalog: Catalog, segments: Segments | None = None) -> None:
        if segments is not None and len(segments) != len(catalog):
            raise DataError(
                f"the segments are of {len(segments):,} items, expected the {len(catalog):,} of the catalogue"
            )
        self._ids: NDArray[np.object_] = catalog.ids.values
        self._table: pa.Table = catalog.table
        self._more: Mapping[str, NDArray[Any]] = {} if segments is None else {"segment": segments.labels()}

    def passing(self, text: str) -> list[str]:
        """Return the ids that pass a filter in words."""
        passed: list[str] = self._ids[self.mask(text)].tolist()
        return passed

    def mask(self, text: str) -> Mask:
        """Return which rows of the catalogue pass a filter in words."""
        return Filter.parse(text).mask(self._table, self._more)


class Gate:
    """Turns what a caller says of the items that may be found into rows of a table."""

    def __init__(self) -> None:
        self.columns: Columns | None = None
        self._kept: OrderedDict[tuple[str, int], Allowed] = OrderedDict()

    def attach(self, columns: Columns) -> None:
        """Let filters in words look at these columns."""
        self.columns = columns
        self._kept = OrderedDict()

    def allowed(self, where: Where, table: Items) -> Allowed:
        """Return the rows that are let through.

        Parameters
        ----------
        where : str, mask or sequence
            A filter in words; an array of bool, shape (n_items,); ids; or rows as whole numbers.
        table : Items
            The items.

        Raises
        ------
        DataError
            If it is none of these, or a filter cannot be read or looks at a column that is not there.
        UnknownIdError
            If there are ids and none of them is known.
        """
        if isinstance(where, str):
            return self._in_words(where, table)
        if isinstance(where, (set, frozenset)):
            where = list(where)
        array = np.asarray(where)
        if array.ndim == 1 and array.dtype.kind in "UO" and len(array):
            return _of_ids(array, table)
        mask = np.zeros(len(table), dtype=bool)
        if array.dtype.kind == "b" and array.shape == mask.shape:
            mask = array
        elif array.ndim == 1 and array.dtype.kind in "iu" and len(array):
            if array.min() < 0 or array.max() >= len(table):
                raise DataError(f"where holds rows from {array.min()} to {array.max()}, expected 0 to {len(table) - 1}")
            mask[array] = True
        elif array.shape != (0,):
            raise DataError(
                f"where has shape {array.shape} and dtype {array.dtype}, expected a filter in words, a mask of shape "
                f"({len(table)},), ids or rows"
            )
        return Allowed.of(mask, table.live)

    def _in_words(self, text: str, table: Items) -> Allowed:
        if self.columns is None:
            raise DataError(
                "this index knows no columns to filter by; call attach(catalog), or give a mask or ids instead of words"
            )
        key, kept = (text, table.version), self._kept
        found = kept.get(key)
        if found is None:
            rows = table.rows(self.columns.passing(text))
            mask = np.zeros(len(table), dtype=bool)
            mask[rows[rows >= 0]] = True
            found = Allowed.of(mask, table.live)
            kept[key] = found
            while len(kept) > MOST_KEPT:
                try:
                    kept.popitem(last=False)
                except KeyError:  # another thread was faster
                    break
        return found


def _of_ids(ids: NDArray[Any], table: Items) -> Allowed:
    rows = table.rows([str(x) for x in ids.tolist()])
    if not (rows >= 0).any():
        raise UnknownIdError("item", str(ids[0]), table.names(np.arange(len(table))))
    mask = np.zeros(len(table), dtype=bool)
    mask[rows[rows >= 0]] = True
    return Allowed.of(mask, table.live)
