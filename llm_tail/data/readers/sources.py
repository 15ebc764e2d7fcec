"""Sources: files and data sets as blocks of Arrow columns, in memory that does not grow with the file.

Every source keeps the place (from 0, blank lines not counted) of each row that it could not parse, and finds the line
number and the words of a few places again by a second pass that stops at the last of them.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llm_tail.data.readers.columns import json_column
from llm_tail.errors import DataError

BLOCK_BYTES = 8 << 20
BLOCK_ROWS = 1 << 17
LONGEST_CELL = 1 << 26
BROKEN = "\ufdd0"  # no character: it stands in no text
_ESCAPED = re.compile("[\udc80-\udcff]")
SAMPLE_LINES = 1000  # looked at to learn which columns a JSON lines file has
READ_ERRORS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, EOFError, zlib.error, UnicodeError)


class Block(NamedTuple):
    """Some rows under the file's column names; `flaws` are (reason, bool mask) of rows not to be trusted."""

    table: pa.Table
    flaws: list[tuple[str, NDArray[np.bool_]]]


class Source(Protocol):
    """Anything that rows are read from."""

    name: str
    unparsable: list[tuple[int, str, int]]  # place, reason, how many lines were lost there

    @property
    def columns(self) -> list[str]:
        """The names of the columns in the file."""

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[Block]:
        """Yield all rows, of some columns only where these are named."""

    def locate(self, places: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Return (line number from 1, text of the row) for places."""


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, unpacked where it ends in .gz."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what libraries raise on an unreadable file into `DataError`."""
    try:
        yield
    except READ_ERRORS as error:
        hint = "; a quote that is opened and never closed does this too" if "straddl" in str(error) else ""
        text = str(error).strip() or type(error).__name__
        raise DataError(f"{name} cannot be read: {text}{hint}") from error


class CsvSource:
    """Rows of a file with a separator between columns; all cells are strings.

    Parameters
    ----------
    path : Path
        May be gzipped.
    separator : str
        One character, or ``"::"``.
    names : sequence of str, optional
        Column names of a file without a header line.
    quoted : bool
        Whether ``"`` encloses cells that hold separators or line breaks.
    encoding : str
        How bytes become characters.
    """

    def __init__(
        self,
        path: Path,
        *,
        separator: str = ",",
        names: Sequence[str] | None = None,
        quoted: bool = True,
        encoding: str = "utf8",
    ) -> None:
        self.path, self.name, self.separator = path, str(path), separator
        self.names, self.quoted, self.encoding = names, quoted, encoding
        self.unparsable: list[tuple[int, str, int]] = []

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        if self.names is not None:
            return list(self.names)
        with closing(self._records()) as records:
            return next((cells for _, cells, _ in records), [])

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[Block]:
        """Yield all rows, of some columns only where these are named."""
        self.unparsable = []
        wanted = list(columns if columns is not None else self.columns)
        if not wanted:
            return
        with open_bytes(self.path) as stream, reading(self.name):
            yield from map(_checked_utf8, self._arrow(_WholeLines(stream, self._change), wanted))

    def _change(self, data: bytes) -> bytes:
        data = _mark_broken(data) if self.encoding == "utf8" else data
        return data.replace(b"::", b"\x1f") if self.separator == "::" else data

    def _arrow(self, stream: Any, wanted: list[str]) -> Iterator[pa.Table]:
        header_rows = 1 if self.names is None else 0

        def set_aside(row: Any) -> str:
            n_lines = 1 + (row.text or "").count("\n")
            if n_lines > 1:
                reason = "quote that swallows the lines after it"
            else:
                reason = f"{row.actual_columns} cells instead of {row.expected_columns}"
            self.unparsable.append((row.number - 1 - header_rows, reason, n_lines))
            return "skip"

        reader = pa_csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            # Only a single thread is told the number of a bad row.
            read_options=pa_csv.ReadOptions(
                block_size=BLOCK_BYTES, use_threads=False, column_names=self.names, encoding=self.encoding
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter="\x1f" if self.separator == "::" else self.separator,
                quote_char='"' if self.quoted else False,
                newlines_in_values=self.quoted,
                invalid_row_handler=set_aside,
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
            ),
        )
        with reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def locate(self, places: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Return (line number, raw text) for places."""
        found, last = {}, max(places)
        records = self._records()
        limit = csv.field_size_limit(LONGEST_CELL)  # Python's own limit is 128 KiB
        try:
            if self.names is None:
                next(records, None)
            for place, (line, _, text) in enumerate(records):
                if place in places:
                    found[place] = (line, text)
                if place >= last:
                    break
        finally:
            records.close()
            csv.field_size_limit(limit)
        return found

    def _records(self) -> Generator[tuple[int, list[str], str], None, None]:
        """Yield (first line, cells, raw text) of each row that is not blank, header included."""
        taken: list[str] = []

        def lines(stream: IO[str]) -> Iterator[str]:
            for line in stream:
                taken.append(line)
                yield line.replace("::", "\x1f") if self.separator == "::" else line

        encoding = "utf-8-sig" if self.encoding == "utf8" else self.encoding
        with (
            reading(self.name),
            open_bytes(self.path) as raw,
            io.TextIOWrapper(raw, encoding, "replace", newline="") as stream,
        ):
            reader = csv.reader(
                lines(stream),
                delimiter="\x1f" if self.separator == "::" else self.separator,
                quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            )
            try:
                for cells in reader:
                    if cells:
                        yield reader.line_num - len(taken) + 1, cells, "".join(taken).rstrip("\r\n")
                    taken.clear()
            except csv.Error:  # a cell that passes the limit: an open quote; what comes after cannot be told
                if taken:
                    yield reader.line_num - len(taken) + 1, taken[:1], taken[0].rstrip("\r\n")


class JsonlSource:
    """Rows of a file with one JSON object a line, gzipped or not.

    Blocks go through Arrow where columns are named and plainly typed; a block that Arrow refuses is read again line by
    line, so that one bad line costs itself alone.
    """

    def __init__(self, path: Path, *, scalars: Sequence[str] = ()) -> None:
        self.path, self.name = path, str(path)
        self.scalars = set(scalars)
        self.unparsable: list[tuple[int, str, int]] = []
        self._sample: list[dict[str, Any]] | None = None

    @property
    def sample(self) -> list[dict[str, Any]]:
        """The objects among the first thousand lines."""
        if self._sample is None:
            self._sample = []
            for n, (_, line) in enumerate(self._lines()):
                if n == 0 and line.lstrip().startswith(b"[") and not line.rstrip().endswith(b"]"):
                    raise DataError(f"{self.name} is one JSON array; expected one object a line (JSON lines)")
                record = _parse(line)
                if isinstance(record, dict):
                    self._sample.append(record)
                if n >= SAMPLE_LINES:
                    break
        return self._sample

    @property
    def columns(self) -> list[str]:
        """The names in the first thousand lines."""
        names = list(dict.fromkeys(key for record in self.sample for key in record))
        first = None if names else next(self._lines(), None)
        if first is not None:
            line, text = first
            raise DataError(f"{self.name} holds no JSON objects; line {line} is {text[:120]!r}; expected one a line")
        return names

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[Block]:
        """Yield all rows, of some columns only where these are named."""
        self.unparsable = []
        schema = None if columns is None else self._schema(columns)
        place = 0
        with reading(self.name), open_bytes(self.path) as stream:
            while data := stream.read(BLOCK_BYTES):
                data += stream.readline()
                table = None if schema is None else _arrow_json(data, schema)
                if table is None:
                    lines = [line for line in data.split(b"\n") if line.strip()]
                    table, n = self._slow(lines, columns, place), len(lines)
                else:
                    n = table.num_rows
                place += n
                yield Block(table, [])

    def _slow(self, lines: list[bytes], columns: Sequence[str] | None, place: int) -> pa.Table:
        records = []
        for n, line in enumerate(lines):
            record = _parse(line)
            if not isinstance(record, dict):
                self.unparsable.append((place + n, record or "JSON, but no object", 1))
            elif wrong := [c for c in self.scalars if isinstance(record.get(c), (dict, list, bool))]:
                self.unparsable.append((place + n, f"{type(record[wrong[0]]).__name__} as {wrong[0]}", 1))
            else:
                records.append(record)
        names = columns if columns is not None else dict.fromkeys(key for record in records for key in record)
        arrays = {name: json_column([record.get(name) for record in records]) for name in names}
        return pa.table(arrays) if arrays else pa.table({})

    def _schema(self, columns: Sequence[str]) -> pa.Schema | None:
        """Return plain types for the columns as the sample shows them, or None where there are none."""
        fields = []
        for name in columns:
            types = {type(record[name]) for record in self.sample if record.get(name) is not None}
            if types == {str}:
                fields.append((name, pa.string()))
            elif types == {int}:
                fields.append((name, pa.int64()))
            elif types and types <= {int, float}:
                fields.append((name, pa.float64()))
            else:
                return None
        return pa.schema(fields)

    def locate(self, places: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Return (line number, raw text) for places."""
        found, last = {}, max(places)
        for place, (number, line) in enumerate(self._lines()):
            if place in places:
                found[place] = (number, line.decode("utf8", "replace").strip())
            if place >= last:
                break
        return found

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with reading(self.name), open_bytes(self.path) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line


class ParquetSource:
    """Rows of one parquet file or of several with the same columns."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.name = list(paths), str(paths[0] if len(paths) == 1 else paths[0].parent)
        self.unparsable: list[tuple[int, str, int]] = []

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        with reading(self.name):
            return list(pq.read_schema(self.paths[0]).names)

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[Block]:
        """Yield all rows, of some columns only where these are named."""
        for path in self.paths:
            with reading(str(path)), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=columns):
                    yield Block(pa.Table.from_batches([batch]), [])

    def locate(self, places: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Return (row number from 1, the row's cells) for places."""
        return _locate_rows(self.blocks(), places)


class DatasetSource:
    """Rows of a Hugging Face data set, memory-mapped by ``datasets``."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.name, self.dataset = name, dataset
        self.unparsable: list[tuple[int, str, int]] = []

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.dataset.column_names)

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[Block]:
        """Yield all rows, of some columns only where these are named."""
        dataset = self.dataset if columns is None else self.dataset.select_columns(list(columns))
        for table in dataset.with_format("arrow").iter(batch_size=BLOCK_ROWS):
            yield Block(table, [])

    def locate(self, places: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Return (row number from 1, the row's cells) for places."""
        return {place: (place + 1, str(self.dataset[place])) for place in places}


class _WholeLines(io.RawIOBase):
    """A byte stream in blocks of whole lines, each put through `change`: no character or mark is cut in two."""

    def __init__(self, stream: IO[bytes], change: Callable[[bytes], bytes]) -> None:
        self._stream, self._change, self._ready = stream, change, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._ready and (data := self._stream.read(size)):
            self._ready = self._change(data + self._stream.readline())
        size = len(self._ready) if size < 0 else size
        data, self._ready = self._ready[:size], self._ready[size:]
        return data


def _mark_broken(data: bytes) -> bytes:
    """Return UTF-8 with a mark in place of each byte that is none; Arrow's parser cannot report such a row itself."""
    try:
        data.decode("utf8")
    except UnicodeDecodeError:
        return _ESCAPED.sub(BROKEN, data.decode("utf8", "surrogateescape")).encode()
    return data


def _arrow_json(data: bytes, schema: pa.Schema) -> pa.Table | None:
    """Return the rows of a block, or None where it has to be read line by line."""
    options = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = pa_json.read_json(
            io.BytesIO(data), pa_json.ReadOptions(block_size=2 * len(data) + 1024), parse_options=options
        )
    except pa.ArrowInvalid:
        return None
    n_lines = data.count(b"\n") + (not data.endswith(b"\n"))
    return table if table.num_rows == n_lines else None  # blank lines, or two objects in one


def _parse(line: bytes) -> Any:
    """Return the value of one JSON line, or as a str why it is none."""
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):
        return "no valid JSON"
    return value if isinstance(value, dict) else "JSON, but no object"


def _checked_utf8(table: pa.Table) -> Block:
    flawed = np.zeros(table.num_rows, dtype=bool)
    for column in table.columns:
        flawed |= pc.match_substring(column, BROKEN).to_numpy()
    return Block(table, [("not UTF-8", flawed)] if flawed.any() else [])


def _locate_rows(blocks: Iterator[Block], places: Sequence[int]) -> dict[int, tuple[int, str]]:
    found: dict[int, tuple[int, str]] = {}
    start = 0
    for block in blocks:
        for place in places:
            if start <= place < start + block.table.num_rows:
                found[place] = (place + 1, str(block.table.slice(place - start, 1).to_pylist()[0]))
        start += block.table.num_rows
        if start > max(places):
            break
    return found
