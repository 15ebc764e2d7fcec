"""BatchBackend: questions in files for a batch service, answers read back from files; no server is spoken to.

::

    batches/
    ├── questions-0001.jsonl     one request a line, in the form that OpenAI's batch service and its like take
    ├── answers-0001.jsonl       what the service gave back; any name that begins with ``answers`` will do
    └── ...

A question is written once, whatever happens; one that a service answered with an error is written again.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_tail.artifacts import replacing
from llm_tail.config import EnrichmentConfig
from llm_tail.config.enriching import TASKS, Task
from llm_tail.enrichment.backends import Reply, Request
from llm_tail.errors import ConfigError, DataError, UnfinishedError

MOST_LINES, MOST_BYTES = 50_000, 150_000_000  # of one file; what services take
ROUTE = "/v1/chat/completions"


class BatchBackend:
    """Writes questions into files and reads the answers from files beside them.

    Parameters
    ----------
    config : EnrichmentConfig
        Model and prices.
    folder : path
        Where the files are; made when there is something to write.

    Raises
    ------
    ConfigError
        If no model is named.
    """

    name = "batch"
    costs = True
    extracts = False
    tasks: tuple[Task, ...] = TASKS

    def __init__(self, config: EnrichmentConfig, folder: str | Path) -> None:
        if not config.model:
            raise ConfigError("[enrichment] model is not set; give the name that the batch service knows the model by")
        self.config, self.model, self.folder = config, config.model, Path(folder)
        self.settings: Mapping[str, Any] = {}

    def check(self) -> None:
        """Do nothing: files need nobody."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield the answers that have come; write what was never written before.

        Raises
        ------
        UnfinishedError
            At the end, where answers are still to come; it names the files.
        DataError
            If a line of an answer file is no JSON.
        """
        answers, n_errors = self._answers()
        written = self._written()
        waiting: set[str] = set()
        new: list[Request] = []
        for request in requests:
            files = written.get(request.sent_as, [])
            if (found := answers.get(request.sent_as)) is not None:
                yield replace(found, key=request.key)
            elif len(files) > n_errors[request.sent_as]:  # an error answers one writing: the question is written again
                waiting.add(files[-1])
            else:
                new.append(request)
        names = self._write(new)
        if names or waiting:
            raise UnfinishedError(self._told(names, waiting, len(new)))

    def _told(self, files: list[str], waiting: set[str], n_new: int) -> str:
        parts = []
        if files:
            parts.append(f"{n_new:,} questions were written to {', '.join(files)}")
        if waiting:
            parts.append(f"{', '.join(sorted(waiting))} have no answers yet")
        return (
            f"{' and '.join(parts)} in {self.folder}; hand these files to a batch service, put what comes back beside "
            "them under the names answers-0001.jsonl and so on, and give the same command again"
        )

    def _numbers(self) -> int:
        return max((int(p.stem.rsplit("-", 1)[1]) for p in self.folder.glob("questions-[0-9]*.jsonl")), default=0)

    def _write(self, requests: list[Request]) -> list[str]:
        """Write the questions into as many files as are needed, each whole or not at all, and return their names."""
        names: list[str] = []
        lines: list[str] = []
        size = 0
        for request in [*requests, None]:
            line = "" if request is None else self._line(request)
            if lines and (request is None or len(lines) >= MOST_LINES or size + len(line.encode()) > MOST_BYTES):
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.folder / f"questions-{self._numbers() + 1:04d}.jsonl"
                with replacing(path) as whole:
                    whole.write_text("".join(lines), encoding="utf-8")
                names.append(path.name)
                lines, size = [], 0
            lines.append(line)
            size += len(line.encode())
        return names

    def _line(self, request: Request) -> str:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        if self.config.structured in ("auto", "schema"):
            schema = {"name": request.task, "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.config.structured == "json":
            body["response_format"] = {"type": "json_object"}
        line = {"custom_id": request.sent_as, "method": "POST", "url": ROUTE, "body": body}
        return json.dumps(line, ensure_ascii=False) + "\n"

    def _written(self) -> dict[str, list[str]]:
        """Return the files in which each question stands."""
        found: dict[str, list[str]] = defaultdict(list)
        for path in sorted(self.folder.glob("questions-*.jsonl")):
            for line in _lines(path):
                found[str(line["custom_id"])].append(path.name)
        return found

    def _answers(self) -> tuple[dict[str, Reply], Counter[str]]:
        """Return the answers by the names of the questions, and how often each was answered with an error."""
        found: dict[str, Reply] = {}
        n_errors: Counter[str] = Counter()
        for path in sorted(self.folder.glob("answers*.jsonl")):
            for line in _lines(path):
                reply = _reply(line)
                if reply.error:
                    n_errors[reply.key] += 1
                else:
                    found[reply.key] = reply
        return found, n_errors

    def __repr__(self) -> str:
        return f"BatchBackend({self.model!r}, {self._numbers()} files in {self.folder})"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, text in enumerate(stream, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number} is no JSON ({error}); expected what a batch service gives back; is the "
                    "file whole?"
                ) from None
            if isinstance(line, dict):
                yield line


def _reply(line: dict[str, Any]) -> Reply:
    """Return what a line of an answer file says, whatever is missing in it."""
    key = str(line.get("custom_id", ""))
    response = line.get("response") or {}
    body = response.get("body") or {}
    problem = line.get("error") or body.get("error")
    if problem or response.get("status_code", 200) != 200:
        said = problem.get("message", problem) if isinstance(problem, dict) else problem
        return Reply(key, error=f"the batch service failed: {said or response.get('status_code')}", passing=True)
    try:
        message, usage = body["choices"][0]["message"], body.get("usage") or {}
        tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        return Reply(key, str(message.get("content") or ""), "", *tokens)
    except (LookupError, TypeError, ValueError, AttributeError):
        return Reply(key, error="the batch service gave back no chat completion", passing=True)
