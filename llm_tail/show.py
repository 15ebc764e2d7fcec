"""How answers look in a terminal: rich tables of items, of stages, and of why an item is recommended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from llm_tail.data.catalog import Catalog
    from llm_tail.neighbors.graph import Related, Step
    from llm_tail.recommenders.hybrid import Explanation
    from llm_tail.run_record import StageResult
    from llm_tail.workspace import Workspace

KINDS = ("categories", "category", "genres", "genre", "subjects", "brand", "author", "authors")
STYLES = {"head": "green", "tail": "yellow", "cold": "cyan"}


def items_table(
    workspace: Workspace, items: Iterable[tuple[str, float]], value: str = "similarity", *, title: str | None = None
) -> Table:
    """Return a table of items and their values: number, value, title, category, id.

    Parameters
    ----------
    workspace : Workspace
        Knows titles and categories, and how popular the items are once its interactions have been read.
    items : iterable of (item_id, value)
        In the order to show.
    value : str
        What the values are.
    """
    catalog, kind = workspace.catalog, category_column(workspace.catalog)
    segments = workspace.__dict__.get("segments")  # never read for a table alone
    table = Table(title=None if title is None else escape(title), title_justify="left", title_style="bold")
    table.add_column("", justify="right", style="dim")
    table.add_column(value, justify="right")
    table.add_column("title", ratio=3, overflow="ellipsis", no_wrap=True)
    if kind:
        table.add_column(kind, ratio=1, overflow="ellipsis", no_wrap=True, style="dim")
    if segments is not None:
        table.add_column("segment")
    table.add_column("id", no_wrap=True, style="dim")
    for number, (item_id, number_value) in enumerate(items, 1):
        cells: list[RenderableType] = [str(number), f"{number_value:.3f}", Text(catalog.title(item_id))]
        if kind:
            cells.append(Text(category(catalog, item_id, kind)))
        if segments is not None:
            cells.append(segment_text(segments.name_of(catalog.ids.row(item_id))))
        table.add_row(*cells, Text(item_id))
    return table


def related_table(workspace: Workspace, related: Iterable[Related]) -> Table:
    """Return a table of items that are tied to another, and how."""
    table = Table()
    table.add_column("", justify="right", style="dim")
    table.add_column("strength", justify="right")
    table.add_column("title", ratio=3, overflow="ellipsis", no_wrap=True)
    table.add_column("tied by", ratio=2)
    table.add_column("id", no_wrap=True, style="dim")
    for number, tie in enumerate(related, 1):
        way = (" > " if tie.hops > 1 else ", ").join(words(name) for name in tie.relations)
        via = f" via {', '.join(workspace.catalog.title(x) for x in tie.via)}" if tie.via else ""
        title = Text(workspace.catalog.title(tie.item_id))
        table.add_row(str(number), f"{tie.weight:.3f}", title, Text(way + via), Text(tie.item_id))
    return table


def path_text(workspace: Workspace, steps: Sequence[Step]) -> Text:
    """Return a chain of ties as lines: item, tie, item, tie, item."""
    if not steps:
        return Text("no chain of ties leads from the one to the other")
    lines = Text(workspace.catalog.title(steps[0].source))
    for step in steps:
        value = f": {step.value}" if step.value else ""
        lines.append(f"\n  └ {words(step.relation)}{value} ({step.weight:.2f})\n", style="dim")
        lines.append(workspace.catalog.title(step.target))
    return lines


def explanation(workspace: Workspace, told: Explanation) -> RenderableType:
    """Return why an item is recommended: three shares of the score, what spoke for it, whose signal it borrowed."""
    title = workspace.catalog.title
    total = abs(told.own) + abs(told.borrowed) + abs(told.text) or 1.0
    parts = (("own past", told.own), ("borrowed", told.borrowed), ("text", told.text))
    lines: list[RenderableType] = [
        Text(f"{title(told.item)}  score {told.score:.4f}", style="bold"),
        Text("  " + "   ".join(f"{name} {part / total:.0%}" for name, part in parts)),
    ]
    for heading, pairs in (
        ("because of", told.because),
        ("signal borrowed from", told.neighbors),
    ):
        if pairs:
            lines.append(Text(f"  {heading}", style="dim"))
            lines += [Text(f"    {value:6.3f}  {title(item_id)}") for item_id, value in pairs]
    return Group(*lines)


def stage_table(results: Sequence[StageResult]) -> Table:
    """Return what each stage cost."""
    table = Table(title="What it cost", title_justify="left", title_style="bold")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("peak memory, MB", justify="right")
    table.add_column("this time", style="dim")
    table.add_column("result", ratio=1, overflow="ellipsis", no_wrap=True, style="dim")
    for result in results:
        state = "run" if result.state == "done" else "finished before"
        table.add_row(result.name, f"{result.seconds:.1f}", f"{result.peak_mb:,.0f}", state, Text(result.note))
    return table


def category_column(catalog: Catalog) -> str | None:
    """Return the column that says best what kind of thing an item is: a usual name, else the first list column."""
    for name in KINDS:
        if name in catalog.columns:
            return name
    return next((f.name for f in catalog.table.schema if str(f.type).startswith(("list", "large_list"))), None)


def category(catalog: Catalog, item_id: str, column: str) -> str:
    """Return an item's value in a column as a short text."""
    value: Any = catalog[item_id].fields.get(column, "")
    return ", ".join(str(v) for v in value[:3]) if isinstance(value, list) else str(value)


def segment_text(name: str) -> Text:
    """Return head, tail or cold in its colour."""
    return Text(name, style=STYLES.get(name, ""))


def words(name: str) -> str:
    """Return a relation's name as words."""
    return name.replace("_", " ")
