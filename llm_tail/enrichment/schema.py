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

import json
import re
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_core import from_json

from llm_tail.config.enriching import TASKS, Task
from llm_tail.errors import DataError

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
    "parse",
]

Basis = Literal["text", "guess", "borrowed"]
Kind = Literal["substitute", "complement", "sequel"]
MOST_CHARS = 60_000  # of a reply; whatever is longer is no answer of these forms
Confidence = Annotated[float, Field(ge=0, le=1)]


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # nothing that a terminal or a file would obey


def _words(least: int, most: int) -> Any:
    return StringConstraints(strip_whitespace=True, min_length=least, max_length=most)


def _printable(value: Any) -> Any:
    return _CONTROL.sub("", value) if isinstance(value, str) else value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _only_printable(cls, value: Any) -> Any:
        return [_printable(one) for one in value] if isinstance(value, list) else _printable(value)


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

    summary: Annotated[str, _words(8, 1200)]
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

    profile: Annotated[str, _words(8, 1200)]
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
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.S)
_KEPT = {"type", "enum", "items", "properties", "required", "additionalProperties"}


def field_of(task: Task) -> str:
    """Return the catalogue column that a task's answers become.

    Examples
    --------
    >>> field_of("summary")
    'generated_summary'
    """
    return f"generated_{task}"


@cache
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


def parse(task: Task, text: str) -> Answer:
    """Return the answer that a reply holds.

    Taken for granted is little: thoughts before it, a fence or words around it are passed over. Of an answer that is a
    list, parts that break the form are left out as long as half of them are whole, and one that was cut short keeps
    the parts before the cut; a text that was cut short is none.

    Parameters
    ----------
    task : Task
        What was asked.
    text : str
        What came back.

    Raises
    ------
    DataError
        If it is no answer; the message says in one line what is wrong, fit to be said to the model.

    Notes
    -----
    Linear in the length of the text; about 20 microseconds for an answer of 100 words.

    Examples
    --------
    >>> fence = "`" * 3
    >>> text = 'Sure! ' + fence + '{"summary": "A quiet comedy of errors.", "confidence": 0.8}' + fence
    >>> parse("summary", text).summary
    'A quiet comedy of errors.'
    >>> parse("questions", '{"questions": ["Who errs?", "Where is it', )
    Questions(questions=['Who errs?'])
    """
    form = ANSWERS[task]
    value = _object(text, form)
    parts = value.get(form.parts) if form.parts else None
    if not isinstance(parts, list) or not parts:
        return _validated(form, value)
    kept = []
    for part in parts:
        try:
            form.model_validate({**value, form.parts: [part]})
            kept.append(part)
        except ValidationError:
            continue
    if 2 * len(kept) < len(parts):
        return _validated(form, value)  # says what is wrong
    most = next(rule.max_length for rule in form.model_fields[form.parts].metadata if hasattr(rule, "max_length"))
    return _validated(form, {**value, form.parts: kept[:most]})


def _object(text: str, form: type[Answer]) -> dict[str, Any]:
    """Return the JSON object in a reply, closed where it is a list that was cut."""
    if len(text) > MOST_CHARS:
        raise DataError(f"the answer has {len(text):,} characters, expected at most {MOST_CHARS:,}")
    text = _THOUGHTS.sub("", text)
    if re.match(r"\s*<think(ing)?>", text):
        raise DataError("the answer ends within the model's thoughts; [enrichment] thinking_tokens makes room for them")
    start = text.find("{")
    if start < 0:
        raise DataError("the answer is empty" if not text.strip() else "the answer holds no JSON object")
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        value = _cut(text[start:], form)
        if value is None:
            raise DataError(f"the answer is no JSON: {error}") from None
    return dict(value)


def _cut(text: str, form: type[Answer]) -> dict[str, Any] | None:
    """Return what is whole of a list that was cut; None where nothing is, or where it is wrong and not just short."""
    try:
        value = from_json(text, allow_partial=True)
    except ValueError:
        return None
    parts = value.get(form.parts) if form.parts and isinstance(value, dict) else None
    if not isinstance(parts, list):
        return None
    # The last part may look whole and be cut in a number. Of texts, the parser has left it out already.
    whole = parts if parts and isinstance(parts[-1], str) else parts[:-1]
    return {form.parts: whole} if whole else None


def _validated(form: type[Answer], value: dict[str, Any]) -> Answer:
    try:
        return form.model_validate(value)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc'])) or 'the object'}: {p['msg']}" for p in error.errors()[:3]]
        raise DataError("the answer breaks its form: " + "; ".join(problems)) from None


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
