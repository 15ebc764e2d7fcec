"""``llm-tail config``: every setting, its value and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tomli_w
import typer
from pydantic import BaseModel

from llm_tail.cli.common import AsJson, Overrides, print_json
from llm_tail.config import RunConfig


def config(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="The run to show; the defaults if left out.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Print every setting there is, with its value in this run and what it means.

    The output is a TOML file itself: a start for your own.
    """
    settings = RunConfig() if config is None else RunConfig.load(config)
    settings = settings.overridden(overrides or ())
    if as_json:
        print_json(settings.model_dump())
    else:
        typer.echo("\n".join(_lines(settings)))


def _lines(settings: BaseModel, table: str = "") -> list[str]:
    """Return a table's settings as commented TOML, its own keys before the tables inside it."""
    fields = type(settings).model_fields
    inner = {name for name in fields if isinstance(getattr(settings, name), BaseModel)}
    lines = [f"\n[{table}]"] if table else []
    for name, field in fields.items():
        if name in inner:
            continue
        value = getattr(settings, name)
        lines.append(f"# {field.description}")
        lines.append(f"# {name} =" if value is None else _assignment(name, value))
    for name in fields:
        if name in inner:
            lines += _lines(getattr(settings, name), name)
    return lines


def _assignment(name: str, value: object) -> str:
    if isinstance(value, dict):  # inline, so that the order of the settings is kept
        pairs = ", ".join(tomli_w.dumps({str(k): v}).strip() for k, v in value.items())
        return f"{name} = {{{pairs}}}"
    return " ".join(tomli_w.dumps({name: value}).split("\n")).strip()
