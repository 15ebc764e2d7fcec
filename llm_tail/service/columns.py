"""Columns: what a catalogue has besides words, for those who want to filter."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from llm_tail.data.catalog import CORE

if TYPE_CHECKING:
    from llm_tail.data.catalog import Catalog

MOST_VALUES = 50
LONGEST_VALUE = 100
LANGUAGES = ("language", "lang", "languages", "language_code")


def columns_of(catalog: Catalog) -> list[dict[str, Any]]:
    """Return each column besides the core ones, as `ColumnInfo` has it; those of other types are left out."""
    found = []
    for name in catalog.columns:
        kind = _kind(catalog.table.schema.field(name).type)
        if name in CORE or kind is None:
            continue
        told: dict[str, Any] = {"name": name, "kind": kind, "values": [], "low": None, "high": None}
        if kind in ("text", "list"):
            told["values"] = list(_common(catalog, name))
        elif kind == "number":
            ends = pc.min_max(catalog.table[name]).as_py()
            told |= {"low": _number(ends["min"]), "high": _number(ends["max"])}
        found.append(told)
    return found


def languages_of(catalog: Catalog) -> dict[str, int]:
    """Return how many items there are of each language, where a column says it."""
    for name in LANGUAGES:
        if name in catalog.columns and _kind(catalog.table.schema.field(name).type) in ("text", "list"):
            return _common(catalog, name)
    return {}


def _common(catalog: Catalog, name: str) -> dict[str, int]:
    column = catalog.table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.list_flatten(column)
    counts: Counter[str] = Counter()
    for pair in pc.value_counts(column.cast(pa.string())).to_pylist():
        if pair["values"] and len(pair["values"]) <= LONGEST_VALUE:
            counts[pair["values"]] += pair["counts"]
    return dict(counts.most_common(MOST_VALUES))


def _kind(type_: Any) -> str | None:
    types = pa.types
    if types.is_boolean(type_):
        return "flag"
    if types.is_integer(type_) or types.is_floating(type_):
        return "number"
    if types.is_date(type_) or types.is_timestamp(type_):
        return "date"
    if types.is_string(type_) or types.is_large_string(type_):
        return "text"
    if types.is_list(type_) or types.is_large_list(type_):
        return "list" if _kind(type_.value_type) == "text" else None
    return None


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
