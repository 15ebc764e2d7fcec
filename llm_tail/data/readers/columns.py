"""Columns: cells of any file as ids, numbers, times and words."""

from __future__ import annotations

import ast
import json
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llm_tail.errors import DataError

Bools = NDArray[np.bool_]
MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds 1973
MICROSECONDS_FROM = 1e14
NANOSECONDS_FROM = 1e17


class Numbers(NamedTuple):
    """Values as float64; `missing` were empty or NaN, `wrong` were no numbers. NaN in both cases."""

    values: NDArray[np.float64]
    missing: Bools
    wrong: Bools


def id_column(column: pa.ChunkedArray, name: str) -> tuple[pa.Array, Bools]:
    """Return ids as strings and a mask of the missing ones; whole floats lose their ".0"."""
    array = _plain(column)
    if pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False)
        finite = np.isfinite(values)
        if (values[finite] == np.floor(values[finite])).all() and (np.abs(values[finite]) < 2**53).all():
            array = pa.array(np.where(finite, values, 0).astype(np.int64), mask=~finite)
        else:
            array = pc.if_else(pa.array(finite), array, None)
    kinds = (_is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    if not any(kind(array.type) for kind in kinds):
        raise DataError(f"column {name!r} has the type {array.type}, expected ids: text or whole numbers")
    words = array.cast(pa.string())
    empty = pc.equal(pc.utf8_trim_whitespace(words), "").fill_null(True)
    return words, np.asarray(empty.to_numpy(zero_copy_only=False), dtype=bool)


def number_column(column: pa.ChunkedArray) -> Numbers:
    """Return a column of numbers, or of words that are numbers."""
    array = _plain(column)
    nothing = np.zeros(len(array), dtype=bool)
    if pa.types.is_null(array.type):
        return Numbers(np.full(len(array), np.nan), ~nothing, nothing)
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        values = np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        return _finite(values, np.isnan(values), nothing)
    if not _is_text(array.type):
        return Numbers(np.full(len(array), np.nan), nothing, ~nothing)
    quick = _all_numbers(array)
    if quick is not None:
        return quick
    words, missing = _words(array)
    values = _to_numbers(words)
    return _finite(values, missing, np.isnan(values) & ~missing)


def time_column(column: pa.ChunkedArray) -> Numbers:
    """Return seconds since 1970 (UTC) of numbers (s, ms, us, ns by their size), dates, or ISO 8601 words."""
    array = _plain(column)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        micros = array.cast(pa.timestamp("us", tz=getattr(array.type, "tz", None)), safe=False).cast(pa.int64())
        return number_column(pa.chunked_array([pc.divide(micros.cast(pa.float64()), 1e6)]))
    if not _is_text(array.type):
        numbers = number_column(pa.chunked_array([array]))
        return numbers._replace(values=_to_seconds(numbers.values))
    quick = _all_numbers(array)
    if quick is not None:
        return quick._replace(values=_to_seconds(quick.values))
    words, missing = _words(array)
    values = _to_seconds(_to_numbers(words))
    rest = np.isnan(values) & ~missing
    if rest.any():
        dates = pd.to_datetime(pd.Series(words[rest]), format="ISO8601", utc=True, errors="coerce")
        micros = dates.dt.tz_localize(None).to_numpy("datetime64[us]")
        values[rest] = np.where(np.isnat(micros), np.nan, micros.astype(np.int64) / 1e6)
    return _finite(values, missing, np.isnan(values) & ~missing)


def text_column(column: pa.ChunkedArray) -> pa.Array:
    """Return one string a cell; lists are joined by spaces, nulls become empty."""
    array = _plain(column)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        joined = [" ".join(str(x) for x in cell if x is not None) if cell else "" for cell in array.to_pylist()]
        return pa.array(joined, pa.string())
    if pa.types.is_nested(array.type):
        return pa.array([json.dumps(x, ensure_ascii=False, default=str) if x else "" for x in array.to_pylist()])
    return array.cast(pa.string()).fill_null("")


def json_column(values: list[Any]) -> pa.Array:
    """Return values of parsed JSON as one Arrow array: lists of strings stay lists, objects become JSON text."""
    kinds = {type(v) for v in values if v is not None}
    if not kinds:
        return pa.nulls(len(values))
    if list in kinds and dict not in kinds and not any(_nested(v) for v in values):
        lists = [None if v is None else [str(x) for x in (v if isinstance(v, list) else [v])] for v in values]
        return pa.array(lists, pa.list_(pa.string()))
    if kinds & {list, dict}:
        words = [json.dumps(v, ensure_ascii=False) if isinstance(v, (list, dict)) else _or_none(v) for v in values]
        return pa.array(words, pa.string())
    if len(kinds) == 1 or kinds == {int, float}:
        try:
            return pa.array([float(v) if kinds == {int, float} and v is not None else v for v in values])
        except (pa.ArrowInvalid, OverflowError):  # a whole number past 64 bits, a lone surrogate
            pass
    return pa.array([None if v is None else str(v).encode("utf8", "replace").decode() for v in values], pa.string())


def typed_column(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of words as numbers or lists where every cell is one, else as it is; empty cells become null."""
    array = _plain(column)
    if not _is_text(array.type):
        return array
    words, missing = _words(array)
    there = words[~missing]
    if not len(there):
        return array
    if all(word[:1] == "[" and word[-1:] == "]" for word in there):
        lists = [None if gone else _list(word) for word, gone in zip(words, missing, strict=True)]
        if all(gone or cell is not None for cell, gone in zip(lists, missing, strict=True)):
            return pa.array(lists, pa.list_(pa.string()))
        return array
    if any(len(word) > 1 and word[0] == "0" and word[1] != "." for word in there):
        return array  # 00123 is a code, no number
    numbers = _to_numbers(words)
    if np.isfinite(numbers[~missing]).all():
        whole = all(word.lstrip("+-").isdigit() for word in there) and (np.abs(numbers[~missing]) < 2**53).all()
        values = np.where(missing, 0, numbers)
        return pa.array(values.astype(np.int64) if whole else values, mask=missing)
    return array


def stack(tables: list[pa.Table]) -> pa.Table:
    """Return tables one below the other; columns whose types differ meet as floats, lists or words."""
    if len(tables) == 1:
        return tables[0]
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    arrays = {}
    for name in names:
        types = {t.schema.field(name).type for t in tables if name in t.column_names}
        types = {t for t in types if not pa.types.is_null(t)}
        target = types.pop() if len(types) == 1 else _common(types)
        parts = [_cast(t, name, target) for t in tables]
        arrays[name] = pa.chunked_array(parts, target)
    return pa.table(arrays)


def _common(types: set[pa.DataType]) -> pa.DataType:
    if not types:
        return pa.null()
    if all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in types):
        return pa.float64()
    return pa.list_(pa.string()) if any(pa.types.is_list(t) for t in types) else pa.string()


def _cast(table: pa.Table, name: str, target: pa.DataType) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, target)
    array = _plain(table[name])
    if pa.types.is_list(target) and not pa.types.is_list(array.type):
        return json_column([None if x is None else [x] for x in array.to_pylist()]).cast(target)
    if pa.types.is_string(target) and pa.types.is_nested(array.type):
        return text_column(pa.chunked_array([array]))
    return array.cast(target)


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # older releases keep no chunk as it is
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return pa.array([None if x is None else x.decode("utf8", "replace") for x in array.to_pylist()], pa.string())
    return array


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _words(array: pa.Array) -> tuple[NDArray[np.object_], Bools]:
    words = pc.utf8_trim_whitespace(array.cast(pa.string())).to_numpy(zero_copy_only=False)
    folded = pc.utf8_lower(pc.utf8_trim_whitespace(array.cast(pa.string()))).fill_null("")
    missing = pc.is_in(folded, value_set=pa.array(["", "nan", "null", "none", "na", "n/a"]))
    return words, np.asarray(missing.to_numpy(zero_copy_only=False), dtype=bool)


def _all_numbers(array: pa.Array) -> Numbers | None:
    """Return a column of words where every cell is a number or empty, by Arrow's fast parser; else None."""
    try:
        values = pc.if_else(pc.equal(array, ""), None, array).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    return _finite(np.asarray(values), np.isnan(values), np.zeros(len(values), dtype=bool))


def _to_numbers(words: NDArray[np.object_]) -> NDArray[np.float64]:
    return np.array(pd.to_numeric(pd.Series(words, dtype=object), errors="coerce"), dtype=np.float64)


def _to_seconds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.abs(values)
    scale = np.select(
        [size > NANOSECONDS_FROM, size > MICROSECONDS_FROM, size > MILLISECONDS_FROM], [1e9, 1e6, 1e3], 1.0
    )
    return np.asarray(values / scale, dtype=np.float64)


def _finite(values: NDArray[np.float64], missing: Bools, wrong: Bools) -> Numbers:
    infinite = ~np.isfinite(values) & ~missing
    return Numbers(np.where(infinite | missing, np.nan, values), missing, wrong | infinite)


def _nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(x, (list, dict)) for x in value)


def _or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def _list(word: str) -> list[str] | None:
    """Return the list that JSON or Python text spells, or None."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(word)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and not _nested(value):
            return [str(x) for x in value]
    return None
