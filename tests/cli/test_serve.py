import os
import signal
import socket
import time

import pytest
from typer.testing import CliRunner

from llm_tail.cli import app
from llm_tail.cli.serve import check_address, listen
from llm_tail.config import ServeConfig
from llm_tail.errors import ConfigError
from tests.service.servers import serving

EVERYWHERE = "0.0.0.0"  # noqa: S104  (nothing listens there)


def refused(*arguments, **environment):
    """Return what is said where nothing is served."""
    done = CliRunner().invoke(app, ["serve", *map(str, arguments)], env=environment)
    assert done.exit_code == 1, done.output
    return " ".join(done.stderr.split())


def test_others_are_not_let_in_without_a_key(finished_shop):
    words = (
        f"{EVERYWHERE} can be reached by others and there is no API key; put one into the environment variable SHOP_KEY"
    )
    assert words in refused(finished_shop, "--host", EVERYWHERE, "--api-key-env", "SHOP_KEY")
    assert "environment variable LLM_TAIL_API_KEY" in refused(finished_shop, "--host", "::", LLM_TAIL_API_KEY="")


def test_who_insists_or_has_a_key_may(monkeypatch):
    assert check_address(ServeConfig(host="::1")) is False
    assert check_address(ServeConfig(host=EVERYWHERE, insist=True)) is False
    monkeypatch.setenv("SHOP_KEY", "s3cret")
    assert check_address(ServeConfig(host=EVERYWHERE, api_key_env="SHOP_KEY")) is True


def test_an_address_that_is_taken_is_told_before_anything_is_loaded(finished_shop):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refused(finished_shop, "--port", port)
    with pytest.raises(ConfigError, match="cannot listen on"):
        listen("nowhere.invalid", 0)


def test_a_run_that_is_not_finished_is_told_in_one_line(tmp_path):
    from tests import shop

    assert "the result of 'embed' is not there yet; run: llm-tail embed" in refused(shop.write(tmp_path), "--port", 0)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_it_serves_asks_for_its_key_and_stops_when_told(shop_copy, tmp_path):
    with serving(shop_copy, tmp_path, "--api-key-env", "SHOP_KEY", SHOP_KEY="s3cret") as server:
        assert server.client.get("/items/k0").status_code == 401
        key = {"authorization": "Bearer s3cret"}
        assert server.client.get("/items/k0", headers=key).json()["title"] == "Frying pan"
        # A newer run is taken over without being asked for.
        before = server.client.get("/ready").json()["run"]
        from llm_tail.workspace import Workspace

        text = shop_copy.read_text()
        shop_copy.write_text(text.replace("[graph]", "[graph]\nneighbors = 4"))
        server.client.post("/admin/reload", headers=key)
        assert "llm-tail graph" in server.client.get("/ready", headers=key).json()["newer"]
        assert server.client.get("/ready").json()["newer"] == "see the log"  # to those without the key
        Workspace.open(shop_copy).run()
        deadline = time.monotonic() + 60
        while server.client.get("/ready").json()["run"] == before and time.monotonic() < deadline:
            time.sleep(0.1)
        assert server.client.get("/ready", headers=key).json()["newer"] is None
        too_long = server.client.post("/items", content=b"x" * 20_000_000, headers=key)
        assert too_long.status_code == 413
        assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM)
        assert "s3cret" not in server.text and "Traceback" not in server.text and "a newer run is served" in server.text
