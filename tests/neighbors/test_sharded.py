import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import EmbeddingConfig, IndexConfig
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.store import Embeddings, EmbeddingStore
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError, UnknownIdError
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.neighbors.sharded import ShardedIndex, part_of
from tests.embedding.letters import LetterEncoder
from tests.neighbors.test_index import HNSW, clustered


@pytest.fixture(scope="module")
def embeddings():
    found = clustered(1500)
    found.vectors[7] = 0  # an item without text
    return found


@pytest.fixture(scope="module")
def whole(embeddings):
    return NeighborIndex.build(embeddings, HNSW)


@pytest.fixture(scope="module")
def index(embeddings):
    return ShardedIndex.build(embeddings, HNSW, n_parts=3)


def assert_same_answers(one, other):
    np.testing.assert_allclose(one[1], other[1], atol=1e-6)
    differ = one[0] != other[0]  # only where two are equally near but for rounding
    beside = np.zeros_like(differ)
    gaps = np.diff(np.where(np.isfinite(one[1]), one[1], -2), axis=1) > -2e-6
    beside[:, 1:] |= gaps
    beside[:, :-1] |= gaps
    beside[:, -1] = True  # its equal may lie behind the end
    assert not (differ & ~beside).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_exact_parts_answer_like_an_exact_whole(n_items, n_parts, k, seed):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(n_items, 4))
    vectors[random.random(n_items) < 0.2] = 0
    items = Embeddings([f"item {number}" for number in random.permutation(n_items)], vectors)
    whole, index = NeighborIndex.build(items), ShardedIndex.build(items, n_parts=n_parts)
    queries = random.normal(size=(5, 4))
    excluded = random.integers(-1, n_items, size=5)
    assert_same_answers(index.query(queries, k), whole.query(queries, k))
    assert_same_answers(index.query(queries, k, exclude_rows=excluded), whole.query(queries, k, exclude_rows=excluded))
    assert_same_answers(index.similar_rows(np.arange(n_items), k), whole.similar_rows(np.arange(n_items), k))
    assert index.ids == whole.ids and len(index) == n_items and index.n_live == whole.n_live
    assert index.is_exact and index.recall() == 1.0


def test_recall_is_not_below_that_of_a_whole(index, whole):
    assert not index.is_exact
    assert index.recall() >= whole.recall() - 0.005
    assert index.measured_recall >= 0.95


def test_one_item_and_one_vector(index, whole, embeddings):
    assert index.similar("i3", k=5).item_ids == whole.similar("i3", k=5).item_ids
    assert index.similar(embeddings["i3"], k=5)[0][0] == "i3"
    assert index.row("i900") == 900 and index.ids_of(np.array([4, 900])) == ["i4", "i900"]
    assert len(index.similar("i7")) == 0
    how = f"M=16, ef={index._facts['ef']}, recall@10 {index.measured_recall:.2f}"
    assert repr(index) == f"ShardedIndex(1,500 x 32 in 3 parts, cosine, {how})"


def test_parts_are_of_about_the_same_size_and_stay_what_they_are():
    parts = part_of([f"i{n}" for n in range(30_000)], 10)
    assert np.bincount(parts).min() > 2_800 and np.bincount(parts).max() < 3_200
    assert part_of(["emma", "наш", "\udcff"], 1000).tolist() == [
        part_of([x], 1000)[0] for x in ("emma", "наш", "\udcff")
    ]
    assert part_of(["emma", "persuasion", "dracula"], 4).tolist() == [0, 3, 1]


def test_wrong_questions(index, embeddings):
    with pytest.raises(UnknownIdError, match="no item has the id 'i12x'"):
        index.similar("i12x")
    with pytest.raises(UnknownIdError, match="closest are: a"):
        ShardedIndex.build(Embeddings(["a"], np.ones((1, 2))), n_parts=50).similar("b")
    with pytest.raises(DataError, match=r"expected \(n, 32\)"):
        index.query(np.ones((1, 31)), 2)
    with pytest.raises(DataError, match="item id"):
        index.similar(np.ones((1, 32)))
    with pytest.raises(DataError, match="k is 0"):
        index.similar("i1", k=0)
    with pytest.raises(DataError, match="ask for fewer"):
        index.query(np.ones((200, 32)), 1_000_000)
    with pytest.raises(DataError, match="rows run from"):
        index.similar_rows([1500], 2)
    with pytest.raises(DataError, match="whole numbers"):
        index.similar_rows([0.5], 2)
    with pytest.raises(DataError, match="n_parts is 0"):
        ShardedIndex.build(embeddings, n_parts=0)
    with pytest.raises(DataError, match="no vectors"):
        ShardedIndex.build(Embeddings([], np.zeros((0, 3))), n_parts=2)
    assert index.similar_rows([], 2)[0].shape == (0, 2)


@pytest.mark.parametrize("held", [0, 1])
def test_what_is_loaded_answers_like_what_was_saved(index, tmp_path, held):
    loaded = ShardedIndex.load(index.save(tmp_path / "index"), index.fingerprint(), held=held)
    assert repr(loaded) == repr(index) and loaded.fingerprint() == index.fingerprint()
    for one, other in zip(index.similar_rows(range(200), 20), loaded.similar_rows(range(200), 20), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(loaded._open) == (held or 3) and loaded.encoder == "made-up"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda row: loaded.similar_rows([row], 5)[0], range(20)))
    np.testing.assert_array_equal(np.vstack(answers), index.similar_rows(range(20), 5)[0])


def test_a_build_goes_on_where_it_was(embeddings, tmp_path, monkeypatch):
    built = []
    build = NeighborIndex.build.__func__

    def counted(cls, items, *args, **settings):
        built.append(len(items))
        return build(cls, items, *args, **settings)

    monkeypatch.setattr(NeighborIndex, "build", classmethod(counted))
    config = IndexConfig()
    first = ShardedIndex.build(embeddings, config, n_parts=4, folder=tmp_path / "index")
    assert len(built) == 4
    shutil.rmtree(tmp_path / "index" / "part-00002")
    again = ShardedIndex.build(embeddings, config, n_parts=4, folder=tmp_path / "index", progress=True)
    assert len(built) == 5 and again.fingerprint() == first.fingerprint()
    vectors = embeddings.vectors.copy()
    vectors[5] = vectors[6]
    changed = ShardedIndex.build(Embeddings(embeddings.ids, vectors), config, n_parts=4, folder=tmp_path / "index")
    assert len(built) == 6 and changed.fingerprint() != first.fingerprint()
    np.testing.assert_allclose(changed.similar("i5", k=1).similarities, 1.0, atol=1e-6)
    with pytest.raises(StaleArtifactError, match="other inputs"):
        ShardedIndex.load(tmp_path / "index", first.fingerprint())


def test_damage_is_found(index, tmp_path):
    folder = index.save(tmp_path / "index")
    loaded = ShardedIndex.load(folder)
    file = next((folder / "part-00001").glob("g-*/vectors.safetensors"))
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(bytes(whole))
    with pytest.raises(CorruptArtifactError, match=r"part-00001.*vectors\.safetensors"):
        loaded.similar("i1")
    with pytest.raises(StaleArtifactError, match="no sharded-index"):
        ShardedIndex.load(tmp_path / "nowhere")


def test_vectors_that_lie_on_disk_are_indexed_without_being_loaded(tmp_path):
    words = ["whale", "sea", "pan", "egg", "steel", "novel", "captain"]
    items = [{"item_id": f"i{n}", "title": f"{words[n % 7]} {words[n % 5]} {n:b}"} for n in range(60)]
    store = EmbeddingStore.open(tmp_path / "store")
    embeddings = store.embed(Catalog.from_items(items), LetterEncoder(), config=EmbeddingConfig(shard_items=16))
    stored = store.open_vectors()
    index = ShardedIndex.build(stored, n_parts=3, folder=tmp_path / "index", held=1)
    whole = NeighborIndex.build(Embeddings(stored.ids, embeddings.on(stored.ids).vectors))
    assert index.ids == stored.ids and index.encoder == stored.encoder
    assert_same_answers(index.similar_rows(np.arange(60), 4), whole.similar_rows(np.arange(60), 4))


def test_neighbours_load_no_torch():
    code = "import sys, llm_tail.neighbors.sharded; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
