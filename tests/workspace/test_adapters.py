"""After fine-tuning: what there is, how it compares, and what leaves the run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_tail.artifacts import MANIFEST, generation_of, write_artifact
from llm_tail.embedding.encoder import Encoder
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError, UnknownIdError
from llm_tail.workspace import Workspace
from llm_tail.workspace.adapters import (
    compare_adapters,
    find_adapter,
    list_adapters,
    open_encoder,
    put_aside,
    verdict_of,
)
from llm_tail.workspace.export import MARK, export_encoder, losses_of
from tests import shop

TUNED = ["lora.enabled=true", "lora.n_pairs=48", "lora.batch_size=16", "lora.strengths=[1.0]", "encoder.precision=fp32"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run that was fine-tuned twice: rank 4 and then rank 2."""
    config = shop.write(tmp_path_factory.mktemp("tuned"))
    Workspace.open(config, [*TUNED, "lora.rank=4"]).run_stage("finetune")
    workspace = Workspace.open(config, [*TUNED, "lora.rank=2"])
    workspace.run_stage("finetune")
    return workspace


def test_fine_tunings_are_listed_and_the_former_one_is_put_aside(tuned):
    newest, former = list_adapters(tuned)
    assert (newest.rank, former.rank) == (2, 4) and (newest.current, former.current) == (True, False)
    assert newest.kind == "lora" and newest.base == "sentence-transformers/all-MiniLM-L6-v2"
    assert newest.data == former.data == tuned.split.train.fingerprint()
    assert newest.before == former.before and newest.after >= newest.before
    assert newest.kept == (newest.after > newest.before) == (newest.strength > 0)
    assert find_adapter(tuned, former.name[:5]) == find_adapter(tuned, former.name) != find_adapter(tuned, "current")


def test_the_verdict_lies_beside_the_adapter(tuned):
    verdict = verdict_of(tuned)
    assert verdict.labels == ("base", "100%") and verdict.probe == ""  # 28 items are too few for a probe
    facts = json.loads((tuned.folder / "encoder" / MANIFEST).read_text(encoding="utf-8"))["facts"]
    assert facts["kept"] == (verdict.kept != "base") and facts["verdict"] == str(verdict)


def test_any_of_them_can_be_opened(tuned):
    names = [info.name for info in list_adapters(tuned)]
    prints = {open_encoder(tuned, name).fingerprint for name in ("base", *names)}
    assert len(prints) == 3
    inner = next((tuned.folder / "adapters").glob("*/g-*/adapter"))
    assert open_encoder(tuned, str(inner)).fingerprint == open_encoder(tuned, names[1]).fingerprint
    with pytest.raises(UnknownIdError, match="no adapter has the id 'nope'; the closest are"):
        open_encoder(tuned, "nope")
    with pytest.raises(StaleArtifactError, match="no fine-tuned encoder yet; run: llm-tail finetune"):
        find_adapter(Workspace(tuned.config.overridden([f"folder={tuned.folder / 'none'}"])), "current")


def test_two_of_them_compared(tuned):
    former = list_adapters(tuned)[1].name
    verdict = compare_adapters(tuned, "base", former)
    assert verdict.labels == ("base", former)
    facts = json.loads((find_adapter(tuned, former) / MANIFEST).read_text(encoding="utf-8"))["facts"]
    again = {segment: verdict.report.value(former, segment) for segment in verdict.segments}
    assert again == pytest.approx(facts["validation_ndcg"]["100%"], abs=1e-6)


def test_an_adapter_that_may_have_seen_the_judge_is_said(tuned):
    with pytest.warns(UserWarning, match="current was trained on other events than this run's training part"):
        compare_adapters(Workspace(tuned.config.overridden(["seed=5"])), "base", "current")


def test_the_newest_former_ones_stay_and_a_stop_leaves_no_rest(tmp_path):
    for n in range(4):
        put_aside(tmp_path / "encoder", tmp_path / "adapters", n_most=2)
        with write_artifact(tmp_path / "encoder", "encoder", str(n), {"n": n}) as draft:
            draft.file("weights").write_text(f"{n}", encoding="utf-8")
    there = list((tmp_path / "adapters").iterdir())
    assert {next(folder.glob("g-*/weights")).read_text(encoding="utf-8") for folder in there} == {"1", "2"}
    assert generation_of(tmp_path / "encoder").removeprefix("g-") not in {folder.name for folder in there}
    put_aside(tmp_path / "nothing", tmp_path / "adapters")


def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path):
    workspace = Workspace.open(shop.write(tmp_path))
    damaged = workspace.folder / "adapters" / "x"
    damaged.mkdir(parents=True)
    (damaged / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match="no readable manifest"):
        assert list_adapters(workspace) == []


# ---- export

CODE = """
import sys
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], local_files_only=True)
np.save(sys.argv[2], model.encode_document(sys.argv[3:]))
assert "llm_tail" not in sys.modules
"""


def test_an_export_stands_alone_and_says_what_it_is(tuned, tmp_path):
    folder = export_encoder(tuned, tmp_path / "shop-encoder", "current")
    texts = ["rose seeds", "A telescope for everyone who loves astronomy.", "metronome"]
    subprocess.run([sys.executable, "-c", CODE, folder, tmp_path / "v.npy", *texts], check=True, cwd=tmp_path)
    ours = open_encoder(tuned).encode(texts)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), ours, atol=1e-5)
    np.testing.assert_allclose(Encoder.load(folder, precision="fp32").encode(texts), ours, atol=1e-5)
    assert np.abs(ours - tuned.base_encoder.encode(texts)).max() > 1e-3

    card = (folder / "README.md").read_text(encoding="utf-8")
    verdict = verdict_of(tuned)
    assert (
        card.startswith('---\nbase_model: "sentence-transformers/all-MiniLM-L6-v2"\n') and "\n# shop-encoder\n" in card
    )
    assert '- "lora"\n' in card and "`lora.rank` | `2`" in card and "28 items, 48 users" in card
    assert "differences and intervals are a little optimistic" in card
    assert verdict.to_markdown() in card and "mean loss" in card and tuned.split.train.fingerprint() in card
    for path in folder.rglob("*"):
        if path.suffix in (".md", ".json"):
            text = path.read_text(encoding="utf-8")
            assert str(tuned.folder.parent) not in text and str(tmp_path) not in text, path.name
            assert path.name == "tokenizer.json" or not re.search(r"(?<![\w.:/<])/[a-z]+/\w", text), path.name


def test_an_export_is_the_same_each_time_and_replaces_nothing_but_itself(tuned, tmp_path):
    folder = export_encoder(tuned, tmp_path / "out", "base", made="2020-02-02")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Made on 2020-02-02." in card and "no update of it is part of this model" in card
    assert export_encoder(tuned, folder, "base", made="2020-02-02") == folder
    assert (folder / "README.md").read_text(encoding="utf-8") == card
    (folder / MARK).unlink()
    with pytest.raises(DataError, match="is there already and is no former export; name a new folder"):
        export_encoder(tuned, folder, "base")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_that_this_runs_in_is_not_replaced_and_paths_are_taken_from_it(tuned, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (".", "..", "/"):
        with pytest.raises(DataError, match=r"is where this runs; name a folder in it, such as .*encoder"):
            export_encoder(tuned, folder, "base")
    for _ in range(2):
        folder = export_encoder(tuned, "../here/out/.", "base")
        assert folder == tmp_path / "here" / "out" and "\n# out\n" in (folder / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["out"]


def test_an_export_that_cannot_take_its_place_leaves_the_former_one(tuned, tmp_path, monkeypatch):
    folder = export_encoder(tuned, tmp_path / "out", "base", made="2020-02-02")
    rename = Path.replace

    def fail(self, target):
        if Path(target) == folder and not self.name.endswith("-former"):
            raise PermissionError(13, "Permission denied", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PermissionError):
        export_encoder(tuned, folder, "base", made="2021-02-02")
    assert "Made on 2020-02-02." in (folder / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_the_run_uses_is_exported_if_nothing_else_is_named(tuned, tmp_path):
    folder = export_encoder(tuned, tmp_path / "out")
    mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
    assert mark == {"encoder": tuned.encoder.fingerprint, "base": "sentence-transformers/all-MiniLM-L6-v2"}
    with pytest.raises(StaleArtifactError, match="run: llm-tail finetune"):
        export_encoder(Workspace(tuned.config.overridden(["lora.rank=3"])), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_losses_are_read_from_the_log(tuned, tmp_path):
    losses = losses_of(tuned.folder / "encoder")
    assert len(losses) == 3 and all(loss > 0 for loss in losses)
    assert losses_of(tmp_path) == []


def test_a_damaged_adapter_is_not_exported(tuned, tmp_path):
    config = shop.write(tmp_path)
    workspace = Workspace.open(config, TUNED)
    with write_artifact(workspace.folder / "encoder", "encoder", "x", {}) as draft:
        draft.file("verdict.json").write_text("{}", encoding="utf-8")
    next(workspace.folder.rglob("verdict.json")).write_text("{]", encoding="utf-8")
    with pytest.raises(CorruptArtifactError, match=r"verdict\.json"):
        export_encoder(workspace, tmp_path / "out", "current")
