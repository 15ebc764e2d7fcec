"""The words of a run: kept beside the hybrid that heard them, and never taken for those of another."""

import pytest

from llm_tail import Workspace
from llm_tail.errors import StaleArtifactError
from llm_tail.recommenders.hybrid import HybridRecommender
from llm_tail.workspace.wording import learn_words, word_encoder_of
from tests import shop

HEARD = ["hybrid.tune=false", "hybrid.learn=false", "hybrid.word_share=0.4"]


@pytest.fixture
def config(tmp_path):
    path = shop.write(tmp_path)
    Workspace.open(path, HEARD).run(until="fit")
    return path


def test_new_items_are_counted_as_the_old_ones_were(config):
    workspace = Workspace.open(config, HEARD)
    texts = workspace.item_text.texts(workspace.catalog)
    kept, learned = word_encoder_of(workspace), learn_words(workspace)
    assert workspace.hybrid.hears_words and kept.fingerprint == learned.fingerprint
    assert (kept.encode(texts) == learned.encode(texts)).all()


def test_switched_off_nothing_is_counted_and_nothing_stays(config):
    off = [*HEARD[:2], "hybrid.word_share=0"]
    Workspace.open(config, off).run(until="fit")
    workspace = Workspace.open(config, off)
    assert learn_words(workspace) is None and word_encoder_of(workspace) is None
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
        word_encoder_of(Workspace.open(config, HEARD))
    Workspace.open(config, HEARD).run(until="fit")  # what was stale is made anew
    assert word_encoder_of(Workspace.open(config, HEARD)) is not None
