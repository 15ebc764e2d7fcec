"""``llm-tail bench``: ours and all peers on the same cuts, with the same budget of tuning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_tail.cli.common import AsJson, Overrides, open_workspace, out, print_json, say

if TYPE_CHECKING:
    from llm_tail.evaluation.compare import Result

Words = Annotated[list[str], typer.Argument(metavar="CONFIG...", help="The TOML files that describe the runs.")]
Models = Annotated[str | None, typer.Option("--models", metavar="A,B", help="Who is compared; all there are if empty.")]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="0 1 2", help="One cut of the data for each.")]
Trials = Annotated[
    int | None, typer.Option("--trials", min=0, help="Settings tried for each model; 0: defaults alone.")
]
Minutes = Annotated[float | None, typer.Option("--minutes", min=0, help="No new trial of a model after this time.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables as Markdown.")]
Picture = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Draw the (mean) table: png, svg or pdf.")]


def bench(
    words: Words,
    seeds: Seeds = None,
    models: Models = None,
    trials: Trials = None,
    minutes: Minutes = None,
    markdown: MarkdownFile = None,
    picture: Picture = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare ours with all peers: same cuts, same budget of tuning, same judge; goes on where it stopped.

    Several CONFIGs give a table each and one of the means.
    """
    from llm_tail.plots import check_picture, draw_bench
    from llm_tail.workspace import bench as room

    if picture is not None:
        check_picture(picture)
    configs, cuts = sorted_out(words, seeds)
    given: dict[str, object] = {"bench.trials": trials, "bench.minutes": minutes, "bench.seeds": cuts or None}
    if models is not None:
        given["bench.models"] = [name for part in models.split(",") if (name := part.strip())]
    said = [f"{key}={_toml(value)}" for key, value in given.items() if value is not None]
    workspaces = [open_workspace(config, [*(overrides or ()), *said]) for config in configs]
    settings = workspaces[0].config
    how = {"n_bootstrap": settings.bench.n_bootstrap, "seed": settings.seed, "k": settings.bench.k}
    benches, tables = [], []
    for workspace, name in zip(workspaces, names(configs), strict=True):
        benches.append(room.bench(workspace, name, tell))
        for note in benches[-1].notes:
            say(f"  {name}: {note}")
        tables.append(room.table_of(benches[-1:], **how))
        room.save_table(tables[-1], workspace.folder / "bench")
    if len(benches) > 1:
        tables.append(room.table_of(benches, **how))
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text("\n".join(table.to_markdown() for table in tables), encoding="utf-8")
    if picture is not None:
        draw_bench(tables[-1], picture)
    if as_json:
        print_json([table.to_dict() for table in tables])
    else:
        for table in tables:
            out().print(table)


def tell(result: Result) -> None:
    """Say on stderr what a model came to, as soon as it is there: a whole comparison may take hours."""
    from llm_tail.evaluation.report import short

    ndcg = next(metric for one in result.rankings.values() for metric in one.values if metric.startswith("ndcg@"))
    figures = " ".join(f"{segment} {short(result.mean(segment, ndcg))}" for segment in result.rankings)
    spent = sum(result.facts[name] for name in ("tune_seconds", "fit_seconds", "score_seconds"))
    say(f"  {result.model:<24} seed {result.seed} {spent:7.1f} s  {ndcg}: {figures}")


def sorted_out(words: Sequence[str], seeds: str | None) -> tuple[list[Path], list[int]]:
    """Return the config files and the seeds.

    An option takes one word, so that of ``--seeds 0 1 2`` the 1 and the 2 arrive among the configs.

    Examples
    --------
    >>> configs, numbers = sorted_out(["shop.toml", "1", "2"], "0")
    >>> [path.name for path in configs], numbers
    (['shop.toml'], [0, 1, 2])
    """
    stray = [] if seeds is None else [word for word in words if word.isdigit() and not Path(word).exists()]
    configs = [Path(word) for word in words if word not in stray]
    parts = [part for part in re.split(r"[,\s]+", " ".join([seeds or "", *stray])) if part]
    if not all(part.isdigit() for part in parts):
        raise typer.BadParameter(f"--seeds {seeds}: expected whole numbers from 0, such as --seeds 0 1 2")
    if not configs:
        raise typer.BadParameter("name at least one config file")
    return configs, [int(part) for part in parts]


def names(configs: Sequence[Path]) -> list[str]:
    """Return what each data set is called: the name of its config file, with its folder where two are alike.

    Examples
    --------
    >>> names([Path("a/shop.toml"), Path("b/run.toml"), Path("c/run.toml")])
    ['shop', 'b/run', 'c/run']
    """
    stems = Counter(path.stem for path in configs)
    return [path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}/{path.stem}" for path in configs]


def _toml(value: object) -> str:
    return str(value).replace("'", '"') if isinstance(value, list) else str(value)
