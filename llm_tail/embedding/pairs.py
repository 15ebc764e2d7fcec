"""TextPairs: texts that should lie close, because the same people took the items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import Rows
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.text import ItemText
from llm_tail.errors import DataError


class TextPairs:
    """Pairs of items that the same person took, with their texts; made by `from_interactions`.

    Parameters
    ----------
    anchors, positives : array of int64, shape (n_pairs,)
        Item rows; the two of a pair differ.
    texts : list of str
        The text of each item row, n_items of them.
    log_popularity : array of float32, shape (n_items,)
        Logarithm of each item's share of the training events, <= 0; what logQ correction needs.
    provenance : dict
        What the pairs were made from: ``n_events``, ``n_users``, ``train`` (fingerprint), ``n_pairs``, ``seed``.
    """

    def __init__(
        self,
        anchors: Rows,
        positives: Rows,
        texts: list[str],
        log_popularity: NDArray[np.float32],
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self.anchors, self.positives = np.asarray(anchors, np.int64), np.asarray(positives, np.int64)
        self.texts = texts
        self.log_popularity = np.asarray(log_popularity, np.float32)
        self.provenance = provenance or {}
        if self.anchors.shape != self.positives.shape or self.anchors.ndim != 1 or not len(self.anchors):
            raise DataError(
                f"anchors {self.anchors.shape} and positives {self.positives.shape}: expected two equal lengths above 0"
            )
        if len(self.log_popularity) != len(texts):
            raise DataError(f"{len(self.log_popularity)} popularities for {len(texts)} texts; expected one for each")
        rows = np.concatenate([self.anchors, self.positives])
        if rows.min() < 0 or rows.max() >= len(texts):
            raise DataError(f"item rows run from {rows.min()} to {rows.max()}, expected 0 to {len(texts) - 1}")

    @classmethod
    def from_interactions(
        cls,
        train: Interactions,
        catalog: Catalog,
        text: ItemText | None = None,
        *,
        n_pairs: int = 6_400,
        max_per_user: int = 32,
        seed: int = 0,
    ) -> TextPairs:
        """Draw pairs of distinct items from people's training interactions, each pair of a person at most once.

        Parameters
        ----------
        train : Interactions
            Training events only: texts tuned on the test would know its answers.
        catalog : Catalog
            The items; those without any text are left out.
        text : ItemText, optional
            How an item becomes a text.
        n_pairs : int
            How many to draw at most, >= 1.
        max_per_user : int
            Most pairs of one person, >= 1: someone with 1,000 items has half a million of them.
        seed : int
            The same seed gives the same pairs.

        Raises
        ------
        DataError
            If nobody took two items that have texts, or `train` is no `Interactions`.

        Notes
        -----
        Takes time and memory in proportion to the events plus the sum over people of min(pairs, `max_per_user`).

        Examples
        --------
        >>> catalog = Catalog.from_items([{"item_id": i, "title": i} for i in ("emma", "dracula", "ulysses")])
        >>> train = Interactions.from_pairs([("ann", "emma"), ("ann", "dracula"), ("bob", "ulysses")])
        >>> pairs = TextPairs.from_interactions(train, catalog)
        >>> pairs, sorted([*pairs.anchors.tolist(), *pairs.positives.tolist()])
        (TextPairs(1 pair, 3 items), [0, 1])
        """
        if not isinstance(train, Interactions):
            raise DataError(f"pairs are made from training Interactions, got {type(train).__name__}; pass split.train")
        if n_pairs < 1 or max_per_user < 1:
            raise DataError(f"n_pairs is {n_pairs} and max_per_user {max_per_user}; expected at least 1")
        events = train.on(catalog).distinct()
        texts = (text or ItemText()).texts(catalog)
        has_text = np.fromiter((bool(t) for t in texts), dtype=bool, count=len(texts))  # (n_items,)
        usable = events.where(has_text[events.item_rows])
        rng = np.random.default_rng(seed)
        first, second = _draw(usable, max_per_user, rng)
        if not len(first):
            raise DataError(
                f"no pair can be made from {len(train):,} training events of {len(np.unique(train.user_rows)):,} "
                "people: nobody took two different items that have a text; leave [lora] off or bring more data"
            )
        kept = rng.permutation(len(first))[:n_pairs]
        turned = rng.random(len(kept)) < 0.5  # either side of a pair may be the anchor
        anchors = np.where(turned, second[kept], first[kept])
        positives = np.where(turned, first[kept], second[kept])
        counts = np.bincount(events.item_rows, minlength=len(texts))  # (n_items,)
        popularity = np.log(np.maximum(counts, 1) / max(counts.sum(), 1)).astype(np.float32)
        provenance = {
            "n_events": len(train),
            "n_users": len(np.unique(train.user_rows)),
            "n_pairs": len(anchors),
            "train": train.fingerprint(),
            "seed": seed,
        }
        return cls(anchors, positives, texts, popularity, provenance)

    def __len__(self) -> int:
        return len(self.anchors)

    def __repr__(self) -> str:
        return f"TextPairs({len(self):,} pair{'s' if len(self) != 1 else ''}, {len(self.texts):,} items)"


def _draw(events: Interactions, max_per_user: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Return item rows of pairs: all pairs of a person with few items, `max_per_user` draws from one with many."""
    order = np.argsort(events.user_rows, kind="stable")
    items = events.item_rows[order]
    _, starts, n_items = np.unique(events.user_rows[order], return_index=True, return_counts=True)
    n_all = n_items * (n_items - 1) // 2  # (n_users,) pairs that each person has
    n_taken = np.minimum(n_all, max_per_user)
    person = np.repeat(np.arange(len(n_all)), n_taken)  # (n_slots,)
    slot = np.arange(len(person)) - np.repeat(np.cumsum(n_taken) - n_taken, n_taken)
    many = n_all[person] > max_per_user
    number = np.where(many, (rng.random(len(person)) * n_all[person]).astype(np.int64), slot)
    # A person's pairs are numbered along the lower triangle: pair p stands in line i, place j < i.
    i = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
    i += (i + 1) * i // 2 <= number  # where the root was rounded to the wrong side
    i -= i * (i - 1) // 2 > number
    j = number - i * (i - 1) // 2
    _, unique = np.unique(np.column_stack([person, i, j]), axis=0, return_index=True)
    first, second = items[starts[person] + i], items[starts[person] + j]
    return first[unique], second[unique]
