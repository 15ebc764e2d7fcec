"""How answers look in a terminal: rich tables of items, of stages, and of why an item is recommended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from llm_tail.comparing import Comparison
    from llm_tail.data.catalog import Catalog
    from llm_tail.evaluation.pareto import Choice
    from llm_tail.neighbors.bridges import Bridges
    from llm_tail.neighbors.communities import Communities
    from llm_tail.neighbors.graph import Related, Step
    from llm_tail.neighbors.report import GraphReport
    from llm_tail.recommenders.hybrid import Explanation
    from llm_tail.workspace import Workspace
    from llm_tail.workspace.adapters import AdapterInfo
    from llm_tail.workspace.guard import Verdict
    from llm_tail.workspace.record import StageResult
    from llm_tail.workspace.search import Sweep
    from llm_tail.workspace.value_report import ValueReport

KINDS = ("categories", "category", "genres", "genre", "subjects", "brand", "author", "authors")
SHORT_ID = 14  # characters that always find room
STYLES = {"head": "green", "tail": "yellow", "cold": "cyan"}


def items_table(
    workspace: Workspace,
    items: Iterable[tuple[str, float]],
    value: str = "similarity",
    *,
    title: str | None = None,
    places: Mapping[str, Sequence[int]] | None = None,
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
    title : str, optional
        Stands above the table.
    places : mapping of str to sequence of int, optional
        Further columns: the place of each item in some ranking, 0 where it has none.
    """
    catalog, kind = workspace.catalog, category_column(workspace.catalog)
    segments = workspace.__dict__.get("segments")  # never read for a table alone
    table = _table(title, (value, "right"))
    for name in places or {}:
        table.add_column(name, justify="right", no_wrap=True, style="dim")
    table.add_column("title", ratio=5, no_wrap=True, overflow="ellipsis")
    if kind:
        table.add_column(kind, ratio=3, no_wrap=True, overflow="ellipsis", style="dim")
    if segments is not None:
        table.add_column("segment", no_wrap=True)
    items = list(items)
    _add_ids(table, [item_id for item_id, _ in items])
    for number, (item_id, number_value) in enumerate(items, 1):
        stands = [str(place[number - 1] or "-") for place in (places or {}).values()]
        cells: list[RenderableType] = [str(number), f"{number_value:.3f}", *stands, Text(catalog.title(item_id))]
        if kind:
            cells.append(Text(category(catalog, item_id, kind)))
        if segments is not None:
            cells.append(segment_text(segments.name_of(catalog.ids.row(item_id))))
        table.add_row(*cells, Text(item_id))
    return table


def related_table(workspace: Workspace, related: Iterable[Related]) -> Table:
    """Return a table of items that are tied to another, and how."""
    table = _table(None, ("strength", "right"))
    table.add_column("title", ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column("tied by", ratio=4)
    related = list(related)
    _add_ids(table, [tie.item_id for tie in related])
    for number, tie in enumerate(related, 1):
        way = (" > " if tie.hops > 1 else ", ").join(words(name) for name in tie.relations)
        via = f"\nvia {', '.join(workspace.catalog.title(x) for x in tie.via)}" if tie.via else ""
        title = Text(workspace.catalog.title(tie.item_id))
        table.add_row(str(number), f"{tie.weight:.3f}", title, Text(way + via), Text(tie.item_id))
    return table


def graph_report(
    workspace: Workspace, report: GraphReport, groups: Communities, bridges: Bridges | None, k: int = 20
) -> RenderableType:
    """Return what the graph looks like as a whole: ties, the largest communities, and what leads from head to tail."""
    ties = _table("Ties", *((name, "right") for name in ("edges", "items", "mean", "median", "most")), first="relation")
    for name, one in report.degrees.items():
        ties.add_row(
            words(name), f"{one.edges:,}", f"{one.n_tied:,}", f"{one.mean:.1f}", f"{one.median:g}", f"{one.most:,}"
        )
    named = _table("Communities", ("items", "right"))
    named.add_column("words that tell it from the others", ratio=1)
    for number, (name, size) in enumerate(zip(groups.names[:k], groups.sizes[:k].tolist(), strict=True)):
        named.add_row(str(number), f"{size:,}", Text(name))
    parts: list[RenderableType] = [Text(str(report)), Text(), ties, Text(), named]
    if bridges is not None and bridges.ties:
        over = _table("Bridges from head to tail", ("share", "right"))
        for column in ("head", "tied by", "tail"):
            over.add_column(column, ratio=1, no_wrap=True, overflow="ellipsis")
        title = workspace.catalog.title
        for number, bridge in enumerate(bridges.ties, 1):
            by = words(bridge.relation) + (f": {bridge.value}" if bridge.value else "")
            over.add_row(
                str(number), f"{bridge.share:.2%}", Text(title(bridge.head)), Text(by), Text(title(bridge.tail))
            )
        parts += [Text(), Text(repr(bridges)), over]
    return Group(*parts)


def comparison(workspace: Workspace, told: Comparison) -> RenderableType:
    """Return two items side by side: what they say, how near they are, and what they have in common."""
    title = workspace.catalog.title
    sides = _table(None, first="")
    for item_id in told.items:
        sides.add_column(title(item_id), ratio=1, overflow="fold")
    sides.add_row("id", *map(Text, told.items))
    for name, (left, right) in told.fields.items():
        sides.add_row(name, Text(left[:400]), Text(right[:400]))
    lines: list[RenderableType] = [sides, Text(f"\ncosine {told.cosine:.3f}")]
    if told.ties:
        by = ", ".join(f"{words(name)} ({weight:.2f})" for name, weight in told.ties)
        lines.append(Text(f"tied by {by}"))
    for heading, rows in (("near both", told.neighbors), ("tied to both", told.tied)):
        lines.append(Text(f"{heading}: {'nothing' if not rows else ''}", style="dim"))
        lines += [Text(f"  {a:6.3f} {b:6.3f}  {title(item_id)}") for item_id, a, b in rows]
    return Group(*lines)


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
    table = _table("What it cost", ("seconds", "right"), ("peak MB", "right"), ("this time", "left"), first="stage")
    table.add_column("result", ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
    for result in results:
        state = "run" if result.state == "done" else "skipped"
        table.add_row(result.name, f"{result.seconds:.1f}", f"{result.peak_mb:,.0f}", state, Text(result.note))
    return table


def verdict_table(verdict: Verdict) -> Table:
    """Return what the guard saw: NDCG@20 with the difference to the base and its interval, and the probe."""
    from llm_tail.evaluation.report import short, signed

    table = _table("NDCG@20 of the texts alone, on validation", first="encoder")
    for segment in verdict.segments:
        table.add_column(f"{segment}\n{verdict.report.n_users[segment]:,} people", justify="right", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    if verdict.probe:
        table.add_column("probe\nMRR", justify="right", no_wrap=True)
    for label in verdict.labels:
        cells = []
        for segment in verdict.segments:
            cell = short(verdict.report.value(label, segment))
            if label != verdict.base:
                gap, _, interval = signed(verdict.difference(label, segment)).partition(" ")
                cell += f" {gap}\n[dim]{escape(interval)}[/]"
            cells.append(cell)
        score = verdict.probes[label]
        cells += [short(verdict.mean(label)), *([short(score.mrr, 3) if score else ""] if verdict.probe else [])]
        table.add_row(Text(label), *cells, style="bold green" if label == verdict.kept else "")
    probe = f"\nprobe: {verdict.probe}" if verdict.probe else ""
    table.caption = escape(f"{verdict}\n[ ] bootstrap 95 % interval of the paired difference to {verdict.base}{probe}")
    table.caption_justify = "left"
    return table


def adapters_table(adapters: Iterable[AdapterInfo]) -> Table:
    """Return the fine-tunings of a run."""
    table = _table(None, first="adapter")
    for name in ("made", "kind", "rank", "kept", "mean N@20", "data", "base"):
        right = name in ("rank", "kept", "mean N@20")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "base", overflow="fold")
    for info in adapters:
        kept = f"{100 * info.strength:g}%" if info.kept else "no"
        table.add_row(
            Text(info.name + (" *" if info.current else "")),
            info.made[:16],
            info.kind,
            "" if info.rank is None else str(info.rank),
            kept,
            f"{info.before:.4f} > {info.after:.4f}",
            info.data[:8],
            Text(info.base.rpartition("/")[2]),
        )
    table.caption, table.caption_justify = "* the run's last one", "left"
    return table


def sweep_table(sweep: Sweep, n_most: int = 10) -> Table:
    """Return the best trials of a search: settings, NDCG@20 of each column, and the encoder as it is below them."""
    from llm_tail.evaluation.report import short

    names = {"learning_rate": "rate", "popularity_correction": "logQ", "temperature": "temp.", "n_pairs": "pairs"}
    shown = [name for name in (sweep.tried[0].settings if sweep.tried else {}) if name != "alpha"]
    table = _table("NDCG@20 of the texts alone, on a sample of validation", first="trial")
    table.padding = (0, 1, 0, 0)  # a dozen columns have to stand beside each other
    for name in [*(names.get(name, name) for name in shown), "update", *sweep.base, "mean"]:
        table.add_column(name, justify="right", no_wrap=True)
    for one in sweep.tried[:n_most]:
        settings = [f"{one.settings[name]:,}" for name in shown]
        values = [*(short(one.ndcg[segment]) for segment in sweep.base), short(one.mean)]
        style = "bold green" if one is sweep.best else ""
        table.add_row(str(one.number), *settings, f"{100 * one.strength:g}%", *values, style=style)
    values = [*(short(value) for value in sweep.base.values()), short(sweep.base_mean)]
    table.add_row("base", *[""] * len(shown), "", *values, style="dim")
    table.caption = (
        f"trial 0 has the settings of the run; {len(sweep.tried)} went to their end, {sweep.n_pruned} were broken off "
        f"because they lagged behind, {sweep.n_failed} failed"
    )
    table.caption_justify = "left"
    return table


def value_table(report: ValueReport, taken: Choice | None = None) -> Table:
    """Return what each choice of embedding costs and gives; those on the front are bold, the one to take is green."""
    from llm_tail.evaluation.report import short

    table = _table("What a million items cost, and NDCG@20 of the texts alone, on validation", first="runtime")
    table.expand, table.padding = False, 0  # fourteen columns have to stand beside each other
    costs = ("texts\n/s", "peak\nMB", "", "width", "format", "MB", "s", report.settings.currency)
    for name in (*costs, *report.segments, *(["kept"] if report.segments else [])):
        table.add_column(name, justify="left" if name in ("format", "") else "right", no_wrap=True)
    on_front, before = {choice.label for choice in report.front}, ""
    for one in report.choices:
        same = one.runtime == before
        if before and not same:
            table.add_section()
        is_taken = taken is not None and one.label == taken.label
        mark = ">" if is_taken else "*" if one.label in on_front else ""
        cells = ["", "", ""] if same else [one.runtime, f"{one.texts_per_s:,.0f}", f"{one.peak_mb:,.0f}"]
        cells += [mark, f"{one.dim}", one.storage, f"{one.mb:,.0f}", f"{one.seconds:,.0f}", f"{one.money:.2g}"]
        cells += [short(one.ndcg[segment]) for segment in report.segments]
        cells += ["" if one.share is None else f"{one.share:.1%}"] if report.segments else []
        table.add_row(*cells, style="bold green" if is_taken else "bold" if mark else "dim")
        before = one.runtime
    remarks = ["* on the front: nothing is as good and costs less; > the one to take", *report.remarks()]
    table.caption, table.caption_justify = escape("\n".join(remarks)), "left"
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


def _table(title: str | None, *columns: tuple[str, Literal["left", "right"]], first: str = "") -> Table:
    """Return a table whose given columns are never squeezed; those added later with a ratio share the rest."""
    table = Table(title=None if title is None else escape(title), title_justify="left", title_style="bold")
    table.box, table.show_edge, table.pad_edge = box.SIMPLE_HEAD, False, False
    table.expand = True  # only then do the flexible columns leave the others alone
    table.add_column(first, justify="left" if first else "right", no_wrap=True, style="" if first else "dim")
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)
    return table


def _add_ids(table: Table, ids: Sequence[str]) -> None:
    """Add the last column; an id is to be copied, so a long one is folded and never cut."""
    short = all(len(item_id) <= SHORT_ID for item_id in ids)
    table.add_column("id", style="dim", no_wrap=short, overflow="fold", ratio=None if short else 3)


def words(name: str) -> str:
    """Return a relation's name as words."""
    return name.replace("_", " ")
