"""IdMap: the ids of the outside world (str) and the rows that arrays are indexed by (int64)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llm_tail.artifacts import fingerprint
from llm_tail.errors import DataError, UnknownIdError

Rows = NDArray[np.int64]


class IdMap:
    """An ordered set of ids: row 0 is the first id, and so on.

    Parameters
    ----------
    ids : iterable of str
        Distinct ids; other types are turned into str.
    kind : str
        What they name, for error messages: ``"item"`` or ``"user"``.

    Raises
    ------
    DataError
        If an id stands twice or is missing.

    Notes
    -----
    A lookup costs O(1), a batch of them one vectorised pass (pandas' hash table, built on the first lookup; about 100
    bytes an id).

    Examples
    --------
    >>> ids = IdMap(["emma", "dracula"])
    >>> ids.row("dracula"), ids[0], ids.rows(["emma", "ulysses"]).tolist()
    (1, 'emma', [0, -1])
    """

    def __init__(self, ids: Iterable[Any], kind: str = "item") -> None:
        values = ids if isinstance(ids, (list, tuple, np.ndarray, pd.Series, pd.Index)) else list(ids)
        array = np.asarray(values, dtype=object)
        if pd.isna(array).any():
            raise DataError(f"{int(pd.isna(array).sum())} {kind} ids are missing; every {kind} needs one")
        self.kind = kind
        self._index = pd.Index([x if isinstance(x, str) else str(x) for x in array], dtype=object)
        if not self._index.is_unique:
            twice = self._index[self._index.duplicated()].unique()[:3].tolist()
            raise DataError(f"{kind} ids must be distinct; these stand more than once: {', '.join(twice)}")

    @property
    def values(self) -> NDArray[np.object_]:
        """All ids by row, shape (n,), dtype object."""
        return self._index.to_numpy()

    def row(self, outside_id: str) -> int:
        """Return the row of one id; an unknown one raises `UnknownIdError` with the three closest."""
        try:
            return cast(int, self._index.get_loc(str(outside_id)))  # the ids are distinct: no slice, no mask
        except KeyError:
            raise UnknownIdError(self.kind, str(outside_id), self._index) from None

    def rows(self, outside_ids: Sequence[Any] | NDArray[Any] | pd.Series) -> Rows:
        """Return the rows of many ids, shape (n,), with -1 for each unknown one."""
        asked = pd.Index(outside_ids, dtype=object)
        if asked.inferred_type not in ("string", "empty"):  # 7 finds "7", a missing value finds nothing
            asked = pd.Index([x if isinstance(x, str) or pd.isna(x) else str(x) for x in asked], dtype=object)
        return self._index.get_indexer(asked).astype(np.int64)

    def fingerprint(self) -> str:
        """Return a digest of the ids and their order."""
        return fingerprint(self.values)

    def __getitem__(self, row: int) -> str:
        return str(self._index[row])

    def __contains__(self, outside_id: object) -> bool:
        return outside_id in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdMap) and (self is other or self._index.equals(other._index))

    __hash__ = None  # type: ignore[assignment]  # compared by content, never used as a key

    def __repr__(self) -> str:
        return f"IdMap({len(self):,} {self.kind}s)"
