import numpy as np
import pytest

from llm_tail.artifacts import read_artifact
from llm_tail.config import LoraConfig
from llm_tail.data.books import load_books
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.static import StaticEncoder
from llm_tail.embedding.text import ItemText
from llm_tail.errors import DataError
from tests.embedding.contracts import TEXTS, RuntimeContract


@pytest.fixture(scope="module")
def books():
    return ItemText().texts(load_books()[0])


class Remembering:
    """An encoder that encodes a list of texts once."""

    def __init__(self, encoder):
        self.encoder, self.known = encoder, {}
        self.config, self.max_tokens, self.model = encoder.config, encoder.max_tokens, encoder.model

    def encode(self, texts, progress=False):
        key = tuple(texts)
        if key not in self.known:
            self.known[key] = self.encoder.encode(texts)
        return self.known[key]


@pytest.fixture(scope="module")
def teacher(minilm):
    return Remembering(minilm)


@pytest.fixture(scope="module")
def taught(teacher, books):
    """Half of the books, and the table that was learned from them."""
    half = [text[:120] for text in books[::2]]
    return half, StaticEncoder.distill(teacher, half)


@pytest.fixture(scope="module")
def runtime(minilm):
    return StaticEncoder.distill(minilm, TEXTS)


class TestStatic(RuntimeContract):
    pass


def test_it_comes_near_to_its_teacher_on_texts_it_has_not_seen(teacher, books, taught):
    half, table = taught
    others = [text[:120] for text in books[1::8]]
    there, expected = table.encode(others), teacher.encode(others)
    assert (there * expected).sum(axis=1).mean() > 0.6
    # Who is near whom is what is used: better than the plain mean of the words' own vectors.
    plain = StaticEncoder.distill(teacher, half, ridge=1e9).encode(others)
    tied = np.triu_indices(len(others), 1)

    def agrees(vectors):
        return np.corrcoef((vectors @ vectors.T)[tied], (expected @ expected.T)[tied])[0, 1]

    assert agrees(there) > max(0.4, agrees(plain))


def test_it_says_how_well_it_agrees(taught, monkeypatch):
    assert 0.5 < taught[1].agreement < 1
    monkeypatch.setattr("llm_tail.embedding.static._tokens", lambda encoder: None)
    assert np.isnan(StaticEncoder.distill(_Teacher(), ["a b", "b c"]).agreement)


class _Teacher:
    """What distilling asks of an encoder; each word has its own direction, a text their sum."""

    class config:
        name = "letters"

    max_tokens = 9

    def encode(self, texts, progress=False):
        sums = np.array([[text.split().count(word) for word in "abcd"] for text in texts], dtype=np.float32)
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)


def test_a_teacher_that_adds_up_words_is_met(monkeypatch):
    monkeypatch.setattr("llm_tail.embedding.static._tokens", lambda encoder: None)
    texts = [f"{x} {y}" for x in "abcd" for y in "abcd" if x != y]
    table = StaticEncoder.distill(_Teacher(), texts, ridge=1e-3)
    np.testing.assert_allclose(table.encode(texts), _Teacher().encode(texts), atol=0.05)
    assert not len(table.pieces) and np.isfinite(table.encode(["a stranger"])).all()


def test_unknown_words_are_spelled_by_the_teachers_pieces(runtime):
    whale, other = runtime.encode(["sea mammals whales", "steel knives"])
    (unknown,) = runtime.encode(["dolphinarium"])
    assert "dolphinarium" not in runtime.words.words
    np.testing.assert_allclose(np.linalg.norm(unknown), 1, atol=1e-5)
    assert abs(float(unknown @ whale) - float(unknown @ other)) > 1e-3


def test_a_tuned_teacher_teaches_something_else(decoder_folder):
    base = Encoder.load(decoder_folder, precision="fp32")
    tuned = base.with_adapter(LoraConfig(rank=2))
    for name, weight in tuned.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.3)
    tuned.seal_adapter()
    texts = ["the whale hunts a ship", "captain of the ship", "iron pan", "egg fries"]
    one, other, merged = (StaticEncoder.distill(e, texts) for e in (base, tuned, tuned.merge()))
    assert one.fingerprint != other.fingerprint
    np.testing.assert_allclose(other.encode(texts), merged.encode(texts), atol=1e-4)


def test_a_larger_catalogue_teaches_by_a_part_of_its_texts(minilm):
    texts = [f"whale number {word}" for word in ("one", "two", "three", "four", "five", "six")]
    few = StaticEncoder.distill(minilm, texts, n_texts=2, n_words=4)
    assert len(few.words) == 4 and few.words.words[:2] == ["number", "whale"]


def test_there_have_to_be_words(minilm):
    with pytest.raises(DataError, match="usable word"):
        StaticEncoder.distill(minilm, ["", "?"])


def test_what_is_saved_is_no_pickle(runtime, tmp_path):
    files = {path.suffix for path in read_artifact(runtime.save(tmp_path / "r"), "runtime").data.iterdir()}
    assert files == {".safetensors", ".json"}
