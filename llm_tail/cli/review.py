"""``llm-tail review``: look at generated answers, and decide on those that were set aside."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.text import Text

from llm_tail.cli.common import AsJson, ConfigFile, Overrides, open_workspace, out, print_json, say
from llm_tail.errors import DataError, StaleArtifactError

if TYPE_CHECKING:
    from llm_tail.enrichment.cache import Verdict
    from llm_tail.enrichment.review import Case, Review

Ids = "Key of an answer or its beginning, or ITEM_ID/TASK; may be given again and again."
_KEYS: dict[str, Verdict] = {"a": "accept", "r": "reject", "e": "edit", "g": "ask-again"}


def review(
    config: ConfigFile,
    accept: Annotated[list[str] | None, typer.Option("--accept", metavar="ID", help=f"Use it as it is. {Ids}")] = None,
    reject: Annotated[list[str] | None, typer.Option("--reject", metavar="ID", help="Never use it.")] = None,
    edit: Annotated[str | None, typer.Option("--edit", metavar="ID", help="Use another text.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="JSON", help="The text for --edit; - reads it from stdin.")
    ] = None,
    ask_again: Annotated[list[str] | None, typer.Option("--ask-again", metavar="ID", help="Ask once more.")] = None,
    undo: Annotated[list[str] | None, typer.Option("--undo", metavar="ID", help="Forget a decision.")] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="How many answers in use are shown.")] = 5,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look at samples of the generated answers and at all that were set aside, and decide on them.

    Decisions are kept beside the answers and win over every check, in this run and in later ones; `llm-tail enrich`
    takes them in.
    """
    from llm_tail.enrichment.cache import NAME, AnswerCache
    from llm_tail.enrichment.review import Review
    from llm_tail.workspace.generated import answers_folder

    workspace = open_workspace(config, overrides)
    folder = answers_folder(workspace.config)
    if not (folder / NAME).is_file():
        raise StaleArtifactError(f"nothing has been asked yet; run: llm-tail enrich {workspace.source}")
    with AnswerCache(folder) as cache:
        look = Review(workspace.source_catalog, workspace.config.enrichment, cache)
        named: list[tuple[Verdict, list[str]]] = [("accept", accept or []), ("reject", reject or [])]
        named += [("ask-again", ask_again or []), ("edit", [edit] if edit else [])]
        decided = [_decide(look, verdict, name, text) for verdict, names in named for name in names]
        decided += [look.undo(name) for name in undo or []]
        if decided:
            _tell(decided, workspace.source, as_json=as_json)
        elif as_json:
            found = {"aside": list(look.cases("aside")), "decided": list(look.cases("decided"))}
            found["samples"] = look.samples(samples)
            print_json({kind: [asdict(case) for case in cases] for kind, cases in found.items()})
        else:
            _walk(look, samples, workspace.source)


def _decide(look: Review, verdict: Verdict, name: str, text: str | None) -> Case:
    if verdict != "edit":
        return look.decide(name, verdict)
    return look.decide(name, "edit", _written(look.get(name), text))


def _written(case: Case, text: str | None) -> str:
    """Return the new text of an answer: the one that was given, from stdin, or from an editor."""
    if text == "-":
        return sys.stdin.read()
    if text is not None:
        return text
    if not sys.stdin.isatty():
        raise typer.BadParameter("--edit needs --text JSON, or a terminal to open an editor in")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.json"
        path.write_text(case.text, encoding="utf-8")
        editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
        try:
            subprocess.run([*editor, str(path)], check=True)  # noqa: S603  (the person's own editor)
        except (OSError, subprocess.CalledProcessError) as error:
            raise DataError(f"the editor {editor[0]} failed ({error}); set EDITOR, or give --text JSON") from None
        written = path.read_text(encoding="utf-8")
    if written == case.text:
        raise DataError("nothing was written; the answer stays as it was")
    return written


def _tell(decided: list[Case], source: str, *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(case) for case in decided])
        return
    for case in decided:
        now = case.verdict or "undecided"
        out().print(f"{case.key}  {case.item_id}/{case.task}: {now}", markup=False, highlight=False)
    say(f"  takes effect with: llm-tail enrich {source}")


def _walk(look: Review, n_samples: int, source: str) -> None:
    """Show samples, then go through what was set aside."""
    for case in look.samples(n_samples):
        out().print(_panel(case))
    aside = list(look.cases("aside"))
    say(f"  {len(aside):,} answers are set aside")
    decided = []
    for case in aside:
        out().print(_panel(case))
        if not sys.stdin.isatty():
            continue
        key = typer.prompt("(a)ccept, (r)eject, (e)dit, ask a(g)ain, (s)kip, (q)uit", default="s")[:1].lower()
        if key == "q":
            break
        if key in _KEYS:
            try:
                decided.append(_decide(look, _KEYS[key], case.key, None))
            except DataError as error:
                say(f"  {error}")
    if decided:
        _tell(decided, source, as_json=False)


def _panel(case: Case) -> Panel:
    body = Text(case.words or "(nothing)")
    if case.reason:
        body.append(f"\n{case.reason}", style="red")
    title = f"{case.item_id}/{case.task}  {case.title}" if case.title != case.item_id else f"{case.item_id}/{case.task}"
    return Panel(body, title=Text(title), subtitle=Text(f"{case.key}  {case.state}  {case.model}"), title_align="left")
