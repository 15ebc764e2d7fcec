"""``llm-tail value``: what each choice of embedding costs and gives, and which one to take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, fail, open_workspace, out, print_json, say

if TYPE_CHECKING:
    from llm_tail.evaluation.pareto import Advice, Choice

Money = Annotated[float | None, typer.Option("--budget-money", help="Most money for a million items.")]
Seconds = Annotated[float | None, typer.Option("--budget-seconds", help="Most seconds for a million items.")]
Room = Annotated[float | None, typer.Option("--budget-mb", help="Most MB on disk for a million items.")]
Picture = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Draw it too, into a .png, .svg or .pdf (extra plot).")
]


def value(
    config: ConfigFile,
    money: Money = None,
    seconds: Seconds = None,
    mb: Room = None,
    picture: Picture = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each runtime, width and number format costs and gives, and say which one to take.

    The best within a budget or, without one, the cheapest that keeps nearly all of the best quality. Goes on where it
    stopped; what has not changed is not measured again.
    """
    from llm_tail.evaluation.pareto import Budget
    from llm_tail.plots import check_picture, draw_value
    from llm_tail.show import value_table
    from llm_tail.workspace.value import value

    budget = Budget(money, seconds, mb).checked()
    if picture is not None:
        check_picture(picture)
    report = value(open_workspace(config, overrides))
    advice = report.advise(budget)
    told = report.told(advice, budget)
    lines = "" if advice.choice is None else report.lines_for(advice.choice)
    if picture is not None:
        draw_value(report, picture, advice.choice)
        say(f"  the picture is in {picture}")
    if as_json:
        print_json({**report.to_dict(), "advice": {**_words(advice), "told": told, "toml": lines}})
    else:
        out().print(value_table(report, advice.choice))
    if advice.nearest is not None:
        fail(told)
        raise typer.Exit(1)
    if not as_json:
        out().print(f"\n{told}\n\n{lines}".rstrip(), markup=False, highlight=False, soft_wrap=True)


def _words(advice: Advice) -> dict[str, Any]:
    """Return a piece of advice as JSON-like values."""

    def one(choice: Choice | None) -> dict[str, Any] | None:
        return None if choice is None else choice.to_dict()

    found = {"choice": one(advice.choice), "best": one(advice.best), "nearest": one(advice.nearest)}
    return {**found, "excess": advice.excess}
