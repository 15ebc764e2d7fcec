"""Why the hybrid recommends an item to a person, and to whom an item fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_tail.errors import DataError

if TYPE_CHECKING:
    from llm_tail.recommenders.hybrid import HybridRecommender


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
    own, borrowed, text = ((part[:, row] * weight).astype(np.float64) for part in model._rows(owned))
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
