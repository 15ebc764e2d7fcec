"""Item tables: the columns of a catalogue in the shape that the rest of the package expects."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from llm_tail.data.markup import strip_html
from llm_tail.data.readers.bad_rows import Ledger
from llm_tail.data.readers.columns import id_column, number_column, stack, text_column, typed_column
from llm_tail.data.readers.formats import GENRES, Opened
from llm_tail.data.readers.sources import Block, CsvSource, JsonlSource

THIN_CHARS = 80  # an Amazon description shorter than this is filled up with features and details
_AMAZON_KEPT = (
    *("item_id", "title", "description", "categories", "brand", "price", "main_category", "main_cat"),
    *("also_buy", "also_view", "bought_together"),
)
_AMAZON_READ = ("features", "feature", "details")
_YEAR = re.compile(r"^(?P<title>.*?)\s*\((?P<year>\d{4})(?:[-–]\d{0,4})?\)\s*$")


def item_table(opened: Opened, ledger: Ledger) -> pa.Table | None:
    """Read all items of a source; None where no good row is left."""
    columns = _wanted(opened)
    theirs = None if isinstance(opened.source, JsonlSource) and opened.style != "amazon" else list(columns.values())
    tables = []
    for block in opened.source.blocks(theirs):
        table = _good_rows(_renamed(block, columns, opened), block, ledger)
        if table.num_rows:
            tables.append(_amazon(table) if opened.style == "amazon" else table)
    if not tables:
        return None
    table = _without_repeats(stack(tables), ledger)
    if opened.style == "movielens":
        table = _movielens(table)
    elif opened.style == "recbole":
        table = _recbole(table, columns)
    for name in ("title", "description"):
        if name in table.column_names:
            table = _set(table, name, text_column(table[name]))
    if isinstance(opened.source, CsvSource):
        for name in table.column_names:
            if name not in ("item_id", "title", "description"):
                table = _set(table, name, typed_column(table[name]))
    return table.drop_columns("_row")


def _wanted(opened: Opened) -> dict[str, str]:
    if opened.style != "amazon":
        return opened.columns
    return {ours: theirs for ours, theirs in opened.columns.items() if ours in (*_AMAZON_KEPT, *_AMAZON_READ)}


def _renamed(block: Block, columns: dict[str, str], opened: Opened) -> pa.Table:
    """Return the block under our names, the columns of later lines included."""
    ours = {theirs: name for name, theirs in columns.items()}
    taken = set(columns)
    names = [(ours.get(c, c), c) for c in block.table.column_names if c in ours or c not in taken]
    table = pa.table({name: block.table[theirs] for name, theirs in names})
    return table if "item_id" in table.column_names else table.append_column("item_id", pa.nulls(block.table.num_rows))


def _good_rows(table: pa.Table, block: Block, ledger: Ledger) -> pa.Table:
    """Return the rows that have an id, with their number in the file as ``_row``."""
    good = np.ones(table.num_rows, dtype=bool)
    ids, missing = id_column(table["item_id"], "item_id")
    for reason, mask in (*block.flaws, ("without item_id", missing)):
        ledger.flag(np.flatnonzero(mask & good) + ledger.n_rows, reason)
        good &= ~mask
    table = _set(table, "item_id", ids).append_column("_row", pa.array(np.arange(len(good)) + ledger.n_rows))
    ledger.n_rows += len(good)
    return table.filter(pa.array(good))


def _without_repeats(table: pa.Table, ledger: Ledger) -> pa.Table:
    repeated = pd.Series(table["item_id"].to_numpy()).duplicated().to_numpy()
    ledger.flag(table["_row"].to_numpy()[repeated], "item_id that was there before")
    return table.filter(pa.array(~repeated)) if repeated.any() else table


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


# ---- MovieLens


def _movielens(table: pa.Table) -> pa.Table:
    """Move the year out of the title and make lists of genres."""
    if "title" in table.column_names:
        parts = [_YEAR.match(title) for title in text_column(table["title"]).to_pylist()]
        titles = text_column(table["title"]).to_pylist()
        names = [m["title"] if m else title.strip() for m, title in zip(parts, titles, strict=True)]
        table = _set(table, "title", pa.array(names, pa.string()))
        if "year" not in table.column_names:
            years = [int(m["year"]) if m else None for m in parts]
            table = table.append_column("year", pa.array(years, pa.int64()))
    if set(GENRES) <= set(table.column_names):
        flags = np.column_stack([table[genre].to_numpy() == "1" for genre in GENRES])
        genres = [[GENRES[k] for k in np.flatnonzero(row)] for row in flags]
        return table.drop_columns(GENRES).append_column("categories", pa.array(genres, pa.list_(pa.string())))
    if "categories" in table.column_names and not pa.types.is_list(table["categories"].type):
        words = pc.replace_substring(text_column(table["categories"]), "(no genres listed)", "")
        table = _set(table, "categories", _split(words, "|"))
    return table


def _split(words: pa.Array, separator: str) -> pa.Array:
    """Return lists of the parts; an empty cell is an empty list."""
    return pa.array([[p for p in w.split(separator) if p] for w in words.to_pylist()], pa.list_(pa.string()))


# ---- RecBole


def _recbole(table: pa.Table, columns: dict[str, str]) -> pa.Table:
    """Give columns the types that the header names; ``token_seq`` is separated by spaces."""
    for name, theirs in columns.items():
        kind = theirs.rpartition(":")[2]
        if name not in table.column_names or name in ("item_id", "title", "description"):
            continue
        if kind == "token_seq":
            table = _set(table, name, _split(text_column(table[name]), " "))
        elif kind == "float":
            numbers = number_column(table[name])
            table = _set(table, name, pa.array(numbers.values, mask=np.isnan(numbers.values)))
    return table


# ---- Amazon Reviews


def _amazon(table: pa.Table) -> pa.Table:
    """Strip tags, and fill thin descriptions up with features and details."""
    names = table.column_names
    blank = [""] * table.num_rows

    def words(name: str) -> list[Any]:
        return table[name].to_pylist() if name in names else blank

    features = words("features") if "features" in names else words("feature")
    parts = zip(words("description"), features, words("details"), strict=True)
    described = pa.array([_describe(*cells) for cells in parts], pa.string())
    table = (
        _set(table, "description", described)
        if "description" in names
        else table.append_column("description", described)
    )
    for name in ("title", "brand"):
        if name in names:
            clean = [strip_html(word) for word in text_column(table[name]).to_pylist()]
            table = _set(table, name, pa.array(clean, pa.string()))
    if "categories" in names and pa.types.is_list(table["categories"].type):
        lists = [None if x is None else [strip_html(str(y)) for y in x] for x in table["categories"].to_pylist()]
        table = _set(table, "categories", pa.array(lists, pa.list_(pa.string())))
    return table.select([c for c in table.column_names if c in (*_AMAZON_KEPT, "_row")])


def _describe(description: Any, features: Any, details: Any) -> str:
    text = strip_html(_flat(description))
    if len(text) >= THIN_CHARS:
        return text
    return " ".join(part for part in (text, strip_html(_flat(features)), strip_html(_flat(details))) if part)


def _flat(value: Any) -> str:
    """Return one string of a string, a list, or a mapping (also one that is spelt as JSON)."""
    if isinstance(value, str) and value[:1] == "{":
        try:
            value = json.loads(value)
        except ValueError:
            return str(value)
    if isinstance(value, dict):
        pairs = [f"{key}: {_flat(x)}".rstrip(":") for key, x in value.items() if x not in (None, "", [])]
        return ". ".join(pairs)
    if isinstance(value, (list, tuple)):
        return " ".join(_flat(x) for x in value if x is not None)
    return "" if value is None else str(value)
