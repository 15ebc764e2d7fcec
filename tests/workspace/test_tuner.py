"""The search: defaults first, the same draws after a kill, and nothing tried that cannot be."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.errors import DataError, MissingExtraError
from llm_tail.workspace import tuner as room

pytest.importorskip("optuna", reason="optuna is missing; pip install 'llm-tail[search]'")

SPACE = {"ridge": (1.0, 1000.0, "log"), "share": (0.0, 1.0, "linear"), "k": (1, 9, "int"), "kind": ["a", "b"]}
DEFAULTS = {"ridge": 100.0, "share": 0.5, "k": 3, "kind": "b"}


def tuner(path, space=SPACE, defaults=DEFAULTS, seed=0):
    return room.Tuner(path / "trials.json", space, defaults, seed)


def quality(params):
    return -abs(math.log10(params["ridge"]) - 1.5) - abs(params["share"] - 0.2) - (params["kind"] == "b")


def test_the_defaults_come_first_and_the_search_climbs(tmp_path):
    search = tuner(tmp_path)
    search.run(quality, 25)
    assert search.tried[0].params == DEFAULTS and len(search.tried) == 25
    assert search.best().value > quality(DEFAULTS) and search.best(1).params == DEFAULTS
    assert all(float(f"{one.params['ridge']:.3g}") == one.params["ridge"] for one in search.tried)


def test_a_search_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path):
    whole, killed = tuner(tmp_path / "a"), tuner(tmp_path / "b")
    whole.run(quality, 12)
    seen = []

    def dies(params):
        seen.append(params)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return quality(params)

    with pytest.raises(KeyboardInterrupt):
        killed.run(dies, 12)
    again = tuner(tmp_path / "b")
    assert len(again.tried) == 7
    again.run(quality, 12)
    assert [one.params for one in again.tried] == [one.params for one in whole.tried]
    other = tuner(tmp_path / "c", seed=1)
    other.run(quality, 12)
    assert [one.params for one in other.tried] != [one.params for one in whole.tried]


def test_a_larger_budget_adds_to_a_smaller_one(tmp_path):
    tuner(tmp_path).run(quality, 5)
    calls = []
    search = tuner(tmp_path)
    search.run(lambda params: calls.append(params) or quality(params), 8)
    assert len(calls) == 3 and len(search.tried) == 8
    search.run(quality, 6)
    assert len(search.tried) == 8, "what is known is not thrown away"


def test_what_a_process_dies_of_has_failed(tmp_path):
    search = tuner(tmp_path)
    search.run(quality, 2)
    assert not search.give_up("died")
    search._write(under_way=DEFAULTS | {"k": 9})
    assert search.give_up("ended by signal 9")
    again = tuner(tmp_path)
    assert len(again.tried) == 3 and again.tried[-1].error == "ended by signal 9" and not again.give_up("died")


def test_settings_that_fail_do_not_stop_the_others(tmp_path):
    def measure(params):
        if params["kind"] == "b":
            raise ValueError("no b")
        return float("nan") if params["k"] == 1 else 0.5

    search = tuner(tmp_path)
    search.run(measure, 15)
    assert len(search.tried) == 15 and search.best().params["kind"] == "a"
    assert search.tried[0].error == "ValueError: no b"
    with pytest.raises(DataError, match="ValueError: no b"):
        search.best(1)


def test_a_search_in_which_nothing_works_ends_early(tmp_path):
    search = tuner(tmp_path)
    search.run(lambda params: 1 / 0, 50)
    assert len(search.tried) == room.N_STARTUP
    with pytest.raises(DataError, match="ZeroDivisionError"):
        search.best()


def test_defaults_may_lie_outside_of_a_range(tmp_path):
    search = tuner(tmp_path, {"penalty": (1e-5, 0.1, "log")}, {"penalty": 0.0})
    search.run(lambda params: -params["penalty"], 9)
    assert search.best().params == {"penalty": 0.0} and all(one.params["penalty"] >= 1e-5 for one in search.tried[1:])


def test_few_choices_are_tried_once_each(tmp_path):
    calls = []
    search = tuner(tmp_path, {"power": [1.0, 2.0, 3.0]}, {"power": 3.0})
    search.run(lambda params: calls.append(params["power"]) or params["power"], 50)
    assert sorted(calls) == [1.0, 2.0, 3.0] and search.best().params == {"power": 3.0}


def test_time_is_a_budget_too(tmp_path):
    search = tuner(tmp_path)
    search.run(quality, 5, minutes=1e-9)
    assert len(search.tried) == 1, "the defaults are always tried"
    search.run(quality, 5, minutes=10)
    assert len(search.tried) == 5


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 5), st.floats(6, 5000))
def test_what_is_tried_lies_in_its_range(tmp_path_factory, seed, low, high):
    space = {"x": (low, high, "log"), "n": (2, 1000, "log")}
    search = room.Tuner(tmp_path_factory.mktemp("t") / "t.json", space, {"x": low, "n": 10}, seed)
    search.run(lambda params: -params["x"], 4)
    assert all(low <= one.params["x"] <= high and isinstance(one.params["n"], int) for one in search.tried)


def test_a_file_that_cannot_be_read_counts_as_empty(tmp_path):
    (tmp_path / "trials.json").write_text(json.dumps({"tried": [{"what": 1}]}))
    assert tuner(tmp_path).tried == []
    with pytest.raises(DataError, match="no settings have been tried"):
        tuner(tmp_path).best()


def test_optuna_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"llm-tail\[search\]"):
        tuner(tmp_path)
