"""``llm-tail related``: what is tied to an item, and how."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llm_tail.cli.common import AsJson, ConfigFile, HowMany, Item, Overrides, open_workspace, out, print_json


def related(
    config: ConfigFile,
    item_id: Item,
    k: HowMany = 20,
    hops: Annotated[int, typer.Option(min=1, help="How many steps to go at most.")] = 1,
    relation: Annotated[str | None, typer.Option(help="Walk along this relation only.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show the items that the graph ties to an item, and by which relations."""
    from llm_tail.show import related_table

    workspace = open_workspace(config, overrides)
    found = workspace.graph.related(item_id, hops=hops, relation=relation, k=k)
    if as_json:
        print_json([{**asdict(tie), "title": workspace.catalog.title(tie.item_id)} for tie in found])
    else:
        out().print(related_table(workspace, found))
