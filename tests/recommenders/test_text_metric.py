"""The metric that baskets give: what it learns, when it stays away, and how the hybrid uses it."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_tail.embedding.embeddings import Embeddings
from llm_tail.recommenders import text_metric
from llm_tail.recommenders.hybrid import HybridRecommender
from llm_tail.recommenders.text_metric import Directions
from llm_tail.recommenders.text_space import POWERS, Spaces, TextSpace
from llm_tail.recommenders.tuning import objective

from .contracts import RecommenderContract
from .shelf import DIM, Shelf

PLAIN = {"tune": False, "learn": False, "neighbors": 3}


class TestHybridWithMetrics(RecommenderContract):
    def make(self):
        return HybridRecommender(PLAIN | {"text_metric": 0.25, "neighbor_metric": 0.5})

    def fit(self, model, board):
        return model.fit(board.train, board.embeddings)

    def test_no_history_gives_what_most_people_take(self, model):
        assert model.recommend(history=[], k=14).from_popularity.all()


def world(seed, n_users=40, n_items=30, dim=6):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n_items, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, sp.csr_matrix(rng.random((n_users, n_items)) < 0.2, dtype=np.float32)


def by_hand(vectors, taken):
    """The eigenvalues by their definition, with whole matrices."""
    x = (taken.toarray() != 0).astype(float)
    warm = x.any(axis=0)
    x, v = x[:, warm], vectors[warm].astype(float)
    x = x[x.sum(axis=1) > 1]
    share = np.sqrt(x.sum(axis=0) / x.sum())
    x = x / np.sqrt(x.sum(axis=1, keepdims=True)) / np.sqrt(np.maximum(x.sum(axis=0), 1))
    cosines = x.T @ x
    a = v.T @ (cosines - np.diag(np.diag(cosines)) - np.outer(share, share)) @ v
    b = v.T @ v
    b += text_metric.RIDGE * np.trace(b) / len(b) * np.eye(len(b))
    found = np.sort(np.linalg.eigvals(np.linalg.solve(b, a)).real)
    return found / found[-1]


@pytest.mark.parametrize("rows", [5, 16_384])
def test_what_is_shared_is_as_defined(monkeypatch, rows):
    monkeypatch.setattr(text_metric, "ROWS_AT_ONCE", rows)
    vectors, taken = world(0)
    taken = sp.csr_matrix(taken @ sp.diags((np.arange(30) != 4).astype(float)), dtype=np.float32)
    taken.eliminate_zeros()
    found = Directions.learn(vectors, taken)
    np.testing.assert_allclose(found.shared, by_hand(vectors, taken), rtol=1e-4, atol=1e-5)
    again = Directions.learn(vectors, taken * 7.0)  # how often is not asked
    np.testing.assert_allclose(again.shared, found.shared, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(0.0, 1.0))
def test_at_power_0_nothing_moves_and_beyond_it_directions_are_scaled(seed, power):
    vectors, taken = world(seed)
    found = Directions.learn(vectors, taken)
    assume(found is not None)  # by chance no direction is shared more than all are
    np.testing.assert_allclose(found.metric(0.0), np.eye(6), atol=1e-5)
    weights = np.sort(np.linalg.eigvals(found.metric(power).astype(float)).real)
    np.testing.assert_allclose(weights, np.maximum(found.shared, text_metric.FLOOR) ** power, rtol=1e-3, atol=1e-4)


def test_it_brings_together_what_people_take_together():
    shelf = Shelf()
    noise = np.random.default_rng(1).standard_normal((len(shelf.ids), 3 * DIM))
    blurred = Embeddings(shelf.ids, np.hstack([shelf.embeddings.vectors, noise]))
    spaces = Spaces(blurred, 0.0, shelf.train.matrix(), seed=0)
    same = shelf.taste[:, None] == shelf.taste

    def told_apart(vectors):
        cosines = vectors @ vectors.T
        return cosines[same & ~np.eye(len(same), dtype=bool)].mean() - cosines[~same].mean()

    assert told_apart(spaces.place(0.5)) > 1.2 * told_apart(spaces.place(0.0))
    np.testing.assert_allclose(np.linalg.norm(spaces.place(0.5), axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("case", ["one item each", "no texts", "nobody"])
def test_with_nothing_to_learn_it_stays_away(case):
    vectors, taken = world(0)
    if case == "no texts":
        vectors[:] = 0.0
    else:
        taken = sp.eye(40, 30, format="csr", dtype=np.float32) * (case != "nobody")
        taken.eliminate_zeros()
    assert Directions.learn(vectors, taken) is None
    items = Embeddings([str(n) for n in range(30)], vectors)
    spaces = Spaces(items, 0.0, taken, seed=0)
    assert spaces.at(0.5).metric is None
    np.testing.assert_array_equal(spaces.place(0.5), TextSpace.around(items, 0.0).place(items))


def test_very_many_people_are_drawn_from(monkeypatch):
    monkeypatch.setattr(text_metric, "MOST_PEOPLE", 10)
    vectors, taken = world(0)
    one, two, other = (Directions.learn(vectors, taken, seed).shared for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)


def test_an_item_without_text_stays_nowhere():
    vectors, taken = world(0)
    vectors[3] = 0.0
    items = Embeddings([str(n) for n in range(30)], vectors)
    assert not Spaces(items, 0.0, taken, seed=0).place(0.5)[3].any()


def test_validation_decides_and_the_record_says_so():
    shelf = Shelf()
    model = HybridRecommender({"learn": False}).fit(shelf.train, shelf.embeddings, validation=shelf.validation())
    record = model.training["metric"]
    assert record["power"] == model.config.text_metric
    found = {float(power): objective(measured) for power, measured in record["tried"]["0"].items()}
    assert list(found) == sorted(POWERS)[: len(found)]  # ever stronger, until it no longer gains
    assert found[record["power"]] >= 0.99 * max(found.values())
    assert len(found) == len(POWERS) or found[max(found)] < max(found.values())
    assert model.training["settings"]["neighbor_metric"] == model.config.neighbor_metric
    settings = model.config.model_dump() | {"tune": False, "learn": False}
    again = HybridRecommender(settings).fit(shelf.train, shelf.embeddings)
    np.testing.assert_allclose(again.score(again.histories), model.score(model.histories), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metrics", [(0.25, 0.25), (0.25, 0.5), (0.0, 0.5), (0.5, 0.0)])
def test_it_is_written_and_read_and_new_items_lie_there_too(tmp_path, metrics):
    shelf = Shelf()
    chosen = {"text_metric": metrics[0], "neighbor_metric": metrics[1]}
    model = HybridRecommender(PLAIN | chosen).fit(shelf.train, shelf.embeddings)
    model.save(tmp_path / "model")
    again = HybridRecommender.load(tmp_path / "model")
    twin = shelf.embeddings.vectors[[shelf.ids.index("c1")]]
    for one in (model, again):
        one.add_items(Embeddings(["new"], twin))
    np.testing.assert_allclose(again.score(again.histories), model.score(model.histories), atol=1e-5)
    scores = model.score(model.histories)
    np.testing.assert_allclose(scores[:, -1], scores[:, shelf.ids.index("c1")], rtol=1e-4, atol=1e-6)
