"""TextSpace: meaning and words in one vector, and how much each says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.embedding.embeddings import Embeddings
from llm_tail.errors import DataError
from llm_tail.recommenders import text_space
from llm_tail.recommenders.hybrid import HybridRecommender
from llm_tail.recommenders.text_space import SHARES, TextSpace
from llm_tail.recommenders.tuning import objective

from .contracts import RecommenderContract
from .shelf import DIM, Shelf

PLAIN = {"tune": False, "learn": False, "neighbors": 3}


def vague(shelf, seed=3):
    """Vectors that say nothing of an item's taste, with words that do."""
    rng = np.random.default_rng(seed)
    n = len(shelf.ids)
    words = np.eye(6)[shelf.taste] + 0.1 * rng.standard_normal((n, 6))
    return Embeddings(shelf.ids, rng.standard_normal((n, DIM))).with_words(words)


class TestHybridWithWords(RecommenderContract):
    def make(self):
        return HybridRecommender(PLAIN | {"word_share": 0.4})

    def fit(self, model, board):
        words = np.random.default_rng(1).standard_normal((len(board.catalog), 6)) * 0.1
        words[:, 0] += [item.startswith("sea") for item in board.catalog.ids]
        return model.fit(board.train, board.embeddings.with_words(words))

    def test_no_history_gives_what_most_people_take(self, model):
        assert model.recommend(history=[], k=14).from_popularity.all()


@given(st.integers(0, 99), st.floats(0.01, 0.9))
def test_the_cosine_is_the_weighted_mean_of_both(seed, share):
    rng = np.random.default_rng(seed)
    items = Embeddings("abcdef", rng.standard_normal((6, 4))).with_words(rng.standard_normal((6, 3)))
    meant, both = (TextSpace.around(items, s).place(items) for s in (0.0, share))
    worded = TextSpace.around(Embeddings(items.ids, items.words), 0.0).place(Embeddings(items.ids, items.words))
    np.testing.assert_allclose(both @ both.T, (1 - share) * meant @ meant.T + share * worded @ worded.T, atol=1e-5)


def test_without_words_or_weight_it_is_the_meaning_alone():
    items = Embeddings("abc", np.array([[3.0, 1.0], [1.0, 2.0], [0.0, 0.0]]))
    plain = TextSpace.around(items, 0.5)
    worded = items.with_words(np.eye(3))
    assert not plain.hears_words and not TextSpace.around(worded, 0.0).hears_words
    np.testing.assert_array_equal(plain.place(items), TextSpace.around(worded, 0.0).place(worded))
    assert not plain.place(items)[2].any()  # no text stays no text


def test_an_item_without_words_lies_by_its_meaning():
    items = Embeddings("abc", np.eye(4)[:3]).with_words(np.eye(3))
    space = TextSpace.around(items, 0.4)
    late = space.place(Embeddings("d", np.eye(4)[:1]))
    np.testing.assert_allclose(np.linalg.norm(late, axis=1), 1.0, atol=1e-6)
    assert not late[0, 4:].any()
    silent = Embeddings("ef", np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]])).with_words(np.zeros((2, 3)))
    assert not space.place(silent)[1].any()


def test_another_width_is_refused():
    items = Embeddings("abc", np.eye(3)).with_words(np.eye(3))
    with pytest.raises(DataError, match="vectors are 2 wide, expected 3"):
        TextSpace.around(items, 0.4).check(Embeddings("d", np.ones((1, 2))))
    with pytest.raises(DataError, match="vectors of words are 2 wide, expected 3"):
        TextSpace.around(items, 0.4).check(Embeddings("d", np.ones((1, 3))).with_words(np.ones((1, 2))))
    with pytest.raises(DataError, match="words have shape"):
        items.with_words(np.eye(2))


def test_validation_decides_how_much_words_say():
    shelf = Shelf()
    telling, vain = vague(shelf), shelf.embeddings.with_words(np.random.default_rng(0).standard_normal((42, 6)))
    found = {}
    for name, vectors in (("telling", telling), ("vain", vain), ("none", shelf.embeddings)):
        model = HybridRecommender({"learn": False}).fit(shelf.train, vectors, validation=shelf.validation())
        found[name] = model.training.get("words", {}).get("share"), model.hears_words
    assert found == {"telling": (SHARES[-1], True), "vain": (0.0, False), "none": (None, False)}


def test_where_shares_are_level_the_metric_decides(monkeypatch):
    shelf = Shelf()
    much_else = 2 * np.random.default_rng(0).standard_normal((42, 20))
    items = shelf.embeddings.with_words(np.hstack([vague(shelf).words, much_else]))
    tried = {}
    for nearly in (0.0, 0.9):
        monkeypatch.setattr(text_space, "NEARLY", nearly)
        model = HybridRecommender({"learn": False}).fit(shelf.train, items, validation=shelf.validation())
        tried[nearly] = model.training["metric"]["tried"]
        assert f"{model.training['words']['share']:g}" in tried[nearly]
    plain = {share: objective(measured) for share, measured in model.training["words"]["tried"].items()}
    assert list(tried[0.0]) == [share for share in plain if plain[share] == max(plain.values())]
    assert list(tried[0.9]) == [share for share in plain if plain[share] >= 0.1 * max(plain.values())]
    assert all(by_power["0"] == model.training["words"]["tried"][share] for share, by_power in tried[0.9].items())


def test_the_given_share_is_tried_and_none_is_none():
    shelf = Shelf()
    tried = {}
    for start in (0.0, 0.2):
        model = HybridRecommender({"learn": False, "word_share": start})
        model.fit(shelf.train, vague(shelf), validation=shelf.validation())
        tried[start] = list(model.training.get("words", {}).get("tried", []))
    assert tried == {0.0: [], 0.2: ["0", "0.15", "0.2", "0.3", "0.5"]}
    assert HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings).config.word_share == 0.0  # there were none


def test_words_that_are_not_heard_may_have_any_width():
    shelf = Shelf()
    model = HybridRecommender(PLAIN | {"word_share": 0.0}).fit(shelf.train, vague(shelf))
    model.add_items(Embeddings(["new"], np.ones((1, DIM))).with_words(np.ones((1, 2))))
    assert "new" in model.items


def test_it_is_written_and_read_and_takes_in_new_items(tmp_path):
    shelf = Shelf()
    vectors = vague(shelf)
    model = HybridRecommender(PLAIN | {"word_share": 0.4}).fit(shelf.train, vectors)
    model.save(tmp_path / "model")
    again = HybridRecommender.load(tmp_path / "model")
    new = Embeddings(["new"], np.ones((1, DIM))).with_words(np.eye(6)[[1]])
    for one in (model, again):
        one.add_items(new)
    np.testing.assert_allclose(again.score(again.histories), model.score(model.histories), atol=1e-5)
    said = again.explain("new", history=["w1", "w4"])
    assert said.text > 0  # the taste of its words
    assert {shelf.taste[again.items.row(lender)] for lender, _ in said.neighbors} == {1}
