"""``llm-tail similar``: what lies near an item or a text."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_tail.cli.common import AsJson, ConfigFile, HowMany, Overrides, open_workspace, out, print_json, say
from llm_tail.errors import closest


def similar(
    config: ConfigFile,
    item_or_text: Annotated[str, typer.Argument(metavar="ITEM_ID_OR_TEXT", help="An item's id, or any words.")],
    k: HowMany = 10,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show the items that lie nearest to an item or a text."""
    from llm_tail.show import items_table

    workspace = open_workspace(config, overrides)
    found = workspace.similar(item_or_text, k)
    catalog = workspace.catalog
    if item_or_text not in catalog:
        near = [] if " " in item_or_text else closest(item_or_text, catalog.ids)
        hint = f" (the closest are: {', '.join(near)})" if near else ""
        say(f"no item has the id {item_or_text!r}{hint}; searched for it as a text")
    elif not len(found):
        say(f"the item {item_or_text!r} has no text and so no vector: nothing is near it")
    if as_json:
        print_json([{"item_id": i, "title": catalog.title(i), "similarity": s} for i, s in found])
    else:
        title = catalog.title(item_or_text) if item_or_text in catalog else item_or_text
        out().print(items_table(workspace, found, title=f"Near {title!r}"))
