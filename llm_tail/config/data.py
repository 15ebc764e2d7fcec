"""Settings of what happened: files, their cut, and how an item becomes one text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_tail.config.base import Settings


class DataConfig(Settings):
    """``[data]``: where items and interactions are and how to read them."""

    catalog: str = Field("", description="File, folder or Hugging Face data set (hf:NAME) that holds the items.")
    interactions: str = Field("", description="File, folder or data set that holds who took what.")
    validation: str = Field("", description="Interactions to tune on, never to fit on; a split of training if empty.")
    test: str = Field("", description="Interactions to report on; made by [split] if empty.")
    format: Literal["auto", "csv", "jsonl", "parquet", "recbole", "movielens", "amazon"] = Field(
        "auto", description="How the files are written; auto goes by the names."
    )
    item_columns: dict[str, str] = Field({}, description="Our item column names to the file's, where they differ.")
    interaction_columns: dict[str, str] = Field({}, description="Our interaction column names to the file's.")
    positive: float | None = Field(
        None, description="Ratings below this are no positive sign and are left out; those of 0 or less if not given."
    )
    min_user_events: int = Field(1, ge=1, description="People with fewer distinct items than this are left out.")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="Largest share of unreadable rows to go on with.")


class SplitConfig(Settings):
    """``[split]``: how interactions are cut into training, validation and test where no files are named."""

    method: Literal["cold-items", "leave-last-out", "time", "random", "none"] = Field(
        "cold-items", description="The cut; none puts everything into training."
    )
    cold_share: float = Field(0.2, ge=0, lt=1, description="Share of the items that is held out whole (cold-items).")
    held_share: float = Field(0.1, gt=0, lt=0.5, description="Share of events for validation and again for test.")


class TextConfig(Settings):
    """``[text]``: how an item becomes one text."""

    fields: list[str] = Field(["title", "description"], min_length=1, description="Columns that make up the text.")
    separator: str = Field(". ", description="What stands between two fields.")
    max_chars: int = Field(20_000, ge=100, le=1_000_000, description="Longer texts are cut here before tokenizing.")
