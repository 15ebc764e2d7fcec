"""Filtering: which items pass the conditions of a question, those of the run and those that came since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm_tail.data.catalog import CORE, Catalog, Item
from llm_tail.neighbors.filters import Filter

if TYPE_CHECKING:
    from llm_tail.data.segments import Segments
    from llm_tail.service.stock import Shelf

Mask = NDArray[np.bool_]
MOST_KEPT = 64


class Filtering:
    """Conditions in words, as `llm_tail.neighbors.filters` describes them, put to a run and to what came since.

    Parameters
    ----------
    catalog : Catalog
        The items of the run.
    segments : Segments, optional
        Theirs; adds the column ``segment``. What came since is cold.

    Examples
    --------
    >>> items = Filtering(Catalog.from_items([{"item_id": "emma", "year": 1815}, {"item_id": "dune", "year": 1965}]))
    >>> items.mask(["year > 1900"]).tolist()
    [False, True]
    """

    def __init__(self, catalog: Catalog, segments: Segments | None = None) -> None:
        self._catalog, self._segments = catalog, segments
        self._more = {} if segments is None else {"segment": segments.labels()}
        self._kept: OrderedDict[tuple[str, ...], Mask] = OrderedDict()
        self._fresh: tuple[Shelf | None, pa.Table | None, dict[str, Any]] = (None, None, {})

    def mask(self, where: Sequence[str]) -> Mask:
        """Return which items of the run pass all conditions, shape (n_items,); not to be written to.

        Raises
        ------
        DataError
            If a condition cannot be read, or names a column that is not there.
        """
        key = tuple(where)
        found = self._kept.get(key)
        if found is None:
            found = _passed(where, self._catalog.table, self._more)
            self._kept[key] = found
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return found

    def among(self, shelf: Shelf, where: Sequence[str]) -> set[str]:
        """Return which of the items that came since pass all conditions."""
        if not shelf.items:
            return set()
        kept, table, more = self._fresh
        if kept is not shelf or table is None:
            items = list(shelf.items.values())
            table = pa.table({name: self._column(name, items) for name in self._catalog.columns})
            more = {} if self._segments is None else {"segment": np.array([self._segment(x.item_id) for x in items])}
            self._fresh = (shelf, table, more)
        passed = _passed(where, table, more)
        return {item_id for item_id, there in zip(shelf.items, passed.tolist(), strict=True) if there}

    def _segment(self, item_id: str) -> str:
        there = self._segments is not None and item_id in self._catalog
        return self._segments.name_of(self._catalog.ids.row(item_id)) if self._segments and there else "cold"

    def _column(self, name: str, items: Sequence[Item]) -> pa.Array:
        """Return a column as the run has it; what does not fit its type counts as missing."""
        kind = self._catalog.table.schema.field(name).type
        values = [getattr(item, name) if name in CORE else item.fields.get(name) for item in items]
        try:
            return pa.array(values, type=kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            return pa.array([_fitting(value, kind) for value in values], type=kind)


def _fitting(value: Any, kind: pa.DataType) -> Any:
    try:
        return pa.scalar(value, type=kind).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return None


def _passed(where: Sequence[str], table: pa.Table, more: dict[str, Any]) -> Mask:
    passed = np.ones(table.num_rows, dtype=bool)
    for text in where:
        passed &= Filter.parse(text).mask(table, more)
    return passed
