"""Means over cuts, the best peer of a column, and intervals that do not take two cuts of one person for two people."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.errors import DataError
from llm_tail.evaluation.bench_table import BenchTable
from llm_tail.evaluation.compare import BOUND, Result, compare, draw_gaps
from llm_tail.evaluation.evaluate import PerPerson

R, N = "recall@20", "ndcg@20"
GROUPS = {"hybrid": "ours", "ease": "peer", "content": "peer", "content + tuned": "tuned"}


def result(model, seed, means, n=200, people=None, **facts):
    """Return what a model did whose people score around a mean in each column, with the same luck for every model."""
    people = np.arange(n) if people is None else np.asarray(people)
    luck = np.random.default_rng(seed).normal(0, 0.1, len(people))
    rankings = {segment: PerPerson(people, {R: 2 * mean + luck, N: mean + luck}) for segment, mean in means.items()}
    return Result(model, seed, rankings, facts)


def columns(warm, cold):
    return {"warm": warm, "cold": cold}


@pytest.fixture
def results():
    return [
        result(model, seed, columns(*means), fit_seconds=2.0, tune_seconds=60.0, peak_mb=100.0 + seed, n_trials=4)
        for model, means in (
            ("hybrid", (0.30, 0.40)),
            ("ease", (0.28, 0.00)),
            ("content", (0.10, 0.35)),
            ("content + tuned", (0.12, 0.50)),
        )
        for seed in (0, 1, 2)
    ]


def test_ours_stands_against_the_best_peer_of_each_column(results):
    table = compare({"shop": results}, GROUPS, n_bootstrap=200)
    found = {(one.segment, one.metric): one for one in table.versus}
    assert {key[0]: one.peer for key, one in found.items()} == {"warm": "ease", "cold": "content"}  # tuned is no rival
    assert found["warm", N].gap.value == pytest.approx(0.02) and found["cold", N].ratio > 1
    assert found["warm", N].gap.low == pytest.approx(0.02), "their luck is the same, and the pairs know it"
    assert table.seeds == (0, 1, 2) and table.segments == ("warm", "cold") and table.n_users["warm"] == 200


def test_means_and_spreads_are_those_over_cuts(results):
    cell = compare({"shop": results}, GROUPS, n_bootstrap=0).row("hybrid").cells["warm", N]
    means = [one.mean("warm", N) for one in results if one.model == "hybrid"]
    assert cell.mean == pytest.approx(np.mean(means)) and cell.sd == pytest.approx(np.std(means, ddof=1))
    one = compare({"shop": [r for r in results if r.seed == 0]}, GROUPS, n_bootstrap=0)
    assert math.isnan(one.row("hybrid").cells["warm", N].sd) and "±" not in one.to_markdown()
    assert one.row("ease").fit_seconds == 2 and one.row("ease").peak_mb == 100


def test_the_markdown_marks_the_best_of_all_rows_and_says_what_the_rest_means(results):
    text = compare({"shop": results}, GROUPS, n_bootstrap=50, notes=["als failed: no memory"]).to_markdown()
    lines = {line.split(" | ")[0]: line for line in text.splitlines()}
    assert "**" in lines["| hybrid"].split(" | ")[1] and "**" not in lines["| hybrid"].split(" | ")[2]
    assert "**" in lines["| content + tuned"].split(" | ")[2]
    assert "| 2.0 |" in lines["| ease"] and "| 1.0 | 4 | 102 |" in lines["| ease"]
    assert "hybrid against the best peer" in text and "bootstrap 95 %" in text and "- als failed: no memory" in text


def test_a_model_that_is_not_there_on_every_cut_is_shown_and_is_nobodys_rival(results):
    some = [one for one in results if not (one.model == "ease" and one.seed == 2)]
    table = compare({"shop": some}, GROUPS, n_bootstrap=0)
    assert table.row("ease").n_cuts == 2 and {one.peer for one in table.versus} == {"content"}
    assert any("not judged on all 3 cuts" in note and "ease (2)" in note for note in table.remarks())
    without = compare({"shop": [one for one in results if one.model != "hybrid"]}, GROUPS)
    assert without.versus == () and "against" not in without.to_markdown()


def test_means_over_sets_and_the_bound_that_no_single_peer_reaches(results):
    other = [
        result(model, seed, columns(*means))
        for model, means in (("hybrid", (0.5, 0.5)), ("ease", (0.1, 0.1)), ("content", (0.4, 0.2)))
        for seed in (0, 1, 2)
    ]
    table = compare({"shop": results, "books": other}, GROUPS, n_bootstrap=100)
    assert [row.model for row in table.rows] == ["hybrid", "ease", "content", BOUND]
    assert any("content + tuned is not there on every set" in note for note in table.notes)
    means = {row.model: row.cells["warm", N].mean for row in table.rows}
    luck = np.mean([np.random.default_rng(s).normal(0, 0.1, 200).mean() for s in (0, 1, 2)])
    expected = {"hybrid": 0.4, "ease": 0.19, "content": 0.25, BOUND: 0.34}
    assert means == pytest.approx({name: mean + luck for name, mean in expected.items()})
    gap = next(one for one in table.versus if (one.segment, one.metric) == ("warm", N))
    assert gap.peer == "content" and gap.gap.value == pytest.approx(0.15)
    assert gap.gap.low <= 0.15 + 1e-9 and gap.gap.high >= 0.15 - 1e-9
    assert "mean over shop, books" in table.title and table.n_users["warm"] == 400


def noisy(model, seed, shift, n=300, people=None):
    people = np.arange(n) if people is None else people
    own = np.random.default_rng([seed, *model.encode()]).normal(shift, 0.2, len(people))
    return Result(model, seed, {"warm": PerPerson(people, {R: own, N: own})})


def test_two_cuts_that_say_the_same_of_each_person_are_no_more_than_one():
    def cuts(seeds):
        return {name: {s: noisy(name, 0, shift) for s in seeds} for name, shift in (("ours", 0.1), ("peer", 0.0))}

    column = [("ours", "peer", "warm", N)]
    one, five = (draw_gaps(cuts(range(n)), column, 500, seed=3).std() for n in (1, 5))
    assert five == pytest.approx(one)
    apart = {n: {s: noisy(n, s, shift) for s in range(5)} for n, shift in (("ours", 0.1), ("peer", 0.0))}
    assert draw_gaps(apart, column, 500, seed=3).std() < 0.6 * one


def test_the_interval_of_one_cut_is_the_plain_paired_bootstrap():
    ours, peer = noisy("ours", 0, 0.1), noisy("peer", 0, 0.0)
    gaps = ours.rankings["warm"].values[N] - peer.rankings["warm"].values[N]
    drawn = draw_gaps({"ours": {0: ours}, "peer": {0: peer}}, [("ours", "peer", "warm", N)], 2000, seed=0)
    assert drawn.mean() == pytest.approx(gaps.mean(), abs=0.002)
    assert drawn.std() == pytest.approx(gaps.std() / np.sqrt(len(gaps)), rel=0.1)


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 5))
def test_a_model_against_itself_is_nothing(n_people, n_cuts, seed):
    cuts = {s: noisy("ours", s, 0.1, people=np.arange(s, s + n_people)) for s in range(n_cuts)}
    drawn = draw_gaps({"ours": cuts, "same": cuts}, [("ours", "same", "warm", R)], 20, seed)
    assert np.all((drawn == 0) | np.isnan(drawn)) and drawn.shape == (20, 1)


def test_models_that_were_judged_on_others_are_refused():
    models = {"ours": {0: noisy("ours", 0, 0.1)}, "peer": {0: noisy("peer", 0, 0.1, people=np.arange(5))}}
    with pytest.raises(DataError, match="judged on other people"):
        draw_gaps(models, [("ours", "peer", "warm", N)], 5, 0)


def test_nothing_to_compare():
    with pytest.raises(DataError, match="no model came to a result"):
        compare({"shop": []}, GROUPS)
    warm, cold = result("ease", 0, {"warm": 0.1}), result("ease", 0, {"cold": 0.1})
    with pytest.raises(DataError, match="no column in common"):
        compare({"a": [warm], "b": [cold]}, GROUPS)


def test_results_come_back_from_their_parts_and_tables_are_json(results):
    facts, arrays = results[0].to_parts()
    again = Result.from_parts(json.loads(json.dumps(facts)), arrays)
    assert again.mean("cold", N) == pytest.approx(results[0].mean("cold", N), abs=1e-6) and again.facts["n_trials"] == 4
    table = compare({"shop": results[:1]}, GROUPS)
    told = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert told["rows"][0]["model"] == "hybrid" and told["rows"][0]["cells"][0][3] is None
    assert isinstance(table, BenchTable) and table.phase == "test"
