import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.embedding import negatives as room
from llm_tail.embedding.negatives import mine_negatives, nearest_blocks
from llm_tail.embedding.pairs import TextPairs
from llm_tail.embedding.sampling import any_shared
from llm_tail.errors import DataError


def unit(rng, n, dim=8):
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def arc(n):
    """Vectors on a quarter of a circle: the k-th neighbour of the first is the k-th."""
    angle = np.linspace(0, np.pi / 2, n)
    return np.column_stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


def pairs_of(anchors, positives, n, readers=None, **more):
    return TextPairs(anchors, positives, [f"text {i}" for i in range(n)], np.zeros(n), readers=readers, **more)


def ring(n):
    """Each text is the anchor of one pair and the positive of another."""
    return pairs_of(np.arange(n), (np.arange(n) + 1) % n, n)


def test_from_the_window_of_ranks_by_eye():
    pairs = ring(10)  # neighbours of text 0, nearest first: 1 (its positive), 2, 3, ... 8, 9 (taken together with it)
    for seed in range(20):
        found = mine_negatives(arc(10), pairs, n=3, window=(3, 5), margin=2.0, seed=seed)
        assert sorted(found[0]) == [3, 4, 5]
    drawn = {int(mine_negatives(arc(10), pairs, window=(3, 5), margin=2.0, seed=seed)[0, 0]) for seed in range(30)}
    assert drawn == {3, 4, 5}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 12), st.integers(0, 8), st.floats(0.2, 1.2))
def test_laws(seed, n, first, more, margin):
    rng = np.random.default_rng(seed)
    n_texts, last = 30, first + more
    anchors = rng.integers(0, n_texts, 25)
    positives = (anchors + rng.integers(1, n_texts, 25)) % n_texts
    readers = sp.csr_matrix((rng.random((n_texts, 6)) < 0.15).astype(np.float32))
    vectors, pairs = unit(rng, n_texts), pairs_of(anchors, positives, n_texts, readers)
    found = mine_negatives(vectors, pairs, n=n, window=(first, last), margin=margin, seed=seed)
    assert found.shape == (25, n)
    pool = np.unique(positives)
    cosines = vectors @ vectors.T
    for pair, row in enumerate(found):
        anchor, positive = anchors[pair], positives[pair]
        others = pool[pool != anchor]
        ranks = {int(text): rank for rank, text in enumerate(others[np.argsort(-cosines[anchor, others])], 1)}
        fit = {
            text
            for text, rank in ranks.items()
            if text != positive
            and first <= rank <= last
            and cosines[anchor, text] < margin * cosines[anchor, positive]
            and not pairs.together(np.array([anchor]), np.array([text]))[0, 0]
        }
        taken = [int(text) for text in row if text >= 0]
        assert set(taken) <= fit and len(taken) == len(set(taken)) == min(n, len(fit))


def test_none_where_none_fits():
    found = mine_negatives(arc(6), ring(6), n=2, window=(10, 50))
    assert (found == -1).all()
    assert (mine_negatives(arc(6), ring(6), n=2, window=(1, 5), margin=1e-9) == -1).all()


def test_of_the_same_kind_alone_and_with_words():
    n = 12
    kinds = np.array([0] * 5 + [3] * 5, np.int8)
    anchors, positives = np.arange(10), np.array([1, 2, 3, 4, 0, 6, 7, 8, 9, 5])
    texts = [f"text {i}" for i in range(n)]
    texts[3] = "  "
    pairs = TextPairs(anchors, positives, texts, np.zeros(n), kinds=kinds)
    vectors = unit(np.random.default_rng(0), n)
    found = mine_negatives(vectors, pairs, n=5, window=(1, 12), margin=2.0)
    near, far = set(found[:5].ravel()) - {-1}, set(found[5:].ravel()) - {-1}
    assert near <= {0, 1, 2, 4} and far <= {5, 6, 7, 8, 9}  # 10 and 11 stand in no pair


def test_blocks_change_nothing_and_bound_the_memory(monkeypatch):
    rng = np.random.default_rng(1)
    n = 3000
    vectors, pairs = unit(rng, n), ring(n)
    tracemalloc.start()
    whole = mine_negatives(vectors, pairs, n=2)
    peaks = [tracemalloc.get_traced_memory()[1]]
    tracemalloc.stop()
    monkeypatch.setattr(room, "_BLOCK_BYTES", 1 << 18)
    tracemalloc.start()
    parts = mine_negatives(vectors, pairs, n=2)
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert (whole >= 0).any() and ((whole >= 0).sum(1) == (parts >= 0).sum(1)).all()
    assert peaks[1] < peaks[0] / 10 and peaks[1] < 8 << 20  # all cosines at once would be 36 MB


def test_exact_search_in_blocks(monkeypatch):
    rng = np.random.default_rng(2)
    queries, base = unit(rng, 7), unit(rng, 50)
    expected = np.argsort(-(queries @ base.T), axis=1)[:, :5]
    for limit in (64 << 20, 200):
        monkeypatch.setattr(room, "_BLOCK_BYTES", limit)
        rows, cosines = nearest_blocks(queries, base, 5)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_allclose(cosines, np.take_along_axis(queries @ base.T, expected, 1), rtol=1e-6)


def test_another_search_is_asked():
    asked = []

    def search(queries, base, k):
        asked.append((len(queries), len(base), k))
        rows, cosines = nearest_blocks(queries, base, k)
        rows[:, -1] = -1  # an index may find fewer
        return rows, cosines

    found = mine_negatives(arc(10), ring(10), window=(1, 5), margin=2.0, search=search)
    assert asked == [(10, 10, 6)] and (found >= 0).any()


def test_a_window_that_is_none():
    for window, n in (((0, 5), 1), ((5, 4), 1), ((1, 5), 0)):
        with pytest.raises(DataError, match="ascending range"):
            mine_negatives(arc(4), ring(4), window=window, n=n)


def test_readers_are_compared_in_bounded_parts(monkeypatch):
    rng = np.random.default_rng(3)
    readers = sp.csr_matrix((rng.random((40, 20)) < 0.2).astype(np.float32))
    first, others = rng.integers(0, 40, 15), rng.integers(-1, 40, (15, 4))
    dense = readers.toarray()
    expected = np.array([[other >= 0 and bool(dense[a] @ dense[other]) for other in row] for a, row in
                         zip(first, others, strict=True)])  # fmt: skip
    np.testing.assert_array_equal(any_shared(readers, first, others), expected)
    monkeypatch.setattr("llm_tail.embedding.sampling._PART_WORDS", 10)
    np.testing.assert_array_equal(any_shared(readers, first, others), expected)
    assert any_shared(readers, first[:0], others[:0]).shape == (0, 4)
