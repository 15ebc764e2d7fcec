"""Pairs of several kinds put together: item texts are shared, all else stands side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from llm_tail.data.ids import Rows
from llm_tail.errors import DataError

if TYPE_CHECKING:
    from llm_tail.embedding.pairs import TextPairs


def put_together(parts: Sequence[TextPairs]) -> dict[str, Any]:
    """Return what `TextPairs` is made from, for the pairs of all parts; see `TextPairs.mixed`."""
    n_items = parts[0].n_items
    if any(part.n_items != n_items for part in parts):
        found = ", ".join(str(part.n_items) for part in parts)
        raise DataError(f"pairs of {found} items cannot be put together; make all of them from the same catalogue")
    known = next((part for part in parts if "train" in part.provenance), parts[0])
    shifts = np.cumsum([0, *(len(part.texts) - n_items for part in parts)])  # of what stands behind the items
    sides = [
        np.concatenate([shifted(side, n_items, by) for side, by in zip(each, shifts[:-1], strict=True)])
        for each in ([part.anchors for part in parts], [part.positives for part in parts])
    ]
    provenance: dict[str, Any] = {}
    kinds: Counter[str] = Counter()
    for part in reversed(parts):
        provenance |= part.provenance
        kinds.update(part.provenance.get("kinds", {}))
    behind = [part.log_popularity[n_items:] for part in parts]
    return {
        "anchors": sides[0],
        "positives": sides[1],
        "texts": [*parts[0].texts[:n_items], *(text for part in parts for text in part.texts[n_items:])],
        "log_popularity": np.concatenate([known.log_popularity[:n_items], *behind]),
        "provenance": provenance | {"kinds": dict(kinds), "n_pairs": len(sides[0])},
        "kinds": np.concatenate([part.kinds for part in parts]),
        "readers": side_by_side([part.readers for part in parts], n_items, shifts),
        "strengths": np.concatenate([part.strengths for part in parts]),
        "voices": np.concatenate([part.heard_by() for part in parts]),
        "n_items": n_items,
        "teacher": _teacher(parts, n_items, n_items + int(shifts[-1])),
    }


def _teacher(parts: Sequence[TextPairs], n_items: int, n_texts: int) -> sp.csr_matrix | None:
    found = next((part.teacher for part in parts if part.teacher is not None), None)
    if found is None:
        return None
    own = found[:n_items, :n_items].tocoo()  # nobody teaches about what is no item
    return sp.csr_matrix((own.data, (own.row, own.col)), shape=(n_texts, n_texts))


def shifted(rows: Rows, n_items: int, by: int) -> Rows:
    """Return rows of items as they are, and those behind them moved on."""
    return np.where(rows < n_items, rows, rows + by).astype(np.int64)


def side_by_side(readers: Sequence[sp.csr_matrix], n_items: int, shifts: Rows) -> sp.csr_matrix:
    """Return one matrix of all columns: item rows are shared, what stands behind them is moved on by `shifts`."""
    parts = [matrix.tocoo() for matrix in readers]
    rows = [shifted(part.row.astype(np.int64), n_items, by) for part, by in zip(parts, shifts[:-1], strict=True)]
    offsets = np.cumsum([0, *(part.shape[1] for part in parts)])
    columns = [part.col.astype(np.int64) + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
    values = np.concatenate([part.data for part in parts])
    shape = (n_items + int(shifts[-1]), int(offsets[-1]))
    return sp.csr_matrix((values, (np.concatenate(rows), np.concatenate(columns))), shape=shape)
