"""Item and Catalog: what there is to recommend, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from llm_tail.artifacts import fingerprint, replacing
from llm_tail.data.ids import IdMap, Rows
from llm_tail.errors import DataError
from llm_tail.html import html_table

if TYPE_CHECKING:
    from llm_tail.data.readers import BadRows

CORE = ("item_id", "title", "description")
SHOWN, SHOWN_LETTERS = 8, 80  # of a catalogue in a notebook


@dataclass(frozen=True)
class Item:
    """One item: its id, its words, and whatever else is known of it.

    Parameters
    ----------
    item_id : str
        The id of the outside world.
    title, description : str
        May be empty.
    fields : mapping
        All other columns; what is empty there is left out.
    """

    item_id: str
    title: str = ""
    description: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


class Catalog:
    """The items there are, one row each, as an Arrow table.

    Parameters
    ----------
    table : pyarrow.Table
        Has a column ``item_id`` (str, distinct). ``title`` and ``description`` (str) are added empty where missing;
        nulls in them become the empty string. All other columns are kept as they are.
    name : str
        Said wherever the catalogue is shown.
    bad_rows : BadRows, optional
        What a reader set aside.

    Raises
    ------
    DataError
        If there is no item, no ``item_id`` column, or an id stands twice.

    Examples
    --------
    >>> catalog = Catalog.from_items([{"item_id": "emma", "title": "Emma", "year": 1815}])
    >>> catalog
    Catalog(1 item)
    >>> catalog["emma"].fields["year"]
    1815
    """

    def __init__(self, table: pa.Table, *, name: str = "", bad_rows: BadRows | None = None) -> None:
        if "item_id" not in table.column_names:
            raise DataError(
                f"the catalogue has no column 'item_id'; found {', '.join(table.column_names) or 'no columns'}; "
                "name the right one under [data.item_columns] or with columns={'item_id': ...}"
            )
        if table.num_rows == 0:
            raise DataError("the catalogue is empty; expected at least one item")
        for column in CORE:
            if column not in table.column_names:
                table = table.append_column(column, pa.array([""] * table.num_rows, pa.string()))
        for column in CORE[1:]:
            place = table.column_names.index(column)
            table = table.set_column(place, column, _words(column, table[column]))
        rest = [c for c in table.column_names if c not in CORE]
        self.ids = IdMap(table["item_id"].to_pylist(), "item")
        table = table.set_column(table.column_names.index("item_id"), "item_id", pa.array(self.ids.values, pa.string()))
        self.table = table.select([*CORE, *rest]).combine_chunks()
        self.name = name
        self.bad_rows = bad_rows

    @classmethod
    def from_items(cls, items: Iterable[Item | Mapping[str, Any]], *, name: str = "") -> Catalog:
        """Make a catalogue of `Item` objects or of mappings with at least ``item_id``; NaN counts as missing."""
        if isinstance(items, pd.DataFrame):
            return cls.from_frame(items, name=name)
        records = [
            {**i.fields, "item_id": i.item_id, "title": i.title, "description": i.description}
            if isinstance(i, Item)
            else dict(i)
            for i in items
        ]
        if not records:
            raise DataError("the catalogue is empty; expected at least one item")
        columns = dict.fromkeys(key for record in records for key in record)
        return cls(pa.table({c: _array(c, [r.get(c) for r in records]) for c in columns}), name=name)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, columns: Mapping[str, str] | None = None, name: str = "") -> Catalog:
        """Make a catalogue of a data frame with a row an item.

        Parameters
        ----------
        frame : pandas.DataFrame
            With a column ``item_id``; NaN, NA and NaT count as missing.
        columns : mapping of str to str, optional
            Our names to the frame's, such as ``{"item_id": "sku", "title": "name"}``.
        name : str
            What `repr` shows.

        Raises
        ------
        DataError
            If a column is not there, or an id is missing or stands twice.

        Examples
        --------
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"sku": ["a", "b"], "name": ["Lamp", None], "brand": [float("nan"), "Acme"]})
        >>> Catalog.from_frame(frame, columns={"item_id": "sku", "title": "name"})["b"]
        Item(item_id='b', title='', description='', fields={'brand': 'Acme'})
        """
        columns = {} if columns is None else dict(columns)
        if lacking := [theirs for theirs in columns.values() if theirs not in frame.columns]:
            raise DataError(f"no column {' and '.join(lacking)}; found: {', '.join(map(str, frame.columns))}")
        named = frame.rename(columns={theirs: ours for ours, theirs in columns.items()})
        if (twice := named.columns[named.columns.duplicated()]).size:
            raise DataError(f"column {twice[0]!r} is there twice; keep one of them")
        ids = named["item_id"] if "item_id" in named.columns else None
        if ids is not None and ids.isna().any():
            raise DataError(f"{int(ids.isna().sum())} of {len(ids)} rows have no item_id; drop them first")
        if ids is not None and pd.api.types.is_float_dtype(ids) and (ids == ids.round()).all():
            named = named.assign(item_id=ids.astype("int64"))  # whole numbers become floats where one was missing once
        return cls.from_items(
            (dict(zip(map(str, named.columns), row, strict=True)) for row in named.itertuples(index=False)), name=name
        )

    @classmethod
    def from_parquet(cls, path: str | Path, *, columns: Mapping[str, str] | None = None) -> Catalog:
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
    ) -> Catalog:
        """Read a file, folder or Hugging Face data set; see `llm_tail.data.readers.read_catalog`."""
        from llm_tail.data.readers import read_catalog

        return read_catalog(path, format=format, columns=columns, max_bad_share=max_bad_share)

    def save(self, path: str | Path) -> Path:
        """Write the catalogue to one parquet file and return its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as whole:
            pq.write_table(self.table, whole, compression="zstd")
        return path

    @property
    def columns(self) -> list[str]:
        """The names of the columns, the three core ones first."""
        return list(self.table.column_names)

    @property
    def titles(self) -> list[str]:
        """The title of each row."""
        return self.column("title")

    def column(self, name: str) -> list[Any]:
        """Return one column as Python values, None where it is null."""
        if name not in self.table.column_names:
            raise DataError(f"the catalogue has no column {name!r}; it has: {', '.join(self.columns)}")
        values: list[Any] = self.table[name].to_pylist()
        return values

    def title(self, item_id: str) -> str:
        """Return the title of one item, or its id where the title is empty."""
        return str(self.table["title"][self.ids.row(item_id)].as_py()) or item_id

    def take(self, rows: Rows | Sequence[int]) -> Catalog:
        """Return the catalogue of these rows, in this order."""
        return Catalog(self.table.take(pa.array(rows, pa.int64())), name=self.name)

    def fingerprint(self) -> str:
        """Return a digest of every cell."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema.remove_metadata()) as stream:
            for start in range(0, len(self), 65_536):
                rows = pa.array(range(start, min(start + 65_536, len(self))), pa.int64())
                # A slice is written with its parent's offsets; taken rows have their own.
                stream.write_table(self.table.take(rows).combine_chunks().replace_schema_metadata(None))
        return fingerprint(sink.getvalue().to_pybytes())

    def __getitem__(self, item_id: str) -> Item:
        return self._item(self.table.slice(self.ids.row(item_id), 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Item]:
        for batch in self.table.to_batches(max_chunksize=4096):
            for record in batch.to_pylist():
                yield self._item(record)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.ids

    def __repr__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        return f"Catalog({name}{len(self):,} item{'s' if len(self) != 1 else ''})"

    def _repr_html_(self) -> str:
        first = self.table.slice(0, SHOWN).to_pylist()
        rows = ([_short(value) for value in record.values()] for record in first)
        more = f"... and {len(self) - len(first):,} more" if len(self) > len(first) else ""
        return html_table(self.columns, rows, title=repr(self), note=more)

    @staticmethod
    def _item(record: dict[str, Any]) -> Item:
        core = {key: record.pop(key) for key in CORE}
        return Item(**core, fields={k: v for k, v in record.items() if v is not None and v != "" and v != []})


def _words(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string()).fill_null("")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise DataError(f"column {name!r} has the type {column.type}, expected text; join its parts first") from None


def _short(value: Any) -> str:
    words = "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return words if len(words) <= SHOWN_LETTERS else words[: SHOWN_LETTERS - 1] + "…"


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _array(column: str, values: list[Any]) -> pa.Array:
    values = [None if _is_missing(v) else v for v in values]
    if column in CORE:
        values = [None if v is None else str(v) for v in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of mixed types is kept as words
        return pa.array([None if v is None else str(v) for v in values], pa.string())
