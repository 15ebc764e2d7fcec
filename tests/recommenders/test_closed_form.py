import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.errors import ConfigError, DataError
from llm_tail.recommenders import closed_form
from llm_tail.recommenders.closed_form import (
    ease_weights,
    l3ae_of_factors,
    l3ae_weights,
    text_factors,
    text_weights,
)


def world(seed, n_users=30, n_items=9):
    rng = np.random.default_rng(seed)
    taken = (rng.random((n_users, n_items)) < 0.3).astype(float)
    taken[:, :2] = 0  # cold
    return taken, rng.standard_normal((n_items, 5))


def solve_columns(taken, ridge, pull, target):
    """The same minimum, column by column, each without its own item: no multiplier is needed."""
    n = taken.shape[1]
    weights = np.zeros((n, n))
    for i in range(n):
        rest = np.delete(np.arange(n), i)
        left = taken[:, rest].T @ taken[:, rest] + (ridge + pull) * np.eye(n - 1)
        weights[rest, i] = np.linalg.solve(left, taken[:, rest].T @ taken[:, i] + pull * target[rest, i])
    return weights


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 500))
def test_ease_is_the_minimum(seed, ridge):
    taken, _ = world(seed)
    wanted = solve_columns(taken, ridge, 0.0, np.zeros((9, 9)))
    np.testing.assert_allclose(ease_weights(taken.T @ taken, ridge), wanted, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 100))
def test_text_weights_are_the_minimum(seed, ridge):
    _, vectors = world(seed)
    wanted = solve_columns(vectors.T, ridge, 0.0, np.zeros((9, 9)))
    np.testing.assert_allclose(text_weights(vectors, ridge), wanted, atol=1e-4)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 100), st.floats(0, 300))
def test_l3ae_is_the_minimum(seed, ridge, pull):
    taken, vectors = world(seed)
    text = text_weights(vectors, 1.0)
    wanted = solve_columns(taken, ridge, pull, text)
    np.testing.assert_allclose(l3ae_weights(taken.T @ taken, text, ridge, pull), wanted, atol=1e-4)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 100), st.floats(0, 300))
def test_l3ae_of_factors_is_l3ae(seed, ridge, pull):
    taken, vectors = world(seed)
    some = np.flatnonzero(taken.sum(axis=0) > 0)
    gram, vectors = taken[:, some].T @ taken[:, some], vectors[some]
    wanted = l3ae_weights(gram, text_weights(vectors, 1.0), ridge, pull)
    np.testing.assert_allclose(l3ae_of_factors(gram, text_factors(vectors, 1.0), ridge, pull), wanted, atol=1e-4)


def test_sparse_and_dense_gram_agree_and_stay_as_they_are():
    taken, vectors = world(0)
    gram, text = taken.T @ taken, text_weights(vectors, 1.0)
    before, text_before = gram.copy(), text.copy()
    np.testing.assert_array_equal(ease_weights(gram, 2.0), ease_weights(sp.csr_matrix(gram), 2.0))
    np.testing.assert_array_equal(l3ae_weights(gram, text, 2.0, 3.0), l3ae_weights(sp.csc_array(gram), text, 2.0, 3.0))
    np.testing.assert_array_equal(gram, before)
    np.testing.assert_array_equal(text, text_before)


def test_the_lower_half_is_mirrored_in_blocks(monkeypatch):
    taken, _ = world(3, n_items=13)
    whole = ease_weights(taken.T @ taken, 2.0)
    monkeypatch.setattr(closed_form, "_BLOCK", 4)
    np.testing.assert_array_equal(ease_weights(taken.T @ taken, 2.0), whole)


def test_nobody_took_anything():
    text = text_weights(np.eye(3), 1.0)
    assert not ease_weights(np.zeros((3, 3)), 1.0).any()
    np.testing.assert_allclose(l3ae_weights(np.zeros((3, 3)), text, 1.0, 1.0), text / 2)


def test_an_item_without_text_lends_nothing():
    vectors = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    weights = text_weights(vectors, 1.0)
    assert not weights[1].any()
    assert not weights[:, 1].any()


def test_what_cannot_be_solved_is_refused():
    gram = np.eye(3)
    with pytest.raises(ConfigError, match="ridge is 0"):
        ease_weights(gram, 0)
    with pytest.raises(ConfigError, match="ridge is -1"):
        text_weights(gram, -1)
    with pytest.raises(ConfigError, match="pull is -1"):
        l3ae_weights(gram, gram, 1.0, -1)
    with pytest.raises(DataError, match="square"):
        ease_weights(np.ones((2, 3)), 1.0)
    with pytest.raises(DataError, match="like the Gram matrix"):
        l3ae_weights(gram, np.eye(2), 1.0, 1.0)
    with pytest.raises(DataError, match="positive definite"):
        ease_weights(np.array([[1.0, 9.0], [9.0, 1.0]]), 1.0)
