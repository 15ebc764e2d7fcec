"""create_app: the service as one application, for uvicorn or any other server of ASGI."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

import llm_tail
from llm_tail.errors import LlmTailError
from llm_tail.service import about_items, about_people, about_service, problems
from llm_tail.service.gate import Gate
from llm_tail.service.service import Service

if TYPE_CHECKING:
    from llm_tail.workspace import Workspace


def create_app(workspace: Workspace, *, reopen: Callable[[], Workspace] | None = None) -> FastAPI:
    """Load a finished run and return the application that answers from it.

    Settings are those of ``[serve]``; the API key is read from the environment variable that they name, once and now.
    Nothing is listened to yet: that is the business of a server such as uvicorn, and of one process alone, for the
    state is held by it.

    Parameters
    ----------
    workspace : Workspace
        The run.
    reopen : callable, optional
        Returns the run as it is described now, when a newer one is looked for; the same settings again if left out.

    Returns
    -------
    FastAPI
        ``app.state.service`` is the `Service`; it is closed when the server ends the application's lifespan.

    Raises
    ------
    StaleArtifactError, CorruptArtifactError
        If the run is not finished; the message names the command.
    DataError
        If another service holds the state of this run.
    """
    service = Service(workspace, reopen)
    settings = workspace.config.serve
    key = os.environ.get(settings.api_key_env, "")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.close()

    app = FastAPI(
        title="llm-tail",
        version=llm_tail.__version__,
        description="Similar, related and recommended items, the cold and rare ones too.",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        middleware=[Middleware(Gate, settings=settings, key=key, watch=service.metrics.watch)],
        exception_handlers={
            LlmTailError: problems.of_family,
            RequestValidationError: problems.of_validation,
            HTTPException: problems.of_http,
            UnicodeError: problems.of_text,
        },
    )
    app.state.service = service
    for routes in (about_people, about_items, about_service):
        app.include_router(routes.router)
    return app
