"""What becomes of generated fields in a run: texts, ties, pairs; and that all of them can be dropped."""

import pytest

from llm_tail.errors import ConfigError, DataError
from llm_tail.workspace import Workspace
from llm_tail.workspace.training import make_pairs
from tests import shop

GENERATED = """
[encoder]
runtime = "tfidf"
[enrichment]
enabled = true
tasks = ["attributes"]
extracts = ["keyphrases", "borrowed"]
[text]
fields = ["title", "description", "generated_attributes"]
"""


def config_of(folder):
    """Write a shop whose graph is tied by generated values too."""
    path = shop.write(folder, extra=GENERATED)
    tied = path.read_text().replace('["category", "brand"]', '["brand", "generated_attributes"]')
    path.write_text(tied)
    return path


@pytest.fixture(scope="module")
def enriched(tmp_path_factory):
    workspace = Workspace.open(config_of(tmp_path_factory.mktemp("enriched")))
    workspace.run(until="graph")
    return workspace


def test_texts_hold_what_was_generated(enriched):
    [text] = enriched.item_text.texts(enriched.catalog.take([0]))
    said = enriched.enrichment.of("k0", "attributes")
    assert said and all(part.value in text for part in said)
    assert enriched.source_catalog.columns == ["item_id", "title", "description", "category", "brand"]


def test_ties_of_generated_values_are_relations_of_their_own(enriched):
    relations = enriched.graph.relations
    assert "brand" in relations and "generated_attributes" not in relations
    assert [name for name in relations if name.startswith("generated:")]


def test_questions_and_keyphrases_make_pairs(enriched):
    lora = enriched.config.lora.replace(pairs=["question"])
    pairs, missing = make_pairs(enriched, enriched.split, lora)
    assert pairs.provenance["kinds"] == {"question": len(pairs)} and len(pairs) > 10 and not missing


def test_without_enrichment_there_are_no_questions(tmp_path):
    workspace = Workspace.open(shop.write(tmp_path), overrides=["encoder.runtime=tfidf"])
    with pytest.raises((ConfigError, DataError), match=r"\[enrichment\] enabled = true"):
        make_pairs(workspace, workspace.split, workspace.config.lora.replace(pairs=["question"]))


def test_one_setting_drops_all_of_it(tmp_path):
    dropped = Workspace.open(config_of(tmp_path), overrides=["enrichment.use=false"])
    dropped.run(until="graph")
    assert dropped.graph.relations == ["similar", "brand", "taken_together"]
    assert dropped.catalog.columns == dropped.source_catalog.columns
    assert dropped.item_text.config.fields == ["title", "description"]
