"""What a person sees of the answers, and what becomes of their decisions: they are kept beside the answers and win."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from llm_tail.config import EnrichmentConfig
from llm_tail.data.catalog import Catalog
from llm_tail.enrichment.asking import language_of
from llm_tail.enrichment.cache import AnswerCache, Kept, Verdict
from llm_tail.enrichment.checks import words_of
from llm_tail.enrichment.prompts import PromptLibrary
from llm_tail.enrichment.schema import TASKS, parse
from llm_tail.errors import ConfigError, DataError, UnknownIdError


@dataclass(frozen=True)
class Case:
    """One answer as a person sees it.

    Parameters
    ----------
    key : str
        Names it; so does ``item_id/task``.
    item_id, title, task : str
        What it is about.
    state : {"kept", "bad", "aside", "failed"}
        What the checks made of it.
    reason : str
        Why it was set aside.
    words : str
        The answer in plain words; as it came where it has no form.
    text : str
        As it came, or as it was edited.
    verdict : str
        What a person decided; empty where nobody has.
    prompt, model : str
        Who wrote it, by which prompt.
    """

    key: str
    item_id: str
    title: str
    task: str
    state: str
    reason: str
    words: str
    text: str
    verdict: str
    prompt: str
    model: str


class Review:
    """The answers of a run under the prompts that it uses now.

    Parameters
    ----------
    catalog : Catalog
        The items.
    config : EnrichmentConfig
        What was asked.
    cache : AnswerCache
        Where answers and decisions are.
    """

    def __init__(self, catalog: Catalog, config: EnrichmentConfig, cache: AnswerCache) -> None:
        self.catalog, self.cache = catalog, cache
        language = language_of(catalog) if config.language == "auto" else config.language
        library = PromptLibrary(config.prompts or None)
        self.prompts = {library.get(task, config.domain, language).identity for task in config.tasks}

    def cases(self, kind: Literal["aside", "kept", "decided"]) -> Iterator[Case]:
        """Yield the answers that were set aside and wait, that are in use, or that somebody has decided on."""
        state = None if kind == "decided" else kind
        for row in self.cache.find(state=state):
            if row.prompt in self.prompts and bool(row.verdict) == (kind == "decided"):
                yield self._case(row)

    def samples(self, n: int) -> list[Case]:
        """Return some answers in use, the first by their keys, which are digests: no choice of anybody."""
        return list(islice(sorted(islice(self.cases("kept"), 5000), key=lambda case: case.key), n))

    def get(self, name: str) -> Case:
        """Return the answer of a key (its beginning is enough), or of ``item_id/task``.

        Raises
        ------
        UnknownIdError
            If there is none.
        ConfigError
            If several begin like this.
        """
        item_id, slash, task = name.rpartition("/")
        if slash and task in TASKS:
            rows = [row for row in self.cache.find(subject=item_id, task=task) if row.prompt in self.prompts]
        else:
            rows = [row for row in self.cache.find() if row.key.startswith(name)] if len(name) >= 4 else []
        if not rows:
            known = [f"{row.subject}/{row.task}" for row in islice(self.cache.find(), 20_000)]
            raise UnknownIdError("answer", name, known)
        if len(rows) > 1:
            shown = ", ".join(row.key for row in rows[:3])
            raise ConfigError(f"{name!r} names {len(rows)} answers, such as {shown}; give the whole key of one")
        return self._case(rows[0])

    def decide(self, name: str, verdict: Verdict, text: str = "") -> Case:
        """Keep a decision and return the answer as it is now.

        Parameters
        ----------
        name : str
            As `get` takes it.
        verdict : {"accept", "reject", "edit", "ask-again"}
            Use it as it is, never use it, use another text, or ask once more.
        text : str
            For ``edit``: JSON in the form of the task.

        Raises
        ------
        DataError
            If what shall be used breaks the form of the task.
        """
        case = self.get(name)
        if verdict in ("accept", "edit"):
            self._has_form(case, text if verdict == "edit" else case.text)
        self.cache.decide(case.key, verdict, text if verdict == "edit" else "")
        return self.get(case.key)

    def undo(self, name: str) -> Case:
        """Forget a decision and return the answer as it is now."""
        case = self.get(name)
        self.cache.undecide(case.key)
        return self.get(case.key)

    def _has_form(self, case: Case, text: str) -> None:
        try:
            parse(case.task, text)  # type: ignore[arg-type]
        except DataError as error:
            raise DataError(
                f"{case.item_id}/{case.task} cannot be used like this: {error}; give JSON of the form of its task, or "
                "ask again"
            ) from None

    def _case(self, row: Kept) -> Case:
        text = row.edited if row.verdict == "edit" else row.text
        try:
            words = words_of(parse(row.task, text))  # type: ignore[arg-type]
        except DataError:
            words = text
        title = self.catalog.title(row.subject) if row.subject in self.catalog else ""
        return Case(
            row.key,
            row.subject,
            title,
            row.task,
            row.state,
            row.reason,
            words,
            pretty(text),
            row.verdict,
            row.prompt,
            row.model,
        )


def pretty(text: str) -> str:
    """Return JSON in lines, and any other text as it is."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=1)
    except ValueError:
        return text
