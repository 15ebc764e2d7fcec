import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_tail.config import SplitConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import (
    Segments,
    Split,
    split,
    split_by_time,
    split_cold_items,
    split_leave_last_out,
    split_random,
)
from llm_tail.errors import DataError

JUDGE = Path(__file__).parents[3] / "shared" / "benchmark" / "protocol.py"
METHODS = ["cold-items", "leave-last-out", "time", "random", "none"]


@st.composite
def worlds(draw):
    """Any events, with repeats and ties, and a catalogue that lacks some items and has others."""
    n = draw(st.integers(1, 60))
    users = draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))
    items = draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))
    times = draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))
    frame = pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times})
    catalog = IdMap(draw(st.permutations(range(2, 15))))
    assume((frame["item_id"] >= 2).any())
    return Interactions.from_frame(frame), catalog


def pairs(events):
    return set(zip(events.user_rows.tolist(), events.item_rows.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(world=worlds(), seed=st.integers(0, 5))
@pytest.mark.parametrize("method", METHODS)
def test_no_cut_leaks_and_every_cut_is_a_partition(method, world, seed):
    events, catalog = world
    try:
        parts = split(events, catalog, SplitConfig(method=method), seed)
    except DataError as error:
        assert "no training interaction is left" in str(error)
        return
    parts.check_no_leak()
    sets = [pairs(part) for part in (parts.train, parts.validation, parts.test)]
    assert [len(x) for x in sets] == [len(parts.train), len(parts.validation), len(parts.test)]
    assert set.union(*sets) == pairs(events.on(catalog))
    assert sum(map(len, sets)) == len(set.union(*sets))
    assert parts.items == catalog
    assert parts.users == events.users
    assert not (parts.cold_validation & parts.cold_test).any()
    assert not parts.train.counts()[parts.cold_validation | parts.cold_test].any()
    again = split(events, catalog, SplitConfig(method=method), seed)
    assert again.test.fingerprint() == parts.test.fingerprint()


@settings(max_examples=60, deadline=None)
@given(world=worlds())
def test_time_runs_forward_in_a_cut_by_time(world):
    events, catalog = world
    try:
        parts = split_by_time(events, catalog)
    except DataError:
        return
    edges = [(part.times.min(), part.times.max()) for part in (parts.train, parts.validation, parts.test) if len(part)]
    assert all(early[1] < late[0] for early, late in itertools.pairwise(edges))


@settings(max_examples=60, deadline=None)
@given(world=worlds())
def test_the_last_of_everyone_is_left_out(world):
    events, catalog = world
    parts = split_leave_last_out(events, catalog)
    size = np.bincount(events.on(catalog).distinct().user_rows, minlength=len(events.users))
    assert (np.bincount(parts.test.user_rows, minlength=len(size)) == (size >= 3)).all()
    assert (np.bincount(parts.validation.user_rows, minlength=len(size)) == (size >= 3)).all()
    last = dict(zip(parts.test.user_rows, parts.test.times, strict=True))
    before = dict(zip(parts.validation.user_rows, parts.validation.times, strict=True))
    for user, when in zip(parts.train.user_rows, parts.train.times, strict=True):
        assert when <= before.get(user, np.inf) <= last.get(user, np.inf)


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(0, 9), max_size=60))
def test_segments_are_a_partition_and_head_is_the_most_popular(counts):
    counts = np.array(counts, dtype=np.int64)
    segments = Segments.from_counts(counts)
    assert (segments.head.astype(int) + segments.tail + segments.cold == 1).all()
    assert (segments.cold == (counts == 0)).all()
    assert segments.head.sum() == int(0.2 * (counts > 0).sum())
    if segments.head.any():
        assert counts[segments.head].min() >= counts[segments.tail].max()
    assert segments.labels().tolist() == [segments.name_of(row) for row in range(len(counts))]
    assert len(segments) == len(counts)


def test_segments_by_eye():
    segments = Segments.from_counts([1, 3, 0, 3, 2, 1])  # 5 warm: one head, the first of the two threes
    assert segments.labels().tolist() == ["tail", "head", "cold", "tail", "tail", "tail"]
    assert repr(segments) == "Segments(1 head, 4 tail, 1 cold)"
    with pytest.raises(DataError, match="expected one number from 0"):
        Segments.from_counts([1, -1])


def test_a_cut_by_eye():
    frame = pd.DataFrame({"user_id": list("aaaab"), "item_id": list("wxyzw"), "position": [0, 1, 2, 3, 0]})
    events = Interactions.from_frame(frame)
    parts = split_leave_last_out(events, events.items)
    assert parts.test.to_frame()["item_id"].tolist() == ["z"]
    assert parts.validation.to_frame()["item_id"].tolist() == ["y"]
    assert parts.train.to_frame()["item_id"].tolist() == ["w", "x", "w"]
    assert repr(parts) == "Split(leave-last-out: 3 train, 1 validation, 1 test)"
    assert repr(parts.segments) == "Segments(0 head, 2 tail, 2 cold)"


def test_nobody_is_left_without_training():
    pairs = [(f"u{n}", f"i{m}") for n in range(3, 9) for m in range(n)]
    catalog = Catalog.from_items([{"item_id": f"i{m}"} for m in range(8)])
    for held_share in (0.1, 0.4, 0.45, 0.49):
        parts = split_random(Interactions.from_pairs(pairs), catalog, held_share=held_share)
        assert len(np.unique(parts.train.user_rows)) == 6


def test_what_cannot_be_cut_says_why():
    events = Interactions.from_pairs([("ann", "emma"), ("bob", "emma")])
    catalog = Catalog.from_items([{"item_id": "emma"}])
    with pytest.raises(DataError, match="have no timestamp or position"):
        split_leave_last_out(events, catalog)
    with pytest.raises(DataError, match="needs timestamps"):
        split_by_time(events, catalog)
    with pytest.raises(DataError, match=r"held_share is 0.7, expected a share above 0.0 and below 0.5"):
        split_random(events, catalog, held_share=0.7)
    with pytest.raises(DataError, match=r"cold_share is 1.0, expected a share from 0.0 and below 1.0"):
        split_cold_items(events, catalog, cold_share=1.0)
    with pytest.raises(DataError, match="names an item of the catalogue"):
        split_random(events, Catalog.from_items([{"item_id": "ulysses"}]))
    with pytest.raises(DataError, match="no interactions to split"):
        split_random(events.where(np.zeros(2, dtype=bool)), catalog)


# ---- parts that were cut elsewhere


def test_parts_from_elsewhere_share_their_ids():
    train = Interactions.from_pairs([("ann", "emma"), ("bob", "emma"), ("ann", "emma")])
    validation = Interactions.from_pairs([("bob", "ulysses"), ("zoe", "emma")])
    test = Interactions.from_pairs([("ann", "ulysses"), ("bob", "dracula")])
    parts = Split.from_parts(train, validation, test)
    assert list(parts.items) == ["emma", "ulysses", "dracula"]
    assert list(parts.users) == ["ann", "bob", "zoe"]
    assert parts.cold_validation.tolist() == [False, True, False]
    assert parts.cold_test.tolist() == [False, False, True]
    assert parts.validation.to_frame()[["user_id", "item_id"]].to_numpy().tolist() == [
        ["bob", "ulysses"],
        ["zoe", "emma"],
    ]
    assert repr(parts) == "Split(files: 2 train, 2 validation, 2 test, 2 cold items)"
    catalog = Catalog.from_items([{"item_id": x} for x in ("new", "ulysses", "emma")])
    parts = Split.from_parts(train, validation, catalog=catalog)
    assert parts.items == catalog.ids
    assert len(parts.test) == 0
    assert parts.segments.labels().tolist() == ["cold", "cold", "tail"]


@pytest.mark.parametrize(("early", "late"), [("training", "validation"), ("training", "test"), ("validation", "test")])
def test_a_pair_in_two_parts_is_a_leak(early, late):
    parts = {"training": [("ann", "emma")], "validation": [("ann", "ulysses")], "test": [("bob", "emma")]}
    parts[late] = [*parts[late], *parts[early]]
    with pytest.raises(DataError, match=f"1 of 2 {late} interactions are in {early} too, such as user 'ann'"):
        Split.from_parts(*(Interactions.from_pairs(part) for part in parts.values()))


def test_a_held_out_item_that_was_seen_is_a_leak():
    events = Interactions.from_pairs([(f"u{u}", f"i{i}") for u in range(9) for i in range(10)])
    parts = split_cold_items(events, events.items)
    warm = np.flatnonzero(parts.train.counts() > 0)
    mask = parts.cold_test.copy()
    mask[warm[0]] = True
    leaky = Split(parts.train, parts.validation, parts.test, parts.cold_validation, mask, "by hand")
    with pytest.raises(DataError, match="1 items that are held out whole have training interactions"):
        leaky.check_no_leak()
    other = Interactions.from_pairs([("ann", "emma")])
    mixed = Split(parts.train, other, parts.test, parts.cold_validation, parts.cold_test, "by hand")
    with pytest.raises(DataError, match="different users or items"):
        mixed.check_no_leak()


# ---- the protocol that published numbers use


@pytest.fixture(scope="module")
def judge():
    if not JUDGE.exists():
        pytest.skip(f"no judge at {JUDGE}")
    spec = importlib.util.spec_from_file_location("judge_protocol", JUDGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["amazon-scientific", "movielens-small"])
def test_the_cut_is_that_of_the_judge(judge, name):
    theirs = judge.Split(name, 0)
    items, events = judge.read(name)
    ours = split_cold_items(Interactions.from_frame(events), Catalog.read(judge.folder(name)), seed=0)
    assert list(ours.users) == theirs.user_ids.tolist()
    assert list(ours.items) == items["item_id"].tolist()
    for part, expected in (
        (ours.train, theirs.train),
        (ours.validation, theirs.val + theirs.cval),
        (ours.test, theirs.test + theirs.ctest),
    ):
        assert (part.matrix() != expected).nnz == 0
    np.testing.assert_array_equal(ours.cold_validation, theirs.cold_val)
    np.testing.assert_array_equal(ours.cold_test, theirs.cold_test)
    np.testing.assert_array_equal(ours.segments.head, theirs.head)
    never_seen = ~theirs.cold & (theirs.pop == 0)
    np.testing.assert_array_equal(ours.segments.tail | never_seen, theirs.tail)
