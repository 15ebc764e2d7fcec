"""``llm-tail related`` and ``llm-tail export-graph``: what is tied to an item, and the whole graph for other tools."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_tail.cli.common import AsJson, ConfigFile, HowMany, Overrides, open_workspace, out, print_json, say

if TYPE_CHECKING:
    from llm_tail.workspace import Workspace

Relations = Annotated[
    list[str] | None,
    typer.Option("--relation", metavar="NAME", help="Only along this relation; may be given again and again."),
]


def related(
    config: ConfigFile,
    item_id: Annotated[str | None, typer.Argument(metavar="[ITEM_ID]", help="The id of an item.")] = None,
    k: HowMany = 20,
    hops: Annotated[int, typer.Option(min=1, help="How many steps to go at most.")] = 1,
    relation: Relations = None,
    walk: Annotated[bool, typer.Option("--walk", help="Where a random walk from the item spends its time.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="No item: ties, parts, communities, and bridges from head to tail.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show the items that the graph ties to an item, and by which relations."""
    if report == (item_id is not None):
        raise typer.BadParameter("give an ITEM_ID, or --report for the graph as a whole")
    workspace = open_workspace(config, overrides)
    if item_id is None:
        _report(workspace, k, as_json)
    elif walk:
        _walk(workspace, item_id, k, relation, as_json)
    else:
        from llm_tail.show import related_table

        found = workspace.graph.related(item_id, hops=hops, relations=relation, k=k)
        if as_json:
            print_json([{**asdict(tie), "title": workspace.catalog.title(tie.item_id)} for tie in found])
        else:
            out().print(related_table(workspace, found))


def _walk(workspace: Workspace, item_id: str, k: int, relations: list[str] | None, as_json: bool) -> None:
    from llm_tail.show import items_table

    found = workspace.graph.walk(item_id, k, relations=relations)
    if as_json:
        print_json(found.to_dict()["items"])
    else:
        out().print(items_table(workspace, found, "share"))


def _report(workspace: Workspace, k: int, as_json: bool) -> None:
    from llm_tail.show import graph_report

    graph, segments = workspace.graph, workspace.segments
    told, groups = graph.report(), workspace.communities
    bridges = graph.bridges(segments, k) if segments is not None and segments.head.any() else None
    if as_json:
        over = None if bridges is None else bridges.to_dict()
        print_json({"report": told.to_dict(), **groups.to_dict(), "bridges": over})
    else:
        out().print(graph_report(workspace, told, groups, bridges, k))


def export_graph(
    config: ConfigFile,
    path: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Ends in .graphml, .jsonld, .nt (RDF) or .parquet.")
    ],
    relation: Relations = None,
    base: Annotated[str, typer.Option(help="What IRIs begin with, in JSON-LD and N-Triples.")] = "urn:llm-tail:",
    overrides: Overrides = None,
) -> None:
    """Write the item graph for other tools: Gephi, RDF stores, networkx, data frames."""
    graph = open_workspace(config, overrides).graph
    written = graph.export(path, relations=relation, base=base)
    say(f"{graph} written")
    out().print(str(written), markup=False, highlight=False, soft_wrap=True)
