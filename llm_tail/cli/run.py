"""``llm-tail run``: all stages, the finished ones skipped."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, open_workspace, out, print_json, say
from llm_tail.errors import DataError

if TYPE_CHECKING:
    from llm_tail.workspace import StageResult, Workspace


def run(
    config: ConfigFile,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="The last stage to run.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run all stages; finished ones are skipped.

    A stage is finished when its result was made from the same data and settings. Ctrl-C loses the stage at hand at
    most; the same command goes on from there.
    """
    from llm_tail.show import stage_table

    workspace = open_workspace(config, overrides)
    results = run_stages(workspace, until)
    if as_json:
        print_json([asdict(result) for result in results])
        return
    console = out()
    if results[-1].name == "evaluate":
        with contextlib.suppress(DataError):  # nothing was held out: the stage has said so
            console.print(workspace.report)
    console.print(stage_table(results))


def run_stages(workspace: Workspace, until: str | None = None) -> list[StageResult]:
    """Run the stages and say on stderr what is going on."""
    started = time.perf_counter()
    results = workspace.run(until, on_stage=tell)
    n_done = sum(result.state == "done" for result in results)
    spent = f"{n_done} of {len(results)} stages run in {time.perf_counter() - started:.1f} s"
    say(f"{spent if n_done else 'nothing to do: all stages were finished before'}; results are in {workspace.folder}")
    return results


def tell(name: str, result: StageResult | None) -> None:
    """Say on stderr that a stage begins or has ended."""
    if result is None:
        return
    if result.state == "skipped":
        say(f"  {name:<9} finished before")
    else:
        say(f"  {name:<9} {result.seconds:7.1f} s  {result.note}")
