"""A conversation, line by line; and how it ends."""

import io
import json
import re

import pytest
from rich.console import Console

from llm_tail.explore import HELP, Explorer, Quit, _names
from llm_tail.prompt import Completer, typing_aids
from llm_tail.workspace import Workspace


@pytest.fixture
def explorer(finished_shop):
    return Explorer(Workspace.open(finished_shop), Console(file=io.StringIO(), width=100), k=5)


def said(explorer, line):
    console = Console(file=io.StringIO(), width=100)
    console.print(explorer.answer(line))
    return console.file.getvalue()


def test_words_find_the_nearest_items(explorer):
    text = said(explorer, "looking at the night sky")
    assert re.search(r"\b1 +0\.\d{3} +\w", text)  # numbers are never squeezed away
    assert "astronomy" in text and "similarity" in text and explorer.shown[0].startswith("a")
    assert len(explorer.shown) == 5


def test_an_id_shows_the_item_and_what_is_near(explorer):
    text = said(explorer, "k0")
    assert "Frying pan" in text and "Northwind" in text and "Nearest" in text
    assert "k0" not in explorer.shown


def test_a_number_means_the_last_list(explorer):
    said(explorer, "k0")
    second = explorer.shown[1]
    assert explorer.workspace.catalog.title(second) in said(explorer, "2").splitlines()[0]
    assert explorer.item == second
    assert "there is no number 77" in said(explorer, "77")


def test_lists_know_how_popular_things_are(explorer):
    explorer.workspace.segments  # noqa: B018  (the loop reads it before the first question)
    text = said(explorer, "k0")
    assert "segment" in text and ("tail" in text or "head" in text or "cold" in text)


def test_only_one_segment(explorer):
    assert "cold items only" in said(explorer, ":segment cold")
    said(explorer, "k0")
    segments, row = explorer.workspace.segments, explorer.workspace.catalog.ids.row
    assert explorer.shown and all(segments.name_of(row(item)) == "cold" for item in explorer.shown)
    assert "all items" in said(explorer, ":segment")
    assert "is no segment" in said(explorer, ":segment warm")


def test_related_and_path(explorer):
    assert "no item has been looked at" in said(explorer, ":related")
    text = said(explorer, ":related k0")
    assert "category" in text or "similar" in text
    first = explorer.shown[0]
    assert said(explorer, f":path k0 {first}").count("└") >= 1
    assert said(explorer, ":path k0 1").count("└") >= 1
    assert "two items" in said(explorer, ":path k0")


def test_why_names_people_shares_and_lenders(explorer):
    cold = explorer.workspace.catalog.ids[int(explorer.workspace.segments.cold.argmax())]
    text = said(explorer, f":why {cold}")
    assert "for u" in text and "own past 0%" in text and "borrowed" in text and "because of" in text


def test_a_history_and_what_follows_from_it(explorer):
    assert "give one first" in said(explorer, ":recommend")
    assert "Frying pan, Bread knife" in said(explorer, ":history k0,k1")
    text = said(explorer, ":recommend")
    assert "kitchen" in text and not {"k0", "k1"} & set(explorer.shown)
    assert "for the history at hand" in said(explorer, ":why 1")
    assert "empty" in said(explorer, ":history")


def test_commands_may_be_shortened_and_wrong_ones_are_answered(explorer):
    assert said(explorer, ":h") and said(explorer, ":rel k0")
    assert "there is no command :nonsense" in said(explorer, ":nonsense")
    assert "no item has the id 'kk0'; the closest are: k0" in said(explorer, ":related kk0")
    assert "type some words" in said(explorer, "   ")


def test_help_names_every_command(explorer):
    text = said(explorer, ":help")
    assert all(f":{name}" in text for name in explorer._commands)
    assert all(line.split()[0] in text for line in HELP)


def test_quit(explorer):
    with pytest.raises(Quit):
        explorer.answer(":quit")


def test_every_answer_has_facts_for_machines(explorer):
    for line, key in {
        "night sky": "items", "k0": "item", ":related": "related", ":path k0, k1": "path", ":why": "why",
        ":history k0,k1": "", ":recommend": "items", ":help": "help", ":nonsense": "error", ":related zz": "error",
    }.items():  # fmt: skip
        explorer.answer(line)
        assert (key in explorer.facts) if key else not explorer.facts
        json.dumps(explorer.facts, allow_nan=False)


def test_names_may_hold_spaces_where_commas_part_them():
    assert _names("a b") == ["a", "b"]
    assert _names("a b, c") == ["a b", "c"]
    assert _names("") == _names(" , ") == []


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt, ":quit"])
def test_the_loop_ends_kindly(explorer, monkeypatch, end):
    lines = iter(["k0", "[bold]brackets[/] are words", end])

    def answer(prompt):
        line = next(lines)
        if not isinstance(line, str):
            raise line
        return line

    monkeypatch.setattr("builtins.input", answer)
    explorer.loop()
    text = explorer.console.file.getvalue()
    assert "28 items" in text and "Frying pan" in text and text.rstrip().endswith("bye")


def test_only_what_a_filter_lets_through(explorer):
    assert "of 28 items pass" in said(explorer, ":where category = garden and brand = Halcyon")
    passing = explorer.facts["passing"]
    for line in ("something for the night sky", "k0", ":related k0", ":walk k0"):
        said(explorer, line)
        brands = [explorer.workspace.catalog[item].fields for item in explorer.shown]
        assert all((b["category"], b["brand"]) == ("garden", "Halcyon") for b in brands)
    assert "where category = garden" in said(explorer, "k0") and len(explorer.shown) == passing > 0
    assert "cannot be read" in said(explorer, ":where category ~ garden") or "error" in explorer.facts
    assert explorer.where is not None  # a wrong filter leaves the old one
    assert "all items" in said(explorer, ":where") and len(explorer.shown) == passing
    said(explorer, "k0")
    assert len(explorer.shown) == 5


def test_two_items_side_by_side(explorer):
    text = said(explorer, ":compare k0 k1")
    for word in ("Frying pan", "Bread knife", "cosine 0.", "tied by", "near both", "tied to both", "brand"):
        assert word in text
    told = explorer.facts["compare"]
    assert told["items"] == ("k0", "k1") and told["fields"]["brand"] == ("Northwind", "Tailor & Sons")
    assert all({item} & {"k0", "k1"} == set() for item, _, _ in told["neighbors"])
    assert explorer.shown == [item for item, _, _ in told["neighbors"]]
    assert "two items" in said(explorer, ":compare k0")
    assert "cosine 1.000" in said(explorer, ":compare k0 k0")


def test_a_walk_along_the_ties(explorer):
    assert "A walk from 'Frying pan'" in said(explorer, ":walk k0") and len(explorer.shown) == 5


def test_a_title_names_its_item(explorer):
    assert "Frying pan" in said(explorer, "frying PAN").splitlines()[0] and explorer.item == "k0"
    assert "k1" in said(explorer, ":compare Frying pan, bread knife")


def test_lines_are_completed(explorer):
    complete = Completer(explorer.workspace.catalog, list(explorer._commands))
    assert complete.candidates(":rel") == [":related "] and ":why " in complete.candidates(":w")
    assert complete.candidates("fry") == ["Frying pan"] and complete.candidates("K") == [f"k{n}" for n in range(7)]
    assert complete.candidates(":compare k0, bre") == [":compare k0, Bread knife"]
    assert complete.candidates(":path k") == [f":path k{n}" for n in range(7)]
    assert complete.candidates("") == [] == complete.candidates("zzz")
    assert [complete("k", n) for n in (0, 6, 7)] == ["k0", "k6", None]


def test_lines_are_remembered(tmp_path, explorer):
    readline = pytest.importorskip("readline")
    completer = Completer(explorer.workspace.catalog, ["why"])
    with typing_aids(tmp_path, completer):
        readline.add_history(":related k0")
        assert readline.get_completer() is completer
    assert readline.get_completer() is not completer
    with typing_aids(tmp_path, completer):
        assert readline.get_history_item(1) == ":related k0"
    with typing_aids(tmp_path / "not there", completer):
        assert readline.get_current_history_length() == 0
