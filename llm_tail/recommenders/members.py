"""Ensemble: a recommender made of others, which it fits, asks, and keeps with it on disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError, DataError
from llm_tail.recommenders.base import Recommender
from llm_tail.recommenders.tuning import ValidationTask

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph

Floats = NDArray[np.float32]
TASK_USERS, TASK_BYTES = 2000, 128 << 20  # people asked to choose weights, and one matrix of their scores


class Ensemble(Recommender):
    """What ensembles share: members that are fitted with it, and a score that is a sum of their parts.

    A subclass writes `_parts`, and `_weigh` where it learns how much each part counts.

    Parameters
    ----------
    members : sequence of Recommender
        At least one. A member that was fitted on the same events and people is taken as it is, others are fitted.
        `load` gives what `save` wrote of them instead.

    Attributes
    ----------
    members : list of Recommender
    labels : list of str
        Their names; numbered where two are the same.
    """

    def __init__(self, members: Sequence[Recommender | Mapping[str, Any]]) -> None:
        self.members = [unpacked(m) if isinstance(m, Mapping) else m for m in members]
        if not self.members:
            raise ConfigError(f"{self.name} has no members, expected at least one recommender")
        for member in self.members:
            if not isinstance(member, Recommender):
                raise ConfigError(f"a member of {self.name} is {member!r}, expected a recommender, such as Ease()")
        self.labels = _labels(member.name for member in self.members)

    @abstractmethod
    def _parts(self, histories: sp.csr_matrix) -> dict[str, Floats]:
        """Return what each member brings to the scores, each of shape (n_histories, n_items); the score is the sum."""

    def _weigh(self, task: ValidationTask | None) -> None:
        """Learn how much each part counts, with the members fitted; None where there is no validation."""

    @property
    def serves_cold(self) -> bool:  # type: ignore[override]  # it hangs on the members
        """True where one of the members does."""
        return any(member.serves_cold for member in self.members)

    @property
    def needs_embeddings(self) -> bool:  # type: ignore[override]
        """True where one of the members does."""
        return any(member.needs_embeddings for member in self.members)

    def parts(self, item: str, *, user: str | None = None, history: Sequence[str] | None = None) -> dict[str, float]:
        """Return what each member brings to the score of `item`; the sum is the score.

        Parameters
        ----------
        item : str
            Any item of the catalogue.
        user : str, optional
            A known person.
        history : sequence of str, optional
            Items of one person; give this or `user`.

        Raises
        ------
        UnknownIdError, NotFittedError, DataError
        """
        self._check_fitted()
        if (user is None) == (history is None):
            raise DataError("give a user or a history, one of them")
        row = self.items.row(item)
        person = self.histories[self.users.row(user)] if user is not None else self._history(history or [])
        return {name: float(part[0, row]) for name, part in self._parts(person).items()}

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        for member in self.members:
            if not self._is_ready(member):
                member.fit(train, embeddings, graph, validation=validation)
        task = None
        if validation is not None and len(validation):
            n_users = max(32, min(TASK_USERS, TASK_BYTES // (4 * len(self.items))))
            task = ValidationTask.build(self.histories, validation.matrix(), max_users=n_users)
        self._weigh(task)

    def _is_ready(self, member: Recommender) -> bool:
        if not member.is_fitted or member.items != self.items or member.users != self.users:
            return False
        mine, theirs = self.histories, member.histories
        return np.array_equal(mine.indptr, theirs.indptr) and np.array_equal(mine.indices, theirs.indices)

    def _score(self, histories: sp.csr_matrix) -> Floats:
        total = np.zeros(histories.shape, dtype=np.float32)
        for part in self._parts(histories).values():
            total += part
        return total

    def _state(self) -> dict[str, NDArray[Any]]:
        states = (member._state() for member in self.members)
        return {f"{n}.{name}": array for n, state in enumerate(states) for name, array in state.items()}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        for n, member in enumerate(self.members):
            member.items, member.users = self.items, self.users
            member.histories, member._seen = self.histories, self._seen
            own = f"{n}."
            member._restore({name.removeprefix(own): array for name, array in state.items() if name.startswith(own)})

    def _settings(self) -> dict[str, Any]:
        return {"members": [packed(member) for member in self.members]}

    def __repr__(self) -> str:
        fitted = f", {len(self.users):,} people, {len(self.items):,} items" if self.is_fitted else ", not fitted"
        return f"{type(self).__name__}({self._said()}{fitted})"

    def _said(self) -> str:
        return " + ".join(self.labels)


def packed(member: Recommender) -> dict[str, Any]:
    """Return JSON-like facts from which `unpacked` makes the same recommender, but for what it learned."""
    home = type(member)
    return {
        "class": f"{home.__module__}:{home.__qualname__}",
        "name": member.name,
        "settings": member._settings(),
        "training": dict(member.training),
    }


def unpacked(facts: Mapping[str, Any]) -> Recommender:
    """Return an unfitted recommender of what `packed` said of it.

    Raises
    ------
    ConfigError
        If its class is not there. Only modules of this package are imported for it.
    """
    module = str(facts["class"]).split(":")[0]
    if module.split(".")[0] == "llm_tail":
        with suppress(ModuleNotFoundError):  # then no class of it is found either
            import_module(module)
    everyone = _descendants(Recommender)  # type: ignore[type-abstract]  # it is not made, only asked for its kin
    found = next((c for c in everyone if f"{c.__module__}:{c.__qualname__}" == facts["class"]), None)
    if found is None:
        raise ConfigError(f"there is no recommender {facts['class']}; import the module that defines it first")
    member = found(**facts["settings"])
    member.name, member.training = facts["name"], facts["training"]
    return member


def _descendants(kind: type[Recommender]) -> Iterable[type[Recommender]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def _labels(names: Iterable[str]) -> list[str]:
    """Return names, numbered from the second of its kind.

    Examples
    --------
    >>> _labels(["ease", "als", "ease"])
    ['ease', 'als', 'ease-2']
    """
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return labels


def moments(
    scores: Floats, left_out: sp.csr_matrix, silent: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each line of scores, each of shape (n, 1).

    Parameters
    ----------
    scores : array of float32, shape (n, n_items)
    left_out : csr_matrix, shape (n, n_items)
        Items that do not count: what the person has.
    silent : array of bool, shape (n_items,), optional
        Items that do not count for anybody.

    Returns
    -------
    mean, deviation : array of float64, shape (n, 1)
        The deviation is 0 where all scores are equal, but for rounding.
    """
    counts = np.ones(scores.shape, dtype=bool)
    counts[left_out.nonzero()] = False
    if silent is not None:
        counts[:, silent] = False
    n = np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (n, 1)
    mean = np.sum(scores, axis=1, where=counts, keepdims=True, dtype=np.float64) / n
    squares = np.square(scores - mean.astype(np.float32))
    deviation = np.sqrt(np.sum(squares, axis=1, where=counts, keepdims=True, dtype=np.float64) / n)
    return mean, np.where(deviation > 1e-6 * np.abs(mean), deviation, 0.0)


def standardised(scores: Floats, left_out: sp.csr_matrix, silent: NDArray[np.bool_] | None = None) -> Floats:
    """Return scores less their mean, over their standard deviation, line by line; see `moments`.

    A line of equal scores becomes zeros, and `silent` items are given 0: neither good nor bad.

    Examples
    --------
    >>> standardised(np.array([[1.0, 3.0, 9.0]], np.float32), sp.csr_matrix([[0.0, 0.0, 1.0]])).tolist()
    [[-1.0, 1.0, 7.0]]
    """
    mean, deviation = moments(scores, left_out, silent)
    found: Floats = (scores - mean.astype(np.float32)) * _inverse(deviation)
    if silent is not None:
        found[:, silent] = 0.0
    return found


def scaled(scores: Floats, left_out: sp.csr_matrix) -> Floats:
    """Return scores over their standard deviation, line by line; nothing is taken off, so that 0 stays 0.

    Examples
    --------
    >>> scaled(np.array([[1.0, 3.0, 9.0]], np.float32), sp.csr_matrix([[0.0, 0.0, 1.0]])).tolist()
    [[1.0, 3.0, 9.0]]
    """
    found: Floats = scores * _inverse(moments(scores, left_out)[1])
    return found


def _inverse(deviation: NDArray[np.float64]) -> Floats:
    inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    return inverse.astype(np.float32)
