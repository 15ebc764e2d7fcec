"""What is left running: questions beside changes, filters, snapshots, recall that is looked at again, damaged files."""

import threading
import time

import numpy as np
import pytest

from llm_tail.config import IndexConfig
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, LlmTailError, StaleArtifactError, UnknownIdError
from llm_tail.neighbors import living
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.neighbors.sharded import ShardedIndex
from tests.neighbors.test_engines import made, recall

CONFIG = IndexConfig(exact_below=0, links=8, ef_construction=60)


@pytest.fixture(scope="module")
def embeddings():
    return made(2000)


@pytest.fixture
def index(embeddings):
    return NeighborIndex.build(embeddings, CONFIG)


def catalog_of(ids):
    return Catalog.from_items(
        {"item_id": x, "rest": n % 100, "brand": "Acme" if n % 2 else "Bolt"} for n, x in enumerate(ids)
    )


# ---- ef


def test_ef_is_tuned_to_what_is_asked_for():
    random = np.random.default_rng(0)
    hard = Embeddings([f"i{n}" for n in range(2000)], random.normal(size=(2000, 96)))
    low, high = (
        NeighborIndex.build(hard, CONFIG.replace(recall_target=target, ef_construction=100)) for target in (0.7, 0.95)
    )
    assert low.ef < high.ef and low.measured_recall >= 0.7 and high.measured_recall >= 0.95
    assert high.recall(n=500, seed=9) >= 0.94
    assert f"ef={high.ef}, recall@10 {high.measured_recall:.2f})" in repr(high)
    fixed = NeighborIndex.build(hard, CONFIG.replace(ef=12))
    assert fixed.ef == 12 and "(target 0.95 not reached)" in repr(fixed)


def test_what_is_removed_is_freed_above_a_share(embeddings):
    index = NeighborIndex.build(embeddings, CONFIG.replace(compact_above=0.4))
    index.remove([f"i{n}" for n in range(700)])
    assert index.n_removed == 700
    index.remove([f"i{n}" for n in range(700, 900)])
    assert index.n_removed == 0 and len(index.vectors.base) == len(index) == 1100 and recall(index) >= 0.95


def test_recall_that_has_fallen_is_looked_at_again(index, monkeypatch):
    spoilt = living.Measured(16, 0.5, 0.0)
    monkeypatch.setattr(index._living, "measured", spoilt)
    index.add(made(100, seed=4, prefix="few"))
    assert index._living.measured is spoilt  # a few items are no reason
    index.add(made(200, seed=5, prefix="more"))
    assert index.measured_recall >= 0.95 and recall(index) >= 0.95


# ---- filters


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.001])
def test_filters_still_return_k(index, share):
    mask = np.random.default_rng(1).random(2000) < share
    rows, similarities = index.similar_rows(np.arange(100), 10, where=mask)
    for row in range(100):
        there = mask.copy()
        there[row] = False
        true = np.sort((index.vectors @ index.vectors[row])[there])[::-1][:10]
        n = len(true)
        assert (rows[row] >= 0).sum() == n and mask[rows[row, :n]].all() and row not in rows[row, :n]
        assert (similarities[row, :n] >= true[-1] - 1e-5).mean() >= (0.5 if n else 0)
    found = (similarities[:, :n] > -np.inf).mean()
    assert found > 0.98


def test_a_filter_against_the_current_is_searched_exactly(index):
    """What passes lies far from the question: no number of near candidates would hold it."""
    far = np.argsort(index.vectors @ index.vectors[0])[:200]
    rows, _ = index.query(index.vectors[:1], 10, where=far)
    best = far[np.argsort(-(index.vectors[far] @ index.vectors[0]), kind="stable")[:10]]
    assert set(rows[0]) == set(best)


def test_every_way_to_say_where(index):
    ids = [f"i{n}" for n in range(0, 2000, 40)]
    rows = np.arange(0, 2000, 40)
    mask = np.isin(np.arange(2000), rows)
    answers = [index.similar("i1", 20, where=where).item_ids for where in (ids, set(ids), tuple(ids), rows, mask)]
    assert all(sorted(answer) == sorted(answers[0]) for answer in answers) and set(answers[0]) <= set(ids)
    index.attach(catalog_of(index.ids))
    assert {int(x[1:]) % 100 for x in index.similar("i1", 20, where="rest = 40 or rest = 80").item_ids} <= {40, 80}
    assert len(index.similar("i1", where="rest = 7 and brand = bolt")) == 0
    assert index.similar("i1", 3, where=["i5", "unknown"]).item_ids == ("i5",)
    assert len(index.similar("i1", where=[])) == 0 and len(index.similar("i1", where=np.zeros(2000, bool))) == 0
    assert [len(found) for found in index.near(index.vectors[:2], 4, where="brand = acme")] == [4, 4]


def test_filters_follow_changes(index):
    index.attach(catalog_of(index.ids))
    before = index.similar("i0", 20, where="rest = 1").item_ids
    index.remove(before[:3])
    after = index.similar("i0", 20, where="rest = 1").item_ids
    assert len(after) == 17 and set(after) == set(before[3:])
    index.add(Embeddings(["new"], made(2000).vectors[:1]))
    assert "new" not in index.similar("i0", where="rest = 1").item_ids and index.similar("i0", 1)[0][0] == "new"


def test_wrong_filters_are_refused(index):
    for where, said in (
        ("brand = acme", "attach"),
        (np.ones(7, dtype=bool), r"shape \(7,\) and dtype bool"),
        (np.ones((2, 2)), "shape"),
        ([2000], "rows from 2000"),
        ([1.5], "dtype float64"),
    ):
        with pytest.raises(DataError, match=said):
            index.similar("i0", where=where)
    with pytest.raises(UnknownIdError, match="'x'"):
        index.similar("i0", where=["x", "y"])
    with pytest.raises(DataError, match="closest are: brand"):
        index.attach(catalog_of(index.ids)).similar("i0", where="brant = acme")


# ---- beside each other


def traffic(index, seconds, n_readers=8):
    """Let readers ask while one writer adds, changes and removes; return what went wrong, and how much was done."""
    end, faults, counts = time.monotonic() + seconds, [], [0] * n_readers
    stay = made(2000)

    def read(number):
        random = np.random.default_rng(number)
        try:
            while time.monotonic() < end:
                row = int(random.integers(1000, 2000))
                found = index.similar(stay.vectors[row], 10) if number % 2 else index.similar(f"i{row}", 10)
                if len(set(found.item_ids)) != 10 or (number % 2 and f"i{row}" not in found.item_ids):
                    faults.append((row, found))
                counts[number] += 1
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(n_readers)]
    for thread in threads:
        thread.start()
    n_changes = 0
    while time.monotonic() < end:
        fresh = made(40, seed=n_changes + 100, prefix=f"t{n_changes}-")
        index.add(fresh)
        index.update(Embeddings(list(fresh.ids)[:9], fresh.vectors[9:18]))
        index.remove(list(fresh.ids)[:30] + [f"i{n_changes * 5 + n}" for n in range(5) if n_changes < 190])
        n_changes += 1
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    return faults, counts, n_changes


@pytest.mark.parametrize("engine", ["hnswlib", "exact"])
def test_readers_beside_a_writer(embeddings, engine):
    index = NeighborIndex.build(embeddings, CONFIG.replace(engine=engine, compact_above=0.05))
    faults, counts, n_changes = traffic(index, 1.5)
    assert not faults and min(counts) > 0 and n_changes > 0
    assert recall(index) >= 0.95


@pytest.mark.slow
def test_readers_beside_a_writer_for_a_minute(embeddings, tmp_path):
    index = NeighborIndex.build(embeddings, CONFIG.replace(compact_above=0.2))
    stop = threading.Event()

    def keep_saving():
        while not stop.is_set():
            index.save(tmp_path / "index")
            index.snapshot()
            time.sleep(1)

    saver = threading.Thread(target=keep_saving)
    saver.start()
    faults, counts, n_changes = traffic(index, 60)
    stop.set()
    saver.join(timeout=60)
    assert not faults and min(counts) > 100 and n_changes > 10
    assert recall(index) >= 0.95 and len(index.snapshots) <= 5
    assert len(NeighborIndex.load(tmp_path / "index")) > 1000


# ---- on disk


def test_snapshots_are_numbered_and_kept_to_a_count(embeddings, tmp_path):
    index = NeighborIndex.build(embeddings, CONFIG.replace(snapshots=2))
    with pytest.raises(DataError, match="never saved"):
        index.snapshot()
    assert index.snapshots == []
    index.save(tmp_path / "index", fingerprint="of-the-run")
    for n in range(3):
        index.remove([f"i{n}"])
        assert index.snapshot().name == f"{n + 1:05d}"
    assert index.snapshots == [2, 3] and len(NeighborIndex.load(tmp_path / "index", "of-the-run")) == 2000
    back = NeighborIndex.restore(tmp_path / "index", 2)
    assert len(back) == 1998 and back.snapshots == [2, 3]
    assert len(NeighborIndex.load(tmp_path / "index", "of-the-run")) == 1998
    assert len(NeighborIndex.restore(tmp_path / "index")) == 1997
    with pytest.raises(StaleArtifactError, match=r"no snapshot 1 at .*: there are 2, 3"):
        NeighborIndex.restore(tmp_path / "index", 1)
    with pytest.raises(StaleArtifactError, match="there is none"):
        NeighborIndex.restore(tmp_path / "nowhere")
    file = next((tmp_path / "index" / "snapshots" / "00003").rglob("vectors.safetensors"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CorruptArtifactError):
        NeighborIndex.restore(tmp_path / "index", 3)
    assert len(NeighborIndex.load(tmp_path / "index")) == 1997


@pytest.mark.parametrize("n", [(10, 40), pytest.param((50, 200), marks=pytest.mark.slow)], ids=["few", "many"])
def test_no_damage_crashes_and_none_is_believed(tmp_path, n):
    """Truncations and flipped bytes anywhere, the manifest and the old snapshots included."""
    index = NeighborIndex.build(made(150), CONFIG)
    index.remove(["i3"])
    folder = index.save(tmp_path / "index")
    expected = index.similar("i1", 20)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    random, refused = np.random.default_rng(0), 0
    for trial in range(sum(n)):
        file = files[int(random.integers(len(files)))]
        whole = file.read_bytes()
        at = int(random.integers(len(whole)))
        damaged = whole[:at] if trial < n[0] else whole[:at] + bytes([whole[at] ^ (1 << int(random.integers(8)))])
        file.write_bytes(damaged + whole[at + 1 :] if trial >= n[0] else damaged)
        try:
            found = NeighborIndex.load(folder).similar("i1", 20)
            assert found.item_ids == expected.item_ids
        except LlmTailError as error:
            assert isinstance(error, (CorruptArtifactError, StaleArtifactError))
            refused += 1
        file.write_bytes(whole)
    assert refused == sum(n)
    assert NeighborIndex.load(folder).similar("i1", 20).item_ids == expected.item_ids


def test_an_older_layout_is_stale(tmp_path):
    from llm_tail.artifacts import write_artifact

    with write_artifact(tmp_path, "neighbor-index", "x", {"exact": True}):
        pass
    with pytest.raises(StaleArtifactError, match="earlier version; run: llm-tail index"):
        NeighborIndex.load(tmp_path)


# ---- in parts


@pytest.mark.parametrize("on_disk", [False, True])
def test_parts_change_like_a_whole(embeddings, tmp_path, on_disk):
    folder = tmp_path / "index" if on_disk else None
    parts = ShardedIndex.build(embeddings, CONFIG, n_parts=3, folder=folder, held=2 if on_disk else 0)
    gone = [f"i{n}" for n in range(0, 2000, 2)]
    parts.remove(gone)
    parts.add(made(500, seed=8, prefix="new"))
    parts.update(Embeddings(["new1", "extra"], embeddings.vectors[[1, 3]]))
    assert len(parts) == parts.n_live == 1501 and not set(gone) & set(parts.ids)
    assert list(parts.ids)[:1000] == [f"i{n}" for n in range(1, 2000, 2)]
    assert parts.recall(n=100) >= 0.95
    vectors = parts.vectors_of(np.arange(len(parts)))
    whole = NeighborIndex.build(Embeddings(parts.ids, vectors), IndexConfig(engine="exact"))
    rows, similarities = parts.query(vectors[:100], 10)
    _, true = whole.query(vectors[:100], 10)
    assert (similarities >= true[:, -1:] - 1e-5).mean() >= 0.95
    np.testing.assert_allclose(np.einsum("nd,nkd->nk", vectors[:100], vectors[rows]), similarities, atol=1e-5)
    assert parts.similar("new1", 1)[0][0] == "i1" and parts.row("extra") == parts.rows(["x", "extra"])[1]
    few = parts.query(vectors[:20], 5, where=["i1", "i3", "new7"])[0]
    assert (np.sort(few, axis=1)[:, 2:] == np.sort(parts.rows(["i1", "i3", "new7"]))).all()
    parts.attach(catalog_of(parts.ids))
    assert len(parts.similar("i1", 5, where="brand = acme and rest > 3")) == 5
    if on_disk:
        again = ShardedIndex.load(folder, parts.fingerprint(), held=1)
        assert repr(again) == repr(parts) and again.ids == parts.ids
        np.testing.assert_array_equal(again.query(vectors[:50], 5)[0], parts.query(vectors[:50], 5)[0])
        assert len(list(folder.glob("part-*"))) == 3
    with pytest.raises(UnknownIdError, match="'i0'"):
        parts.remove(["i1", "i0"])
    with pytest.raises(DataError, match="use update"):
        parts.add(Embeddings(["i1"], np.ones((1, 24))))
    parts.remove(list(parts.ids))
    assert len(parts) == 0 and parts.query(np.ones((1, 24)), 2)[0].tolist() == [[-1, -1]]
    parts.add(made(30, seed=2))
    parts.compact()
    assert len(parts.similar("i1", 29)) == 29
