"""Uploading: refused early and in words, private unless said otherwise; against a hub on this machine."""

import http.server
import json
import threading
import time

import pytest
from huggingface_hub import constants

from llm_tail.embedding.hub import check_hub, push_folder
from llm_tail.errors import DataError

TOKEN = {"HF_TOKEN": "hf_secret"}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as an upload asks for; what it was told stands in `server.told`."""

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def told(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.told.append((self.path, self.headers.get("authorization"), body))
        return body

    def do_GET(self):
        self.told()
        known = self.headers.get("authorization") == "Bearer hf_secret"
        self.answer({"name": "ann"} if known else {"error": "who?"}, 200 if known else 401)

    def do_POST(self):
        body = self.told()
        if self.path == "/api/repos/create":
            name = f"{json.loads(body).get('organization') or 'ann'}/{json.loads(body)['name']}"
            full = "full" in name
            self.answer({"error": "no room"} if full else {"url": f"{constants.ENDPOINT}/{name}"}, 403 if full else 200)
        elif "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self.answer({"files": [{**file, "shouldIgnore": False} for file in files]})
        else:
            self.answer({"commitOid": "1", "commitUrl": f"{constants.ENDPOINT}/ann/shop/commit/1"})

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.told = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"a": 1}', encoding="utf-8")
    return tmp_path / "model"


def test_a_folder_goes_up_and_is_private(hub, folder):
    token = check_hub("ann/shop", TOKEN)
    assert push_folder(folder, "ann/shop", token).endswith("/ann/shop")
    create = next(json.loads(body) for path, _, body in hub.told if path.endswith("/create"))
    assert create.get("visibility") == "private" or create.get("private") is True  # by the version of the client
    commit = next(body for path, _, body in hub.told if "/commit/" in path)
    assert b"config.json" in commit
    ours = [auth for path, auth, _ in hub.told if "/create" in path or "/commit/" in path]
    assert ours == ["Bearer hf_secret"] * 2


def test_without_a_token_or_with_a_wrong_one(hub):
    with pytest.raises(DataError, match="no token to upload with; set HF_TOKEN"):
        check_hub("ann/shop", {})
    assert not hub.told
    with pytest.raises(DataError, match=r"refuses the token \(status 401\)"):
        check_hub("ann/shop", {"HF_TOKEN": "other"})


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "../x", "/x"])
def test_names_that_cannot_be(name):
    with pytest.raises(DataError, match="is no name on a hub; expected owner/model"):
        check_hub(name, TOKEN)


def test_a_hub_that_is_not_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    with pytest.raises(DataError, match=r"hub at http://127\.0\.0\.1:9 cannot be reached .* push again"):
        check_hub("ann/shop", TOKEN)
    assert time.perf_counter() - started < 15


def test_a_hub_that_refuses_leaves_the_folder_and_tells_no_token(hub, folder):
    with pytest.raises(DataError, match="the hub did not take 'ann/full'") as caught:
        push_folder(folder, "ann/full", "hf_secret")
    assert "is whole, push again" in str(caught.value) and "hf_secret" not in str(caught.value)
    assert (folder / "config.json").is_file()


@pytest.mark.parametrize("token", ["hf_secret\n", " hf_secret\r\n"])
def test_a_line_break_around_the_token_does_no_harm(hub, folder, token):
    assert check_hub("ann/shop", {"HF_TOKEN": token}) == "hf_secret"
    assert push_folder(folder, "ann/shop", token).endswith("/ann/shop")


@pytest.mark.parametrize("token", ["hf_\nsecret", "hf_sécret", "hf_\x00secret"])
def test_a_token_that_no_header_can_hold_is_not_told(hub, folder, token):
    for ask in (lambda: check_hub("ann/shop", {"HF_TOKEN": token}), lambda: push_folder(folder, "ann/shop", token)):
        with pytest.raises(DataError) as caught:
            ask()
        assert "cret" not in str(caught.value)
    with pytest.raises(DataError, match="no token to upload with"):
        check_hub("ann/shop", {"HF_TOKEN": " \n"})
