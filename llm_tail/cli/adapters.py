"""``llm-tail adapters``, ``compare``, ``export``: what comes after fine-tuning."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, open_workspace, out, print_json, say
from llm_tail.errors import StaleArtifactError

Named = "base, current, the name of an adapter or its beginning, or the folder of one."


def adapters(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List the run's fine-tuned encoders, newest first: the last one and those before it."""
    from llm_tail.show import adapters_table
    from llm_tail.workspace.adapters import list_adapters

    workspace = open_workspace(config, overrides)
    found = list_adapters(workspace)
    if as_json:
        print_json([asdict(info) for info in found])
    elif found:
        out().print(adapters_table(found))
    else:
        raise StaleArtifactError(f"this run has no fine-tuned encoder yet; run: llm-tail finetune {workspace.source}")


def compare(
    config: ConfigFile,
    first: Annotated[str, typer.Argument(metavar="ADAPTER", help=Named.capitalize())],
    second: Annotated[str, typer.Argument(metavar="[ADAPTER]", help="The one to hold it against.")] = "base",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Hold a fine-tuned encoder against the base or another one, by the guard's table."""
    from llm_tail.show import verdict_table
    from llm_tail.workspace.adapters import compare_adapters

    verdict = compare_adapters(open_workspace(config, overrides), second, first)
    if as_json:
        print_json(verdict.to_dict())
    else:
        out().print(verdict_table(verdict))


def export(
    config: ConfigFile,
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="A new folder, or a former export.")],
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="ADAPTER", help=f"Not what the run uses, but {Named}")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push", metavar="NAME", help="Upload it to the model hub too; the token is taken from HF_TOKEN."
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see what is uploaded.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the run's encoder as a plain sentence-transformers folder with a model card, and upload it on request."""
    if public and push is None:
        raise typer.BadParameter("--public says who may see what --push NAME uploads; give both")
    from llm_tail.embedding.hub import check_hub, push_folder
    from llm_tail.workspace.export import export_encoder

    token = "" if push is None else check_hub(push)  # before the minutes that loading and writing may take
    workspace = open_workspace(config, overrides)
    written = export_encoder(workspace, folder, adapter, made=time.strftime("%Y-%m-%d"))
    address = None if push is None else push_folder(written, push, token, private=not public)
    if as_json:
        print_json({"folder": str(written), "address": address})
        return
    say(f"  loads with SentenceTransformer({str(written)!r}); what it is stands in README.md there")
    out().print(address or str(written), markup=False, highlight=False, soft_wrap=True)
