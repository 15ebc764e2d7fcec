"""``llm-tail demo``: the whole path on the books that ship with the package, then five cold books and why."""

from __future__ import annotations

import time
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llm_tail.cli.common import out, program, say
from llm_tail.cli.run import run_stages
from llm_tail.config import DEFAULT_ENCODER, RunConfig

if TYPE_CHECKING:
    from llm_tail.evaluation.report import Report
    from llm_tail.recommenders.hybrid import Explanation
    from llm_tail.workspace import Workspace

N_BOOKS, N_READERS, N_LENDERS, N_REASONS = 5, 3, 3, 2
RIVALS = ["popularity", "content", "item-knn", "ease", "l3ae"]
BAR = 30


def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path("runs/books"),
    lora: Annotated[bool, typer.Option("--lora/--no-lora", help="Fine-tune the encoder first.")] = False,
) -> None:
    """Run the whole path on the shipped books, then show five cold ones and why they are recommended.

    The books are real, their readers are simulated.
    """
    from llm_tail.workspace import Workspace

    started = time.perf_counter()
    console, config = out(), write_books(folder, lora=lora)
    workspace = Workspace.open(config)
    n_books = len(workspace.catalog)
    console.print(Text(f"{n_books:,} real books, simulated readers. Some books have no reader yet: they are cold."))
    run_stages(workspace)
    console.print()
    console.print(results(workspace.report))
    console.print(Text("\nCold books, and why they would be recommended", style="bold"))
    for item_id in cold_books(workspace):
        console.print(book_panel(workspace, item_id))
    console.print(next_steps(workspace, config))
    say(f"the demo took {time.perf_counter() - started:.0f} s")


def write_books(folder: Path, *, lora: bool = False) -> Path:
    """Write the shipped books, their simulated readers and a config file into a folder; return the config file."""
    from llm_tail.data.books import load_books

    catalog, readings = load_books()
    folder.mkdir(parents=True, exist_ok=True)
    catalog.save(folder / "books.parquet")
    readings.to_frame().to_parquet(folder / "readings-simulated.parquet", index=False)
    config = RunConfig(
        folder="run",
        data={"catalog": "books.parquet", "interactions": "readings-simulated.parquet"},
        encoder={"name": DEFAULT_ENCODER},
        lora={"enabled": lora, "n_pairs": 3200},
        graph={"relations": ["author", "series", "subjects"]},
        evaluation={"k": [10], "models": RIVALS},
    )
    said = "# The books are real, their readers are simulated. `llm-tail config` says what each setting means.\n"
    path = folder / "books.toml"
    path.write_text(said + config.to_toml(), encoding="utf-8")
    return path


def results(report: Report) -> Table:
    """Return a short table: recall and NDCG of every model on warm, tail, cold and all books."""
    k = report.k[-1]
    table = Table(title=f"Simulated readers: recall@{k} / NDCG@{k}", title_justify="left", title_style="bold")
    table.add_column("")
    for segment in report.segments:
        table.add_column(segment, justify="right")
    for model in report.models:
        cells = []
        for segment in report.segments:
            parts = []
            for metric in (f"recall@{k}", f"ndcg@{k}"):
                best = report.best(segment, metric) == model
                parts.append(Text(f"{report.value(model, segment, metric):.3f}", style="bold green" if best else ""))
            cells.append(Text(" / ").join(parts))
        table.add_row(Text(model, style="bold" if model == "hybrid" else ""), *cells)
    return table


def cold_books(workspace: Workspace) -> list[str]:
    """Return the cold books that fit somebody best: of each author one, those that a title and a text tell apart."""
    hybrid, segments = workspace.hybrid, workspace.split.segments
    fitting = []
    for row, is_cold in enumerate(segments.cold):
        item_id = workspace.catalog.ids[row]
        if is_cold and (people := hybrid.audience(item_id, k=N_READERS)):
            fitting.append((people[0][1], item_id))
    chosen: dict[str, str] = {}
    for _, item_id in sorted(fitting, reverse=True):
        chosen.setdefault(author_of(workspace, item_id) or item_id, item_id)
    return list(chosen.values())[:N_BOOKS]


def book_panel(workspace: Workspace, item_id: str) -> Panel:
    """Return one cold book: its would-be readers, where their signal came from, and the shares of the score."""
    hybrid, title = workspace.hybrid, workspace.catalog.title
    told: list[Explanation] = [hybrid.explain(item_id, user=user) for user, _ in hybrid.audience(item_id, k=N_READERS)]
    lines: list[RenderableType] = [shares(told[0])]
    lenders = Table.grid(padding=(0, 1))
    for lender, weight in told[0].neighbors[:N_LENDERS]:
        if weight < 0.01:
            break
        lenders.add_row(Text(f"{weight:5.0%}"), Text(title(lender)), Text(author_of(workspace, lender), style="dim"))
    lines += [Text("lent by its semantic neighbours", style="dim"), lenders, Text("would be shown to", style="dim")]
    for reason in told:
        read = ", ".join(shorten(title(owned), 32, placeholder="…") for owned, _ in reason.because[:N_REASONS])
        line = Text(f"{reason.user} (simulated)", style="cyan", overflow="ellipsis", no_wrap=True)
        lines.append(Padding(line.append(f" who read {read}", style="default"), (0, 0, 0, 2)))
    heading = f"[bold]{escape(title(item_id))}[/]  {escape(author_of(workspace, item_id))}"
    return Panel(Group(*lines), title=heading, title_align="left")


def shares(told: Explanation) -> Text:
    """Return a bar of what the score is made of."""
    parts = (
        ("own past", told.own, "█", "green"),
        ("borrowed", told.borrowed, "▓", "magenta"),
        ("text", told.text, "░", "blue"),
    )
    total = sum(abs(value) for _, value, _, _ in parts) or 1.0
    line = Text()
    for _, value, block, colour in parts:
        line.append(block * round(BAR * abs(value) / total), style=colour)
    for name, value, block, colour in parts:
        line.append(f"  {block} {name} {abs(value) / total:.0%}", style=colour)
    return line


def author_of(workspace: Workspace, item_id: str) -> str:
    """Return who wrote a book, as far as the catalogue knows."""
    fields = workspace.catalog[item_id].fields
    found = fields.get("author", fields.get("authors", ""))
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


def next_steps(workspace: Workspace, config: Path) -> Panel:
    """Return the commands to type next."""
    some = cold_books(workspace)[0]
    reader, tool = workspace.split.users[0], program()
    commands = (
        (f"{tool} explore {config}", "ask again and again"),
        (f"{tool} serve {config}", "look around in a browser, at http://127.0.0.1:8000 (extra: serve)"),
        (f'{tool} similar {config} "a detective on the moor"', "find books by words"),
        (f"{tool} explain {config} {some}", "why a book is recommended"),
        (f"{tool} recommend {config} {reader}", "what to show to a simulated reader"),
        (f"{tool} demo --lora", "all of this with an encoder fine-tuned on the simulated readers; a minute more"),
        (f"{tool} config > my-shop.toml", "your own catalogue: write all settings to a file, name your data in it"),
        (f"{tool} run my-shop.toml", "then run the whole path on it"),
    )
    lines = [Text(why, style="dim").append(f"\n  {command}", style="not dim bold") for command, why in commands]
    return Panel(Group(*lines), title="Next", title_align="left")
