import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.enrichment.schema import ANSWERS, TASKS, Attributes, Questions, Summary, field_of, json_schema, parse
from llm_tail.errors import DataError

SUMMARY = {"summary": "A whale and a captain, and what comes of it.", "confidence": 0.9}
PARTS = [{"name": f"n{i}", "value": f"v{i}", "basis": "text", "confidence": 0.5} for i in range(4)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(SUMMARY),
        f"```json\n{json.dumps(SUMMARY, indent=2)}\n```",
        f"Sure, here it is: {json.dumps(SUMMARY)} Is there more?",
        f"<think>{{maybe}} a whale?</think>\n{json.dumps(SUMMARY)}",
        json.dumps({**SUMMARY, "confidence": "0.9"}),
        json.dumps({**SUMMARY, "summary": f"  {SUMMARY['summary']}  "}),
        '{"summary": "A whale and a captain,\n and what comes of it.", "confidence": 0.9}',
    ],
)
def test_what_is_meant_is_found(text):
    answer = parse("summary", text)
    assert isinstance(answer, Summary) and answer.summary.startswith("A whale") and answer.confidence == 0.9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the answer is empty"),
        ("   \n", "the answer is empty"),
        ("I would rather not.", "holds no JSON object"),
        ('{"summary": "A whale and a capt', "is no JSON"),
        ('{"summary": "A whale and a captain, and more", "confidence": 0.', "is no JSON"),
        ('{"result": 1}', "breaks its form: summary: Field required"),
        ('{"summary": "short", "confidence": 1}', "at least 8 characters"),
        (json.dumps({**SUMMARY, "confidence": 7}), "less than or equal to 1"),
        (json.dumps({**SUMMARY, "price": 3}), "price: Extra inputs"),
        (json.dumps({**SUMMARY, "summary": ["a"]}), "valid string"),
        ("{" * 100_000, "characters, expected at most"),
        ('<think>So {"summary": "A whale and a captain", "confidence"', "ends within the model's thoughts"),
        ("[" * 50_000, "holds no JSON object"),
        ('{"a":' * 10_000, "is no JSON"),
    ],
)
def test_what_is_no_answer_is_named(text, said):
    with pytest.raises(DataError, match=said):
        parse("summary", text)


def test_nothing_that_a_terminal_would_obey_stays():
    text = r'{"summary": "A quiet \u001b[31mcomedy\u0007 of\u0000 errors.\nNo more.", "confidence": 1}'
    assert parse("summary", text).summary == "A quiet [31mcomedy of errors.\nNo more."
    assert parse("questions", r'{"questions": ["Who\u0007 errs here?"]}').questions == ["Who errs here?"]
    with pytest.raises(DataError, match="breaks its form"):
        parse("summary", r'{"summary": "half a character \ud83d of it", "confidence": 1}')


def test_a_list_that_was_cut_keeps_what_is_whole():
    text = json.dumps({"attributes": PARTS})
    for end in range(len(text)):
        try:
            answer = parse("attributes", text[:end])
        except DataError:
            continue
        n = len(answer.attributes)
        assert [one.model_dump() for one in answer.attributes] == PARTS[:n]
    whole = parse("attributes", text)
    assert len(whole.attributes) == 4
    assert parse("questions", '{"questions": ["Who errs here?", "Where is') == Questions(questions=["Who errs here?"])
    with pytest.raises(DataError):
        parse("attributes", '{"attributes": [{"name": "mood", "value": "cal')


def test_parts_that_break_the_form_are_left_out_while_half_are_whole():
    wrong = {"name": "mood", "value": "x" * 200, "basis": "text", "confidence": 0.5}
    assert len(parse("attributes", json.dumps({"attributes": [*PARTS, wrong]})).attributes) == 4
    with pytest.raises(DataError, match="value: String should have at most 80"):
        parse("attributes", json.dumps({"attributes": [wrong, wrong, PARTS[0]]}))
    many = [{**PARTS[0], "value": f"v{i}"} for i in range(30)]
    assert len(parse("attributes", json.dumps({"attributes": many})).attributes) == 20


@given(st.text(max_size=300))
def test_any_text_gives_an_answer_or_a_data_error(text):
    for task in TASKS:
        try:
            assert isinstance(parse(task, text), ANSWERS[task])
        except DataError as error:
            assert str(error)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_gives_an_answer_or_a_data_error(value):
    for task in TASKS:
        for text in (json.dumps(value), json.dumps({Attributes.parts: value}), json.dumps({"relations": value})):
            try:
                parse(task, text)
            except DataError:
                continue


@pytest.mark.parametrize("task", TASKS)
def test_the_schema_for_servers_is_strict_and_plain(task):
    def walk(schema):
        assert not set(schema) & {"$ref", "$defs", "default", "title", "minLength", "maxLength", "minItems"}
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False
            assert set(schema["required"]) == set(schema["properties"])
            for inner in schema["properties"].values():
                walk(inner)
        if schema["type"] == "array":
            walk(schema["items"])

    walk(json_schema(task))
    assert "borrowed" not in json.dumps(json_schema(task))
    assert field_of(task) == f"generated_{task}"
