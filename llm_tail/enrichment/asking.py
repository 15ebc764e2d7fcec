"""Asker: which questions there are about a catalogue, each with its prompt, its data and its key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_tail.artifacts import fingerprint
from llm_tail.config import EnrichmentConfig
from llm_tail.config.enriching import Task
from llm_tail.data.catalog import CORE, Catalog
from llm_tail.enrichment.backends import Backend, Near, Request
from llm_tail.enrichment.prompts import Prompt, PromptLibrary
from llm_tail.enrichment.provenance import History, visible_columns
from llm_tail.enrichment.result import Provenance
from llm_tail.enrichment.schema import json_schema
from llm_tail.errors import ConfigError, DataError

NEAR_CHARS = 300  # of each field of a candidate or of an item in a history
_CJK = (("\u3400", "\u9fff"), ("\uf900", "\ufaff"))


class Asker:
    """All questions about a catalogue.

    Parameters
    ----------
    catalog : Catalog
        The items as the files have them.
    config : EnrichmentConfig
        What is asked.
    backend : Backend
        Who is asked; its name, model and settings are part of every key.
    candidates : array of int64, shape (n_items, k), optional
        Rows of near items that relations may choose from, -1 where there are fewer.
    histories : sequence of History
        Whom profiles are asked for.
    rows : array of int64, optional
        Items in the order in which they are asked about; all, in theirs, if left out.

    Raises
    ------
    ConfigError
        If the backend cannot answer a task, or a prompt is not there.
    DataError
        If no item has anything to be seen, or a task lacks what it needs.

    Notes
    -----
    Requests are made one by one and without messages (see `rendered`), about 100 microseconds each; nothing is held.
    """

    def __init__(
        self,
        catalog: Catalog,
        config: EnrichmentConfig,
        backend: Backend,
        *,
        candidates: NDArray[np.int64] | None = None,
        histories: Sequence[History] = (),
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.catalog, self.config, self.backend = catalog, config, backend
        self.candidates, self.histories = candidates, histories
        self.rows = np.arange(len(catalog)) if rows is None else rows
        if config.n_items:
            self.rows = self.rows[: config.n_items]
        self._check_tasks()
        self.language = language_of(catalog) if config.language == "auto" else config.language
        self.library = PromptLibrary(config.prompts or None)
        self.prompts: dict[Task, Prompt] = {
            task: self.library.get(task, config.domain, self.language) for task in self.tasks
        }
        self.columns = visible_columns(catalog, list(self.prompts.values()), config)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What is asked, each once."""
        return tuple(dict.fromkeys(self.config.tasks))  # type: ignore[arg-type]

    def _check_tasks(self) -> None:
        cannot = [task for task in self.tasks if task not in self.backend.tasks]
        if cannot:
            raise ConfigError(
                f"the backend {self.backend.name!r} cannot answer {', '.join(cannot)}; it answers "
                f"{', '.join(self.backend.tasks)}: set [enrichment] tasks to these, or choose another backend"
            )
        if "relations" in self.tasks and self.candidates is None:
            raise DataError("relations need candidates: near items that the answers may choose from")
        if "profile" in self.tasks and not self.histories:
            raise DataError("profiles need histories of training; name [data] interactions, or leave the task out")

    def __iter__(self) -> Iterator[Request]:
        item_tasks = [task for task in self.tasks if task != "profile"]
        for start in range(0, len(self.rows), 1024):
            block = self.rows[start : start + 1024]
            for row, fields in zip(block.tolist(), self._fields(block), strict=True):
                for task in item_tasks if fields else ():  # of an item without words nothing can be said
                    near = self._near(row) if task == "relations" else ()
                    if task != "relations" or near:
                        yield self._request(task, self.catalog.ids[row], fields, near)
        if "profile" in self.tasks:
            for history in self.histories:
                yield self._request("profile", history.user_id, {}, self._taken(history))

    def rendered(self, request: Request) -> Request:
        """Return the request with its messages: rendered for those that leave, and not for those that are known."""
        if self.backend.extracts:
            return request
        messages = self.prompts[request.task].messages(request.fields, _shown(request.task, request.near))
        return replace(request, messages=messages)

    def provenance(self, request: Request, borrowed: tuple[str, ...] = (), reviewed: str = "") -> Provenance:
        """Return what an answer to this request has seen."""
        seen = dict.fromkeys([*request.fields, *(name for near in request.near for name in near.fields)])
        events = self._events.get(request.subject, ()) if request.task == "profile" else ()
        return Provenance(
            columns=tuple(seen),
            items=tuple(near.item_id for near in request.near),
            events=events,
            borrowed=borrowed,
            backend=self.backend.name,
            model=self.backend.model,
            prompt=self.prompts[request.task].identity,
            key=request.key,
            reviewed=reviewed,
        )

    @cached_property
    def _events(self) -> dict[str, tuple[str, ...]]:
        return {history.user_id: history.events for history in self.histories}

    def _request(self, task: Task, subject: str, fields: dict[str, Any], near: tuple[Near, ...]) -> Request:
        prompt, backend = self.prompts[task], self.backend
        shown = _shown(task, near)
        hinted = float(prompt.hints.get("temperature", 0.0))
        temperature = hinted if self.config.temperature is None else self.config.temperature
        max_tokens = min(prompt.max_tokens, self.config.max_answer_tokens) + self.config.thinking_tokens
        asked_of = [backend.name, backend.model, dict(backend.settings), temperature, max_tokens]
        # Equal words get one answer, whoever's they are, but for a backend that looks behind them.
        whose = subject if backend.extracts else ""
        return Request(
            key=fingerprint("answer-1", task, prompt.identity, asked_of, whose, fields, shown),
            task=task,
            subject=subject,
            domain=prompt.domain,
            language=prompt.language,
            fields=fields,
            near=near,
            schema=json_schema(task),
            max_tokens=max_tokens,
            temperature=temperature,
        )

    def _fields(self, rows: NDArray[np.int64], most: int | None = None) -> list[dict[str, Any]]:
        """Return what may be seen of some items, empty values left out."""
        most = most or self.config.max_chars
        columns = {name: self.catalog.table[name].take(rows).to_pylist() for name in self.columns}
        return [
            {name: value for name in self.columns if (value := _plain(columns[name][place], most)) not in ("", [])}
            for place in range(len(rows))
        ]

    def _near(self, row: int) -> tuple[Near, ...]:
        if self.candidates is None:
            return ()
        rows = self.candidates[row]
        rows = rows[(rows >= 0) & (rows != row)][: self.config.candidates]
        return self._labelled(rows)

    def _taken(self, history: History) -> tuple[Near, ...]:
        return self._labelled(np.array(history.item_rows, dtype=np.int64))

    def _labelled(self, rows: NDArray[np.int64]) -> tuple[Near, ...]:
        fields = self._fields(rows, NEAR_CHARS)
        near = zip(rows.tolist(), fields, strict=True)
        return tuple(Near(f"c{n}", self.catalog.ids[row], words) for n, (row, words) in enumerate(near, 1) if words)


def _shown(task: Task, near: Sequence[Near]) -> list[Mapping[str, Any]]:
    """Return what a prompt says of near items; their ids stay outside."""
    return [{"item": one.label, **one.fields} if task == "relations" else one.fields for one in near]


def language_of(catalog: Catalog) -> str:
    """Return ``zh`` where most letters of titles and descriptions are Han characters, else ``en``.

    Examples
    --------
    >>> language_of(Catalog.from_items([{"item_id": "1", "title": "红楼梦"}]))
    'zh'
    """
    step = max(1, len(catalog) // 1000)
    words = catalog.table.select(list(CORE[1:])).take(np.arange(0, len(catalog), step))
    text = "".join(str(value) for name in CORE[1:] for value in words[name].to_pylist())
    letters = [c for c in text if c.isalpha()]
    n_han = sum(any(low <= c <= high for low, high in _CJK) for c in letters)
    return "zh" if 2 * n_han > len(letters) else "en"


def _plain(value: Any, most: int) -> Any:
    """Return a value as JSON knows it, texts in one line and not too long; empty where there is nothing."""
    if value is None or value != value:  # NaN is no value
        return ""
    if isinstance(value, str):
        return " ".join(value.split())[:most]
    if isinstance(value, (list, tuple)):
        found = [_plain(one, most) for one in value]
        return [one for one in found if one not in ("", [])][:50]
    if isinstance(value, dict):
        return {str(k): kept for k, v in value.items() if (kept := _plain(v, most)) not in ("", [])} or ""
    return value if isinstance(value, (bool, int, float)) else str(value)[:most]
