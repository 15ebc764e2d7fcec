"""The stages in order, skipped by fingerprint, each naming what it needs; and the rules about data."""

import json
import os
from statistics import mean

import numpy as np
import pandas as pd
import pytest

from llm_tail.artifacts import read_manifest, write_artifact
from llm_tail.config import RunConfig
from llm_tail.errors import (
    ConfigError,
    CorruptArtifactError,
    DataError,
    LlmTailError,
    StaleArtifactError,
    UnknownIdError,
)
from llm_tail.workspace import STAGES, Workspace
from llm_tail.workspace.adapters import verdict_of
from llm_tail.workspace.record import RunRecord
from tests import shop


def states(results):
    return {result.name: result.state for result in results}


def test_the_whole_way(finished_shop):
    workspace = Workspace.open(finished_shop)
    assert [workspace.is_finished(name) for name in workspace.stages] == [True] * 6
    assert len(workspace.catalog) == len(workspace.embeddings) == len(workspace.index) == len(workspace.graph) == 28
    assert workspace.audit.ok
    assert workspace.report.models == ("hybrid", "popularity", "ease")
    assert "hybrid" in repr(workspace.report) or "3 models" in repr(workspace.report)
    assert "evaluate" in repr(workspace)


def test_a_second_run_does_nothing(finished_shop):
    results = Workspace.open(finished_shop).run()
    assert set(states(results).values()) == {"skipped"}
    assert all(result.seconds >= 0 and result.peak_mb > 10 and result.finished for result in results)


def test_only_what_a_setting_matters_to_runs_again(shop_copy):
    again = states(Workspace.open(shop_copy, ["hybrid.neighbors=5"]).run())
    assert [name for name, state in again.items() if state == "done"] == ["fit", "evaluate"]
    back = states(Workspace.open(shop_copy).run(until="graph"))
    assert set(back.values()) == {"skipped"}


def test_going_back_to_an_earlier_setting_is_no_shortcut(shop_copy):
    Workspace.open(shop_copy, ["index.links=4"]).run_stage("index")
    assert Workspace.open(shop_copy).run_stage("index").state == "done"


def test_what_makes_no_difference_runs_nothing(shop_copy):
    workspace = Workspace.open(shop_copy, ["embedding.batch_tokens=512", "encoder.device=cpu"])
    assert set(states(workspace.run()).values()) == {"skipped"}


def test_other_storage_or_width_stores_again_and_encodes_nothing(shop_copy):
    for overrides in (["embedding.storage=float16"], ["embedding.storage=int8", "encoder.dim=64"]):
        workspace = Workspace.open(shop_copy, overrides)
        done = workspace.run_stage("embed")
        assert done.state == "done" and ": 0 texts encoded" in done.note, done.note
    assert workspace.embeddings.dim == 64 and workspace.embeddings.ids == workspace.catalog.ids
    workspace.run_stage("index")
    assert len(workspace.similar("a frying pan", 3)) == 3


def test_a_changed_file_runs_all_that_reads_it_again(shop_copy):
    items = shop.items()
    items.loc[0, "title"] = "Wok"
    items.to_csv(shop_copy.parent / "items.csv", index=False)
    workspace = Workspace.open(shop_copy)
    with pytest.raises(StaleArtifactError, match=r"'embed' was made from other data or settings; run: llm-tail embed"):
        _ = workspace.embeddings
    assert states(workspace.run(until="index")) == {"audit": "done", "embed": "done", "index": "done"}


def test_a_touched_file_is_the_same_file(shop_copy):
    os.utime(shop_copy.parent / "items.csv", (1, 1))
    assert set(states(Workspace.open(shop_copy).run()).values()) == {"skipped"}


def test_removed_results_are_made_again(shop_copy):
    (shop_copy.parent / "run" / "graph" / "manifest.json").unlink()
    again = states(Workspace.open(shop_copy).run(until="graph"))
    assert [name for name, state in again.items() if state == "done"] == ["graph"]


@pytest.mark.parametrize(
    ("asked", "missing"), [("index", "embed"), ("graph", "index"), ("fit", "embed"), ("evaluate", "fit")]
)
def test_a_stage_before_its_need_names_the_command(tmp_path, asked, missing):
    config = shop.write(tmp_path)
    with pytest.raises(StaleArtifactError, match=f"not there yet; run: llm-tail {missing} {config}"):
        Workspace.open(config).run_stage(asked)


@pytest.mark.parametrize("name", ["embeddings", "index", "graph", "hybrid", "report", "audit"])
def test_asking_before_running_names_the_command(tmp_path, name):
    with pytest.raises(StaleArtifactError, match="run: llm-tail "):
        getattr(Workspace.open(shop.write(tmp_path)), name)


def test_stages_that_do_not_exist_or_are_off(tmp_path):
    workspace = Workspace.open(shop.write(tmp_path))
    with pytest.raises(ConfigError, match="did you mean 'embed'"):
        workspace.run(until="embd")
    with pytest.raises(ConfigError, match=r"lora\.enabled=true"):
        workspace.run(until="finetune")
    assert "finetune" in Workspace.open(tmp_path / "shop.toml", ["lora.enabled=true"]).stages
    with pytest.raises(ConfigError, match=r"pretrain is switched off; give --set pretrain\.enabled=true"):
        workspace.run_stage("pretrain")
    assert set(workspace.stages) | {"enrich", "pretrain", "finetune"} == set(STAGES)


def test_on_stage_hears_of_beginning_and_end(finished_shop):
    heard = []
    Workspace.open(finished_shop).run("embed", on_stage=lambda name, result: heard.append((name, result is None)))
    assert heard == [("audit", True), ("audit", False), ("embed", True), ("embed", False)]


def test_baselines_are_fitted_on_first_use_and_kept(shop_copy):
    workspace = Workspace.open(shop_copy)
    first = workspace.model("item-knn").recommend(["u01"], k=3)[0]
    assert (shop_copy.parent / "run" / "models" / "item-knn" / "manifest.json").is_file()
    later = Workspace.open(shop_copy)
    assert later.model("item-knn").recommend(["u01"], k=3)[0] == first
    assert "split" not in later.__dict__  # it was read, not fitted again
    with pytest.raises(ConfigError, match="did you mean 'ease'"):
        workspace.model("eaze")


def test_similar_by_id_and_by_text(finished_shop):
    workspace = Workspace.open(finished_shop)
    near = workspace.similar("k0", k=6)
    assert "k0" not in near.item_ids and sum(x.startswith("k") for x in near.item_ids) >= 4
    assert workspace.similar("looking at the night sky", k=3).item_ids[0].startswith("a")
    with pytest.raises(DataError, match="empty text"):
        workspace.similar("  ")


def test_what_people_have_is_not_recommended(finished_shop):
    workspace = Workspace.open(finished_shop)
    for part in (workspace.split.train, workspace.split.validation):
        frame = part.to_frame()
        for user, got in workspace.hybrid.recommend(k=28):
            owned = set(frame["item_id"][frame["user_id"] == user])
            assert not owned & {item for item, _ in got}


def test_models_and_graph_see_training_only(finished_shop):
    workspace = Workspace.open(finished_shop)
    train = workspace.split.train.matrix()
    together = (train.T @ train).toarray() > 0
    ties = workspace.graph.matrix("taken_together").toarray() > 0
    assert not (ties & ~together).any()
    ours = workspace.hybrid.histories[workspace.hybrid.users.rows(workspace.split.users.values)]
    assert (ours != train).nnz == 0


# ---- the rules about data


def test_named_validation_is_tuned_on_and_may_hold_cold_items(tmp_path):
    events = shop.events()
    held = events["item_id"].isin(["k6", "m6"])
    config = shop.write(tmp_path, event_frame=events[~held])
    events[held].to_csv(tmp_path / "validation.csv", index=False)
    workspace = Workspace.open(config, [f"data.validation={tmp_path / 'validation.csv'}"])
    split = workspace.split
    assert (len(split.train), len(split.validation), len(split.test)) == ((~held).sum(), held.sum(), 0)
    assert {split.items[row] for row in np.flatnonzero(split.cold_validation)} == {"k6", "m6"}
    assert "nothing to judge on" in workspace.run()[-1].note
    with pytest.raises(DataError, match="nothing to judge on"):
        _ = workspace.report


def test_without_any_cut_everything_is_fitted_on(tmp_path):
    workspace = Workspace.open(shop.write(tmp_path), ["split.method=none", "hybrid.tune=false"])
    workspace.run(until="fit")
    assert workspace.hybrid.histories.nnz == len(shop.events())


def test_thresholds_apply_and_people_without_events_are_gone(tmp_path):
    events = shop.events().assign(weight=5.0)
    events.loc[events["user_id"] == "u00", "weight"] = 1.0
    few = pd.DataFrame({"user_id": ["rare"], "item_id": ["k0"], "weight": [5.0]})
    config = shop.write(tmp_path, event_frame=pd.concat([events, few]))
    workspace = Workspace.open(config, ["data.positive=3.0", "data.min_user_events=2"])
    assert "u00" not in workspace.interactions.users and "rare" not in workspace.interactions.users
    assert "rare" in Workspace.open(config).interactions.users


def test_interactions_that_match_nothing(tmp_path):
    config = shop.write(tmp_path, event_frame=shop.events().assign(item_id=lambda f: "x" + f["item_id"]))
    with pytest.raises(LlmTailError, match="catalogue"):
        Workspace.open(config).run()
    with pytest.raises(DataError, match="none of the"):
        _ = Workspace.open(config).split


def test_nothing_left_of_the_interactions(tmp_path):
    with pytest.raises(DataError, match="min_user_events=99"):
        _ = Workspace.open(shop.write(tmp_path), ["data.min_user_events=99"]).interactions


def test_what_makes_a_cut_impossible_is_said_before_anything_is_embedded(tmp_path):
    events = shop.events()
    config = shop.write(tmp_path, event_frame=events)
    events[:5].to_csv(tmp_path / "validation.csv", index=False)
    workspace = Workspace.open(config, ["data.validation=validation.csv"])
    with pytest.raises(DataError, match=r"5 of 5 validation interactions are in training too.*llm-tail audit"):
        workspace.run()
    assert workspace.audit.of("split").severity == "error" and not workspace.is_finished("embed")


def test_the_audit_looks_at_the_columns_that_make_up_the_text(tmp_path):
    frame = shop.items().rename(columns={"title": "name", "description": "words"})
    config = shop.write(tmp_path, item_frame=frame)
    with pytest.raises(DataError, match=r"28 of 28 items .* have no word in the columns of"):
        Workspace.open(config).run()
    workspace = Workspace.open(config, ['text.fields=["name", "words"]'])
    workspace.run(until="embed")
    assert workspace.audit.of("empty-text") is None
    unread = workspace.audit.of("unread-words").message
    assert "category, brand" in unread
    everything = Workspace.open(config, [unread.partition("[text] ")[2].replace("fields =", "text.fields =")])
    assert everything.config.text.fields == ["name", "words", "category", "brand"]
    everything.run(until="audit")
    assert everything.audit.of("unread-words") is None
    with pytest.raises(DataError, match="did you mean 'name'"):
        Workspace.open(config, ['text.fields=["nam"]']).run()


def test_the_audit_knows_what_the_graph_will_ask_for(tmp_path):
    workspace = Workspace.open(shop.write(tmp_path), ['graph.relations=["brands"]'])
    with pytest.raises(DataError, match=r"relations names 'brands'.*did you mean 'brand'"):
        workspace.run(until="audit")
    assert not workspace.audit.ok


def test_an_empty_catalogue_and_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"empty|no rows|no item"):
        Workspace.open(shop.write(tmp_path, item_frame=shop.items()[:0])).run()
    (tmp_path / "items.csv").unlink()
    with pytest.raises(DataError, match=r"no file or folder .*items\.csv"):
        Workspace.open(tmp_path / "shop.toml").run()
    with pytest.raises(ConfigError, match="catalog is not set"):
        Workspace.open(RunConfig(folder=str(tmp_path / "none"))).run()


def test_a_catalogue_alone_can_be_searched(tmp_path):
    workspace = Workspace.open(shop.write(tmp_path), ['data.interactions=""'])
    assert workspace.stages == ("embed", "index", "graph")
    assert states(workspace.run()) == dict.fromkeys(workspace.stages, "done")
    assert workspace.graph.relations == ["similar", "category", "brand"]
    with pytest.raises(ConfigError, match=r"fit needs interactions"):
        workspace.run_stage("fit")
    with pytest.raises(DataError, match=r"interactions is not set.*llm-tail similar"):
        _ = workspace.hybrid


def test_an_item_without_any_text_goes_along(tmp_path):
    items = shop.items()
    items.loc[3, ["title", "description"]] = ""
    workspace = Workspace.open(shop.write(tmp_path, item_frame=items), ["hybrid.tune=false"])
    workspace.run(until="fit")
    assert not workspace.embeddings["k3"].any()
    assert len(workspace.index.similar("k3", k=3)) == 0
    assert len(workspace.hybrid.recommend(history=["k3"], k=3)[0]) == 3


def test_unknown_items_are_told_with_the_closest(finished_shop):
    workspace = Workspace.open(finished_shop)
    with pytest.raises(UnknownIdError, match="closest"):
        workspace.hybrid.explain("kk0", user="u01")
    with pytest.raises(UnknownIdError):
        workspace.graph.related("k99")


# ---- fine-tuning


def test_fine_tuning_sees_training_only_and_is_kept_only_where_it_wins(tmp_path):
    overrides = ["lora.enabled=true", "lora.n_pairs=64", "lora.batch_size=16", "encoder.precision=fp32"]
    workspace = Workspace.open(shop.write(tmp_path), overrides)
    with pytest.raises(StaleArtifactError, match="run: llm-tail finetune"):
        workspace.run_stage("embed")
    results = workspace.run(until="embed")
    assert "NDCG@20 of the texts alone on validation" in results[1].note
    facts = read_manifest(tmp_path / "run" / "encoder")["facts"]
    assert facts["pairs"]["n_events"] == len(workspace.split.train)
    quality = {label: mean(columns.values()) for label, columns in facts["validation_ndcg"].items()}
    assert set(quality) == {"base", *(f"{share:.0%}" for share in workspace.config.lora.strengths)}
    assert facts["kept"] == (max(quality.values()) > quality["base"]) == (facts["strength"] > 0)
    assert not facts["kept"] or quality[f"{facts['strength']:.0%}"] == max(quality.values())
    reopened = Workspace.open(tmp_path / "shop.toml", overrides)
    assert (reopened.encoder.adapter is not None) == facts["kept"]
    assert reopened.embeddings.encoder == reopened.encoder.fingerprint


def test_pre_training_comes_first_and_all_that_follows_is_made_from_it(tmp_path):
    overrides = ["pretrain.enabled=true", "pretrain.max_steps=2", "pretrain.max_tokens=16", "encoder.precision=fp32"]
    workspace = Workspace.open(shop.write(tmp_path), overrides)
    assert workspace.stages[:3] == ("audit", "pretrain", "embed")
    with pytest.raises(StaleArtifactError, match="run: llm-tail pretrain"):
        workspace.run_stage("embed")
    results = workspace.run(until="embed")
    assert results[1].note.startswith("TrainingLog(1 steps, loss ")  # 28 texts are less than a batch
    assert workspace.base_encoder.base_weights != workspace.source_encoder.base_weights
    assert workspace.encoder is workspace.base_encoder
    assert workspace.embeddings.encoder == workspace.encoder.fingerprint
    reopened = Workspace.open(tmp_path / "shop.toml", overrides)
    assert set(states(reopened.run(until="embed")).values()) == {"skipped"}
    assert reopened.base_encoder.fingerprint == workspace.base_encoder.fingerprint
    other = Workspace.open(tmp_path / "shop.toml", [*overrides, "pretrain.learning_rate=1e-4", "lora.enabled=true"])
    assert [name for name in other.stages if other.is_finished(name)] == ["audit"]
    assert other.fingerprint("finetune") != Workspace.open(
        tmp_path / "shop.toml", [*overrides, "lora.enabled=true"]
    ).fingerprint("finetune")
    plain = Workspace.open(tmp_path / "shop.toml", ["encoder.precision=fp32"])
    assert plain.base_encoder is plain.source_encoder and not plain.is_finished("embed")


def test_fine_tuning_on_top_of_pre_training(tmp_path):
    overrides = ["pretrain.enabled=true", "lora.enabled=true", "lora.n_pairs=32", "lora.batch_size=16"]
    config = shop.write(tmp_path)
    workspace = Workspace.open(config, overrides)
    workspace.run(until="finetune")
    assert verdict_of(workspace).labels[:2] == ("base", "source")
    tuned = Workspace.open(config, overrides).encoder
    assert tuned.base_weights == workspace.base_encoder.base_weights != workspace.source_encoder.base_weights


# ---- the record


def test_a_damaged_record_is_said(shop_copy):
    (shop_copy.parent / "run" / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorruptArtifactError, match=r"run\.json.*remove it"):
        Workspace.open(shop_copy)


@pytest.mark.parametrize("content", ['{"stages": {"embed": 5}, "models": {}, "digests": {}}', '{"stages": []}', "[]"])
def test_a_record_of_another_shape_is_said(shop_copy, content):
    (shop_copy.parent / "run" / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(CorruptArtifactError, match=r"run\.json.*remove it"):
        Workspace.open(shop_copy)


ASKED = {
    "audit": ("audit", "manifest.json"),
    "embed": ("embeddings", "shard-*"),
    "index": ("index", "vectors.safetensors"),
    "graph": ("graph", "edges.safetensors"),
    "fit": ("hybrid", "arrays.safetensors"),
    "evaluate": ("report", "report.json"),
}


@pytest.mark.parametrize("stage", ASKED)
@pytest.mark.parametrize("manifest", [False, True])
def test_what_is_damaged_is_mended_by_the_command_that_is_named(shop_copy, stage, manifest):
    asked, file = ASKED[stage]
    folder = Workspace.open(shop_copy)._path(stage)
    victim = next(folder.rglob("manifest.json" if manifest else file))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    command = f"run: llm-tail {stage} {shop_copy} --set seed=0"
    with pytest.raises((CorruptArtifactError, StaleArtifactError)) as caught:
        getattr(Workspace.open(shop_copy, ["seed=0"]), asked)
    assert str(caught.value).endswith(command) and str(folder) in str(caught.value)
    mended = Workspace.open(shop_copy)
    assert mended.run_stage(stage).state == "done"
    assert getattr(mended, asked) is not None
    assert set(states(Workspace.open(shop_copy).run()).values()) == {"skipped"}


def test_a_model_of_another_version_is_fitted_again_by_the_command_that_is_named(shop_copy):
    with write_artifact(
        shop_copy.parent / "run" / "models" / "hybrid", "recommender", "x", {"class": "HybridRecommender"}
    ):
        pass
    record = json.loads((shop_copy.parent / "run" / "run.json").read_text(encoding="utf-8"))
    del record["stages"]["fit"]["generation"]
    (shop_copy.parent / "run" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(StaleArtifactError, match=r"another version .*; run: llm-tail fit"):
        _ = Workspace.open(shop_copy).hybrid
    assert Workspace.open(shop_copy).run_stage("fit").state == "done"


def test_a_damaged_baseline_is_fitted_again(shop_copy):
    before = Workspace.open(shop_copy).model("ease").recommend(["u01"], k=3)[0]
    arrays = next((shop_copy.parent / "run" / "models" / "ease").rglob("arrays.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:-8])
    with pytest.warns(UserWarning, match=r"arrays\.safetensors is damaged .* ease is fitted again"):
        assert Workspace.open(shop_copy).model("ease").recommend(["u01"], k=3)[0] == before
    assert Workspace.open(shop_copy).model("ease").recommend(["u01"], k=3)[0] == before


def test_two_runs_in_one_folder_keep_what_the_other_finished(shop_copy):
    one, other = Workspace.open(shop_copy, ["graph.neighbors=3"]), Workspace.open(shop_copy, ["hybrid.neighbors=3"])
    assert one.run_stage("graph").state == "done"
    with pytest.raises(StaleArtifactError):
        other.run_stage("fit")  # the graph of its settings has been replaced meanwhile
    kept = RunRecord(shop_copy.parent / "run")
    other.run_stage("graph")
    assert "graph" in kept and Workspace.open(shop_copy).is_finished("graph")


def test_commands_that_are_named_carry_the_overrides(tmp_path):
    config = shop.write(tmp_path / "my shop")
    with pytest.raises(StaleArtifactError, match=r"llm-tail index '.*my shop/shop\.toml' --set folder=x --set seed=3"):
        _ = Workspace.open(config, ["folder=x", "seed=3"]).index


def test_an_interrupted_stage_is_not_taken_for_finished(shop_copy, monkeypatch):
    from llm_tail.neighbors.graph import ItemGraph

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ItemGraph, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Workspace.open(shop_copy, ["graph.neighbors=3"]).run()
    assert len(Workspace.open(shop_copy).graph) == 28  # an experiment that fails costs nothing that was there
    assert not Workspace.open(shop_copy, ["graph.neighbors=3"]).is_finished("graph")
    again = states(Workspace.open(shop_copy, ["graph.neighbors=3"]).run(until="graph"))
    assert again == {"audit": "skipped", "embed": "skipped", "index": "skipped", "graph": "done"}


def test_the_record_keeps_what_stages_cost(finished_shop):
    kept = json.loads((finished_shop.parent / "run" / "run.json").read_text(encoding="utf-8"))
    assert set(kept["stages"]) == set(STAGES) - {"enrich", "pretrain", "finetune"}
    assert all(entry["seconds"] > 0 and entry["peak_mb"] > 10 for entry in kept["stages"].values())
    assert set(kept["models"]) >= {"popularity", "ease"}
