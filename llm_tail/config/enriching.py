"""Settings of words for items that have too few: who is asked, for what, and what it may cost."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator

from llm_tail.config.base import Settings
from llm_tail.errors import closest

Task = Literal["attributes", "summary", "intents", "questions", "relations", "profile"]
TASKS: tuple[Task, ...] = get_args(Task)


def _known_task(name: str) -> str:
    if name not in TASKS:
        near = closest(name, TASKS, 1, cutoff=0.4)
        raise ValueError(f"there is no such task; did you mean {near[0]!r}?" if near else f"known: {', '.join(TASKS)}")
    return name


class EnrichmentConfig(Settings):
    """``[enrichment]``: words that a language model, or the texts themselves, give to items that have too few."""

    enabled: bool = Field(False, description="Enrich the items before anything is made of their texts.")
    use: bool = Field(True, description="Let the rest of the run see the generated fields; false drops all of them.")
    backend: Literal["extractive", "openai", "batch", "transformers"] = Field(
        "extractive",
        description="Who answers: the texts themselves, a server that speaks OpenAI's API, batch files, a local model.",
    )
    extracts: list[Literal["keyphrases", "categories", "borrowed"]] = Field(
        ["keyphrases", "categories"],
        min_length=1,
        description="What extractive takes: an item's own phrases, values it seems to have, words of near items.",
    )
    model: str = Field("", description="The model's name at the server, or the folder or name of a local one.")
    tasks: list[Annotated[str, AfterValidator(_known_task)]] = Field(
        ["attributes", "summary"], min_length=1, description=f"What is asked for: {', '.join(TASKS)}."
    )
    domain: str = Field(
        "products", description="What the items are: products, books, films, music, news, papers, or your own."
    )
    language: str = Field("auto", description="Language of prompts and answers: en, zh, or auto by the items' script.")
    answers: str = Field("", description="Folder of the answers; enrichment in the run's own folder if empty.")
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Generated parts that are less sure stay out of the catalogue."
    )
    prompts: str = Field("", description="A folder of your own templates, which win over the shipped ones.")
    fields: list[str] = Field([], description="Columns that prompts may see; those of the domain if empty.")
    allow_fields: list[str] = Field(
        [],
        description="Columns written by users (tags, reviews) that may be seen all the same; they leak.",
    )
    max_chars: int = Field(4000, ge=100, le=100_000, description="Longer field values are cut here.")
    n_items: int = Field(0, ge=0, description="Most items that are enriched, the most rewarding first; 0 is all.")
    candidates: int = Field(10, ge=1, le=50, description="Near items that relations may choose from.")
    base_url_from: str = Field("OPENAI_BASE_URL", description="Environment variable that holds the server's address.")
    api_key_from: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="Randomness of the answers; what the prompt suggests if not given."
    )
    max_answer_tokens: int = Field(800, ge=16, le=32_768, description="Longest answer.")
    thinking_tokens: int = Field(
        0, ge=0, le=100_000, description="Tokens that a model may think before it answers; for models that do."
    )
    structured: Literal["auto", "schema", "json", "none"] = Field(
        "auto", description="How the form is asked of the server; auto goes from schema to none as it refuses."
    )
    in_flight: int = Field(16, ge=1, le=1024, description="Requests under way at once.")
    requests_per_minute: float = Field(0.0, ge=0, description="Most requests in a minute; 0 is no limit.")
    tokens_per_minute: float = Field(0.0, ge=0, description="Most tokens in a minute, both ways; 0 is no limit.")
    timeout: float = Field(60.0, gt=0, le=3600, description="Seconds after which an answer is asked for again.")
    retries: int = Field(6, ge=0, le=100, description="How often a request is sent again after 429, 5xx or silence.")
    price_in: float = Field(0.0, ge=0, description="Price of a million tokens that are sent.")
    price_out: float = Field(0.0, ge=0, description="Price of a million tokens that come back.")
    currency: str = Field("USD", min_length=1, max_length=12, description="The word behind the prices.")
    max_money: float | None = Field(
        None, ge=0, description="Most that all answers may cost, those of stopped runs included; no limit if not given."
    )
    max_tokens: int | None = Field(None, ge=0, description="The same in tokens.")
    when_spent: Literal["stop", "go-on"] = Field(
        "stop", description="Behind a spent budget: stop the run, or go on with the items that have their answers."
    )
    batch_size: int = Field(8, ge=1, le=1024, description="Prompts that a local model answers at once.")

    @field_validator("max_money", "max_tokens")
    @classmethod
    def _pays_for_something(cls, value: float | None) -> float | None:
        if value == 0:
            raise ValueError("a budget of zero pays for no answer; leave it out where there is no limit")
        return value
