"""What all verbs share: their options, how they end, where they write."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import warnings
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from llm_tail.config import RunConfig
from llm_tail.errors import DataError, LlmTailError
from llm_tail.progress import is_first_process

if TYPE_CHECKING:
    from llm_tail.workspace import Workspace

WIDTH = 100  # of what goes into a pipe or a file, where there is no terminal to ask

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The TOML file that describes the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a setting; may be given again and again."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
HowMany = Annotated[int, typer.Option("-k", min=1, help="How many.")]
Item = Annotated[str, typer.Argument(metavar="ITEM_ID", help="The id of an item.")]
History = Annotated[
    str | None, typer.Option("--history", metavar="A,B", help="Items that a person took, known or not; no refit.")
]


class Verbs(TyperGroup):
    """A group of verbs that turns what may go wrong into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
                return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone, as `head` does; nothing is wrong
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except LlmTailError as error:
            fail(str(error))
            raise typer.Exit(1) from None
        except OSError as error:
            fail(in_words(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("\ninterrupted; what was finished is kept, and the same command goes on from there")
            raise typer.Exit(130) from None


def program() -> str:
    """Return how this tool is called from here: by its name where the shell finds it, else by its path."""
    if shutil.which("llm-tail"):
        return "llm-tail"
    called = Path(sys.argv[0])
    if called.name != "llm-tail":
        return "python -m llm_tail"
    return str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called)


def open_workspace(config: Path, overrides: Sequence[str] | None) -> Workspace:
    """Open the run of a config file."""
    from llm_tail.workspace import Workspace

    return Workspace.open(config, overrides or ())


def out() -> Console:
    """Return the console for results."""
    return _console(stderr=False)


def err() -> Console:
    """Return the console for everything else."""
    return _console(stderr=True)


def say(line: str) -> None:
    """Write a plain line to stderr; of several processes the first one speaks."""
    if is_first_process():
        err().print(line, markup=False, highlight=False, soft_wrap=True)


def fail(line: str) -> None:
    """Write what went wrong to stderr."""
    err().print(f"[bold red]error:[/] {escape(line)}", highlight=False, soft_wrap=True)


def in_words(error: OSError) -> str:
    """Return what the system refused, at which file, and what to do about a full disk."""
    what = error.strerror or str(error) or type(error).__name__
    where = f": {error.filename}" if error.filename else ""
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    rest = "; what was finished before is whole: make room, then give the same command again" if full else ""
    return f"{what}{where}{rest}"


def print_json(value: Any) -> None:
    """Write `value` to stdout as JSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1, default=_plain) + "\n")


def read_ids(path: Path) -> list[str]:
    """Return the ids of a text file, one a line, each once, in order; empty lines are passed over."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error}); expected one id a line") from None
    ids = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if ids and ids[0].lower() in ("user_id", "item_id", "user", "item", "id"):
        del ids[0]  # the name of a column
    if not ids:
        raise DataError(f"{path} holds no ids; expected one a line")
    return ids


def split_ids(text: str, known: Container[object] = ()) -> list[str]:
    """Return the ids of a comma-separated list; a comma may be part of a known id, the longest of which is taken."""
    parts, ids = text.split(","), list[str]()
    while parts:
        n = next((n for n in range(len(parts), 1, -1) if ",".join(parts[:n]).strip() in known), 1)
        ids.append(",".join(parts[:n]).strip())
        del parts[:n]
    ids = [one for one in ids if one]
    if not ids:
        raise typer.BadParameter("expected item ids with commas between them, such as --history a,b")
    return ids


def settings_help(*tables: str) -> str:
    """Return the settings of some tables, each with its sentence, for the end of a ``--help``."""
    lines = []
    for table in tables:
        settings: Any = RunConfig.model_fields[table].annotation
        lines.append(f"[bold]{escape(f'[{table}]')}[/]")
        lines += [
            f"{name} = {escape(json.dumps(f.default, ensure_ascii=False))}  [dim]{escape(f.description or '')}[/]"
            for name, f in settings.model_fields.items()
        ]
    return "\n\n".join(lines)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH
    return console


def _plain(value: Any) -> Any:
    """Return numpy scalars and arrays as what JSON knows."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
