"""Gate: what every question passes before it is looked at, and every answer on its way out.

In this order: is it addressed to us (the Host header: a page elsewhere must not reach a service on this machine by
giving its own name our address), does another site's page send it, does the asker have the key, have they asked too
often, is the body too long. All of it costs some 20 microseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from llm_tail.service.addresses import host_of, is_address
from llm_tail.service.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llm_tail.config import ServeConfig

LOG = logging.getLogger("llm_tail.service")
LOCAL = ("localhost", "testserver")  # the second is what test clients call themselves; no page can have that name
OPEN = ("/", "/health", "/ready", "/favicon.ico")
SLASH = "\ue000"  # an encoded slash on its way through the router; a private character, no part of any text
MOST_CLIENTS = 10_000
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", PAGE_POLICY.encode()),
]
Watcher = Callable[[str, int, float], None]


class TooLongError(Exception):
    """A body is longer than it may be."""


class Buckets:
    """A token bucket for each client: `rate` questions a second for long, `burst` of them at once.

    Examples
    --------
    >>> now = [0.0]
    >>> buckets = Buckets(rate=1.0, burst=2, clock=lambda: now[0])
    >>> [buckets.wait("a") for _ in range(3)], buckets.wait("b")
    ([0.0, 0.0, 1.0], 0.0)
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        if not self.rate:
            return 0.0
        now = self._clock()
        left, then = self._left.pop(client, (float(self.burst), now))
        left = min(float(self.burst), left + (now - then) * self.rate)
        answer = 0.0 if left >= 1.0 else (1.0 - left) / self.rate
        self._left[client] = (left - 1.0 if left >= 1.0 else left, now)
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        return answer


class Gate:
    """The outermost layer of the service.

    Parameters
    ----------
    app : ASGI application
        What is behind the gate.
    settings : ServeConfig
        Hosts, rates, sizes.
    key : str
        The API key; empty for none. Only a digest of it is kept.
    watch : callable
        Told the route, the status and the seconds of every answer.
    """

    def __init__(self, app: ASGIApp, settings: ServeConfig, key: str, watch: Watcher) -> None:
        self.app, self.settings, self.watch = app, settings, watch
        self._key = hashlib.sha256(key.encode()).digest() if key else b""
        self._hosts = {name.lower() for name in (*LOCAL, settings.host, *settings.allowed_hosts)}
        self._buckets = Buckets(settings.rate, settings.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a question through, or answer it here."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        scope["request_id"] = request_id = secrets.token_hex(8)

        async def out(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _with_headers(message["headers"], request_id)}
            await send(message)

        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await out(message)

        try:
            await self._pass(scope, receive, watched)
        except Exception:
            LOG.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if begun:
                raise
            words = "something went wrong here; the log of the service has it under this request id"
            await problem(500, words, request_id=request_id)(scope, receive, out)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.watch(route, status, time.perf_counter() - started)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            try:
                receive = await _read(receive, headers, self.settings.max_body_bytes)
            except TooLongError:
                most = self.settings.max_body_bytes
                refusal = problem(413, f"the body is longer than {most:,} bytes; send less at once")
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        raw = scope.get("raw_path") or b""
        if b"%2f" in raw.lower():
            scope["path"] = unquote(re.sub("%2f", SLASH, raw.split(b"?")[0].decode("ascii", "replace"), flags=re.I))
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> Any:
        host = host_of(headers.get(b"host", ""))
        if not (host in self._hosts or is_address(host)):
            words = "this service does not go by the name in the Host header; put it under [serve] allowed_hosts"
            return problem(400, words)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not _same_site(headers):
            return problem(403, "a page of another site asks; only pages of this service and programs may")
        client = (scope.get("client") or ("",))[0]
        path = scope["path"]
        scope["authorized"] = authorized = not self._key or self._opens(given_key(headers))
        if not (authorized or path in OPEN or path.startswith("/page/")):
            if wait := self._buckets.wait(f"{client} without"):
                return _later(wait)
            words = "this service has an API key; send it as the header Authorization: Bearer KEY"
            return problem(401, words, headers={"WWW-Authenticate": "Bearer"})
        if path not in ("/health", "/ready", "/metrics") and (wait := self._buckets.wait(client)):
            return _later(wait)
        return None

    def _opens(self, given: str) -> bool:
        return hmac.compare_digest(hashlib.sha256(given.encode("utf-8", "replace")).digest(), self._key)


def given_key(headers: dict[bytes, str]) -> str:
    """Return the API key that came with a question; empty where none did."""
    scheme, _, key = headers.get(b"authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", "")


def _same_site(headers: dict[bytes, str]) -> bool:
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get(b"host", "").lower():
        return False
    return headers.get(b"sec-fetch-site", "none") in ("none", "same-origin")


def _later(wait: float) -> Any:
    words = f"too many questions; come again in {max(wait, 0.1):.1f} s"
    return problem(429, words, headers={"Retry-After": str(int(wait) + 1)})


async def _read(receive: Receive, headers: dict[bytes, str], most: int) -> Receive:
    """Read a body, no more than `most` bytes of it, and return what gives it to the application."""
    length = headers.get(b"content-length", "")
    if length.isdecimal() and int(length) > most:
        raise TooLongError
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise TooLongError
        more = message.get("more_body", False)
    whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again


def _with_headers(headers: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    there = {name for name, _ in headers}
    kept = [(b"cache-control", b"no-store")] if b"cache-control" not in there else []
    return [*headers, *HEADERS, *kept, (b"x-request-id", request_id.encode())]
