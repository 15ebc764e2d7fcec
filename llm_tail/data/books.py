"""The books that ship with the package, and simulated readers for them.

The books are real: 500 works of 61 languages, from the Epic of Gilgamesh to the present, with descriptions written for
this project. **The readers are not.** They are drawn from the process below, so that a demonstration, a tutorial or a
test has histories without a download and without anybody's private data. Figures measured on them say how the parts
work together; they are no evidence of quality.

How a simulated reader chooses
------------------------------
Every reader u takes books one after the other. Book i, if not taken before, is next with a probability proportional to

    exp( popularity_i + taste_u(subjects_i) + leaning_u(era_i, language_i) + noise_ui ) * loyalty_u(i) * series(i)

* ``popularity_i`` is -0.6 log(rank_i + 2) - 3.5 (rank_i / n_items)^4: Zipf's law, with a cut-off that leaves the last
  books almost unread. The ranks, from 1, are a seeded permutation; which book is popular has nothing to do with what
  it is.
* ``taste_u`` is a draw from a Dirichlet distribution over the subjects, with a total concentration of 3, shared out
  by how many books have a subject, so that a few subjects carry nearly all of it. A book matches by its own subjects
  and by those that often go with them. The match is centred and scaled to a standard deviation of 1.6.
* ``leaning_u`` is a normal draw for each era (cut at 500, 1700, 1900, 1950 and 1990) with standard deviation 0.7, and
  one for each original language with 0.3.
* ``noise_ui`` is normal with standard deviation 0.4: likes that no metadata explains.
* ``loyalty_u(i)`` is 1 until u has taken a book of the same author, then exp of an exponential draw with mean 0.8.
* ``series(i)`` is 12 where the volume before i (the nearest earlier one of the catalogue) has been taken, 0.04 where
  there is one and it has not, and 1 elsewhere.

A history has a log-normal length with median 14 and sigma 0.6, rounded and clipped to 5 to 80. A reader begins on a day
of 2010 to 2015 and takes the next book after a log-normal number of days, median 18 and sigma 0.9.

The process reads ids, subjects, authors, years, languages and series. It never sees a title, a description or a vector:
if it did, recommending by text would win by construction. Texts help all the same, because descriptions and subjects
speak of the same books. The strengths above were chosen by hand so that co-occurrence and texts both carry some
signal; that one of them beats chance here is therefore no finding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.interactions import Interactions
from llm_tail.errors import DataError

ERAS = (500, 1700, 1900, 1950, 1990)  # first years of the second to the last era
SHORTEST, LONGEST = 5, 80  # books in a history
FIRST_DAY, START_DAYS = 1_262_304_000.0, 6 * 365  # 2010-01-01 UTC in seconds; days in which readers begin
DAY = 86_400.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Habits:
    """How strongly each part of the process pulls; the defaults are those of the module's description.

    Parameters
    ----------
    popularity : float
        Exponent of Zipf's law, at least 0.
    cutoff : float
        How far the least popular book falls below that law, as an exponent of e, at least 0.
    taste : float
        Standard deviation of the match of subjects in the exponent, at least 0.
    concentration : float
        Of the Dirichlet draw, above 0; the smaller, the fewer subjects a reader cares for.
    era, language, noise : float
        Standard deviations, at least 0.
    loyalty : float
        Mean of the exponential draw, at least 0.
    next_volume, skipped_volume : float
        Factors, above 0, for a volume whose predecessor was taken, and for one whose predecessor was not.
    median_length : float
        Books in a history, above 0, before clipping to 5 to 80.

    Raises
    ------
    DataError
        If a value is out of its range.
    """

    popularity: float = 0.6
    cutoff: float = 3.5
    taste: float = 1.6
    concentration: float = 3.0
    era: float = 0.7
    language: float = 0.3
    noise: float = 0.4
    loyalty: float = 0.8
    next_volume: float = 12.0
    skipped_volume: float = 0.04
    median_length: float = 14.0

    def __post_init__(self) -> None:
        above_zero = ("concentration", "next_volume", "skipped_volume", "median_length")
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0 or (value == 0 and field.name in above_zero):
                bound = "above 0" if field.name in above_zero else "at least 0"
                raise DataError(f"{field.name} is {value}, expected a number {bound}")


def load_catalog() -> Catalog:
    """Return the 500 books that ship with the package, by year.

    Returns
    -------
    Catalog
        Columns ``item_id``, ``title``, ``description`` (25 to 60 words), ``author``, ``year`` (int, negative before the
        common era), ``language`` (of the original), ``subjects`` (list of str, 2 to 5), ``series`` (str or null) and
        ``volume`` (int or null).

    Notes
    -----
    Reads 0.3 MB: about 10 ms.

    Examples
    --------
    >>> load_catalog()
    Catalog(books: 500 items)
    >>> load_catalog()["dracula"].fields["subjects"]
    ['gothic', 'horror', 'letters', 'death']
    """
    lines = files("llm_tail.data").joinpath("books.jsonl").read_text(encoding="utf-8").splitlines()
    return Catalog.from_items([json.loads(line) for line in lines], name="books")


def load_books(seed: int = 0) -> tuple[Catalog, Interactions]:
    """Return the shipped books and 1,200 simulated readers of them.

    Parameters
    ----------
    seed : int
        Of the readers; the books are always the same.

    Returns
    -------
    catalog : Catalog
        See `load_catalog`.
    events : Interactions
        Of simulated readers, not of people; see `simulate_readers`.

    Examples
    --------
    >>> catalog, events = load_books()
    >>> len(catalog), len(events.users), events.items == catalog.ids
    (500, 1200, True)
    """
    catalog = load_catalog()
    return catalog, simulate_readers(catalog, seed=seed)


def simulate_readers(
    catalog: Catalog, *, n_readers: int = 1200, seed: int = 0, habits: Habits | None = None
) -> Interactions:
    """Draw simulated readers of a catalogue: invented people, by the process that the module describes.

    Parameters
    ----------
    catalog : Catalog
        With columns ``author``, ``year``, ``language``, ``subjects``, ``series`` and ``volume``; nulls are allowed. No
        other column but ``item_id`` is looked at.
    n_readers : int
        At least 1.
    seed : int
        The same seed and metadata give the same events.
    habits : Habits, optional
        Strengths of the parts.

    Returns
    -------
    Interactions
        Events of simulated readers, by reader and then by position, with positions from 0 and rising times (seconds
        since 1970). Readers are called ``reader-0001`` and so on; a book stands at most once in a history.

    Raises
    ------
    DataError
        If `n_readers` is below 1 or a column is missing.

    Notes
    -----
    One round for each place in the histories, all readers at once: O(n_events n_items) time, O(n_readers n_items)
    memory; 0.4 s and 40 MB for 1,200 readers of 500 books.

    Examples
    --------
    >>> simulate_readers(load_catalog(), n_readers=3)
    Interactions(49 events, 3 users, 500 items)
    """
    if n_readers < 1:
        raise DataError(f"n_readers is {n_readers}, expected at least 1")
    habits = Habits() if habits is None else habits
    rng = np.random.default_rng(seed)
    lengths = _lengths(n_readers, len(catalog), habits, rng)
    wish = _wish(catalog, n_readers, habits, rng)
    choices = _choose(catalog, wish, lengths, habits, rng)  # (n_readers, longest)
    taken = choices >= 0
    days = rng.lognormal(np.log(18.0), 0.9, choices.shape)
    days[:, 0] = rng.uniform(0.0, START_DAYS, n_readers)
    times = np.floor(FIRST_DAY + DAY * np.cumsum(days, axis=1))
    reader_rows, positions = np.nonzero(taken)
    width = max(4, len(str(n_readers)))
    readers = IdMap([f"reader-{n + 1:0{width}d}" for n in range(n_readers)], "user")
    return Interactions(readers, catalog.ids, reader_rows, choices[taken], times=times[taken], positions=positions)


def _lengths(n_readers: int, n_items: int, habits: Habits, rng: np.random.Generator) -> Rows:
    drawn = np.rint(rng.lognormal(np.log(habits.median_length), 0.6, n_readers))
    lengths: Rows = np.minimum(np.clip(drawn, SHORTEST, LONGEST), n_items).astype(np.int64)
    return lengths


def _wish(catalog: Catalog, n_readers: int, habits: Habits, rng: np.random.Generator) -> Floats:
    """Return how much each reader wants each book before any was taken, positive, shape (n_readers, n_items)."""
    n_items = len(catalog)
    rank = rng.permutation(n_items) + 1.0
    popularity = -habits.popularity * np.log(rank + 2.0) - habits.cutoff * (rank / n_items) ** 4
    log_wish = np.tile(popularity, (n_readers, 1))  # (n_readers, n_items)
    subjects = _memberships([list(dict.fromkeys(s or [])) for s in catalog.column("subjects")])
    if subjects.shape[1]:
        shares = subjects.sum(axis=0) / subjects.sum()
        tastes = rng.dirichlet(habits.concentration * shares, n_readers)  # (n_readers, n_subjects)
        even = subjects / np.sqrt(subjects.sum(axis=0))  # a common subject ties its books less
        near = (even.T @ even) @ even.T  # (n_subjects, n_items): the subject itself and those it goes with
        near /= np.maximum(np.linalg.norm(near, axis=0), 1e-12)
        match = (tastes - shares) @ near  # (n_readers, n_items); centred, so that no book is liked by its subjects
        log_wish += habits.taste * match / max(match.std(), 1e-12)
    years = catalog.column("year")
    eras = _memberships([[] if y is None else [int(np.searchsorted(ERAS, y, side="right"))] for y in years])
    languages = _memberships([[x] if x else [] for x in catalog.column("language")])
    for members, spread in ((eras, habits.era), (languages, habits.language)):
        log_wish += spread * rng.standard_normal((n_readers, members.shape[1])) @ members.T
    log_wish += habits.noise * rng.standard_normal((n_readers, n_items))
    wish: Floats = np.exp(log_wish - log_wish.max(axis=1, keepdims=True))
    return wish


def _choose(catalog: Catalog, wish: Floats, lengths: Rows, habits: Habits, rng: np.random.Generator) -> Rows:
    """Return what each reader takes in turn, shape (n_readers, longest), -1 behind the end."""
    n_readers = len(wish)
    choices = np.full((n_readers, int(lengths.max())), -1, dtype=np.int64)
    before = _volume_before(catalog)
    same_author = _same_value(catalog.column("author"))
    loyalty = np.exp(rng.exponential(habits.loyalty, n_readers))
    later = np.flatnonzero(before >= 0)
    after = np.full(len(before), -1, dtype=np.int64)
    after[before[later]] = later
    wish = wish.copy()
    wish[:, later] *= habits.skipped_volume
    known = np.zeros((n_readers, len(catalog)), dtype=bool)  # has taken a book of this author
    for turn in range(choices.shape[1]):
        readers = np.flatnonzero(lengths > turn)
        # The largest wish / Exp(1) is a draw in proportion to the wishes (an exponential race).
        race = wish[readers] / rng.standard_exponential((len(readers), len(catalog)))
        books = race.argmax(axis=1)
        choices[readers, turn] = books
        wish[readers, books] = 0.0
        follows = after[books] >= 0
        wish[readers[follows], after[books[follows]]] *= habits.next_volume / habits.skipped_volume
        new = same_author[books] & ~known[readers]  # (n_turn, n_items)
        wish[readers] *= np.where(new, loyalty[readers, None], 1.0)
        known[readers] |= same_author[books]
    return choices


def _volume_before(catalog: Catalog) -> Rows:
    """Return the row of the nearest earlier volume of the same series, shape (n_items,), -1 where there is none."""
    before = np.full(len(catalog), -1, dtype=np.int64)
    by_series: dict[str, list[tuple[int, int]]] = {}
    for row, (series, volume) in enumerate(zip(catalog.column("series"), catalog.column("volume"), strict=True)):
        if series and volume is not None:
            by_series.setdefault(series, []).append((volume, row))
    for volumes in by_series.values():
        rows = [row for _, row in sorted(volumes)]
        before[rows[1:]] = rows[:-1]
    return before


def _same_value(values: list[str | None]) -> NDArray[np.bool_]:
    """Return which rows share a value, shape (n_items, n_items); a missing one and Anonymous share with nobody."""
    members = _memberships([[v] if v and v != "Anonymous" else [] for v in values])
    return (members @ members.T) > 0


def _memberships(values: Sequence[Sequence[Any]]) -> Floats:
    """Return 1.0 where a row has a value, shape (n_items, n_values), values in sorted order."""
    names = {name: column for column, name in enumerate(sorted({v for row in values for v in row}))}
    members = np.zeros((len(values), len(names)))
    for row, row_values in enumerate(values):
        members[row, [names[v] for v in row_values]] = 1.0
    return members
