"""What is answered about people: what to show them, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_tail.errors import DataError, UnknownIdError
from llm_tail.recommenders.hybrid import Explanation, HybridRecommender
from llm_tail.service.asking import shown
from llm_tail.service.people import People, Since, history_of, shown_to
from llm_tail.service.problems import ConflictError
from llm_tail.service.served import NEARBY_IDS, ServedRun

if TYPE_CHECKING:
    from llm_tail.recommenders.base import Recommender

N_READERS = 5
N_REASONS = 5


@dataclass(frozen=True)
class Asked:
    """Who is asked for: the person's items, and whether these come from a known person."""

    history: list[str]
    user: str | None
    since: Since


def asked(run: ServedRun, people: People, user: str | None, history: Sequence[str] | None, model: Recommender) -> Asked:
    """Return the history of a person, by name or as given.

    Raises
    ------
    DataError
        If both or none are given.
    UnknownIdError
        If nobody has that name, or there is no such item.
    """
    if (user is None) == (history is None):
        raise DataError("give a user or a history, one of them")
    if history is not None:
        for item_id in history:
            run.check(item_id)
        return Asked([x for x in history if x in model.items], None, Since())
    assert user is not None  # noqa: S101
    if user not in people and user not in model.users:
        raise UnknownIdError("user", user, _beside(model, user))
    since = people.since(user)
    return Asked(history_of(model, user, since, model.items), user, since)


def recommend(
    run: ServedRun,
    people: People,
    *,
    user: str | None = None,
    history: Sequence[str] | None = None,
    k: int = 20,
    model: str = "hybrid",
    candidates: Sequence[str] | None = None,
    where: Sequence[str] = (),
) -> dict[str, Any]:
    """Return items for a person, as `RecommendAnswer` has them.

    Parameters
    ----------
    run : ServedRun
        What is served.
    people : People
        What they told since the run.
    user : str, optional
        A known person; what was told since the run counts.
    history : sequence of str, optional
        Items of one person, the latest last; give this or `user`.
    k : int
        How many at most.
    model : str
        Which model ranks.
    candidates : sequence of str, optional
        The only items that may be shown.
    where : sequence of str
        Conditions on columns; all must hold.
    """
    recommender = run.model(model)
    person = asked(run, people, user, history, recommender)
    allowed = np.ones(len(recommender.items), dtype=bool)
    if person.user is not None:
        allowed = shown_to(recommender, person.user, person.since)
    if candidates is not None:
        for item_id in candidates:
            run.check(item_id)
        allowed &= _mask(recommender, candidates)
    if where:
        allowed &= _passing(run, recommender, where)
    found = recommender.recommend(history=person.history, k=k, candidates=allowed)
    pairs = found[0]
    why = _because(run, recommender, person.history, [item_id for item_id, _ in pairs])
    return {
        "user": user,
        "model": model,
        "from_popularity": bool(found.from_popularity[0]),
        "items": shown(run, pairs, why),
    }


def explain(
    run: ServedRun, people: People, item_id: str, user: str | None, history: Sequence[str] | None
) -> dict[str, Any]:
    """Return why an item would be recommended, as `ExplainAnswer` has it."""
    run.check(item_id)
    hybrid = run.model("hybrid")
    if not isinstance(hybrid, HybridRecommender):
        raise ConflictError("this run has no hybrid to explain")
    if item_id not in hybrid.items:
        raise ConflictError(f"{item_id!r} came a moment ago and is not scored yet; ask again")
    readers = hybrid.audience(item_id, k=N_READERS)
    name = user
    if user is None and history is None:
        name = readers[0][0] if readers else None
        told = hybrid.explain(item_id, history=[] if name is None else asked(run, people, name, None, hybrid).history)
    else:
        told = hybrid.explain(item_id, history=asked(run, people, user, history, hybrid).history, n=N_REASONS)
    return _explained(run, told, name, readers)


def _explained(
    run: ServedRun, told: Explanation, user: str | None, readers: Sequence[tuple[str, float]]
) -> dict[str, Any]:
    total = abs(told.own) + abs(told.borrowed) + abs(told.text)

    def share(part: float) -> float:
        return min(1.0, abs(part) / total) if total else 0.0

    return {
        "item_id": told.item,
        "title": run.card(told.item).title,
        "user": user,
        "score": told.score,
        "own_share": share(told.own),
        "borrowed_share": share(told.borrowed),
        "text_share": share(told.text),
        "lenders": [
            {"item_id": x, "title": run.card(x).title, "share": min(max(weight, 0.0), 1.0)}
            for x, weight in told.neighbors
        ],
        "because": [{"item_id": x, "title": run.card(x).title, "score": score} for x, score in told.because],
        "readers": [{"user": name, "score": score} for name, score in readers],
    }


def _because(run: ServedRun, model: Recommender, history: Sequence[str], ids: Sequence[str]) -> dict[str, str]:
    """Return for each item which of the person's own spoke most for it; empty for models that do not know."""
    if not isinstance(model, HybridRecommender) or not history or not ids:
        return {}
    row = model._history(history)
    owned = row.indices.astype(np.int64)
    said = model._said(owned, model.items.rows(list(ids))) * row.data[:, None]  # (n_owned, n_items)
    best = said.argmax(axis=0)
    return {
        item_id: f"goes with {run.card(model.items[int(owned[n])]).title}"
        for item_id, n, most in zip(ids, best.tolist(), said.max(axis=0).tolist(), strict=True)
        if most > 0
    }


def _mask(model: Recommender, ids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    mask = np.zeros(len(model.items), dtype=bool)
    rows = model.items.rows(list(ids)) if len(ids) else np.zeros(0, dtype=np.int64)
    mask[rows[rows >= 0]] = True
    return mask


def _passing(run: ServedRun, model: Recommender, where: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    shelf, n = run.stock.shelf, len(run.ids)
    mask = _mask(model, list(run.filtering.among(shelf, where)))
    mask[:n] |= run.filtering.mask(where) & ~_mask(model, list(shelf.changed))[:n]  # the items of the run come first
    return mask


def _beside(model: Recommender, user: str) -> list[str]:
    """Return some known people to compare a name with; all of millions would take too long."""
    names = model.users.values
    return [str(name) for name in names[:: max(1, len(names) // (100 * NEARBY_IDS))]]
