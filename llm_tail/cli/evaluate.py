"""``llm-tail evaluate``: how good the recommender is, beside the baselines."""

from __future__ import annotations

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, open_workspace, out, print_json
from llm_tail.cli.stages import run_stage


def evaluate(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Judge the recommender and the baselines on the test part: head, tail and cold apart."""
    workspace = open_workspace(config, overrides)
    run_stage(workspace, "evaluate")
    if as_json:
        print_json(workspace.report.to_dict())
    else:
        out().print(workspace.report)
