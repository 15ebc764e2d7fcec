"""What every table of settings has in common: frozen, checked, and plain words for what is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from llm_tail.errors import ConfigError, closest


class Settings(BaseModel):
    """The common base: frozen, no unknown keys, errors of our own family."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self))) from None

    # Tables inside a table are then checked together with it, so that the path of a wrong key is known whole.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def replace(self, **values: Any) -> Self:
        """Return a copy with these settings changed, checked like new ones."""
        return type(self)(**{**self.model_dump(), **values})


def explain(error: ValidationError, settings: type[Settings]) -> str:
    """Return the complaints of pydantic in our words: the path of the key, what was found, what is legal."""
    lines = []
    for problem in error.errors(include_url=False):
        keys = [str(key) for key in problem["loc"]]
        path = ".".join(keys)
        if problem["type"] == "extra_forbidden":
            known = _known_keys(settings, keys[:-1])
            near = closest(keys[-1], known, 1)
            hint = f"did you mean {'.'.join([*keys[:-1], near[0]])!r}?" if near else f"known: {', '.join(known)}"
            lines.append(f"unknown setting {path!r}; {hint}")
        else:
            text = problem["msg"].removeprefix("Value error, ")
            lines.append(f"setting {path!r} is {problem['input']!r}: {text[:1].lower()}{text[1:]}")
    return "; ".join(lines)


def _known_keys(settings: type[BaseModel], path: Sequence[str]) -> list[str]:
    for key in path:
        annotation = settings.model_fields[key].annotation if key in settings.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        settings = annotation
    return list(settings.model_fields)


def override(values: dict[str, Any], text: str) -> None:
    """Put what ``table.key=value`` says into the tables."""
    key, equals, right = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: expected table.key=value")
    try:
        value = tomllib.loads(f"value = {right.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = right.strip()  # a bare word is a string
    *tables, last = key.strip().split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"--set {text!r}: {table!r} is no table")
        values = inner  # type: ignore[assignment]
    values[last] = value
