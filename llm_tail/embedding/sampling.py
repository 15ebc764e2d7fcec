"""What pairs are drawn from: who took what, in which sessions, which items share a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import Rows
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.text import ItemText
from llm_tail.errors import DataError

SECONDS_A_DAY = 86_400.0
MOST_OF_ONE = 32  # pairs of one person, or of one value
_PART_WORDS = 4 << 20  # of people, held at once while pairs of texts are compared
Floats = NDArray[np.float32]


class Known:
    """What is known of the items from training: texts, popularity, who took what; by sessions where these are given."""

    def __init__(
        self,
        train: Interactions,
        catalog: Catalog,
        text: ItemText | None,
        balance: float,
        held_out: Interactions | None,
        session_days: float | None = None,
    ) -> None:
        if not isinstance(train, Interactions):
            raise DataError(f"pairs are made from training Interactions, got {type(train).__name__}; pass split.train")
        if held_out is not None:
            check_no_leak(train, held_out)
        events = train.on(catalog).distinct()
        self.texts = (text or ItemText()).texts(catalog)
        has_text = np.fromiter((bool(t) for t in self.texts), dtype=bool, count=len(self.texts))  # (n_items,)
        there = has_text[events.item_rows]
        self.usable = events.where(there)
        groups = events.user_rows if session_days is None else sessions(events, session_days)
        self.groups = groups[there]  # (n_usable,) the person of each event, or the session
        n = len(self.texts)
        self.counts = np.bincount(events.item_rows, minlength=n)  # (n_items,)
        share = np.maximum(self.counts, 1) / max(self.counts.sum(), 1)
        self.log_popularity = np.log(share).astype(np.float32)
        self._people, place = np.unique(groups, return_inverse=True)
        people = self._people
        own = np.bincount(place, minlength=len(people))
        word = np.sqrt(1.0 / np.maximum(own - 1, 1))[place] * self.counts[events.item_rows] ** (-balance / 2)
        shape = (n, max(len(people), 1))
        self.readers = sp.csr_matrix((word.astype(np.float32), (events.item_rows, place)), shape=shape)
        self._taken = sp.csr_matrix((np.ones(len(place), np.float32), (events.item_rows, place)), shape=shape)
        self.provenance = {
            "n_events": len(train),
            "n_users": len(np.unique(events.user_rows)),
            "train": train.fingerprint(),
        }

    def column_of(self, user_rows: Rows) -> Rows:
        """Return the columns of `readers` that stand for people."""
        return np.searchsorted(self._people, user_rows)

    def together_share(self, first: Rows, second: Rows) -> Floats:
        """Return how many took both, over the root of how many took each, shape (n_pairs,), in [0, 1]."""
        both = np.asarray(self._taken[first].multiply(self._taken[second]).sum(axis=1)).ravel()
        share: Floats = (both / np.sqrt(np.maximum(self.counts[first] * self.counts[second], 1))).astype(np.float32)
        return share


def one_each(anchors: Rows, positives: Rows, n_texts: int) -> sp.csr_matrix:
    """Return who took what if each pair were all that one person took, shape (n_texts, n_pairs)."""
    n = len(anchors)
    rows, people = np.concatenate([anchors, positives]), np.tile(np.arange(n), 2)
    return sp.csr_matrix((np.ones(2 * n, np.float32), (rows, people)), shape=(n_texts, n))


def checked_sides(anchors: Rows, positives: Rows, n_texts: int) -> tuple[Rows, Rows]:
    """Return the rows of both sides of pairs as int64; raise `DataError` if they do not fit."""
    first, second = np.asarray(anchors, np.int64), np.asarray(positives, np.int64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise DataError(f"anchors {first.shape} and positives {second.shape}: expected two equal lengths above 0")
    rows = np.concatenate([first, second])
    if rows.min() < 0 or rows.max() >= n_texts:
        raise DataError(f"item rows run from {rows.min()} to {rows.max()}, expected 0 to {n_texts - 1}")
    return first, second


def checked_teacher(weights: Any, n_items: int) -> sp.csr_matrix:
    """Return item-item weights as a matrix of float32; raise `DataError` if they are none."""
    teacher = sp.csr_matrix(weights, dtype=np.float32)
    if teacher.shape != (n_items, n_items):
        raise DataError(f"the teacher's weights have shape {teacher.shape}, expected {(n_items, n_items)}")
    if not np.isfinite(teacher.data).all() or (teacher.data < 0).any():
        raise DataError("the teacher's weights hold values below 0 or not finite; cut them off at 0")
    teacher.eliminate_zeros()
    return teacher


def words_of(item_rows: Rows, groups: Rows, n_texts: int) -> sp.csr_matrix:
    """Return who holds which value, as if it were a person: the word of one that n items hold weighs 1 / (n - 1)."""
    held, place, n = np.unique(groups, return_inverse=True, return_counts=True)
    word = np.sqrt(1.0 / np.maximum(n - 1, 1))[place].astype(np.float32)
    return sp.csr_matrix((word, (item_rows, place)), shape=(n_texts, len(held)))


def histories(known: Known, length: int, n_most: int, rng: np.random.Generator) -> tuple[list[str], Rows, Rows]:
    """Return the texts of what people took last, latest first, and who they are and the item that each took next."""
    order = known.usable.order()
    users, items = known.usable.user_rows[order], known.usable.item_rows[order]
    ends = np.flatnonzero(np.r_[False, users[1:] == users[:-1]][: len(users)])  # events that have one before them
    chosen = rng.permutation(ends)[:n_most]
    starts = np.searchsorted(users, users[chosen])
    texts = [
        " | ".join(known.texts[i] for i in items[max(start, end - length) : end][::-1])
        for start, end in zip(starts, chosen, strict=True)
    ]
    return texts, known.column_of(users[chosen]), items[chosen]


def fewer_fields(
    fields: Sequence[tuple[str, ...]], separator: str, rows: Rows, share: float, rng: np.random.Generator
) -> dict[int, str]:
    """Return texts of some of the fields, at least one and never all, for a `share` of `rows`; by place."""
    found = {}
    for place in np.flatnonzero(rng.random(len(rows)) < share):
        own = fields[rows[place]] if rows[place] < len(fields) else ()
        if len(own) > 1:  # the bits of a number say which fields stay
            bits = int(rng.integers(1, 2 ** len(own) - 1))
            found[int(place)] = separator.join(part for i, part in enumerate(own) if bits >> i & 1)
    return found


def any_shared(readers: sp.csr_matrix, first: Rows, others: Rows) -> NDArray[np.bool_]:
    """Return which of its own `others` (n, k) each of `first` (n,) shares a reader with; False at rows below 0."""
    n, k = others.shape
    found = np.zeros((n, k), dtype=bool)
    # A text that many took is a long row, and comes k times; its others may be long too: parts of bounded memory.
    length = np.diff(readers.indptr).astype(np.int64)
    words = (length[first] + 1) * k + np.where(others >= 0, length[others], 0).sum(axis=1)  # (n,)
    part_of = np.cumsum(words) // _PART_WORDS
    for part in np.split(np.arange(n), np.flatnonzero(np.diff(part_of)) + 1) if n else []:
        left, right = readers[np.repeat(first[part], k)], readers[np.maximum(others[part], 0).ravel()]
        found[part] = np.asarray(left.multiply(right).sum(axis=1)).reshape(-1, k) > 0
    return found & (others >= 0)


def check_no_leak(train: Interactions, held_out: Interactions) -> None:
    """Raise `DataError` where a person's held-out item stands in training too."""
    one = _held_in_both(train, held_out)
    if one is not None:
        n, user, item = one
        raise DataError(
            f"{n:,} training events stand in validation or test as well, such as user {user!r} with item {item!r}; "
            "pairs made from them would know the answers; take them out of training"
        )


def _held_in_both(train: Interactions, held_out: Interactions) -> tuple[int, str, str] | None:
    """Return how many distinct events stand in both, and the user and item of one of them; None where none does."""
    if train.users == held_out.users and train.items == held_out.items:  # rows mean the same: no ids are spelt out
        n_items = max(len(train.items), 1)
        seen, held = (part.user_rows * n_items + part.item_rows for part in (train, held_out))
        both = np.intersect1d(seen, held)
        if not len(both):
            return None
        user, place = divmod(int(both[0]), n_items)
        return len(both), train.users[user], train.items[place]
    frames = [part.to_frame()[["user_id", "item_id"]].drop_duplicates() for part in (train, held_out)]
    shared = frames[0].merge(frames[1])
    return (len(shared), shared.user_id.iloc[0], shared.item_id.iloc[0]) if len(shared) else None


def sessions(events: Interactions, days: float) -> Rows:
    """Return a number for each event: equal for events of a person in one chain without a pause above `days`."""
    if events.times is None:
        raise DataError("sessions need times, and these interactions have none; leave session_days out")
    order = np.lexsort((events.times, events.user_rows))
    users, times = events.user_rows[order], events.times[order]
    new = np.r_[True, (users[1:] != users[:-1]) | (np.diff(times) > days * SECONDS_A_DAY)] if len(order) else []
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(new) - 1
    return numbers


def column_texts(catalog: Catalog, column: str) -> list[str]:
    """Return one column as texts; empty where there is none."""
    names = catalog.table.column_names
    values = catalog.table[column].to_pylist() if column in names else [None] * len(catalog)
    return [" ".join(str(value or "").split()) for value in values]


def titles_and_descriptions(
    catalog: Catalog, texts: Sequence[str], n_most: int, rng: np.random.Generator
) -> tuple[Rows, list[str]]:
    """Return rows of items that have both, and first their titles and then their descriptions."""
    titles, descriptions = (column_texts(catalog, name) for name in ("title", "description"))
    both = np.flatnonzero([bool(t and d) for t, d in zip(titles, descriptions, strict=True)])
    if len(both) < 2:
        raise DataError(f"{len(both)} of {len(texts)} items have a title and a description; expected at least 2")
    chosen = rng.permutation(both)[:n_most]
    return chosen, [*(titles[i] for i in chosen), *(descriptions[i] for i in chosen)]


def shared_values(catalog: Catalog, columns: Sequence[str]) -> tuple[Rows, Rows]:
    """Return item rows and the number of the value that they hold, one entry for each value of each item."""
    rows: list[int] = []
    numbers: list[int] = []
    known: dict[tuple[str, str], int] = {}
    for column in columns:
        if column not in catalog.table.column_names:
            raise DataError(f"the catalogue has no column {column!r}; it has: {', '.join(catalog.table.column_names)}")
        for row, value in enumerate(catalog.table[column].to_pylist()):
            for part in value if isinstance(value, list) else [value]:
                if part is not None and str(part).strip():
                    rows.append(row)
                    numbers.append(known.setdefault((column, str(part).strip()), len(known)))
    return np.array(rows, np.int64), np.array(numbers, np.int64)


def ties(catalog: Catalog, columns: Sequence[str], texts: Sequence[str], hub_cap: int) -> tuple[Rows, Rows]:
    """Return item rows and values as `shared_values`, of items with a text and of values that 2 to `hub_cap` hold."""
    rows, groups = shared_values(catalog, columns)
    there = np.fromiter((bool(t) for t in texts), dtype=bool, count=len(texts))
    rows, groups = rows[there[rows]], groups[there[rows]]
    size = np.bincount(groups)
    fit = (size[groups] > 1) & (size[groups] <= hub_cap)
    return rows[fit], groups[fit]


def weighted_draw(weights: NDArray[np.float64], n: int, rng: np.random.Generator) -> Rows:
    """Return at most `n` places, drawn without replacement in proportion to `weights` (all above 0)."""
    # The n largest of log(weight) + Gumbel noise are such a draw.
    return np.argsort(-(np.log(weights) + rng.gumbel(size=len(weights))), kind="stable")[:n]


def taught_pairs(teacher: sp.csr_matrix, item_rows: Rows) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Return each pair of `item_rows` that a teacher ties, once, and how strongly by both sides together."""
    usable = np.zeros(teacher.shape[0], dtype=bool)
    usable[item_rows] = True
    ties = sp.triu(teacher + teacher.T, k=1, format="coo")
    kept = usable[ties.row] & usable[ties.col]
    return ties.row[kept].astype(np.int64), ties.col[kept].astype(np.int64), ties.data[kept].astype(np.float64)


def turned(first: Rows, second: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Return the pairs with the sides of half of them swapped: either may be the anchor."""
    swapped = rng.random(len(first)) < 0.5
    return np.where(swapped, second, first), np.where(swapped, first, second)


def draw_pairs(
    groups: Rows, item_rows: Rows, max_per_group: int, rng: np.random.Generator
) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Return item rows of pairs and their weights: all of a group with few items, `max_per_group` draws of a large one.

    The weights of a group's pairs sum to half the number of its items.
    """
    if not len(groups):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    order = np.argsort(groups, kind="stable")
    items = item_rows[order]
    _, starts, n_items = np.unique(groups[order], return_index=True, return_counts=True)
    n_all = n_items * (n_items - 1) // 2  # (n_groups,) pairs that each group has
    n_taken = np.minimum(n_all, max_per_group)
    group = np.repeat(np.arange(len(n_all)), n_taken)  # (n_slots,)
    slot = np.arange(len(group)) - np.repeat(np.cumsum(n_taken) - n_taken, n_taken)
    many = n_all[group] > max_per_group
    number = np.where(many, (rng.random(len(group)) * n_all[group]).astype(np.int64), slot)
    # A group's pairs are numbered along the lower triangle: pair p stands in line i, place j < i.
    i = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
    i += (i + 1) * i // 2 <= number  # where the root was rounded to the wrong side
    i -= i * (i - 1) // 2 > number
    j = number - i * (i - 1) // 2
    _, unique = np.unique((np.cumsum(n_all) - n_all)[group] + number, return_index=True)
    first, second = items[starts[group] + i], items[starts[group] + j]
    weight = (n_items / (2.0 * np.maximum(n_taken, 1)))[group]
    return first[unique], second[unique], weight[unique]
