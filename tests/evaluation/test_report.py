import json

import numpy as np
import pytest
from rich.console import Console

from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.evaluation.evaluate import evaluate
from llm_tail.evaluation.report import Interval, Report
from llm_tail.recommenders.baselines import Ease, ItemKnn, Popularity

from .worlds import random_split


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate([Popularity(), ItemKnn(), Ease(10.0)], random_split(0), k=[3, 5], n_bootstrap=50)


def test_it_says_what_it_is(report):
    assert repr(report) == "Report(3 models, warm, tail, cold, overall, k=[3, 5])"


def test_values_and_their_defaults(report):
    assert report.value("ease") == report.value("ease", "overall", "ndcg@5")
    assert report.interval("ease", "warm", "recall@3").low <= report.value("ease", "warm", "recall@3")
    assert report.best("warm", "recall@5") == max(report.models, key=lambda m: report.value(m, "warm", "recall@5"))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (("eese",), r"no model 'eese' \(did you mean ease\?\); it has: popularity, item-knn, ease"),
        (("ease", "worm"), r"no segment 'worm' \(did you mean warm\?\)"),
        (("ease", "warm", "recall@7"), "no metric 'recall@7'"),
    ],
)
def test_what_is_not_there_is_named(report, ask, words):
    with pytest.raises(DataError, match=words):
        report.value(*ask)
    with pytest.raises(DataError, match=words):
        report.paired_difference("popularity", *ask)


def test_frame_has_a_row_for_each_model_and_segment(report):
    frame = report.to_frame()
    assert len(frame) == 3 * 4
    row = frame[(frame.model == "ease") & (frame.segment == "warm")].iloc[0]
    cell = report.interval("ease", "warm", "mrr@3")
    assert (row["mrr@3"], row["mrr@3_low"], row["mrr@3_high"]) == cell
    assert row.n_users == report.n_users["warm"]


def test_differences_turn_around(report):
    there, back = (
        report.paired_difference(*pair, "warm", "ndcg@5") for pair in (("ease", "popularity"), ("popularity", "ease"))
    )
    assert there == -back
    gap = report.value("ease", "warm", "ndcg@5") - report.value("popularity", "warm", "ndcg@5")
    assert there.value == pytest.approx(gap)
    assert report.paired_difference("ease", "ease") == (0, 0, 0)


def test_a_paired_interval_is_no_wider_than_two_loose_ones(report):
    paired = report.paired_difference("ease", "item-knn", "warm", "ndcg@5")
    loose = [report.interval(model, "warm", "ndcg@5") for model in ("ease", "item-knn")]
    assert paired.high - paired.low <= sum(x.high - x.low for x in loose)


def test_saved_and_loaded_it_is_the_same(report, tmp_path):
    path = report.save(tmp_path / "deep" / "report.json")
    again = Report.load(path)
    assert again == report
    assert again.to_dict() == report.to_dict() == json.loads(path.read_text())


def test_without_resamples_the_borders_are_empty(tmp_path):
    report = evaluate(Popularity(), random_split(1), k=5, n_bootstrap=0)
    again = Report.load(report.save(tmp_path / "report.json"))
    assert np.isnan(again.interval("popularity").low)
    assert again.value("popularity") == report.value("popularity")
    json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda x: pytest.fail(f"{x} is no JSON"))


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(StaleArtifactError, match="no report"):
        Report.load(tmp_path / "none.json")
    for text in ("{", "[]", "{}", '{"models": 3}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(CorruptArtifactError, match=r"bad\.json is no readable report"):
            Report.load(tmp_path / "bad.json")


def test_markdown_marks_the_best_of_each_column():
    cells = {}
    for model, score in (("old", 0.1), ("new", 0.25)):
        cells |= {(model, "warm", f"{metric}@5"): Interval(score, score, score) for metric in ("recall", "ndcg")}
    exposure = dict.fromkeys(
        ["head_share", "tail_share", "cold_share", "coverage", "gini", "average_popularity", "novelty"], 0.5
    )
    report = Report(
        models=("old", "new"),
        segments=("warm",),
        k=(5,),
        cells=cells,
        differences={},
        n_users={"warm": 3},
        exposure={"old": exposure, "new": exposure | {"gini": float("nan")}},
        seconds={},
    )
    lines = report.to_markdown().splitlines()
    assert lines[:4] == [
        "| R@5/N@5 | warm |",
        "| --- | --- |",
        "| old | .1000/.1000 |",
        "| new | **.2500**/**.2500** |",
    ]
    assert lines[-1] == "| new | .500 | .500 | .500 | .500 |  | 0.5 | 0.5 |"
    with pytest.raises(DataError, match="k = 9; there is: 5"):
        report.to_markdown(9)


def test_it_prints_as_a_table(report):
    text = str(report)
    words = ("R@3 / N@3", "R@5 / N@5", "MRR@5 / hit rate@5", "warm", "overall", "ease", "±", "tail share", "gini")
    for word in words:
        assert word in text
    console = Console(width=110, file=None)
    with console.capture() as capture:
        console.print(report)
    assert "ease" in capture.get()
    assert max(map(len, text.splitlines())) <= 110
