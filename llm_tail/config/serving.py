"""Settings of the service."""

from __future__ import annotations

from pydantic import Field

from llm_tail.config.base import Settings

KEY_VARIABLE = "LLM_TAIL_API_KEY"


class ServeConfig(Settings):
    """``[serve]``: the HTTP service."""

    host: str = Field("127.0.0.1", description="Address to listen on; any but this machine's own needs an API key.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    api_key_env: str = Field(KEY_VARIABLE, description="Environment variable that holds the API key, if there is one.")
    insist: bool = Field(False, description="Listen on other addresses without an API key all the same.")
    allowed_hosts: list[str] = Field([], description="Names that questions may be addressed to, besides localhost.")
    max_k: int = Field(200, ge=1, le=10_000, description="Most items in one answer; who asks for more gets as many.")
    max_body_bytes: int = Field(8 << 20, ge=1024, description="Longest body of a question, in bytes.")
    rate: float = Field(100.0, ge=0, description="Questions a second that one client may ask for long; 0 for any.")
    burst: int = Field(200, ge=1, description="Questions that one client may ask at once.")
    threads: int = Field(4, ge=1, le=256, description="Questions that are computed at the same time.")
    max_waiting: int = Field(500, ge=1, description="Questions that may wait for that; more are told to come again.")
    cache: int = Field(4096, ge=0, description="Texts whose vectors are kept for when they are asked for again.")
    state: str = Field("", description="File of feedback and upserted items; service.sqlite in the run if empty.")
    watch_seconds: float = Field(2.0, ge=0, description="Pause between looks for a newer run on disk; 0 for none.")
    compare_base: bool = Field(
        False, description="Embed the catalogue with the encoder as it was before fine-tuning too, to compare."
    )
