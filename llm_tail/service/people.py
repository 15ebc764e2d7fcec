"""People: what each has done, by the run and by the feedback since."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from llm_tail.service.journal import StoredEvent

if TYPE_CHECKING:
    from llm_tail.recommenders.base import Recommender

LENGTHENS = frozenset({"taken", "liked", "clicked"})
HIDES = "dismissed"


@dataclass(frozen=True)
class Since:
    """What one person told since the run: items taken in order, and items not wanted."""

    taken: tuple[str, ...] = ()
    hidden: frozenset[str] = field(default_factory=frozenset)
    n_events: int = 0

    def after(self, event: StoredEvent) -> Since:
        """Return the same after one more event."""
        taken, hidden = self.taken, self.hidden
        if event.event in LENGTHENS:
            taken = (*(x for x in taken if x != event.item_id), event.item_id)
            hidden = hidden - {event.item_id}
        elif event.event == HIDES:
            taken = tuple(x for x in taken if x != event.item_id)
            hidden = hidden | {event.item_id}
        return Since(taken, hidden, self.n_events + 1)


class People:
    """Feedback by person; as much of it as matters for what to show.

    Examples
    --------
    >>> people = People()
    >>> people.note(StoredEvent(1, "ann", "emma", "taken", 0.0))
    1
    >>> people.since("ann").taken, people.since("bob").taken
    (('emma',), ())
    """

    def __init__(self) -> None:
        self._since: dict[str, Since] = {}
        self.n_events = 0

    def note(self, event: StoredEvent) -> int:
        """Take in one event and return how many this person has told; calls must not overlap."""
        since = self._since.get(event.user, Since()).after(event)
        self._since[event.user] = since
        self.n_events += 1
        return since.n_events

    def since(self, user: str) -> Since:
        """Return what a person told since the run."""
        return self._since.get(user, Since())

    def __contains__(self, user: object) -> bool:
        return user in self._since


def taken_by(model: Recommender, user: str) -> list[str]:
    """Return what a known person took by the run, the latest last where the model knows; nothing for strangers."""
    row = int(model.users.rows([user])[0])
    if row < 0:
        return []
    part = slice(model.histories.indptr[row], model.histories.indptr[row + 1])
    items = model.histories.indices[part]
    aged = getattr(model, "_ages", None)
    if aged is not None:
        items = aged.indices[aged.indptr[row] : aged.indptr[row + 1]]
        items = items[np.argsort(-aged.data[aged.indptr[row] : aged.indptr[row + 1]], kind="stable")]
    return [model.items[int(item)] for item in items]


def history_of(model: Recommender, user: str, since: Since, known: Container[str]) -> list[str]:
    """Return what a person took by the run and by feedback, the latest last, without what was dismissed."""
    before = [x for x in taken_by(model, user) if x not in since.hidden and x not in since.taken]
    return [*before, *(x for x in since.taken if x in known)]


def shown_to(model: Recommender, user: str, since: Since) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which items may be shown to a person, shape (n_items,): none that they have or have dismissed."""
    allowed = np.ones(len(model.items), dtype=bool)
    row = int(model.users.rows([user])[0])
    if row >= 0:
        allowed[model._seen.indices[model._seen.indptr[row] : model._seen.indptr[row + 1]]] = False
    told = [*since.taken, *since.hidden]
    if told:
        rows = model.items.rows(told)
        allowed[rows[rows >= 0]] = False
    return allowed
