"""Which of a run's settings speak of generated fields, and what is left of them without."""

from __future__ import annotations

from pathlib import Path

from llm_tail.config import RunConfig, TextConfig
from llm_tail.config.enriching import TASKS
from llm_tail.errors import ConfigError, closest

PREFIX = "generated_"
ENRICHED = "enriched"
FIELDS = "fields.parquet"
_ANSWERS = "enrichment"
# Every list of columns in the settings: table and key.
_LISTS = (("text", "fields"), ("graph", "relations"), ("lora", "attributes"), ("hybrid", "word_fields"))


def uses_generated(config: RunConfig) -> bool:
    """Say whether the stages behind the enrichment see generated fields."""
    return config.enrichment.enabled and config.enrichment.use


def answers_folder(config: RunConfig) -> Path:
    """Return the folder of the cache of answers."""
    return Path(config.enrichment.answers or Path(config.folder) / _ANSWERS)


def effective(config: RunConfig) -> RunConfig:
    """Return the settings as they count: without generated fields where ``[enrichment] use`` is false.

    Raises
    ------
    ConfigError
        If a generated field is named that is not asked for; the nearest, or what to switch on, is named.

    Examples
    --------
    >>> config = RunConfig(text={"fields": ["title", "generated_summary"]}, enrichment={"use": False})
    >>> effective(config).text.fields
    ['title']
    """
    named = {name: f"[{t}] {k}" for t, k in _LISTS for name in getattr(getattr(config, t), k) if _is_ours(name)}
    if not named:
        return config
    if not config.enrichment.use:
        return _without(config)
    asked = field_names(config.replace(enrichment={**config.enrichment.model_dump(), "enabled": True}))
    for name, where in named.items():
        if name.removeprefix(PREFIX) not in TASKS:
            near = closest(name, asked, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there will be: {', '.join(asked)}"
            raise ConfigError(f"{where} names {name!r}, and no task makes such a field; {hint}")
        if not config.enrichment.enabled:
            raise ConfigError(
                f"{where} names {name!r}, and [enrichment] enabled is false; switch it on, or leave all generated "
                "fields out with [enrichment] use = false"
            )
        if name not in asked:
            raise ConfigError(
                f"{where} names {name!r}, and [enrichment] tasks makes {', '.join(asked) or 'no field of items'}; add "
                "the task, or take the name out"
            )
    return config


def field_names(config: RunConfig) -> list[str]:
    """Return the generated columns that the run's items will have."""
    return [PREFIX + task for task in config.enrichment.tasks if task != "profile"] if uses_generated(config) else []


def is_read(config: RunConfig) -> bool:
    """Say whether any setting makes use of what is generated."""
    named = any(_is_ours(name) for table, key in _LISTS for name in getattr(getattr(config, table), key))
    return named or "question" in config.lora.pairs


def source_text(config: RunConfig) -> TextConfig:
    """Return how an item becomes a text before anything is generated."""
    fields = [name for name in config.text.fields if not _is_ours(name)]
    return config.text.replace(fields=fields or ["title", "description"])


def _without(config: RunConfig) -> RunConfig:
    values = config.model_dump()
    for table, key in _LISTS:
        values[table][key] = [name for name in values[table][key] if not _is_ours(name)]
    values["text"] = source_text(config).model_dump()
    return type(config)(**values)


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX)
