"""Who answers: one contract for a server, batch files, a local model, and the texts themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from llm_tail.config import EnrichmentConfig
from llm_tail.config.enriching import Task
from llm_tail.errors import ConfigError


class Near(NamedTuple):
    """An item beside the one that is asked about: a label for prompts, its id, and what may be seen of it."""

    label: str
    item_id: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """One thing to be answered about one item (or, for profiles, one person).

    Parameters
    ----------
    key : str
        Digest of everything the answer depends on; the reply carries it back.
    task : Task
        What is asked.
    subject : str
        The item's id; for a profile the person's.
    domain, language : str
        Such as ``books`` and ``en``.
    fields : mapping
        The item's columns that may be seen, name to value, empty ones left out.
    near : tuple of Near
        Candidates for relations, a person's history (oldest first) for profiles; for other tasks near items that
        an answer may borrow from, empty where nothing may be borrowed.
    messages : tuple of mapping
        The rendered prompt as chat messages with ``role`` and ``content``.
    schema : mapping
        JSON schema of the answer.
    max_tokens : int
        Longest answer, in tokens.
    temperature : float
        Randomness, where the backend knows of it.
    attempt : int
        1, and 2 where an answer is asked for again with what was wrong with it.
    """

    key: str
    task: Task
    subject: str
    domain: str
    language: str
    fields: Mapping[str, Any]
    near: tuple[Near, ...] = ()
    messages: tuple[Mapping[str, str], ...] = ()
    schema: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 800
    temperature: float = 0.0
    attempt: int = 1

    @property
    def sent_as(self) -> str:
        """The name under which it is sent: the same for each try, another for a second attempt."""
        return self.key if self.attempt == 1 else f"{self.key}-{self.attempt}"


@dataclass(frozen=True)
class Reply:
    """What came back for one request.

    Parameters
    ----------
    key : str
        Of the request.
    text : str
        JSON in the form of `llm_tail.enrichment.schema`, or what the model took for it.
    error : str
        Why nothing came; empty where something did.
    tokens_in, tokens_out : int
        What was paid for, as the server counts.
    borrowed : tuple of str
        Ids of the near items whose words went into the answer.
    passing : bool
        Whether the reason will pass, as a server's failure does: the next run asks again.
    """

    key: str
    text: str = ""
    error: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    borrowed: tuple[str, ...] = ()
    passing: bool = False


@runtime_checkable
class Backend(Protocol):
    """Anything that answers requests.

    Attributes
    ----------
    name : str
        Of the backend.
    model : str
        Which model; part of the key of every answer.
    settings : mapping
        Whatever else changes its answers, JSON-like; part of the key, so never a secret.
    costs : bool
        Whether tokens are paid for.
    extracts : bool
        Whether answers are taken from the texts, so that copied words are no fault.
    tasks : tuple of Task
        What it can answer.
    """

    name: str
    model: str
    settings: Mapping[str, Any]
    costs: bool
    extracts: bool
    tasks: tuple[Task, ...]

    def check(self) -> None:
        """Raise an error of this package where no request could be answered; nothing may be paid for it."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for each request, in any order; requests are drawn one by one as there is room for them."""


def make_backend(config: EnrichmentConfig, folder: str | Path) -> Backend:
    """Return the backend that the settings name, but for ``extractive``, which has to look at a catalogue first.

    Parameters
    ----------
    config : EnrichmentConfig
        ``backend`` and ``model``.
    folder : path
        Where batch files are kept.

    Raises
    ------
    ConfigError
        If it lacks a model or a key.
    MissingExtraError
        If its library is not installed.
    """
    if config.backend == "openai":
        from llm_tail.enrichment.openai import OpenAiBackend

        return OpenAiBackend(config)
    if config.backend == "batch":
        from llm_tail.enrichment.batch import BatchBackend

        return BatchBackend(config, Path(folder) / "batches")
    if config.backend == "transformers":
        from llm_tail.enrichment.transformers import LocalModel

        return LocalModel(config)
    raise ConfigError("the extractive backend learns from a catalogue: make it with Extractive.learn")
