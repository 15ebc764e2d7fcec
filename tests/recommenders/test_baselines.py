import sys

import numpy as np
import pytest

from llm_tail.config import TextConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.text import ItemText
from llm_tail.errors import ConfigError, DataError, MissingExtraError
from llm_tail.recommenders.baselines import (
    BASELINES,
    ContentSimilarity,
    Ease,
    ImplicitAls,
    ItemKnn,
    L3ae,
    Popularity,
    TfidfSimilarity,
    make_baseline,
)

from .contracts import Checkerboard, RecommenderContract


class TestPopularity(RecommenderContract):
    sees_blocks = False

    def make(self):
        return Popularity()


class TestContentSimilarity(RecommenderContract):
    def make(self):
        return ContentSimilarity()


class TestTfidfSimilarity(RecommenderContract):
    def make(self):
        return TfidfSimilarity(Checkerboard().catalog)


class TestTfidfSimilarityWithAPower(RecommenderContract):
    def make(self):
        return TfidfSimilarity(Checkerboard().catalog, power=2.5)


class TestItemKnn(RecommenderContract):
    def make(self):
        return ItemKnn()


class TestEase(RecommenderContract):
    def make(self):
        return Ease(ridge=5.0)


class TestL3ae(RecommenderContract):
    def make(self):
        return L3ae(text_ridge=1.0, ridge=5.0, pull=5.0)


class TestImplicitAls(RecommenderContract):
    def make(self):
        return ImplicitAls(factors=2)


@pytest.fixture(scope="module")
def board():
    return Checkerboard()


def test_popularity_counts_people():
    train = Interactions.from_pairs([("ann", "emma"), ("ann", "emma"), ("bob", "emma"), ("bob", "dune")])
    assert Popularity().fit(train).score(train.matrix()).tolist() == [[2.0, 1.0], [2.0, 1.0]]


def test_item_knn_by_hand():
    train = Interactions.from_pairs(
        [("ann", "a"), ("ann", "b"), ("bob", "a"), ("bob", "b"), ("eve", "a"), ("eve", "c")]
    )
    weights = ItemKnn(k=2, shrink=1.0).fit(train).weights.toarray()
    ab, ac = 2 / (np.sqrt(6) + 1), 1 / (np.sqrt(3) + 1)
    np.testing.assert_allclose(weights, [[0, ab, ac], [ab, 0, 0], [ac, 0, 0]], rtol=1e-6)
    nearest = ItemKnn(k=1, shrink=1.0).fit(train).weights.toarray()
    np.testing.assert_allclose(nearest, [[0, ab, ac], [ab, 0, 0], [0, 0, 0]], rtol=1e-6)  # a keeps b, not c


def test_item_knn_without_shrinkage_survives_cold_items(board):
    model = ItemKnn(shrink=0.0).fit(board.train)
    assert np.isfinite(model.score(model.histories)).all()


def test_content_looks_at_nothing_but_texts(board):
    model = ContentSimilarity(power=2.0).fit(board.train, board.embeddings)
    unit = board.embeddings.vectors - board.embeddings.vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    wanted = model.histories.toarray() @ np.maximum(0, unit @ unit.T) ** 2
    np.testing.assert_allclose(model.score(model.histories), wanted, atol=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0, 3.5])
def test_tfidf_kernel_is_the_same_dense_and_sparse(board, power):
    model = TfidfSimilarity(board.catalog, power=power).fit(board.train)
    dense = model.matrix.toarray()
    wanted = model.histories.toarray() @ (dense @ dense.T) ** power
    np.testing.assert_allclose(model.score(model.histories), wanted, atol=1e-5)


def test_tfidf_takes_its_own_text(board):
    by_id = TfidfSimilarity(board.catalog, text=lambda item: item.item_id.replace("-", " word ")).fit(board.train)
    by_field = TfidfSimilarity(board.catalog, text=ItemText(TextConfig(fields=["title"]))).fit(board.train)
    for model in (by_id, by_field):
        assert model.recommend(["sea-reader-1"], k=1)[0][0][0].startswith("sea")


def test_tfidf_says_where_its_words_are_missing(board):
    with pytest.raises(DataError, match=r"TfidfSimilarity\(catalog\)"):
        TfidfSimilarity().fit(board.train)
    with pytest.raises(DataError, match="7 items are not in the catalogue, such as love-0"):
        TfidfSimilarity(board.catalog.take(np.arange(7))).fit(board.train)
    silent = Catalog.from_items([{"item_id": x} for x in board.catalog.ids])
    model = TfidfSimilarity(silent)
    with pytest.raises(DataError, match="no usable word"):
        model.fit(board.train)
    assert not model.is_fitted


def test_ease_is_blind_to_the_cold(board):
    model = Ease().fit(board.train)
    cold = model.items.rows(["sea-cold", "love-cold"])
    assert not model.score(model.histories)[:, cold].any()
    assert len(model.weights) == len(model.items) - 2


def test_l3ae_without_a_pull_is_ease(board):
    ease = Ease(ridge=3.0).fit(board.train)
    model = L3ae(ridge=3.0, pull=0.0).fit(board.train, board.embeddings)
    np.testing.assert_allclose(model.score(model.histories), ease.score(ease.histories), atol=1e-5)


def test_als_folds_people_in_as_its_library_does(board):
    from implicit.cpu.als import AlternatingLeastSquares

    model = ImplicitAls(factors=3, alpha=4.0, regularization=0.1).fit(board.train)
    theirs = AlternatingLeastSquares(factors=3, regularization=0.1, dtype=np.float64)
    theirs.item_factors = model.item_vectors.astype(np.float64)
    weighted = model.histories.astype(np.float64)
    weighted.data = 1.0 + 4.0 * weighted.data
    wanted = theirs.recalculate_user(np.arange(len(model.users)), weighted)
    np.testing.assert_allclose(model._people(model.histories), wanted, rtol=1e-4, atol=1e-5)


def test_als_folds_in_long_and_short_histories_in_blocks(board, monkeypatch):
    model = ImplicitAls(factors=3).fit(board.train)
    whole = model.score(model.histories)
    monkeypatch.setattr("llm_tail.recommenders.als.BLOCK_BYTES", 8 * 3 * 6 * 2)
    np.testing.assert_allclose(model.score(model.histories), whole, rtol=1e-5, atol=1e-6)


def test_als_names_its_extra(board, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(MissingExtraError, match=r"llm-tail\[als\]"):
        ImplicitAls().fit(board.train)


@pytest.mark.parametrize("model", [Ease(max_items=5), L3ae(max_items=5)])
def test_too_many_items_for_a_closed_form_are_refused_at_once(board, model):
    with pytest.raises(DataError, match="max_items"):
        model.fit(board.train, board.embeddings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ContentSimilarity(power=0),
        lambda: TfidfSimilarity(power=float("nan")),
        lambda: ItemKnn(k=0),
        lambda: ItemKnn(shrink=-1),
        lambda: Ease(ridge=0),
        lambda: L3ae(pull=-1),
        lambda: ImplicitAls(factors=0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()


def test_every_baseline_can_be_made_by_name(board):
    for name in BASELINES:
        model = make_baseline(name, catalog=board.catalog, seed=3)
        assert model.name == name
        assert not model.is_fitted
    assert make_baseline("als", seed=3).seed == 3


def test_a_wrong_name_is_answered_with_the_right_ones():
    with pytest.raises(ConfigError, match=r"'itemknn'; the closest is item-knn; expected one of: popularity, content"):
        make_baseline("itemknn")
