"""``llm-tail audit``, ``pretrain``, ``finetune``, ``embed``, ``index``, ``graph``, ``fit``: one stage each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, open_workspace, out, print_json, say
from llm_tail.cli.run import tell
from llm_tail.progress import is_first_process

if TYPE_CHECKING:
    from llm_tail.workspace import StageResult, Workspace


class Stage(NamedTuple):
    """A stage's verb: what it does in a line, and the settings that it listens to."""

    name: str
    help: str
    tables: tuple[str, ...]


VERBS = (
    Stage("audit", "Say what is wrong with the data, before an hour is spent on it.", ("data", "text")),
    Stage("pretrain", "Adapt the encoder to the catalogue's own text, before fine-tuning.", ("pretrain", "text")),
    Stage("finetune", "Fine-tune the encoder with LoRA on what people took together.", ("lora",)),
    Stage("embed", "Turn item texts into vectors; again only for what changed.", ("text", "encoder", "embedding")),
    Stage("index", "Build the neighbour index over the vectors.", ("index",)),
    Stage("graph", "Tie the items by meaning, by shared values, and by who took them.", ("graph",)),
    Stage("fit", "Fit the recommender.", ("split", "hybrid")),
)


def verb(stage: Stage) -> Callable[..., None]:
    """Return the function behind a stage's verb."""

    def run_one(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
        from llm_tail.show import verdict_table
        from llm_tail.workspace.adapters import verdict_of

        workspace = open_workspace(config, overrides)
        result = run_stage(workspace, stage.name)
        if not is_first_process():
            return
        if as_json:
            print_json({**asdict(result), **_details(workspace, stage.name)})
        elif stage.name == "audit":
            out().print(workspace.audit)
        else:
            out().print(result.note, markup=False, highlight=False)
            if stage.name == "finetune":
                out().print(verdict_table(verdict_of(workspace)))
        if stage.name == "audit" and not workspace.audit.ok:
            raise typer.Exit(1)

    run_one.__doc__ = stage.help
    return run_one


def run_stage(workspace: Workspace, name: str) -> StageResult:
    """Run one stage and say on stderr what it cost."""
    result = workspace.run_stage(name)
    tell(name, result)
    if result.state == "skipped":
        say(f"  nothing to do: made from the same data and settings on {result.finished}")
    return result


def _details(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return what JSON readers get beside the cost of a stage."""
    if name == "audit":
        return {"audit": workspace.audit.to_dict()}
    if name == "graph":
        return {"report": workspace.graph.report().to_dict()}
    if name == "finetune":
        from llm_tail.workspace.adapters import verdict_of

        return {"verdict": verdict_of(workspace).to_dict()}
    return {"training": workspace.hybrid.training} if name == "fit" else {}
