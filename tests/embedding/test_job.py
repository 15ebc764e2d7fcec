"""What the store does when it is killed, changed, damaged or full, and what it says of it."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llm_tail.artifacts import MANIFEST, sha256
from llm_tail.config import EmbeddingConfig, TextConfig
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.engine import Encoded, LocalEngine, encode_shard
from llm_tail.embedding.shards import JOURNAL
from llm_tail.embedding.store import EmbeddingStore
from llm_tail.embedding.text import ItemText
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError

from .letters import CountingEncoder, LetterEncoder

ROOT = Path(__file__).parents[2]
CONFIG = EmbeddingConfig(shard_items=4)


def make(texts):
    return Catalog.from_items([{"item_id": f"i{i}", "title": t} for i, t in enumerate(texts)])


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore.open(tmp_path / "embeddings")


def contents(folder):
    return {path.name: sha256(path) for path in folder.iterdir()}


# ---- kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_anywhere_and_resumed_the_store_is_the_same_byte_for_byte():
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108  (thousands of syncs)
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        words = [sys.executable, "-m", "tests.embedding.killing", folder, "10", "7"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(one["killed"] for one in found) >= 20
    for one in found:
        assert one["equal"], one
        assert not one["twice"], one  # but for the shard in flight no text is encoded again
        assert not one["missing"], one
    assert any(one["n_after"] == 0 for one in found)  # among them kills between the last shard and the manifest


@pytest.mark.parametrize("torn", ["cut", "joined", "changed", "gone"])
def test_a_journal_that_is_not_whole_is_believed_as_far_as_it_is(store, torn):
    texts = [f"text {c}" for c in "abcdefghijklmnop"]

    class Dying(LetterEncoder):
        def encode(self, texts, **options):
            if len(self.seen) == 12:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        store.embed(make(texts), Dying(), config=CONFIG)
    path = store.folder / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    path.write_bytes(
        {
            "cut": b"".join(lines)[:-20],
            "joined": lines[0] + lines[1][:30] + lines[2],
            "changed": lines[0] + lines[1] + lines[2].replace(b'"n_items": 4', b'"n_items": 3'),
            "gone": b"",
        }[torn]
    )
    encoder = LetterEncoder()
    store.embed(make(texts), encoder, config=CONFIG)
    assert len(encoder.seen) == {"cut": 8, "joined": 12, "changed": 8, "gone": 16}[torn]
    assert not path.exists() and len(list(store.folder.glob("shard-*"))) == 4


# ---- changes


def test_one_changed_item_in_100_000_encodes_one_text_and_writes_one_shard(store):
    ids = pa.array([f"i{i}" for i in range(100_000)])
    titles = [f"the title of number {i}" for i in range(100_000)]
    encoder = CountingEncoder()
    report = store.update(Catalog(pa.table({"item_id": ids, "title": titles})), encoder)
    assert (report.n_encoded, report.n_written) == (100_000, 13)
    titles[56_789] = "a new one"
    report = store.update(Catalog(pa.table({"item_id": ids, "title": titles})), encoder)
    assert (report.n_encoded, report.n_written, report.n_reused) == (1, 1, 99_999)
    assert encoder.n_texts == 100_001


def test_new_items_and_another_order_move_nothing(store):
    rows = [{"item_id": f"i{i}", "title": f"text {i}"} for i in range(16)]
    store.embed(Catalog.from_items(rows), CountingEncoder(), config=CONFIG)
    before = contents(store.folder)
    mixed = Catalog.from_items([{"item_id": "first", "title": "new"}, *rows[::-1], {"item_id": "z", "title": "text 3"}])
    embeddings = store.embed(mixed, CountingEncoder(), config=CONFIG)
    after = contents(store.folder)
    assert (store.report.n_encoded, store.report.n_written) == (1, 1)
    assert {name: after.get(name) for name in before if name != MANIFEST} == {
        name: digest for name, digest in before.items() if name != MANIFEST
    }
    assert embeddings.ids == mixed.ids
    np.testing.assert_allclose(embeddings.vectors, CountingEncoder().encode(ItemText().texts(mixed)), atol=1e-6)


def test_a_deleted_item_goes_and_its_shard_alone_is_written(store):
    rows = [{"item_id": f"i{i}", "title": f"text {i}"} for i in range(16)]
    store.embed(Catalog.from_items(rows), CountingEncoder(), config=CONFIG)
    encoder = CountingEncoder()
    embeddings = store.embed(Catalog.from_items(rows[:5] + rows[6:]), encoder, config=CONFIG)
    assert encoder.n_texts == 0 and store.report.n_written == 1 and len(embeddings) == 15
    assert "i5" not in store.load().ids
    store.embed(Catalog.from_items(rows[8:]), encoder, config=CONFIG)  # two whole shards less, and nothing to write
    assert store.report.n_written == 0 and store.report.n_shards == 2


def test_many_small_shards_become_full_ones_by_themselves(store):
    rows = [{"item_id": f"i{i}", "title": f"text {i}"} for i in range(40)]
    counts = []
    for n in range(4, 41):
        store.update(Catalog.from_items(rows[:n]), encoder := CountingEncoder(), config=CONFIG)
        assert encoder.n_texts == (4 if n == 4 else 1)
        counts.append(store.report.n_shards)
    assert max(counts) < 20 and counts[-1] < 20


def test_compact_leaves_full_shards_and_the_same_vectors(store):
    rows = [{"item_id": f"i{i}", "title": f"text {i}"} for i in range(23)]
    store.embed(Catalog.from_items(rows), LetterEncoder(), config=CONFIG)
    kept = [row for i, row in enumerate(rows) if i % 4 != 1]
    catalog = Catalog.from_items([*kept, {"item_id": "new", "title": "new words"}, {"item_id": "e", "title": ""}])
    before = store.embed(catalog, LetterEncoder(), config=CONFIG)
    n_files = len(list(store.folder.glob("shard-*")))
    assert store.compact() == n_files - 5 == 2
    sizes = [shard.n_items for shard in store.open_vectors().shards]
    assert sorted(sizes) == [3, 4, 4, 4, 4] and len(list(store.folder.glob("shard-*"))) == 5
    np.testing.assert_array_equal(store.load(catalog).vectors, before.vectors)
    assert store.compact() == 0
    encoder = LetterEncoder()
    after = store.embed(catalog, encoder, config=CONFIG)
    assert encoder.seen == [] and store.report.n_written == 0
    np.testing.assert_array_equal(after.vectors, before.vectors)
    assert store.compact(shard_items=100) == 4 and len(store.load()) == len(catalog)
    assert store.compact(shard_items=7) == -2


def test_compact_of_nothing_and_of_damage(store):
    assert store.compact() == 0
    store.embed(make("abcdefghij"), LetterEncoder(), config=EmbeddingConfig(shard_items=3))
    victim = sorted(store.folder.glob("shard-*"))[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(CorruptArtifactError, match=victim.name):
        store.compact(shard_items=100)


def test_equal_texts_are_encoded_once_though_they_lie_in_many_shards_and_several_are_in_flight(store):
    class Eager(LocalEngine):
        """Takes three shards before it gives the first back, as an engine of several workers does."""

        def encode_shards(self, encoder, shards, *, batch_tokens=2048):
            waiting = []
            for texts in shards:
                waiting.append(texts)
                if len(waiting) == 3:
                    yield encode_shard(encoder, waiting.pop(0), batch_tokens)
            for texts in waiting:
                yield encode_shard(encoder, texts, batch_tokens)

    catalog = make(["same", "x", "y", "same", *["same", "z", "x"] * 5])
    other = EmbeddingStore.open(store.folder.parent / "other")
    for place, engine in ((store, Eager()), (other, None)):
        encoder = LetterEncoder()
        embeddings = place.embed(catalog, encoder, config=CONFIG, engine=engine)
        assert sorted(encoder.seen) == ["same", "x", "y", "z"]
        np.testing.assert_allclose(embeddings.vectors, encoder.encode(ItemText().texts(catalog)), atol=1e-6)
    assert contents(store.folder) == contents(other.folder)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("fewer", "stopped before the last shard"),
        ("more", "gave more results than there are shards"),
        ("narrow", r"vectors of shape \(4, 3\) for a shard, expected \(4, 26\)"),
    ],
)
def test_an_engine_that_breaks_its_word_is_named(store, engine, message):
    class Wrong:
        def encode_shards(self, encoder, shards, *, batch_tokens=2048):
            for texts in shards:
                done = encode_shard(encoder, texts)
                if engine == "fewer":
                    return
                yield Encoded(done.vectors[:, :3], done.tokens) if engine == "narrow" else done
                if engine == "more":
                    yield done

    with pytest.raises(DataError, match=message):
        store.embed(make("abcdefgh"), LetterEncoder(), config=CONFIG, engine=Wrong())
    assert len(store.embed(make("abcdefgh"), LetterEncoder(), config=CONFIG)) == 8


# ---- number formats and widths


def test_coarser_storage_and_narrower_vectors_need_no_encoding_and_finer_ones_do(store):
    catalog, text = make([f"{a}{b} words" for a in "abcde" for b in "xyz"]), ItemText()

    class Cut(LetterEncoder):
        def __init__(self, dim):
            super().__init__()
            self.dim, self.fingerprint, self.uncut_fingerprint = dim, f"letters-{dim}", "letters"

        def encode(self, texts, **options):
            vectors = super().encode(texts)[:, : self.dim]
            return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    for dim, storage, n_encoded in (
        (26, "float32", 15),
        (26, "float16", 0),
        (20, "int8", 0),
        (20, "float16", 15),
        (26, "float16", 15),
        (20, "float16", 0),
    ):
        encoder = Cut(dim)
        before = store.report
        embeddings = store.embed(catalog, encoder, text, EmbeddingConfig(shard_items=4, storage=storage))
        assert len(encoder.seen) == n_encoded, (dim, storage)
        assert ("too little for" in store.report.anew) == (n_encoded > 0 and before is not None)
        right = Cut(dim).encode(text.texts(catalog))
        assert embeddings.vectors.dtype == np.float32 and embeddings.dim == dim
        np.testing.assert_allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, atol=1e-6)
        assert (np.einsum("ij,ij->i", embeddings.vectors, right) > 0.9998).all()
        assert store.open_vectors().storage == storage


# ---- damage and others' stores


def test_a_flipped_byte_is_found_named_and_mended_to_the_same_bytes(store):
    catalog = make([f"text {i}" for i in range(40)])
    store.embed(catalog, LetterEncoder(), config=CONFIG)
    before = contents(store.folder)
    for victim in sorted(store.folder.glob("shard-*"))[::3]:
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 4
        victim.write_bytes(data)
        with pytest.raises(CorruptArtifactError, match=f"{victim.name}.*only this file is made anew"):
            store.load()
        encoder = LetterEncoder()
        store.embed(catalog, encoder, config=CONFIG)
        assert store.report.damaged == [victim.name] and store.report.n_written == 1 and len(encoder.seen) == 4
        assert victim.name in str(store.report)
        assert contents(store.folder) == before


def test_another_encoder_or_template_is_named_with_both_fingerprints(store):
    catalog, text = make("abcdef"), ItemText()
    store.embed(catalog, LetterEncoder("v1"), text, CONFIG)
    assert len(store.load(expect=LetterEncoder("v1"), text=text)) == 6
    with pytest.raises(StaleArtifactError, match=r"another encoder \(fingerprint letters-v1, expected letters-v2\)"):
        store.load(expect=LetterEncoder("v2"))
    with pytest.raises(StaleArtifactError, match=r"letters-v1, expected letters-v3\); run: llm-tail embed"):
        store.open_vectors(expect="letters-v3")
    other = ItemText(TextConfig(separator=" "))
    with pytest.raises(StaleArtifactError, match=rf"{text.fingerprint()}, expected {other.fingerprint()}"):
        store.load(text=other)
    store.embed(catalog, LetterEncoder("v2"), text, CONFIG)
    assert "all is made anew: what was there was made with encoder letters-v1, now letters-v2" in str(store.report)
    store.embed(catalog, LetterEncoder("v2"), other, CONFIG)
    assert f"text template {text.fingerprint()}, now {other.fingerprint()}" in str(store.report)
    store.embed(catalog, LetterEncoder("v2"), other, CONFIG)
    assert store.report.anew == ""


def test_a_store_of_an_older_version_is_made_anew_with_a_word(store):
    store.folder.mkdir()
    (store.folder / "shard-00000-0123456789ab.safetensors").write_bytes(b"old")
    (store.folder / MANIFEST).write_text(json.dumps({"kind": "embedding-store", "format": 1, "complete": None}))
    with pytest.raises(StaleArtifactError, match=r"has the format 1, expected 2.*run: llm-tail embed"):
        store.load()
    assert len(store.embed(make("abc"), LetterEncoder(), config=CONFIG)) == 3
    assert "another version of llm_tail wrote what was there" in str(store.report)
    assert len(list(store.folder.iterdir())) == 2


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits of file size")
@pytest.mark.parametrize("limit", [100, 1500])
def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(store, limit):
    before = store.embed(make("abcdefgh"), LetterEncoder(), config=CONFIG)
    files = contents(store.folder)
    limits, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        with pytest.raises(OSError) as caught:
            store.embed(make(["abc", "def"] * 400), LetterEncoder(), config=EmbeddingConfig(shard_items=400))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, heard)
    assert caught.value.errno == errno.EFBIG
    after = contents(store.folder)
    assert {name: after[name] for name in files} == files and not list(store.folder.glob(".*"))
    np.testing.assert_array_equal(store.load().vectors, before.vectors)


# ---- texts


def test_texts_that_are_huge_empty_or_none(store):
    megabyte = "word " * 200_000
    catalog = make(["a", megabyte, "", "  ", "\N{PILE OF POO} and \N{GREEK SMALL LETTER ALPHA}"])
    embeddings = store.embed(catalog, LetterEncoder(), config=CONFIG)
    assert store.report.n_shortened == 1 and store.report.n_empty == 2
    assert "1 cut at text.max_chars" in str(store.report)
    assert np.linalg.norm(embeddings.vectors, axis=1).round(5).tolist() == [1, 1, 0, 0, 1]


def test_bytes_are_no_text_and_numbers_are_words(store):
    table = pa.table({"item_id": ["a"], "title": ["x"], "blob": [b"\xff\x00"], "year": [1815]})
    with pytest.raises(DataError, match=r"holds bytes \(b'\\xff\\x00'\), expected text"):
        store.embed(Catalog(table), LetterEncoder(), ItemText(TextConfig(fields=["title", "blob"])))
    with pytest.raises(DataError, match="'title' has the type binary, expected text"):
        Catalog(pa.table({"item_id": ["a"], "title": [b"\xff"]}))
    assert len(store.embed(Catalog(table), LetterEncoder(), ItemText(TextConfig(fields=["year", "title"])))) == 1


def test_two_items_with_one_id_are_refused_before_anything_is_encoded():
    with pytest.raises(DataError, match="item ids must be distinct; these stand more than once: a"):
        Catalog.from_items([{"item_id": "a", "title": "x"}, {"item_id": "a", "title": "y"}])


def test_what_is_cut_is_counted_for_the_whole_catalogue_and_kept(store):
    encoder = CountingEncoder(max_tokens=4)
    catalog = make(["one two", "one two three four five six", "seven", "", "one two three four five six"])
    report = store.update(catalog, encoder, config=CONFIG)
    assert (report.n_tokens, report.n_truncated, report.n_lost, report.max_tokens) == (15, 2, 4, 4)
    assert report.lost_share == pytest.approx(4 / 15)
    assert "2 cut at 4 tokens (26.7% of all lost)" in str(report)
    again = store.update(catalog, encoder, config=CONFIG)  # nothing is encoded, and it is still known
    assert (again.n_encoded, again.n_truncated, again.n_lost) == (0, 2, 4)
    manifest = json.loads((store.folder / MANIFEST).read_text())
    assert (manifest["n_tokens"], manifest["n_truncated"], manifest["n_lost"]) == (15, 2, 4)
    assert encoder.n_counted == 0  # the tokenizer ran once, while encoding


def test_memory_does_not_grow_with_the_catalogue(store):
    """Texts, vectors and keys of a shard are let go before the next but one is planned."""
    seen = []

    class Watching(LocalEngine):
        def encode_shards(self, encoder, shards, *, batch_tokens=2048):
            for texts in shards:
                seen.append(sum(len(t) for t in texts))
                yield encode_shard(encoder, texts, batch_tokens)
                del texts

    store.update(make([f"text {i}" for i in range(100)]), LetterEncoder(), config=CONFIG, engine=Watching())
    assert len(seen) == 25 and max(seen) <= 4 * len("text 99")
