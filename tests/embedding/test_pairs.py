import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.pairs import ATTRIBUTE, CO_INTERACTION, HISTORY, TEXT, TextPairs
from llm_tail.embedding.sampling import check_no_leak
from llm_tail.errors import DataError

CATALOG = Catalog.from_items([{"item_id": str(i), "title": f"item {i}"} for i in range(30)])


def pairs_of(taken, **options):
    events = [(user, str(item)) for user, items in taken.items() for item in items]
    return TextPairs.from_interactions(Interactions.from_pairs(events, items=CATALOG.ids), CATALOG, **options)


def as_set(pairs):
    return {frozenset(pair) for pair in zip(pairs.anchors.tolist(), pairs.positives.tolist(), strict=True)}


def test_all_pairs_of_a_person_with_few_items():
    pairs = pairs_of({"ann": [1, 2, 3], "bob": [7, 9], "cid": [4]})
    assert as_set(pairs) == {frozenset(p) for p in [(1, 2), (1, 3), (2, 3), (7, 9)]}
    assert len(pairs) == 4 and pairs.texts[7] == "item 7"


taken = st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(0, 29), max_size=30), min_size=1)


@settings(deadline=None)
@given(taken, st.integers(1, 20), st.integers(1, 40), st.integers(0, 3))
def test_pairs_are_distinct_items_of_one_person_within_the_limits(taken, max_per_user, n_pairs, seed):
    possible = {frozenset((i, j)) for items in taken.values() for i in items for j in items if i != j}
    options = {"max_per_user": max_per_user, "n_pairs": n_pairs, "seed": seed}
    if not possible:
        with pytest.raises(DataError):
            pairs_of(taken, **options)
        return
    pairs = pairs_of(taken, **options)
    assert as_set(pairs) <= possible and (pairs.anchors != pairs.positives).all()
    assert len(pairs) <= min(n_pairs, max_per_user * len(taken))
    again = pairs_of(taken, **options)
    np.testing.assert_array_equal(pairs.anchors, again.anchors)
    np.testing.assert_array_equal(pairs.positives, again.positives)


def test_a_heavy_reader_does_not_drown_the_others():
    pairs = pairs_of({"heavy": range(28), "light": [28, 29]}, max_per_user=10)
    assert frozenset((28, 29)) in as_set(pairs) and 2 <= len(pairs) <= 11


def test_another_seed_draws_other_pairs():
    first, second = (pairs_of({"ann": range(30)}, seed=seed) for seed in (0, 1))
    assert as_set(first) != as_set(second)


def test_popularity_and_provenance():
    pairs = pairs_of({"ann": [0, 1], "bob": [0, 2]})
    np.testing.assert_allclose(pairs.log_popularity[[0, 1, 29]], np.log([2 / 4, 1 / 4, 1 / 4]), rtol=1e-6)
    assert pairs.provenance["n_events"] == 4 and pairs.provenance["n_users"] == 2 and pairs.provenance["train"]


def test_items_without_text_make_no_pair():
    items = Catalog.from_items([{"item_id": "a", "title": "x"}, {"item_id": "b"}, {"item_id": "c", "title": "y"}])
    train = Interactions.from_pairs([("ann", "a"), ("ann", "b"), ("ann", "c")], items=items.ids)
    assert as_set(TextPairs.from_interactions(train, items)) == {frozenset((0, 2))}


@pytest.mark.parametrize("taken", [{"ann": [1], "bob": [2]}, {"ann": [3, 3, 3]}])
def test_no_pair_at_all(taken):
    with pytest.raises(DataError, match="nobody took two different items"):
        pairs_of(taken)


def test_only_interactions_are_taken():
    with pytest.raises(DataError, match=r"pass split\.train"):
        TextPairs.from_interactions(object(), CATALOG)
    with pytest.raises(DataError, match="expected at least 1"):
        pairs_of({"ann": [1, 2]}, n_pairs=0)


def test_parts_that_do_not_fit():
    zeros = np.zeros(3, np.float32)
    with pytest.raises(DataError, match="two equal lengths"):
        TextPairs([0], [1, 2], ["a", "b", "c"], zeros)
    with pytest.raises(DataError, match="item rows run from 0 to 7"):
        TextPairs([0], [7], ["a", "b", "c"], zeros)
    with pytest.raises(DataError, match="3 popularities for 1 texts"):
        TextPairs([0], [0], ["a"], zeros)


# ---- whose turn it is, sessions


def head_and_tail(balance, **more):
    """Two hundred people took two of five well-known items; each of forty took one of these and one of the tail."""
    rng = np.random.default_rng(0)
    taken = {f"p{i}": rng.choice(5, 2, replace=False).tolist() for i in range(200)}
    taken |= {f"q{i}": [int(rng.integers(5)), 5 + i % 20] for i in range(40)}
    return pairs_of(taken, n_pairs=40, balance=balance, **more)


def test_balance_lets_the_tail_come_more_often():
    share = [
        np.mean([(head_and_tail(b, seed=s).positives >= 5).mean() + (head_and_tail(b, seed=s).anchors >= 5).mean()
                 for s in range(5)])
        for b in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    assert share[0] < share[1] < share[2] and share[2] > 1.5 * share[0]


def test_balance_damps_soft_labels_by_hand():
    taken = {"ann": [0, 1], "bob": [0, 1, 2], "cid": [0, 3]}
    rows = np.arange(4)
    raw, damped = (pairs_of(taken, balance=b).strengths_between(rows, rows) for b in (0.0, 1.0))
    assert raw[0, 1] == pytest.approx(1 + 1 / 2) and raw[0, 2] == pytest.approx(1 / 2) and raw[2, 3] == 0
    n = np.array([3, 2, 1, 1])
    np.testing.assert_allclose(damped, raw / np.sqrt(np.outer(n, n)), rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(taken, st.floats(0, 1))
def test_strengths_are_symmetric_and_bounded(taken, balance):
    try:
        pairs = pairs_of(taken, balance=balance)
    except DataError:
        return
    rows = np.arange(30)
    between = pairs.strengths_between(rows, rows)
    np.testing.assert_allclose(between, between.T, rtol=1e-5)
    assert (between >= 0).all() and ((pairs.strengths > 0) & (pairs.strengths <= 1 + 1e-6)).all()
    together = {frozenset((i, j)) for items in taken.values() for i in items for j in items}
    known = pairs.together(rows, rows)
    assert all(known[i, j] == (frozenset((i, j)) in together) for i in rows for j in rows)
    others = np.tile(np.r_[rows, -1], (30, 1))
    np.testing.assert_array_equal(pairs.together_each(rows, others)[:, :30], known)
    assert not pairs.together_each(rows, others)[:, 30].any()


def timed(events):
    frame = pd.DataFrame([(u, str(i), t * 86_400.0) for u, i, t in events], columns=["user_id", "item_id", "timestamp"])
    return Interactions.from_frame(frame, items=CATALOG.ids)


def test_sessions_and_baskets():
    train = timed([("ann", 1, 0), ("ann", 2, 0), ("ann", 3, 1), ("ann", 4, 1.5), ("ann", 5, 9), ("bob", 6, 0)])
    whole, chain, basket = (
        as_set(TextPairs.from_interactions(train, CATALOG, session_days=days)) for days in (None, 1, 0)
    )
    assert len(whole) == 10 and basket == {frozenset((1, 2))}
    assert chain == {frozenset((i, j)) for i in (1, 2, 3, 4) for j in (1, 2, 3, 4) if i < j}
    chained = TextPairs.from_interactions(train, CATALOG, balance=0, session_days=1)
    between = chained.strengths_between(np.array([1]), np.array([2, 5, 6]))  # ann took 5 much later
    np.testing.assert_allclose(between, [[1 / 3, 0, 0]], rtol=1e-6)
    assert chained.together(np.array([1]), np.array([2, 5])).tolist() == [[True, False]]
    np.testing.assert_allclose(chained.strengths, 1.0)
    assert chained.provenance["n_users"] == 2
    with pytest.raises(DataError, match="sessions need times"):
        pairs_of({"ann": [1, 2]}, session_days=1)


# ---- other kinds


def test_history_pairs():
    train = timed([("zed", 9, 0), ("ann", 1, 0), ("ann", 2, 1), ("ann", 3, 2), ("ann", 4, 3), ("bob", 5, 0)])
    pairs = TextPairs.from_histories(train, CATALOG, length=2)
    found = {(pairs.texts[a], int(p)) for a, p in zip(pairs.anchors, pairs.positives, strict=True)}
    assert found == {("item 1", 2), ("item 2 | item 1", 3), ("item 3 | item 2", 4)}  # latest first
    assert (pairs.anchors >= 30).all() and (pairs.kinds == HISTORY).all()
    rows = np.array([1, 2, 3, 4, 5, 9])
    np.testing.assert_array_equal(pairs.together(pairs.anchors, rows), [[True] * 4 + [False] * 2] * 3)
    with pytest.raises(DataError, match="nobody took two items"):
        TextPairs.from_histories(timed([("ann", 1, 0), ("bob", 2, 0)]), CATALOG)
    with pytest.raises(DataError, match="no history of 0"):
        TextPairs.from_histories(train, CATALOG, length=0)


def test_history_people_without_events_of_their_own_shift_nobody():
    train = timed([("ann", 1, 0), ("bob", 2, 0), ("bob", 3, 1)])
    train = train.where(train.user_rows == 1)  # ann is known, and has no event here
    pairs = TextPairs.from_histories(train, CATALOG)
    assert pairs.together(pairs.anchors, np.array([1, 2, 3])).tolist() == [[False, True, True]]


SHELF = Catalog.from_items(
    [
        {"item_id": "a", "title": "emma", "description": "a novel", "author": "austen", "tags": ["x", "y"]},
        {"item_id": "b", "title": "persuasion", "description": "bath", "author": "austen", "tags": ["z"]},
        {"item_id": "c", "title": "dracula", "author": "stoker", "tags": ["y"]},
        {"item_id": "d", "author": "stoker", "tags": ["y"]},
    ]
)


def test_attribute_pairs():
    pairs = TextPairs.from_attributes(SHELF, ["author"])
    assert as_set(pairs) == {frozenset((0, 1))}  # d has no words
    assert as_set(TextPairs.from_attributes(SHELF, ["author", "tags"])) == {frozenset((0, 1)), frozenset((0, 2))}
    assert (pairs.kinds == ATTRIBUTE).all()
    with pytest.raises(DataError, match="no column 'maker'"):
        TextPairs.from_attributes(SHELF, ["maker"])
    with pytest.raises(DataError, match="no two items share a value of title"):
        TextPairs.from_attributes(SHELF, ["title"])


def test_who_shares_a_value_is_known_though_the_pair_was_not_drawn():
    catalog = Catalog.from_items([{"item_id": str(i), "title": f"t {i}", "maker": i % 2} for i in range(20)])
    pairs = TextPairs.from_attributes(catalog, ["maker"], n_pairs=3)
    rows = np.arange(20)
    assert len(pairs) == 3
    np.testing.assert_array_equal(pairs.together(rows, rows), (rows[:, None] - rows) % 2 == 0)


def test_text_pairs():
    pairs = TextPairs.from_texts(SHELF)
    found = {(pairs.texts[a], pairs.texts[p]) for a, p in zip(pairs.anchors, pairs.positives, strict=True)}
    assert found == {("emma", "a novel"), ("persuasion", "bath")} and (pairs.kinds == TEXT).all()
    with pytest.raises(DataError, match="0 of 30 items have a title and a description"):
        TextPairs.from_texts(CATALOG)


def test_mixed_keeps_each_kind_what_it_was():
    train = Interactions.from_pairs([("ann", "a"), ("ann", "c"), ("bob", "b"), ("bob", "c")], items=SHELF.ids)
    parts = [
        TextPairs.from_texts(SHELF),
        TextPairs.from_attributes(SHELF, ["author"]),
        TextPairs.from_histories(train, SHELF),
        TextPairs.from_interactions(train, SHELF),
    ]
    mixed = TextPairs.mixed(parts)
    start = 0
    for part in parts:
        own = slice(start, start + len(part))
        for side in ("anchors", "positives"):
            texts = [mixed.texts[row] for row in getattr(mixed, side)[own]]
            assert texts == [part.texts[row] for row in getattr(part, side)]
        np.testing.assert_array_equal(mixed.kinds[own], part.kinds)
        np.testing.assert_array_equal(mixed.strengths[own], part.strengths)
        between = mixed.strengths_between(mixed.anchors[own], mixed.positives[own], int(part.kinds[0]))
        np.testing.assert_allclose(between, part.strengths_between(part.anchors, part.positives))
        start += len(part)
    rows = np.arange(4)  # by anyone's word: an author, a person
    assert mixed.together(rows, rows)[:3, :3].all()
    assert mixed.provenance["kinds"] == {"text": 2, "attribute": 1, "history": 2, "co-interaction": 2}
    np.testing.assert_array_equal(mixed.log_popularity[:4], parts[3].log_popularity)
    assert mixed.n_items == 4 and len(mixed.texts) > 4 and parts[2].n_items == 4
    with pytest.raises(DataError, match="pairs of 4, 30 items cannot be put together"):
        TextPairs.mixed([parts[0], pairs_of({"ann": [1, 2]})])
    assert TextPairs.mixed(parts).fingerprint == mixed.fingerprint != parts[0].fingerprint


# ---- a teacher


def test_a_teacher_gives_the_soft_labels_and_people_the_masks():
    taken = {"ann": [0, 1], "bob": [1, 2]}
    weights = np.zeros((30, 30), np.float32)
    weights[0, 2], weights[2, 0] = 3, 5
    rows = np.arange(4)
    for form in (weights, sp.csr_matrix(weights), sp.coo_array(weights)):
        pairs = pairs_of(taken, teacher=form)
        np.testing.assert_array_equal(pairs.strengths_between(rows, rows, CO_INTERACTION), weights[:4, :4])
    plain = pairs_of(taken)
    np.testing.assert_array_equal(pairs.together(rows, rows), plain.together(rows, rows))
    assert as_set(pairs) == {frozenset({0, 2})} != as_set(plain)  # drawn is what the teacher ties
    for wrong, word in ((weights[:3], r"shape \(3, 30\)"), (-weights, "below 0"), (weights * np.nan, "not finite")):
        with pytest.raises(DataError, match=word):
            pairs_of(taken, teacher=wrong)


def test_a_teacher_is_heard_among_other_kinds():
    train = Interactions.from_pairs([("ann", "a"), ("ann", "c"), ("bob", "b"), ("bob", "c")], items=SHELF.ids)
    weights = np.arange(16, dtype=np.float32).reshape(4, 4)
    taught = TextPairs.from_interactions(train, SHELF, teacher=weights)
    mixed = TextPairs.mixed([TextPairs.from_texts(SHELF), taught])
    rows = np.arange(len(mixed.texts))
    found = mixed.strengths_between(rows, rows, CO_INTERACTION)
    np.testing.assert_array_equal(found[:4, :4], weights)
    assert not found[4:].any() and not found[:, 4:].any()
    assert mixed.strengths_between(mixed.anchors[:2], mixed.positives[:2], TEXT).diagonal().all()
    assert taught.teacher.shape == (4, 4)


# ---- leaks, fields


def test_a_leak_is_named():
    train = Interactions.from_pairs([("ann", "1"), ("ann", "2"), ("bob", "3")], items=CATALOG.ids)
    check_no_leak(train, Interactions.from_pairs([("ann", "3"), ("cid", "1")], items=CATALOG.ids))
    held_out = Interactions.from_pairs([("bob", "4"), ("ann", "2")], items=CATALOG.ids)
    for make in (TextPairs.from_interactions, TextPairs.from_histories):
        with pytest.raises(DataError, match=r"1 training events stand in .* user 'ann' with item '2'"):
            make(train, CATALOG, held_out=held_out)


def test_a_leak_is_found_by_rows_where_both_speak_of_the_same(monkeypatch):
    train = Interactions.from_pairs([("ann", "1"), ("ann", "2"), ("bob", "3"), ("bob", "3")], items=CATALOG.ids)
    fine = Interactions(train.users, train.items, np.array([0, 1]), np.array([3, 2]))
    leaky = Interactions(train.users, train.items, np.array([1, 1, 0]), np.array([3, 3, 5]))
    monkeypatch.delattr(Interactions, "to_frame")
    check_no_leak(train, fine)
    with pytest.raises(DataError, match=r"1 training events stand in .* user 'bob' with item '3'"):
        check_no_leak(train, leaky)


def test_some_fields_and_never_all_of_them():
    pairs = TextPairs.from_texts(SHELF)
    rng = np.random.default_rng(0)
    assert pairs.shortened(np.arange(4), 1.0, rng) == {}  # they do not know their fields
    told = pairs.with_fields(SHELF)
    assert pairs.fields is None and told.fingerprint != pairs.fingerprint
    seen = {}
    for _ in range(30):
        for place, text in told.shortened(np.array([2, 0, 6]), 1.0, rng).items():
            seen.setdefault(place, set()).add(text)
    assert seen == {1: {"emma", "a novel"}}  # one field alone stays, and so does what is no item's
    assert told.shortened(np.arange(4), 0.0, rng) == {}


def test_the_fingerprint_hears_everything():
    plain = TextPairs([0, 1], [1, 2], ["a", "b", "c"], np.zeros(3))
    others = [
        TextPairs([0, 1], [1, 2], ["a", "b", "c"], np.zeros(3), strengths=[0.5, 1]),
        TextPairs([0, 1], [1, 2], ["a", "b", "c"], np.array([0, 0, -1])),
        TextPairs([0, 1], [1, 2], ["a", "b", "c"], np.zeros(3), kinds=[0, 1]),
        TextPairs([0, 1], [1, 2], ["a", "b", "c"], np.zeros(3), readers=sp.csr_matrix(np.eye(3, dtype=np.float32))),
    ]
    assert len({pairs.fingerprint for pairs in [plain, *others]}) == 5
