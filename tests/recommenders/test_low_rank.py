"""ID embeddings of low rank: at full rank the closed form itself, and a hybrid that answers alike."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import HybridConfig
from llm_tail.recommenders import learning
from llm_tail.recommenders.collaborative import GramFitter, fitter_for, from_state, is_low_rank
from llm_tail.recommenders.hybrid import HybridRecommender
from llm_tail.recommenders.learning import Neighborhood
from llm_tail.recommenders.low_rank import FactoredEmbeddings, LowRankFitter

from .contracts import RecommenderContract
from .shelf import Shelf

PLAIN = {"tune": False, "learn": False}


def world(seed=0, n_users=120, n_items=40, dim=8):
    rng = np.random.default_rng(seed)
    taken = sp.csr_matrix((rng.random((n_users, n_items)) < 0.12).astype(np.float32))
    vectors = rng.standard_normal((n_items, dim)).astype(np.float32)
    return taken, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class TestHybridOfLowRank(RecommenderContract):
    def make(self):
        return HybridRecommender(PLAIN | {"ridge": 5.0, "pull": 5.0, "neighbors": 3, "solution": "low-rank"})

    def test_no_history_gives_what_most_people_take(self, model):
        answer = model.recommend(history=[], k=14)
        assert answer.from_popularity.all()


class TestHybridOfLowRankThatChooses(RecommenderContract):
    def make(self):
        return HybridRecommender({"ridge": 5.0, "pull": 5.0, "neighbors": 3, "max_items": 2, "rank": 6})

    def test_no_history_gives_what_most_people_take(self, model):
        answer = model.recommend(history=[], k=14)
        assert answer.from_popularity.all()


# ---- against the whole solution


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(1.0, 500.0), st.floats(0.0, 500.0))
def test_at_full_rank_it_is_the_closed_form(seed, ridge, pull):
    taken, vectors = world(seed)
    whole = GramFitter(taken, vectors, 10.0, 99).fit(ridge, pull)
    thin = LowRankFitter(taken, vectors, 10.0, 99).fit(ridge, pull)
    np.testing.assert_array_equal(thin.warm, whole.warm)
    np.testing.assert_allclose(thin.rows(np.arange(len(thin.warm))), whole.weights, atol=1e-4)


def test_more_directions_come_nearer():
    taken, vectors = world(1)
    whole = GramFitter(taken, vectors, 10.0, 99).fit(20.0, 20.0).weights
    far = [
        np.abs(LowRankFitter(taken, vectors, 10.0, k).fit(20.0, 20.0).rows(np.arange(40)) - whole).mean()
        for k in (2, 10, 25, 40)
    ]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 1e-6 < far[0]


@pytest.mark.parametrize("what", ["rows", "mixed", "column", "signal", "between"])
def test_all_ways_to_ask_agree_with_the_matrix(what):
    taken, vectors = world(2)
    thin = LowRankFitter(taken, vectors, 10.0, 12).fit(20.0, 50.0)
    matrix = thin.rows(np.arange(40))
    assert not np.diag(matrix).any()
    shares = sp.random(7, 40, 0.2, format="csr", dtype=np.float32, random_state=0)
    if what == "mixed":
        np.testing.assert_allclose(thin.mixed(shares), shares @ matrix, atol=1e-5)
    elif what == "column":
        places = np.array([3, 17, 30])
        weights = np.array([0.2, 0.5, 0.3], dtype=np.float32)
        np.testing.assert_allclose(thin.column(places, weights), matrix[:, places] @ weights, atol=1e-5)
    elif what == "signal":
        np.testing.assert_allclose(thin.signal(taken), taken @ matrix, atol=1e-4)
    elif what == "between":
        others = sp.random(5, 40, 0.3, format="csr", dtype=np.float32, random_state=1)
        np.testing.assert_allclose(thin.between(shares, others), shares @ matrix @ others.T.toarray(), atol=1e-4)


def test_a_trial_says_what_the_solution_says():
    taken, vectors = world(5)
    fitter = LowRankFitter(taken, vectors, 10.0, 12)
    for penalties in ((20.0, 50.0, 10.0), (50.0, 20.0, 10.0), (5.0, 0.0, 1.0), (20.0, 50.0, 0.1)):
        made = LowRankFitter(taken, vectors, 10.0, 12).fit(*penalties)
        np.testing.assert_allclose(fitter.trial(*penalties).signal(taken), made.signal(taken), atol=1e-5)
        np.testing.assert_array_equal(fitter.fit(*penalties).queries, made.queries)  # what was tried leaves no trace


def test_it_is_written_and_read():
    taken, vectors = world(3)
    thin = LowRankFitter(taken, vectors, 10.0, 5).fit(20.0, 50.0)
    again = from_state(thin.state())
    assert isinstance(again, FactoredEmbeddings)
    np.testing.assert_array_equal(again.rows(np.arange(40)), thin.rows(np.arange(40)))


def test_size_decides_unless_it_is_said():
    taken, vectors = world(4)
    assert not is_low_rank(taken, HybridConfig(max_items=40))
    assert is_low_rank(taken, HybridConfig(max_items=39))
    assert is_low_rank(taken, HybridConfig(solution="low-rank"))
    assert not is_low_rank(taken, HybridConfig(max_items=39, solution="whole"))
    assert isinstance(fitter_for(taken, vectors, HybridConfig(max_items=39)), LowRankFitter)


# ---- the hybrid on it


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


@pytest.fixture(scope="module")
def pair(shelf):
    whole, thin = (
        HybridRecommender(PLAIN | {"solution": solution}).fit(shelf.train, shelf.embeddings)
        for solution in ("whole", "low-rank")
    )
    return whole, thin


def test_at_full_rank_the_hybrid_answers_alike(pair):
    whole, thin = pair
    np.testing.assert_allclose(thin.score(thin.histories), whole.score(whole.histories), atol=1e-4)
    for item in ("w3", "w30", "c1"):
        one, other = (model.explain(item, user="u5") for model in pair)
        assert (one.own, one.borrowed, one.text) == pytest.approx((other.own, other.borrowed, other.text), abs=1e-4)
        np.testing.assert_allclose(*(model._column(model.items.row(item)) for model in pair), atol=1e-4)


def test_what_is_asked_for_some_is_what_is_said_to_all(pair):
    _, thin = pair
    owned, asked = np.array([0, 5, 37, 41]), np.array([2, 5, 38, 39, 20])
    everything = thin._rows(owned)
    for part, whole in zip(thin._rows(owned, asked), everything, strict=True):
        np.testing.assert_allclose(part, whole[:, asked], atol=1e-5)


def test_vectors_of_it_rank_nearly_as_it_does(pair):
    _, thin = pair
    index = thin.to_index(dim=20, rescore=10)
    assert index.measured["overlap_rescored"] > 0.9
    answer, full = index.recommend(["u1"], k=5), thin.recommend(["u1"], k=5)
    assert len(set(answer.item_rows[0]) & set(full.item_rows[0])) >= 4


def test_it_lives_with_change(shelf, pair, tmp_path):
    model = HybridRecommender(PLAIN | {"solution": "low-rank"}).fit(shelf.train, shelf.embeddings)
    news = shelf.validation()
    model.update(new_interactions=news)
    assert model.training["updates"][-1]["solved"] == "whole"
    model.save(tmp_path / "model")
    again = HybridRecommender.load(tmp_path / "model")
    np.testing.assert_allclose(again.score(again.histories), model.score(model.histories), atol=1e-5)


def test_many_items_find_their_neighbours_through_an_index(monkeypatch):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, 16))
    vectors = (centres[np.arange(3000) % 60] + 0.4 * rng.standard_normal((3000, 16))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    counts, items = (np.arange(3000) % 7 > 0).astype(np.int64), np.arange(3000)
    exact = Neighborhood.find(vectors, counts, items, 5)
    monkeypatch.setattr(learning, "EXACT_PAIRS", 1000)
    found = Neighborhood.find(vectors, counts, items, 5)
    assert (found.rows[:, :, None] == exact.rows[:, None, :]).any(axis=2).mean() > 0.95
    place = np.cumsum(counts) - 1
    assert not (found.rows[counts > 0] == place[counts > 0][:, None]).any()
