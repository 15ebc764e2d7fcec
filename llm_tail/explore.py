"""Explorer: ask a finished run again and again, in words, ids and short commands."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from llm_tail.comparing import compared
from llm_tail.errors import DataError, LlmTailError
from llm_tail.prompt import Completer, typing_aids
from llm_tail.show import comparison, explanation, items_table, path_text, related_table, segment_text

if TYPE_CHECKING:
    from llm_tail.workspace import Workspace

PROMPT = "llm-tail> "
HELP = {
    "some words": "the items whose texts lie nearest to them",
    "an item id": "what the item is, and the items nearest to it",
    "3": "the same for number 3 of the last list",
    ":related [ITEM]": "what is tied to the item, and by what",
    ":path A B": "the strongest chain of ties from one item to another",
    ":walk [ITEM]": "where a random walk along the ties leads",
    ":compare A B": "two items side by side, with the neighbours and ties that they share",
    ":why [ITEM]": "who would get the item, and why",
    ":where FILTER": "show only items that pass, such as brand = Acme; :where alone shows all again",
    ":segment head|tail|cold": "show only such items in lists; :segment alone shows all again",
    ":history A,B": "pretend to have taken these items",
    ":recommend": "what would be recommended for that history",
    ":help": "these lines",
    ":quit": "leave; so do Ctrl-D and Ctrl-C",
}


class Quit(Exception):
    """The person wants to leave."""


class Explorer:
    """A conversation with one run; an ITEM is an id, a number of the last list, or the last item if left out.

    Parameters
    ----------
    workspace : Workspace
        Needs its index; the graph and the fitted recommender only for the commands that ask them.
    console : rich.console.Console
        Where answers are shown.
    k : int
        Length of a list.
    """

    def __init__(self, workspace: Workspace, console: Console, k: int = 10) -> None:
        self.workspace, self.console, self.k = workspace, console, k
        self.shown: list[str] = []
        self.item: str | None = None
        self.history: list[str] = []
        self.segment: str | None = None
        self.where: str | None = None
        self._passing: set[str] | None = None  # the items that the filter lets through
        self.facts: dict[str, Any] = {}  # what the last answer says, for machines
        self._commands: dict[str, Callable[[str], RenderableType]] = {
            "related": self._related,
            "path": self._path,
            "why": self._why,
            "where": self._where,
            "walk": self._walk,
            "compare": self._compare,
            "segment": self._segment,
            "history": self._take,
            "recommend": self._recommend,
            "help": self._help,
            "quit": self._quit,
        }

    def loop(self, *, as_json: bool = False) -> None:
        """Read lines until the person leaves; a wrong line is answered, never fatal.

        For machines every answer is one line of JSON, and nothing else is written.
        """
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # bytes that are no text are words that nothing is near to
        catalog = self.workspace.catalog
        _ = self.workspace.index, self.workspace.segments  # what is missing is said before the first question
        if not as_json:
            self.console.print(Text(f"{len(catalog):,} items. Type some words, an item id, or :help."))
        if not sys.stdin.isatty() or as_json:
            return self._converse("", as_json)
        with typing_aids(self.workspace.folder, Completer(catalog, list(self._commands))):
            return self._converse(PROMPT, as_json)

    def _converse(self, prompt: str, as_json: bool) -> None:
        while True:
            try:
                line = input(prompt)
                shown = self.answer(line)
            except (EOFError, KeyboardInterrupt, Quit):
                if not as_json:
                    self.console.print("\nbye", style="dim")
                return
            if as_json:
                facts = self.facts or {"text": str(shown)}
                self.console.file.write(json.dumps({"asked": line, **facts}, ensure_ascii=False) + "\n")
                self.console.file.flush()
            else:
                self.console.print(shown)

    def answer(self, line: str) -> RenderableType:
        """Return the answer to one line; what goes wrong is an answer too.

        Raises
        ------
        Quit
            On ``:quit``.
        """
        line, self.facts = line.strip(), {}
        try:
            if not line:
                return Text("type some words, an item id, or :help", style="dim")
            if line.startswith(":"):
                word, _, rest = line[1:].partition(" ")
                return self._command(word)(rest.strip())
            if line in self.workspace.catalog or line.isdecimal() or self._titled(line):
                return self._show(self._item(line))
            return self._near(line)
        except LlmTailError as error:
            self.facts = {"error": str(error)}
            return Text(str(error), style="red")

    def _command(self, word: str) -> Callable[[str], RenderableType]:
        found = [name for name in self._commands if word and name.startswith(word.lower())]
        if not found:
            raise DataError(
                f"there is no command :{word}; there are: {' '.join(f':{name}' for name in self._commands)}"
            )
        return self._commands[found[0]]

    def _item(self, text: str) -> str:
        """Return the item that is meant: an id, else a number of the last list, else the last item."""
        if not text:
            if self.item is None:
                raise DataError("no item has been looked at yet; name one by id or by number")
            return self.item
        if text not in self.workspace.catalog and text.isdecimal() and self.shown:
            if not 1 <= int(text) <= len(self.shown):
                raise DataError(f"the last list has {len(self.shown)} items; there is no number {text}")
            text = self.shown[int(text) - 1]
        if text not in self.workspace.catalog:
            text = self._titled(text) or text
        self.workspace.catalog.ids.row(text)  # an unknown id is told with the closest ones
        self.item = text
        return text

    def _titled(self, text: str) -> str | None:
        """Return the first item of that title; None where there is none."""
        titles = self.workspace.catalog.table["title"]
        row = pc.index(pc.utf8_lower(titles), text.strip().lower()).as_py() if text.strip() else -1
        return self.workspace.catalog.ids[row] if row >= 0 else None

    def _kept(self, item_id: str) -> bool:
        return self._passing is None or item_id in self._passing

    def _listed(self, items: list[tuple[str, float]], value: str, title: str) -> RenderableType:
        """Return a list of the chosen segment and filter, and keep it so that its numbers can be used."""
        items = [pair for pair in items if self._kept(pair[0])]
        if self.where:
            title += f" where {self.where}"
        if self.segment and self.workspace.segments is not None:
            items = [pair for pair in items if self._in_segment(pair[0])]
            title += f" ({self.segment} only)"
        items = items[: self.k]
        self.shown = [item_id for item_id, _ in items]
        title_of = self.workspace.catalog.title
        self.facts["items"] = [{"item_id": i, "title": title_of(i), value: float(number)} for i, number in items]
        return items_table(self.workspace, items, value, title=title) if items else Text(f"{title}: nothing")

    @property
    def _n_asked(self) -> int:
        """How many to ask for, so that enough are left of a segment and of what passes."""
        return self.k if self.segment is None and self.where is None else len(self.workspace.catalog)

    def _near(self, text: str) -> RenderableType:
        return self._listed(list(self.workspace.similar(text, self._n_asked)), "similarity", f"Near {text!r}")

    def _show(self, item_id: str) -> RenderableType:
        item = self.workspace.catalog[item_id]
        self.facts["item"] = {"item_id": item_id, "title": item.title, "description": item.description}
        card = Text(item.title or item_id, style="bold")
        segments = self.workspace.segments
        if segments is not None:
            card.append("  ").append_text(segment_text(segments.name_of(self.workspace.catalog.ids.row(item_id))))
        facts = Table.grid(padding=(0, 2))
        for name, value in item.fields.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            facts.add_row(Text(name, style="dim"), Text(shown[:200]))
        words = Text(item.description[:300] + ("..." if len(item.description) > 300 else ""), style="italic")
        near = list(self.workspace.similar(item_id, self._n_asked))
        return Group(card, facts, words, self._listed(near, "similarity", "Nearest"))

    def _related(self, rest: str) -> RenderableType:
        found = self.workspace.graph.related(self._item(rest), hops=2, k=self._n_asked)
        found = [tie for tie in found if self._kept(tie.item_id) and self._in_segment(tie.item_id)][: self.k]
        self.shown = [tie.item_id for tie in found]
        self.facts["related"] = [asdict(tie) for tie in found]
        return related_table(self.workspace, found) if found else Text("nothing is tied to it")

    def _in_segment(self, item_id: str) -> bool:
        segments = self.workspace.segments
        row = self.workspace.catalog.ids.row
        return not self.segment or segments is None or segments.name_of(row(item_id)) == self.segment

    def _walk(self, rest: str) -> RenderableType:
        item_id = self._item(rest)
        found = list(self.workspace.graph.walk(item_id, self._n_asked))
        return self._listed(found, "share", f"A walk from {self.workspace.catalog.title(item_id)!r}")

    def _where(self, rest: str) -> RenderableType:
        if not rest:
            self.where = self._passing = None
            return Text("lists show all items")
        from llm_tail.workspace.asking import passing as let_through

        passing = let_through(self.workspace, rest)
        self.where, self._passing = rest, set(passing)
        self.facts["passing"] = len(passing)
        return Text(f"{len(passing):,} of {len(self.workspace.catalog):,} items pass")

    def _compare(self, rest: str) -> RenderableType:
        ends = _names(rest)
        if len(ends) != 2:
            raise DataError("give two items by id or number: :compare A B, or :compare A, B where an id holds spaces")
        told = compared(self.workspace, self._item(ends[0]), self._item(ends[1]), self.k)
        self.facts["compare"] = told.to_dict()
        self.shown = [item for item, _, _ in told.neighbors]
        return comparison(self.workspace, told)

    def _path(self, rest: str) -> RenderableType:
        ends = _names(rest)
        if len(ends) != 2:
            raise DataError("give two items by id or number: :path A B, or :path A, B where an id holds spaces")
        steps = self.workspace.graph.path(self._item(ends[0]), self._item(ends[1]))
        self.facts["path"] = [asdict(step) for step in steps]
        return path_text(self.workspace, steps)

    def _why(self, rest: str) -> RenderableType:
        item_id, hybrid = self._item(rest), self.workspace.hybrid
        if self.history:
            reasons = {"the history at hand": hybrid.explain(item_id, history=self.history)}
        else:
            people = hybrid.audience(item_id, k=3)
            reasons = {user: hybrid.explain(item_id, user=user, n=3) for user, _ in people}
        if not reasons:
            return Text("there is nobody who does not have it already")
        self.facts["why"] = [told.to_dict() for told in reasons.values()]
        parts: list[RenderableType] = []
        for whom, told in reasons.items():
            parts += [Text(f"for {whom}", style="dim"), explanation(self.workspace, told)]
        return Group(*parts)

    def _segment(self, rest: str) -> RenderableType:
        if rest not in ("", "head", "tail", "cold"):
            raise DataError(f"{rest!r} is no segment; there are head, tail and cold")
        self.segment = rest or None
        return Text(f"lists show {f'{rest} items only' if rest else 'all items'}")

    def _take(self, rest: str) -> RenderableType:
        self.history = [self._item(part) for part in _names(rest)]
        if not self.history:
            return Text("the history is empty; give items: :history A,B")
        titles = ", ".join(map(self.workspace.catalog.title, self.history))
        return Text(f"taken: {titles}\nnow try :recommend")

    def _recommend(self, rest: str) -> RenderableType:
        if not self.history:
            raise DataError("there is no history yet; give one first: :history A,B")
        found = self.workspace.hybrid.recommend(history=self.history, k=self._n_asked)
        return self._listed(found[0], "score", "For this history")

    def _help(self, rest: str) -> RenderableType:
        self.facts["help"] = HELP
        table = Table.grid(padding=(0, 3))
        for what, answer in HELP.items():
            table.add_row(Text(what, style="bold"), Text(answer))
        return table

    def _quit(self, rest: str) -> RenderableType:
        raise Quit


def _names(text: str) -> list[str]:
    """Return the ids and numbers in a line, between commas if there are any, else between spaces."""
    return [part.strip() for part in text.split(",") if part.strip()] if "," in text else text.split()
