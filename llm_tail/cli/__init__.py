"""The command line: one small file a verb. Results go to stdout; progress, logs and errors to stderr.

Exit codes: 0 fine, 1 a failure that was foreseen (one clear line), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import typer

from llm_tail.cli import (
    adapters,
    bench,
    config,
    demo,
    enrich,
    evaluate,
    explain,
    explore,
    map,
    recommend,
    related,
    review,
    run,
    serve,
    similar,
    stages,
    sweep,
    value,
)
from llm_tail.cli.common import Verbs, settings_help

app = typer.Typer(
    cls=Verbs,
    help="Bring cold and long-tail items to their readers.",
    epilog="Start with: llm-tail demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_WAY, _ASK = "The whole way", "Asking"
_STAGE = "One stage at a time"
_TUNED = "After fine-tuning"

app.command("demo", rich_help_panel=_WAY)(demo.demo)
app.command("run", rich_help_panel=_WAY)(run.run)
app.command("config", rich_help_panel=_WAY)(config.config)
for _stage in stages.VERBS:
    app.command(_stage.name, rich_help_panel=_STAGE, epilog=settings_help(*_stage.tables))(stages.verb(_stage))
app.command("enrich", rich_help_panel=_STAGE, epilog=settings_help("enrichment"))(enrich.enrich)
app.command("review", rich_help_panel=_STAGE)(review.review)
app.command("evaluate", rich_help_panel=_STAGE, epilog=settings_help("evaluation"))(evaluate.evaluate)
app.command("sweep", rich_help_panel=_STAGE)(sweep.sweep)
app.command("bench", rich_help_panel=_STAGE, epilog=settings_help("bench"))(bench.bench)
app.command("value", rich_help_panel=_STAGE, epilog=settings_help("value"))(value.value)
app.command("adapters", rich_help_panel=_TUNED)(adapters.adapters)
app.command("compare", rich_help_panel=_TUNED)(adapters.compare)
app.command("export", rich_help_panel=_TUNED)(adapters.export)
app.command("similar", rich_help_panel=_ASK)(similar.similar)
app.command("related", rich_help_panel=_ASK)(related.related)
app.command("export-graph", rich_help_panel=_ASK)(related.export_graph)
app.command("map", rich_help_panel=_ASK)(map.catalog_map)
app.command("recommend", rich_help_panel=_ASK)(recommend.recommend)
app.command("explain", rich_help_panel=_ASK)(explain.explain)
app.command("explore", rich_help_panel=_ASK)(explore.explore)
app.command("serve", rich_help_panel=_ASK, epilog=settings_help("serve"))(serve.serve)


def main() -> None:
    """Run the command line; the entry point of ``llm-tail``."""
    app(prog_name="llm-tail")
