"""Settings of how good it is and what it costs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llm_tail.config.base import Settings


class EvaluationConfig(Settings):
    """``[evaluation]``: what is measured and against whom."""

    k: list[Annotated[int, Field(ge=1)]] = Field(
        [10, 20], min_length=1, description="Lengths of the lists that are judged."
    )
    models: list[str] = Field(
        ["popularity", "content", "tfidf", "item-knn", "ease", "l3ae", "als"],
        description="Baselines that stand beside the hybrid.",
    )
    n_bootstrap: int = Field(1000, ge=0, le=100_000, description="Resamples behind each interval; 0 leaves it out.")


class ValueConfig(Settings):
    """``[value]``: which choices of embedding are compared, and what an hour of the machine costs."""

    runtimes: list[
        Literal["torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16", "openvino-int8", "static", "tfidf"]
    ] = Field(
        ["torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16", "openvino-int8", "static", "tfidf"],
        min_length=1,
        description="What turns texts into vectors; what cannot run here is listed with the reason.",
    )
    dims: list[Annotated[int, Field(ge=8)]] = Field(
        [], description="Widths that vectors are cut to, beside the full one; a half and a quarter of it if empty."
    )
    storage: list[Literal["float32", "float16", "int8"]] = Field(
        ["float32", "float16", "int8"], min_length=1, description="Number formats of the vectors on disk."
    )
    max_items: int = Field(10_000, ge=1, description="Most items that are encoded and ranked for a judgement.")
    max_people: int = Field(2_000, ge=1, description="Most people of validation that are judged on.")
    min_seconds: float = Field(2.0, ge=0, le=3600, description="Fast runtimes encode again until this has passed.")
    keep_share: float = Field(
        0.99, gt=0, le=1, description="Without a budget, the cheapest that keeps this share of the best quality."
    )
    core_hour: float = Field(0.05, ge=0, description="Price of one processor core for an hour.")
    gpu_hour: float = Field(2.0, ge=0, description="Price of one GPU, with its host, for an hour.")
    currency: str = Field("EUR", min_length=1, max_length=12, description="The word behind the prices.")


class BenchConfig(Settings):
    """``[bench]``: who is compared on this run's data, on how many cuts of it, with how much tuning."""

    models: list[str] = Field([], description="Models that are compared; all there are if empty.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field([], description="One cut each; the run's own seed if empty.")
    trials: int = Field(20, ge=0, le=100_000, description="Settings tried for each model; 0 is the defaults alone.")
    minutes: float = Field(0.0, ge=0, description="No more settings of a model after this time; 0 is no limit.")
    k: int = Field(20, ge=1, le=10_000, description="Length of the lists that are judged, on validation and test.")
    max_people: int = Field(4_000, ge=1, description="Most people of validation that settings are judged on.")
    n_bootstrap: int = Field(1000, ge=0, le=100_000, description="Resamples of people behind each interval.")
    isolate: bool = Field(True, description="Fit each model in a process of its own, so that its memory is known.")
