"""What a run is asked: by an item or a text, by meaning or by words, and only what a filter lets through."""

import pytest

from llm_tail.errors import DataError
from llm_tail.workspace import Workspace
from llm_tail.workspace.asking import passing


@pytest.fixture(scope="module")
def workspace(finished_shop):
    return Workspace.open(finished_shop)


def test_an_item_is_asked_by_its_vector_unless_words_are_wanted(workspace):
    assert workspace.similar("k0", 5).item_ids == workspace.index.similar("k0", 5).item_ids
    both = workspace.similar("k0", 5, how="both")
    assert "k0" not in both.item_ids and len(both) == 5 and both.how == "both"
    assert "k0" not in workspace.similar("k0", 5, how="words").item_ids


def test_a_text_is_asked_by_both_unless_one_is_wanted(workspace):
    title = workspace.catalog.title("k0")
    assert workspace.similar(title, 5).how == "both"
    assert workspace.similar(title, 5, how="words").item_ids[0] == workspace.words.search(title).item_ids[0]
    assert workspace.similar(title, 5, how="vectors").vector_ranks.tolist() == [1, 2, 3, 4, 5]
    assert len(workspace.words) == len(workspace.catalog)


def test_only_what_passes_every_filter_is_found(workspace):
    cold = {x for x, name in zip(workspace.catalog.ids, workspace.segments.labels(), strict=True) if name == "cold"}
    assert set(passing(workspace, "segment = cold")) == cold
    assert set(passing(workspace, ["segment = cold", "item_id contains k"])) == {x for x in cold if "k" in x}
    for how in ("vectors", "words", "both"):
        for asked in ("k0", "a frying pan"):
            assert set(workspace.similar(asked, 50, where="segment = cold", how=how).item_ids) <= cold
    assert len(workspace.similar("k0", where="title = none")) == 0


def test_wrong_questions_are_refused(workspace):
    with pytest.raises(DataError, match="did you mean 'words'"):
        workspace.similar("k0", how="word")
    with pytest.raises(DataError, match="no such column; the closest are: title"):
        workspace.similar("k0", where="titel = x")
    with pytest.raises(DataError, match="k is 0"):
        workspace.similar("pan", 0)
    with pytest.raises(DataError, match="empty text"):
        workspace.similar(" ")
