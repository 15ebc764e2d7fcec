"""Small parts of a split: nobody who is judged loses any of their history."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import split_cold_items
from llm_tail.workspace.samples import few_items, few_people
from tests import shop


@pytest.fixture(scope="module")
def split():
    catalog = Catalog.from_items(shop.items().to_dict("records"))
    events = Interactions.from_pairs(shop.events().itertuples(index=False), items=catalog.ids)
    return split_cold_items(events, catalog, cold_share=0.3, seed=0)


def taken(part, user):
    return {part.items[row] for row in part.item_rows[part.user_rows == user]}


@settings(max_examples=30)
@given(n_most=st.integers(6, 27), seed=st.integers(0, 5))
def test_whoever_is_judged_has_the_whole_history(split, n_most, seed):
    smaller, rows = few_items(split, n_most, seed=seed)
    assert len(rows) == len(smaller.items) <= n_most and (np.diff(rows) > 0).all()
    assert smaller.items.values.tolist() == split.items.values[rows].tolist()
    judged = np.unique(smaller.validation.user_rows)
    assert len(judged)
    for user in judged:
        for part in ("train", "validation"):
            assert taken(getattr(smaller, part), user) == taken(getattr(split, part), user)
    np.testing.assert_array_equal(smaller.cold_validation, split.cold_validation[rows])
    smaller.check_no_leak()


def test_a_draw_of_other_items_fills_the_room(split):
    alone = few_people(split, 1)
    for n_most in (8, 20):
        assert len(few_items(alone, n_most)[0].items) == n_most


def test_one_person_with_more_than_there_is_room_for_is_judged_all_the_same(split):
    smaller, _ = few_items(split, 2)
    (user,) = np.unique(smaller.validation.user_rows)
    assert taken(smaller.train, user) == taken(split.train, user) and len(smaller.items) > 2


def test_what_is_small_stays_as_it_is(split):
    assert few_items(split, 28)[0] is split and few_people(split, 10_000) is split


def test_people_are_drawn_by_seed(split):
    drawn = [np.unique(few_people(split, 5, seed=seed).validation.user_rows) for seed in (1, 1, 2)]
    assert len(drawn[0]) == 5 and drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()
