import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.embedding import sampling
from llm_tail.embedding.pairs import TextPairs
from llm_tail.embedding.sampling import MOST_OF_ONE, any_shared, draw_pairs, sessions, weighted_draw, words_of


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=80, unique=True), st.integers(1, 30))
def test_drawn_pairs_are_distinct_and_of_one_group(members, most):
    groups, items = (np.array([m[i] for m in members], np.int64) for i in (0, 1))
    first, second, weight = draw_pairs(groups, items, most, np.random.default_rng(0))
    of = {g: set(items[groups == g].tolist()) for g in set(groups.tolist())}
    possible = [g for g, own in of.items() if len(own) > 1]
    assert (first != second).all() and (weight > 0).all()
    assert all(any({a, b} <= own for own in of.values()) for a, b in zip(first.tolist(), second.tolist(), strict=True))
    assert len(first) <= sum(min(most, len(of[g]) * (len(of[g]) - 1) // 2) for g in possible)
    if all(len(own) * (len(own) - 1) // 2 <= most for own in of.values()):  # nothing is left out
        assert len(first) == sum(len(own) * (len(own) - 1) // 2 for own in of.values())
        assert weight.sum() == pytest.approx(sum(len(of[g]) for g in possible) / 2)


def test_a_huge_group_is_numbered_rightly():
    n = 100_000  # five billion pairs: the root is rounded
    first, second, _ = draw_pairs(np.zeros(n, np.int64), np.arange(n), 1000, np.random.default_rng(0))
    assert len(first) == 1000 and (first > second).all() and first.max() < n and second.min() >= 0


def test_a_wide_value_gives_no_more_than_a_person_does():
    catalog = Catalog.from_items([{"item_id": str(i), "title": f"t {i}", "maker": i // 100} for i in range(200)])
    pairs = TextPairs.from_attributes(catalog, ["maker"], n_pairs=5_000)
    assert 2 * 25 < len(pairs) <= 2 * MOST_OF_ONE
    assert ((pairs.anchors < 100) == (pairs.positives < 100)).all()


def test_a_weighted_draw_takes_each_once_and_the_heavy_more_often():
    rng = np.random.default_rng(0)
    drawn = [weighted_draw(np.array([1.0, 1.0, 8.0]), 1, rng)[0] for _ in range(400)]
    assert np.mean(np.array(drawn) == 2) == pytest.approx(0.8, abs=0.06)
    assert sorted(weighted_draw(np.ones(5), 9, rng)) == list(range(5))


def test_sessions_by_eye():
    days = np.array([0.0, 0.0, 1.0, 3.0])
    frame = pd.DataFrame({"user_id": list("abaa"), "item_id": list("xxyz"), "timestamp": days * 86_400})
    numbers = sessions(Interactions.from_frame(frame), 1.0)
    assert numbers[0] == numbers[2] and len(set(numbers.tolist())) == 3


def test_many_short_rows_against_long_ones_are_compared_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    taken = rng.random((40, 300)) < np.r_[np.full(5, 0.9), np.full(35, 0.01)][:, None]  # five long rows
    readers = sp.csr_matrix(taken.astype(np.float32))
    first, others = np.arange(5, 40), np.tile(np.array([0, 1, 2, 3, 4, 7, -1]), (35, 1))
    whole = any_shared(readers, first, others)
    counted, original = [], sp.csr_matrix.multiply

    def counting(self, other):
        counted.append(self.nnz + other.nnz)
        return original(self, other)

    monkeypatch.setattr(sampling, "_PART_WORDS", 3_000)
    monkeypatch.setattr(sp.csr_matrix, "multiply", counting)
    np.testing.assert_array_equal(any_shared(readers, first, others), whole)
    assert max(counted) < 2 * 3_000 < sum(counted)
    expected = [[o >= 0 and (taken[f] & taken[o]).any() for o in own] for f, own in zip(first, others, strict=True)]
    np.testing.assert_array_equal(whole, expected)


def test_the_word_of_a_value():
    readers = words_of(np.array([0, 1, 2, 0]), np.array([5, 5, 5, 9]), 4)
    between = (readers @ readers.T).toarray()
    np.testing.assert_allclose(between[0], [0.5 + 1, 0.5, 0.5, 0])
    assert not between[3].any()
