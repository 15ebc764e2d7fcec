import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.errors import DataError

rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=40)


def of(rows, when="timestamp"):
    return Interactions.from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", when]))


@settings(max_examples=80, deadline=None)
@given(rows=rows)
def test_distinct_keeps_the_first_in_time_of_each_pair(rows):
    events = of(rows).distinct()
    first = {}
    for user, item, when in rows:
        first[str(user), str(item)] = min(when, first.get((str(user), str(item)), 99))
    frame = events.to_frame()
    assert {(u, i): t for u, i, t in frame.itertuples(index=False)} == first
    assert len(frame) == len(first)
    assert events.distinct().fingerprint() == events.fingerprint()
    assert events.matrix().sum() == len(first)
    assert events.counts().sum() == len(first)


@settings(max_examples=80, deadline=None)
@given(rows=rows, kept=st.sets(st.integers(0, 6), min_size=1))
def test_on_keeps_exactly_the_items_of_the_catalogue(rows, kept):
    catalog = Catalog.from_items([{"item_id": str(x)} for x in sorted(kept, reverse=True)])
    expected = [(str(u), str(i)) for u, i, _ in rows if i in kept]
    if not expected:
        with pytest.raises(DataError, match="names an item of the catalogue"):
            of(rows).on(catalog)
        return
    events = of(rows).on(catalog)
    assert events.items == catalog.ids
    assert [tuple(x) for x in events.to_frame()[["user_id", "item_id"]].to_numpy()] == expected
    assert events.on(catalog) is events


@settings(max_examples=50, deadline=None)
@given(rows=rows, when=st.sampled_from(["timestamp", "position"]))
def test_order_is_by_user_then_time_and_stable(rows, when):
    events = of(rows, when)
    order = events.order()
    users = events.user_rows
    assert order.tolist() == sorted(range(len(rows)), key=lambda n: (users[n], rows[n][2], n))


@settings(max_examples=50, deadline=None)
@given(rows=rows)
def test_a_frame_comes_back(rows):
    events = of(rows)
    again = Interactions.from_frame(events.to_frame(), items=events.items, users=events.users)
    assert again.fingerprint() == events.fingerprint()


def test_weights_thresholds_and_empty_columns():
    frame = pd.DataFrame(
        {"user_id": ["a", "b"], "item_id": ["x", "y"], "rating": [3.0, 4.0], "timestamp": [np.nan] * 2}
    )
    events = Interactions.from_frame(frame)
    assert events.times is None
    assert events.weights.dtype == np.float32
    assert len(events.positive(4.0)) == 1
    assert events.positive(None) is events
    returned = Interactions.from_pairs([("a", "x", 2.0), ("a", "y", 0.0), ("b", "x", -1.0)])
    assert returned.positive(None).item_rows.tolist() == [0]
    assert len(returned.positive(-1.0)) == 3
    assert returned.matrix().nnz == 3
    assert len(Interactions.from_pairs([("a", "x"), ("b", "y")]).positive(9.0)) == 2
    assert Interactions.from_pairs([("a", "x", 2.0)]).weights.tolist() == [2.0]
    assert len(Interactions.from_pairs([])) == 0


def test_datetimes_are_seconds():
    for stamps in (pd.to_datetime(["2020-01-01"]), pd.to_datetime(["2020-01-01T01:00:00+01:00"])):
        frame = pd.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": stamps})
        assert Interactions.from_frame(frame).times.tolist() == [1577836800.0]


def test_a_missing_date_is_no_date_long_ago():
    frame = pd.DataFrame(
        {"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": pd.to_datetime(["2020-01-01", None])}
    )
    with pytest.raises(DataError, match="1 times are NaN"):
        Interactions.from_frame(frame)
    frame = pd.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "position": [1.0, None]})
    with pytest.raises(DataError, match="1 positions are missing"):
        Interactions.from_frame(frame)


def test_what_are_no_interactions_is_refused():
    frame = pd.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "rating": [3.0, np.nan]})
    with pytest.raises(DataError, match="1 weights are NaN or infinite"):
        Interactions.from_frame(frame)
    with pytest.raises(DataError, match="no column item_id; found: user_id, item"):
        Interactions.from_frame(frame.rename(columns={"item_id": "item"}))
    with pytest.raises(DataError, match="no user_id or no item_id"):
        Interactions.from_frame(frame.assign(user_id=["a", None]))
    with pytest.raises(DataError, match="1 of 2 events name items that do not exist, such as y"):
        Interactions.from_frame(frame.drop(columns="rating"), items=IdMap(["x"]))
    ids = IdMap(["x"])
    with pytest.raises(DataError, match="item rows run from 0 to 1, expected 0 to 0"):
        Interactions(ids, ids, [0, 0], [0, 1])
    with pytest.raises(DataError, match=r"times has shape \(1,\), expected \(2,\)"):
        Interactions(ids, ids, [0, 0], [0, 0], times=[1.0])
    with pytest.raises(DataError, match="column 'rating' holds what is no number"):
        Interactions.from_frame(frame.assign(rating=["good", "bad"]))


def test_counts_are_people_not_events():
    events = Interactions.from_pairs([("ann", "emma"), ("ann", "emma"), ("bob", "emma")])
    assert events.counts().tolist() == [2]
    assert repr(events) == "Interactions(3 events, 2 users, 1 items)"


@pytest.mark.parametrize(
    "times",
    [
        [1672531200, 1672617600],
        [1672531200000, 1672617600000],
        ["2023-01-01", "2023-01-02T00:00:00"],
        [datetime.date(2023, 1, 1), datetime.date(2023, 1, 2)],
        pd.to_datetime(["2023-01-01", "2023-01-02"]),
        pd.to_datetime(["2023-01-01", "2023-01-02"], utc=True),
    ],
)
def test_times_of_a_frame_are_read_as_those_of_a_file(times):
    frame = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["a", "b"], "timestamp": times})
    assert Interactions.from_frame(frame).times.tolist() == [1672531200.0, 1672617600.0]


def test_what_is_no_time_is_named():
    frame = pd.DataFrame({"user_id": ["ann"], "item_id": ["a"], "timestamp": ["14/11/2023"]})
    with pytest.raises(DataError, match=r"no time in 1 of 1 rows, such as 14/11/2023; expected a datetime"):
        Interactions.from_frame(frame)
