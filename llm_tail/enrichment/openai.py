"""OpenAiBackend: any server that speaks OpenAI's chat API, near or far.

Requests leave in threads, as fast as the limits allow. What a server refuses for a while (429, 5xx, silence) is sent
again after the time that it names, else after ever longer pauses; what it refuses for good ends the run with one line.
The key never leaves this module but in the header of a request: messages, logs and answers are cleaned of it.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llm_tail.config import EnrichmentConfig
from llm_tail.config.enriching import TASKS, Task
from llm_tail.enrichment.backends import Reply, Request
from llm_tail.enrichment.limits import BYTES_PER_TOKEN, Pace
from llm_tail.errors import BackendError, ConfigError, LlmTailError, MissingExtraError, closest

LONGEST_BODY = 4_000_000  # bytes of a response; an answer of 32,768 tokens has less than a tenth of that
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds
FORMS = ("schema", "json", "none")  # from the strictest on
MOST_REFUSED = 4  # requests that a server may refuse for good before it has answered any


class _Body(NamedTuple):
    text: str
    error: str
    tokens_in: int
    tokens_out: int


class _Failure(NamedTuple):
    why: str
    pause: float  # seconds
    for_all: bool = False


class OpenAiBackend:
    """Asks a server that speaks OpenAI's chat API.

    Parameters
    ----------
    config : EnrichmentConfig
        Model, limits and the names of the environment variables that hold address and key.

    Raises
    ------
    ConfigError
        If no model is named.

    Notes
    -----
    Each request carries its key as ``Idempotency-Key``: a server that knows that header bills a repeated one once.
    """

    name = "openai"
    costs = True
    extracts = False
    tasks: tuple[Task, ...] = TASKS

    def __init__(self, config: EnrichmentConfig) -> None:
        self.config = config
        if not config.model:
            raise ConfigError("[enrichment] model is not set; give the name that the server knows the model by")
        self.model = config.model
        self.settings: Mapping[str, Any] = {"temperature": config.temperature}
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._lock = threading.Lock()
        self._forms = FORMS if config.structured == "auto" else (config.structured,)
        self._form = 0
        self._left_out: set[str] = set()  # parameters that this server does not take
        self._n_answered = self._n_refused = self._n_silent = 0
        self._stop = threading.Event()

    @cached_property
    def _secret(self) -> str:
        secret = os.environ.get(self.config.api_key_from, "").strip()
        if not secret:
            raise ConfigError(
                f"there is no key: the environment variable {self.config.api_key_from} is not set; set it (a local "
                "server takes any word), or name another variable with [enrichment] api_key_from"
            )
        return secret

    @cached_property
    def _client(self) -> Any:
        try:
            import openai
        except ImportError:
            raise MissingExtraError("openai", "llm") from None
        address = os.environ.get(self.config.base_url_from, "").strip() or None
        if address is not None and urlsplit(address).scheme not in ("http", "https"):
            raise ConfigError(
                f"{self.config.base_url_from} holds no address of a server (it may hold a secret and is not shown); "
                "expected an address such as http://localhost:8000/v1"
            )
        return openai.OpenAI(api_key=self._secret, base_url=address, max_retries=0, timeout=self.config.timeout)

    @property
    def address(self) -> str:
        """Where the server is: scheme, host and port, without anything secret."""
        url = urlsplit(os.environ.get(self.config.base_url_from, "").strip() or "https://api.openai.com")
        return f"{url.scheme}://{url.hostname}" + (f":{url.port}" if url.port else "")

    def check(self) -> None:
        """Ask the server which models it has; nothing is paid for that.

        Raises
        ------
        BackendError
            If the server is not there or refuses the key.
        ConfigError
            If the key is not set, the address is none, or the server does not have the model.
        MissingExtraError
            If ``openai`` is not installed.
        """
        models, problem = self._models()
        if problem is not None:
            raise problem
        if models and self.model not in models:
            near = closest(self.model, models, 3)
            shown = ", ".join(near or models[:5])
            raise ConfigError(
                f"the server at {self.address} has no model {self.model!r}; "
                f"{'the closest are' if near else 'it has'}: {shown}; set [enrichment] model"
            )

    def _models(self) -> tuple[list[str], LlmTailError | None]:
        """Return the models that the server lists, empty where it lists none, or what is wrong.

        Errors are raised outside of the block that caught the library's: what that says may hold the key.
        """
        client = self._client
        import openai

        try:
            return [model.id for model in client.models.list(timeout=min(self.config.timeout, 20.0))], None
        except openai.APIConnectionError as error:
            return [], BackendError(self._not_there(error))
        except openai.APIStatusError as error:
            return [], self._refused(error) if error.status_code in (401, 403) else None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            return [], None

    def answer(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield replies as they come; up to ``in_flight`` requests are under way.

        Raises
        ------
        BackendError
            If the server refuses for good (the key, the model, the form) or falls silent.
        """
        source = iter(requests)
        under_way: set[Future[Reply]] = set()
        pool = ThreadPoolExecutor(self.config.in_flight, thread_name_prefix="enrich")
        stopped: BaseException | None = None
        try:
            while True:
                while stopped is None and len(under_way) < self.config.in_flight:
                    request = next(source, None)
                    if request is None:
                        break
                    under_way.add(pool.submit(self._one, request))
                if not under_way:
                    break
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    if error is None:
                        yield future.result()
                    elif stopped is None:
                        stopped = error
                        self._stop.set()
            if stopped is not None:
                raise stopped
        finally:
            self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            self._stop = threading.Event()

    # ---- one request

    def _one(self, request: Request) -> Reply:
        """Ask until there is an answer, a refusal, or no patience left."""
        stop, why, n_failed = self._stop, "", 0
        tokens = int(sum(len(m["content"].encode()) for m in request.messages) / BYTES_PER_TOKEN) + request.max_tokens
        while n_failed <= self.config.retries and not stop.is_set():
            self._pace.wait(tokens)
            if stop.is_set():
                break
            came = self._try(request, n_failed)
            if isinstance(came, _Body):
                with self._lock:
                    self._n_answered, self._n_silent = self._n_answered + 1, 0
                self._pace.correct(came.tokens_in + came.tokens_out - tokens)
                return Reply(request.key, came.text, came.error, came.tokens_in, came.tokens_out)
            if isinstance(came, LlmTailError):
                raise came
            if isinstance(came, Reply):
                return came
            if came is not None:  # not so where the server only wants to be asked in another way
                why, pause, for_all = came
                n_failed += 1
                if n_failed <= self.config.retries:
                    if for_all:
                        self._pace.close(pause)
                    else:
                        stop.wait(pause)
        if not stop.is_set() and (problem := self._is_it_silent(why)) is not None:
            raise problem
        return Reply(request.key, error=why or "the run was stopped before it was answered", passing=True)

    def _try(self, request: Request, n_failed: int) -> _Body | Reply | LlmTailError | _Failure | None:
        """Ask once; return what came, in our own words, since those of the library may hold the key."""
        import openai

        form, left_out = self._form, set(self._left_out)
        try:
            return self._ask(request, form, left_out)
        except openai.BadRequestError as error:
            given_in = self._give_in(error, form, left_out)
            if isinstance(given_in, LlmTailError):
                return given_in
            return None if given_in else self._set_aside(request, error)
        except openai.APIConnectionError as error:  # and its child, the time-out
            return _Failure(self._not_there(error), _pause(n_failed, {}))
        except openai.APIStatusError as error:
            status, headers = error.status_code, error.response.headers
            if error.code == "insufficient_quota" or (status not in (408, 409, 425, 429) and status < 500):
                return self._refused(error)
            return _Failure(self._clean(str(error)), _pause(n_failed, headers), status == 429)
        except (_BrokenBody, openai.OpenAIError) as error:
            return _Failure(self._clean(str(error)) or type(error).__name__, _pause(n_failed, {}))

    def _ask(self, request: Request, form: int, left_out: set[str]) -> _Body:
        options: dict[str, Any] = {"max_tokens": request.max_tokens, "temperature": request.temperature}
        if "max_tokens" in left_out:  # what newer models call it
            options["max_completion_tokens"] = options["max_tokens"]
        options = {name: value for name, value in options.items() if name not in left_out}
        if self._forms[form] == "schema":
            schema = {"name": request.task, "schema": dict(request.schema), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self._forms[form] == "json":
            options["response_format"] = {"type": "json_object"}
        started = time.monotonic()
        chunks, size = [], 0
        with self._client.chat.completions.with_streaming_response.create(
            model=self.model,
            messages=[dict(message) for message in request.messages],
            extra_headers={"Idempotency-Key": request.sent_as},
            **options,
        ) as response:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > LONGEST_BODY:
                    return _Body("", f"the response has more than {LONGEST_BODY:,} bytes", 0, 0)
                if time.monotonic() - started > 2 * self.config.timeout:
                    raise _BrokenBody(f"the response took more than {2 * self.config.timeout:g} s to come")
        return self._read(b"".join(chunks), request)

    def _read(self, body: bytes, request: Request) -> _Body:
        """Return what a response says; servers that count no tokens are counted for by the length of the texts."""
        try:
            value = json.loads(self._clean(body.decode("utf-8")))
            choice = value["choices"][0]
            text = choice["message"].get("content") or ""
            refusal = choice["message"].get("refusal") or ""
            usage = value.get("usage") or {}
            n_sent = sum(len(m["content"].encode()) for m in request.messages)
            tokens_in = int(usage.get("prompt_tokens") or n_sent / BYTES_PER_TOKEN)
            tokens_out = int(usage.get("completion_tokens") or len(text.encode()) / BYTES_PER_TOKEN)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _BrokenBody(f"the response is no chat completion ({type(error).__name__})") from None
        return _Body(text, f"the model refused: {refusal}" if refusal and not text else "", tokens_in, tokens_out)

    # ---- what goes wrong

    def _give_in(self, error: Any, form: int, left_out: set[str]) -> bool | ConfigError:
        """Ask for less where the server has refused a parameter; False where it refused something else."""
        said = self._clean(str(error)).lower()
        with self._lock:
            if (form, left_out) != (self._form, self._left_out):
                return True  # another thread has given in already
            if any(word in said for word in ("response_format", "json_schema", "guided", "grammar", "json_object")):
                if form + 1 == len(self._forms):
                    return ConfigError(
                        f"the server at {self.address} refuses the form of the answer ({_short(said)}); set "
                        '[enrichment] structured to "auto" or "none"'
                    )
                self._form = form + 1
                return True
            for name in ("max_tokens", "temperature"):
                foreign = re.search(r"unsupported|not support|unrecognized|unknown|not permitted|instead", said)
                if foreign and name in said and name not in left_out:
                    self._left_out.add(name)
                    return True
        return False

    def _set_aside(self, request: Request, error: Any) -> Reply | BackendError:
        """Return a reply without an answer, or an error where the server has refused everything so far."""
        why = f"the server refused this request: {_short(self._clean(str(error)))}"
        with self._lock:
            self._n_refused += 1
            hopeful = self._n_answered > 0  # else it may be the server's way with all of them
            if not hopeful and self._n_refused >= MOST_REFUSED:
                return BackendError(f"the server at {self.address} refuses every request; the last time: {why}")
        return Reply(request.key, error=why, passing=not hopeful)

    def _is_it_silent(self, why: str) -> BackendError | None:
        with self._lock:
            self._n_silent += 1
            if self._n_silent < max(3, self.config.in_flight):
                return None
        return BackendError(
            f"{self._n_silent} requests in a row failed {self.config.retries + 1} times each; the last time: "
            f"{_short(why)}; what was answered is kept, and the same command goes on from there"
        )

    def _refused(self, error: Any) -> LlmTailError:
        status, said = error.status_code, _short(self._clean(str(error)))
        if status in (401, 403):
            return BackendError(
                f"the server at {self.address} refuses the key in {self.config.api_key_from} ({status}): {said}"
            )
        if status == 404:
            return ConfigError(
                f"the server at {self.address} has no model {self.model!r} or no chat at this address ({said}); "
                f"check [enrichment] model and {self.config.base_url_from}"
            )
        if status == 429:
            return BackendError(f"the account at {self.address} has no credit left: {said}; what was answered is kept")
        return BackendError(f"the server at {self.address} refuses the request ({status}): {said}")

    def _not_there(self, error: Any) -> str:
        kind = "does not answer in time" if "Timeout" in type(error).__name__ else "cannot be reached"
        cause = self._clean(str(error.__cause__ or error))
        return (
            f"the server at {self.address} {kind} ({_short(cause)}); is it running, and is "
            f"{self.config.base_url_from} its address?"
        )

    def _clean(self, text: str) -> str:
        """Return a text without the key."""
        return text.replace(self._secret, "***") if len(self._secret) >= 4 else text

    def __repr__(self) -> str:
        return f"OpenAiBackend({self.model!r} at {self.address}, {self.config.in_flight} in flight)"


class _BrokenBody(Exception):
    """A response came and cannot be read."""


def _pause(n_failed: int, headers: Mapping[str, str]) -> float:
    """Return the seconds to wait: what the server names (in seconds, milliseconds or as a date), else ever longer."""
    try:
        if "retry-after-ms" in headers:
            named = float(headers["retry-after-ms"]) / 1000
        else:
            named = float(headers["retry-after"])
    except (KeyError, ValueError):
        date = email.utils.parsedate_tz(headers.get("retry-after", ""))
        named = email.utils.mktime_tz(date) - time.time() if date else -1.0
    if 0 <= named <= 600:
        return named
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(n_failed, 20)) * random.uniform(0.75, 1.0)


def _short(text: str, most: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most] + "..."
