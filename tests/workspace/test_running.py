import importlib.util
import json
import shutil

import numpy as np
import pytest

from llm_tail.embedding.runtimes import open_runtime
from llm_tail.errors import StaleArtifactError
from llm_tail.workspace import Workspace
from llm_tail.workspace.running import read_choice

OPENVINO = importlib.util.find_spec("openvino") is not None and importlib.util.find_spec("nncf") is not None


def run(config, *settings):
    workspace = Workspace.open(config, settings)
    results = {result.name: result for result in workspace.run("index")}
    return workspace, results


@pytest.mark.parametrize("name", ["static", "tfidf", "openvino"])
def test_items_and_queries_share_a_space(shop_copy, name):
    if name == "openvino" and not OPENVINO:
        pytest.skip("needs the extra openvino")
    setting = f"encoder.runtime={name}"
    first, _ = run(shop_copy, setting)
    assert first.similar("a telescope for the moon", k=3).item_ids[0].startswith("a")
    again = Workspace.open(shop_copy, [setting])
    assert all(result.state == "skipped" for result in again.run("index"))
    assert again.runtime.runtime == name and "encoder" not in vars(again)  # it was opened, not made
    text = again.item_text.texts(again.catalog)[0]
    np.testing.assert_allclose(again.runtime.encode([text])[0], again.embeddings.vectors[0], atol=5e-3)


def test_the_runtime_is_no_matter_of_training(shop_copy):
    plain, static = Workspace.open(shop_copy), Workspace.open(shop_copy, ["encoder.runtime=static"])
    for stage in ("audit", "pretrain", "finetune"):
        assert plain.fingerprint(stage) == static.fingerprint(stage)
    assert plain.fingerprint("embed") != static.fingerprint("embed")
    assert plain.runtime is plain.encoder


def test_a_changed_item_is_one_text_and_no_new_space(shop_copy):
    before = run(shop_copy, "encoder.runtime=static")[0].runtime.fingerprint
    items = shop_copy.parent / "items.csv"
    items.write_text(items.read_text().replace("Frying pan", "Iron frying pan"))
    changed, results = run(shop_copy, "encoder.runtime=static")
    assert changed.runtime.fingerprint == before
    assert "1 texts encoded" in results["embed"].note


def test_auto_measures_once_and_says_why(shop_copy, monkeypatch):
    first, results = run(shop_copy, "encoder.runtime=auto", "encoder.measured_texts=16", "encoder.precision=fp32")
    choice = read_choice(first.folder / "runtime")
    assert choice.why in results["embed"].note and choice.precision == "fp32"
    assert json.loads((first.folder / "runtime" / "choice.json").read_text())["made_from"]

    def refuse(*given, **more):
        raise AssertionError("measured twice")

    monkeypatch.setattr("llm_tail.embedding.choosing.choose_runtime", refuse)
    items = first.folder.parent / "items.csv"
    items.write_text(items.read_text().replace("Frying pan", "Iron frying pan"))
    second, _ = run(shop_copy, "encoder.runtime=auto", "encoder.measured_texts=16", "encoder.precision=fp32")
    assert (second.runtime.runtime, second.runtime.precision) == (choice.taken, "fp32")
    assert second.similar("a telescope for the moon", k=1).item_ids[0].startswith("a")


def test_a_runtime_that_is_gone_names_the_stage(shop_copy):
    first, _ = run(shop_copy, "encoder.runtime=tfidf")
    shutil.rmtree(first.folder / "runtime")
    again = Workspace.open(shop_copy, ["encoder.runtime=tfidf"])
    with pytest.raises(StaleArtifactError, match="llm-tail embed"):
        again.similar("a telescope")
    assert not again.is_finished("embed")
    again.run("index")
    assert again.similar("a telescope for the moon", k=1).item_ids[0].startswith("a")


def test_a_damaged_runtime_is_made_anew(shop_copy):
    first, _ = run(shop_copy, "encoder.runtime=tfidf")
    folder = first.folder / "runtime"
    file = next(folder.glob("g-*/words.json"))
    file.write_text(file.read_text().replace("telescope", "telescopf"))
    first.run_stage("embed") if not first.is_finished("embed") else first.record.forget("stages", "embed")
    run(shop_copy, "encoder.runtime=tfidf")
    assert "telescope" in open_runtime(folder).words.words
