"""``llm-tail recommend``: what to show to people, known or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_tail.artifacts import replacing
from llm_tail.cli.common import (
    AsJson,
    ConfigFile,
    History,
    HowMany,
    Overrides,
    open_workspace,
    out,
    print_json,
    read_ids,
    say,
    split_ids,
)
from llm_tail.errors import ConfigError

if TYPE_CHECKING:
    from llm_tail.recommenders.base import Recommendations
    from llm_tail.workspace import Workspace

ITEMS_SHOWN = 50  # people in a table; the rest is for --out


def recommend(
    config: ConfigFile,
    users: Annotated[list[str] | None, typer.Argument(metavar="[USER]...", help="Known people.")] = None,
    users_file: Annotated[Path | None, typer.Option("--users", help="Text file of people, one id a line.")] = None,
    history: History = None,
    candidates: Annotated[Path | None, typer.Option(help="Text file of the only items to recommend.")] = None,
    model: Annotated[str, typer.Option(help="The hybrid, or a baseline such as ease, l3ae, content.")] = "hybrid",
    k: HowMany = 20,
    output: Annotated[Path | None, typer.Option("--out", help="Write a .parquet or .csv file.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Recommend items to people, to everyone in a file, or to whoever took some items.

    What a person has in training or validation is never recommended to them. People in a file who are not known are
    given what most people take, and their number is said.
    """
    n_ways = sum(way is not None and way != [] for way in (users, users_file, history))
    if n_ways != 1:
        raise typer.BadParameter("say for whom, in one way: USER..., --users FILE or --history a,b")
    if output is not None and output.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"--out {output} ends in {output.suffix!r}, expected .parquet or .csv")
    wanted = read_ids(users_file) if users_file else list(users or ())
    allowed = read_ids(candidates) if candidates else None
    workspace = open_workspace(config, overrides)
    recommender = workspace.model(model)
    if history is not None:
        found = recommender.recommend(history=split_ids(history, recommender.items), k=k, candidates=allowed)
    else:
        unknown: Any = "popular" if users_file else "raise"
        found = recommender.recommend(wanted, k=k, candidates=allowed, unknown=unknown)
    n_popular = int(found.from_popularity.sum())
    if n_popular:
        say(f"{n_popular:,} of {len(found):,} people are not known or took nothing; they are given popular items")
    _give(workspace, found, output, as_json)


def _give(workspace: Workspace, found: Recommendations, output: Path | None, as_json: bool) -> None:
    if output is not None:
        frame = found.to_frame()
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as whole:  # a full disk leaves no half of a list behind
            frame.to_csv(whole, index=False) if output.suffix == ".csv" else frame.to_parquet(whole, index=False)
        say(f"{len(frame):,} recommendations to {len(found):,} people written to {output}")
    if as_json:
        print_json([_plain(workspace, found, n) for n in range(len(found))])
    elif output is None:
        from llm_tail.show import items_table

        for n, user in list(enumerate(found.users))[:ITEMS_SHOWN]:
            out().print(items_table(workspace, found[n], "score", title=f"For {user}" if user else "For this history"))
        if len(found) > ITEMS_SHOWN:
            say(f"{len(found) - ITEMS_SHOWN:,} more people are not shown; --out FILE writes them all")


def _plain(workspace: Workspace, found: Recommendations, n: int) -> dict[str, Any]:
    title = workspace.catalog.title
    return {
        "user_id": found.users[n] or None,
        "from_popularity": bool(found.from_popularity[n]),
        "items": [
            {"item_id": item_id, "title": title(item_id), "rank": rank, "score": score}
            for rank, (item_id, score) in enumerate(found[n], 1)
        ],
    }
