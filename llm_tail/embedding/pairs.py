"""TextPairs: texts that should lie close, because the same people took the items, or because the catalogue says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.artifacts import fingerprint
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import Rows
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.sampling import Floats, Known, column_texts, draw_pairs, one_each, sessions, shared_values
from llm_tail.embedding.text import ItemText
from llm_tail.errors import DataError

CO_INTERACTION, HISTORY, ATTRIBUTE, TEXT = range(4)
KINDS = ("co-interaction", "history", "attribute", "text")


class TextPairs:
    """Pairs of texts that belong together; made by the ``from_...`` methods, put together by `mixed`.

    Parameters
    ----------
    anchors, positives : array of int64, shape (n_pairs,)
        Rows of `texts`.
    texts : list of str
        The text of each item row first, n_items of them; behind them texts that are no items', such as a title alone.
    log_popularity : array of float32, shape (n_texts,)
        Logarithm of each text's share of the training events, <= 0; what logQ correction needs.
    provenance : dict
        What the pairs were made from: ``n_events``, ``n_users``, ``train`` (fingerprint), ``n_pairs``, ``seed``.
    kinds : array of int8, shape (n_pairs,), optional
        Places in `KINDS`; co-interaction if left out.
    readers : csr_matrix of float32, shape (n_texts, n_users), optional
        Who took what in training, each value the weight of one person's word; empty rows for texts that are no items'.
        From it comes who is no negative of whom, and the soft labels. One person a pair if left out.
    strengths : array of float32, shape (n_pairs,), optional
        How strongly the two belong together, in [0, 1]; 1 if left out.
    """

    def __init__(
        self,
        anchors: Rows,
        positives: Rows,
        texts: list[str],
        log_popularity: Floats,
        provenance: dict[str, Any] | None = None,
        *,
        kinds: NDArray[np.int8] | None = None,
        readers: sp.csr_matrix | None = None,
        strengths: Floats | None = None,
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
        n = len(self.anchors)
        self.kinds = np.zeros(n, np.int8) if kinds is None else np.asarray(kinds, np.int8)
        self.strengths = np.ones(n, np.float32) if strengths is None else np.asarray(strengths, np.float32)
        self.readers = one_each(self.anchors, self.positives, len(texts)) if readers is None else readers.tocsr()
        if self.kinds.shape != (n,) or self.strengths.shape != (n,) or self.readers.shape[0] != len(texts):
            raise DataError(
                f"kinds {self.kinds.shape} and strengths {self.strengths.shape} for {n} pairs, readers of "
                f"{self.readers.shape[0]} texts for {len(texts)}; expected one of each"
            )

    @classmethod
    def from_interactions(
        cls,
        train: Interactions,
        catalog: Catalog,
        text: ItemText | None = None,
        *,
        n_pairs: int = 6_400,
        max_per_user: int = 32,
        balance: float = 0.5,
        session_days: float | None = None,
        held_out: Interactions | None = None,
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
        balance : float
            Whose turn it is, in [0, 1]: at 0 items come as often as they were taken, at 1 the tail as often as the
            head; soft labels are damped alike.
        session_days : float, optional
            Two items make a pair only where less than a pause of this many days lies between them, in a chain of
            events; 0 keeps to what was taken at the same moment (a basket). The whole history if left out.
        held_out : Interactions, optional
            Validation and test events; a check that none of them stands in `train`.
        seed : int
            The same seed gives the same pairs.

        Raises
        ------
        DataError
            If nobody took two items that have texts, `train` is no `Interactions`, holds an event of `held_out`, or
            sessions are asked for and there are no times.

        Notes
        -----
        One word of a person with n items weighs 1 / (n - 1) in the soft labels, and a person is drawn in proportion to
        n, not to the n (n - 1) / 2 pairs, so that the few who took everything do not teach alone. Takes time and
        memory in proportion to the events plus the sum over people of min(pairs, `max_per_user`).

        Examples
        --------
        >>> catalog = Catalog.from_items([{"item_id": i, "title": i} for i in ("emma", "dracula", "ulysses")])
        >>> train = Interactions.from_pairs([("ann", "emma"), ("ann", "dracula"), ("bob", "ulysses")])
        >>> pairs = TextPairs.from_interactions(train, catalog)
        >>> pairs, sorted([*pairs.anchors.tolist(), *pairs.positives.tolist()])
        (TextPairs(1 pair, 3 items), [0, 1])
        """
        if n_pairs < 1 or max_per_user < 1 or not 0 <= balance <= 1:
            raise DataError(
                f"n_pairs is {n_pairs} and max_per_user {max_per_user}, expected at least 1; balance is {balance}, "
                "expected 0 to 1"
            )
        known = Known(train, catalog, text, balance, held_out)
        rng = np.random.default_rng(seed)
        groups = known.usable.user_rows if session_days is None else sessions(known.usable, session_days)
        first, second, weight = draw_pairs(groups, known.usable.item_rows, max_per_user, rng)
        if not len(first):
            raise DataError(
                f"no pair can be made from {len(train):,} training events of {len(np.unique(train.user_rows)):,} "
                "people: nobody took two different items that have a text; leave [lora] off or bring more data"
            )
        damped = weight * (known.counts[first] * known.counts[second]).astype(np.float64) ** (-balance / 2)
        # The n largest of log(weight) + Gumbel noise are a weighted draw without replacement.
        kept = np.argsort(-(np.log(damped) + rng.gumbel(size=len(first))), kind="stable")[:n_pairs]
        turned = rng.random(len(kept)) < 0.5  # either side of a pair may be the anchor
        anchors = np.where(turned, second[kept], first[kept])
        positives = np.where(turned, first[kept], second[kept])
        provenance = known.provenance | {"n_pairs": len(anchors), "seed": seed, "kinds": {KINDS[0]: len(anchors)}}
        return cls(
            anchors,
            positives,
            known.texts,
            known.log_popularity,
            provenance,
            readers=known.readers,
            strengths=known.together_share(anchors, positives),
        )

    @classmethod
    def from_histories(
        cls,
        train: Interactions,
        catalog: Catalog,
        text: ItemText | None = None,
        *,
        n_pairs: int = 6_400,
        length: int = 3,
        held_out: Interactions | None = None,
        seed: int = 0,
    ) -> TextPairs:
        """Pair what a person took last, as one text, with what they took next.

        Parameters
        ----------
        train : Interactions
            Training events, in the order of their times or positions; in that of the file where there are none.
        catalog, text, held_out, seed
            As in `from_interactions`.
        n_pairs : int
            How many to draw at most, >= 1.
        length : int
            How many items make a query text, >= 1; they are joined latest first, so that a cut loses the oldest.

        Raises
        ------
        DataError
            As in `from_interactions`.
        """
        known = Known(train, catalog, text, 0.0, held_out)
        order = known.usable.order()
        users, items = known.usable.user_rows[order], known.usable.item_rows[order]
        ends = np.flatnonzero(np.r_[False, users[1:] == users[:-1]])  # events that have one before them
        if not len(ends) or length < 1 or n_pairs < 1:
            raise DataError(
                f"no history of {length} can be made from {len(train):,} training events: nobody took two items that "
                "have a text"
            )
        chosen = np.random.default_rng(seed).permutation(ends)[:n_pairs]
        starts = np.searchsorted(users, users[chosen])
        queries = [
            " | ".join(known.texts[i] for i in items[max(start, end - length) : end][::-1])
            for start, end in zip(starts, chosen, strict=True)
        ]
        people = sp.csr_matrix(
            (np.ones(len(chosen), np.float32), (np.arange(len(chosen)), users[chosen])),
            shape=(len(chosen), known.readers.shape[1]),
        )
        n = len(known.texts)
        provenance = known.provenance | {"n_pairs": len(chosen), "seed": seed, "kinds": {KINDS[1]: len(chosen)}}
        return cls(
            n + np.arange(len(chosen)),
            items[chosen],
            [*known.texts, *queries],
            np.concatenate([known.log_popularity, np.full(len(chosen), -np.log(len(chosen)), np.float32)]),
            provenance,
            kinds=np.full(len(chosen), HISTORY, np.int8),
            readers=sp.vstack([known.readers, people], format="csr"),
        )

    @classmethod
    def from_attributes(
        cls,
        catalog: Catalog,
        columns: Sequence[str],
        text: ItemText | None = None,
        *,
        n_pairs: int = 6_400,
        hub_cap: int = 200,
        seed: int = 0,
    ) -> TextPairs:
        """Pair items that share a value, such as an author or a brand; items that nobody touched take part.

        Parameters
        ----------
        catalog : Catalog
            The items; those without any text are left out.
        columns : sequence of str
            Columns whose values tie items; lists tie by each element.
        n_pairs : int
            How many to draw at most, >= 1.
        hub_cap : int
            A value that more items share says nothing and ties none, >= 2.
        text : ItemText, optional
            How an item becomes a text.
        seed : int
            The same seed gives the same pairs.

        Raises
        ------
        DataError
            If a column is missing, or no two items share a value.
        """
        texts = (text or ItemText()).texts(catalog)
        there = np.fromiter((bool(t) for t in texts), dtype=bool, count=len(texts))
        rows, groups = shared_values(catalog, columns)
        use = there[rows]
        rows, groups = rows[use], groups[use]
        size = np.bincount(groups) if len(groups) else np.zeros(0, np.int64)
        fit = (size[groups] > 1) & (size[groups] <= hub_cap) if len(groups) else np.zeros(0, bool)
        first, second, weight = draw_pairs(groups[fit], rows[fit], n_pairs, np.random.default_rng(seed))
        if not len(first):
            raise DataError(f"no two items share a value of {', '.join(columns)} that at most {hub_cap} items have")
        rng = np.random.default_rng(seed)
        kept = np.argsort(-(np.log(weight) + rng.gumbel(size=len(first))), kind="stable")[:n_pairs]
        provenance = {"n_pairs": len(kept), "seed": seed, "kinds": {KINDS[2]: len(kept)}, "columns": list(columns)}
        return cls(
            first[kept],
            second[kept],
            texts,
            np.full(len(texts), -np.log(len(texts)), np.float32),
            provenance,
            kinds=np.full(len(kept), ATTRIBUTE, np.int8),
        )

    @classmethod
    def from_texts(
        cls,
        catalog: Catalog,
        text: ItemText | None = None,
        *,
        n_pairs: int = 6_400,
        seed: int = 0,
    ) -> TextPairs:
        """Pair each item's title with its own description; items that nobody touched take part.

        Parameters
        ----------
        catalog : Catalog
            The items.
        text : ItemText, optional
            How an item becomes a text.
        n_pairs : int
            How many to draw at most, >= 1.
        seed : int
            The same seed gives the same pairs.

        Raises
        ------
        DataError
            If fewer than two items have both.
        """
        texts = (text or ItemText()).texts(catalog)
        titles, descriptions = (column_texts(catalog, name) for name in ("title", "description"))
        both = np.flatnonzero([bool(t and d) for t, d in zip(titles, descriptions, strict=True)])
        if len(both) < 2:
            raise DataError(f"{len(both)} of {len(texts)} items have a title and a description; expected at least 2")
        chosen = np.random.default_rng(seed).permutation(both)[:n_pairs]
        n, m = len(texts), len(chosen)
        extra = [*(titles[i] for i in chosen), *(descriptions[i] for i in chosen)]
        return cls(
            n + np.arange(m),
            n + m + np.arange(m),
            [*texts, *extra],
            np.full(n + 2 * m, -np.log(n), np.float32),
            {"n_pairs": m, "seed": seed, "kinds": {KINDS[3]: m}},
            kinds=np.full(m, TEXT, np.int8),
        )

    @classmethod
    def mixed(cls, parts: Sequence[TextPairs], n_items: int) -> TextPairs:
        """Put pairs of several kinds together, for training on several tasks at once.

        Parameters
        ----------
        parts : sequence of TextPairs
            All with the same item texts in front; what was taken together is known from whichever part knows it.
        n_items : int
            How many item texts stand in front in each.
        """
        texts = list(parts[0].texts[:n_items])
        known = max(parts, key=lambda part: part.readers.nnz)
        readers = [known.readers[:n_items]]
        popularities = [known.log_popularity[:n_items]]
        anchors: list[Rows] = []
        positives: list[Rows] = []
        for part in parts:
            shift = len(texts) - n_items
            texts += part.texts[n_items:]
            popularities.append(part.log_popularity[n_items:])
            own = part.readers[n_items:].tocoo()
            shape = (own.shape[0], max(own.shape[1], known.readers.shape[1]))
            readers.append(sp.csr_matrix((own.data, (own.row, own.col)), shape=shape))
            for side, into in ((part.anchors, anchors), (part.positives, positives)):
                into.append(np.where(side < n_items, side, side + shift))
        provenance: dict[str, Any] = {}
        for part in reversed(parts):
            provenance |= part.provenance
        provenance["kinds"] = {k: n for part in parts for k, n in part.provenance.get("kinds", {}).items()}
        provenance["n_pairs"] = sum(map(len, parts))
        return cls(
            np.concatenate(anchors),
            np.concatenate(positives),
            texts,
            np.concatenate(popularities),
            provenance,
            kinds=np.concatenate([part.kinds for part in parts]),
            readers=sp.vstack(readers, format="csr"),
            strengths=np.concatenate([part.strengths for part in parts]),
        )

    @property
    def has_text(self) -> NDArray[np.bool_]:
        """Which texts hold a word, shape (n_texts,)."""
        return np.fromiter((bool(t.strip()) for t in self.texts), dtype=bool, count=len(self.texts))

    def together(self, first: Rows, second: Rows) -> NDArray[np.bool_]:
        """Return which of `first` and `second` (rows of texts) anyone took together, shape (n_first, n_second)."""
        return self.strengths_between(first, second) > 0

    def together_each(self, first: Rows, others: Rows) -> NDArray[np.bool_]:
        """Return which of its own `others` (n, k) each of `first` (n,) was taken together with, shape (n, k)."""
        n, k = others.shape
        left = self.readers[np.repeat(first, k)]
        right = self.readers[np.maximum(others, 0).ravel()]
        return np.asarray(left.multiply(right).sum(axis=1)).reshape(n, k) > 0

    def strengths_between(self, first: Rows, second: Rows) -> Floats:
        """Return how strongly texts belong together by the words of all people, shape (n_first, n_second), >= 0.

        With weight w_u for person u and popularity n_i, damped by the setting ``balance`` b:
        sum_u w_u [u took i and j] / (n_i n_j)^(b / 2).
        """
        return np.asarray((self.readers[first] @ self.readers[second].T).todense(), dtype=np.float32)

    @property
    def fingerprint(self) -> str:
        """Digest of texts and pairs."""
        return fingerprint("pairs-1", self.texts, self.anchors, self.positives, self.kinds, self.readers.data)

    def __len__(self) -> int:
        return len(self.anchors)

    def __repr__(self) -> str:
        return f"TextPairs({len(self):,} pair{'s' if len(self) != 1 else ''}, {len(self.texts):,} items)"
