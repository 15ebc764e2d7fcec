"""The verbs after fine-tuning."""

import json

import pytest
from typer.testing import CliRunner

from llm_tail.cli import app
from tests import shop

TUNED = ["lora.enabled=true", "lora.n_pairs=48", "lora.batch_size=16", "lora.strengths=[1.0]", "encoder.precision=fp32"]
SET = [word for setting in TUNED for word in ("--set", setting)]


def call(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, f"{done.exit_code}: {done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return shop.write(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def said(config):
    return call("finetune", config, *SET).stdout


def test_fine_tuning_shows_the_table_and_the_verdict(config, said):
    assert "NDCG@20 of the texts alone on validation" in said and "wins: " in said
    assert all(word in said for word in ("overall", "people", "base", "100%", "bootstrap"))
    verdict = json.loads(call("finetune", config, *SET, "--json").stdout)["verdict"]
    assert verdict["report"]["models"] == ["base", "100%"] and verdict["kept"] in ("base", "100%")


def test_adapters_are_listed_and_compared(config, said):
    assert "lora" in call("adapters", config).stdout
    (one,) = json.loads(call("adapters", config, "--json").stdout)
    assert one["current"] and one["rank"] == 16
    assert "wins: " in call("compare", config, one["name"], *SET).stdout
    verdict = json.loads(call("compare", config, "current", "base", *SET, "--json").stdout)
    assert verdict["report"]["models"] == ["base", "current"]
    assert "no adapter has the id" in call("compare", config, "nope", code=1).stderr


def test_a_run_without_fine_tuning_names_the_command(finished_shop):
    for verb in ("adapters", "compare"):
        words = [verb, finished_shop, *(["current"] if verb == "compare" else [])]
        assert f"run: llm-tail finetune {finished_shop}" in call(*words, code=1).stderr


def test_export_and_what_stops_it(config, said, tmp_path, monkeypatch):
    done = json.loads(call("export", config, "--out", tmp_path / "out", *SET, "--json").stdout)
    assert done == {"folder": str(tmp_path / "out"), "address": None}
    assert (tmp_path / "out" / "model.safetensors").is_file() and (tmp_path / "out" / "README.md").is_file()
    call("export", config, "--out", tmp_path / "new", "--public", code=2)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    refused = call("export", config, "--out", tmp_path / "new", "--push", "ann/shop", code=1)
    assert "set HF_TOKEN" in refused.stderr and not (tmp_path / "new").exists()
