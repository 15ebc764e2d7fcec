"""One contract for whatever searches: the same answers as comparing with all, whatever happened before."""

import importlib.util

import numpy as np
import pytest

from llm_tail.config import IndexConfig
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, MissingExtraError, UnknownIdError
from llm_tail.neighbors import engines
from llm_tail.neighbors.exact import nearest
from llm_tail.neighbors.index import NeighborIndex

ENGINES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in ("faiss", "usearch") and importlib.util.find_spec(name) is None,
            reason=f"{name} is not installed: pip install 'llm-tail[{name}]'",
        ),
    )
    for name in ("exact", "hnswlib", "faiss", "usearch")
]


def made(n, dim=24, seed=0, prefix="i"):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(n // 20 + 1, dim))
    vectors = centres[random.integers(len(centres), size=n)] + 0.6 * random.normal(size=(n, dim))
    return Embeddings([f"{prefix}{row}" for row in range(n)], vectors, encoder="made-up")


def recall(index, k=10, n=200):
    """Against what is in the index now, compared with the plain function."""
    rows = np.arange(len(index))[:: max(1, len(index) // n)]
    _, true = nearest(index.vectors[rows], index.vectors, k, exclude_rows=rows)
    found, similarities = index.similar_rows(rows, k)
    assert (found >= 0).all() and (found != rows[:, None]).all()
    said = np.einsum("nd,nkd->nk", index.vectors[rows], index.vectors[found])
    np.testing.assert_allclose(said, similarities, atol=2e-3)
    return (said >= true[:, -1:] - 1e-3).mean()


@pytest.fixture(params=ENGINES)
def config(request):
    return IndexConfig(engine=request.param, exact_below=0, links=12, ef_construction=100)


@pytest.fixture
def index(config):
    return NeighborIndex.build(made(600), config)


def test_it_finds_what_is_near(index, config):
    assert index.engine == config.engine and index.is_exact == (config.engine == "exact")
    assert recall(index) >= 0.95 and index.measured_recall >= 0.95
    assert index.similar("i5", 3).item_ids == index.similar(index.vectors[5], 4).item_ids[1:]


def test_every_k_is_served(index):
    for k in (1, 2, 10, 299, 300, 599, 600, 700):
        rows, similarities = index.query(index.vectors[:3], k)
        assert rows.shape == (3, k) and ((rows >= 0).sum(axis=1) == min(k, 600)).all()
        assert all(len(set(line[line >= 0])) == (line >= 0).sum() for line in rows.tolist() and rows)
        assert (similarities[:, :-1] >= similarities[:, 1:]).all()


def test_half_is_removed_and_filled_again(index):
    gone = [f"i{n}" for n in range(0, 600, 2)]
    index.remove(gone)
    assert len(index) == index.n_live == 300 and recall(index) >= 0.95
    assert not set(index.similar("i1", 299).item_ids) & set(gone)
    with pytest.raises(UnknownIdError, match="i2"):
        index.similar("i2")
    index.add(made(300, seed=1, prefix="new"))
    assert len(index) == 600 and recall(index) >= 0.95
    assert index.similar(made(300, seed=1)["i7"], 1)[0][0] == "new7"
    index.compact()
    assert index.n_removed == 0 and recall(index) >= 0.95


def test_what_comes_back_is_found_and_what_changes_moves(index):
    first = made(600)
    index.remove(["i3", "i4"])
    index.add(Embeddings(["i4", "i3"], first.vectors[[4, 3]], encoder="made-up"))
    for item in ("i3", "i4"):
        assert index.similar(first[item], 1)[0][0] == item
    index.update(Embeddings(["i3", "other"], np.stack([first["i9"], -first["i3"]])))
    assert set(index.similar(first["i9"], 2).item_ids) == {"i3", "i9"}
    assert index.similar(-first["i3"], 1)[0][0] == "other" and len(index) == 601
    index.update(Embeddings(["i3"], np.zeros((1, 24))))
    assert index.n_live == 600 and "i3" not in index.similar(first["i9"], 600).item_ids


def test_never_fewer_than_k_while_there_are_k(index):
    left = 600
    for start in range(0, 590, 59):
        index.remove([f"i{n}" for n in range(start, start + 59)])
        left -= 59
        for k in (1, 5, 10):
            rows, _ = index.query(index.vectors[: min(left, 5)], k)
            assert ((rows >= 0).sum(axis=1) == min(k, left)).all()
    index.remove(list(index.ids))
    assert len(index) == 0 and index.query(np.ones((1, 24)), 3)[0].tolist() == [[-1, -1, -1]]
    index.add(made(50, seed=3))
    assert len(index.similar("i1", 10)) == 10


def test_it_is_saved_and_read_after_changes(index, config, tmp_path):
    index.remove([f"i{n}" for n in range(100)])
    index.add(made(50, seed=5, prefix="new"))
    loaded = NeighborIndex.load(index.save(tmp_path / "index"))
    assert repr(loaded) == repr(index) and loaded.ids == index.ids and loaded.n_removed == index.n_removed
    for one, other in zip(index.similar_rows(range(550), 10), loaded.similar_rows(range(550), 10), strict=True):
        np.testing.assert_array_equal(one, other)
    loaded.add(made(20, seed=6, prefix="more"))
    loaded.remove(["new3"])
    assert len(loaded) == 569 and recall(loaded) >= 0.95
    for file in next((tmp_path / "index").glob("g-*")).iterdir():
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CorruptArtifactError):
            NeighborIndex.load(tmp_path / "index")
        file.write_bytes(whole)


def test_half_the_numbers_find_as_much(config):
    half = NeighborIndex.build(made(600), config.replace(storage="float16"))
    assert half._living.table.vectors.dtype == np.float16 and half.vectors.dtype == np.float32
    assert recall(half) >= 0.95 and "float16" in repr(half)
    full = NeighborIndex.build(made(600), config)
    np.testing.assert_allclose(half.query(full.vectors[:50], 5)[1], full.query(full.vectors[:50], 5)[1], atol=3e-3)


def test_wrong_questions_are_refused(index):
    for vectors in (np.ones((1, 23)), np.ones((2, 25)), np.full((1, 24), np.nan), np.ones(24), [["a"] * 24]):
        with pytest.raises(DataError):
            index.query(vectors, 3)
    for k in (0, -1, 2.0, None):
        with pytest.raises(DataError):
            index.query(np.ones((1, 24)), k)
    with pytest.raises(DataError, match="ask for fewer"):
        index.query(np.ones((200, 24)), 1_000_000)
    assert (index.query(np.ones((1, 24)), 1_000_000)[0] >= 0).sum() == 600


def test_wrong_changes_are_refused_and_change_nothing(index):
    before = index.fingerprint()
    with pytest.raises(DataError, match="1 items are in the index already, such as i1; use update"):
        index.add(Embeddings(["new", "i1"], np.ones((2, 24))))
    with pytest.raises(DataError, match=r"expected \(n, 24\)"):
        index.add(Embeddings(["new"], np.ones((1, 23))))
    with pytest.raises(DataError, match="encoder"):
        index.update(Embeddings(["new"], np.ones((1, 24)), encoder="another"))
    with pytest.raises(UnknownIdError, match="closest are: i599"):
        index.remove(["i1", "i5999"])
    with pytest.raises(DataError, match="the ids are 5, expected"):
        index.remove(5)
    assert index.fingerprint() == before and len(index) == 600
    index.add(Embeddings([], np.zeros((0, 24))))
    index.remove([])
    assert index.fingerprint() == before


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_a_handful_of_items_is_searched_as_well(config, n):
    index = NeighborIndex.build(made(n), config)
    assert index.recall() == index.recall(k=50) == 1.0 and len(index.similar("i0", 5)) == min(n - 1, 5)
    index.add(Embeddings(["x"], np.ones((1, 24))))
    index.compact()
    assert len(index.similar("x", 20)) == n


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(engines.HOMES, "faiss", ("llm_tail.neighbors.no_such_module", "FaissEngine"))
    with pytest.raises(MissingExtraError, match=r"pip install 'llm-tail\[faiss\]'"):
        NeighborIndex.build(made(50), IndexConfig(engine="faiss"))


def test_a_catalogue_that_grows_gets_links_and_one_that_shrinks_loses_them():
    index = NeighborIndex.build(made(100), IndexConfig(exact_below=150))
    assert index.is_exact
    index.add(made(100, seed=1, prefix="new"))
    assert index.engine == "hnswlib" and recall(index) >= 0.95
    index.remove([f"new{n}" for n in range(60)])
    assert index.engine == "hnswlib"  # a little below is no reason to change
    index.remove([f"new{n}" for n in range(60, 100)])
    assert index.is_exact and recall(index) == 1.0
