"""What a client was told is kept stays kept, whatever happens to the process."""

import os
import signal
import threading
import time

import httpx
import pytest

from llm_tail.service.journal import Journal
from tests.service.servers import serving

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


def test_nothing_acknowledged_is_lost_to_a_kill(shop_copy, tmp_path):
    told, items = [], []

    def tell(server, who):
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            try:
                for n in range(10_000):
                    asked = {"user": f"w{who}", "item_id": f"k{n % 7}", "time": n}
                    told.append((client.post("/feedback", json=asked).json()["event_id"], f"w{who}", float(n)))
                    if n % 10 == 0:
                        name = f"i{who}-{n}"
                        body = {"items": [{"item_id": name, "title": f"Spoon {n}"}]}
                        assert client.post("/items", json=body).json()["searchable"]
                        items.append(name)
            except httpx.TransportError:
                return

    with serving(shop_copy, tmp_path) as server:
        threads = [threading.Thread(target=tell, args=(server, who)) for who in range(4)]
        for thread in threads:
            thread.start()
        while len(told) < 60:
            time.sleep(0.01)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        for thread in threads:
            thread.join()
    journal = Journal(shop_copy.parent / "run" / "service.sqlite")
    events = {(event.event_id, event.user, event.time) for event in journal.events()}
    kept = {item.item_id for item in journal.items()}
    journal.close()
    assert set(told) <= events and len(events) <= len(told) + 4 and set(items) <= kept
    with serving(shop_copy, tmp_path) as server:
        info = server.client.get("/info").json()
        assert info["n_feedback"] == len(events) and info["n_upserted"] == len(kept)
        found = server.client.post("/recommendations", json={"user": "w0", "k": 50}).json()["items"]
        assert not {one["item_id"] for one in found} & {f"k{n}" for n in range(7)}
        assert server.client.get(f"/items/{items[0]}").status_code == 200
        # Then the ways in which it is meant to be told things from outside.
        server.process.send_signal(signal.SIGHUP)
        assert server.client.get("/ready").json()["newer"] is None
        assert server.end(signal.SIGINT) == 0 and "stopped" in server.text and "Traceback" not in server.text
