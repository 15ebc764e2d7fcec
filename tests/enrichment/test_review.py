import json

import pytest

from llm_tail.enrichment.cache import AnswerCache
from llm_tail.enrichment.enrich import enrich
from llm_tail.enrichment.openai import OpenAiBackend
from llm_tail.enrichment.review import Review
from llm_tail.errors import ConfigError, DataError, UnknownIdError

from .conftest import settings

GOOD = json.dumps({"summary": "A person wrote this one by hand, for those who asked.", "confidence": 1.0})


@pytest.fixture
def shelf(serve, books, tmp_path):
    """Ten books of which two answers were set aside: one for its price, one for its lack of words."""
    few = books.take(range(10))
    mind = serve(plan={few.titles[1]: ["price", "price"], few.titles[2]: ["empty", "empty"]})
    config = settings()

    def run():
        return enrich(few, OpenAiBackend(config), config, folder=tmp_path)

    run()
    with AnswerCache(tmp_path) as cache:
        yield few, Review(few, config, cache), run, mind


def test_what_was_set_aside_is_shown_with_its_reason(shelf):
    few, review, _, _ = shelf
    priced, empty = sorted(review.cases("aside"), key=lambda case: few.ids.row(case.item_id))
    assert (priced.title, priced.task, priced.state) == (few.titles[1], "summary", "aside")
    assert "holds a price" in priced.reason and "$4.99" in priced.words
    assert empty.reason == "the answer is empty" and empty.words == ""
    assert len(list(review.cases("kept"))) == 8 and len(review.samples(3)) == 3
    assert review.samples(3) == review.samples(5)[:3] and not list(review.cases("decided"))


def test_decisions_win_over_checks_and_stay(shelf):
    few, review, run, mind = shelf
    n_asked = len(mind.log)
    review.decide(f"{few.ids[1]}/summary", "accept")
    review.decide(review.get(f"{few.ids[2]}/summary").key[:8], "edit", GOOD)
    review.decide(f"{few.ids[3]}/summary", "reject")
    for _ in range(2):
        found = run()
        assert (found.n_kept, found.n_aside, found.n_new) == (9, 1, 0) and len(mind.log) == n_asked
        (priced,) = found.enrichment.of(few.ids[1])
        assert "$4.99" in priced.value and priced.provenance.reviewed == "accepted"
        (edited,) = found.enrichment.of(few.ids[2])
        assert edited.value.startswith("A person wrote") and edited.provenance.reviewed == "edited"
        assert not found.enrichment.of(few.ids[3])
    assert {case.verdict for case in review.cases("decided")} == {"accept", "edit", "reject"}
    for case in list(review.cases("decided")):
        assert review.undo(case.key).verdict == ""
    assert run().n_kept == 8


def test_asking_again_asks_once(shelf):
    few, review, run, mind = shelf
    n_asked = len(mind.log)
    review.decide(f"{few.ids[2]}/summary", "ask-again")
    assert run().n_kept == 9 and len(mind.log) == n_asked + 1
    assert review.get(f"{few.ids[2]}/summary").verdict == ""
    assert run().n_new == 0
    names = [head["idempotency-key"] for head in mind.headers]
    assert len(names) == len(set(names)), "each time it is another question to the server"


def test_what_has_no_form_is_not_accepted(shelf):
    few, review, _, _ = shelf
    with pytest.raises(DataError, match=f"{few.ids[2]}/summary cannot be used like this: the answer is empty"):
        review.decide(f"{few.ids[2]}/summary", "accept")
    with pytest.raises(DataError, match="cannot be used like this: the answer breaks its form"):
        review.decide(f"{few.ids[2]}/summary", "edit", '{"summary": 3}')
    assert not list(review.cases("decided"))


def test_names_that_lead_nowhere(shelf):
    few, review, _, _ = shelf
    with pytest.raises(UnknownIdError, match=f"no answer has the id '{few.ids[1]}/sumary'; the closest are"):
        review.get(f"{few.ids[1]}/sumary")
    with pytest.raises(UnknownIdError):
        review.get("zz")
    with pytest.raises((UnknownIdError, ConfigError)):
        review.get("")
