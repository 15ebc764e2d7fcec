import os
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from llm_tail.data.catalog import Item
from llm_tail.errors import CorruptArtifactError, DataError
from llm_tail.service.journal import Journal
from llm_tail.service.stock import restored, stored


@pytest.fixture
def journal(tmp_path):
    with_state = Journal(tmp_path / "state.sqlite")
    yield with_state
    with_state.close()


def test_what_was_told_is_there_again_in_order(tmp_path):
    first = Journal(tmp_path / "deep" / "state.sqlite")
    told = [first.add_event("ann", f"i{n}", "taken", float(n), 0.0) for n in range(20)]
    assert [one.result() for one in told] == list(range(1, 21))
    first.close()
    again = Journal(tmp_path / "deep" / "state.sqlite")
    assert [(e.event_id, e.item_id, e.time) for e in again.events()] == [(n + 1, f"i{n}", float(n)) for n in range(20)]
    again.close()


def test_items_come_back_as_they_were_and_the_last_words_count(journal):
    for title in ("Kettle", "Copper kettle"):
        item = Item("new/1 ü\x00", title, "boils", {"brand": "Halcyon", "tags": ["a", "b"], "price": 3.5, "x": None})
        journal.put_items([stored(item, np.array([0.6, 0.8], np.float32), "enc", 1.0)]).result()
    (kept,) = journal.items()
    again, vector = restored(kept)
    assert again == item and vector.tolist() == pytest.approx([0.6, 0.8]) and vector.dtype == np.float32


def test_many_at_once_share_a_commit_and_each_gets_a_number_of_its_own(journal):
    commits, numbers = [], []
    real = journal._commit
    journal._commit = lambda jobs: (commits.append(len(jobs)), real(jobs))
    blocked = threading.Event()
    journal.write(lambda _: blocked.wait(5))
    futures = [journal.add_event("u", f"i{n}", "viewed", 0.0, 0.0) for n in range(100)]
    blocked.set()
    numbers = [one.result() for one in futures]
    assert sorted(numbers) == list(range(1, 101))
    assert max(commits) > 50  # those that waited


def test_then_is_called_in_the_order_of_the_numbers(journal):
    seen = []

    def tell():
        for _ in range(25):
            journal.add_event("u", "i", "taken", 0.0, 0.0, then=lambda event: seen.append(event.event_id))

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.write(lambda _: None).result()
    assert seen == list(range(1, 101))


def test_what_fails_is_told_and_leaves_nothing_behind(journal):
    def broken(connection):
        connection.execute("INSERT INTO feedback (user, item_id, event, time, received) VALUES ('a', 'b', 'c', 1, 1)")
        raise sqlite3.OperationalError("disk full")

    with pytest.raises(sqlite3.OperationalError, match="disk full"):
        journal.write(broken).result()
    assert list(journal.events()) == []
    assert journal.add_event("ann", "i", "taken", 0.0, 0.0).result() == 1


def test_one_holder_at_a_time(journal):
    with pytest.raises(DataError, match=r"held by another service.*serve\.state=FILE"):
        Journal(journal.path)


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"my diary " * 1000)
    with pytest.raises(CorruptArtifactError, match="holds no state of a service"):
        Journal(path)
    assert path.read_bytes().startswith(b"my diary")


def test_after_the_end_it_says_so(tmp_path):
    journal = Journal(tmp_path / "state.sqlite")
    journal.close()
    journal.close()
    with pytest.raises(DataError, match="is stopping"):
        journal.add_event("ann", "i", "taken", 0.0, 0.0).result()


WRITER = """
import sys
from pathlib import Path
from llm_tail.service.journal import Journal
journal = Journal(Path(sys.argv[1]))
for n in range(10**6):
    number = journal.add_event("u", f"i{n}", "taken", 0.0, 0.0).result()
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_nothing_acknowledged_is_lost_to_a_kill(tmp_path):
    path = tmp_path / "state.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
        acknowledged = [int(writer.stdout.readline()) for _ in range(50)]
        time.sleep(0.05)
        writer.kill()
        acknowledged += [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]
    journal = Journal(path)
    there = [event.event_id for event in journal.events()]
    journal.close()
    assert there[: len(acknowledged)] == acknowledged and len(there) - len(acknowledged) <= 1
