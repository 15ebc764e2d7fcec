import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llm_tail.config import IndexConfig
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError, UnknownIdError
from llm_tail.neighbors.exact import nearest
from llm_tail.neighbors.index import NeighborIndex

HNSW = IndexConfig(exact_below=0)
EXACT = IndexConfig(exact_below=10**9)


def clustered(n, dim=32, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(n // 30 + 1, dim))
    vectors = centres[random.integers(len(centres), size=n)] + 0.6 * random.normal(size=(n, dim))
    return Embeddings([f"i{row}" for row in range(n)], vectors, encoder="made-up")


@pytest.fixture(scope="module")
def embeddings():
    return clustered(3000)


@pytest.fixture(scope="module")
def index(embeddings):
    return NeighborIndex.build(embeddings, HNSW)


@pytest.fixture(scope="module")
def few():
    """Six items; the last has no text."""
    vectors = np.array([[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.3, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
    return Embeddings(["emma", "persuasion", "sanditon", "dracula", "ulysses", "blank"], vectors)


def test_recall_on_clustered_vectors(index, embeddings):
    assert not index.is_exact
    rows, _ = index.similar_rows(np.arange(500), 10)
    true, _ = nearest(embeddings.vectors[:500], embeddings.vectors, 10, exclude_rows=np.arange(500))
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, true, strict=True)])
    assert share >= 0.95
    assert index.measured_recall >= 0.95 and index.recall() >= 0.95


def test_approximate_answers_have_the_form_of_exact_ones(index, embeddings):
    rows, similarities = index.similar_rows(np.arange(200), 15)
    assert rows.dtype == np.int64 and similarities.dtype == np.float32
    assert (rows != np.arange(200)[:, None]).all()
    assert (np.diff(similarities, axis=1) <= 0).all() and similarities.max() <= 1
    cosines = np.einsum("nd,nkd->nk", embeddings.vectors[:200], embeddings.vectors[rows])
    np.testing.assert_allclose(similarities, cosines, atol=1e-5)


def test_one_by_one_equals_all_at_once(index, embeddings):
    together, _ = index.query(embeddings.vectors[:40], 5)
    alone = np.vstack([index.query(embeddings.vectors[row : row + 1], 5)[0] for row in range(40)])
    np.testing.assert_array_equal(together, alone)


def test_the_same_seed_gives_the_same_index(embeddings, tmp_path):
    for name in ("a", "b"):
        NeighborIndex.build(embeddings, HNSW, seed=3).save(tmp_path / name)
    one, other = ((next((tmp_path / name).glob("g-*")) / "index.hnsw").read_bytes() for name in ("a", "b"))
    assert one == other


def test_small_catalogues_are_searched_exactly(few):
    index = NeighborIndex.build(few)
    assert index.is_exact and index.recall() == 1.0
    assert repr(index) == "NeighborIndex(6 x 3, cosine, exact)"
    assert [item for item, _ in index.similar("emma", k=2)] == ["persuasion", "sanditon"]


def test_repr_says_how_it_searches(index):
    assert (
        repr(index) == f"NeighborIndex(3,000 x 32, cosine, M=16, ef={index.ef}, recall@10 {index.measured_recall:.2f})"
    )


@pytest.mark.parametrize("config", [HNSW, EXACT])
def test_items_without_text_are_no_neighbours(few, config):
    index = NeighborIndex.build(few, config)
    assert index.n_live == 5 and len(index) == 6
    assert len(index.similar("blank")) == 0
    for item in few.ids:
        found = index.similar(item, k=100)
        assert "blank" not in found.item_ids and item not in found.item_ids
        assert len(found) == (0 if item == "blank" else 4)


@pytest.mark.parametrize("config", [HNSW, EXACT])
def test_k_above_n_is_padded(few, config):
    rows, similarities = NeighborIndex.build(few, config).query(few.vectors, 8)
    assert rows.shape == (6, 8)
    assert ((rows >= 0).sum(axis=1) == [5, 5, 5, 5, 5, 0]).all()
    assert np.isneginf(similarities[rows < 0]).all() and np.isfinite(similarities[rows >= 0]).all()


def test_every_k_is_served(index):
    for k in (1, 63, 64, 65, 200, 1499, 1500, 2999, 3000, 4000):
        rows, _ = index.similar_rows([0, 7], k)
        assert ((rows >= 0).sum(axis=1) == min(k, 2999)).all()


def test_only_zero_vectors():
    index = NeighborIndex.build(Embeddings(["a", "b"], np.zeros((2, 4))), HNSW)
    assert index.query(np.ones((1, 4)), 3)[0].tolist() == [[-1, -1, -1]]
    assert len(index.similar("a")) == 0


@pytest.mark.parametrize("config", [HNSW, EXACT])
def test_equal_vectors_do_not_hide_each_other(config):
    index = NeighborIndex.build(Embeddings([str(n) for n in range(300)], np.ones((300, 4))), config)
    rows, similarities = index.similar_rows(np.arange(300), 7)
    assert (rows >= 0).all() and (rows != np.arange(300)[:, None]).all()
    np.testing.assert_allclose(similarities, 1.0, atol=1e-6)
    assert all(len(set(line)) == 7 for line in rows.tolist())


def test_exact_search_answers_what_hnswlib_cannot(embeddings, monkeypatch):
    index = NeighborIndex.build(embeddings, HNSW)

    class Unreachable:
        def knn_query(self, *_, **__):
            raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")

    monkeypatch.setattr(index._living.engine, "_hnsw", Unreachable())
    rows, similarities = index.similar_rows([5], 4)
    true, cosines = nearest(embeddings.vectors[5:6], embeddings.vectors, 4, exclude_rows=[5])
    assert rows.tolist() == true.tolist() and similarities.tolist() == cosines.tolist()


@pytest.mark.parametrize("config", [HNSW, EXACT])
@pytest.mark.parametrize("width", [1, 2, 4, 31, 33, 64, 1000])
def test_a_query_of_the_wrong_width_is_refused(few, config, width):
    index = NeighborIndex.build(few, config)
    for n in (1, 50):
        if width != index.dim:
            with pytest.raises(DataError, match=rf"expected \(n, {index.dim}\)"):
                index.query(np.ones((n, width), dtype=np.float32), 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_is_refused(index, bad):
    with pytest.raises(DataError, match="finite"):
        index.similar(np.full(32, bad))


def test_other_wrong_questions(index):
    with pytest.raises(UnknownIdError, match="i12"):
        index.similar("i12x")
    with pytest.raises(DataError, match="item id"):
        index.similar(np.ones((1, 32)))
    with pytest.raises(DataError, match="k is 0"):
        index.similar("i1", k=0)
    with pytest.raises(DataError, match="rows run from"):
        index.similar_rows([3000], 2)
    with pytest.raises(DataError, match="whole numbers"):
        index.similar_rows([0.5], 2)
    with pytest.raises(DataError, match="dtype"):
        index.query(np.array([["a"] * 32]), 2)
    assert index.similar_rows([], 2)[0].shape == (0, 2)


def test_progress_and_threads_change_no_form(capfd):
    index = NeighborIndex.build(clustered(500), HNSW, progress=True, n_threads=2)
    assert index.measured_recall > 0.9 and capfd.readouterr().out == ""


def test_no_item_is_no_index():
    with pytest.raises(DataError, match="no vectors"):
        NeighborIndex.build(Embeddings([], np.zeros((0, 3))))


def test_neighbors_read_like_pairs(few):
    found = NeighborIndex.build(few).similar(np.array([0.0, 2.0, 0.0]), k=2)
    assert len(found) == 2 and found[0] == ("dracula", 1.0)
    assert dict(found)["sanditon"] == pytest.approx(0.351, abs=1e-3)
    assert repr(found) == "Neighbors(dracula 1.000, sanditon 0.351)"


@pytest.mark.parametrize("config", [HNSW, EXACT])
def test_what_is_loaded_answers_like_what_was_saved(embeddings, tmp_path, config):
    index = NeighborIndex.build(embeddings, config.replace(ef=200), seed=5)
    loaded = NeighborIndex.load(index.save(tmp_path / "index"), index.fingerprint())
    assert repr(loaded) == repr(index) and loaded.ids == index.ids and loaded.encoder == "made-up"
    assert loaded.fingerprint() == index.fingerprint() and loaded.measured_recall == index.measured_recall
    for one, other in zip(index.similar_rows(range(300), 20), loaded.similar_rows(range(300), 20), strict=True):
        np.testing.assert_array_equal(one, other)
    if not index.is_exact:
        assert loaded._living.engine._hnsw.ef == loaded.ef == 200


def test_another_fingerprint_is_stale(few, tmp_path):
    NeighborIndex.build(few).save(tmp_path, fingerprint="of-the-run")
    assert len(NeighborIndex.load(tmp_path, "of-the-run")) == 6
    with pytest.raises(StaleArtifactError, match="llm-tail index"):
        NeighborIndex.load(tmp_path, "another")
    with pytest.raises(StaleArtifactError, match="no neighbor-index"):
        NeighborIndex.load(tmp_path / "nowhere")


def test_damage_is_an_error_and_no_crash(tmp_path):
    index = NeighborIndex.build(clustered(200), HNSW)
    folder = index.save(tmp_path / "index")
    files = sorted(next(folder.glob("g-*")).iterdir())
    assert [f.name for f in files] == ["ids.parquet", "index.hnsw", "slots.safetensors", "vectors.safetensors"]
    random = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        for at in random.integers(len(whole), size=25).tolist():
            flipped = bytearray(whole)
            flipped[at] ^= 1 << int(random.integers(8))
            for damaged in (bytes(flipped), whole[:at]):
                file.write_bytes(damaged)
                with pytest.raises(CorruptArtifactError, match=file.name):
                    NeighborIndex.load(folder)
        file.write_bytes(whole)
    assert len(NeighborIndex.load(folder)) == 200
    for file in files:
        shutil.move(file, tmp_path / "away")
        with pytest.raises(CorruptArtifactError, match="missing"):
            NeighborIndex.load(folder)
        shutil.move(tmp_path / "away", file)


def test_a_manifest_that_lost_its_settings_is_corrupt(few, tmp_path):
    NeighborIndex.build(few).save(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"exact_below"', '"exact_belov"'))
    with pytest.raises(CorruptArtifactError, match="not what was written"):
        NeighborIndex.load(tmp_path)


def test_many_may_ask_at_once(index, tmp_path):
    expected = index.similar_rows(np.arange(100), 10)[0]
    with ThreadPoolExecutor(8) as pool:
        saving = pool.submit(index.save, tmp_path / "index")
        answers = list(pool.map(lambda _: index.similar_rows(np.arange(100), 10)[0], range(40)))
    assert all((answer == expected).all() for answer in answers)
    assert len(NeighborIndex.load(saving.result())) == 3000


def test_neighbors_never_load_torch():
    code = "import sys, llm_tail.neighbors.index, llm_tail.neighbors.graph; print([m in sys.modules for m in {}])"
    heavy = ["torch", "networkx", "transformers", "sklearn"]
    done = subprocess.run([sys.executable, "-c", code.format(heavy)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([False] * len(heavy))
