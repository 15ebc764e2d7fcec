import os
import subprocess
import sys

import numpy as np
import pytest

from llm_tail.config import EmbeddingConfig
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.engine import LocalEngine
from llm_tail.embedding.processes import ProcessEngine, places
from llm_tail.embedding.store import EmbeddingStore
from llm_tail.errors import ConfigError, DataError, WorkerError
from tests.embedding.conftest import WORDS
from tests.embedding.letters import LetterEncoder
from tests.embedding.travelling import ChangedOnTheWay, TravellingLetters

SHARDS = [["a whale", "the sea"], [], ["b"], ["a pan"], [], ["c", "d", "e" * 200_000], ["surrogate \udcff"], []]


def run(engine, encoder, shards=SHARDS):
    return list(engine.encode_shards(encoder, shards))


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.vectors.tobytes() == other.vectors.tobytes() and one.vectors.shape == other.vectors.shape
        assert one.tokens.tobytes() == other.tokens.tobytes()


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_those_of_one_process_in_order(workers):
    encoder = TravellingLetters()
    assert_equal(run(ProcessEngine(workers), encoder), run(LocalEngine(), encoder))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_is_replaced(tmp_path, workers):
    shards = [[word] for word in ("a", "b", "[die]", "c", "[die] it is not", "d", "e")]
    encoder = TravellingLetters(tmp_path, lives=3)
    found = run(ProcessEngine(workers, retries=3), encoder, shards)
    assert len(list(tmp_path.iterdir())) == 3  # it was killed as often as it could be
    assert_equal(found, run(LocalEngine(), TravellingLetters(), shards))


def test_a_shard_that_kills_every_worker_ends_the_job(tmp_path):
    found = ProcessEngine(1, retries=1).encode_shards(TravellingLetters(tmp_path, lives=9), [["a"], ["[die]"], ["b"]])
    assert next(found).vectors[0, 0] == 1
    with pytest.raises(WorkerError, match=r"2 workers died over the same 1 texts, .*status -9 \(killed.*shard_items"):
        next(found)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("word", "error", "said"),
    [("[fail]", DataError, "^this text cannot be encoded$"), ("[odd]", WorkerError, "ZeroDivisionError: nobody")],
)
def test_errors_come_back_as_they_are(word, error, said):
    with pytest.raises(error, match=said):
        run(ProcessEngine(1), TravellingLetters(), [["a"], [word]])


def test_an_encoder_that_changes_on_the_way_is_refused():
    with pytest.raises(WorkerError, match=r"another encoder \(fingerprint another\).*same versions"):
        run(ProcessEngine(1), ChangedOnTheWay())


def test_an_encoder_that_cannot_travel_is_refused():
    with pytest.raises(ConfigError, match=r"LetterEncoder cannot travel.*engine = 'local'"):
        run(ProcessEngine(1), LetterEncoder())


def test_nothing_is_started_for_nothing(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    assert [shard.vectors.shape for shard in run(ProcessEngine(2), LetterEncoder(), [[], []])] == [(0, 26)] * 2


def test_only_as_many_shards_are_taken_as_there_is_work_for():
    taken = []

    def shards():
        for number in range(20):
            taken.append(number)
            yield [f"text {number}"]

    found = ProcessEngine(1).encode_shards(TravellingLetters(), shards())
    next(found)
    assert taken == [0, 1]
    next(found)
    assert taken == [0, 1, 2]
    found.close()  # nobody waits for the rest


def test_places_share_what_there_is(monkeypatch):
    from llm_tail.embedding import processes

    monkeypatch.setattr(processes, "_visible_gpus", lambda: ["0", "1", "2", "3"])
    seen = {
        (0, None): ["0", "1", "2", "3"],
        (2, 1): ["0", "1"],
        (0, 0.5): ["0", "0", "1", "1", "2", "2", "3", "3"],
        (0, 2): ["0,1", "2,3"],
        (5, 1): ["0", "1", "2", "3", "0"],
        (2, 0): ["", ""],
    }
    for (workers, each), expected in seen.items():
        assert [place["CUDA_VISIBLE_DEVICES"] for place in places(workers, each, 1)] == expected
    with pytest.raises(ConfigError, match=r"'embedding.gpus_per_worker' is 5, and there are 4 GPUs"):
        places(1, 5, 1)
    monkeypatch.setattr(processes, "_visible_gpus", list)
    monkeypatch.setattr(processes, "n_cores", lambda: 8)
    assert len(places(0, None, 2)) == 4 and len(places(0, None, 16)) == 1
    assert places(1, None, 2)[0]["OMP_NUM_THREADS"] == "2"


def test_a_script_needs_no_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from llm_tail.embedding.processes import ProcessEngine\n"
        "from tests.embedding.travelling import TravellingLetters\n"
        "print(len(list(ProcessEngine(2).encode_shards(TravellingLetters(), [['a'], ['b']]))))\n"
    )
    path = os.pathsep.join(["."])
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.split() == ["2"] and not done.stderr


def catalog(n=40):
    random = np.random.default_rng(0)
    titles = [" ".join(random.choice(WORDS, size=random.integers(1, 12))) for _ in range(n)]
    return Catalog.from_items([{"item_id": f"i{row}", "title": title} for row, title in enumerate(titles)])


def files(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


@pytest.mark.slow  # each process loads torch; what each kind of encoder becomes on the way, test_parcel tells
def test_one_and_two_workers_and_none_give_the_same_store(minilm, tmp_path):
    stores = []
    for name, engine in {"local": LocalEngine(), "one": ProcessEngine(1), "two": ProcessEngine(2)}.items():
        stores.append(EmbeddingStore.open(tmp_path / name))
        stores[-1].embed(catalog(), minilm, config=EmbeddingConfig(shard_items=10), engine=engine)
    assert len(files(stores[0])) >= 5
    assert files(stores[0]) == files(stores[1]) == files(stores[2])
