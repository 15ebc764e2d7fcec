"""Filter: which items may be found, in words: ``category = "Valves" and price < 20 and segment = tail``.

::

    filter  = both { "or" both }
    both    = one { "and" one }
    one     = "not" one | "(" filter ")" | test
    test    = column ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
            | column [ "not" ] "in" "(" value { "," value } ")"
            | column [ "not" ] "contains" value
            | column "is" [ "not" ] "missing"
    column  = a name, in `backquotes` where it holds spaces or is a word of this language
    value   = "text" | 'text' | a number | a date such as 2024-05-01 | true | false | a bare word

Text is compared without regard to case. A list column is equal to a value where it holds it. Nothing that is missing
(null, empty text, an empty list) passes a test, also not ``!=`` and ``not in``; ``is missing`` finds it, and ``not``
in front of a test turns the answer round, missing ones included. Nothing in a filter is ever executed.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llm_tail.errors import DataError, closest

Mask = NDArray[np.bool_]
MOST_CHARS, MOST_DEEP = 10_000, 50
WORDS = ("and", "or", "not", "in", "is", "missing", "contains")
TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<name>`[^`]*`)
    |(?P<sign><=|>=|!=|<>|==|[=<>(),])
    |(?P<word>[^\s"'`<>=!(),]+)
    )""",
    re.VERBOSE,
)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$")
SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
ALIKE = {"==": "=", "<>": "!="}


class Bare(str):
    """A value without quotes: a number, a date, true, false, or a word."""

    __slots__ = ()


@dataclass(frozen=True)
class Check:
    """One test of one column; ``how`` is a sign, ``in``, ``contains`` or ``missing``."""

    column: str
    how: str
    values: tuple[str, ...] = ()
    turned: bool = False  # "not in", "not contains", "is not missing"


@dataclass(frozen=True)
class Not:
    """What does not pass."""

    part: Node


@dataclass(frozen=True)
class Every:
    """What passes all parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """What passes at least one part."""

    parts: tuple[Node, ...]


Node = Check | Not | Every | Either


class Filter:
    """A filter that was read and can be put to a table; made with `parse`.

    Examples
    --------
    >>> table = pa.table({"item_id": ["a", "b", "c"], "price": [5.0, 30.0, None], "brand": ["Acme", "acme", "Bolt"]})
    >>> Filter.parse("brand = acme and price < 20").mask(table).tolist()
    [True, False, False]
    >>> Filter.parse("not price < 20").mask(table).tolist()
    [False, True, True]
    >>> Filter.parse("prize < 20").mask(table)
    Traceback (most recent call last):
    ...
    llm_tail.errors.DataError: the filter names 'prize', and there is no such column; the closest are: price
    """

    def __init__(self, node: Node, text: str) -> None:
        self._node, self.text = node, text

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read a filter.

        Raises
        ------
        DataError
            If it cannot be read; the place is named.
        """
        return cls(_Parser(text).whole(), text)

    def mask(self, table: pa.Table, more: Mapping[str, NDArray[Any]] | None = None) -> Mask:
        """Return which rows pass, shape (n_rows,).

        Parameters
        ----------
        table : pyarrow.Table
            The columns.
        more : mapping of str to array, optional
            Further columns, such as ``segment``; one of the table goes before one of these.

        Raises
        ------
        DataError
            If a column is not there (the closest are named), or a value does not fit its type.

        Notes
        -----
        One pass of Arrow a test: about a millisecond for 100,000 rows.
        """
        return _passed(self._node, table, more or {})

    @property
    def columns(self) -> list[str]:
        """The columns it looks at, each once."""
        return list(dict.fromkeys(_columns(self._node)))

    def __repr__(self) -> str:
        return f"Filter({self.text})"


class _Parser:
    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise DataError('the filter is empty; expected something like: category = "Valves" and price < 20')
        if len(text) > MOST_CHARS:
            raise DataError(f"the filter has {len(text):,} characters, expected at most {MOST_CHARS:,}")
        self.text, self.at, self.deep = text, 0, 0
        self.tokens: list[tuple[str, str, int]] = []
        place = 0
        while text[place:].strip():
            found = TOKEN.match(text, place)
            if not found:
                where = len(text) - len(text[place:].lstrip())
                raise DataError(f"the filter cannot be read at character {where + 1}: {text[where : where + 20]!r}")
            kind = str(found.lastgroup)
            self.tokens.append((kind, found.group(kind), found.start(kind)))
            place = found.end()

    def whole(self) -> Node:
        node = self.any()
        if self.at < len(self.tokens):
            self.fail("expected 'and', 'or' or the end")
        return node

    def any(self) -> Node:
        self.deep += 1
        if self.deep > MOST_DEEP:
            raise DataError(f"the filter is nested deeper than {MOST_DEEP} times; write it flatter")
        parts = [self.every()]
        while self.take("or"):
            parts.append(self.every())
        self.deep -= 1
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def every(self) -> Node:
        parts = [self.one()]
        while self.take("and"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def one(self) -> Node:
        turned = False
        while self.take("not"):
            turned = not turned
        if self.take("("):
            node = self.any()
            self.expect(")")
        else:
            node = self.test()
        return Not(node) if turned else node

    def test(self) -> Check:
        column = self.column()
        turned = False
        if self.take("is"):
            turned = self.take("not")
            self.expect("missing")
            return Check(column, "missing", (), turned)
        turned = self.take("not")
        if self.take("in"):
            self.expect("(")
            values = [self.value()]
            while self.take(","):
                values.append(self.value())
            self.expect(")")
            return Check(column, "in", tuple(values), turned)
        if self.take("contains"):
            return Check(column, "contains", (self.value(),), turned)
        kind, token, _ = self.next()
        sign = ALIKE.get(token, token)
        if turned or kind != "sign" or sign not in SIGNS:
            self.fail(f"expected =, !=, <, <=, >, >=, in, contains or is missing after {column!r}")
        self.at += 1
        return Check(column, sign, (self.value(),))

    def column(self) -> str:
        kind, token, _ = self.next()
        if kind == "name" and len(token) > 2:
            self.at += 1
            return token[1:-1]
        if kind != "word" or token.lower() in WORDS:
            self.fail("expected the name of a column")
        self.at += 1
        return token

    def value(self) -> str:
        kind, token, _ = self.next()
        if kind not in ("text", "word") or (kind == "word" and token.lower() in WORDS):
            self.fail("expected a value")
        self.at += 1
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", token[1:-1])
        return Bare(token)

    def next(self) -> tuple[str, str, int]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "", len(self.text))

    def take(self, what: str) -> bool:
        kind, token, _ = self.next()
        if kind in ("word", "sign") and token.lower() == what:
            self.at += 1
            return True
        return False

    def expect(self, what: str) -> None:
        if not self.take(what):
            self.fail(f"expected {what!r}")

    def fail(self, expected: str) -> NoReturn:
        kind, token, place = self.next()
        found = "ends" if kind == "end" else f"has {token!r} at character {place + 1}"
        raise DataError(f"the filter {found}, {expected}: {self.text}")


def _columns(node: Node) -> list[str]:
    if isinstance(node, Check):
        return [node.column]
    parts = (node.part,) if isinstance(node, Not) else node.parts
    return [name for part in parts for name in _columns(part)]


def _passed(node: Node, table: pa.Table, more: Mapping[str, NDArray[Any]]) -> Mask:
    if isinstance(node, Check):
        return _tested(node, _column(node.column, table, more))
    if isinstance(node, Not):
        return ~_passed(node.part, table, more)
    join = np.logical_and if isinstance(node, Every) else np.logical_or
    masks: list[Mask] = [_passed(part, table, more) for part in node.parts]
    return reduce(join, masks)


def _column(name: str, table: pa.Table, more: Mapping[str, NDArray[Any]]) -> pa.Array:
    if name in table.column_names:
        column = table[name]
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if name in more:
        return pa.array(more[name])
    known = [*table.column_names, *(column for column in more if column not in table.column_names)]
    near = closest(name, known) or closest(name.lower(), known)
    hint = f"the closest are: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
    raise DataError(f"the filter names {name!r}, and there is no such column; {hint}")


def _tested(test: Check, column: pa.Array) -> Mask:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _in_lists(test, column)
    there = ~_missing(column)
    if test.how == "missing":
        return there if test.turned else ~there
    passed = _compared(test, column) & there
    return ~passed & there if test.turned else passed


def _in_lists(test: Check, column: pa.Array) -> Mask:
    """Check the elements; a list passes where one of them does, and ``!=`` where none is equal."""
    elements, parents = column.flatten(), pc.list_parent_indices(column).to_numpy()
    filled = ~_missing(elements)
    there = np.zeros(len(column), dtype=bool)
    there[parents[filled]] = True
    if test.how == "missing":
        return there if test.turned else ~there
    turned = test.turned != (test.how == "!=")
    inner = Check(test.column, "=" if test.how == "!=" else test.how, test.values)
    passed = np.zeros(len(column), dtype=bool)
    passed[parents[_compared(inner, elements) & filled]] = True
    return ~passed & there if turned else passed


def _missing(column: pa.Array) -> Mask:
    empty: Mask = pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False)
    if _is_text(column):
        empty = empty | pc.equal(column, "").fill_null(True).to_numpy(zero_copy_only=False)
    return empty


def _compared(test: Check, column: pa.Array) -> Mask:
    if test.how == "contains":
        text = _as_text(test, column)
        found = pc.match_substring(pc.utf8_lower(text), test.values[0].lower())
    elif test.how == "in":
        equal = [_compared(Check(test.column, "=", (value,)), column) for value in test.values]
        return reduce(np.logical_or, equal)
    else:
        left, right = _alike(test, column, test.values[0])
        found = SIGNS[test.how](left, right)
    passed: Mask = found.fill_null(False).to_numpy(zero_copy_only=False)
    return passed


def _alike(test: Check, column: pa.Array, value: str) -> tuple[Any, Any]:
    """Return column and value in one type: that of the column, but words that are numbers where a number is asked."""
    kind = column.type
    if pa.types.is_boolean(kind):
        if value.lower() not in ("true", "false"):
            raise _unfit(test, value, "true or false")
        return column, pa.scalar(value.lower() == "true")
    is_number = bool(NUMBER.match(value.strip()))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        if not is_number:
            raise _unfit(test, value, "numbers")
        return pc.cast(column, pa.float64(), safe=False), pa.scalar(float(value))
    if pa.types.is_temporal(kind):
        return _times(test, column, value)
    text = _as_text(test, column)
    if isinstance(value, Bare) and is_number and test.how not in ("=", "!="):
        numbers = pd.to_numeric(pd.Series(text.to_pylist(), dtype=object), errors="coerce")
        return pa.array(numbers.to_numpy(dtype=np.float64), from_pandas=True), pa.scalar(float(value))
    return pc.utf8_lower(text), pa.scalar(value.lower(), pa.large_string())


def _times(test: Check, column: pa.Array, value: str) -> tuple[Any, Any]:
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise _unfit(test, value, "dates; write one as 2024-05-01") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    if pa.types.is_time(column.type) or pa.types.is_duration(column.type):
        raise _unfit(test, value, f"{column.type}, which filters cannot compare")
    return pc.cast(column, pa.timestamp("us", tz="UTC"), safe=False), pa.scalar(moment, pa.timestamp("us", tz="UTC"))


def _as_text(test: Check, column: pa.Array) -> pa.Array:
    try:
        return pc.cast(column, pa.large_string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise DataError(
            f"the filter looks at {test.column!r}, which holds {column.type}; expected text, numbers, dates or lists"
        ) from None


def _is_text(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _unfit(test: Check, value: str, what: str) -> DataError:
    return DataError(f"the filter compares {test.column!r} with {value!r}; the column holds {what}")
