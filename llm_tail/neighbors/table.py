"""ItemTable: ids and vectors by row, without holes, that can grow and shrink."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.ids import IdMap, Rows
from llm_tail.errors import UnknownIdError
from llm_tail.neighbors.exact import Stored, Vectors

GROWTH = 1.25  # room for this many times the items, where more come


class ItemTable:
    """The items of an index: row 0 is the first, and every row up to the last holds one.

    The last item moves into the row of one that is removed, so that a change costs as much as it is large, however
    many items there are. What was given is never written to: the first change copies it.

    Parameters
    ----------
    ids : IdMap
        The items.
    vectors : array of float32 or float16, shape (n_items, dim)
        Of length 1, or 0 where an item has no vector.

    Examples
    --------
    >>> table = ItemTable(IdMap(["a", "b", "c"]), np.eye(3, dtype=np.float32))
    >>> table.remove(np.array([0]))
    (array([2]), array([0]))
    >>> list(table.ids), table.row("c")
    (['c', 'b'], 0)
    """

    def __init__(self, ids: IdMap, vectors: Stored) -> None:
        self._ids: IdMap | None = ids
        self._names: NDArray[np.object_] = ids.values
        self._vectors = vectors
        self._live: NDArray[np.bool_] = np.asarray(vectors.any(axis=1))
        self._n, self._owned = len(ids), False
        self._row_of: dict[str, int] | None = None
        self.n_live = int(self._live.sum())
        self.version = 0  # another number after every change

    @property
    def ids(self) -> IdMap:
        """The items by row; made anew after a change, O(n_items)."""
        if self._ids is None:
            self._ids = IdMap(self._names[: self._n].copy(), "item")
        return self._ids

    @property
    def vectors(self) -> Stored:
        """The vectors as they are stored, shape (n_items, dim); written to when items change."""
        return self._vectors[: self._n]

    @property
    def live(self) -> NDArray[np.bool_]:
        """Which items have a vector, shape (n_items,)."""
        return self._live[: self._n]

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return int(self._vectors.shape[1])

    def floats(self, rows: Rows | slice) -> Vectors:
        """Return the vectors of some rows as float32."""
        return self._vectors[: self._n][rows].astype(np.float32, copy=False)

    def names(self, rows: Rows) -> list[str]:
        """Return the ids of some rows."""
        found: list[str] = self._names[rows].tolist()
        return found

    def row(self, item_id: str) -> int:
        """Return the row of an item; an unknown one raises `UnknownIdError`."""
        known = self._register()  # a hundred times faster for one id than the tables that are made for many
        row = known.get(str(item_id))
        if row is None:
            raise UnknownIdError("item", str(item_id), known)
        return row

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """Return the rows of many items, -1 for each unknown one."""
        if self._row_of is None:
            return self.ids.rows(item_ids)
        return np.fromiter((self._row_of.get(str(x), -1) for x in item_ids), np.int64, count=len(item_ids))

    def make_room(self, n_more: int) -> None:
        """Copy what will change, with room for more items; nothing that a reader sees is touched."""
        wanted = self._n + n_more
        self._register()
        if self._owned and wanted <= len(self._names):
            return
        size = max(wanted, int(GROWTH * self._n)) if n_more else max(self._n, 1)
        names, live = np.empty(size, dtype=object), np.zeros(size, dtype=bool)
        vectors = np.empty((size, self.dim), dtype=self._vectors.dtype)
        here = slice(0, self._n)
        names[here], live[here], vectors[here] = self._names[here], self._live[here], self._vectors[here]
        self._names, self._live, self._vectors, self._owned = names, live, vectors, True

    def append(self, item_ids: Sequence[str], vectors: Vectors) -> Rows:
        """Add new items behind the last and return their rows."""
        self.make_room(len(item_ids))
        rows = np.arange(self._n, self._n + len(item_ids))
        self._names[rows] = item_ids
        self._register().update(zip(item_ids, rows.tolist(), strict=True))
        self._n += len(rows)
        self._put(rows, vectors)
        self._ids = None
        return rows

    def replace(self, rows: Rows, vectors: Vectors) -> None:
        """Give items other vectors."""
        self.make_room(0)
        self.n_live -= int(self._live[rows].sum())
        self._put(rows, vectors)

    def remove(self, rows: Rows) -> tuple[Rows, Rows]:
        """Take items out; return the rows that moved, as they were and as they are now."""
        self.make_room(0)
        n_left = self._n - len(rows)
        gone = np.zeros(self._n, dtype=bool)
        gone[rows] = True
        self.n_live -= int(self._live[: self._n][gone].sum())
        moved = n_left + np.flatnonzero(~gone[n_left:])  # the last that stay ...
        holes = np.flatnonzero(gone[:n_left])  # ... fill the holes
        for name in self._names[rows]:
            del self._register()[name]
        self._names[holes], self._live[holes] = self._names[moved], self._live[moved]
        self._vectors[holes] = self._vectors[moved]
        self._register().update(zip(self._names[holes], holes.tolist(), strict=True))
        self._names[n_left : self._n] = None
        self._n, self._ids = n_left, None
        self.version += 1
        return moved, holes

    def shrink(self) -> None:
        """Give back the room that is no longer needed."""
        if self._owned and len(self._names) > self._n:
            self._owned = False
            self.make_room(0)

    def _register(self) -> dict[str, int]:
        if self._row_of is None:
            self._row_of = dict(zip(self._names[: self._n].tolist(), range(self._n), strict=True))
        return self._row_of

    def _put(self, rows: Rows, vectors: Vectors) -> None:
        self._vectors[rows] = vectors
        self._live[rows] = vectors.any(axis=1)
        self.n_live += int(self._live[rows].sum())
        self.version += 1

    def __len__(self) -> int:
        return self._n
