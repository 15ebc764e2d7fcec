import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_tail as lt
from llm_tail.data.catalog import Item
from llm_tail.service.stock import Shelf, Stock

KNOWN = {"a": 0, "b": 1, "c": 2}


def unit(*values):
    vector = np.array(values, dtype=np.float32)
    return vector / max(np.linalg.norm(vector), 1e-9)


@pytest.fixture
def hybrid():
    train = lt.Interactions.from_pairs([("ann", "a"), ("ann", "b"), ("bob", "c")])
    words = lt.Embeddings("abc", np.array([[1, 0.1], [0.9, 0.2], [0, 1]]))
    return lt.HybridRecommender({"tune": False, "learn": False}).fit(train, words)


def test_the_nearest_by_eye():
    shelf = Shelf().with_items(
        [Item("x"), Item("y"), Item("none")], np.stack([unit(1, 0), unit(0, 1), unit(0, 0)]), KNOWN
    )
    assert shelf.near(unit(1, 0.1), 5) == [
        ("x", pytest.approx(0.995, abs=1e-3)),
        ("y", pytest.approx(0.0995, abs=1e-3)),
    ]
    assert [name for name, _ in shelf.near(unit(1, 0.1), 1, without="x")] == ["y"]
    assert shelf.near(unit(0, 0), 5) == [] and Shelf().near(unit(1, 0), 5) == []


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abxyz"), min_size=1, max_size=4), max_size=6))
def test_of_one_id_the_last_words_count(batches):
    shelf, last = Shelf(), {}
    for number, batch in enumerate(batches):
        items = [Item(name, f"{number}.{place}") for place, name in enumerate(batch)]
        vectors = np.stack([unit(number + 1, place) for place in range(len(batch))])
        shelf = shelf.with_items(items, vectors, KNOWN)
        last |= {item.item_id: (item.title, vector) for item, vector in zip(items, vectors, strict=True)}
    assert {name: item.title for name, item in shelf.items.items()} == {
        name: title for name, (title, _) in last.items()
    }
    assert shelf.changed == set(last) & set(KNOWN)
    for name, (_, vector) in last.items():
        np.testing.assert_array_equal(shelf.vector(name), vector)


def test_a_new_item_is_recommended_and_the_fitted_model_stays_as_it_was(hybrid):
    stock = Stock(KNOWN, hybrid)
    stock.put([Item("x")], unit(1, 0.15)[None])
    assert not stock.is_told(["x"]) and stock.is_told(["a"])
    stock.tell()
    assert stock.is_told(["x"]) and len(hybrid.items) == 3
    assert stock.hybrid.recommend(history=["a", "b"], k=1)[0][0][0] == "x"
    once = stock.hybrid
    stock.tell()
    assert stock.hybrid is once  # nothing new, nothing done


def test_new_words_of_a_new_item_change_its_place(hybrid):
    stock = Stock(KNOWN, hybrid)
    for vector in (unit(1, 0.1), unit(0, 1)):
        stock.put([Item("x")], vector[None])
        stock.put([Item("a")], vector[None])  # one of the run: found by the new words, recommended by the old
        stock.tell()
    assert len(stock.hybrid.items) == 4
    fresh = copy.copy(hybrid).add_items(lt.Embeddings(["x"], unit(0, 1)[None]))
    np.testing.assert_allclose(stock.hybrid.score(stock.hybrid.histories), fresh.score(fresh.histories), atol=1e-6)


def test_a_hybrid_that_looks_at_words_is_told_them():
    words = {"a": unit(0, 1), "b": unit(1, 0), "x": unit(0, 1)}
    vectors = lt.Embeddings("ab", np.eye(2)).with_words(np.stack([words["a"], words["b"]]))
    train = lt.Interactions.from_pairs([("ann", "a"), ("bob", "b")])
    hybrid = lt.HybridRecommender({"tune": False, "learn": False, "word_share": 0.9}).fit(train, vectors)
    near = {}
    for counted in (lambda items: np.stack([words[item.item_id] for item in items]), lambda items: None):
        stock = Stock(KNOWN, hybrid, counted)
        stock.put([Item("x")], unit(0, 1)[None])  # means what b means, in the words of a
        stock.tell()
        near[counted] = stock.hybrid.explain("x", history=["a"]).neighbors[0][0]
    assert list(near.values()) == ["a", "b"]


def test_other_words_of_the_same_meaning_are_told_too():
    vectors = lt.Embeddings("ab", np.eye(2)).with_words(np.eye(2))
    train = lt.Interactions.from_pairs([("ann", "a"), ("bob", "b")])
    hybrid = lt.HybridRecommender({"tune": False, "learn": False, "word_share": 0.9}).fit(train, vectors)
    stock = Stock(KNOWN, hybrid, lambda items: np.stack([unit(*map(int, item.title.split())) for item in items]))
    near = []
    for title in ("1 0", "0 1"):
        stock.put([Item("x", title)], unit(1, 1)[None])
        stock.tell()
        near.append(stock.hybrid.explain("x", history=["a"]).neighbors[0][0])
    assert near == ["a", "b"]


def test_without_people_there_is_nobody_to_tell():
    stock = Stock(KNOWN, None)
    stock.put([Item("x")], unit(1, 0)[None])
    stock.tell()
    assert stock.hybrid is None and not stock.is_told(["x"])
