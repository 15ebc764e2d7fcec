import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.errors import DataError
from llm_tail.neighbors import edges
from llm_tail.neighbors.edges import co_ties, near_ties, shared_values, value_ties


def catalog(values, kind=None):
    ids = [f"i{n}" for n in range(len(values))]
    return Catalog(pa.table({"item_id": ids, "tag": pa.array(values, kind)}))


def dense(matrix):
    return matrix.toarray().round(4).tolist()


TWO, THREE = round(float(1 / np.log2(3)), 4), 0.5  # the weights of a value that two and that three items share


def test_scalar_values_tie_whatever_their_case_and_spaces():
    shared = shared_values(catalog(["Jane Austen", " jane  AUSTEN ", "Bram Stoker", "", None, "  "]), "tag", 10)
    assert shared.names.tolist() == ["Jane Austen"] and shared.hubs == {}
    ties = value_ties(shared)
    assert ties.shape == (6, 6) and ties.nnz == 2 and ties.dtype == np.float32
    assert ties[0, 1] == ties[1, 0] == pytest.approx(TWO, abs=1e-4)


def test_list_values_are_summed():
    shared = shared_values(catalog([["a", "b"], ["b", "a", "A"], ["b"], [], None]), "tag", 10)
    assert dense(value_ties(shared))[:3] == [
        [0, pytest.approx(TWO + THREE, abs=2e-4), THREE, 0, 0],
        [pytest.approx(TWO + THREE, abs=2e-4), 0, THREE, 0, 0],
        [THREE, THREE, 0, 0, 0],
    ]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1815, 1815, None], None),
        ([1.5, 1.5, float("nan")], None),
        ([float("nan"), 2.0, 2.0], None),
        ([True, True, False], None),
        ([[["a"], ["b"]], [["b"]], None], None),
        (["x", "x", None], pa.large_string()),
        ([["x"], ["x"], None], pa.large_list(pa.string())),
        ([["x", "y"], ["x", "z"], None], pa.list_(pa.string(), 2)),
        (["x", "x", "y"], pa.dictionary(pa.int32(), pa.string())),
        ([datetime.date(2020, 1, 1), datetime.date(2020, 1, 1), None], None),
    ],
)
def test_columns_of_many_types_tie_one_pair(values, kind):
    assert value_ties(shared_values(catalog(values, kind), "tag", 10)).nnz == 2


def test_two_ways_to_write_one_accent_are_one_value():
    assert value_ties(shared_values(catalog(["Bront\u00eb", "Bronte\u0308", "BRONT\u00cb"]), "tag", 10)).nnz == 6


@pytest.mark.parametrize("values", [[None, None], ["", " "], [[], []], ["a", "b"], [float("nan")] * 2])
def test_nothing_shared_ties_nothing(values):
    assert value_ties(shared_values(catalog(values), "tag", 10)).nnz == 0


def test_a_column_of_records_is_refused():
    with pytest.raises(DataError, match="column 'tag' holds struct"):
        shared_values(catalog([{"a": 1}, {"a": 1}]), "tag", 10)


def test_hubs_tie_none_and_are_named():
    shared = shared_values(catalog([["Book", "x"], ["book", "x"], ["BOOK"], ["book", "y"]]), "tag", 3)
    assert shared.hubs == {"Book": 4} and shared.names.tolist() == ["x"]
    assert value_ties(shared).nnz == 2


def test_among_equal_ties_the_nearest_rows_are_kept():
    ties = value_ties(shared_values(catalog(["x"] * 20), "tag", 100), max_ties=4)
    assert (np.diff(ties.indptr) == 4).all()  # a ring: no item is picked by all others
    assert sorted(ties[0].indices.tolist()) == [1, 2, 18, 19]


tags = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=4), min_size=1, max_size=15)


@given(tags, st.integers(2, 6))
@settings(max_examples=80, deadline=None)
def test_shared_values_equal_the_definition(values, hub_cap):
    ties = value_ties(shared_values(catalog(values, pa.list_(pa.string())), "tag", hub_cap)).toarray()
    sets = [set(line) for line in values]
    counts = {tag: sum(tag in line for line in sets) for tag in "abcdefgh"}
    for a, one in enumerate(sets):
        for b, other in enumerate(sets):
            both = [counts[tag] for tag in one & other if counts[tag] <= hub_cap]
            expected = sum(1 / np.log2(1 + n) for n in both) if a != b else 0
            assert ties[a, b] == pytest.approx(expected, abs=1e-5)


@given(tags, st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_blocks_change_nothing(values, entries):
    shared = shared_values(catalog(values, pa.list_(pa.string())), "tag", 10)
    whole = value_ties(shared, max_ties=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edges, "BLOCK_ENTRIES", entries)
        blocked = value_ties(shared, max_ties=3)
    np.testing.assert_allclose(blocked.toarray(), whole.toarray(), atol=1e-6)


def test_taken_by_the_same_people():
    events = Interactions.from_pairs([("ann", "a"), ("ann", "b"), ("bob", "a"), ("bob", "c"), ("bob", "a")])
    ties = co_ties(events, 5).toarray()
    assert events.items.values.tolist() == ["a", "b", "c"]
    half = 1 / np.sqrt(2)  # a has two takers and shares one with each of the others
    np.testing.assert_allclose(ties, [[0, half, half], [half, 0, 0], [half, 0, 0]], atol=1e-6)


@given(st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdefg")), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_co_ties_equal_the_definition(pairs):
    events = Interactions.from_pairs(pairs)
    taken = events.matrix().toarray()
    expected = (taken.T @ taken) / np.sqrt(np.outer(taken.sum(0), taken.sum(0)))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(co_ties(events, 100).toarray(), expected, atol=1e-6)
    few = co_ties(events, 1)
    assert (few != few.T).nnz == 0
    # Each item keeps its strongest tie, the rest are those that others chose.
    np.testing.assert_allclose(few.toarray().max(axis=1), expected.max(axis=1), atol=1e-6)


def test_near_ties_drop_the_weak_the_missing_and_the_loops():
    rows = np.array([[1, 2], [0, -1], [2, 0]])
    similarities = np.array([[0.8, 0.2], [0.7, -np.inf], [1.0, -0.5]], dtype=np.float32)
    ties = near_ties(rows, similarities, -1.0)
    np.testing.assert_allclose(ties.toarray(), [[0, 0.8, 0.2], [0.8, 0, 0], [0.2, 0, 0]], atol=1e-6)
    assert near_ties(rows, similarities, 0.3).nnz == 2
