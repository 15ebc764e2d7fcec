"""What an answer must look like: one model a task, and how the text of a reply becomes one.

::

    attributes   name, value, basis, confidence      "mood: eerie (text, 0.9)"
    summary      summary, confidence                 plain language, two to four sentences
    intents      who, when, confidence               who looks for this, and on what occasion
    questions    question                            what somebody would ask and find this
    relations    item, kind, reason, confidence      one of the candidates as substitute, complement or sequel
    profile      profile, likes, confidence          what a person's history says of them

Every backend answers with JSON of this form, whoever wrote it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from llm_tail.config.enriching import TASKS, Task

__all__ = [
    "ANSWERS",
    "TASKS",
    "Answer",
    "Attribute",
    "Attributes",
    "Basis",
    "Intent",
    "Intents",
    "Kind",
    "Profile",
    "Questions",
    "Relation",
    "Relations",
    "Summary",
    "Task",
    "field_of",
    "json_schema",
]

Basis = Literal["text", "guess", "borrowed"]
Kind = Literal["substitute", "complement", "sequel"]
Confidence = Annotated[float, Field(ge=0, le=1)]


def _words(least: int, most: int) -> Any:
    return StringConstraints(strip_whitespace=True, min_length=least, max_length=most)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(_Part):
    """The common base of the answers; `parts` names the field that is a list of independent parts, if any."""

    parts: ClassVar[str] = ""


class Attribute(_Part):
    """One property: stated in the text, guessed, or borrowed from near items."""

    name: Annotated[str, _words(1, 40)]
    value: Annotated[str, _words(1, 80)]
    basis: Basis
    confidence: Confidence


class Attributes(Answer):
    """Properties of an item."""

    parts: ClassVar[str] = "attributes"
    attributes: Annotated[list[Attribute], Field(min_length=1, max_length=20)]


class Summary(Answer):
    """An item in plain language."""

    summary: Annotated[str, _words(20, 1200)]
    confidence: Confidence


class Intent(_Part):
    """Somebody who looks for the item, and when."""

    who: Annotated[str, _words(2, 120)]
    when: Annotated[str, _words(2, 160)]
    confidence: Confidence


class Intents(Answer):
    """Who looks for an item, and on what occasions."""

    parts: ClassVar[str] = "intents"
    intents: Annotated[list[Intent], Field(min_length=1, max_length=10)]


class Questions(Answer):
    """What somebody would ask and find the item."""

    parts: ClassVar[str] = "questions"
    questions: Annotated[list[Annotated[str, _words(5, 240)]], Field(min_length=1, max_length=12)]


class Relation(_Part):
    """A tie to one of the candidates; `item` is the candidate's label, such as ``c3``, never an id of its own."""

    item: Annotated[str, _words(1, 12)]
    kind: Kind
    reason: Annotated[str, _words(2, 240)]
    confidence: Confidence


class Relations(Answer):
    """Ties of an item to candidates; none is a fair answer."""

    parts: ClassVar[str] = "relations"
    relations: Annotated[list[Relation], Field(max_length=20)]


class Profile(Answer):
    """What a person's history says of them."""

    profile: Annotated[str, _words(20, 1200)]
    likes: Annotated[list[Annotated[str, _words(1, 60)]], Field(max_length=12)]
    confidence: Confidence


ANSWERS: dict[Task, type[Answer]] = {
    "attributes": Attributes,
    "summary": Summary,
    "intents": Intents,
    "questions": Questions,
    "relations": Relations,
    "profile": Profile,
}
_KEPT = {"type", "enum", "items", "properties", "required", "additionalProperties"}


def field_of(task: Task) -> str:
    """Return the catalogue column that a task's answers become.

    Examples
    --------
    >>> field_of("summary")
    'generated_summary'
    """
    return f"generated_{task}"


def json_schema(task: Task) -> dict[str, Any]:
    """Return the JSON schema of a task's answer, in the subset that servers take for strict structured output.

    No references, every property required, nothing else allowed; bounds are left to `parse`.

    Examples
    --------
    >>> json_schema("summary")["required"]
    ['summary', 'confidence']
    """
    whole = ANSWERS[task].model_json_schema()
    plain: dict[str, Any] = _plain(whole, whole.get("$defs", {}))
    return plain


def _plain(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return _plain(known[schema["$ref"].rsplit("/", 1)[-1]], known)
    kept = {key: value for key, value in schema.items() if key in _KEPT}
    if "items" in kept:
        kept["items"] = _plain(kept["items"], known)
    if "properties" in kept:
        kept["properties"] = {name: _plain(value, known) for name, value in kept["properties"].items()}
    if "enum" in kept:
        kept["enum"] = [value for value in kept["enum"] if value != "borrowed"]  # whoever is asked sees no near items
    return kept
