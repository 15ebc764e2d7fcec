"""Order: how old what a person took is, and what is made of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError
from llm_tail.recommenders.baselines import ContentSimilarity, Ease, L3ae
from llm_tail.recommenders.hybrid import HybridRecommender
from llm_tail.recommenders.recency import LEAST, Recent, aged_history, ages, is_ordered, weigh

from .contracts import RecommenderContract
from .shelf import Shelf
from .test_sequence import in_order

PLAIN = {"tune": False, "learn": False}


def events_of(rows, **order):
    users, items = np.array(rows).reshape(-1, 2).T
    people, things = IdMap([f"u{n}" for n in range(5)], "user"), IdMap([f"i{n}" for n in range(6)])
    return Interactions(people, things, users, items, **order)


# ---- ages

taken = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 8)), max_size=40)


@settings(max_examples=60)
@given(taken, st.sampled_from(["times", "positions"]))
def test_ages_are_counted_back_from_the_last(rows, kind):
    users, items, when = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    events = events_of(np.stack([users, items], axis=1), **{kind: when})
    found = ages(events)
    assert found.has_sorted_indices
    dense = found.toarray()
    np.testing.assert_array_equal(dense > 0, events.matrix().toarray() > 0)
    for user in range(5):
        moments = sorted({w for u, _, w in rows if u == user}, reverse=True)
        for item in np.flatnonzero(dense[user]):
            last = max(w for u, i, w in rows if (u, i) == (user, item))
            assert dense[user, item] == moments.index(last) + 1


def test_without_order_all_is_of_one_age():
    events = events_of([(0, 1), (0, 2), (3, 1), (3, 1)])
    assert not is_ordered(events)
    np.testing.assert_array_equal(ages(events).toarray(), events.matrix().toarray())


def test_times_go_before_positions():
    events = events_of([(0, 1), (0, 2)], times=[9.0, 1.0], positions=[0, 1])
    assert ages(events).toarray()[0].tolist() == [0, 1, 2, 0, 0, 0]


@given(st.floats(0.01, 1.0), st.lists(st.integers(0, 5), max_size=12))
def test_a_list_is_read_latest_last(decay, rows):
    weights = weigh(aged_history(rows, 6), decay).toarray()[0]
    for row in range(6):
        if row in rows:
            age = rows[::-1].index(row)
            assert weights[row] == pytest.approx(max(decay**age, LEAST), rel=1e-5)
        else:
            assert weights[row] == 0


def test_what_is_very_old_still_counts_as_taken():
    weights = weigh(aged_history(list(range(6)) * 100, 6)[:, :], 0.01)
    assert weights.nnz == 6
    assert (weigh(aged_history([0, *[1] * 500], 6), 0.5).data >= LEAST).all()


# ---- any model


class RecentContract(RecommenderContract):
    def fit(self, model, board):
        return model.fit(in_order(board.train, np.arange(len(board.train))), board.embeddings)

    def test_a_person_is_nothing_but_a_history(self, board, model):
        user = "sea-reader-1"
        aged = ages(in_order(board.train, np.arange(len(board.train))))[model.users.row(user)]
        history = [model.items[row] for row in aged.indices[np.argsort(-aged.data)]]
        one = model.recommend([user], k=5)
        np.testing.assert_allclose(model.recommend(history=history, k=5).scores, one.scores, rtol=1e-4, atol=1e-5)
        other = model.recommend(history=history[::-1], k=5)
        assert abs(other.scores - one.scores).max() > 1e-4


class TestRecentContent(RecentContract):
    def make(self):
        return Recent(ContentSimilarity(), 0.7)


class TestRecentEase(RecentContract):
    def make(self):
        return Recent(Ease(ridge=5.0), 0.7)


class TestHybridWithOrder(RecentContract):
    def make(self):
        return HybridRecommender(PLAIN | {"ridge": 5.0, "pull": 5.0, "neighbors": 3, "recency": 0.7})

    def test_no_history_gives_what_most_people_take(self, model):
        answer = model.recommend(history=[], k=14)
        taken = np.bincount(model.histories.indices, minlength=14)[answer.item_rows[0]]
        assert answer.from_popularity.all()
        assert (np.diff(taken[taken > 0]) <= 0).all()


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


@pytest.fixture(scope="module")
def ordered(shelf):
    return in_order(shelf.train, np.random.default_rng(0).permutation(len(shelf.train)).astype(np.float64))


def test_a_decay_is_checked_and_one_is_the_model_itself(shelf, ordered):
    for decay in (0.0, 1.5):
        with pytest.raises(ConfigError, match="decay"):
            Recent(Ease(), decay)
    plain = L3ae().fit(shelf.train, shelf.embeddings)
    same = Recent(L3ae(), 1.0).fit(ordered, shelf.embeddings)
    np.testing.assert_array_equal(same.score(same.histories), plain.score(plain.histories))


def test_recent_takes_a_fitted_model_as_it_is(ordered):
    ease = Ease().fit(ordered)
    weights = ease.weights
    assert Recent(ease, 0.5).fit(ordered).members[0].weights is weights


@pytest.mark.parametrize("settings", [PLAIN, {}], ids=["plain", "choosing"])
def test_nothing_changes_where_no_order_is_known(shelf, settings):
    one, two = (
        HybridRecommender(settings | {"recency": r}).fit(shelf.train, shelf.embeddings, validation=shelf.validation())
        for r in (1.0, 0.5)
    )
    assert two.config.recency == 1.0
    assert "recency" not in two.training.get("settings", {})
    np.testing.assert_array_equal(one._weights, two._weights)
    np.testing.assert_array_equal(two.histories.data, 1.0)
    np.testing.assert_array_equal(
        two.recommend(history=["w0", "w4"], k=9).scores, two.recommend(history=["w4", "w0"], k=9).scores
    )
    recent = Recent(Ease(), 0.5).fit(shelf.train)
    np.testing.assert_array_equal(recent.recommend(k=5).scores, Ease().fit(shelf.train).recommend(k=5).scores)


def test_an_order_that_is_not_used_changes_nothing(shelf, ordered):
    one, two = (HybridRecommender(PLAIN).fit(train, shelf.embeddings) for train in (shelf.train, ordered))
    np.testing.assert_array_equal(one._weights, two._weights)
    np.testing.assert_array_equal(one.score(one.histories), two.score(two.histories))


def test_the_item_that_was_taken_last_says_most(shelf, ordered):
    model = HybridRecommender(PLAIN | {"recency": 0.5}).fit(ordered, shelf.embeddings)
    brought = [dict(model.explain("c0", history=h).because)["w0"] for h in (["w3", "w9", "w0"], ["w0", "w3", "w9"])]
    assert brought[1] == pytest.approx(brought[0] / 4, rel=1e-5)
    row = model.histories[model.users.row("u1")]
    np.testing.assert_array_equal(row.data.max(), 1.0)


def last_of_taste(shelf):
    """People who change their taste half way; the next item is to the new one."""
    rng, pairs, held = np.random.default_rng(3), [], []
    for user in range(90):
        old, new = rng.permutation(3)[:2]
        for taste, n in ((old, 4), (new, 3)):
            pairs += [(f"u{user}", shelf.ids[i]) for i in rng.choice(np.arange(taste, 36, 3), n, replace=False)]
        held.append(pairs.pop())
    train, held = (Interactions.from_pairs(p, items=shelf.embeddings.ids) for p in (pairs, held))
    return in_order(train, np.arange(len(pairs), dtype=np.float64)), held


def test_recency_is_chosen_where_it_wins(shelf):
    train, held = last_of_taste(shelf)
    model = HybridRecommender({"learn": False}).fit(train, shelf.embeddings, validation=held)
    assert model.config.recency < 1.0
    assert model.training["settings"]["recency"] == model.config.recency
    blind = HybridRecommender({"learn": False}).fit(
        Interactions(train.users, train.items, train.user_rows, train.item_rows), shelf.embeddings, validation=held
    )
    assert model.training["tuned"]["overall"] > 1.1 * blind.training["tuned"]["overall"]


def test_what_is_known_of_the_order_is_saved(shelf, ordered, tmp_path):
    model = HybridRecommender(PLAIN | {"recency": 0.7}).fit(ordered, shelf.embeddings)
    again = HybridRecommender.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.histories.data, model.histories.data)
    np.testing.assert_array_equal(again._ages.toarray(), model._ages.toarray())
    history = ["w4", "w0", "c1"]
    np.testing.assert_array_equal(again.recommend(history=history).scores, model.recommend(history=history).scores)
