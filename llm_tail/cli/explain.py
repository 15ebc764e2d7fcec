"""``llm-tail explain``: why an item would be recommended to somebody."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_tail.cli.common import (
    AsJson,
    ConfigFile,
    History,
    Item,
    Overrides,
    open_workspace,
    out,
    print_json,
    split_ids,
)
from llm_tail.errors import DataError


def explain(
    config: ConfigFile,
    item_id: Item,
    user: Annotated[str | None, typer.Option("--user", metavar="USER", help="A known person.")] = None,
    history: History = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many reasons of each kind.")] = 5,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show why an item would be recommended: its own past, what it borrows and from whom, and its text.

    Without a person or a history it is the one whom the item fits best.
    """
    if user is not None and history is not None:
        raise typer.BadParameter("give --user or --history, not both")
    from llm_tail.show import explanation

    hybrid = (workspace := open_workspace(config, overrides)).hybrid
    taken = None if history is None else split_ids(history, hybrid.items)
    if user is None and taken is None:
        people = hybrid.audience(item_id, k=1)
        if not people:
            raise DataError(f"everybody who took something has {item_id!r} already; give --user or --history")
        user = people[0][0]
    told = hybrid.explain(item_id, user=user, history=taken, n=n)
    if as_json:
        print_json(told.to_dict())
    else:
        out().print(f"for {user}" if user else "for this history", style="dim", markup=False)
        out().print(explanation(workspace, told))
