import threading
import time

import pytest
from starlette.testclient import TestClient

from llm_tail.errors import StaleArtifactError
from llm_tail.service import answers, create_app
from llm_tail.workspace import Workspace
from tests.service.conftest import quiet

NEWER = "graph.neighbors=4"


@pytest.fixture
def serving(shop_copy):
    """A service whose config file is told by a list of overrides, as if somebody had edited it."""
    edits = []
    app = create_app(quiet(shop_copy), reopen=lambda: quiet(shop_copy, *edits))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client, edits, shop_copy


def test_what_has_not_changed_is_not_loaded_again(serving):
    client, _, _ = serving
    told = answers.ReloadAnswer(**client.post("/admin/reload").json())
    assert not told.reloaded and told.run == client.get("/ready").json()["run"]


def test_a_newer_run_is_swapped_in_while_questions_are_answered(serving):
    client, edits, config = serving
    service = client.app.state.service
    client.post("/feedback", json={"user": "eve", "item_id": "k0"})
    client.post("/items", json={"items": [{"item_id": "saw", "title": "Bread saw"}]})
    Workspace.open(config, [NEWER]).run()
    edits.append(NEWER)
    statuses, stop = [], threading.Event()
    asks = [
        lambda: client.get("/items/k0/similar"),
        lambda: client.get("/items/saw/similar"),
        lambda: client.get(f"/search?q=bread%20{time.monotonic()}"),
        lambda: client.post("/recommendations", json={"user": "eve"}),
        lambda: client.post("/items", json={"items": [{"item_id": f"n{len(statuses)}", "title": "A spoon"}]}),
    ]

    def ask(one):
        while not stop.is_set():
            statuses.append(one().status_code)

    threads = [threading.Thread(target=ask, args=(one,)) for one in asks]
    for thread in threads:
        thread.start()
    told = answers.ReloadAnswer(**client.post("/admin/reload").json())
    n_then = len(statuses)
    while len(statuses) < n_then + 20:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert told.reloaded and set(statuses) == {200} and n_then > 0
    kept = {one.item_id for one in service.journal.items()}
    assert set(service.run.stock.shelf.items) == kept  # what came during the swap is there too
    service.run.stock.tell()
    assert service.run.stock.is_told(sorted(kept)) and service.people.since("eve").taken == ("k0",)
    assert client.get("/ready").json()["newer"] is None


def test_a_half_written_run_is_not_taken_and_ready_says_why(serving):
    client, edits, _ = serving
    before = client.get("/ready").json()["run"]
    edits.append("index.links=8")  # as if somebody had changed a setting and not run yet
    answer = client.post("/admin/reload")
    assert answer.status_code == 409 and "run: llm-tail index" in answer.json()["error"]
    told = answers.ReadyAnswer(**client.get("/ready").json())
    assert told.ready and told.run == before and "llm-tail index" in told.newer
    assert client.get("/items/k0/similar").status_code == 200
    edits.clear()
    assert client.post("/admin/reload").status_code == 200
    assert client.get("/ready").json()["newer"] is None


def test_a_damaged_run_is_not_taken(serving):
    client, edits, config = serving
    Workspace.open(config, [NEWER]).run()
    edits.append(NEWER)
    graph = next((config.parent / "run" / "graph").glob("g-*/*.safetensors"))
    graph.write_bytes(graph.read_bytes()[:-10])
    answer = client.post("/admin/reload")
    assert answer.status_code >= 400 and client.get("/items/k0/similar").status_code == 200
    assert "damaged" in client.get("/ready").json()["newer"]


def test_items_that_the_newer_run_has_itself_are_its_own(serving):
    client, _, config = serving
    client.post("/items", json={"items": [{"item_id": "saw", "title": "Old words of the saw"}]})
    items = config.parent / "items.csv"
    items.write_text(items.read_text() + "saw,Bread saw,Cuts any loaf.,kitchen,Halcyon\n")
    time.sleep(1.1)  # the record of a run knows seconds
    Workspace.open(config).run()
    assert client.post("/admin/reload").json()["reloaded"]
    told = client.get("/items/saw").json()
    assert told["title"] == "Bread saw" and not told["upserted"] and client.get("/info").json()["n_upserted"] == 0
    client.post("/items", json={"items": [{"item_id": "saw", "title": "Newer words"}]})
    assert client.get("/items/saw").json()["title"] == "Newer words"


def test_what_was_told_is_there_after_a_restart_with_another_run(shop_copy):
    with TestClient(create_app(quiet(shop_copy))) as client:
        client.post("/items", json={"items": [{"item_id": "saw", "title": "Bread saw"}]})
        client.post("/feedback", json={"user": "eve", "item_id": "saw"})
        before = client.post("/recommendations", json={"user": "eve", "k": 5}).json()
    Workspace.open(shop_copy, [NEWER, "encoder.runtime='tfidf'"]).run()  # other vectors: the words are encoded again
    with TestClient(create_app(quiet(shop_copy, NEWER, "encoder.runtime='tfidf'"))) as client:
        assert client.get("/info").json()["runtime"] == "tfidf"
        assert "saw" in [one["item_id"] for one in client.get("/search?q=bread&k=2").json()["items"]]
        after = client.post("/recommendations", json={"user": "eve", "k": 5}).json()
    assert not after["from_popularity"] and before["items"]


def test_the_folder_is_watched(shop_copy):
    edits = []
    workspace = Workspace.open(shop_copy, ["serve.watch_seconds=0.05"])
    app = create_app(workspace, reopen=lambda: quiet(shop_copy, *edits))
    with TestClient(app) as client:
        before = client.get("/ready").json()["run"]
        edits.append(NEWER)
        Workspace.open(shop_copy, [NEWER]).run()
        deadline = time.monotonic() + 60
        told = client.get("/ready").json()
        while (told["run"] == before or told["newer"]) and time.monotonic() < deadline:  # one is set after the other
            time.sleep(0.05)
            told = client.get("/ready").json()
        assert told["run"] != before and told["newer"] is None


def test_an_error_of_reloading_reaches_who_asked(serving):
    client, edits, _ = serving
    edits.append("index.links=8")
    with pytest.raises(StaleArtifactError):
        client.app.state.service.reload()
