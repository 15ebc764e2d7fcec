"""Cuts of the interactions into training, validation and test that leak nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llm_tail.config import SplitConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions, Mask
from llm_tail.data.segments import Segments
from llm_tail.errors import DataError

__all__ = [
    "Segments",
    "Split",
    "split",
    "split_by_time",
    "split_cold_items",
    "split_leave_last_out",
    "split_random",
]

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Split:
    """Training, validation and test interactions over the same users and items.

    Parameters
    ----------
    train, validation, test : Interactions
        To fit on, to tune on, to report on. All three share `users` and `items`.
    cold_validation, cold_test : array of bool, shape (n_items,)
        Items that were held out whole; all False for cuts that hold out single events.
    method : str
        How it was cut.
    seed : int
        Of the random cuts.
    """

    train: Interactions
    validation: Interactions
    test: Interactions
    cold_validation: Mask
    cold_test: Mask
    method: str
    seed: int = 0

    @classmethod
    def from_parts(
        cls,
        train: Interactions,
        validation: Interactions | None = None,
        test: Interactions | None = None,
        *,
        catalog: Catalog | IdMap | None = None,
    ) -> Split:
        """Put together parts that were cut elsewhere.

        Parameters
        ----------
        train : Interactions
            To fit on.
        validation, test : Interactions, optional
            May hold people and items that training has not; empty if not given.
        catalog : Catalog or IdMap, optional
            The items; else all those of the parts, training first.

        Raises
        ------
        DataError
            If a (user, item) of validation or test is in training too, or a part shares no item with the catalogue.

        Notes
        -----
        ``cold_validation`` are the items with validation events and no training events, ``cold_test`` those with test
        events and neither training nor validation events.

        Examples
        --------
        >>> train = Interactions.from_pairs([("ann", "emma"), ("bob", "emma")])
        >>> split = Split.from_parts(train, Interactions.from_pairs([("bob", "ulysses")]))
        >>> split, split.train.items[int(split.cold_validation.argmax())]
        (Split(files: 2 train, 1 validation, 0 test, 1 cold item), 'ulysses')
        """
        given = [part for part in (train, validation, test) if part is not None]
        if catalog is None:
            items = IdMap(list(dict.fromkeys(i for part in given for i in part.items)), "item")
        else:
            items = catalog if isinstance(catalog, IdMap) else catalog.ids
        users = IdMap(sorted({u for part in given for u in part.users}), "user")

        def aligned(part: Interactions | None) -> Interactions:
            if part is None:
                empty = np.zeros(0, dtype=np.int64)
                return Interactions(users, items, empty, empty.copy())
            part = part.on(items)
            return part.for_users(users).distinct()

        parts = [aligned(part) for part in (train, validation, test)]
        counts = [part.counts() > 0 for part in parts]
        cold_validation = counts[VALIDATION] & ~counts[TRAIN]
        cold_test = counts[TEST] & ~counts[TRAIN] & ~counts[VALIDATION]
        split = cls(parts[TRAIN], parts[VALIDATION], parts[TEST], cold_validation, cold_test, "files")
        split.check_no_leak()
        return split

    @property
    def users(self) -> IdMap:
        """The people of all parts."""
        return self.train.users

    @property
    def items(self) -> IdMap:
        """The items of all parts."""
        return self.train.items

    @cached_property
    def segments(self) -> Segments:
        """Head, tail and cold by the training part."""
        return Segments.of(self.train)

    def check_no_leak(self) -> None:
        """Raise `DataError` if a later part repeats a pair of an earlier one, or a held-out item was seen before."""
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        if any(part.users != self.users or part.items != self.items for part in parts.values()):
            raise DataError("the parts of a split have different users or items; expected the same ids in all three")
        keys = {name: _pairs(part) for name, part in parts.items()}
        for early, late in (("training", "validation"), ("training", "test"), ("validation", "test")):
            both = np.intersect1d(keys[early], keys[late])
            if len(both):
                user, item = divmod(int(both[0]), max(len(self.items), 1))
                raise DataError(
                    f"{len(both):,} of {len(parts[late]):,} {late} interactions are in {early} too, such as user "
                    f"{self.users[user]!r} with item {self.items[item]!r}; take them out of one of the two"
                )
        seen = self.train.counts() > 0
        for held, before, name in (
            (self.cold_validation | self.cold_test, seen, "training"),
            (self.cold_test, self.validation.counts() > 0, "validation"),
        ):
            leaked = np.flatnonzero(held & before)
            if len(leaked):
                raise DataError(
                    f"{len(leaked):,} items that are held out whole have {name} interactions, such as "
                    f"{self.items[int(leaked[0])]!r}; expected none"
                )

    def __repr__(self) -> str:
        n_cold = int((self.cold_validation | self.cold_test).sum())
        cold = f", {n_cold:,} cold item{'s' if n_cold != 1 else ''}" if n_cold else ""
        counts = f"{len(self.train):,} train, {len(self.validation):,} validation, {len(self.test):,} test"
        return f"Split({self.method}: {counts}{cold})"


def split_cold_items(
    events: Interactions, catalog: Catalog | IdMap, *, cold_share: float = 0.2, held_share: float = 0.1, seed: int = 0
) -> Split:
    """Hold out whole items, and single events of the other items.

    Parameters
    ----------
    events : Interactions
        What happened; repeated pairs count once, items that the catalogue has not are left out.
    catalog : Catalog or IdMap
        The items; their order is that of the rows.
    cold_share : float in [0, 1)
        Share of the items with events that is held out: half of them for validation, half for the test.
    held_share : float in (0, 0.5)
        Share of each person's other events for validation, and again for the test; at least one each for people with
        three events or more, none for the others.
    seed : int
        The same seed and data give the same cut.

    Returns
    -------
    Split
        Validation and test hold warm and cold events.

    Raises
    ------
    DataError
        If no event matches the catalogue or no training event is left.

    Notes
    -----
    The warm/cold protocol of ALDI, LLM-InS and ColdRec. Costs O(n_events log n_events).

    Examples
    --------
    >>> pairs = [(f"u{u}", f"i{i}") for u in range(9) for i in range(10)]
    >>> events = Interactions.from_pairs(pairs)
    >>> split_cold_items(events, events.items)
    Split(cold-items: 54 train, 18 validation, 18 test, 2 cold items)
    """
    _check_share("cold_share", cold_share, 0.0, 1.0, include_low=True)
    events = _prepared(events, catalog)
    rng = np.random.default_rng(seed)
    seen = np.unique(events.item_rows)
    cold = rng.choice(seen, int(cold_share * len(seen)), replace=False)
    cold_validation, cold_test = np.zeros((2, len(events.items)), dtype=bool)
    cold_validation[cold[: len(cold) // 2]] = True
    cold_test[cold[len(cold) // 2 :]] = True
    is_cold = (cold_validation | cold_test)[events.item_rows]
    part = np.where(cold_test[events.item_rows], TEST, VALIDATION)
    part[~is_cold] = _hold_out(events.user_rows[~is_cold], held_share, rng)
    return _cut(events, part, "cold-items", seed, cold_validation, cold_test)


def split_leave_last_out(events: Interactions, catalog: Catalog | IdMap) -> Split:
    """Hold out each person's last event for the test and the one before it for validation.

    People with fewer than three distinct items stay in training whole. An item that someone took more than once counts
    when it was first taken. Costs O(n_events log n_events).

    Parameters
    ----------
    events : Interactions
        With times or positions.
    catalog : Catalog or IdMap
        The items.

    Returns
    -------
    Split

    Raises
    ------
    DataError
        If the events have neither times nor positions, or none matches the catalogue.

    Examples
    --------
    >>> events = Interactions.from_frame(pd.DataFrame({
    ...     "user_id": ["ann"] * 4, "item_id": ["a", "b", "c", "d"], "timestamp": [4.0, 1.0, 3.0, 2.0]}))
    >>> split = split_leave_last_out(events, events.items)
    >>> split.test.to_frame()["item_id"].tolist(), split.validation.to_frame()["item_id"].tolist()
    (['a'], ['c'])
    """
    if events.times is None and events.positions is None:
        raise DataError("leave-last-out needs to know what came last, and the events have no timestamp or position")
    events = _prepared(events, catalog)
    order = events.order()
    users = events.user_rows[order]
    size = np.bincount(users, minlength=len(events.users))[users]
    from_end = np.searchsorted(users, users, side="right") - np.arange(len(users))  # 1 for a person's last event
    part = np.zeros(len(events), dtype=np.int64)
    part[order] = np.where(size < 3, TRAIN, np.where(from_end == 1, TEST, np.where(from_end == 2, VALIDATION, TRAIN)))
    return _cut(events, part, "leave-last-out")


def split_by_time(events: Interactions, catalog: Catalog | IdMap, *, held_share: float = 0.1) -> Split:
    """Cut at two moments that are the same for everyone: training before, validation between, test after.

    Pairs that happened before are not counted again in a later part. Costs O(n_events log n_events).

    Parameters
    ----------
    events : Interactions
        With times.
    catalog : Catalog or IdMap
        The items.
    held_share : float in (0, 0.5)
        Share of the events after the second moment, and again between the two.

    Returns
    -------
    Split

    Raises
    ------
    DataError
        If the events have no times, or so many happened at one moment that training is left empty.

    Examples
    --------
    >>> events = Interactions.from_frame(pd.DataFrame({
    ...     "user_id": list("aabbccddee"), "item_id": list("vwvwvwvwvw"), "timestamp": range(10)}))
    >>> split_by_time(events, events.items, held_share=0.2)
    Split(time: 6 train, 2 validation, 2 test)
    """
    if events.times is None:
        raise DataError("a cut by time needs timestamps, and the events have none; use leave-last-out or random")
    _check_share("held_share", held_share, 0.0, 0.5)
    events = _prepared(events, catalog)
    times = events.times if events.times is not None else np.zeros(0)
    ordered = np.sort(times)
    n_held = max(1, round(held_share * len(ordered)))
    first, second = ordered[max(len(ordered) - 2 * n_held, 0)], ordered[max(len(ordered) - n_held, 0)]
    part = np.where(times >= second, TEST, np.where(times >= first, VALIDATION, TRAIN))
    return _cut(events, part, "time")


def split_random(events: Interactions, catalog: Catalog | IdMap, *, held_share: float = 0.1, seed: int = 0) -> Split:
    """Hold out single events of each person at random.

    Parameters
    ----------
    events : Interactions
        What happened.
    catalog : Catalog or IdMap
        The items.
    held_share : float in (0, 0.5)
        Share of each person's events for validation, and again for the test; at least one each for people with three
        events or more, none for the others.
    seed : int
        The same seed and data give the same cut.

    Returns
    -------
    Split

    Examples
    --------
    >>> events = Interactions.from_pairs([(f"u{u}", f"i{i}") for u in range(9) for i in range(10)])
    >>> split_random(events, events.items)
    Split(random: 72 train, 9 validation, 9 test)
    """
    events = _prepared(events, catalog)
    part = _hold_out(events.user_rows, held_share, np.random.default_rng(seed))
    return _cut(events, part, "random", seed)


def split(events: Interactions, catalog: Catalog | IdMap, config: SplitConfig | None = None, seed: int = 0) -> Split:
    """Cut as the settings say; the method ``none`` puts everything into training.

    Examples
    --------
    >>> events = Interactions.from_pairs([("ann", "emma"), ("bob", "dracula")])
    >>> split(events, events.items, SplitConfig(method="none"))
    Split(none: 2 train, 0 validation, 0 test)
    """
    config = config or SplitConfig()
    if config.method == "cold-items":
        shares = {"cold_share": config.cold_share, "held_share": config.held_share}
        return split_cold_items(events, catalog, **shares, seed=seed)
    if config.method == "leave-last-out":
        return split_leave_last_out(events, catalog)
    if config.method == "time":
        return split_by_time(events, catalog, held_share=config.held_share)
    if config.method == "random":
        return split_random(events, catalog, held_share=config.held_share, seed=seed)
    events = _prepared(events, catalog)
    return _cut(events, np.zeros(len(events), dtype=np.int64), "none", seed)


def _prepared(events: Interactions, catalog: Catalog | IdMap) -> Interactions:
    events = events.on(catalog).distinct()
    if len(events) == 0:
        raise DataError("there are no interactions to split; expected at least one")
    return events


def _hold_out(user_rows: NDArray[np.int64], held_share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the part of each event; of a person's events in random order the first are test, the next validation."""
    _check_share("held_share", held_share, 0.0, 0.5)
    frame = pd.DataFrame({"user": user_rows, "key": rng.random(len(user_rows))}).sort_values(["user", "key"])
    nth = frame.groupby("user").cumcount().to_numpy()
    size = frame.groupby("user")["user"].transform("size").to_numpy()
    most = (size - 1) // 2  # something is left to learn from
    held = np.where(size >= 3, np.minimum(most, np.maximum(1, np.round(size * held_share))), 0)
    part = np.zeros(len(user_rows), dtype=np.int64)
    part[frame.index.to_numpy()] = np.where(nth < held, TEST, np.where(nth < 2 * held, VALIDATION, TRAIN))
    return part


def _cut(
    events: Interactions,
    part: NDArray[np.int64],
    method: str,
    seed: int = 0,
    cold_validation: Mask | None = None,
    cold_test: Mask | None = None,
) -> Split:
    nothing = np.zeros(len(events.items), dtype=bool)
    train, validation, test = (events.where(part == n) for n in (TRAIN, VALIDATION, TEST))
    if len(train) == 0:
        raise DataError(
            f"no training interaction is left of {len(events):,} by the cut {method}; hold out a smaller share"
        )
    result = Split(
        train,
        validation,
        test,
        nothing if cold_validation is None else cold_validation,
        nothing if cold_test is None else cold_test,
        method,
        seed,
    )
    result.check_no_leak()
    return result


def _pairs(events: Interactions) -> NDArray[np.int64]:
    """Return one number for each event that tells its (user, item)."""
    return np.asarray(events.user_rows * np.int64(max(len(events.items), 1)) + events.item_rows, dtype=np.int64)


def _check_share(name: str, share: float, low: float, high: float, *, include_low: bool = False) -> None:
    if not (low <= share if include_low else low < share) or not share < high:
        raise DataError(
            f"{name} is {share}, expected a share {'from' if include_low else 'above'} {low} and below {high}"
        )
