"""``llm-tail serve``: answer over HTTP."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_tail.cli.common import ConfigFile, Overrides, open_workspace, say
from llm_tail.errors import ConfigError, LlmTailError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

    from llm_tail.config import ServeConfig
    from llm_tail.service.service import Service
    from llm_tail.workspace import Workspace

SWITCH_INTERVAL = 0.001  # seconds after which a thread that computes lets the one that answers go on
LONGEST_GOODBYE = 10  # seconds that questions under way have when the service is told to stop


def serve(
    config: ConfigFile,
    host: Annotated[str | None, typer.Option(help="Address to listen on; else \\[serve] host.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; else \\[serve] port.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable that holds the API key.")
    ] = None,
    insist: Annotated[
        bool, typer.Option("--insist", help="Listen on other addresses than this machine's own without an API key.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Answer over HTTP, with a page to look around in, until Ctrl-C.

    A newer run in the same folder is taken over as soon as it is finished, and at SIGHUP; no question is dropped.
    """
    # On one short text, threads that wait for each other are slower than one; read when numpy and torch are loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.setswitchinterval(SWITCH_INTERVAL)
    given = {"host": host, "port": port, "api_key_env": api_key_env, "insist": insist or None}
    changes = [f"serve.{name}={_toml(value)}" for name, value in given.items() if value is not None]
    overrides = [*(overrides or ()), *changes]
    workspace = open_workspace(config, overrides)
    settings = workspace.config.serve
    has_key = check_address(settings)
    with listen(settings.host, settings.port) as sock:  # an address that is taken is told before anything is loaded
        app = _load(workspace, lambda: open_workspace(config, overrides))
        try:
            _answer(app, settings, sock, " (API key asked for)" if has_key else "")
        finally:
            app.state.service.close()
    say("stopped")


def _load(workspace: Workspace, reopen: Callable[[], Workspace]) -> FastAPI:
    """Return the application, and let SIGHUP reload it."""
    try:
        from llm_tail.service import create_app
    except ImportError as error:
        raise error if isinstance(error, MissingExtraError) else MissingExtraError(str(error.name), "serve") from error
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("llm_tail.service").setLevel(logging.INFO)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is being loaded is the newest there is
    app = create_app(workspace, reopen=reopen)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: _reload_beside(app.state.service))
    return app


def _answer(app: FastAPI, settings: ServeConfig, sock: socket.socket, note: str) -> None:
    """Answer until Ctrl-C."""
    import uvicorn

    running = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=4 * settings.max_waiting,
        timeout_graceful_shutdown=LONGEST_GOODBYE,
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"{app.state.service.run.n_items:,} items at http://{host}:{sock.getsockname()[1]}/{note}")
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
        uvicorn.Server(running).run(sockets=[sock])


def check_address(settings: ServeConfig) -> bool:
    """Return whether there is an API key; refuse an address that others can reach without one.

    Raises
    ------
    ConfigError
        If there is none, others can reach the service, and nobody insisted.
    """
    from llm_tail.service.addresses import is_loopback

    has_key = bool(os.environ.get(settings.api_key_env))
    if not (has_key or settings.insist or is_loopback(settings.host)):
        raise ConfigError(
            f"{settings.host} can be reached by others and there is no API key; put one into the environment variable "
            f"{settings.api_key_env}, or give --insist to let everybody in"
        )
    return has_key


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises
    ------
    ConfigError
        If the address is taken or not ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as unless_bound:
            sock = unless_bound.enter_context(socket.socket(family, kind, protocol))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            unless_bound.pop_all()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); give another --port or --host"
        ) from None
    return sock


def _reload_beside(service: Service) -> None:
    """Reload on a thread of its own: a signal must not hold up the answers."""

    def work() -> None:
        with contextlib.suppress(LlmTailError, OSError):  # it has been logged, and /ready says it
            service.reload(why="SIGHUP")

    threading.Thread(target=work, name="reload", daemon=True).start()


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
