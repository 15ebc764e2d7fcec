import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.config import TextConfig
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.text import ItemText, token_report
from llm_tail.errors import DataError

DATA = Path(os.environ.get("LLM_TAIL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def catalog(**fields):
    return Catalog.from_items([{"item_id": "x", **fields}])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"title": "Emma", "description": "A novel"}, "Emma. A novel"),
        ({"title": "Emma"}, "Emma"),
        ({"description": "A novel"}, "A novel"),
        ({"title": None, "description": "nan"}, ""),
        ({"title": "  Emma \n", "description": "A\t novel\u00a0 of manners"}, "Emma. A novel of manners"),
        ({}, ""),
    ],
)
def test_title_and_description(fields, expected):
    assert ItemText().texts(catalog(**fields)) == [expected]


def test_other_fields_lists_and_numbers():
    text = ItemText(TextConfig(fields=["title", "tags", "year", "price"], separator=" | "))
    items = catalog(title="Emma", tags=["love", "", None, " wit "], year=1815, price=math.nan)
    assert text.texts(items) == ["Emma | love, wit | 1815"]
    assert text.of(items["x"]) == "Emma | love, wit | 1815"


def test_long_texts_are_cut():
    text = ItemText(TextConfig(max_chars=100))
    assert len(text.texts(catalog(title="word " * 100))[0]) == 100


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(DataError, match=r"names 'titel'.*did you mean 'title'"):
        ItemText(TextConfig(fields=["titel"])).texts(catalog(title="Emma"))
    with pytest.raises(DataError, match="it has: item_id, title, description"):
        ItemText(TextConfig(fields=["zzz"])).texts(catalog(title="Emma"))


def test_the_fingerprint_follows_the_template():
    assert ItemText().fingerprint() == ItemText(TextConfig()).fingerprint()
    assert ItemText().fingerprint() != ItemText(TextConfig(separator=" ")).fingerprint()


words = st.text(max_size=20)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_one_by_one_equals_the_whole_and_spaces_are_single(pairs):
    items = Catalog.from_items([{"item_id": str(i), "title": t, "description": d} for i, (t, d) in enumerate(pairs)])
    texts = ItemText().texts(items)
    assert texts == [ItemText().of(item) for item in items]
    assert all(text == " ".join(text.split()) for text in texts)


def test_the_words_of_a_plain_join_on_real_data():
    path = DATA / "amazon-scientific" / "items.parquet"
    if not path.is_file():
        pytest.skip(f"no data at {path}; set LLM_TAIL_DATA")
    frame = pd.read_parquet(path)

    def plain(record):
        parts = (record["title"], record["description"])
        return ". ".join(str(x) for x in parts if x is not None and str(x).strip() and str(x) != "nan")

    ours = ItemText().texts(Catalog.from_items(frame[["item_id", "title", "description"]].to_dict("records")))
    assert [text.split() for text in ours] == [plain(r).split() for r in frame.to_dict("records")]


def test_token_report(minilm):
    texts = ["a novel", "", "word " * 300]
    report = token_report(texts, minilm)
    np.testing.assert_array_equal(report.tokens, [4, 0, 302])  # two special tokens each
    assert (report.n_truncated, report.n_empty, report.max_tokens) == (1, 1, 128)
    assert report.lost_share == pytest.approx((302 - 128) / 306)
    assert "1 of 3 texts are cut at 128 tokens" in str(report)


def test_markup_of_web_pages_is_no_text():
    marked = catalog(title="5 < 6 > 4 <3", description="<p>Fast &amp; quiet</p><br/><b>new</b>")
    assert ItemText().texts(marked) == ["5 < 6 > 4 <3. Fast & quiet new"]
    plain = "if a<b and c>d: x &amp; list<int> <things>"
    assert ItemText().texts(catalog(title="", description=plain)) == [plain]
