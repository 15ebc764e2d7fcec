"""Why the hybrid recommends an item to a person, and to whom an item fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llm_tail.data.ids import IdMap
from llm_tail.errors import DataError
from llm_tail.html import html_table

if TYPE_CHECKING:
    from llm_tail.recommenders.hybrid import HybridRecommender

BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Explanation:
    """Why an item was recommended to a person.

    Attributes
    ----------
    item, user : str
        `user` is empty where a history was given.
    score : float
        The score; `own` + `borrowed` + `text`.
    own, borrowed, text : float
        What the item's own ID, its semantic neighbours and the words said.
    because : list of (item_id, float)
        The owned items that spoke for or against it and how much of the score each brought, most first.
    neighbors : list of (item_id, float)
        The neighbours it borrowed from and their attention weights, which sum to at most 1, most first.
    """

    item: str
    user: str
    score: float
    own: float
    borrowed: float
    text: float
    because: list[tuple[str, float]]
    neighbors: list[tuple[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-like values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        rows = [["score", "", self.score], ["own", "", self.own], ["borrowed", "", self.borrowed]]
        rows += [["text", "", self.text], *(["because of", item, value] for item, value in self.because)]
        rows += [["signal borrowed from", item, value] for item, value in self.neighbors]
        return html_table(["", "item", "value"], rows, title=f"{self.item} for {self.user or 'this history'}")


@dataclass(frozen=True, repr=False, eq=False)
class SignalShares:
    """Of each item's mean score over all known people: how much is its own, borrowed, and text.

    Attributes
    ----------
    items : IdMap
        The items.
    own, borrowed, text : array of float64, shape (n_items,)
        Shares in [0, 1] that sum to 1; all 0 for an item that nobody's history speaks of.
    counts : array of int64, shape (n_items,)
        People who took the item in training.
    """

    items: IdMap
    own: NDArray[np.float64]
    borrowed: NDArray[np.float64]
    text: NDArray[np.float64]
    counts: NDArray[np.int64]

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each item: item_id, people, own, borrowed, text."""
        columns = {"item_id": self.items.values, "people": self.counts}
        return pd.DataFrame(columns | {"own": self.own, "borrowed": self.borrowed, "text": self.text})

    def __repr__(self) -> str:
        spoken = self.own + self.borrowed + self.text > 0
        means = (float(part[spoken].mean()) if spoken.any() else 0.0 for part in (self.own, self.borrowed, self.text))
        shown = ", ".join(f"{name} {m:.0%}" for name, m in zip(("own", "borrowed", "text"), means, strict=True))
        return f"SignalShares({len(self.items):,} items: {shown})"

    def _repr_html_(self) -> str:
        rows = self.to_frame().sort_values("people", ascending=False).itertuples(index=False, name=None)
        return html_table(["item", "people", "own", "borrowed", "text"], rows, title=repr(self))


def signal_shares(model: HybridRecommender) -> SignalShares:
    """Do what `HybridRecommender.signal_shares` says."""
    model._check_fitted()
    spoken = np.asarray(model.histories.sum(axis=0)).ravel()  # (n_items,): how much all people together have of each
    owned = np.flatnonzero(spoken)
    sums = np.zeros((3, len(model.items)))
    block = max(1, BLOCK_BYTES // (4 * len(model.items)))
    for start in range(0, len(owned), block):
        rows = owned[start : start + block]
        for total, part in zip(sums, model._rows(rows), strict=True):
            total += spoken[rows] @ part
    amounts = np.abs(sums)
    whole = amounts.sum(axis=0)
    own, borrowed, text = np.divide(amounts, whole, out=np.zeros_like(amounts), where=whole > 0)
    return SignalShares(model.items, own, borrowed, text, model._counts)


def explain(
    model: HybridRecommender, item: str, *, user: str | None, history: Sequence[str] | None, n: int
) -> Explanation:
    """Do what `HybridRecommender.explain` says."""
    model._check_fitted()
    if (user is None) == (history is None):
        raise DataError("give a user or a history, one of them")
    row = model.items.row(item)
    person = model.histories[model.users.row(user)] if user is not None else model._history(history or [])
    owned, weight = person.indices.astype(np.int64), person.data
    own, borrowed, text = ((part[:, 0] * weight).astype(np.float64) for part in model._rows(owned, np.array([row])))
    brought = own + borrowed + text
    best = [i for i in np.argsort(-brought, kind="stable")[:n] if brought[i] != 0]
    lenders = model._borrowing[row]
    order = np.argsort(-lenders.data, kind="stable")[:n]
    warm = model._collaborative.warm
    return Explanation(
        item,
        user or "",
        float(brought.sum()),
        float(own.sum()),
        float(borrowed.sum()),
        float(text.sum()),
        [(model.items[owned[i]], float(brought[i])) for i in best],
        [(model.items[warm[lenders.indices[i]]], float(lenders.data[i])) for i in order],
    )


def audience(model: HybridRecommender, item: str, k: int) -> list[tuple[str, float]]:
    """Do what `HybridRecommender.audience` says."""
    model._check_fitted()
    row = model.items.row(item)
    scores = np.asarray(model.histories @ model._column(row), dtype=np.float32)
    scores[model._seen[:, row].nonzero()[0]] = -np.inf
    scores[np.diff(model.histories.indptr) == 0] = -np.inf
    best = np.argsort(-scores, kind="stable")[:k]
    return [(model.users[u], float(scores[u])) for u in best if np.isfinite(scores[u])]
