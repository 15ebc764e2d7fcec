import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.enrichment.choosing import worth
from llm_tail.errors import ConfigError, DataError

LONG = "a long text that says a good deal about the item " * 8
CATALOG = Catalog.from_items(
    [
        {"item_id": "head", "title": "Emma"},
        *({"item_id": f"tail{i}", "title": "Emma"} for i in range(4)),
        {"item_id": "cold", "title": "Emma"},
        {"item_id": "told", "title": "Emma", "description": LONG},
    ]
)
TRAIN = Interactions.from_pairs(
    [(f"u{u}", "head") for u in range(9)] + [(f"u{i}", f"tail{i}") for i in range(4)], items=CATALOG.ids
)


def test_cold_before_tail_before_head_and_short_before_long():
    order = [CATALOG.ids[row] for row in worth(CATALOG, TRAIN).best()]
    assert order[0] == "cold" and order[-1] in ("head", "told")
    assert order.index("cold") < order.index("tail0") < order.index("head")
    assert order.index("cold") < order.index("told")


def test_without_interactions_words_alone_decide():
    found = worth(CATALOG)
    assert set(found.segments.tolist()) == {""} and CATALOG.ids[found.best()[-1]] == "told"


def test_empty_fields_count():
    catalog = Catalog.from_items(
        [{"item_id": "a", "title": "x", "brand": "b", "kind": ["k"]}, {"item_id": "b", "title": "x", "kind": []}]
    )
    found = worth(catalog)
    assert found.n_missing.tolist() == [1, 3] and found.best().tolist() == [1, 0]
    assert worth(catalog, fields=["title"]).n_missing.tolist() == [0, 0]


def test_the_score_by_hand():
    catalog = Catalog.from_items([{"item_id": "a", "title": "x", "description": "y"}])
    found = worth(catalog, tokens=np.array([32]), prompt_tokens=60, answer_tokens=8)
    assert found.values.tolist() == [pytest.approx(1000 * 0.5 / 2 / 100)]


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 8_000), st.integers(0, 8))
def test_a_budget_is_kept_and_more_of_it_takes_no_item_away(budget, n):
    found = worth(CATALOG, TRAIN)
    chosen = found.best(budget=budget)
    assert found.costs[chosen].sum() <= budget
    assert chosen.tolist() == found.best(budget=budget + 500)[: len(chosen)].tolist()
    assert len(found.best(n)) == min(n, int((found.gains > 0).sum()))


def test_generated_columns_are_nothing_that_is_missing():
    catalog = Catalog.from_items([{"item_id": "a", "title": "x", "generated_summary": None}, {"item_id": "b"}])
    assert worth(catalog).n_missing.tolist() == [1, 2]


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="need is"):
        worth(CATALOG, need={"cold": 1.0})
    with pytest.raises(DataError, match="one number for each of 7 items"):
        worth(CATALOG, tokens=np.ones(2))
    with pytest.raises(ConfigError, match="budget -1"):
        worth(CATALOG).best(budget=-1)
    assert "7 items" in repr(worth(CATALOG))
