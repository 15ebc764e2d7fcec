import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llm_tail.errors import DataError
from llm_tail.neighbors.exact import check_excluded, check_k, nearest, unit_vectors

# Whole numbers make many exact ties and many zero vectors.
small = st.integers(1, 6).flatmap(
    lambda dim: st.tuples(
        arrays(np.int64, st.tuples(st.integers(0, 7), st.just(dim)), elements=st.integers(-2, 2)),
        arrays(np.int64, st.tuples(st.integers(0, 9), st.just(dim)), elements=st.integers(-2, 2)),
    )
)


def brute_force(queries, base, k):
    """One pair at a time, in double precision."""
    rows, similarities = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
    for n, query in enumerate(queries.astype(float)):
        lengths = np.linalg.norm(query) * np.linalg.norm(base.astype(float), axis=1)
        found = [(-round(float(query @ base[j]) / lengths[j], 5), j) for j in range(len(base)) if lengths[j] > 0]
        for place, (minus, j) in enumerate(sorted(found)[:k]):
            rows[n, place], similarities[n, place] = j, -minus
    return rows, similarities


@given(small, st.integers(1, 12), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_equals_comparing_every_pair(vectors, k, block):
    queries, base = vectors
    rows, similarities = nearest(queries, base, k, block=block)
    expected_rows, expected = brute_force(queries, base, k)
    assert rows.dtype == np.int64 and similarities.dtype == np.float32
    assert rows.shape == similarities.shape == (len(queries), k)
    np.testing.assert_allclose(similarities, expected, atol=2e-5)
    np.testing.assert_array_equal(rows < 0, expected_rows < 0)
    there = rows >= 0
    assert all(len(set(line[line >= 0])) == (line >= 0).sum() for line in rows)
    # Ties may fall either way by the last bit; the similarity of what was returned has to be the one that is said.
    unit_q, unit_b = unit_vectors(queries, "q"), unit_vectors(base, "b")
    said = np.einsum("nd,nkd->nk", unit_q, unit_b[rows]) if len(base) else similarities
    np.testing.assert_allclose(said[there], similarities[there], atol=1e-5)


def test_equal_ones_come_by_row():
    rows, similarities = nearest([[1, 0]], [[1, 0]] * 5 + [[0, 1]], k=3)
    assert rows.tolist() == [[0, 1, 2]] and similarities.tolist() == [[1, 1, 1]]


def test_similarities_never_leave_the_range():
    vectors = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    _, similarities = nearest(vectors, vectors, 300)
    assert similarities.max() <= 1 and similarities.min() >= -1
    assert (np.diff(similarities, axis=1) <= 0).all()


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_change_nothing(block):
    vectors = np.random.default_rng(1).normal(size=(50, 8))
    rows, similarities = nearest(vectors, vectors, 10, block=block)
    whole_rows, whole = nearest(vectors, vectors, 10)
    np.testing.assert_array_equal(rows, whole_rows)
    np.testing.assert_allclose(similarities, whole, atol=1e-6)


def test_a_row_can_be_left_out():
    rows, _ = nearest(np.eye(3), np.eye(3), 3, exclude_rows=[0, -1, 2])
    assert rows.tolist() == [[1, 2, -1], [1, 0, 2], [0, 1, -1]]


def test_zero_vectors_have_and_are_no_neighbours():
    rows, similarities = nearest([[0, 0], [1, 0]], [[0, 0], [1, 1]], 2)
    assert rows.tolist() == [[-1, -1], [1, -1]]
    assert np.isneginf(similarities[0]).all()


def test_an_empty_side_is_answered_with_nothing():
    assert nearest(np.zeros((0, 3)), np.eye(3), 2)[0].shape == (0, 2)
    assert nearest(np.eye(3), np.zeros((0, 3)), 2)[0].tolist() == [[-1, -1]] * 3


def test_the_input_is_left_alone():
    vectors = np.array([[3.0, 4.0]], dtype=np.float32)
    nearest(vectors, vectors, 1)
    assert vectors.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.ones(3), r"shape \(3,\), expected \(n, 3\)"),
        (np.ones((2, 4)), r"shape \(2, 4\), expected \(n, 3\)"),
        (np.ones((1, 2, 3)), "shape"),
        (5.0, "shape"),
        (np.array([["a", "b", "c"]]), "dtype <U1, expected numbers"),
        (np.ones((1, 3), dtype=bool), "dtype bool"),
        (np.ones((1, 3), dtype=complex), "dtype complex"),
        ([[1.0, 2.0], [1.0]], "different lengths"),
        ([[np.nan, 0, 0]], "1 of 1 vectors of the queries hold NaN"),
        ([[np.inf, 0, 0]], "infinite"),
        ([[1e300, 0, 0]], "infinite"),
    ],
)
def test_wrong_vectors_are_named(vectors, said):
    with pytest.raises(DataError, match=said):
        nearest(vectors, np.eye(3), 1)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True])
def test_k_is_a_whole_number_from_one(k):
    with pytest.raises(DataError, match="k is"):
        check_k(k)


@pytest.mark.parametrize("rows", [[0], [0.5, 1.0], [0, 3], [-2, 0]])
def test_rows_to_leave_out_have_to_exist(rows):
    with pytest.raises(DataError, match="exclude_rows"):
        check_excluded(rows, 2, 3)


def test_very_short_and_very_long_vectors_are_only_directions():
    rows, similarities = nearest([[1e-20, 0], [1e18, 0]], [[1e15, 0], [0, 1]], 1)
    assert rows.tolist() == [[0], [0]] and similarities.tolist() == [[1], [1]]
