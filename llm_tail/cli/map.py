"""``llm-tail map``: a place in two dimensions for every item, kept for the page, and drawn on request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, open_workspace, out, print_json, say


def catalog_map(
    config: ConfigFile,
    path: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Draw it: .png, .svg or .pdf (extra plot).")
    ] = None,
    by: Annotated[
        Literal["community", "segment"], typer.Option(help="What the colours of the picture say.")
    ] = "community",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Lay the catalogue out in two dimensions, near items near each other, with communities that have names."""
    from llm_tail.plots import check_picture

    if path is not None:
        check_picture(path)
    places = open_workspace(config, overrides).map
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        places.plot(by).savefig(path, dpi=150)
        say(f"drawn: {path}")
    if as_json:
        print_json(places.to_frame().to_dict("records"))
    else:
        out().print(repr(places), markup=False, highlight=False)
