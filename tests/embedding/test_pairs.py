import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.pairs import TextPairs
from llm_tail.errors import DataError

CATALOG = Catalog.from_items([{"item_id": str(i), "title": f"item {i}"} for i in range(30)])


def pairs_of(taken, **options):
    events = [(user, str(item)) for user, items in taken.items() for item in items]
    return TextPairs.from_interactions(Interactions.from_pairs(events, items=CATALOG.ids), CATALOG, **options)


def as_set(pairs):
    return {frozenset(pair) for pair in zip(pairs.anchors.tolist(), pairs.positives.tolist(), strict=True)}


def test_all_pairs_of_a_person_with_few_items():
    pairs = pairs_of({"ann": [1, 2, 3], "bob": [7, 9], "cid": [4]})
    assert as_set(pairs) == {frozenset(p) for p in [(1, 2), (1, 3), (2, 3), (7, 9)]}
    assert len(pairs) == 4 and pairs.texts[7] == "item 7"


taken = st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(0, 29), max_size=30), min_size=1)


@settings(deadline=None)
@given(taken, st.integers(1, 20), st.integers(1, 40), st.integers(0, 3))
def test_pairs_are_distinct_items_of_one_person_within_the_limits(taken, max_per_user, n_pairs, seed):
    possible = {frozenset((i, j)) for items in taken.values() for i in items for j in items if i != j}
    options = {"max_per_user": max_per_user, "n_pairs": n_pairs, "seed": seed}
    if not possible:
        with pytest.raises(DataError):
            pairs_of(taken, **options)
        return
    pairs = pairs_of(taken, **options)
    assert as_set(pairs) <= possible and (pairs.anchors != pairs.positives).all()
    assert len(pairs) <= min(n_pairs, max_per_user * len(taken))
    again = pairs_of(taken, **options)
    np.testing.assert_array_equal(pairs.anchors, again.anchors)
    np.testing.assert_array_equal(pairs.positives, again.positives)


def test_a_heavy_reader_does_not_drown_the_others():
    pairs = pairs_of({"heavy": range(28), "light": [28, 29]}, max_per_user=10)
    assert frozenset((28, 29)) in as_set(pairs) and 2 <= len(pairs) <= 11


def test_another_seed_draws_other_pairs():
    first, second = (pairs_of({"ann": range(30)}, seed=seed) for seed in (0, 1))
    assert as_set(first) != as_set(second)


def test_popularity_and_provenance():
    pairs = pairs_of({"ann": [0, 1], "bob": [0, 2]})
    np.testing.assert_allclose(pairs.log_popularity[[0, 1, 29]], np.log([2 / 4, 1 / 4, 1 / 4]), rtol=1e-6)
    assert pairs.provenance["n_events"] == 4 and pairs.provenance["n_users"] == 2 and pairs.provenance["train"]


def test_items_without_text_make_no_pair():
    items = Catalog.from_items([{"item_id": "a", "title": "x"}, {"item_id": "b"}, {"item_id": "c", "title": "y"}])
    train = Interactions.from_pairs([("ann", "a"), ("ann", "b"), ("ann", "c")], items=items.ids)
    assert as_set(TextPairs.from_interactions(train, items)) == {frozenset((0, 2))}


@pytest.mark.parametrize("taken", [{"ann": [1], "bob": [2]}, {"ann": [3, 3, 3]}])
def test_no_pair_at_all(taken):
    with pytest.raises(DataError, match="nobody took two different items"):
        pairs_of(taken)


def test_only_interactions_are_taken():
    with pytest.raises(DataError, match=r"pass split\.train"):
        TextPairs.from_interactions(object(), CATALOG)
    with pytest.raises(DataError, match="expected at least 1"):
        pairs_of({"ann": [1, 2]}, n_pairs=0)


def test_parts_that_do_not_fit():
    zeros = np.zeros(3, np.float32)
    with pytest.raises(DataError, match="two equal lengths"):
        TextPairs([0], [1, 2], ["a", "b", "c"], zeros)
    with pytest.raises(DataError, match="item rows run from 0 to 7"):
        TextPairs([0], [7], ["a", "b", "c"], zeros)
    with pytest.raises(DataError, match="3 popularities for 1 texts"):
        TextPairs([0], [0], ["a"], zeros)
