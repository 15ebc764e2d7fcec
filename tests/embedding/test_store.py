import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import EmbeddingConfig, TextConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.embedding.store import Embeddings, EmbeddingStore
from llm_tail.embedding.text import ItemText
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError

from .letters import LetterEncoder

CONFIG = EmbeddingConfig(shard_items=4)


def make(texts):
    return Catalog.from_items([{"item_id": f"i{i}", "title": t} for i, t in enumerate(texts)])


TEN = make([f"{word} text" for word in "abcdefghij"])


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore.open(tmp_path / "embeddings")


def test_vectors_are_those_of_the_encoder_and_are_kept(store):
    encoder = LetterEncoder()
    embeddings = store.embed(TEN, encoder, config=CONFIG)
    np.testing.assert_allclose(embeddings.vectors, encoder.encode(ItemText().texts(TEN)), atol=1e-6)
    assert embeddings.encoder == encoder.fingerprint and embeddings.ids == TEN.ids
    np.testing.assert_array_equal(EmbeddingStore.open(store.folder).load().vectors, embeddings.vectors)
    assert repr(store) == f"EmbeddingStore(10 x 26, {store.folder})"
    assert (store.report.n_encoded, store.report.n_reused, store.report.n_items) == (10, 0, 10)
    assert "10 items: 10 texts encoded" in str(store.report)


def test_again_encodes_nothing_and_writes_no_shard(store):
    store.embed(TEN, LetterEncoder(), config=CONFIG)
    before = {p.name: p.stat().st_mtime_ns for p in store.folder.glob("shard-*")}
    encoder = LetterEncoder()
    store.embed(TEN, encoder, config=CONFIG)
    assert encoder.seen == [] and store.report.n_reused == 10
    assert {p.name: p.stat().st_mtime_ns for p in store.folder.glob("shard-*")} == before


def test_only_what_changed_is_encoded(store):
    store.embed(TEN, LetterEncoder(), config=CONFIG)
    rows = TEN.table.to_pylist()
    changed = [{"item_id": "new", "title": "brand new"}, *rows[:3], {**rows[3], "title": "other words"}, *rows[5:]]
    catalog, encoder = Catalog.from_items(changed), LetterEncoder()
    embeddings = store.embed(catalog, encoder, config=CONFIG)
    assert sorted(encoder.seen) == ["brand new", "other words"]
    np.testing.assert_allclose(embeddings.vectors, LetterEncoder().encode(ItemText().texts(catalog)), atol=1e-6)
    assert "i4" not in embeddings.ids


@pytest.mark.parametrize("change", ["encoder", "template"])
def test_another_encoder_or_template_encodes_all(store, change):
    store.embed(TEN, LetterEncoder(), config=CONFIG)
    encoder = LetterEncoder("v2" if change == "encoder" else "v1")
    text = ItemText(TextConfig(separator=" ")) if change == "template" else ItemText()
    store.embed(TEN, encoder, text, CONFIG)
    assert len(encoder.seen) == 10 and store.report.n_reused == 0


def test_equal_texts_are_encoded_once_and_kept_for_each_item(store):
    encoder = LetterEncoder()
    embeddings = store.embed(make(["same", "other", "same", "x", "y", "same"]), encoder, config=CONFIG)
    assert sorted(encoder.seen) == ["other", "same", "x", "y"]
    np.testing.assert_array_equal(embeddings["i0"], embeddings["i5"])
    assert len(embeddings) == 6 and (store.report.n_encoded, store.report.n_reused) == (4, 2)


def test_items_without_text(store):
    encoder = LetterEncoder()
    embeddings = store.embed(make(["a", "", "b"]), encoder, config=CONFIG)
    assert not embeddings["i1"].any() and store.report.n_empty == 1 and sorted(encoder.seen) == ["a", "b"]
    with pytest.warns(UserWarning, match="2 of 3 items have no text"):
        store.embed(make(["", "", "b"]), encoder, config=CONFIG)
    with pytest.raises(DataError, match="none of the 3 items has a text in title, description"):
        store.embed(make(["", " ", ""]), encoder, config=CONFIG)
    assert len(store.load()) == 3  # what was complete before is still there


def test_before_any_job(store):
    with pytest.raises(StaleArtifactError, match="run: llm-tail embed"):
        store.load()
    assert "empty" in repr(store)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file, expected a folder"):
        EmbeddingStore.open(tmp_path / "file")


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_shard_is_named_and_alone_made_anew(store, damage):
    before = store.embed(TEN, LetterEncoder(), config=CONFIG)
    victim = sorted(store.folder.glob("shard-*"))[1]
    content = bytearray(victim.read_bytes())
    if damage == "gone":
        victim.unlink()
    elif damage == "cut":
        victim.write_bytes(content[:-10])
    else:
        content[-5] ^= 1
        victim.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=victim.name):
        store.load()
    encoder = LetterEncoder()
    after = store.embed(TEN, encoder, config=CONFIG)
    assert sorted(encoder.seen) == ItemText().texts(TEN)[4:8] and store.report.damaged == [victim.name]
    np.testing.assert_array_equal(after.vectors, before.vectors)


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": 1'])
def test_an_unreadable_manifest(store, content):
    store.folder.mkdir()
    (store.folder / "manifest.json").write_text(content)
    with pytest.raises(CorruptArtifactError, match=r"no readable manifest.*remove the folder"):
        store.load()
    assert len(store.embed(TEN, LetterEncoder(), config=CONFIG)) == len(TEN)  # again is all that it takes
    assert store.report.damaged == ["manifest.json"]


def test_a_manifest_that_was_changed_is_not_believed(store):
    before = store.embed(TEN, LetterEncoder(), config=CONFIG).vectors
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace('"dim": ', '"dim": 1'))
    with pytest.raises(CorruptArtifactError, match=r"manifest\.json is not what was written"):
        store.load()
    np.testing.assert_array_equal(store.embed(TEN, LetterEncoder(), config=CONFIG).vectors, before)


def test_a_foreign_folder(store):
    store.folder.mkdir()
    (store.folder / "manifest.json").write_text('{"kind": "item-graph"}')
    with pytest.raises(StaleArtifactError, match="holds a item-graph"):
        store.embed(TEN, LetterEncoder())


def test_a_broken_encoder_is_named_and_the_old_vectors_stay(store):
    before = store.embed(TEN, LetterEncoder(), config=CONFIG)

    class Broken(LetterEncoder):
        def encode(self, texts, **options):
            return super().encode(texts)[:, :3] * np.nan

    with pytest.raises(DataError, match=r"shape \(4, 3\), expected \(4, 26\)"):
        store.embed(TEN, Broken("broken"), config=CONFIG)
    np.testing.assert_array_equal(store.load().vectors, before.vectors)


def test_a_crash_keeps_the_shards_that_were_done_even_after_a_second_crash(store):
    for fail_at in (3, 0):  # the second one dies at once, before it encodes anything new

        class Dying(LetterEncoder):
            left = fail_at

            def encode(self, texts, **options):
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                return super().encode(texts)

        with pytest.raises(KeyboardInterrupt):
            store.embed(make([f"text {c}" for c in "abcdefghijklmnop"]), Dying(), config=CONFIG)
    with pytest.raises(StaleArtifactError):
        store.load()
    encoder = LetterEncoder()
    store.embed(make([f"text {c}" for c in "abcdefghijklmnop"]), encoder, config=CONFIG)
    assert len(encoder.seen) == 4 and store.report.n_reused == 12


def test_old_shards_are_swept(store):
    store.embed(TEN, LetterEncoder(), config=CONFIG)
    (store.folder / ".shard-00009-dead.safetensors.part").touch()
    store.embed(make(["one"]), LetterEncoder(), config=CONFIG)
    assert sorted(p.name[:11] for p in store.folder.iterdir()) == ["manifest.js", "shard-00000"]


words = st.lists(st.sampled_from(["", "a", "b", "ab", "abc", "c d"]), min_size=1, max_size=12)


@settings(max_examples=10, deadline=None)
@given(words, words, st.integers(1, 5), st.integers(1, 5))
def test_whatever_was_there_before_the_vectors_are_right(tmp_path_factory, first, second, size, other_size):
    store = EmbeddingStore.open(tmp_path_factory.mktemp("store"))
    encoder = LetterEncoder()
    for texts, shard_items in ((first, size), (second, other_size)):
        if any(texts):
            catalog = make(
                [*texts, "anchor", "words", "many", "here", "now", "so", "that", "few", "are", "empty", "ok", "y"]
            )
            embeddings = store.embed(catalog, encoder, config=EmbeddingConfig(shard_items=shard_items))
            expected = Embeddings(catalog.ids, LetterEncoder().encode(ItemText().texts(catalog)))
            np.testing.assert_allclose(embeddings.vectors, expected.vectors, atol=1e-6)
    assert len(encoder.seen) == len(set(encoder.seen))


def test_a_real_encoder_reports_what_it_cuts(store, minilm):
    store.embed(make(["a novel", "word " * 300]), minilm)
    assert store.report.n_truncated == 1 and store.report.texts_per_s > 0


# ---- what lies on disk


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_the_readme_reads_a_store_without_this_package(storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = EmbeddingStore.open("runs/shop/embeddings")
    expected = store.embed(TEN, LetterEncoder(), config=EmbeddingConfig(shard_items=4, storage=storage))
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    [block] = [part for part in re.findall(r"```python\n(.*?)```", text, re.S) if "load_file(" in part]
    assert "llm_tail" not in block and "lt." not in block
    names = {}
    exec(block, names)  # noqa: S102  (our own README)
    assert names["ids"] == list(expected.ids) and names["vectors"].dtype == np.float32
    np.testing.assert_allclose(names["vectors"], expected.vectors, atol=0.01 if storage == "int8" else 1e-3)


# ---- read where they lie


def test_vectors_are_read_where_they_lie(store):
    embeddings = store.embed(TEN, LetterEncoder(), config=CONFIG)
    stored = store.open_vectors()
    assert stored.shape == (10, 26) and len(stored) == 10 and stored.ids == TEN.ids
    assert repr(stored) == "StoredVectors(10 x 26, float32)" and stored.encoder == embeddings.encoder
    blocks = list(stored.blocks())
    assert [len(ids) for ids, _ in blocks] == [4, 4, 2]
    assert isinstance(blocks[0][1].base, np.memmap) or isinstance(blocks[0][1], np.memmap)  # not copied
    np.testing.assert_array_equal(np.vstack([vectors for _, vectors in blocks]), embeddings.vectors)
    rows = np.array([9, 0, 3, 4, 9])
    np.testing.assert_array_equal(stored.take(rows), embeddings.vectors[rows])
    assert stored.take(np.empty(0, np.int64)).shape == (0, 26)
    with pytest.raises(DataError, match="rows run from -1 to 10, and there are 10"):
        stored.take(np.array([-1, 10]))


def test_a_shard_is_checked_when_it_is_first_read(store):
    store.embed(TEN, LetterEncoder(), config=CONFIG)
    victim = sorted(store.folder.glob("shard-*"))[2]
    victim.write_bytes(victim.read_bytes()[::-1])
    stored = store.open_vectors()
    stored.take(np.array([0, 7]))
    with pytest.raises(CorruptArtifactError, match=victim.name):
        stored.take(np.array([8]))


def test_some_items_in_any_order_are_loaded(store):
    embeddings = store.embed(TEN, LetterEncoder(), config=CONFIG)
    some = IdMap(["i7", "i1", "i2"])
    loaded = store.load(some)
    assert loaded.ids == some
    np.testing.assert_array_equal(loaded.vectors, embeddings.on(some).vectors)
    with pytest.raises(DataError, match="1 items have no vector, such as x; embed them first"):
        store.load(IdMap(["i7", "x"]))


def test_update_loads_nothing_and_says_the_same(store):
    report = store.update(TEN, LetterEncoder(), config=CONFIG)
    assert report is store.report and report.n_encoded == 10 and len(store.load()) == 10
