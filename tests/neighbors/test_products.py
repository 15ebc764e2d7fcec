"""Keys by inner product: exact where small, a graph where large, and nothing unchecked reaches the library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import IndexConfig
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.neighbors.products import ProductIndex

GRAPH = IndexConfig(exact_below=0)


def keys_of(seed, n=400, dim=16):
    """Directions of any length: some keys are far longer than others."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, dim)) * rng.lognormal(0, 0.5, (n, 1))).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 60), st.integers(1, 70))
def test_small_ones_are_searched_exactly(seed, n, k):
    keys, queries = keys_of(seed, n), keys_of(seed + 1, 7)
    index = ProductIndex.build(keys)
    rows, products = index.query(queries, k)
    assert index.is_exact
    assert rows.shape == products.shape == (7, min(k, n))
    np.testing.assert_allclose(products, -np.sort(-(queries @ keys.T), axis=1)[:, :k], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(products, np.take_along_axis(queries @ keys.T, rows, axis=1), rtol=1e-4, atol=1e-5)


def test_a_graph_finds_nearly_all_and_the_same_each_time():
    keys, queries = keys_of(0), keys_of(1, 100)
    one, two = (ProductIndex.build(keys, GRAPH, seed=3) for _ in range(2))
    assert not one.is_exact
    assert one.recall(queries, 10) > 0.95
    assert one.recall(queries, 100) > 0.95
    np.testing.assert_array_equal(one.query(queries, 20)[0], two.query(queries, 20)[0])
    rows, products = one.query(queries, 20)
    assert (np.diff(products, axis=1) <= 0).all()
    np.testing.assert_allclose(products, np.take_along_axis(queries @ keys.T, rows, axis=1), rtol=1e-3, atol=1e-3)


def test_all_of_them_can_be_asked_for():
    index = ProductIndex.build(keys_of(0, 50), GRAPH)
    for k in (30, 50, 99):
        rows, _ = index.query(keys_of(1, 3), k)
        assert all(len(set(line)) == min(k, 50) for line in rows)


def test_nobody_asked_and_silent_keys():
    index = ProductIndex.build(np.zeros((5, 3)))
    assert index.query(np.zeros((0, 3)), 2)[0].shape == (0, 2)
    rows, products = index.query(np.ones((1, 3)), 2)
    assert not products.any()
    assert len(set(rows[0])) == 2
    assert ProductIndex.build(keys_of(0), GRAPH).query(np.zeros((0, 16)), 2)[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "k", "words"),
    [
        (np.ones((2, 7)), 3, r"shape \(2, 7\).*\(n, 16\)"),
        (np.ones(16), 3, "shape"),
        (np.full((1, 16), np.nan), 3, "NaN"),
        (np.array([["a"] * 16]), 3, "dtype"),
        (np.ones((1, 16)), 0, "k is 0"),
    ],
)
@pytest.mark.parametrize("config", [None, GRAPH])
def test_what_is_wrong_is_said(queries, k, words, config):
    with pytest.raises(DataError, match=words):
        ProductIndex.build(keys_of(0, 60), config).query(queries, k)


def test_keys_are_checked():
    for keys in (np.zeros((0, 3)), np.full((2, 2), np.inf), np.ones(3)):
        with pytest.raises(DataError):
            ProductIndex.build(keys)


@pytest.mark.parametrize("config", [None, GRAPH], ids=["exact", "graph"])
def test_it_is_saved_and_read(config, tmp_path):
    index, queries = ProductIndex.build(keys_of(0), config, seed=1), keys_of(1, 9)
    again = ProductIndex.load(index.save(tmp_path / "index"))
    assert repr(again) == repr(index)
    for a, b in zip(again.query(queries, 7), index.query(queries, 7), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(StaleArtifactError):
        ProductIndex.load(tmp_path / "nowhere")
    file = next((tmp_path / "index").rglob("*.hnsw" if config else "keys.safetensors"))
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CorruptArtifactError):
        ProductIndex.load(tmp_path / "index")
