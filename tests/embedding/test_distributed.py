import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from llm_tail.config import EmbeddingConfig
from llm_tail.embedding import distributed
from llm_tail.embedding.distributed import RayEngine, make_engine
from llm_tail.embedding.engine import LocalEngine
from llm_tail.embedding.processes import ProcessEngine
from llm_tail.embedding.store import EmbeddingStore
from llm_tail.errors import ConfigError, DataError, MissingExtraError, WorkerError
from llm_tail.workspace import Workspace
from tests import shop
from tests.embedding.letters import LetterEncoder
from tests.embedding.test_processes import assert_equal, catalog, files, run
from tests.embedding.travelling import TravellingLetters

with_ray = [
    pytest.mark.slow,  # Ray takes half a minute of processor time to start
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (extra: ray)"),
    pytest.mark.filterwarnings("default"),  # what Ray warns of is for its developers
]


def test_settings_name_the_engine():
    assert repr(make_engine(EmbeddingConfig())) == "LocalEngine()"
    config = EmbeddingConfig(engine="ray", address="10.0.0.1:6379", workers=4, gpus_per_worker=0.5, retries=1)
    assert make_engine(config) == RayEngine("10.0.0.1:6379", 4, 0.5, 1, 1)
    assert make_engine(config.replace(engine="processes", threads_per_worker=2)) == ProcessEngine(4, 0.5, 2, 1)


def test_nothing_is_started_for_nothing(monkeypatch):
    monkeypatch.setattr(distributed, "_connected", None)
    assert [shard.vectors.shape for shard in run(RayEngine(), LetterEncoder(), [[], []])] == [(0, 26)] * 2


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llm-tail\[ray\]'"):
        run(RayEngine(), TravellingLetters())


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (extra: ray)")
def test_an_address_that_does_not_answer_says_what_to_do_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at .*ray start --head, or leave .*local cluster"):
        run(RayEngine(f"127.0.0.1:{port}"), TravellingLetters())
    assert time.monotonic() - start < 10


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (extra: ray)")
def test_a_stranger_at_the_address_is_no_cluster(monkeypatch):
    monkeypatch.setattr(distributed, "_RAY_SECONDS", 3.0)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        with pytest.raises(ConfigError, match=r"what listens there is no healthy Ray cluster.*ray start --head"):
            run(RayEngine(f"127.0.0.1:{stranger.getsockname()[1]}"), TravellingLetters())


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (extra: ray)")
@pytest.mark.parametrize("address", ["10.0.0.1", "head", ":6379", "head:port", "ray://head:10001"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match=r"'embedding\.address' is .* expected host:port of the head"):
        run(RayEngine(address), TravellingLetters())


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (extra: ray)")
def test_a_run_takes_the_engine_of_its_settings(tmp_path):
    overrides = ["embedding.engine=ray", "embedding.address=127.0.0.1:1"]
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        Workspace.open(shop.write(tmp_path), overrides).run_stage("embed")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (extra: ray)")
def test_a_local_cluster_that_does_not_start_is_tried_again(monkeypatch):
    import ray

    tried = []

    def give_up(**settings):
        tried.append(settings)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", give_up)
    with pytest.raises(ConfigError, match=r"could not be started \(The current node .*engine = 'processes'"):
        run(RayEngine(workers=2), TravellingLetters())
    assert len(tried) == 3 and all(settings["include_dashboard"] is False for settings in tried)
    assert tried[0]["_node_ip_address"] == "127.0.0.1" and tried[0]["num_cpus"] == 2


def test_workers_fill_the_cluster():
    assert RayEngine()._size({"CPU": 8.0}) == (8, 0.0)
    assert RayEngine(threads=3)._size({"CPU": 8.0}) == (2, 0.0)
    assert RayEngine()._size({"CPU": 8.0, "GPU": 2.0}) == (2, 1.0)
    assert RayEngine(gpus_per_worker=0.5)._size({"CPU": 8.0, "GPU": 2.0}) == (4, 0.5)
    assert RayEngine(workers=9)._size({"CPU": 8.0}) == (9, 0.0)  # a cluster may grow
    with pytest.raises(ConfigError, match=r"1 cores and 1 GPUs, and the whole cluster has 8 cores and 0 GPUs"):
        RayEngine(gpus_per_worker=1)._size({"CPU": 8.0})


def test_the_feeder_gives_a_lost_shard_again_and_counts_the_tries():
    async def tell():
        feeder = distributed._Feeder(retries=1)
        late = asyncio.create_task(feeder.take(1))
        await feeder.put(0, ["a"])
        assert await feeder.take(0) == await feeder.take(0) == ["a"]
        assert not late.done()
        await feeder.put(1, ["b"])
        assert await late == ["b"]
        await feeder.release(0)
        assert await feeder.take(0) == []  # it is here already, and only the places of the others count
        await feeder.end(2)
        assert await feeder.take(2) is None and await feeder.take(1) == ["b"]
        assert [await feeder.begin(1) for _ in range(3)] == [True, True, False]

    asyncio.run(tell())


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield ray
    ray.shutdown()


@pytest.mark.timeout(600)
class TestOnRay:
    pytestmark = with_ray

    @pytest.mark.parametrize("workers", [1, 2])
    def test_results_are_those_of_one_process_in_order(self, cluster, workers):
        encoder = TravellingLetters()
        assert_equal(run(RayEngine(workers=workers), encoder), run(LocalEngine(), encoder))
        assert cluster.is_initialized()  # it was there before

    def test_a_worker_that_is_killed_is_replaced(self, cluster, tmp_path):
        shards = [[word] for word in ("a", "b", "[die]", "c", "[die] it is not", "d", "e")]
        found = run(RayEngine(workers=2, retries=2), TravellingLetters(tmp_path, lives=2), shards)
        assert len(list(tmp_path.iterdir())) == 2
        assert_equal(found, run(LocalEngine(), TravellingLetters(), shards))

    def test_a_shard_that_kills_every_worker_ends_the_job(self, cluster, tmp_path):
        found = RayEngine(workers=1, retries=1).encode_shards(TravellingLetters(tmp_path, lives=9), [["a"], ["[die]"]])
        assert next(found).vectors[0, 0] == 1
        with pytest.raises(WorkerError, match=r"died over the same 1 texts .*shard_items"):
            next(found)
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize(
        ("word", "error", "said"),
        [("[fail]", DataError, "^this text cannot be encoded$"), ("[odd]", WorkerError, "ZeroDivisionError.*nobody")],
    )
    def test_errors_come_back_as_they_are(self, cluster, word, error, said):
        with pytest.raises(error, match=said):
            run(RayEngine(workers=1), TravellingLetters(), [["a"], [word]])

    def test_only_as_many_shards_are_taken_as_there_is_work_for(self, cluster):
        taken = []

        def shards():
            for number in range(20):
                taken.append(number)
                yield [f"text {number}"]

        found = RayEngine(workers=1).encode_shards(TravellingLetters(), shards())
        next(found)
        assert taken == [0, 1]
        next(found)
        assert taken == [0, 1, 2]
        found.close()

    def test_one_and_two_workers_and_none_give_the_same_store(self, cluster, minilm, tmp_path):
        stores = []
        for name, engine in {"0": LocalEngine(), "1": RayEngine(workers=1), "2": RayEngine(workers=2)}.items():
            stores.append(EmbeddingStore.open(tmp_path / name))
            stores[-1].embed(catalog(), minilm, config=EmbeddingConfig(shard_items=10), engine=engine)
        assert files(stores[0]) == files(stores[1]) == files(stores[2])

    def test_a_worker_killed_in_the_midst_of_a_store_changes_nothing(self, cluster, minilm, tmp_path):
        config, whole = EmbeddingConfig(shard_items=5), EmbeddingStore.open(tmp_path / "whole")
        whole.embed(catalog(200), minilm, config=config, engine=LocalEngine())
        hurt, killed = EmbeddingStore.open(tmp_path / "hurt"), []

        class Watched(RayEngine):
            def encode_shards(self, encoder, shards, *, batch_tokens=2048):
                for n_done, result in enumerate(super().encode_shards(encoder, shards, batch_tokens=batch_tokens)):
                    if n_done == 5:
                        killed.append(kill_an_actor())
                    yield result

        hurt.embed(catalog(200), minilm, config=config, engine=Watched(workers=2))
        assert killed and files(hurt) == files(whole)

    def test_an_address_reaches_the_cluster_and_leaves_it_there(self, cluster):
        address = cluster.get_runtime_context().gcs_address
        script = (
            "from llm_tail.embedding.distributed import RayEngine\n"
            "from tests.embedding.travelling import TravellingLetters\n"
            f"found = RayEngine({address!r}, workers=1).encode_shards(TravellingLetters(), [['a'], ['b']])\n"
            "print(len(list(found)))\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["2"] and not done.stderr
        assert cluster.get(cluster.put(1)) == 1


@pytest.mark.timeout(600)
class TestOnALocalCluster:
    pytestmark = with_ray

    def test_it_is_started_for_the_job_and_ended_after_it(self):
        script = (
            "import ray\n"
            "from llm_tail.embedding.distributed import RayEngine\n"
            "from tests.embedding.travelling import TravellingLetters\n"
            "found = RayEngine(workers=2).encode_shards(TravellingLetters(), [['a'], ['b']])\n"
            "next(found); print(ray.is_initialized()); print(len(list(found))); print(ray.is_initialized())\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["True", "1", "False"] and not done.stderr


def kill_an_actor():
    """Kill one of the processes that hold an encoder, a descendant of this one, and return its number."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    parents = {int(line.split()[0]): (int(line.split()[1]), line) for line in lines.splitlines()}

    def is_ours(pid):
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid][0]))

    actors = [pid for pid, (_, line) in parents.items() if "ray::MapWorker" in line and is_ours(pid)]
    os.kill(actors[0], signal.SIGKILL)
    return actors[0]
