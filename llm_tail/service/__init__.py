"""The service: HTTP routes over one finished run, and its page; `answers` says what there is to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_tail.errors import MissingExtraError

if TYPE_CHECKING:
    from llm_tail.service.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> object:
    if name != "create_app":
        raise AttributeError(f"module 'llm_tail.service' has no attribute {name!r}")
    try:
        from llm_tail.service.app import create_app
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    return create_app
