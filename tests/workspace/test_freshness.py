"""Files that are replaced while a workspace holds what it has read of them."""

import os

import pytest

from llm_tail.errors import StaleArtifactError
from llm_tail.workspace import Workspace
from llm_tail.workspace.stages import MAKERS
from tests import shop


def write_items(config, title="Wok"):
    items = shop.items()
    items.loc[0, "title"] = title
    items.to_csv(config.parent / "items.csv", index=False)


def write_events(config, n_users=24):
    shop.events(n_users).to_csv(config.parent / "events.csv", index=False)


def changing(monkeypatch, stage, change):
    """Let a stage change a file of its own run after it has made its result."""
    make = MAKERS[stage]

    def made(workspace, folder, made_from):
        told = make(workspace, folder, made_from)
        change()
        return told

    monkeypatch.setitem(MAKERS, stage, made)


def test_a_model_is_fitted_on_the_events_that_it_is_recorded_for(shop_copy):
    workspace = Workspace.open(shop_copy)
    before = len(workspace.split.train)
    write_events(shop_copy)
    model = workspace.model("popularity")
    assert len(workspace.split.train) < before
    assert model.histories.nnz == len(workspace.split.train)
    later = Workspace.open(shop_copy)
    assert later.model("popularity").histories.nnz == len(later.split.train)
    assert later.keys.split == workspace.keys.split


def test_a_model_that_was_fitted_before_is_not_given_for_other_events(shop_copy):
    workspace = Workspace.open(shop_copy)
    old = workspace.model("popularity")
    assert workspace.model("popularity") is old
    write_events(shop_copy)
    assert workspace.model("popularity").histories.nnz < old.histories.nnz
    with pytest.raises(StaleArtifactError, match="'fit' was made from other data or settings"):
        workspace.model()


def test_a_stage_is_made_from_the_items_that_it_is_recorded_for(shop_copy):
    workspace = Workspace.open(shop_copy)
    assert workspace.source_catalog["k0"].title == "Frying pan"
    seen = workspace.split, workspace.embeddings
    write_items(shop_copy)
    assert workspace.run_stage("audit").state == "done"
    assert workspace.source_catalog["k0"].title == "Wok"
    assert workspace.split is not seen[0] and "embeddings" not in workspace.__dict__
    workspace.run()
    assert workspace.catalog["k0"].title == "Wok" and workspace.embeddings.ids == workspace.catalog.ids


def test_where_a_stage_is_finished_for_the_new_files_the_old_ones_are_dropped_too(shop_copy):
    write_events(shop_copy)
    Workspace.open(shop_copy).run_stage("audit")
    write_events(shop_copy, 48)
    workspace = Workspace.open(shop_copy)
    before = len(workspace.split.train)
    write_events(shop_copy)
    assert workspace.run_stage("audit").state == "skipped"
    assert len(workspace.split.train) < before


@pytest.mark.parametrize("stage", ["audit", "fit", "evaluate"])
def test_a_change_during_a_stage_leaves_it_unfinished(shop_copy, monkeypatch, stage):
    workspace = Workspace.open(shop_copy, ["seed=3"])
    if stage != "audit":
        workspace.run(until="graph" if stage == "fit" else "fit")
    with monkeypatch.context() as patch:
        changing(patch, stage, lambda: write_events(shop_copy))
        with pytest.raises(StaleArtifactError, match=rf"events\.csv changed while '{stage}' .* the same command again"):
            workspace.run_stage(stage)
    for one in (workspace, Workspace.open(shop_copy, ["seed=3"])):
        assert not one.is_finished(stage) and stage not in one.record
    assert {result.name: result.state for result in workspace.run()}[stage] == "done"
    assert workspace.hybrid.histories.nnz == len(Workspace.open(shop_copy, ["seed=3"]).split.train)


def test_a_change_that_is_taken_back_does_not_revive_a_result(shop_copy, monkeypatch):
    old = shop.items()["title"][0]
    write_items(shop_copy)
    with monkeypatch.context() as patch:
        changing(patch, "audit", lambda: write_items(shop_copy, old))
        with pytest.raises(StaleArtifactError, match=r"items\.csv changed while 'audit' was running"):
            Workspace.open(shop_copy).run_stage("audit")
    assert Workspace.open(shop_copy).run_stage("audit").state == "done"


def test_a_change_while_a_baseline_is_fitted_leaves_it_unfinished(shop_copy, monkeypatch):
    from llm_tail.recommenders.baselines import Popularity

    workspace, save = Workspace.open(shop_copy, ["seed=3"]), Popularity.save

    def saved(model, folder):
        save(model, folder)
        write_events(shop_copy)

    with monkeypatch.context() as patch:
        patch.setattr(Popularity, "save", saved)
        with pytest.raises(StaleArtifactError, match=r"events\.csv changed while 'popularity' was running"):
            workspace.model("popularity")
    assert workspace.model("popularity").histories.nnz == len(workspace.split.train)
    assert len(workspace.split.train) == len(Workspace.open(shop_copy, ["seed=3"]).split.train)


def test_a_file_that_a_stage_is_not_made_from_may_change_meanwhile(shop_copy, monkeypatch):
    changing(monkeypatch, "embed", lambda: write_events(shop_copy))
    workspace = Workspace.open(shop_copy, ["embedding.storage=float16"])
    assert workspace.run_stage("embed").state == "done" and workspace.is_finished("embed")


def test_a_touched_file_is_read_again_and_nothing_is_made_again(shop_copy, monkeypatch):
    changing(monkeypatch, "graph", lambda: os.utime(shop_copy.parent / "items.csv", (1, 1)))
    workspace = Workspace.open(shop_copy, ["graph.neighbors=3"])
    assert workspace.run_stage("graph").state == "done"
    assert workspace.run_stage("graph").state == "skipped"


def test_what_has_not_changed_is_read_once(shop_copy):
    workspace = Workspace.open(shop_copy, ["graph.neighbors=3"])
    held = workspace.source_catalog, workspace.split, workspace.source_encoder
    workspace.run()
    workspace.model("popularity")
    assert (workspace.source_catalog, workspace.split, workspace.source_encoder) == held
    write_events(shop_copy)
    workspace.run_stage("audit")
    assert workspace.source_encoder is held[2] and workspace.split is not held[1]
