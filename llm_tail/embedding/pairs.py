"""TextPairs: texts that should lie close, because the same people took the items, or because the catalogue says so."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.artifacts import fingerprint
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import Rows
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.mixing import put_together
from llm_tail.embedding.sampling import (
    MOST_OF_ONE,
    Floats,
    Known,
    any_shared,
    checked_sides,
    checked_teacher,
    draw_pairs,
    fewer_fields,
    histories,
    one_each,
    taught_pairs,
    ties,
    titles_and_descriptions,
    turned,
    weighted_draw,
    words_of,
)
from llm_tail.embedding.text import ItemText
from llm_tail.errors import DataError

CO_INTERACTION, HISTORY, ATTRIBUTE, TEXT, QUESTION = range(5)
KINDS = ("co-interaction", "history", "attribute", "text", "question")


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
    voices : array of int8, shape (n_users,), optional
        The kind of pairs that each column of `readers` speaks about; about all of them if left out.
    teacher : csr_matrix of float32, shape (n_texts, n_texts), optional
        Weights >= 0 that stand in for the words of people in the soft labels of co-interaction pairs.
    n_items : int, optional
        How many of the texts are items'; all if left out.

    Attributes
    ----------
    fields : list of tuple of str, or None
        The parts of each item's text, where `with_fields` has told them.
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
        voices: NDArray[np.int8] | None = None,
        teacher: sp.csr_matrix | None = None,
        n_items: int | None = None,
    ) -> None:
        self.anchors, self.positives = checked_sides(anchors, positives, len(texts))
        self.texts, self.n_items = texts, len(texts) if n_items is None else n_items
        self.log_popularity = np.asarray(log_popularity, np.float32)
        self.provenance = provenance or {}
        if len(self.log_popularity) != len(texts):
            raise DataError(f"{len(self.log_popularity)} popularities for {len(texts)} texts; expected one for each")
        n = len(self.anchors)
        self.kinds = np.zeros(n, np.int8) if kinds is None else np.asarray(kinds, np.int8)
        self.strengths = np.ones(n, np.float32) if strengths is None else np.asarray(strengths, np.float32)
        self.readers = one_each(self.anchors, self.positives, len(texts)) if readers is None else readers.tocsr()
        if self.kinds.shape != (n,) or self.strengths.shape != (n,) or self.readers.shape[0] != len(texts):
            raise DataError(
                f"kinds {self.kinds.shape} and strengths {self.strengths.shape} for {n} pairs, readers of "
                f"{self.readers.shape[0]} texts for {len(texts)}; expected one of each"
            )
        self.voices, self.teacher = voices, teacher
        self.fields: list[tuple[str, ...]] | None = None
        self._separator = ""
        self._heard: dict[int, sp.csr_matrix] = {}

    @classmethod
    def from_interactions(
        cls,
        train: Interactions,
        catalog: Catalog,
        text: ItemText | None = None,
        *,
        n_pairs: int = 6_400,
        max_per_user: int = MOST_OF_ONE,
        balance: float = 0.5,
        session_days: float | None = None,
        held_out: Interactions | None = None,
        teacher: sp.spmatrix | sp.sparray | NDArray[np.floating] | None = None,
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
            events; 0 keeps to what was taken at the same moment (a basket). Soft labels and `together` then go by
            sessions too. The whole history if left out.
        held_out : Interactions, optional
            Validation and test events; a check that none of them stands in `train`.
        teacher : sparse matrix or array, shape (n_items, n_items), optional
            How strongly items (rows: of the anchor) belong together by a model that was fitted on `train` alone, finite
            and >= 0. The pairs are drawn in proportion to it instead of to the counts, and the soft labels come from
            it; `balance` and `max_per_user` say nothing then.
        seed : int
            The same seed gives the same pairs.

        Raises
        ------
        DataError
            If nobody took two items that have texts, `train` is no `Interactions`, holds an event of `held_out`,
            sessions are asked for and there are no times, or the teacher is of another shape or has wrong values.

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
        (TextPairs(1 pair, 3 texts), [0, 1])
        """
        if n_pairs < 1 or max_per_user < 1 or not 0 <= balance <= 1:
            found = f"n_pairs is {n_pairs} and max_per_user {max_per_user}, balance {balance}"
            raise DataError(f"{found}; expected at least 1 of each, and a balance from 0 to 1")
        known = Known(train, catalog, text, balance, held_out, session_days)
        rng = np.random.default_rng(seed)
        words = None if teacher is None else checked_teacher(teacher, len(known.texts))
        if words is None:
            first, second, weight = draw_pairs(known.groups, known.usable.item_rows, max_per_user, rng)
            weight *= (known.counts[first] * known.counts[second]).astype(np.float64) ** (-balance / 2)
        else:
            first, second, weight = taught_pairs(words, known.usable.item_rows)
        if not len(first):
            raise DataError(
                f"no pair can be made from {len(train):,} training events of {len(np.unique(train.user_rows)):,} "
                "people: nobody took two different items that have a text; leave [lora] off or bring more data"
            )
        kept = weighted_draw(weight, n_pairs, rng)
        anchors, positives = turned(first[kept], second[kept], rng)
        provenance = known.provenance | {"n_pairs": len(anchors), "seed": seed, "kinds": {KINDS[0]: len(anchors)}}
        return cls(
            anchors,
            positives,
            known.texts,
            known.log_popularity,
            provenance,
            readers=known.readers,
            strengths=known.together_share(anchors, positives),
            teacher=words,
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
        queries, people, items = histories(known, max(length, 1), max(n_pairs, 1), np.random.default_rng(seed))
        m = len(queries)
        if not m or length < 1 or n_pairs < 1:
            raise DataError(
                f"no history of {length} can be made from {len(train):,} training events: nobody took two items that "
                "have a text"
            )
        n, own = len(known.texts), (np.ones(m, np.float32), (np.arange(m), people))
        readers = sp.csr_matrix(own, shape=(m, known.readers.shape[1]))
        return cls(
            n + np.arange(m),
            items,
            [*known.texts, *queries],
            np.concatenate([known.log_popularity, np.full(m, -np.log(m), np.float32)]),
            known.provenance | {"n_pairs": m, "seed": seed, "kinds": {KINDS[HISTORY]: m}},
            kinds=np.full(m, HISTORY, np.int8),
            n_items=n,
            readers=sp.vstack([known.readers, readers], format="csr"),
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
            How many to draw at most, >= 1; of one value at most 32, as of one person.
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
        rng = np.random.default_rng(seed)
        rows, groups = ties(catalog, columns, texts, hub_cap)
        first, second, weight = draw_pairs(groups, rows, MOST_OF_ONE, rng)
        if not len(first):
            raise DataError(f"no two items share a value of {', '.join(columns)} that at most {hub_cap} items have")
        kept = weighted_draw(weight, n_pairs, rng)
        provenance = {"n_pairs": len(kept), "seed": seed, "kinds": {KINDS[2]: len(kept)}, "columns": list(columns)}
        return cls(
            first[kept],
            second[kept],
            texts,
            np.full(len(texts), -np.log(len(texts)), np.float32),
            provenance,
            kinds=np.full(len(kept), ATTRIBUTE, np.int8),
            readers=words_of(rows, groups, len(texts)),
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
        chosen, extra = titles_and_descriptions(catalog, texts, n_pairs, np.random.default_rng(seed))
        n, m = len(texts), len(chosen)
        return cls(
            n + np.arange(m),
            n + m + np.arange(m),
            [*texts, *extra],
            np.full(n + 2 * m, -np.log(n), np.float32),
            {"n_pairs": m, "seed": seed, "kinds": {KINDS[3]: m}},
            kinds=np.full(m, TEXT, np.int8),
            n_items=n,
        )

    @classmethod
    def mixed(cls, parts: Sequence[TextPairs]) -> TextPairs:
        """Put pairs of several kinds together, for training on several tasks at once.

        Parameters
        ----------
        parts : sequence of TextPairs
            All with the same item texts in front. Soft labels of a kind come from the words of its own part, and who is
            no negative of whom from those of all parts; popularity from the first part that was made from events.

        Raises
        ------
        DataError
            If the parts have different numbers of item texts.
        """
        return cls(**put_together(parts))

    def heard_by(self) -> NDArray[np.int8]:
        """Return the kind that each column of `readers` speaks about; that of the first pair where none is told."""
        return np.full(self.readers.shape[1], self.kinds[0], np.int8) if self.voices is None else self.voices

    def with_fields(self, catalog: Catalog, text: ItemText | None = None) -> Self:
        """Return the same pairs, which know the fields of the items' texts: for ``field_dropout``.

        Parameters
        ----------
        catalog : Catalog
            The items, those of the first ``len(catalog)`` texts.
        text : ItemText, optional
            How an item became a text.

        Examples
        --------
        >>> catalog = Catalog.from_items([{"item_id": i, "title": i, "description": "novel"} for i in ("emma", "it")])
        >>> pairs = TextPairs([0], [1], ItemText().texts(catalog), np.zeros(2)).with_fields(catalog)
        >>> sorted(pairs.shortened(np.array([0]), 1.0, np.random.default_rng(0)).values())[0] in ("emma", "novel")
        True
        """
        text = text or ItemText()
        other = copy.copy(self)
        other.fields, other._separator = text.parts(catalog), text.config.separator
        return other

    def shortened(self, rows: Rows, share: float, rng: np.random.Generator) -> dict[int, str]:
        """Return shorter texts for a share of `rows`, by place: some of the fields, at least one, never all.

        Parameters
        ----------
        rows : array of int64, shape (n,)
            Rows of texts.
        share : float
            How many of them lose fields, in [0, 1].
        rng : numpy.random.Generator
            Draws both.
        """
        return fewer_fields(self.fields or [], self._separator, rows, share, rng)

    def together(self, first: Rows, second: Rows) -> NDArray[np.bool_]:
        """Return which of `first` and `second` (rows of texts) anyone took together, shape (n_first, n_second)."""
        return self.strengths_between(first, second) > 0

    def together_each(self, first: Rows, others: Rows) -> NDArray[np.bool_]:
        """Return which of its own `others` (n, k) each of `first` (n,) was taken together with, shape (n, k)."""
        return any_shared(self.readers, first, others)

    def strengths_between(self, first: Rows, second: Rows, kind: int | None = None) -> Floats:
        """Return how strongly texts belong together by the words of all people, shape (n_first, n_second), >= 0.

        With weight w_u for person u and popularity n_i, damped by the setting ``balance`` b:
        sum_u w_u [u took i and j] / (n_i n_j)^(b / 2). Given a `kind`, only what speaks about pairs of it counts; of
        co-interaction a teacher says it, where there is one.

        Parameters
        ----------
        first, second : array of int64, shape (n_first,) and (n_second,)
            Rows of texts.
        kind : int, optional
            A place in `KINDS`.
        """
        if kind == CO_INTERACTION and self.teacher is not None:
            return np.asarray(self.teacher[first][:, second].todense(), dtype=np.float32)
        readers = self.readers if kind is None or self.voices is None else self._of(kind)
        return np.asarray((readers[first] @ readers[second].T).todense(), dtype=np.float32)

    def _of(self, kind: int) -> sp.csr_matrix:
        if kind not in self._heard:
            self._heard[kind] = self.readers[:, np.flatnonzero(self.voices == kind)]
        return self._heard[kind]

    @property
    def fingerprint(self) -> str:
        """Digest of everything that training sees of them."""
        said = [self.readers] if self.teacher is None else [self.readers, self.teacher]
        words = [part for matrix in said for part in (matrix.data, matrix.indices, matrix.indptr)]
        arrays = [self.anchors, self.positives, self.kinds, self.strengths, self.log_popularity, *words]
        voices = [] if self.voices is None else self.voices.tolist()
        return fingerprint("pairs-3", self.texts, self.n_items, voices, self.fields, self._separator, *arrays)

    def __len__(self) -> int:
        return len(self.anchors)

    def __repr__(self) -> str:
        return f"TextPairs({len(self):,} pair{'s' if len(self) != 1 else ''}, {len(self.texts):,} texts)"
