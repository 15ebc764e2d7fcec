"""The words of a run: kept beside the hybrid that heard them, and never taken for those of another."""

import pytest

from llm_tail import Workspace
from llm_tail.data.catalog import Item
from llm_tail.errors import DataError, StaleArtifactError
from llm_tail.recommenders.hybrid import HybridRecommender
from llm_tail.workspace.wording import kept_words, learn_words, word_columns
from tests import shop

HEARD = ["hybrid.tune=false", "hybrid.learn=false", "hybrid.word_share=0.4"]


@pytest.fixture
def config(tmp_path):
    path = shop.write(tmp_path)
    Workspace.open(path, HEARD).run(until="fit")
    return path


def test_new_items_are_counted_as_the_old_ones_were(config):
    workspace = Workspace.open(config, HEARD)
    kept, learned = kept_words(workspace), learn_words(workspace)
    assert workspace.hybrid.hears_words and kept.encoder.fingerprint == learned.encoder.fingerprint
    counted = kept.of_catalog(workspace.catalog)
    assert (counted == learned.of_catalog(workspace.catalog)).all()
    assert (counted == kept.of_items(list(workspace.catalog))).all()


def test_switched_off_nothing_is_counted_and_nothing_stays(config):
    off = [*HEARD[:2], "hybrid.word_share=0"]
    Workspace.open(config, off).run(until="fit")
    workspace = Workspace.open(config, off)
    assert learn_words(workspace) is None and kept_words(workspace) is None
    assert not (workspace.folder / "models" / "hybrid" / "words").exists()


def test_a_fit_that_was_cut_off_leaves_no_words_that_pass_for_others(config, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    other = [*HEARD, 'text.fields=["title"]']
    with monkeypatch.context() as patch:
        patch.setattr(HybridRecommender, "save", full)
        with pytest.raises(OSError, match="no space"):
            Workspace.open(config, other).run(until="fit")
    Workspace.open(config, HEARD).run(until="index")
    with pytest.raises(StaleArtifactError, match="llm-tail fit"):
        kept_words(Workspace.open(config, HEARD))
    Workspace.open(config, HEARD).run(until="fit")  # what was stale is made anew
    assert kept_words(Workspace.open(config, HEARD)) is not None


def test_what_items_share_is_counted_with_what_they_say(config):
    workspace = Workspace.open(config, HEARD)
    assert word_columns(workspace) == ["category", "brand"]  # tied by the graph, and shared by many
    plain = Workspace.open(config, [*HEARD, "hybrid.word_fields=[]"])
    assert word_columns(plain) == [] and plain.fingerprint("fit") != workspace.fingerprint("fit")
    brand = kept_words(workspace).text.of(Item("x", "Kettle", "", {"category": "kitchen", "brand": "Halcyon"}))
    assert brand == "kitchen. Halcyon. Kettle"
    newcomer = Item("x", "", "", {"brand": "Halcyon"})
    assert kept_words(workspace).of_items([newcomer]).any() and not learn_words(plain).of_items([newcomer]).any()


def test_columns_are_found_without_a_graph_and_named_by_hand(config):
    assert word_columns(Workspace.open(config, ["graph.relations=[]"])) == ["category", "brand"]
    settings = ['hybrid.word_fields=["brand", "title"]', 'text.fields=["title", "category"]']
    assert word_columns(Workspace.open(config, settings)) == ["brand"]


def test_a_column_that_is_not_there_is_said_before_all_else(config):
    with pytest.raises(DataError, match=r"\[hybrid\] word_fields names 'brnd'.*did you mean 'brand'"):
        Workspace.open(config, ['hybrid.word_fields=["auto", "brnd"]']).run()
