"""``llm-tail value``: a table, a sentence, lines to paste, a picture."""

import json
import tomllib

import pytest
from typer.testing import CliRunner

from llm_tail.cli import app
from llm_tail.config import RunConfig
from tests import shop

SET = ["--set", 'value.runtimes=["tfidf"]', "--set", "value.dims=[16]", "--set", "value.min_seconds=0"]


def call(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, f"{done.exit_code}: {done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = shop.write(tmp_path_factory.mktemp("value"))
    call("value", config, *SET)
    return config


def test_the_table_the_sentence_and_the_lines(config):
    said = call("value", config, *SET).stdout
    assert all(word in said for word in ("tfidf", "float16", "width", "kept", "overall", "core-hour", "EUR"))
    assert "…" not in said.partition("* on the front")[0], "the table fits into a pipe"
    sentence = next(line for line in said.splitlines() if line.startswith("take "))
    assert "of the best quality" in sentence and "for a million items" in sentence
    assert RunConfig(**tomllib.loads(said.partition(sentence)[2])).encoder.runtime == "tfidf"


def test_json_tells_all_of_it(config):
    told = json.loads(call("value", config, *SET, "--json").stdout)
    assert len(told["choices"]) == 6 and {"cpu", "cores", "threads", "gpus"} == set(told["machine"])
    taken = told["advice"]["choice"]
    assert taken["share"] >= 0.99 and next(one for one in told["choices"] if one["dim"] == taken["dim"])
    assert tomllib.loads(told["advice"]["toml"])["embedding"]["storage"] == taken["storage"]


def test_a_budget_is_kept_or_the_nearest_named(config):
    within = json.loads(call("value", config, *SET, "--json", "--budget-mb", 50, "--budget-money", 100).stdout)
    assert within["advice"]["choice"]["mb"] <= 50
    failed = call("value", config, *SET, "--budget-mb", 20, code=1)
    assert "nothing keeps within 20 MB for a million items; the nearest is tfidf, 16 wide, int8" in failed.stderr
    assert "times what may be spent" in failed.stderr and "tfidf" in failed.stdout, "the table is shown all the same"
    told = json.loads(call("value", config, *SET, "--budget-mb", 20, "--json", code=1).stdout)
    assert told["advice"]["choice"] is None and told["advice"]["excess"]["mb"] > 1
    assert "expected a number above 0" in call("value", config, *SET, "--budget-seconds", 0, code=1).stderr


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("new/a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_picture_is_drawn(config, tmp_path, name, start):
    pytest.importorskip("matplotlib", reason="matplotlib is missing; pip install 'llm-tail[plot]'")
    done = call("value", config, *SET, "--out", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start) and "the picture is in" in done.stderr


def test_what_is_no_picture_and_what_is_no_runtime_is_said_at_once(config, tmp_path, monkeypatch):
    wrong = call("value", config, *SET, "--out", tmp_path / "a.gif", code=1)
    assert "expected one that ends in .png, .svg, .pdf" in wrong.stderr
    unknown = call("value", config, "--set", 'value.runtimes=["torch-fp8"]', code=1)
    assert "'torch-fp8'" in unknown.stderr and "'openvino-int8', 'static' or 'tfidf'" in unknown.stderr
    monkeypatch.setattr("llm_tail.plots.find_spec", lambda _: None)
    missing = call("value", config, *SET, "--out", tmp_path / "a.png", code=1)
    assert "pip install 'llm-tail[plot]'" in missing.stderr
