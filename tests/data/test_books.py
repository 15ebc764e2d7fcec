import json
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pytest

from llm_tail.data.books import ERAS, LONGEST, SHORTEST, Habits, load_books, load_catalog, simulate_readers
from llm_tail.data.catalog import Catalog
from llm_tail.errors import DataError


@pytest.fixture(scope="module")
def books():
    return load_catalog()


@pytest.fixture(scope="module")
def events(books):
    return simulate_readers(books)


def followers(books):
    """Pairs of rows: a volume and the next one that the catalogue has."""
    volumes = {}
    for row, item in enumerate(books):
        if "series" in item.fields:
            volumes.setdefault(item.fields["series"], []).append((item.fields["volume"], row))
    return np.array([(a[1], b[1]) for v in volumes.values() for a, b in zip(sorted(v), sorted(v)[1:], strict=False)])


def same_events(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("user_rows", "item_rows", "times", "positions"))


def two_volumes(**changes):
    rows = [
        {"item_id": f"b{n}", "author": "A", "year": 1900, "language": "English", "subjects": ["sea"]} for n in range(9)
    ]
    for n, row in enumerate(rows):
        row |= {"series": "S" if n < 2 else None, "volume": n + 1 if n < 2 else None} | changes
    return Catalog.from_items(rows)


# The books


def test_the_catalogue_is_large_and_wide(books):
    assert repr(books) == f"Catalog(books: {len(books)} items)"
    assert len(books) >= 400
    assert len(set(books.column("language"))) >= 30
    years = books.column("year")
    assert max(years) - min(years) > 3000
    assert years == sorted(years)
    assert len({a for a, b in followers(books)}) >= 25
    assert len({books.column("series")[a] for a, b in followers(books)}) >= 25


def test_every_field_has_its_type(books):
    types = dict(zip(books.columns, books.table.schema.types, strict=True))
    assert list(types)[:3] == ["item_id", "title", "description"]
    assert set(list(types)[3:]) == {"author", "year", "language", "subjects", "series", "volume"}
    assert pa.types.is_integer(types["year"]) and pa.types.is_integer(types["volume"])
    assert types["subjects"] == pa.list_(pa.string())
    for item in books:
        assert item.item_id.isascii() and item.item_id == item.item_id.lower() and " " not in item.item_id
        assert item.title and item.fields["author"] and item.fields["language"]
        assert 2 <= len(set(item.fields["subjects"])) == len(item.fields["subjects"]) <= 5
        assert ("series" in item.fields) == ("volume" in item.fields)


def test_descriptions_are_sentences_of_25_to_60_words(books):
    descriptions = books.column("description")
    assert {len(d.split()) for d in descriptions} <= set(range(25, 61))
    assert all(d.endswith((".", "?", "!")) and d == " ".join(d.split()) for d in descriptions)
    assert len(set(descriptions)) == len(books)
    sales_talk = ("masterpiece", "bestseller", "bestselling", "acclaimed", "this book", "must-read")
    assert [d for d in descriptions if any(word in d.lower() for word in sales_talk)] == []


def test_no_book_stands_twice(books):
    assert len(set(zip(books.titles, books.column("author"), strict=True))) == len(books)
    volumes = [(s, v) for s, v in zip(books.column("series"), books.column("volume"), strict=True) if s]
    assert len(set(volumes)) == len(volumes)


def test_one_spelling_for_an_author_a_series_and_a_subject(books):
    subjects = [s for row in books.column("subjects") for s in row]
    assert all(s == s.strip().lower() for s in subjects)
    for names in (books.column("author"), [s for s in books.column("series") if s], subjects):
        by_letters = {}
        for name in names:
            by_letters.setdefault("".join(c for c in name.lower() if c.isalpha()), set()).add(name)
        assert [group for group in by_letters.values() if len(group) > 1] == []


def test_the_file_is_one_json_object_a_line():
    text = files("llm_tail.data").joinpath("books.jsonl").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "\r" not in text
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


# The readers


def test_readers_have_histories_of_the_stated_lengths(events):
    lengths = np.bincount(events.user_rows)
    assert len(lengths) == 1200
    assert lengths.min() >= SHORTEST and lengths.max() <= LONGEST
    assert 12 <= np.median(lengths) <= 16
    assert events.users[0] == "reader-0001"


def test_nobody_reads_a_book_twice(events):
    assert events.matrix().nnz == len(events)


def test_events_are_in_order_of_reader_position_and_time(events):
    assert np.array_equal(events.order(), np.arange(len(events)))
    same_reader = np.diff(events.user_rows) == 0
    assert (np.diff(events.times)[same_reader] > 0).all()
    assert (np.diff(events.positions)[same_reader] == 1).all()
    assert (events.positions[np.flatnonzero(~same_reader) + 1] == 0).all()


def test_the_seed_decides(books, events):
    assert same_events(events, load_books(seed=0)[1])
    assert not np.array_equal(simulate_readers(books, seed=1).item_rows, events.item_rows)


def test_words_have_no_influence(books, events):
    """Readers who looked at descriptions would make every text model look good."""
    rng = np.random.default_rng(5)
    table = books.table
    for column in ("title", "description"):
        shuffled = table[column].take(pa.array(rng.permutation(len(books))))
        table = table.set_column(table.column_names.index(column), column, shuffled)
    assert same_events(simulate_readers(Catalog(table)), events)
    assert same_events(simulate_readers(Catalog(table.drop_columns(["title", "description"]))), events)


def test_metadata_have_influence(books, events):
    order = pa.array(np.random.default_rng(5).permutation(len(books)))
    table = books.table.set_column(books.columns.index("subjects"), "subjects", books.table["subjects"].take(order))
    assert not np.array_equal(simulate_readers(Catalog(table)).item_rows, events.item_rows)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_popularity_has_a_head_and_a_long_tail(books, seed):
    counts = np.sort(simulate_readers(books, seed=seed).counts())[::-1]
    head_share = counts[: len(counts) // 5].sum() / counts.sum()
    assert 0.38 <= head_share <= 0.52
    assert counts[0] > 4 * np.median(counts)
    assert 10 <= (counts < 5).sum() <= 60


def test_the_next_volume_follows_the_one_before(books, events):
    taken = events.matrix().toarray() > 0
    first, second = followers(books).T
    had_first = taken[:, first]
    follow = taken[:, second][had_first].mean()
    others = taken[:, second][~had_first].mean()
    assert follow > 0.4
    assert others < 0.02
    position = np.full(taken.shape, -1)
    position[events.user_rows, events.item_rows] = events.positions
    took_second = taken[:, second]
    in_order = had_first & (position[:, first] < position[:, second])
    assert in_order[took_second].mean() > 0.75


def test_readers_stay_with_subjects_and_authors(books, events):
    """Two books of one history share a subject, or an author, more often than two books at random."""
    shuffled = np.random.default_rng(0).permutation(events.item_rows)
    pairs = np.flatnonzero(np.diff(events.user_rows) == 0)
    subjects, authors = [set(s) for s in books.column("subjects")], books.column("author")

    def shared(rows, test):
        return np.mean([test(rows[p], rows[p + 1]) for p in pairs])

    def subject(a, b):
        return bool(subjects[a] & subjects[b])

    def author(a, b):
        return authors[a] == authors[b]

    assert shared(events.item_rows, subject) > 1.4 * shared(shuffled, subject)
    assert shared(events.item_rows, author) > 3 * shared(shuffled, author)


# Settings and edges


def test_without_any_pull_all_books_are_read_alike(books):
    flat = Habits(0, 0, 0, 3.0, 0, 0, 0, 0, 1.0, 1.0)
    counts = simulate_readers(books, habits=flat).counts()
    assert counts.std() < 2 * np.sqrt(counts.mean())


def test_a_volume_that_may_not_be_skipped_never_comes_first():
    readers = simulate_readers(two_volumes(), n_readers=200, habits=Habits(skipped_volume=1e-12, median_length=4))
    first = {(u, i): p for u, i, p in zip(readers.user_rows, readers.item_rows, readers.positions, strict=True)}
    seconds = [(u, p) for (u, i), p in first.items() if i == 1]
    assert seconds
    assert all(first[u, 0] < p for u, p in seconds)


def test_a_history_is_never_longer_than_the_catalogue():
    readers = simulate_readers(two_volumes(), n_readers=20, habits=Habits(median_length=70))
    assert np.bincount(readers.user_rows).tolist() == [9] * 20
    assert readers.matrix().nnz == 180


def test_missing_metadata_are_allowed():
    nothing = dict.fromkeys(("author", "year", "language", "subjects", "series", "volume"))
    readers = simulate_readers(two_volumes(**nothing), n_readers=5)
    assert len(readers) >= 25


def test_eras_rise():
    assert list(ERAS) == sorted(ERAS)


@pytest.mark.parametrize("n_readers", [0, -3])
def test_no_readers_is_an_error(books, n_readers):
    with pytest.raises(DataError, match=f"n_readers is {n_readers}, expected at least 1"):
        simulate_readers(books, n_readers=n_readers)


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="no column 'subjects'"):
        simulate_readers(Catalog.from_items([{"item_id": "a"}]))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"median_length": 0.0}, "median_length is 0.0, expected a number above 0"),
        ({"noise": -1.0}, "noise is -1.0, expected a number at least 0"),
        ({"taste": float("nan")}, "taste is nan, expected a number at least 0"),
    ],
)
def test_habits_out_of_range_are_named(setting, words):
    with pytest.raises(DataError, match=words):
        Habits(**setting)
