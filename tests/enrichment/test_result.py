import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.enrichment.result import Enrichment, Generated, Provenance
from llm_tail.errors import DataError

ITEMS = Catalog.from_items([{"item_id": i, "title": i.upper()} for i in ("a", "b", "c")])
PARTS = [
    Generated("b", "attributes", "calm", "mood", confidence=0.9, basis="text"),
    Generated("gone", "attributes", "red", "colour"),
    Generated("b", "summary", "Told in other words.", confidence=0.7),
    Generated("a", "relations", "the same sea", "sequel", "c", 0.8),
    Generated("b", "attributes", "sea", "theme", confidence=0.2),
    Generated("u1", "profile", "likes the sea"),
]


def test_columns_hold_what_belongs_to_each_item():
    joined = Enrichment.from_parts(PARTS).join(ITEMS)
    assert joined.columns[3:] == ["generated_attributes", "generated_summary", "generated_relations"]
    assert joined.column("generated_attributes") == [[], ["calm", "sea"], []]
    assert joined.column("generated_summary") == ["", "Told in other words.", ""]
    assert joined.column("generated_relations") == [["the same sea"], [], []]
    assert ITEMS.columns == ["item_id", "title", "description"], "the catalogue itself stays as it was"


def test_what_is_not_sure_enough_stays_out():
    joined = Enrichment.from_parts(PARTS).join(ITEMS, min_confidence=0.5)
    assert joined.column("generated_attributes") == [[], ["calm"], []]
    again = Enrichment.from_parts(PARTS).join(joined)
    assert again.column("generated_attributes") == [[], ["calm", "sea"], []], "joining again replaces"


def test_tasks_without_answers_make_empty_columns():
    joined = Enrichment.from_parts([]).join(ITEMS, tasks=["summary", "questions", "profile"])
    assert joined.column("generated_summary") == [""] * 3 and joined.column("generated_questions") == [[], [], []]
    assert "generated_profile" not in joined.columns


def test_ties_name_both_ends():
    ties = Enrichment.from_parts(PARTS).relations()
    assert ties.iloc[0].to_dict() == {
        "item_id": "a",
        "target": "c",
        "kind": "sequel",
        "confidence": pytest.approx(0.8),
        "reason": "the same sea",
    }


def test_it_is_read_as_it_was_written(tmp_path):
    seen = Provenance(columns=("title",), items=("c",), events=("0f",), backend="openai", model="m", key="k")
    parts = [*PARTS, Generated("c", "summary", "红楼梦", basis="borrowed", provenance=seen)]
    made = Enrichment.from_parts(parts)
    back = Enrichment.load(made.save(tmp_path / "deep" / "fields.parquet"))
    assert back.table == made.table and len(back) == 7
    assert [(p.item_id, p.task, p.value, p.basis, p.provenance) for p in back] == [
        (p.item_id, p.task, p.value, p.basis, p.provenance) for p in parts
    ]
    assert back.of("b", "summary")[0].value == "Told in other words." and len(back.of("b")) == 3
    assert repr(back) == "Enrichment(5 items, attributes: 3, summary: 2, relations: 1, profile: 1)"
    with pytest.raises(DataError, match="no column field, value"):
        Enrichment(pa.table({"item_id": ["a"]}))


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "x"]), st.text(max_size=5)), max_size=30))
def test_lists_keep_order_and_lose_nothing(pairs):
    made = Enrichment.from_parts(Generated(item, "questions", text) for item, text in pairs)
    column = made.join(ITEMS, tasks=["questions"]).column("generated_questions")
    assert column == [[text for item, text in pairs if item == wanted] for wanted in ("a", "b", "c")]
