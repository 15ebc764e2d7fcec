"""``llm-tail similar``: what lies near an item or a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_tail.cli.common import AsJson, ConfigFile, HowMany, Overrides, open_workspace, out, print_json, say
from llm_tail.errors import closest

if TYPE_CHECKING:
    from llm_tail.neighbors.answers import Neighbors

HOWS = ("vectors", "words", "both")


def known_way(how: str | None) -> str | None:
    """Return how to search after checking it."""
    if how is not None and how not in HOWS:
        raise typer.BadParameter(f"{how!r} is none of: {', '.join(HOWS)}")
    return how


Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="FILTER",
        help='Only items that pass, such as: brand = "Acme" and price < 20 and segment = tail. Several must all hold.',
    ),
]
How = Annotated[
    str | None,
    typer.Option(
        "--how",
        metavar="vectors|words|both",
        help="Search by meaning, by words, or both; vectors for an item and both for a text if not given.",
        callback=known_way,
    ),
]


def similar(
    config: ConfigFile,
    item_or_text: Annotated[str, typer.Argument(metavar="ITEM_ID_OR_TEXT", help="An item's id, or any words.")],
    k: HowMany = 10,
    how: How = None,
    where: Where = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show the items that lie nearest to an item or a text."""
    from llm_tail.show import items_table

    workspace = open_workspace(config, overrides)
    found = workspace.similar(item_or_text, k, where=where or None, how=how)
    catalog = workspace.catalog
    if item_or_text not in catalog:
        near = [] if " " in item_or_text else closest(item_or_text, catalog.ids)
        hint = f" (the closest are: {', '.join(near)})" if near else ""
        say(f"no item has the id {item_or_text!r}{hint}; searched for it as a text")
    if not len(found):
        say(_why_nothing(item_or_text, item_or_text in catalog, where, how))
    value, places = _columns(found)
    if as_json:
        print_json(
            [
                {"item_id": i, "title": catalog.title(i), value: s, **{name: p[n] for name, p in places.items()}}
                for n, (i, s) in enumerate(found)
            ]
        )
    else:
        title = catalog.title(item_or_text) if item_or_text in catalog else item_or_text
        shown = {name.replace("_", " "): place for name, place in places.items()}
        out().print(items_table(workspace, found, value, title=f"Near {title!r}", places=shown))


def _columns(found: Neighbors) -> tuple[str, dict[str, Any]]:
    """Return what the values are, and the places in the rankings where there were two."""
    how = getattr(found, "how", "vectors")
    if how != "both":
        return ("bm25" if how == "words" else "similarity"), {}
    places: Any = found
    return "similarity", {"vector_rank": places.vector_ranks.tolist(), "word_rank": places.word_ranks.tolist()}


def _why_nothing(asked: str, is_item: bool, where: list[str] | None, how: str | None) -> str:
    if where:
        return f"nothing that passes {' and '.join(where)!r} was found"
    if is_item and how != "words":
        return f"the item {asked!r} has no text and so no vector: nothing is near it"
    return "no item shares a word with it; ask with --how vectors"
