"""Filters: what they let through is what a plain reading of them says, and what is wrong is said."""

import contextlib
import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.segments import Segments
from llm_tail.errors import DataError, LlmTailError
from llm_tail.neighbors.columns import Columns
from llm_tail.neighbors.filters import Filter

TABLE = pa.table(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "brand": ["Acme", "acme", "Bolt & Co", "", None],
        "price": [5.0, 30.0, None, 20.0, float("nan")],
        "year": [1815, 1897, 2001, None, 1999],
        "sku": ["007", "7", "M8x20-A2", "1e3", None],
        "kinds": [["Valves", "Pipes"], ["pipes"], [], None, ["", None]],
        "sold": [True, False, None, True, False],
        "since": [datetime.date(2024, 5, 1), datetime.date(2023, 1, 1), None, datetime.date(2025, 1, 1), None],
        "cost in": pa.array(["1.5", "two", "10", None, "3"]),
        "shelf": pa.array(["x", "y", "x", None, "y"]).dictionary_encode(),
    }
)


PARTS = ("price < 20", "brand = acme", "year is missing", "kinds = pipes")


def joined(part):
    either = st.builds("({} and {})".format, part, part) | st.builds("({} or {})".format, part, part)
    return either | st.builds("(not {})".format, part)


def passed(text):
    return "".join(np.array(list("abcde"))[Filter.parse(text).mask(TABLE)])


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("brand = acme", "ab"),
        ('brand == "ACME"', "ab"),
        ("brand = 'Bolt & Co'", "c"),
        ("brand != acme", "c"),
        ("brand <> acme", "c"),
        ("not brand = acme", "cde"),
        ("not not brand = acme", "ab"),
        ("brand is missing", "de"),
        ("brand is not missing", "abc"),
        ("brand in (acme, 'bolt & co')", "abc"),
        ("brand not in (acme)", "c"),
        ("not brand in (acme)", "cde"),
        ("brand contains CM", "ab"),
        ("brand not contains cm", "c"),
        ("price < 20", "a"),
        ("price <= 20", "ad"),
        ("price>=20", "bd"),
        ("price = 30", "b"),
        ("price != 30", "ad"),
        ("not price < 20", "bcde"),
        ("price is missing", "ce"),
        ("price in (5, 20)", "ad"),
        ("year > 1.9e3", "ce"),
        ("year = '1815'", "a"),
        ("sku = 007", "a"),
        ("sku = 7", "b"),
        ("sku = m8X20-a2", "c"),
        ("sku > 5", "abd"),
        ("sku > 'm'", "c"),
        ("kinds = valves", "a"),
        ("kinds = pipes", "ab"),
        ("kinds != valves", "b"),
        ("kinds in (valves, rods)", "a"),
        ("kinds not in (valves)", "b"),
        ("kinds contains alv", "a"),
        ("kinds is missing", "cde"),
        ("sold = true", "ad"),
        ("sold != TRUE", "be"),
        ("since >= 2024-05-01", "ad"),
        ("since < '2024-05-01'", "b"),
        ("`cost in` > 2", "ce"),
        ("shelf = X", "ac"),
        ("brand = acme and price < 20", "a"),
        ("brand = acme or year > 1998 and price is missing", "abce"),
        ("(brand = acme or year > 1998) and price is missing", "ce"),
        ("item_id in (a, e)", "ae"),
        ("BRAND = acme or brand = acme", None),
    ],
)
def test_it_reads_as_it_says(text, ids):
    if ids is None:
        with pytest.raises(DataError, match="closest are: brand"):
            passed(text)
    else:
        assert passed(text) == ids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("prize < 2", "'prize', and there is no such column; the closest are: price"),
        ("zzz = 2", "there are: item_id, brand"),
        ("price < cheap", "compares 'price' with 'cheap'; the column holds numbers"),
        ("sold = maybe", "true or false"),
        ("since > soon", "2024-05-01"),
        ("brand", "expected =, !="),
        ("brand =", "ends, expected a value"),
        ("brand = a b", "'b' at character 11, expected 'and', 'or' or the end"),
        ("(brand = a", r"expected '\)'"),
        ("brand in a", r"expected '\('"),
        ("brand in ()", "expected a value"),
        ("= 3", "name of a column"),
        ("and = 3", "name of a column"),
        ("brand = and", "expected a value"),
        ("brand not = a", "expected =, !="),
        ("brand is gone", "expected 'missing'"),
        ('brand = "open', "cannot be read at character 9"),
        ("brand ! a", "cannot be read at character 7"),
        ("(" * 100 + "brand = a" + ")" * 100, "nested deeper"),
        ("brand = " + "a" * 20_000, "characters"),
        ("__import__('os').system('true')", "expected"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(DataError, match=said):
        passed(text)


@settings(max_examples=150, deadline=None)
@given(st.text("abnotird ()=<>!,'\"`\\priceb1.and in is missing 2", max_size=60))
def test_no_text_at_all_does_harm(text):
    with contextlib.suppress(LlmTailError):
        assert len(Filter.parse(text).mask(TABLE)) == 5


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.sampled_from(PARTS), joined, max_leaves=8))
def test_it_is_the_logic_of_its_parts(asked):
    plain, code = [Filter.parse(name).mask(TABLE) for name in PARTS], asked
    for n, name in enumerate(PARTS):
        code = code.replace(name, f"plain[{n}]")
    code = code.replace("and", "&").replace("or", "|").replace("not", "~")
    expected = eval(code, {"plain": plain})  # noqa: S307  # of parts made here
    np.testing.assert_array_equal(Filter.parse(asked).mask(TABLE), expected)


def test_segments_are_a_column_too():
    catalog = Catalog(TABLE.slice(0, 3))
    columns = Columns(catalog, Segments.from_counts([9, 1, 0]))
    assert columns.passing("segment = cold") == ["c"]
    assert columns.passing("segment in (head, tail) and price < 20") == ["a"]
    with pytest.raises(DataError, match="segments are of 1 items"):
        Columns(catalog, Segments.from_counts([9]))
    with pytest.raises(DataError, match="no such column"):
        Columns(catalog).passing("segment = cold")
    assert repr(Filter.parse("price < 1")) == "Filter(price < 1)"
    assert Filter.parse("price < 1 and not (brand = a or price > 2)").columns == ["price", "brand"]
