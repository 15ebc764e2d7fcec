import asyncio

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from llm_tail.config import ServeConfig
from llm_tail.service.addresses import host_of, is_loopback
from llm_tail.service.gate import SLASH, Buckets, Gate

SEEN = []


async def echo(request):
    body = await request.body()
    return PlainTextResponse(f"{request.path_params.get('rest', '')}:{len(body)}")


async def broken(request):
    raise RuntimeError("the secret place /etc/llm")


def client(key="", **settings):
    routes = [
        Route("/health", echo),
        Route("/broken", broken),
        Route("/x/{rest:path}/end", echo),
        Route("/{rest:path}", echo, methods=["GET", "POST"]),
    ]
    settings = ServeConfig(**{"rate": 0, **settings})
    SEEN.clear()
    gate = Middleware(Gate, settings=settings, key=key, watch=lambda *told: SEEN.append(told))
    return TestClient(Starlette(routes=routes, middleware=[gate]), raise_server_exceptions=False)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "192.168.3.4:80", "Shop.example"])
def test_names_that_are_ours(host):
    assert client(allowed_hosts=["shop.example"]).get("/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "☃", "a" * 5000]
)
def test_other_names_are_refused(host):
    answer = client().get("/info", headers={"host": host.encode()})
    assert answer.status_code == 400 and "allowed_hosts" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_may_not_change_anything(headers):
    assert client().post("/feedback", headers=headers).status_code == 403
    assert client().post("/feedback", headers={"origin": "http://testserver"}).status_code == 200


@pytest.mark.parametrize("headers", [{"authorization": "Bearer s3cret"}, {"x-api-key": "s3cret"}])
def test_the_key_opens(headers):
    assert client("s3cret").get("/info", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer s3cre"},
        {"authorization": "Bearer "},
        {"authorization": "Basic s3cret"},
        {"x-api-key": b"\xff"},
    ],
)
def test_without_the_key_only_health_and_the_page_answer(headers):
    asked = client("s3cret")
    answer = asked.get("/info", headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer" and "s3cret" not in answer.text
    assert [asked.get(path, headers=headers).status_code for path in ("/health", "/", "/page/js/main.js")] == [200] * 3


def test_the_key_is_kept_nowhere():
    gate = Gate(Starlette(), ServeConfig(), "s3cret", lambda *_: None)
    assert "s3cret" not in repr(vars(gate))


def test_too_long_a_body_is_not_read_to_its_end():
    asked = client(max_body_bytes=1024)
    assert asked.post("/items", content=b"x" * 1024).text == "items:1024"
    assert asked.post("/items", content=b"x" * 1025).status_code == 413
    assert asked.post("/items", content=(b"x" * 100 for _ in range(20))).status_code == 413  # no length is told
    assert asked.post("/items", headers={"content-length": "9" * 30}, content=b"x").status_code == 413


def test_a_client_that_asks_too_often_is_told_when_to_come_again():
    asked = client(rate=0.5, burst=3)
    answers = [asked.get("/info") for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1 and "come again" in answers[-1].json()["error"]
    assert asked.get("/health").status_code == 200


def test_guessing_keys_is_slow():
    asked = client("s3cret", rate=0.5, burst=3)
    statuses = [asked.get("/info", headers={"x-api-key": str(n)}).status_code for n in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    assert asked.get("/info", headers={"x-api-key": "s3cret"}).status_code == 200  # who has it is not kept out


def test_tokens_come_back_with_time_and_never_more_than_there_is_room_for():
    now = [0.0]
    buckets = Buckets(2.0, 4, lambda: now[0])
    assert [buckets.wait("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    now[0] = 1.0
    assert [buckets.wait("a") for _ in range(3)] == [0, 0, 0.5]
    now[0] = 1000.0
    assert sum(buckets.wait("a") == 0 for _ in range(10)) == 4
    assert all(Buckets(0, 1).wait("a") == 0 for _ in range(10))


def test_clients_are_forgotten_before_they_fill_the_memory():
    buckets = Buckets(1.0, 1)
    for n in range(12_000):
        buckets.wait(str(n))
    assert len(buckets._left) == 10_000


def test_no_traceback_leaves_and_the_log_has_the_number(caplog):
    answer = client().get("/broken")
    told = answer.json()
    assert answer.status_code == 500 and "secret" not in answer.text and "Traceback" not in answer.text
    assert told["request_id"] == answer.headers["x-request-id"] and told["request_id"] in caplog.text
    assert "the secret place" in caplog.text


def test_encoded_slashes_stay_in_their_part_of_the_path():
    asked = client()
    assert asked.get("/x/a%2Fend/end").text == f"a{SLASH}end:0"
    assert asked.get("/x/a/b/end").text == "a/b:0"
    assert asked.get("/x/a%2fb").text == f"x/a{SLASH}b:0"


def test_every_answer_carries_what_keeps_browsers_safe_and_is_counted():
    asked = client()
    for path, status in (("/a", 200), ("/broken", 500)):
        headers = asked.get(path).headers
        assert (
            "default-src 'self'" in headers["content-security-policy"]
            and headers["x-content-type-options"] == "nosniff"
        )
        assert headers["cache-control"] == "no-store" and SEEN[-1][1] == status and SEEN[-1][2] > 0


def test_what_is_no_http_is_left_unanswered():
    sent = []

    async def send(message):
        sent.append(message)

    gate = Gate(Starlette(), ServeConfig(), "", lambda *_: None)
    asyncio.run(gate({"type": "websocket"}, None, send))
    assert sent == []


def test_addresses_in_words():
    assert [host_of(x) for x in ("", "a:1", "[fe80::1]", "A")] == ["", "a", "fe80::1", "a"]
    assert [is_loopback(x) for x in ("127.8.8.8", "::1", "::", "10.0.0.1", "shop")] == [True, True, False, False, False]
