import sys

import numpy as np
import pytest

from llm_tail.errors import DataError, MissingExtraError
from llm_tail.recommenders.als import ImplicitAls
from llm_tail.recommenders.coldstart import ClcRec, DropoutNet

from .contracts import Checkerboard, RecommenderContract
from .shelf import Shelf


class TestClcRec(RecommenderContract):
    def make(self):
        return ClcRec(factors=8, hidden=16, learning_rate=0.3, epochs=60, contrast=0.3)


class TestDropoutNet(RecommenderContract):
    def make(self):
        return DropoutNet(factors=2, hidden=32, learning_rate=1e-2, epochs=100)


class TestDropoutNetOfSingularVectors(RecommenderContract):
    def make(self):
        return DropoutNet(factors=2, preferences="svd", hidden=32, learning_rate=1e-2, epochs=100)


@pytest.fixture(scope="module")
def board():
    return Checkerboard()


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


def tastes_found(model, shelf, kind):
    """Return how many people are given something to their taste, among the items whose ids start with `kind`."""
    there = np.char.startswith(model.items.values.astype(str), kind)
    best = np.flatnonzero(there)[model.score(model.histories)[:, there].argmax(axis=1)]
    return (shelf.taste[best] == [int(user[1:]) % 3 for user in model.users]).mean()


@pytest.mark.parametrize(
    "model",
    [ClcRec(factors=8, hidden=16, epochs=30, learning_rate=0.2), DropoutNet(factors=6, epochs=150, learning_rate=1e-2)],
)
def test_cold_items_find_their_readers(model, shelf):
    model.fit(shelf.train, shelf.embeddings)
    assert tastes_found(model, shelf, "c") > 0.5  # chance finds a third
    assert tastes_found(model, shelf, "w") > 0.7


def test_without_dropping_the_towers_rebuild_what_they_were_given(shelf):
    model = DropoutNet(factors=6, dropout=0.0, epochs=300, learning_rate=1e-2).fit(shelf.train, shelf.embeddings)
    als = ImplicitAls(6, model.regularization, model.alpha).fit(shelf.train)
    warm = als._popularity() > 0
    ours, theirs = model.score(model.histories)[:, warm], als.score(als.histories)[:, warm]
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95


def test_singular_vectors_need_no_extra(board, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    DropoutNet(factors=2, preferences="svd", epochs=1).fit(board.train, board.embeddings)
    with pytest.raises(MissingExtraError, match=r"llm-tail\[als\]"):
        DropoutNet(factors=2, epochs=1).fit(board.train, board.embeddings)


def test_more_factors_than_people_are_no_mistake(board):
    model = DropoutNet(factors=64, preferences="svd", epochs=1).fit(board.train, board.embeddings)
    assert model.arrays["preferences"].shape == (14, 14)


@pytest.mark.parametrize("model", [ClcRec, DropoutNet])
def test_a_cold_item_says_something_of_its_reader(model, board):
    fitted = model(factors=4, epochs=40, **({"learning_rate": 0.3} if model is ClcRec else {}))
    fitted.fit(board.train, board.embeddings)
    assert len(fitted.recommend(history=["sea-cold"], k=3)[0]) == 3


@pytest.mark.parametrize("model", [ClcRec, DropoutNet])
def test_vectors_are_needed(model, board):
    with pytest.raises(DataError, match="embeddings"):
        model().fit(board.train)
