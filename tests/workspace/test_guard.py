"""The guard: who is kept, by which rule, and what the probe can see."""

import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_tail.data.books import load_catalog
from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import split_cold_items
from llm_tail.errors import CorruptArtifactError, DataError
from llm_tail.evaluation.report import Interval, Report
from llm_tail.workspace import guard
from llm_tail.workspace.guard import (
    HALVES,
    METRIC,
    METRICS,
    TITLES,
    Look,
    OneByOne,
    Probe,
    ProbeScore,
    Verdict,
    _decide,
    judge_encoders,
)
from tests import shop
from tests.embedding.letters import LetterEncoder

SHELVES = list(shop.SHELVES)


@pytest.fixture(scope="module")
def split():
    catalog = Catalog.from_items(shop.items().to_dict("records"))
    events = Interactions.from_pairs(shop.events().itertuples(index=False), items=catalog.ids)
    return split_cold_items(events, catalog, cold_share=0.3, seed=0)


def vectors(split, sense, seed=0):
    """Return vectors that know the shelves as far as `sense` says, in [0, 1]."""
    noise = np.random.default_rng(seed).normal(size=(len(split.items), 8))
    shelf = np.eye(8)[[[name[0] for name in SHELVES].index(item[0]) for item in split.items.values]]
    mixed = sense * shelf + (1 - sense) * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def look(split, sense, mrr=None):
    return Look(vectors(split, sense), None if mrr is None else ProbeScore(mrr / 2, mrr))


# ---- the decision


def test_the_better_one_is_kept_and_the_worse_thrown_away(split):
    looks = {"base": look(split, 0.3), "better": look(split, 0.9), "worse": look(split, 0.0)}
    verdict = judge_encoders(looks, split, n_bootstrap=200)
    assert verdict.kept == "better" and verdict.labels == ("base", "better", "worse") and verdict.base == "base"
    assert verdict.mean("worse") < verdict.mean("base") < verdict.mean("better")
    assert str(verdict).startswith("better wins: mean N@20 over") and not verdict.probe
    assert verdict.forgotten("better") is None
    alone = judge_encoders({"base": looks["base"], "worse": looks["worse"]}, split, n_bootstrap=0)
    assert alone.kept == "base" and "no candidate ranks better (the best, worse, differs by -" in alone.why


def test_what_is_no_better_is_not_kept(split):
    verdict = judge_encoders({"base": look(split, 0.3), "same": look(split, 0.3)}, split, n_bootstrap=20)
    assert verdict.kept == "base"
    assert all(verdict.difference("same", segment) == (0, 0, 0) for segment in verdict.segments)
    assert judge_encoders({"base": look(split, 0.3)}, split, n_bootstrap=0).why == "there was no candidate"


def test_what_forgot_is_thrown_away_and_the_next_best_is_kept(split):
    looks = {"base": look(split, 0.2, 0.5), "some": look(split, 0.5, 0.45), "much": look(split, 0.9, 0.2)}
    verdict = judge_encoders(looks, split, probe=TITLES, n_bootstrap=0)
    assert verdict.mean("much") > verdict.mean("some")
    assert verdict.kept == "some" and verdict.forgotten("much") == pytest.approx(0.6)
    assert "much ranks better but forgot (60% of the probe's MRR, at most 20% may go)" in verdict.why
    assert judge_encoders(looks, split, probe=TITLES, max_forgetting=0.7, n_bootstrap=0).kept == "much"
    strict = judge_encoders(looks, split, probe=TITLES, max_forgetting=0.05, n_bootstrap=0)
    assert strict.kept == "base" and "much" in strict.why and "some" in strict.why


def test_intervals_contain_the_difference_and_are_those_of_the_pairs(split):
    looks = {"base": look(split, 0.3), "better": look(split, 0.9)}
    verdict = judge_encoders(looks, split, n_bootstrap=300, seed=1)
    assert set(verdict.segments) >= {"warm", "cold", "overall"}
    for segment in verdict.segments:
        for metric in METRICS:
            gap = verdict.difference("better", segment, metric)
            ends = [verdict.report.value(label, segment, metric) for label in ("better", "base")]
            assert gap.low <= gap.value <= gap.high and gap.value == pytest.approx(ends[0] - ends[1])
    assert verdict.difference("better", "overall").low > 0
    assert judge_encoders(looks, split, n_bootstrap=300, seed=1).to_dict()["mean"] == verdict.to_dict()["mean"]


def test_nothing_to_judge(split):
    with pytest.raises(DataError, match="at least one candidate"):
        judge_encoders({}, split)
    nobody = replace(split, validation=split.validation.where(np.zeros(len(split.validation), dtype=bool)))
    with pytest.raises(DataError, match="validation part"):
        judge_encoders({"base": look(split, 0.3)}, nobody)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 10)), min_size=1, max_size=5
    )  # (NDCG of tail and of cold, MRR on the probe) in tenths, the base first
)
@example([(3, 3, 1), (2, 4, 1)])  # the same mean, but for rounding
def test_the_rule(looks):
    names = [f"e{n}" for n in range(len(looks))]
    columns = {name: (tail / 10, cold / 10) for name, (tail, cold, _) in zip(names, looks, strict=True)}
    probes = {name: ProbeScore(0.0, value / 10) for name, (_, _, value) in zip(names, looks, strict=True)}
    cells = {
        (name, column, METRIC): Interval(value, value, value)
        for name, values in columns.items()
        for column, value in zip(("tail", "cold"), values, strict=True)
    }
    report = Report(tuple(names), ("tail", "cold"), (20,), cells, {}, {"tail": 1, "cold": 1}, {}, {})
    kept, why = _decide(report, probes, 0.25)
    legal = [n for n in names if sum(columns[n]) > sum(columns["e0"]) + 1e-9]
    legal = [n for n in legal if probes[n].mrr >= 0.75 * probes["e0"].mrr - 1e-9]
    whole = [n for n in legal if all(x >= y for x, y in zip(columns[n], columns["e0"], strict=True))]
    best = max((sum(columns[n]) for n in whole or legal), default=0)
    assert why and (kept in (whole or legal or ["e0"]))
    assert kept == "e0" or sum(columns[kept]) == pytest.approx(best)
    assert ("below the base" in why) == bool(legal and not whole)


def test_a_sure_loss_in_one_column_is_not_made_good_by_the_others():
    values = {"e0": (0.3, 0.3), "e1": (0.9, 0.2), "e2": (0.4, 0.29)}  # warm, cold
    columns = ("warm", "cold")
    cells = {
        (name, column, METRIC): Interval(value, value, value)
        for name, pair in values.items()
        for column, value in zip(columns, pair, strict=True)
    }
    report = Report(tuple(values), columns, (20,), cells, {}, dict.fromkeys(columns, 1), {}, {})
    probes = dict.fromkeys(values)
    assert _decide(report, probes, 0.2)[0] == "e1"
    kept, why = _decide(report, probes, 0.2, (), {"e1": ["cold"], "e2": []})
    assert kept == "e2" and "e1 ranks better in the mean but surely worse in cold" in why and "not beyond chance" in why
    assert _decide(report, probes, 0.2, (), {"e1": ["cold"], "e2": ["cold"]})[0] == "e0"


def test_looks_are_asked_for_one_by_one_and_let_go(split):
    made, alive = [], []

    def look_of(label):
        array = vectors(split, {"base": 0.3}.get(label, 0.5))
        made.append(weakref.ref(array))
        alive.append(sum(ref() is not None for ref in made))
        return Look(array)

    labels = ("base", "25%", "50%", "75%", "100%")
    verdict = judge_encoders(OneByOne(labels, look_of), split, n_bootstrap=0)
    assert verdict.labels == labels and len(alive) == 5 and max(alive) <= 2
    whole = judge_encoders({label: look_of(label) for label in labels}, split, n_bootstrap=0)
    assert whole.to_dict()["mean"] == verdict.to_dict()["mean"]


def test_many_people_are_drawn_from(split, monkeypatch):
    monkeypatch.setattr(guard, "MOST_PEOPLE", 5)
    looks = {"base": look(split, 0.3), "better": look(split, 0.9)}
    verdicts = [judge_encoders(looks, split, n_bootstrap=0, seed=seed) for seed in (1, 1)]
    assert max(verdicts[0].report.n_users.values()) <= 5
    assert verdicts[0].to_dict()["mean"] == verdicts[1].to_dict()["mean"]


# ---- the probe


class Words:
    """Texts of the same first word have the same vector; a text without one of these has none."""

    def __init__(self, *known):
        self.known = list(known)

    def encode(self, texts, *, kind="document", batch_tokens=2048):
        eye = np.eye(len(self.known) + 1, dtype=np.float32)
        return eye[[self.known.index(w) if (w := t.split()[0]) in self.known else -1 for t in texts]]


def test_the_score_by_eye():
    probe = Probe("x", ["a", "b", "c", "d"], ["a 1", "b 1", "b 2", "e 1"], np.array([0, 1, 0, 3]))
    # a finds its own; b two alike, so place 1.5; c is far from its own (0) as from all but e: places 2 to 4, 3 at the
    # mean; d and e are both unknown and so alike
    score = probe.score(Words("a", "b"))
    assert score.recall_at_1 == 0.5
    assert score.mrr == pytest.approx((1 + 1 / 1.5 + 1 / 3 + 1) / 4)


def test_vectors_that_are_all_alike_find_nothing():
    probe = Probe.of(load_catalog())
    assert probe.score(Words()) == pytest.approx((0.0, 1 / 250.5))


def test_a_probe_of_titles_and_descriptions_is_frozen():
    catalog = load_catalog()
    probe, again = Probe.of(catalog, n_most=60, seed=3), Probe.of(catalog, n_most=60, seed=3)
    assert probe.kind == TITLES and probe.queries == again.queries and len(probe.queries) == 60
    assert [probe.documents[row] for row in probe.own] == [again.documents[row] for row in again.own]
    for title, row in zip(probe.queries, probe.own, strict=True):
        item = next(item for item in catalog if item.title == title and probe.documents[row] in item.description)
        assert item.title
    assert probe.queries != Probe.of(catalog, n_most=60, seed=4).queries
    better = probe.score(LetterEncoder())
    assert 0 <= better.recall_at_1 <= better.mrr <= 1


def test_equal_descriptions_count_as_one():
    rows = [{"item_id": f"{n}", "title": f"title {n}", "description": f"words {n // 2}"} for n in range(60)]
    probe = Probe.of(Catalog.from_items(rows))
    assert (len(probe.queries), len(probe.documents)) == (60, 30)


def test_halves_of_the_text_where_there_are_no_descriptions_and_nothing_where_there_is_less():
    rows = [{"item_id": f"{n}", "title": f"red thing number {n}"} for n in range(60)]
    probe = Probe.of(Catalog.from_items(rows))
    assert probe.kind == HALVES
    assert (probe.queries[7], probe.documents[probe.own[7]]) == ("red thing", "number 7")
    assert Probe.of(Catalog.from_items(rows[:49])) is None
    assert Probe.of(Catalog.from_items([{**row, "title": "short"} for row in rows])) is None


# ---- to keep and to show


def test_save_load_and_show(split, tmp_path):
    looks = {"base": look(split, 0.3, 0.5), "50%": look(split, 0.9, 0.49)}
    verdict = judge_encoders(looks, split, probe=TITLES, n_bootstrap=50)
    same = Verdict.load(verdict.save(tmp_path / "verdict.json"))
    assert same.to_dict() == verdict.to_dict() and same.probes == verdict.probes and str(same) == str(verdict)
    text = same.to_markdown()
    assert "| **50%** |" in text and "NDCG@20" in text and "Recall@20" in text and TITLES in text
    gap = verdict.difference("50%", "cold")
    assert f"+{gap.value:.4f}".replace("0.", ".") in text and text.count("[") == 2 * len(verdict.segments)
    none = judge_encoders({"base": look(split, 0.3)}, split, probe=TITLES, n_bootstrap=0)
    assert Verdict.load(none.save(tmp_path / "none.json")).probes == {"base": None}
    assert json.loads((tmp_path / "none.json").read_text(encoding="utf-8"))["probe"]["kind"] is None


@pytest.mark.parametrize("content", ["{", "[]", '{"kept": "base"}'])
def test_a_damaged_verdict_is_said(tmp_path, content):
    (tmp_path / "verdict.json").write_text(content, encoding="utf-8")
    with pytest.raises(CorruptArtifactError, match=r"verdict\.json is no readable verdict.*fine-tune again"):
        Verdict.load(tmp_path / "verdict.json")
