"""Enrichment: the generated fields, each with where it comes from and how sure it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llm_tail.artifacts import replacing
from llm_tail.config.enriching import TASKS, Task
from llm_tail.data.catalog import Catalog
from llm_tail.enrichment.schema import Basis, field_of
from llm_tail.errors import DataError

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),  # the person's id in profiles
        ("field", pa.string()),
        ("value", pa.string()),
        ("name", pa.string()),
        ("target", pa.string()),
        ("confidence", pa.float32()),
        ("basis", pa.string()),
        ("provenance", pa.string()),
    ]
)
ITEM_TASKS: tuple[Task, ...] = tuple(task for task in TASKS if task != "profile")
SINGLE = ("summary",)  # one text an item; all other fields are lists
_TASK_OF = {field_of(task): task for task in TASKS}


@dataclass(frozen=True)
class Provenance:
    """What an answer saw, and who gave it.

    Parameters
    ----------
    columns : tuple of str
        Columns of the item that were shown.
    items : tuple of str
        Other items that were shown: candidates, a history, near items.
    events : tuple of str
        Digests of the interactions that were shown: of training, or none.
    borrowed : tuple of str
        Items whose words went into the answer.
    backend, model, prompt : str
        Who answered, and the name and version of the prompt.
    key : str
        Of the answer in the cache.
    reviewed : str
        ``accepted`` or ``edited`` where a person has decided.

    Examples
    --------
    >>> Provenance(columns=("title",), backend="extractive").to_json()
    '{"columns": ["title"], "backend": "extractive"}'
    """

    columns: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    borrowed: tuple[str, ...] = ()
    backend: str = ""
    model: str = ""
    prompt: str = ""
    key: str = ""
    reviewed: str = ""

    def to_json(self) -> str:
        """Return it as one line of JSON; what is empty is left out."""
        return json.dumps({k: v for k, v in asdict(self).items() if v}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        return cls(**values)


@dataclass(frozen=True)
class Generated:
    """One generated part of one field of one item.

    Parameters
    ----------
    item_id : str
        The item; for profiles the person.
    task : Task
        What was asked.
    value : str
        The words, fit to stand in an item's text.
    name : str
        An attribute's name, a relation's kind, ``like`` for what a profile lists; else empty.
    target : str
        The other item's id of a relation; else empty.
    confidence : float
        In [0, 1].
    basis : {"text", "guess", "borrowed"}
        Stated in the item's own text, guessed, or taken from near items.
    provenance : Provenance
        What the answer saw.
    """

    item_id: str
    task: Task
    value: str
    name: str = ""
    target: str = ""
    confidence: float = 1.0
    basis: Basis = "guess"
    provenance: Provenance = field(default_factory=Provenance)


class Enrichment:
    """All generated fields, one row each: an Arrow table, so that a million items fit.

    Parameters
    ----------
    table : pyarrow.Table
        Columns ``item_id``, ``field``, ``value``, ``name``, ``target``, ``confidence``, ``basis`` and ``provenance``
        (JSON), as `Generated` tells them.

    Raises
    ------
    DataError
        If a column is missing.

    Examples
    --------
    >>> part = Generated("emma", "attributes", "comic", name="mood", confidence=0.9, basis="text")
    >>> enrichment = Enrichment.from_parts([part])
    >>> enrichment
    Enrichment(1 item, attributes: 1)
    >>> catalog = Catalog.from_items([{"item_id": "emma", "title": "Emma"}, {"item_id": "dracula"}])
    >>> enrichment.join(catalog).column("generated_attributes")
    [['comic'], []]
    """

    def __init__(self, table: pa.Table) -> None:
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise DataError(f"these are no generated fields: no column {', '.join(missing)}; run: llm-tail enrich")
        self.table = table.select(SCHEMA.names).cast(SCHEMA)

    @classmethod
    def from_parts(cls, parts: Iterable[Generated]) -> Enrichment:
        """Make it of single parts, in their order."""
        columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        for part in parts:
            values = (part.item_id, field_of(part.task), part.value, part.name, part.target)
            for name, value in zip(SCHEMA.names, (*values, part.confidence, part.basis, None), strict=True):
                columns[name].append(part.provenance.to_json() if name == "provenance" else value)
        return cls(pa.table(columns, schema=SCHEMA))

    def __iter__(self) -> Iterator[Generated]:
        for batch in self.table.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                task, provenance = _TASK_OF[row.pop("field")], Provenance.from_json(row.pop("provenance"))
                yield Generated(task=task, provenance=provenance, **row)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def of(self, item_id: str, task: Task | None = None) -> list[Generated]:
        """Return the parts of one item (or person), of one task where it is given; one pass over the table."""
        wanted = pc.equal(self.table["item_id"], item_id)
        if task is not None:
            wanted = pc.and_(wanted, pc.equal(self.table["field"], field_of(task)))
        return list(Enrichment(self.table.filter(wanted)))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that have answers, in the order of `TASKS`."""
        there = set(self.table["field"].unique().to_pylist())
        return tuple(task for task in TASKS if field_of(task) in there)

    def join(self, catalog: Catalog, *, tasks: Sequence[str] | None = None, min_confidence: float = 0.0) -> Catalog:
        """Return the catalogue with a column ``generated_<task>`` for each task of items.

        A summary is one text, empty where an item has none; all others are lists of texts. Answers for items that the
        catalogue does not hold are left out.

        Parameters
        ----------
        catalog : Catalog
            The items.
        tasks : sequence of Task, optional
            Which; a task without an answer gives an empty column. Those that have answers if left out.
        min_confidence : float
            Parts that are less sure are left out, in [0, 1].
        """
        table, sure = catalog.table, self.table.filter(pc.greater_equal(self.table["confidence"], min_confidence))
        for task in (task for task in ITEM_TASKS if task in (self.tasks if tasks is None else tasks)):
            name = field_of(task)
            column = _column(sure.filter(pc.equal(sure["field"], name)), catalog, single=task in SINGLE)
            table = table.drop_columns([name]) if name in table.column_names else table
            table = table.append_column(name, column)
        return Catalog(table, name=catalog.name, bad_rows=catalog.bad_rows)

    def relations(self) -> pd.DataFrame:
        """Return the ties between items: ``item_id``, ``target``, ``kind``, ``confidence`` and ``reason``."""
        ties = self.table.filter(pc.equal(self.table["field"], field_of("relations")))
        frame: pd.DataFrame = ties.select(["item_id", "target", "name", "confidence", "value"]).to_pandas()
        return frame.rename(columns={"name": "kind", "value": "reason"})

    def save(self, path: str | Path) -> Path:
        """Write one parquet file and return its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as whole:
            pq.write_table(self.table, whole, compression="zstd")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Enrichment:
        """Read what `save` wrote."""
        return cls(pq.read_table(path))

    def __repr__(self) -> str:
        n_items = len(self.table["item_id"].unique())
        counts = {row["values"]: row["counts"] for row in self.table["field"].value_counts().to_pylist()}
        told = [f"{task}: {counts[field_of(task)]:,}" for task in self.tasks]
        return f"Enrichment({', '.join([f'{n_items:,} item' + 's' * (n_items != 1), *told])})"


def _column(rows: pa.Table, catalog: Catalog, *, single: bool) -> pa.Array:
    """Return the values of one field by item row; those of an item keep their order."""
    at = catalog.ids.rows(rows["item_id"].to_pylist())
    order = np.argsort(at, kind="stable")
    order = order[at[order] >= 0]
    at = at[order]
    values = rows["value"].combine_chunks().take(pa.array(order))
    if single:
        texts = np.full(len(catalog), "", dtype=object)
        texts[at] = np.asarray(values.to_pylist(), dtype=object)
        return pa.array(texts, pa.string())
    starts = np.searchsorted(at, np.arange(len(catalog) + 1))
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), values)
