"""``llm-tail sweep``: which settings of fine-tuning suit this catalogue."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, open_workspace, out, print_json, say


def sweep(
    config: ConfigFile,
    minutes: Annotated[float, typer.Option("--minutes", help="When to stop.")] = 30.0,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Most trials of this call.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Search the settings of fine-tuning that rank validation best; the same command goes on where it stopped.

    Rank, learning rate, temperature, balance, popularity correction and number of pairs. The test part stays unseen.
    """
    from llm_tail.show import sweep_table
    from llm_tail.workspace.search import sweep

    found = sweep(open_workspace(config, overrides), minutes, trials)
    best, console = found.best, out()
    if as_json:
        tried = [{**asdict(one), "mean": one.mean} for one in found.tried]
        print_json({**asdict(found), "tried": tried, "best": best.settings if best else None})
        return
    console.print(sweep_table(found))
    if best is None:
        say("none of them ranks better than the encoder as it is; try more minutes, or other [lora] pairs")
        return
    say("the best, to be put into the config file; the guard judges it on all of validation when it is fine-tuned:")
    console.print(found.to_toml(), markup=False, highlight=False, soft_wrap=True)
