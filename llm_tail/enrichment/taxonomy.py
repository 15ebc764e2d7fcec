"""Taxonomy: what the catalogue's own categories look like as vectors, and which of them an item without one has.

Nothing is guessed unless guesses as sure as it came out right: a part of the items whose categories are known is
hidden, guessed, and looked up, and a guess's confidence is the share of those like it that were right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.catalog import CORE, Catalog
from llm_tail.embedding.embeddings import Embeddings, unit
from llm_tail.embedding.engine import TextEncoder
from llm_tail.enrichment.provenance import USER_WRITTEN
from llm_tail.errors import ConfigError

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

FOLDS = 5
MOST_VALUES = 2_000  # of a column, those of most items
MOST_HIDDEN = 20_000  # items that are hidden and guessed, to calibrate
FEWEST_JUDGED = 50  # guesses on hidden items, without which nothing is guessed
BIN = 25  # guesses whose share of right ones makes one point of the confidence
TEMPERATURE = 0.05
_BLOCK_BYTES = 64 << 20


class Attribute(NamedTuple):
    """A value that an item seems to have.

    Attributes
    ----------
    column, value : str
        Where it belongs, and what it is.
    confidence : float
        Share of guesses like it that were right on hidden items, in [0, 1].
    """

    column: str
    value: str
    confidence: float


@dataclass(frozen=True)
class ColumnReport:
    """How well the values of one column can be guessed.

    Parameters
    ----------
    column : str
        Its name.
    n_values, n_known : int
        Values that can be guessed, and items that have one of them.
    n_judged : int
        Items that were hidden and guessed for the two shares; the confidence was learned from others.
    precision : float
        Share of the confident guesses that were right, in [0, 1]; NaN where there was none.
    coverage : float
        Share of the hidden items that got a confident guess, in [0, 1].
    min_confidence : float
        What counted as confident.
    """

    column: str
    n_values: int
    n_known: int
    n_judged: int
    precision: float
    coverage: float
    min_confidence: float

    def __str__(self) -> str:
        right = "none" if np.isnan(self.precision) else f"{self.precision:.0%}"
        return (
            f"{self.column}: {self.n_values:,} values of {self.n_known:,} items; of {self.n_judged:,} hidden items "
            f"{self.coverage:.0%} got a guess, {right} of these right"
        )


@dataclass(frozen=True, eq=False)
class _Column:
    """The values of one column as vectors, and how sure a score is."""

    name: str
    values: list[str]
    prototypes: Floats  # (n_values, dim)
    scores: NDArray[np.float64]  # ascending
    confidences: NDArray[np.float64]


class Taxonomy:
    """Values of the catalogue's columns as vectors; made by `learn`.

    A value's vector is the mean of its items' (centred) vectors, mixed with that of its own words; an item's score for
    it is the softmax of the cosines over all values of the column, at temperature 0.05.

    Attributes
    ----------
    report : list of ColumnReport
        How well each column can be guessed.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> kinds = ["hammer", "novel"] * 60
    >>> catalog = Catalog.from_items([{"item_id": str(i), "kind": kind} for i, kind in enumerate(kinds)])
    >>> vectors = np.array([[1.0, 0.0] if kind == "novel" else [0.0, 1.0] for kind in kinds])
    >>> taxonomy = Taxonomy.learn(catalog, Embeddings(catalog.ids, vectors + rng.normal(0, 0.1, (120, 2))), ["kind"])
    >>> [(found.value, found.confidence > 0.9) for found in taxonomy.guess(np.array([[1.0, 0.1]]))[0]]
    [('novel', True)]
    """

    def __init__(self, columns: Sequence[_Column], mean: Floats, report: Sequence[ColumnReport]) -> None:
        self._columns, self._mean, self.report = list(columns), mean, list(report)

    @classmethod
    def learn(
        cls,
        catalog: Catalog,
        embeddings: Embeddings,
        columns: Sequence[str] | None = None,
        *,
        encoder: TextEncoder | None = None,
        thin: Embeddings | None = None,
        min_items: int = 3,
        words_weight: float = 0.3,
        min_confidence: float = 0.8,
        seed: int = 0,
    ) -> Self:
        """Learn what the values of the columns look like, and how far guesses can be trusted.

        Parameters
        ----------
        catalog : Catalog
            The items; lists tie by each element. Nothing that people did is looked at.
        embeddings : Embeddings
            Their vectors.
        columns : sequence of str, optional
            Which; those that `category_columns` finds if left out.
        encoder : TextEncoder, optional
            Makes vectors of the values' own words; they are left out of account without it.
        thin : Embeddings, optional
            Vectors of the same items made of as few words as those have that are to be guessed for: such as the title
            alone. Confidence is then learned on them, for a title says less than a whole description.
        min_items : int
            A value of fewer items is never guessed, >= 1.
        words_weight : float
            Share of the value's own words in its vector, in [0, 1].
        min_confidence : float
            What the report counts as a confident guess, in [0, 1].
        seed : int
            Of which items are hidden.

        Raises
        ------
        DataError
            If a column is missing.
        ConfigError
            If a setting is out of its range.

        Notes
        -----
        Items are hidden in five parts, each guessed by vectors made of the other four (at most 20,000 items are
        guessed). The share of right ones among 25 guesses of like score, made monotone by isotonic regression, is the
        confidence; one right and one wrong guess more are counted in, so that nothing is certain. A column with fewer
        than 50 guesses on hidden items stays silent. O(n_items n_values dim) time at most, blocks of 64 MB.
        """
        if min_items < 1 or not 0 <= words_weight <= 1 or not 0 <= min_confidence <= 1:
            given = f"min_items is {min_items}, words_weight {words_weight}, min_confidence {min_confidence}"
            raise ConfigError(f"{given}; expected at least 1, and two shares from 0 to 1")
        names = category_columns(catalog, min_items) if columns is None else list(columns)
        vectors = embeddings.on(catalog).vectors
        there = np.any(vectors != 0, axis=1)
        mean = vectors[there].mean(axis=0) if there.any() else np.zeros(embeddings.dim, np.float32)
        centred = _centred(vectors, mean)
        probes = centred if thin is None else _centred(thin.on(catalog).vectors, mean)
        learned, report = [], []
        for name in names:
            members, values = _members(catalog, name, min_items)
            members = sp.csr_matrix(sp.diags_array(there.astype(np.float32)) @ members)
            if not values:
                continue
            words = None if encoder is None else _centred(encoder.encode(values), mean)
            maker = _Prototypes(members, centred, words, words_weight)
            scores, right, items = _guessed(maker, probes, seed)
            learned.append(_Column(name, values, maker.make(), *_calibrated(scores, right)))
            report.append(_judged(name, len(values), members, scores, right, items, min_confidence))
        return cls(learned, np.asarray(mean, np.float32), report)

    @property
    def columns(self) -> list[str]:
        """The columns whose values can be guessed."""
        return [column.name for column in self._columns]

    def guess(
        self,
        vectors: NDArray[Any],
        *,
        columns: Sequence[str] | None = None,
        min_confidence: float = 0.8,
        most: int = 3,
    ) -> list[list[Attribute]]:
        """Return the values that items seem to have, surest first; nothing where nothing is sure.

        Parameters
        ----------
        vectors : array, shape (n, dim)
            Of the items, by the encoder of `learn`; a zero vector gets no guess.
        columns : sequence of str, optional
            Which; all if left out.
        min_confidence : float
            Less sure ones are left out, in [0, 1].
        most : int
            Of each column, at least 1.
        """
        found: list[list[Attribute]] = [[] for _ in range(len(vectors))]
        centred = _centred(vectors, self._mean)
        for column in self._columns:
            if columns is not None and column.name not in columns:
                continue
            places, scores = _best(centred, column.prototypes, most)
            sure = np.interp(scores, column.scores, column.confidences, left=0.0) if len(column.scores) else scores * 0
            fit = (sure >= min_confidence) & np.any(centred != 0, axis=1)[:, None]
            for row, place in zip(*np.nonzero(fit), strict=True):
                value = column.values[places[row, place]]
                found[row].append(Attribute(column.name, value, round(float(sure[row, place]), 3)))
        return [sorted(each, key=lambda one: -one.confidence) for each in found]

    def __repr__(self) -> str:
        parts = ", ".join(f"{column.name} {len(column.values):,}" for column in self._columns)
        return f"Taxonomy({parts or 'nothing'})"


def category_columns(catalog: Catalog, min_items: int = 3) -> list[str]:
    """Return the columns of words whose values are mostly shared: at least half of the filled items have a common one.

    What users wrote, such as tags, is left out by its name, for it can hold what is to be predicted; so are what was
    generated, and ids of other items, which are no words.

    Examples
    --------
    >>> rows = [{"item_id": str(i), "kind": "novel", "isbn": f"978-{i}", "year": 1900 + i} for i in range(9)]
    >>> category_columns(Catalog.from_items(rows))
    ['kind']
    """
    found = []
    for name in catalog.columns:
        if name in CORE or name.startswith("generated_") or USER_WRITTEN.search(name):
            continue
        filled = [values for values in _values(catalog, name) if values]
        if not filled or 2 * sum(values[0] in catalog for values in filled) >= len(filled):
            continue
        members, values = _members(catalog, name, min_items)
        n_shared = int((np.diff(members.indptr) > 0).sum())
        if len(values) and n_shared * 2 >= len(filled):
            found.append(name)
    return found


def _values(catalog: Catalog, column: str) -> list[list[Any]]:
    """Return the values of each row as a list; numbers and what is empty are left out."""

    def flat(value: Any) -> list[Any]:
        if isinstance(value, str):
            text = " ".join(value.split())
            return [text] if text else []
        return [part for one in value for part in flat(one)] if isinstance(value, list) else []

    return [flat(value) for value in catalog.column(column)]


def _members(catalog: Catalog, column: str, min_items: int) -> tuple[sp.csr_matrix, list[str]]:
    """Return which item has which value, shape (n_items, n_values), and the values, those of most items first."""
    numbers: dict[str, int] = {}
    shown: list[str] = []
    rows: list[int] = []
    places: list[int] = []
    for row, values in enumerate(_values(catalog, column)):
        for value in values:
            place = numbers.setdefault(value.lower(), len(numbers))
            if place == len(shown):
                shown.append(value)
            rows.append(row)
            places.append(place)
    ones = np.ones(len(rows), dtype=np.float32)
    members = sp.csr_matrix((ones, (rows, places)), shape=(len(catalog), len(shown)))
    members.data[:] = 1.0  # a value that stands twice counts once
    counts = np.bincount(members.indices, minlength=len(shown))
    kept = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    kept = kept[counts[kept] >= min_items]
    return sp.csr_matrix(members[:, kept]), [shown[place] for place in kept]


class _Prototypes:
    """Vectors of values, with all items or without those of a fold."""

    def __init__(self, members: sp.csr_matrix, vectors: Floats, words: Floats | None, words_weight: float) -> None:
        self.members, self.vectors, self.words, self.weight = members, vectors, words, words_weight
        self.sums = np.asarray(members.T @ vectors, np.float32)  # (n_values, dim)

    def make(self, without: Rows | None = None) -> Floats:
        sums = self.sums
        if without is not None:
            sums = sums - self.members[without].T @ self.vectors[without]
        means = unit(np.where(np.linalg.norm(sums, axis=1, keepdims=True) > 1e-4, sums, 0.0))
        if self.words is None:
            return means
        return unit((1 - self.weight) * means + self.weight * self.words)


def _guessed(
    maker: _Prototypes, probes: Floats, seed: int, most: int = 3
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Rows]:
    """Return score, whether right, and item of every guess on hidden items."""
    known = np.flatnonzero((np.diff(maker.members.indptr) > 0) & np.any(probes != 0, axis=1))
    known = np.random.default_rng(seed).permutation(known)
    parts: list[tuple[NDArray[np.float64], NDArray[np.bool_], Rows]] = []
    for fold in range(FOLDS if len(known) >= FOLDS else 0):
        hidden = known[fold::FOLDS]
        judged = hidden[: MOST_HIDDEN // FOLDS]
        places, scores = _best(probes[judged], maker.make(hidden), most)
        right = np.asarray(maker.members[np.repeat(judged, places.shape[1]), places.ravel()]).ravel() > 0
        parts.append((scores.ravel(), right, np.repeat(judged, places.shape[1])))
    if not parts:
        return np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))  # type: ignore[return-value]


def _best(vectors: Floats, prototypes: Floats, most: int) -> tuple[Rows, NDArray[np.float64]]:
    """Return the places and scores of the best values of each item, each of shape (n, most), best first."""
    most = min(most, len(prototypes))
    places = np.empty((len(vectors), most), dtype=np.int64)
    scores = np.empty((len(vectors), most), dtype=np.float64)
    step = max(1, _BLOCK_BYTES // (8 * len(prototypes)))
    for start in range(0, len(vectors), step):
        near = np.exp((vectors[start : start + step] @ prototypes.T).astype(np.float64) / TEMPERATURE)
        near = np.round(near / near.sum(axis=1, keepdims=True), 6)  # rounded: ties do not hang on the last bits
        top = np.argsort(-near, axis=1, kind="stable")[:, :most]
        places[start : start + step] = top
        scores[start : start + step] = np.take_along_axis(near, top, axis=1)
    return places, scores


def _calibrated(
    scores: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ascending scores and the confidence at each; empty where too few guesses were looked up."""
    if len(scores) < FEWEST_JUDGED:
        return np.zeros(0), np.zeros(0)
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(scores, kind="stable")
    # In bins: a regression on single guesses would find a run of lucky ones at the end.
    bins = np.arange(len(order)) * (len(order) // BIN) // len(order)
    size = np.bincount(bins)
    shares = (np.bincount(bins, right[order]) + 1) / (size + 2)
    smooth = isotonic_regression(shares, sample_weight=size)
    return np.bincount(bins, scores[order]) / size, np.asarray(smooth, np.float64)


def _judged(
    name: str,
    n_values: int,
    members: sp.csr_matrix,
    scores: NDArray[np.float64],
    right: NDArray[np.bool_],
    items: Rows,
    min_confidence: float,
) -> ColumnReport:
    """Return how confident guesses do: confidence learned on half of the hidden items, looked up on the others."""
    distinct = np.unique(items)
    learning = np.isin(items, distinct[np.random.default_rng(0).random(len(distinct)) < 0.5])
    at, confidence = _calibrated(scores[learning], right[learning])
    judged = ~learning
    n_judged = len(np.unique(items[judged]))
    sure = np.interp(scores[judged], at, confidence, left=0.0) if len(at) else np.zeros(judged.sum())
    told = sure >= min_confidence
    return ColumnReport(
        name,
        n_values,
        int((np.diff(members.indptr) > 0).sum()),
        n_judged,
        float(right[judged][told].mean()) if told.any() else float("nan"),
        len(np.unique(items[judged][told])) / max(n_judged, 1),
        min_confidence,
    )


def _centred(vectors: NDArray[Any], mean: Floats) -> Floats:
    """Return unit vectors without what all items share; zero vectors stay zero."""
    array = np.asarray(vectors, np.float32)
    there = np.any(array != 0, axis=1, keepdims=True)
    return unit(np.where(there, array - mean, 0.0))
