"""Parts of a split that are small enough to be judged again and again: fewer people, fewer items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import Split


def few_people(split: Split, n_most: int, *, seed: int = 0) -> Split:
    """Return the split with the validation events of at most `n_most` people, who are drawn by `seed`.

    Examples
    --------
    >>> split = Split.from_parts(
    ...     Interactions.from_pairs([("ann", "emma"), ("bob", "emma")]),
    ...     Interactions.from_pairs([("ann", "dune"), ("bob", "ulysses")]),
    ... )
    >>> few_people(split, 1)
    Split(files: 2 train, 1 validation, 0 test, 2 cold items)
    """
    people = np.unique(split.validation.user_rows)
    if len(people) <= n_most:
        return split
    drawn = np.random.default_rng(seed).permutation(people)[:n_most]
    return replace(split, validation=split.validation.where(np.isin(split.validation.user_rows, drawn)))


def few_items(split: Split, n_most: int, *, seed: int = 0) -> tuple[Split, Rows]:
    """Return the split on at most `n_most` of its items, and the rows that these had.

    Parameters
    ----------
    split : Split
        Of a catalogue of any size.
    n_most : int
        At least 1.
    seed : int
        Of the draw of people and items.

    Returns
    -------
    Split
        All items that those took who are judged on validation, in training as well as there, and a draw of the others.
        Where that is too much, people are left out until it fits, all but one: whoever stays has their whole history.
    array of int64, shape (n_kept,)
        Ascending.

    Notes
    -----
    O(n_events + n_items log n_items).
    """
    n_items = len(split.items)
    if n_items <= n_most:
        return split, np.arange(n_items, dtype=np.int64)
    rng = np.random.default_rng(seed)
    people = rng.permutation(np.unique(split.validation.user_rows))
    turn = np.full(len(split.users), len(people), dtype=np.int64)  # whose turn it is; those not judged come last
    turn[people] = np.arange(len(people))
    needed_by = np.full(n_items, len(people), dtype=np.int64)  # the first person who needs an item
    for part in (split.train, split.validation):
        np.minimum.at(needed_by, part.item_rows, turn[part.user_rows])
    # The person who brings the first item too many is the first who is left out.
    n_people = max(1, min(len(people), int(np.partition(needed_by, n_most)[n_most])))
    needed = np.flatnonzero(needed_by < n_people)
    others = rng.permutation(np.flatnonzero(needed_by >= n_people))[: max(0, n_most - len(needed))]
    rows = np.sort(np.concatenate([needed, others])).astype(np.int64)
    ids, kept = IdMap(split.items.values[rows], split.items.kind), np.isin(np.arange(n_items), rows)

    def on_these(part: Interactions) -> Interactions:
        return part.where(kept[part.item_rows]).on(ids)

    smaller = replace(
        split,
        train=on_these(split.train),
        validation=on_these(split.validation.where(turn[split.validation.user_rows] < n_people)),
        test=on_these(split.test),
        cold_validation=split.cold_validation[rows],
        cold_test=split.cold_test[rows],
    )
    return smaller, rows
