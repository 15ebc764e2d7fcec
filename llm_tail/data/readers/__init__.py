"""Readers: files, folders and data sets in, `Catalog` and `Interactions` out.

==============  =====================================================================================================
format          what it is
==============  =====================================================================================================
csv             a header line, then rows; comma, tab, semicolon or bar; ``.gz`` too
jsonl           one JSON object a line; ``.gz`` too
parquet         one file, or a folder of them
recbole         atomic files ``.item`` and ``.inter`` with typed headers (``user_id:token``), or their folder
movielens       folder of ml-latest (csv), ml-1m, ml-10m (``.dat``) or ml-100k (``u.item``, ``u.data``)
amazon          Amazon Reviews 2018 and 2023 (jsonl, csv or parquet)
hf:NAME         a Hugging Face data set, ``hf:NAME[:config][:split]``; local folders and files need no network
==============  =====================================================================================================

Rows that cannot be used are set aside and counted in ``.bad_rows``; too many of them are an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.data.readers.bad_rows import BadRows, Ledger
from llm_tail.data.readers.events import EventBuilder
from llm_tail.data.readers.formats import open_path
from llm_tail.data.readers.items import item_table
from llm_tail.errors import DataError

__all__ = ["BadRows", "read_catalog", "read_interactions"]


def read_catalog(
    path: str | Path, *, format: str = "auto", columns: Mapping[str, str] | None = None, max_bad_share: float = 0.01
) -> Catalog:
    r"""Read the items of a file, folder or data set.

    Parameters
    ----------
    path : path or str
        File or folder, or ``hf:NAME[:config][:split]``.
    format : {"auto", "csv", "jsonl", "parquet", "recbole", "movielens", "amazon", "hf"}
        How it is written; auto goes by names and columns.
    columns : mapping, optional
        Our names to the file's, such as ``{"item_id": "sku"}``.
    max_bad_share : float in [0, 1]
        Largest share of rows that may be unusable: not parsable, no id, or an id that was
        there before (the first one stays).

    Returns
    -------
    Catalog
        With ``bad_rows``. All columns of the file are kept, lists as lists.

    Raises
    ------
    DataError
        If the file is missing, empty, has no column for ``item_id``, or too many rows are bad.

    Notes
    -----
    The file is read in blocks of 8 MiB; memory is that of the catalogue itself.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "shop.csv"
    ...     _ = file.write_text("sku,title,year\nemma,Emma,1815\ndracula,Dracula,1897\n")
    ...     read_catalog(file, columns={"item_id": "sku"})["emma"].fields
    {'year': 1815}
    """
    opened = open_path(path, format, "items", columns)
    ledger = Ledger()
    table = item_table(opened, ledger)
    bad_rows = ledger.close(opened.source, max_bad_share)
    if table is None:
        raise DataError(f"no usable item is left of {opened.source.name}: {bad_rows}")
    return Catalog(table, bad_rows=bad_rows)


def read_interactions(
    path: str | Path, *, format: str = "auto", columns: Mapping[str, str] | None = None, max_bad_share: float = 0.01
) -> Interactions:
    r"""Read who took what from a file, folder or data set.

    Parameters
    ----------
    path, format, max_bad_share
        As for `read_catalog`; bad are rows that cannot be parsed, lack an id, or hold no number as rating or no time.
    columns : mapping, optional
        Our names (``user_id``, ``item_id``, ``rating`` or ``weight``, ``timestamp``, ``position``) to the file's.

    Returns
    -------
    Interactions
        With ``bad_rows``. Users are sorted, items in order of first appearance. Times are seconds (UTC), whether the
        file has seconds, milliseconds or ISO 8601. A column that is empty throughout counts as missing.

    Raises
    ------
    DataError
        If the file is missing, empty, lacks a column, or too many rows are bad.

    Notes
    -----
    Only the columns that are needed are read, in blocks; ids become integers at once, so memory is about 40 bytes an
    event and 200 bytes a distinct id, whatever the size of the file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "events.csv"
    ...     _ = file.write_text("user_id,item_id,rating\nann,emma,5\nbob,emma,4\n,emma,3\n")
    ...     events = read_interactions(file, max_bad_share=0.5)
    >>> events
    Interactions(2 events, 2 users, 1 items)
    >>> print(events.bad_rows)
    1 of 3 rows is bad (33.33 %): 1 without user_id
      line 4: without user_id: ,emma,3
    """
    opened = open_path(path, format, "interactions", columns)
    ledger = Ledger()
    builder = EventBuilder(ledger, opened.columns)
    for block in opened.source.blocks(list(dict.fromkeys(opened.columns.values()))):
        builder.add(block)
    builder.drop_incomplete()
    return builder.build(ledger.close(opened.source, max_bad_share))
