"""Settings of who is near whom and what to show."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_tail.config.base import Settings


class IndexConfig(Settings):
    """``[index]``: the neighbour index, exact or approximate (HNSW)."""

    engine: Literal["auto", "exact", "hnswlib", "faiss", "usearch"] = Field(
        "auto", description="What searches: auto is exact for small catalogues and hnswlib for larger ones."
    )
    links: int = Field(16, ge=2, le=256, description="Links an item keeps on each level (M).")
    ef_construction: int = Field(200, ge=8, le=10_000, description="Candidates looked at while linking.")
    ef: int = Field(
        0, ge=0, le=100_000, description="Candidates looked at in a query; 0: as few as reach the recall target."
    )
    recall_target: float = Field(
        0.95, gt=0, le=1, description="Share of the true ten nearest that a query has to find, by which ef is tuned."
    )
    exact_below: int = Field(2000, ge=0, description="Smaller catalogues are searched exactly where engine is auto.")
    storage: Literal["float32", "float16"] = Field(
        "float32", description="Numbers that vectors are kept in; float16 takes half, and moves a cosine by .001."
    )
    compact_above: float = Field(
        0.3, gt=0, le=1, description="Share of removed items in the links above which these are made anew."
    )
    snapshots: int = Field(5, ge=1, le=10_000, description="Snapshots that are kept; older ones are removed.")


class GraphConfig(Settings):
    """``[graph]``: the item knowledge graph."""

    relations: list[str] = Field([], description="Columns whose shared values tie items together.")
    neighbors: int = Field(15, ge=1, le=1000, description="Semantic neighbours an item is tied to.")
    min_similarity: float = Field(0.3, ge=-1, le=1, description="Semantic ties weaker than this are left out.")
    mutual: bool = Field(
        False, description="Keep semantic ties that both items choose, and each item's strongest; no others."
    )
    hub_cap: int = Field(200, ge=2, description="A value shared by more items than this says nothing and ties none.")
    co_interaction: bool = Field(True, description="Tie items that the same people took (training only).")
    co_neighbors: int = Field(15, ge=1, le=1000, description="Ties of that kind an item keeps.")


class HybridConfig(Settings):
    """``[hybrid]``: the recommender that lends signal to cold and tail items."""

    ridge: float = Field(50.0, gt=0, description="L2 penalty of the collaborative part.")
    pull: float = Field(100.0, ge=0, description="How strongly it is pulled towards the texts; 0 is plain EASE.")
    text_ridge: float = Field(10.0, gt=0, description="L2 penalty of the text matrix it is pulled towards.")
    damping: float = Field(
        0.2, ge=-1, le=2, description="An owned item speaks with popularity^-damping; 0 lets all speak alike."
    )
    recency: float = Field(
        1.0,
        gt=0,
        le=1,
        description="What a person took n events ago speaks with recency^n; 1 where no order is known.",
    )
    neighbors: int = Field(20, ge=1, le=1000, description="Semantic neighbours that an item attends over.")
    tied_neighbors: int = Field(
        5, ge=0, le=1000, description="Further neighbours: the nearest of those that the graph ties to it."
    )
    temperature: float = Field(0.05, gt=0, le=10, description="Sharpness of the attention; small looks at few.")
    gate: float = Field(0.3, ge=0, le=1000, description="People after whom an item trusts itself as much as others.")
    borrow: float = Field(1.0, ge=0, le=10, description="Scale of what is borrowed from the neighbours.")
    kernel_power: float = Field(3.0, gt=0, le=20, description="Exponent of the text kernel max(0, cosine)^p.")
    word_share: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="Of two texts' likeness, the share of the words they have in common; the rest is what they mean. "
        "0 leaves words out.",
    )
    word_fields: tuple[str, ...] = Field(
        ("auto",),
        description="Columns of a run whose words count beside those of its texts. auto stands for [graph] relations "
        "and all columns whose values items share, but not for what users wrote.",
    )
    text_metric: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How strongly directions of the text vectors count that tell what people take together, where "
        "texts speak for themselves; 0 leaves the vectors as they are.",
    )
    neighbor_metric: float = Field(
        0.0, ge=0, le=1, description="The same where neighbours are sought that lend their signal."
    )
    text_weight: float = Field(0.05, ge=0, le=100, description="Weight of the direct text signal of every item.")
    thin_text_weight: float = Field(
        0.25,
        ge=0,
        le=100,
        description="What an item without evidence borrows from the texts, beside its neighbours' IDs.",
    )
    tail_lift: float = Field(
        1.0, gt=0, le=100, description="Scores of tail items are multiplied by this; 1 leaves them as they are."
    )
    shortfall: float = Field(
        20.0,
        ge=0,
        le=1000,
        description="How many times more it counts where a ranking falls behind the better of ID embeddings and texts "
        "alone than where it is ahead, as settings are chosen for all goals; 0 lets one pay for the other.",
    )
    goal: Literal["all", "warm", "tail", "cold", "overall"] = Field(
        "all", description="The ranking that settings are chosen for: one of the four, or all of them."
    )
    tune: bool = Field(
        True,
        description="Choose penalties, damping, recency, gate, weights, lift, word_share and metrics by validation.",
    )
    learn: bool = Field(True, description="Train the attention on items that are pretended cold; kept where it wins.")
    solution: Literal["auto", "whole", "low-rank"] = Field(
        "auto", description="How ID embeddings are solved for; auto is whole up to max_items, of low rank above."
    )
    max_items: int = Field(30_000, ge=1, description="Most items with interactions that are solved for as a whole.")
    rank: int = Field(
        1024, ge=1, le=8192, description="Directions of the interactions that low-rank keeps; fewer past 200,000 items."
    )
