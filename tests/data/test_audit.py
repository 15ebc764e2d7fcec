import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from llm_tail.data.audit import Audit, audit
from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.data.readers import read_catalog, read_interactions
from llm_tail.errors import DataError

SHARED = Path(os.environ.get("LLM_TAIL_DATA", Path(__file__).parents[3] / "shared" / "data"))
NOW = 1_600_000_000.0


def shop(n=10):
    words = "a thing that is good for something"
    return Catalog.from_items([{"item_id": f"i{k}", "title": f"Thing {k}", "description": words} for k in range(n)])


def fine(n=10):
    """Everyone takes the first items, fewer take the later ones; nothing is wrong with it."""
    return Interactions.from_pairs([(f"u{u}", f"i{i}") for u in range(n) for i in range(max(3, n - u))])


def codes(found):
    return [(finding.severity, finding.code) for finding in found.findings]


def test_nothing_is_found_where_nothing_is_wrong():
    found = audit(shop(), fine())
    assert found.findings == ()
    assert found.ok
    assert str(found) == "nothing was found that is wrong with this data"


def test_figures_by_eye():
    catalog = Catalog.from_items([{"item_id": x, "title": x} for x in "abcdefg"])
    pairs = [(f"u{u}", "a") for u in range(6)] + [("u0", "b"), ("u1", "c"), ("u2", "d"), ("u3", "e"), ("u0", "a")]
    figures = audit(catalog, Interactions.from_pairs(pairs)).figures
    assert (figures.n_items, figures.n_users, figures.n_events, figures.n_duplicate_events) == (7, 6, 10, 1)
    assert (figures.n_head, figures.n_tail, figures.n_cold) == (1, 4, 2)
    assert figures.density == pytest.approx(10 / 42)
    assert figures.top_share == pytest.approx(0.6)  # one of five items with events has six of ten
    assert figures.gini == pytest.approx(0.4)
    assert figures.curve == ((0.01, 0.6), (0.05, 0.6), (0.1, 0.6), (0.2, 0.6), (0.5, 0.7))
    assert figures.missing_description_share == 1.0
    assert figures.missing_title_share == 0.0


def test_texts_that_are_empty_repeated_or_cut():
    items = [
        {"item_id": "empty"},
        {"item_id": "blank", "title": "  "},
        {"item_id": "one", "title": "Same", "description": "words"},
        {"item_id": "two", "title": "Same", "description": "words"},
        {"item_id": "long", "title": "Long", "description": "word " * 200},
        {"item_id": "untitled", "description": "words only"},
        {"item_id": "bare", "title": "Bare"},
    ]
    catalog = Catalog.from_items(items)
    events = Interactions.from_pairs([(f"u{u}", x["item_id"]) for u in range(3) for x in items])
    found = audit(catalog, events)
    assert codes(found) == [
        ("warning", "empty-text"),
        ("warning", "repeated-text"),
        ("note", "cut-text"),
        ("note", "missing-title"),
        ("note", "missing-description"),
    ]
    assert found.of("empty-text").examples == ("empty", "blank")
    assert found.of("repeated-text").examples == ("one", "two")
    assert found.of("cut-text").examples == ("long",)
    assert "1 of 7 items (14.3 %) has more than 128 tokens" in found.of("cut-text").message
    assert "estimated from the number of words" in found.of("cut-text").message
    assert found.figures.token_counts_estimated
    assert found.figures.n_repeated_texts == 2
    exact = audit(catalog, events, token_counts=np.array([0, 0, 5, 5, 9, 9, 200]))
    assert exact.of("cut-text").examples == ("bare",)
    assert "estimated" not in exact.of("cut-text").message
    assert audit(catalog, events, max_tokens=2000).of("cut-text") is None
    with pytest.raises(DataError, match=r"token_counts has shape \(2,\), expected \(7,\)"):
        audit(catalog, events, token_counts=np.zeros(2))


def test_a_catalogue_without_any_text_is_an_error():
    found = audit(Catalog.from_items([{"item_id": f"i{k}"} for k in range(10)]), fine())
    assert codes(found) == [("error", "empty-text")]
    assert not found.ok


def test_ids_that_match_nothing():
    strangers = Interactions.from_pairs(
        [*fine().to_frame().itertuples(index=False, name=None), ("u0", "x"), ("u1", "y")]
    )
    found = audit(shop(), strangers)
    assert codes(found) == [("warning", "unmatched")]
    assert "on 2 ids that the catalogue has not" in found.of("unmatched").message
    assert found.of("unmatched").examples == ("x", "y")
    assert (found.figures.n_unmatched_events, found.figures.n_unmatched_items) == (2, 2)
    nothing = audit(shop(), Interactions.from_pairs([("u", "x"), ("v", "y"), ("u", "z"), ("u", "w")]))
    assert nothing.findings[0].code == "no-match"
    assert nothing.findings[0].severity == "error"
    assert "names an item of the catalogue, whose ids look like i0, i1, i2" in nothing.findings[0].message
    assert not nothing.ok
    assert nothing.figures.n_events == 0


@pytest.mark.parametrize("spelling", ["{}.0", " {}", "00{}"])
def test_ids_that_match_but_for_their_spelling(spelling):
    catalog = Catalog.from_items([{"item_id": str(k), "title": f"t{k}"} for k in range(1, 5)])
    events = Interactions.from_pairs([("u", spelling.format(k)) for k in range(1, 5)])
    assert "4 of these ids match but for spaces, case, leading zeros" in audit(catalog, events).of("no-match").message


def test_no_events_at_all():
    found = audit(shop(), fine().where(np.zeros(len(fine()), dtype=bool)))
    assert codes(found)[0] == ("error", "no-events")
    assert found.figures.gini == 0.0


def test_times_that_cannot_be():
    frame = fine().to_frame().assign(timestamp=NOW - 10)
    frame.loc[0, "timestamp"] = NOW * 10
    frame.loc[1, "timestamp"] = NOW + 3600  # a clock that is an hour ahead
    frame.loc[[2, 3], "timestamp"] = -5.0
    found = audit(shop(), Interactions.from_frame(frame), now=NOW)
    assert codes(found) == [("warning", "future-times"), ("warning", "early-times")]
    assert (found.figures.n_future_times, found.figures.n_early_times) == (1, 2)
    assert found.of("early-times").examples == ("-5",)


def test_what_a_reader_set_aside_is_told(tmp_path):
    (tmp_path / "i.csv").write_text("item_id,title\na,A\nb,B\na,C\n")
    (tmp_path / "e.csv").write_text("user_id,item_id,rating\nann,a,5\nann,b,nan\nann,,3\n")
    catalog = read_catalog(tmp_path / "i.csv", max_bad_share=0.5)
    events = read_interactions(tmp_path / "e.csv", max_bad_share=0.9)
    found = audit(catalog, events)
    bad = [finding.message for finding in found.findings if finding.code == "bad-rows"]
    assert len(bad) == 2
    assert "in the file of the catalogue 1 of 3 rows is bad" in bad[0]
    assert found.figures.n_bad_rows == 3
    assert found.figures.n_nan_weights == 1
    assert found.of("nan-weights") is not None


def test_returns_and_zeros_are_counted():
    events = Interactions.from_pairs([("a", "i0", 3.0), ("a", "i1", 0.0), ("b", "i1", -2.0)])
    found = audit(shop(), events)
    assert found.figures.n_low_weights == 2
    assert (
        "2 of 3 interactions (66.7 %) with a weight of 0 or less: no positive sign" in found.of("low-weights").message
    )
    assert audit(shop(), fine()).of("low-weights") is None


def test_people_with_few_items_are_counted():
    events = Interactions.from_pairs([*fine().to_frame().itertuples(index=False, name=None), ("new", "i0")])
    assert "1 of 11 people (9.1 %) has fewer than 3" in audit(shop(), events).of("short-histories").message


def test_errors_come_first_and_the_dict_is_json():
    catalog = Catalog.from_items([{"item_id": "a", "title": "t"}, {"item_id": "b", "title": "t"}])
    found = audit(catalog, Interactions.from_pairs([("u", "x")]))
    order = [finding.severity for finding in found.findings]
    assert order == sorted(order, key=["error", "warning", "note"].index)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["ok"] is False
    assert values["figures"]["n_items"] == 2
    assert Audit.from_dict(values) == found


def test_the_table_shows_figures_and_findings():
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(audit(shop(), Interactions.from_pairs([("u", "[bold]")])))
        shown = console.export_text()
    assert "no-match" in shown
    assert "[bold]" in shown
    assert "gini" in shown


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), min_size=1, max_size=60), n=st.integers(1, 15))
def test_figures_hold_together_for_any_data(pairs, n):
    catalog = Catalog.from_items([{"item_id": str(k), "title": f"t{k}"} for k in range(n)])
    found = audit(catalog, Interactions.from_pairs(pairs))
    figures = found.figures
    assert figures.n_events + figures.n_duplicate_events + figures.n_unmatched_events == len(pairs)
    assert figures.n_head + figures.n_tail + figures.n_cold == n
    assert 0 <= figures.gini < 1
    assert 0 <= figures.density <= 1
    reached = [events for _, events in figures.curve]
    assert reached == sorted(reached)
    assert found.ok == (figures.n_events > 0)
    assert all(len(finding.examples) <= 3 for finding in found.findings)
    assert Audit.from_dict(found.to_dict()) == found


def test_real_data():
    folder = SHARED / "movielens-small"
    if not folder.exists():
        pytest.skip(f"no data set at {folder}; set LLM_TAIL_DATA")
    found = audit(read_catalog(folder), read_interactions(folder))
    assert found.ok
    assert found.figures.n_cold == 18
    frame = pd.read_parquet(folder / "interactions.parquet")
    top = frame["item_id"].value_counts().iloc[: found.figures.n_head].sum() / len(frame)
    assert found.figures.top_share == pytest.approx(top)
