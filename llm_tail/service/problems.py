"""What goes wrong, as an answer: a status, one sentence, the closest ids; never a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from llm_tail.errors import ConfigError, DataError, LlmTailError, StaleArtifactError, UnknownIdError
from llm_tail.service.answers import Problem

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": words}
    for status, words in {
        400: "The question makes no sense.",
        401: "No API key, or a wrong one.",
        403: "Another site's page asks.",
        404: "There is no such item or person.",
        409: "This run cannot answer it.",
        413: "The body is too large.",
        422: "A value is of the wrong type or out of its range.",
        429: "Too many questions; the header Retry-After says when to come again.",
        500: "Our fault; the log has it under the request id.",
        503: "Too busy, or not ready.",
    }.items()
}


class ConflictError(DataError):
    """The question is sound, and this run cannot answer it."""


class BusyError(LlmTailError, RuntimeError):
    """More waits already than can be answered soon."""


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return plain values as JSON."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, dict(headers or {}), media_type="application/json")


def problem(
    status: int,
    error: str,
    *,
    closest: list[str] | None = None,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a `Problem`.

    Parameters
    ----------
    status : int
        400 to 599.
    error : str
        One sentence.
    closest : list of str, optional
        Ids that look like the one asked for.
    request_id : str, optional
        Where the log tells more.
    headers : mapping, optional
        To be sent with it.
    """
    words = error.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair can be asked for, not answered
    near = [x.encode("utf-8", "replace").decode("utf-8") for x in closest or []]
    return reply({"error": words, "closest": near, "request_id": request_id}, status, headers)


async def of_family(request: Request, error: Exception) -> Response:
    """Return the answer to an error of our own family."""
    if isinstance(error, UnknownIdError):
        return problem(404, str(error), closest=error.closest)
    if isinstance(error, BusyError):
        return problem(503, str(error), headers={"Retry-After": "1"})
    if isinstance(error, (ConflictError, StaleArtifactError)):
        return problem(409, str(error))
    if isinstance(error, (DataError, ConfigError)):
        return problem(400, str(error))
    raise error


async def of_validation(request: Request, error: Exception) -> Response:
    """Return the answer to a value of the wrong type or range: where it stands and what is wrong with it."""
    if not isinstance(error, RequestValidationError):
        raise error
    told = []
    for one in error.errors()[:3]:
        place = ".".join(str(part) for part in one["loc"][1:]) or "the body"
        told.append(f"{place}: {one['msg'].removeprefix('Value error, ')}")
    return problem(422, "; ".join(told))


async def of_http(request: Request, error: Exception) -> Response:
    """Return the answer to what the router refuses."""
    if not isinstance(error, HTTPException):
        raise error
    words = {404: f"there is nothing at {request.url.path}; /openapi.json says what there is"}
    words[405] = f"{request.method} is not answered at {request.url.path}"
    return problem(error.status_code, words.get(error.status_code, str(error.detail)), headers=error.headers)


async def of_text(request: Request, error: Exception) -> Response:
    """Return the answer to text that is none: half a surrogate pair, which JSON can write and nothing can hold."""
    return problem(400, "a text holds half of a surrogate pair, which is no character; send valid Unicode")
