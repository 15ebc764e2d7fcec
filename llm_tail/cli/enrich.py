"""``llm-tail enrich``: words for items that have too few."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, open_workspace, out, print_json, say
from llm_tail.cli.stages import run_stage


def enrich(
    config: ConfigFile,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked and what it would cost; ask nobody.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Give words to items that have too few: asked of a language model, or taken from the catalogue itself.

    What was answered is kept and never paid for twice; a run that was killed, or whose budget is spent, goes on with
    the same command.
    """
    from llm_tail.enrichment.enrich import forecast
    from llm_tail.enrichment.limits import in_words
    from llm_tail.workspace import enriching
    from llm_tail.workspace.generated import ENRICHED, answers_folder

    workspace = open_workspace(config, overrides)
    settings = workspace.config.enrichment
    if dry_run:
        answers = answers_folder(workspace.config)
        backend = enriching.backend_of(workspace)
        n, tokens_in, tokens_out, money = forecast(
            workspace.source_catalog, backend, settings, folder=answers, **enriching.inputs(workspace)
        )
        found = {"questions": n, "tokens_in": tokens_in, "tokens_out": tokens_out, "money": money}
        if as_json:
            print_json({**found, "currency": settings.currency})
            return
        cost = f", at most {tokens_in:,} tokens out and {tokens_out:,} back, {in_words(money)} {settings.currency}"
        out().print(f"{n:,} questions to ask{cost if backend.costs else ''}", markup=False, highlight=False)
        return
    if "enrich" in workspace.record and not enriching.is_complete(workspace.folder / ENRICHED):
        workspace.record.forget("stages", "enrich")  # it went on without some answers: ask for them now
    result = run_stage(workspace, "enrich")
    if as_json:
        print_json({**asdict(result), **enriching.facts_of(workspace)})
        return
    out().print(result.note, markup=False, highlight=False)
    if "set aside" in result.note:
        say(f"  look at what was set aside with: llm-tail review {workspace.source}")
