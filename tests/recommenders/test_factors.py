import sys

import numpy as np
import pytest
import scipy.sparse as sp

from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import ConfigError, DataError, MissingExtraError
from llm_tail.recommenders.coldstart import ClcRec, DropoutNet
from llm_tail.recommenders.factors import Bpr, FeatureFactors, SampledSoftmaxFactors, sink
from llm_tail.recommenders.sequence import SasRec, TextSasRec

from .contracts import Checkerboard, RecommenderContract
from .shelf import Shelf

LEARNED = [Bpr, SampledSoftmaxFactors, FeatureFactors, ClcRec, DropoutNet, SasRec, TextSasRec]
unordered = pytest.mark.filterwarnings("ignore:.*learns from sequences")


class TestBpr(RecommenderContract):
    def make(self):
        return Bpr(factors=4)


class TestSampledSoftmaxFactors(RecommenderContract):
    def make(self):
        return SampledSoftmaxFactors(factors=8, learning_rate=0.3, epochs=30)


class TestSampledSoftmaxFactorsThatSample(RecommenderContract):
    def make(self):
        return SampledSoftmaxFactors(factors=8, learning_rate=0.3, epochs=30, negatives=6, batch_events=40)


class TestFeatureFactors(RecommenderContract):
    def make(self):
        return FeatureFactors(factors=8, learning_rate=0.3, epochs=30)


class TestFeatureFactorsOfWords(RecommenderContract):
    def make(self):
        return FeatureFactors(Checkerboard().catalog, features="words", factors=8, learning_rate=0.3, epochs=30)


@pytest.fixture(scope="module")
def board():
    return Checkerboard()


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


# ---- all of them


def quick(model, **settings):
    return model(**({"iterations": 2} if model is Bpr else {"epochs": 2}), factors=4, **settings)


@unordered
@pytest.mark.parametrize("model", LEARNED)
def test_two_people_and_three_items_are_enough(model):
    train = Interactions.from_pairs([("ann", "a"), ("ann", "b"), ("bob", "b")], items=Embeddings("abc", np.eye(3)).ids)
    fitted = quick(model).fit(train, Embeddings("abc", np.eye(3)))
    assert [len(items) for _, items in fitted.recommend(k=9)] == [1, 2]


@unordered
@pytest.mark.parametrize("model", LEARNED)
def test_one_item_each_is_little_but_no_mistake(model):
    train = Interactions.from_pairs([("ann", "a"), ("bob", "b")])
    fitted = quick(model).fit(train, Embeddings(train.items, np.eye(2)))
    assert fitted.recommend(["ann"])[0][0][0] == "b"


@unordered
@pytest.mark.parametrize("model", LEARNED)
def test_texts_that_say_nothing_are_no_mistake(model, board):
    blank = Embeddings(board.embeddings.ids, np.zeros((len(board.embeddings), 8)))
    fitted = quick(model).fit(board.train, blank)
    assert np.isfinite(fitted.score(fitted.histories)).all()


@unordered
@pytest.mark.parametrize("model", [m for m in LEARNED if m is not Bpr])
def test_the_best_look_at_validation_is_kept(model, shelf):
    held = shelf.validation()
    fitted = model(factors=4, epochs=6, patience=2).fit(shelf.train, shelf.embeddings, validation=held)
    record = fitted.training
    means = [np.mean(list(m.values())) for m in record["measured"]]
    assert set(record["measured"][0]) == {"warm", "tail", "cold", "overall"}
    assert record["kept_epoch"] == 1 + int(np.argmax(means))
    assert record["epochs"] == len(record["loss"]) == len(means)


@unordered
@pytest.mark.parametrize("model", [m for m in LEARNED if m is not Bpr])
def test_a_training_that_runs_away_is_said(model, board):
    name = "table_rate" if issubclass(model, SasRec) else "learning_rate"
    settings = {name: 1e30} if model is not DropoutNet else {name: 1e30, "epochs": 20}
    fitted = model(**{"epochs": 20, **settings}, factors=4)
    with pytest.raises(DataError, match=rf"loss of {model.name} is .*lower its learning_rate"):
        fitted.fit(board.train, board.embeddings)
    assert not fitted.is_fitted


@pytest.mark.parametrize("model", LEARNED)
def test_search_spaces_name_settings_within_their_bounds(model):
    for name, limits in model.search_space().items():
        choices = limits[:2] if isinstance(limits, tuple) else limits
        if isinstance(limits, tuple):
            assert limits[2] in ("log", "linear", "int") and limits[0] < limits[1]
        for value in choices:
            assert model(**{name: value})._settings()[name] == value


@pytest.mark.parametrize("model", LEARNED)
def test_settings_make_the_same_model_again(model):
    settings = model(seed=7)._settings()
    assert settings["seed"] == 7
    assert model(**settings)._settings() == settings


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bpr(factors=0),
        lambda: Bpr(learning_rate=0),
        lambda: SampledSoftmaxFactors(dropout=1.0),
        lambda: SampledSoftmaxFactors(power=-0.1),
        lambda: SampledSoftmaxFactors(max_minutes=0),
        lambda: SampledSoftmaxFactors(regularization=float("nan")),
        lambda: FeatureFactors(features="tags"),
        lambda: FeatureFactors(own_dropout=1.5),
        lambda: ClcRec(temperature=0),
        lambda: ClcRec(contrast=1.0),
        lambda: DropoutNet(preferences="bpr"),
        lambda: DropoutNet(dropout=-1),
        lambda: SasRec(n_heads=3),
        lambda: SasRec(max_history=1),
        lambda: TextSasRec(own_dropout=1.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()


@pytest.mark.parametrize("model", [FeatureFactors, ClcRec, TextSasRec])
def test_a_misspelt_setting_is_refused(model):
    with pytest.raises(TypeError, match="factor_s"):
        model(factor_s=3)


# ---- pairs


def test_people_read_off_their_histories_are_near_those_that_were_trained(shelf):
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = Bpr(factors=8).fit(shelf.train)
    theirs = BayesianPersonalizedRanking(
        factors=8, learning_rate=0.05, regularization=0.01, iterations=100, random_state=0, num_threads=1
    )
    theirs.fit(model.histories, show_progress=False)
    trained = theirs.user_factors @ model.item_vectors.T
    warm = model._popularity() > 0
    ours = model.score(model.histories)
    agreement = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours[:, warm], trained[:, warm], strict=True)]
    assert np.median(agreement) > 0.8


def test_bpr_names_its_extra(board, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.bpr", None)
    with pytest.raises(MissingExtraError, match=r"llm-tail\[als\]"):
        Bpr().fit(board.train)


@unordered
@pytest.mark.parametrize("model", [Bpr, SampledSoftmaxFactors, SasRec])
def test_what_is_unknown_comes_last(model, board):
    fitted = quick(model).fit(board.train)
    cold = fitted.items.rows(["sea-cold", "love-cold"])
    scores = fitted.score(fitted.histories)
    warm = np.setdiff1d(np.arange(len(fitted.items)), cold)
    assert (scores[:, cold] < scores[:, warm].min(axis=1, keepdims=True)).all()


def test_sinking_where_there_is_nothing_else():
    assert sink(np.ones((2, 3), np.float32), np.array([True, True, True])).tolist() == [[-1.0] * 3] * 2
    assert sink(np.ones((1, 2), np.float32), np.array([False, False])).tolist() == [[1.0, 1.0]]


# ---- softmax


def test_popularity_is_learned_where_there_is_nothing_else():
    pairs = [(f"u{n}", "a" if n % 4 else "b") for n in range(40)]  # one item a person: nobody has a history
    model = SampledSoftmaxFactors(factors=2, epochs=60).fit(Interactions.from_pairs(pairs))
    odds = model.bias[model.items.row("a")] - model.bias[model.items.row("b")]
    assert odds == pytest.approx(np.log(3), abs=0.2)


def test_a_history_of_strangers_is_given_what_is_popular(board):
    model = SampledSoftmaxFactors(factors=4, epochs=10).fit(board.train)
    only_cold = model._history(["sea-cold"])
    np.testing.assert_allclose(model.score(only_cold)[0, model._popularity() > 0], model.bias[model._popularity() > 0])


def test_a_time_limit_ends_it(shelf):
    model = SampledSoftmaxFactors(factors=4, max_minutes=1e-9).fit(shelf.train)
    assert model.training["stopped"] == "time"
    assert model.recommend(k=1).item_rows.min() >= 0


# ---- features


def test_features_lend_the_cold_a_place(shelf):
    model = FeatureFactors(factors=8, epochs=20, learning_rate=0.2).fit(shelf.train, shelf.embeddings)
    cold = np.char.startswith(model.items.values.astype(str), "c")
    best = np.flatnonzero(cold)[model.score(model.histories)[:, cold].argmax(axis=1)]
    tastes = np.array([int(user[1:]) % 3 for user in model.users])
    assert (shelf.taste[best] == tastes).mean() > 0.8


def test_words_and_vectors_together(board):
    both = FeatureFactors(board.catalog, features="both", factors=4, epochs=3).fit(board.train, board.embeddings)
    assert np.isfinite(both.score(both.histories)).all()


def test_features_that_are_missing_are_named(board):
    with pytest.raises(DataError, match=r"fit\(train, embeddings\)"):
        FeatureFactors().fit(board.train)
    with pytest.raises(DataError, match=r"FeatureFactors\(catalog, features='words'\)"):
        FeatureFactors(features="words").fit(board.train)


def test_weights_of_a_history_count():
    model = SampledSoftmaxFactors(factors=2, power=1.0)
    model.taken, model.shown = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    np.testing.assert_allclose(model._people(sp.csr_matrix([[3.0, 1.0]])), [[0.75, 0.25]])
