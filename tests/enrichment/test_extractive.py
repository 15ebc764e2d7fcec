import json

import numpy as np
import pytest

from llm_tail.data.catalog import Catalog
from llm_tail.embedding.text import ItemText
from llm_tail.embedding.tfidf import TfidfEncoder
from llm_tail.enrichment.backends import Backend, Reply, Request
from llm_tail.enrichment.extractive import PARTS, Extractive
from llm_tail.enrichment.schema import Attributes, Summary
from llm_tail.errors import ConfigError, DataError

WORDS = {
    "pan": "cast iron skillet for the stove and the oven, seasoned by hand, heavy and even in its heat, for kitchens",
    "hammer": "claw and forged head with a handle of ash for nails and boards, a tool of the workshop and the roof",
    "novel": "a story of love and loss in a small village, told in letters between two sisters and a captain at sea",
    "globe": "a map of the earth that turns, with mountains and rivers drawn in colour, lit from inside, for desks",
}


def shop():
    """Four kinds of goods; items of few words ("thin") have no kind, one has no words at all."""
    rows = [
        {"item_id": f"{kind}{i}", "title": f"{kind} {i}", "description": f"{words} model {i}", "kind": kind}
        for i in range(30)
        for kind, words in WORDS.items()
    ]
    rows += [{"item_id": f"thin-{kind}", "title": f"the {kind} of all the {kind}s"} for kind in WORDS]
    return Catalog.from_items([*rows, {"item_id": "mute"}])


CATALOG = shop()
ENCODER = TfidfEncoder.fit(ItemText().texts(CATALOG), dim=16)


def learned():
    return Extractive.learn(CATALOG, ENCODER, parts=PARTS, thin_words=10, min_similarity=0.1)


def request(item_id, task="attributes"):
    return Request(key=f"{task} {item_id}", task=task, subject=item_id, domain="products", language="en", fields={})


@pytest.fixture(scope="module")
def backend():
    return learned()


def answer(backend, *requests):
    replies = {reply.key: reply for reply in backend.answer(iter(requests))}
    assert set(replies) == {one.key for one in requests}
    return [replies[one.key] for one in requests]


def test_it_is_a_backend_and_costs_nothing(backend):
    assert isinstance(backend, Backend) and not backend.costs and backend.extracts
    backend.check()
    json.dumps(backend.settings)


def test_every_answer_has_the_form_that_is_asked_for(backend):
    ids = list(CATALOG.ids)[:-1]  # the last has no words
    for reply in answer(backend, *map(request, ids)):
        assert Attributes.model_validate_json(reply.text)
    for reply in answer(backend, *(request(item_id, "summary") for item_id in ids[:20])):
        assert Summary.model_validate_json(reply.text)


def test_a_thin_item_gets_its_kind_and_words_of_its_neighbours_with_who_lent_them(backend):
    [reply] = answer(backend, request("thin-pan"))
    found = Attributes.model_validate_json(reply.text).attributes
    assert [(one.value, one.basis) for one in found if one.name == "kind"] == [("pan", "guess")]
    lent = [one for one in found if one.basis == "borrowed"]
    assert {"skillet", "oven"} & {one.value for one in lent}
    assert reply.borrowed and all(item_id.startswith("pan") for item_id in reply.borrowed)
    assert all(one.value not in ("pan", "pans") for one in lent)


def test_an_item_that_has_words_borrows_none_and_keeps_its_own_kind(backend):
    [reply] = answer(backend, request("hammer0"))
    found = Attributes.model_validate_json(reply.text).attributes
    assert {one.basis for one in found} == {"text"} and not reply.borrowed


def test_a_summary_is_what_the_item_says_and_borrowed_words_only_where_it_says_nothing(backend):
    long, thin, mute = answer(backend, *(request(i, "summary") for i in ("pan0", "thin-pan", "mute")))
    assert json.loads(long.text)["summary"].startswith("pan 0: cast iron skillet") and not long.borrowed
    assert "the pan of all the pans: " in json.loads(thin.text)["summary"] and thin.borrowed
    assert mute.error and not mute.text


def test_other_tasks_and_unknown_items_are_refused(backend):
    [reply] = answer(backend, request("pan0", "intents"))
    assert "attributes and summary, not intents" in reply.error
    with pytest.raises(DataError, match="'nobody' was not in the catalogue"):
        list(backend.answer([request("nobody")]))


def test_parts_can_be_left_out():
    only = Extractive.learn(CATALOG, ENCODER, parts=["keyphrases"])
    [reply] = answer(only, request("thin-pan"))
    assert {one.name for one in Attributes.model_validate_json(reply.text).attributes} == {"keyphrase"}
    assert repr(only) == "Extractive(125 items, keyphrases; Taxonomy(nothing))"
    with pytest.raises(ConfigError, match="expected some of keyphrases"):
        Extractive.learn(CATALOG, ENCODER, parts=["phrases"])


def test_an_item_answers_alone_as_among_others_and_again(backend):
    together = answer(backend, *map(request, CATALOG.ids))
    again = learned()
    assert again.settings == backend.settings
    for one in together[::9]:
        item_id = one.key.split()[1]
        assert answer(again, request(item_id)) == [one]


def test_another_catalogue_is_another_key(backend):
    other = Extractive.learn(CATALOG.take(np.arange(20)), ENCODER)
    assert other.settings["catalog"] != backend.settings["catalog"]
    assert all(isinstance(reply, Reply) for reply in other.answer([request("pan0")]))
