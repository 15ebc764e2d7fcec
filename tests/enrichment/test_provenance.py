import numpy as np
import pytest

from llm_tail.data.books import load_books
from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import split_cold_items, split_leave_last_out
from llm_tail.enrichment.asking import Asker
from llm_tail.enrichment.enrich import enrich
from llm_tail.enrichment.openai import OpenAiBackend
from llm_tail.enrichment.prompts import PromptLibrary
from llm_tail.enrichment.provenance import (
    check_provenance,
    event_hashes,
    training_histories,
    visible_columns,
)
from llm_tail.enrichment.result import Enrichment, Generated, Provenance
from llm_tail.errors import ConfigError, DataError

from .conftest import settings
from .test_prompts import Nobody


@pytest.fixture(scope="module")
def cut():
    catalog, events = load_books()
    return catalog, events, split_leave_last_out(events, catalog)


def columns(catalog, **values):
    config = settings(**values)
    return visible_columns(catalog, [PromptLibrary().get("summary", config.domain, "en")], config)


SHOP = Catalog.from_items(
    [
        {
            "item_id": "a",
            "title": "Pan",
            "tags": ["gift", "loved"],
            "review_text": "bought it twice",
            "brand": "",
            "rank": 3,
        }
    ]
)


def test_the_domain_says_which_columns_are_read():
    assert columns(SHOP, domain="products") == ("title",)
    assert columns(SHOP, fields=["title", "rank"]) == ("title", "rank")


@pytest.mark.parametrize("name", ["tags", "review_text"])
def test_what_users_wrote_is_off_unless_asked_for(name):
    with pytest.raises(
        ConfigError, match=rf"{name}, which users seem to have written; .* R@20 of \.344 and \.445 .* \.279"
    ):
        columns(SHOP, fields=["title", name])
    with pytest.warns(UserWarning, match=rf"prompts see {name}; .*\.344"):
        assert columns(SHOP, fields=["title"], allow_fields=[name]) == ("title", name)
    with pytest.warns(UserWarning, match="prompts see"):
        assert columns(SHOP, fields=["title", name], allow_fields=[name]) == ("title", name)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"fields": ["titel"]}, "names the column 'titel', and no item has it; did you mean 'title'"),
        ({"fields": ["brand"]}, "names the column 'brand', and it is empty for every item"),
        ({"allow_fields": ["tagz"]}, "did you mean 'tags'"),
        ({"domain": "news", "fields": ["description"]}, "empty for every item"),
    ],
)
def test_columns_that_hold_nothing_are_named(values, said):
    with pytest.raises(DataError, match=said):
        columns(SHOP, **values)


def test_a_catalogue_without_words_is_an_error():
    with pytest.raises(DataError, match="no item has anything in title"):
        columns(Catalog.from_items([{"item_id": "a", "price": 3}]), domain="products")


# ---- interactions


def test_histories_hold_training_alone(cut):
    _, _, split = cut
    histories = training_histories(split.train, split, ["reader-0001", "nobody"], n_latest=4)
    (history,) = histories
    mine = split.train.where(split.train.user_rows == split.train.users.row("reader-0001"))
    assert list(history.item_rows) == mine.item_rows[mine.order()][-4:].tolist()
    assert set(history.events) <= {f"{h:016x}" for h in event_hashes(split.train).tolist()}
    assert len(training_histories(split.train, split)) == len(np.unique(split.train.user_rows))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_prompt_that_could_see_what_is_held_out_fails(part, cut):
    _, events, split = cut
    with pytest.raises(DataError, match=rf"would see {len(getattr(split, part)):,} interactions .* of {part}"):
        training_histories(getattr(split, part), split)
    with pytest.raises(DataError, match=r"that are not of training \(.* of validation, .* of test\)"):
        training_histories(events, split)


def test_a_generated_text_that_has_seen_another_split_fails(cut):
    catalog, events, split = cut
    (history,) = training_histories(split.train, split, ["reader-0002"])
    seen = Provenance(events=history.events, backend="openai")
    made = Enrichment.from_parts([Generated("reader-0002", "profile", "likes the sea", provenance=seen)])
    check_provenance(made, split)
    other = split_cold_items(events, catalog, cold_share=0.4, seed=3)
    with pytest.raises(DataError, match=r"a generated text would see .* not of training"):
        check_provenance(made, other)


def test_the_digest_of_an_event_is_its_own(cut):
    _, events, _ = cut
    hashes = event_hashes(events)
    assert len(np.unique(hashes)) == len(events)
    turned = events.where(np.arange(len(events))[::-1])
    np.testing.assert_array_equal(event_hashes(turned), hashes[::-1])
    pairs = Interactions.from_pairs([("a", "x"), ("b", "x")])
    others = Interactions.from_pairs([("b", "x"), ("c", "y"), ("a", "x")])
    assert set(event_hashes(pairs).tolist()) <= set(event_hashes(others).tolist())


def test_profiles_and_relations_say_what_they_saw(serve, cut, tmp_path):
    catalog, _, split = cut
    mind = serve()
    few = catalog.take(range(4))
    config = settings(tasks=["relations", "profile"])
    candidates = np.array([[1, 2, -1], [0, 1, 2], [3, 0, 1], [-1, -1, -1]])
    histories = training_histories(split.train, split, ["reader-0001", "reader-0002"])
    own = [type(h)(h.user_id, (0, 2), h.events[:2]) for h in histories]
    found = enrich(few, OpenAiBackend(config), config, folder=tmp_path, candidates=candidates, histories=own)
    ties = found.enrichment.relations()
    assert set(ties["item_id"]) == set(few.ids.values[:3])
    assert all(target in few.ids for target in ties["target"]) and (ties["item_id"] != ties["target"]).all()
    assert ties[ties["item_id"] == few.ids[0]]["target"].tolist() == [few.ids[1], few.ids[2]]
    profile = found.enrichment.of("reader-0001", "profile")
    assert [part.name for part in profile] == ["", "like"]
    assert profile[0].provenance.events == own[0].events
    assert profile[0].provenance.items == (few.ids[0], few.ids[2])
    sent = "".join(body["messages"][1]["content"] for body in mind.log)
    assert "reader-0001" not in sent and few.ids[0] not in sent, "prompts hold labels and words, and no ids"
    check_provenance(found.enrichment, split)


def test_an_asker_never_shows_what_it_may_not():
    items = [{"item_id": "a", "title": "Pan", "tags": ["secret word"], "ratings": 5}]
    (request,) = Asker(Catalog.from_items(items), settings(domain="products"), Nobody())
    assert request.fields == {"title": "Pan"}
