import pytest

from llm_tail.data.catalog import Catalog
from llm_tail.enrichment.result import Enrichment, Generated, Provenance
from llm_tail.errors import ConfigError
from llm_tail.neighbors.generated import PREFIX, why_tied, with_generated, without_generated
from llm_tail.neighbors.graph import ItemGraph

ROWS = [
    {"item_id": "emma", "title": "Emma", "author": "Austen", "kind": "novel"},
    {"item_id": "persuasion", "title": "Persuasion", "author": "Austen", "kind": "novel"},
    {"item_id": "dune", "title": "Dune", "author": "Herbert", "kind": None},
    {"item_id": "pan", "title": "A pan", "author": "", "kind": "tool"},
]
CATALOG = Catalog.from_items(ROWS)
GRAPH = ItemGraph.build(CATALOG, relations=["author"])
LENT = Provenance(backend="extractive", borrowed=("emma",))
PARTS = [
    Generated("dune", "attributes", "novel", name="kind", confidence=0.9, basis="guess"),
    Generated("dune", "attributes", "epic", name="mood", confidence=0.9),
    Generated("emma", "attributes", "Epic", name="mood", confidence=0.7, basis="borrowed", provenance=LENT),
    Generated("pan", "attributes", "epic", name="mood", confidence=0.2),
    Generated("gone", "attributes", "epic", name="mood"),
    Generated("dune", "relations", "both are long", "complement", "persuasion", 0.8),
    Generated("persuasion", "relations", "read it first", "complement", "dune", 0.6),
    Generated("dune", "relations", "of itself", "sequel", "dune", 0.9),
    Generated("dune", "relations", "who knows", "substitute", "gone", 0.9),
]
ENRICHMENT = Enrichment.from_parts(PARTS)


@pytest.fixture
def graph():
    return with_generated(GRAPH, ENRICHMENT, CATALOG)


def ends(graph, relation):
    coo = graph.matrix(relation).tocoo()
    return {frozenset((graph.ids[int(a)], graph.ids[int(b)])) for a, b in zip(coo.row, coo.col, strict=True)}


def test_each_kind_of_tie_is_a_relation_of_its_own(graph):
    assert graph.relations == ["author", "generated:kind", "generated:mood", "generated:complement"]
    assert ends(graph, "generated:mood") == {frozenset(("dune", "emma"))}
    assert graph.neighbors("persuasion", "generated:complement") == [("dune", pytest.approx(0.8))]


def test_a_guess_ties_to_those_that_have_the_value_and_not_these_to_each_other(graph):
    assert ends(graph, "generated:kind") == {frozenset(("dune", "emma")), frozenset(("dune", "persuasion"))}
    assert "generated:kind" not in with_generated(GRAPH, ENRICHMENT).relations  # nobody to tie to without the column


def test_what_is_not_sure_ties_nothing():
    assert with_generated(GRAPH, ENRICHMENT, CATALOG, min_confidence=0.95).relations == ["author"]
    assert frozenset(("dune", "pan")) in ends(with_generated(GRAPH, ENRICHMENT, min_confidence=0.1), "generated:mood")
    with pytest.raises(ConfigError, match="min_confidence is 2"):
        with_generated(GRAPH, ENRICHMENT, min_confidence=2)


def test_the_other_ties_stay_as_they_are_and_all_that_was_generated_can_be_dropped(graph):
    assert (graph.matrix("author") != GRAPH.matrix("author")).nnz == 0
    assert without_generated(graph).fingerprint() == GRAPH.fingerprint()
    assert with_generated(graph, ENRICHMENT, CATALOG).fingerprint() == graph.fingerprint()


def test_a_path_names_the_relation_and_the_word(graph):
    [step] = graph.path("dune", "emma")
    assert step.relation.startswith(PREFIX) and step.value in ("novel", "epic", "Epic")


def test_why_two_items_are_tied_with_who_said_so():
    mood = why_tied(ENRICHMENT, "dune", "emma")
    assert {(part.item_id, part.value.lower()) for part in mood} == {("dune", "epic"), ("emma", "epic")}
    assert any(part.provenance.borrowed == ("emma",) for part in mood)
    assert {part.value for part in why_tied(ENRICHMENT, "persuasion", "dune")} == {"both are long", "read it first"}
    assert why_tied(ENRICHMENT, "pan", "persuasion") == []
    guessed = why_tied(ENRICHMENT, "persuasion", "dune", CATALOG)[-1]
    assert (guessed.item_id, guessed.name, guessed.value) == ("dune", "kind", "novel")


def test_rare_names_share_a_relation():
    parts = [Generated(i, "attributes", "same", name=f"name {n}") for n in range(20) for i in ("emma", "dune")]
    graph = with_generated(GRAPH, Enrichment.from_parts(parts))
    assert len([r for r in graph.relations if r.startswith(PREFIX)]) == 13 and "generated:other" in graph.relations


def test_they_survive_disk_and_growth(graph, tmp_path):
    again = ItemGraph.load(graph.save(tmp_path / "graph"))
    assert again.fingerprint() == graph.fingerprint() and again.path("dune", "emma") == graph.path("dune", "emma")
    more = Catalog.from_items([{"item_id": "new", "title": "New", "author": "Austen"}, *ROWS[:3]])
    grown = graph.upsert(more)
    assert ends(grown, "generated:kind") == ends(graph, "generated:kind") and "pan" not in grown
    assert grown.path("dune", "emma")[0].value == graph.path("dune", "emma")[0].value


def test_an_empty_enrichment_changes_nothing():
    assert with_generated(GRAPH, Enrichment.from_parts([]), CATALOG).fingerprint() == GRAPH.fingerprint()
