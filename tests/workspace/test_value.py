"""Value for money: real encoders on the shipped books, each measured in a process of its own."""

import json
import subprocess
import sys
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.cli.demo import write_books
from llm_tail.config import RunConfig, ValueConfig
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.evaluation.pareto import Budget
from llm_tail.workspace import Workspace, measuring, value
from llm_tail.workspace.child import REFUSED, RESULT, FailedError
from llm_tail.workspace.measuring import Machine, Measured, own_peak_mb, timed
from llm_tail.workspace.value_report import ValueReport, duration
from tests import shop

BOTH = ["torch-fp32", "torch-bf16"]
SMALL = ["value.max_items=120", "encoder.max_tokens=32", "value.min_seconds=0", f"value.runtimes={json.dumps(BOTH)}"]


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    config = write_books(tmp_path_factory.mktemp("books"))
    return config, value.value(Workspace.open(config, SMALL))


def standing_in(counts=None, *, dim=32, rate=100.0):
    """Return a measurement without an encoder: vectors drawn at random, the same for the same texts."""

    def measure(config, runtime, texts, folder, *, on_texts=lambda n: None):
        if counts is not None:
            counts.append(runtime)
        if runtime == "openvino-int8":
            raise FailedError("this processor has no VNNI")
        rng = np.random.default_rng(len(runtime))
        value_of = {"vectors": rng.normal(size=(len(texts), dim)).astype(np.float32)}
        measuring.save_file(value_of, folder / measuring.VECTORS)
        on_texts(len(texts))
        return Measured(runtime, "cpu", dim, len(texts), rate, rate, rate, 300.0)

    return measure


# ---- on the books


def test_every_choice_has_its_costs_and_its_quality(books):
    _, report = books
    assert set(report.measured) | set(report.missing) == set(BOTH) and "torch-fp32" in report.measured
    assert report.n_items <= 120 and report.machine == Machine.here()
    plan = {(one.runtime, one.dim, one.storage) for one in report.choices}
    formats = ("float32", "float16", "int8")
    assert plan == {(runtime, dim, kind) for runtime in report.measured for dim in (384, 192, 96) for kind in formats}
    threads, price = report.machine.threads, report.settings.core_hour
    for one in report.choices:
        assert one.seconds == pytest.approx(1e6 / one.texts_per_s)
        assert one.money == pytest.approx(one.seconds / 3600 * price * threads)
        assert set(one.ndcg) == set(report.segments) and 0 < one.share <= 1 and one.peak_mb > 200
    assert max(one.share for one in report.choices) == 1.0
    full = next(one for one in report.choices if one.dim == 384 and one.storage == "float32")
    assert full.mean > 0.02, "texts say something about who reads what"
    wide, half, quarter = [one.mb for one in report.choices if one.runtime == full.runtime and one.dim == 384]
    assert (wide - half, half - quarter) == pytest.approx((768, 384 - 4)), "bytes an item are MB a million"


def test_the_table_lies_in_the_folder_of_the_run(books):
    config, report = books
    folder = Workspace.open(config, SMALL).folder / "value" / "report"
    (table,) = folder.rglob("value.md")
    (found,) = folder.rglob("value.json")
    assert ValueReport.load(found) == report
    words = table.read_text(encoding="utf-8")
    assert report.machine.cpu in words and "0.05 EUR a core-hour" in words and "| torch-fp32 | 96 | int8 |" in words
    assert all(line.count("|") == words.splitlines()[0].count("|") for line in words.splitlines() if "|" in line)


def test_the_same_call_measures_and_judges_nothing(books, monkeypatch):
    config, report = books

    def refused(config, runtime, *job, **more):
        raise FailedError(report.missing[runtime])  # what cannot run here is asked again, and nothing else

    monkeypatch.setattr(value, "measure", refused)
    monkeypatch.setattr(value._Comparison, "_judge", None)
    again = value.value(Workspace.open(config, SMALL))
    assert again.choices == report.choices
    dearer = value.value(Workspace.open(config, [*SMALL, "value.core_hour=1"]))
    assert dearer.choices[0].money == pytest.approx(20 * report.choices[0].money)
    adopted = [*SMALL, "encoder.dim=96", "encoder.precision=fp32"]  # what it recommends starts no new comparison
    assert value.value(Workspace.open(config, adopted)).choices == report.choices


def test_the_lines_are_settings_of_the_run(books):
    _, report = books
    for one in report.choices:
        config = RunConfig(**tomllib.loads(report.lines_for(one)))
        assert f"{config.encoder.runtime}-{config.encoder.precision}" == one.runtime
        assert config.encoder.dim == (None if one.dim == 384 else one.dim) and config.embedding.storage == one.storage


def test_advice_is_a_sentence(books):
    _, report = books
    best = report.advise()
    assert best.choice in report.front and best.choice.share >= 0.99
    assert report.told(best).startswith(f"take {best.choice.label}: it keeps ")
    budget = Budget(mb=best.choice.mb - 1)
    assert f"within {budget.mb:,.0f} MB for a million items, take " in report.told(report.advise(budget), budget)
    none = Budget(money=1e-9)
    assert " times what may be spent" in report.told(report.advise(none), none)


# ---- what stops it, and where it goes on


def test_it_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    config, counts = shop.write(tmp_path), []
    settings = ['value.runtimes=["torch-fp32","tfidf","static"]', "value.dims=[16]"]
    real, judged = standing_in(counts), []

    def interrupted(config, runtime, texts, folder, **more):
        if runtime == "tfidf" and counts.count("torch-fp32") == 1 and "tfidf" not in counts:
            counts.append("tfidf")
            raise KeyboardInterrupt
        return real(config, runtime, texts, folder, **more)

    monkeypatch.setattr(value, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        value.value(Workspace.open(config, settings))
    judge = value._Comparison._judge

    def counted(self, vectors, items):
        if len(judged) == 4:
            judged.append(None)
            raise KeyboardInterrupt
        judged.append(vectors.shape)
        return judge(self, vectors, items)

    monkeypatch.setattr(value._Comparison, "_judge", counted)
    with pytest.raises(KeyboardInterrupt):
        value.value(Workspace.open(config, settings))
    report = value.value(Workspace.open(config, settings))
    assert counts == ["torch-fp32", "tfidf", "tfidf", "static"], "what was measured is not measured again"
    assert len(judged) - 1 == len(report.choices) == 3 * 2 * 3, "and what was judged is not judged again"


def test_what_cannot_run_is_listed_with_the_reason_and_tried_again(tmp_path, monkeypatch):
    counts, config = [], shop.write(tmp_path)
    monkeypatch.setattr(value, "measure", standing_in(counts))
    settings = ['value.runtimes=["tfidf","openvino-int8"]']
    for _ in range(2):
        report = value.value(Workspace.open(config, settings))
        assert report.missing == {"openvino-int8": "this processor has no VNNI"}
        assert "openvino-int8 cannot run here: this processor has no VNNI" in report.to_markdown()
    assert counts == ["tfidf", "openvino-int8", "openvino-int8"]
    with pytest.raises(DataError, match=r"none of the runtimes .* openvino-int8: this processor has no VNNI"):
        value.value(Workspace.open(config, ['value.runtimes=["openvino-int8"]']))


@pytest.mark.parametrize("setting", ["data.interactions=", "split.method=none"])
def test_without_anybody_to_judge_on_the_costs_are_told(tmp_path, monkeypatch, setting):
    events = None if setting.startswith("data") else shop.events().drop_duplicates("item_id")
    config = shop.write(tmp_path, event_frame=events)
    monkeypatch.setattr(value, "measure", standing_in())
    report = value.value(Workspace.open(config, [setting, 'value.runtimes=["tfidf"]']))
    if setting.startswith("data"):
        assert "[data] interactions is not set" in report.notes[0]
        assert all(one.share is None and one.seconds == 10_000 for one in report.choices) and not report.segments
        assert "nothing is recommended: nobody could be judged" in report.to_markdown()
        assert {one.storage for one in report.front} == {"int8"}, "time and room are still to be had"
    else:
        assert report.segments, "a cut of training is judged on where validation is empty"


def test_a_file_that_is_not_there_is_no_want_of_judges(tmp_path):
    config = shop.write(tmp_path)
    with pytest.raises(DataError, match=r"there is no file or folder .*none\.csv"):
        value.value(Workspace.open(config, ["data.interactions=none.csv"]))


def test_a_tuned_run_needs_its_own_encoder(tmp_path):
    config = shop.write(tmp_path)
    with pytest.raises(StaleArtifactError, match=r"run: llm-tail finetune .*shop\.toml"):
        value.value(Workspace.open(config, ["lora.enabled=true"]))


def test_items_without_words_are_no_reason_to_stop_but_none_with_words_is(tmp_path, monkeypatch):
    monkeypatch.setattr(value, "measure", standing_in())
    items = shop.items()
    items.loc[:3, ["title", "description"]] = ""
    report = value.value(Workspace.open(shop.write(tmp_path / "some", item_frame=items), ['value.runtimes=["tfidf"]']))
    assert report.measured["tfidf"].n_texts == len(items) - 4 and report.n_items == len(items)
    items.loc[:, ["title", "description"]] = ""
    with pytest.raises(DataError, match="none of 28 items has a text in title, description"):
        value.value(Workspace.open(shop.write(tmp_path / "none", item_frame=items), ['value.runtimes=["tfidf"]']))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a": 1}'])
def test_damaged_files_are_made_anew(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(value, "measure", standing_in())
    config, settings = shop.write(tmp_path), ['value.runtimes=["tfidf"]']
    report = value.value(Workspace.open(config, settings))
    folder = Workspace.open(config).folder / "value"
    for path in [folder / "judged.json", *folder.rglob("value.json"), *folder.rglob("*.safetensors")]:
        path.write_bytes(damage)
    assert value.value(Workspace.open(config, settings)) == report


def test_what_is_no_report_is_corrupt(tmp_path):
    (tmp_path / "value.json").write_text('{"choices": [{}]}', encoding="utf-8")
    with pytest.raises(CorruptArtifactError, match="no readable comparison"):
        ValueReport.load(tmp_path / "value.json")


# ---- small parts


@given(st.lists(st.sampled_from(["", " ", "whale", "moor", "whale and moor", "\udcff"])), st.integers(0, 3))
def test_distinct_texts_lead_back_to_all(texts, seed):
    words, places = value.distinct(texts, seed)
    assert len(set(words)) == len(words) and all(word.strip() for word in words)
    assert [words[n] if n >= 0 else "" for n in places] == [text if text.strip() else "" for text in texts]


@given(st.integers(8, 4096), st.lists(st.integers(8, 4096)))
def test_widths_begin_with_the_full_one_and_fall(dim, wanted):
    tried = value.widths(dim, wanted)
    assert tried[0] == dim and tried == sorted(set(tried), reverse=True) and min(tried) >= min(8, dim)
    assert not wanted or set(tried[1:]) == {width for width in wanted if width < dim}


class Letters:
    """Encodes a text as the numbers of its letters."""

    dim = 2

    def __init__(self):
        self.calls = []

    def encode(self, texts, *, kind="document", batch_tokens=2048, progress=False):
        self.calls.append(len(texts))
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def test_parts_are_timed_by_themselves_until_enough_time_has_passed():
    texts, told, letters = ["a" * (n % 7) for n in range(1000)], [], Letters()
    vectors, rates = timed(letters, texts, tell=told.append)
    assert vectors[:, 0].tolist() == [n % 7 for n in range(1000)]
    assert told == [250] * 4 and len(rates) == 4 and letters.calls == [32, *told], "the first is the warm-up"
    again = Letters()
    _, rates = timed(again, texts, min_seconds=0.05, tell=told.append)
    assert len(rates) > 4 and len(rates) % 4 == 0 and len(told) == 8, "progress is told of the first pass alone"


def test_the_peak_is_that_of_the_process_alone():
    if not (measuring._PROC / "self/status").is_file():
        pytest.skip("only Linux tells the peak of a program apart from that of what started it")
    before = own_peak_mb()
    held = np.ones(40_000_000)
    assert own_peak_mb() >= max(before, held.nbytes / 1e6)  # what ran before may have peaked higher
    code = "from llm_tail.workspace.measuring import own_peak_mb; print(own_peak_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 < float(child.stdout) < held.nbytes / 1e6


def test_what_the_package_refuses_is_written_down_for_the_parent(tmp_path):
    job = {"config": RunConfig().model_dump(), "runtime": "tfidf"}
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    (tmp_path / "texts.json").write_text('["the", "and"]', encoding="utf-8")
    measuring.main(tmp_path, measuring.MAKE)
    assert "word" in json.loads((tmp_path / REFUSED).read_text(encoding="utf-8"))
    assert not (tmp_path / RESULT).exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("""echo '"no bf16 here"' > $3/refused.json""", "no bf16 here"),
        ("kill -9 $$", "signal 9, most likely for want of memory"),
        ("echo ImportError: no libfoo >&2; exit 1", "ended with code 1: ImportError: no libfoo"),
        ("echo 3; echo hello; echo 4", "ended with code 0: it said nothing"),
    ],
)
def test_a_child_that_fails_is_no_failure_of_ours(tmp_path, monkeypatch, script, reason):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    told = []
    with pytest.raises(FailedError, match=reason):
        measuring.measure(RunConfig(), "tfidf", ["whale"], tmp_path, on_texts=told.append)
    assert told == ([3, 4] if script.startswith("echo 3") else [])


@pytest.mark.parametrize(
    ("threads", "gpus", "words"),
    [(1, (), "X, 1 core, no GPU"), (8, (), "X, 8 cores, no GPU"), (2, ("H", "H"), "X, 2 of 8 cores, 2 x H")],
)
def test_a_machine_says_what_it_is(threads, gpus, words):
    assert str(Machine("X", 1 if threads == 1 else 8, threads, gpus)) == words


def test_threads_are_those_that_are_used(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Machine.here().threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert Machine.here().threads == Machine.here().cores >= 1


def test_a_gpu_is_paid_by_its_own_hour(tmp_path, monkeypatch):
    def on_gpu(*given_values, **more):
        return replace(standing_in(dim=16)(*given_values, **more), device="cuda", gpu_mb=1234.0)

    monkeypatch.setattr(value, "measure", on_gpu)
    report = value.value(Workspace.open(shop.write(tmp_path), ['value.runtimes=["tfidf"]', "value.gpu_hour=3.6"]))
    assert report.choices[0].money == pytest.approx(10.0), "10,000 s of a GPU"
    assert "3.6 EUR a GPU-hour" in report.to_markdown() and "tfidf 1,234 MB" in report.to_markdown()


def test_times_are_said_in_words():
    assert [duration(s) for s in (59, 60, 3599.7, 3600, 1e6)] == ["59 s", "1 min", "1 h", "1 h", "277 h 47 min"]


def test_all_runtimes_of_the_settings_are_those_there_are():
    from llm_tail.embedding.runtimes import PRECISIONS

    there = {f"{name}-{p}" if p else name for name, known in PRECISIONS.items() for p in (known or ("",))}
    assert set(ValueConfig().runtimes) == there
