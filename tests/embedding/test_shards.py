import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llm_tail.artifacts import MANIFEST
from llm_tail.config import EmbeddingConfig
from llm_tail.embedding.embeddings import Embeddings, unit
from llm_tail.embedding.known import text_keys
from llm_tail.embedding.shards import (
    Journal,
    empty_pack,
    ids_of,
    map_tensors,
    pack,
    read_manifest,
    repack,
    sweep,
    unpack,
    write_manifest,
    write_shard,
)
from llm_tail.errors import CorruptArtifactError, DataError

# Mean and least cosine of what comes back with what went in; both are stated, the second with room to spare.
ERRORS = {"float32": (0.0, 1e-7), "float16": (1e-6, 1e-6), "int8": (1e-4, 3e-4)}


def some_unit(n, dim, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((n, dim)))


def shard(folder, number=0, n=5, storage="float32", salt="salt"):
    keys = text_keys([f"text {i}" for i in range(n)], salt)
    tokens = np.arange(n) * 3
    packed = pack(some_unit(n, 8), storage)
    return write_shard(folder, number, salt, [f"i{i}" for i in range(n)], keys, tokens, packed, max_tokens=7)


@pytest.mark.parametrize("storage", ERRORS)
@pytest.mark.parametrize("dim", [16, 384, 1024])
def test_what_a_number_format_costs_in_cosine(storage, dim):
    vectors = some_unit(500, dim)
    back = unpack(pack(vectors, storage), storage)
    lost = 1 - np.einsum("ij,ij->i", vectors, back, dtype=np.float64)
    mean, most = ERRORS[storage]
    assert abs(lost.mean()) <= max(mean, 1e-7) and abs(lost).max() <= max(most, 2e-7)
    assert back.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("storage", "size"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_how_much_room_a_number_format_takes(storage, size):
    packed = pack(some_unit(10, 384), storage)
    assert packed["vectors"].nbytes == 10 * 384 * size
    assert sum(tensor.nbytes for tensor in packed.values()) == 10 * (384 * size + 4 * (storage == "int8"))


finite = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False),
)


@settings(max_examples=50, deadline=None)
@given(finite, st.sampled_from(list(ERRORS)))
def test_zero_stays_zero_and_the_rest_has_length_one(vectors, storage):
    vectors = unit(vectors)
    back = unpack(pack(vectors, storage), storage)
    lengths = np.linalg.norm(back.astype(np.float64), axis=1)
    zero = ~vectors.any(axis=1)
    assert (lengths[zero] == 0).all() and np.allclose(lengths[~zero], 1, atol=1e-5)
    again = pack(back, storage)
    assert np.abs(unpack(again, storage) - back).max(initial=0) < 2e-2


def test_repacked_as_it_was_is_the_same_and_cut_is_first_components(tmp_path):
    one = shard(tmp_path, storage="float16")
    tensors = map_tensors(tmp_path / one.file)
    packed = {"vectors": np.array(tensors["vectors"])}
    assert repack(packed, one, 8, "float16") is packed
    cut = unpack(repack(packed, one, 3, "int8"), "int8")
    right = unit(unpack(packed, "float16")[:, :3])
    assert cut.shape == (5, 3) and (np.einsum("ij,ij->i", cut, right) > 0.999).all()
    assert one.holds("salt", 8, "int8") and one.holds("salt", 3, "float16")
    assert not one.holds("salt", 9, "int8") and not one.holds("salt", 8, "float32") and not one.holds("s", 8, "int8")


def test_a_shard_on_disk(tmp_path):
    one = shard(tmp_path, number=7, storage="int8")
    data = (tmp_path / one.file).read_bytes()
    assert one.file.startswith("shard-00007-") and one.bytes == len(data)
    assert one.sha256 == hashlib.sha256(data).hexdigest() and one.is_sound(tmp_path)
    assert (one.n_items, one.n_tokens, one.n_truncated, one.n_lost) == (5, 30, 2, 7)
    tensors = map_tensors(tmp_path / one.file)
    assert ids_of(tensors) == [f"i{i}" for i in range(5)]
    assert {name: (t.dtype.str, t.shape) for name, t in tensors.items() if name != "ids"} == {
        "vectors": ("|i1", (5, 8)),
        "scales": ("<f4", (5,)),
        "keys": ("|u1", (5, 16)),
        "tokens": ("<u4", (5,)),
    }
    assert shard(tmp_path, number=7, storage="int8") == one and len(list(tmp_path.iterdir())) == 1
    (tmp_path / one.file).write_bytes(data[:-1] + b"\0\0")
    with pytest.raises(CorruptArtifactError, match=one.file):
        one.check(tmp_path)


def test_ids_in_all_scripts(tmp_path):
    ids = ["", "ключ", "鍵", 'a"b\\c', "\N{PILE OF POO}", "x\ny"]
    packed = empty_pack(len(ids), 2, "float32")
    one = write_shard(tmp_path, 0, "s", ids, text_keys(ids, "s"), np.zeros(6, np.int64), packed, max_tokens=0)
    assert ids_of(map_tensors(tmp_path / one.file)) == ids


def test_journal(tmp_path):
    journal, shards = Journal(tmp_path), [shard(tmp_path, number) for number in range(3)]
    assert journal.read() == []
    journal.start(shards[:1])
    journal.add(shards[1])
    journal.add(shards[2])
    assert journal.read() == shards
    with journal.path.open("a") as stream:
        stream.write('["0", {"file": "x"}]\n[1]\n{}\nnull\n"a"\n\xff\n["half')
    assert journal.read() == shards
    journal.remove()
    journal.remove()
    assert journal.read() == []


def test_the_manifest_is_written_only_where_it_changes(tmp_path):
    shards = [shard(tmp_path, number) for number in (1, 0)]
    facts = {"encoder": "e", "text": "t", "salt": "salt", "dim": 8, "storage": "float32", "max_tokens": 7}
    write_manifest(tmp_path, facts, shards)
    first = (tmp_path / MANIFEST).stat().st_mtime_ns, (tmp_path / MANIFEST).read_bytes()
    write_manifest(tmp_path, facts, shards[::-1])
    assert ((tmp_path / MANIFEST).stat().st_mtime_ns, (tmp_path / MANIFEST).read_bytes()) == first
    manifest = read_manifest(tmp_path)
    assert manifest["shards"] == shards[::-1] and manifest["n_items"] == 10 and manifest["n_lost"] == 14
    write_manifest(tmp_path, {**facts, "encoder": "f"}, shards)
    assert read_manifest(tmp_path)["generation"] != manifest["generation"]
    assert read_manifest(tmp_path / "none") is None


def test_sweep_takes_only_what_is_ours(tmp_path):
    one, other = shard(tmp_path, 0), shard(tmp_path, 1)
    for name in (".shard-00000-x.safetensors.part", f".{MANIFEST}.0a", "notes.txt", "shard-plan.md"):
        (tmp_path / name).touch()
    sweep(tmp_path, [other])
    assert {p.name for p in tmp_path.iterdir()} == {other.file, "notes.txt", "shard-plan.md"}
    assert not one.is_sound(tmp_path)


def test_mapped_tensors_are_those_that_safetensors_reads(tmp_path):
    from safetensors.numpy import load_file

    one = shard(tmp_path, storage="float16")
    mapped, loaded = map_tensors(tmp_path / one.file), load_file(tmp_path / one.file)
    assert mapped.keys() == loaded.keys()
    for name, tensor in loaded.items():
        np.testing.assert_array_equal(mapped[name], tensor)
        assert mapped[name].dtype == tensor.dtype


def test_embeddings_cut_to_their_first_components():
    vectors = some_unit(4, 6)
    embeddings = Embeddings("abcd", vectors, encoder="e")
    cut = embeddings.cut(2)
    np.testing.assert_allclose(cut.vectors, unit(vectors[:, :2]), atol=1e-7)
    assert cut.dim == 2 and cut.encoder == "e" and embeddings.cut(6) is embeddings
    for dim in (0, 7):
        with pytest.raises(DataError, match=f"6 wide and cannot be cut to {dim}; take 1 to 6"):
            embeddings.cut(dim)


def test_settings_of_storage():
    assert EmbeddingConfig().storage == "float32"
    with pytest.raises(ValueError, match=r"storage.*float64"):
        EmbeddingConfig(storage="float64")
    assert json.loads(json.dumps(EmbeddingConfig(storage="int8").model_dump()))["storage"] == "int8"
