import contextlib
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import save_file

from llm_tail import artifacts
from llm_tail.artifacts import fingerprint, read_artifact, read_manifest, replacing, write_artifact, write_json
from llm_tail.errors import CorruptArtifactError, StaleArtifactError

WORDS = {"a.txt": b"first words", "deep/b.bin": bytes(range(256))}


def write(folder, words=WORDS, mark="v1", **facts):
    with write_artifact(folder, "thing", fingerprint(mark), facts) as draft:
        for name, data in words.items():
            draft.file(name).write_bytes(data)
    return folder


def read(folder, mark="v1"):
    artifact = read_artifact(folder, "thing", fingerprint(mark), stage="llm-tail thing")
    return {name: artifact.file(name).read_bytes() for name in WORDS}


def test_what_was_written_is_read(tmp_path):
    write(tmp_path / "x", n=3, where=Path("p"), odd={1: (2, 3), 10: None})
    assert read(tmp_path / "x") == WORDS
    artifact = read_artifact(tmp_path / "x", "thing")
    assert artifact.facts == {"n": 3, "where": "p", "odd": {"1": [2, 3], "10": None}}
    assert artifact.kind == "thing"
    assert artifact.fingerprint == fingerprint("v1")


def test_a_new_one_takes_the_place_of_the_old_and_leaves_nothing(tmp_path):
    write(tmp_path)
    new = {name: data[::-1] for name, data in WORDS.items()}
    write(tmp_path, new, "v2")
    assert read(tmp_path, "v2") == new
    assert sorted(p.name for p in tmp_path.iterdir()) == [read_artifact(tmp_path, "thing").data.name, "manifest.json"]


def test_facts_may_be_added_in_the_block(tmp_path):
    with write_artifact(tmp_path, "thing", "f") as draft:
        draft.facts["late"] = True
    assert read_artifact(tmp_path, "thing").facts == {"late": True}


# ---- what can go wrong while writing


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["os.fsync", "json.dump", "Path.replace", "sha256"])
def test_a_full_disk_leaves_the_old_one_whole(tmp_path, monkeypatch, where):
    write(tmp_path)
    target = {"os.fsync": (os, "fsync"), "json.dump": (json, "dump"), "Path.replace": (Path, "replace")}
    monkeypatch.setattr(*target.get(where, (artifacts, "sha256")), full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, {"a.txt": b"new"}, "v2")
    monkeypatch.undo()
    assert read(tmp_path) == WORDS
    assert len(list(tmp_path.iterdir())) == 2  # the manifest and one generation


def test_a_full_disk_under_safetensors_is_an_os_error_too(tmp_path):
    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    write(tmp_path)
    with pytest.raises(OSError, match="No space left") as caught, write_artifact(tmp_path, "thing", "new"):
        raise SafetensorError(message)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(SafetensorError), write_artifact(tmp_path, "thing", "new"):
        raise SafetensorError("a tensor of no known type")
    assert read(tmp_path) == WORDS and len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_gone_is_an_os_error_of_safetensors_too(tmp_path):
    with pytest.raises(FileNotFoundError), write_artifact(tmp_path, "thing", "new") as draft:
        draft.data.rmdir()
        save_file({"a": np.ones(3)}, draft.data / "a.safetensors")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_a_stop_in_the_block_leaves_the_old_one_whole(tmp_path, error):
    write(tmp_path)
    with pytest.raises(error), write_artifact(tmp_path, "thing", "new") as draft:
        draft.file("a.txt").write_text("half")
        raise error
    assert read(tmp_path) == WORDS
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stop_before_there_was_any_leaves_none(tmp_path):
    with pytest.raises(KeyboardInterrupt), write_artifact(tmp_path / "x", "thing", "new"):
        raise KeyboardInterrupt
    assert read_manifest(tmp_path / "x") is None
    assert list((tmp_path / "x").iterdir()) == []


def test_a_stop_just_after_the_manifest_keeps_what_it_names(tmp_path, monkeypatch):
    write(tmp_path)

    def stop(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, "_sync_folder", stop)
    new = {name: data[::-1] for name, data in WORDS.items()}
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, new, "v2")
    monkeypatch.undo()
    assert read(tmp_path, "v2") == new
    write(tmp_path)  # and the next one clears up
    assert len(list(tmp_path.iterdir())) == 2


def test_a_crash_at_any_call_leaves_the_old_one_or_the_new(tmp_path, monkeypatch):
    """Count the calls that touch the disk, then fail at each of them in turn."""
    new = {name: data[::-1] for name, data in WORDS.items()}
    names = [(os, "fsync"), (artifacts, "sha256"), (json, "dump"), (Path, "replace"), (artifacts, "_sync_folder")]
    for crash_at in range(40):
        folder = write(tmp_path / str(crash_at))
        calls = 0
        with monkeypatch.context() as patch:
            for owner, name in names:
                real = getattr(owner, name)

                def counted(*args, _real=real, _crash_at=crash_at, **kwargs):
                    nonlocal calls
                    calls += 1
                    if calls == _crash_at + 1:
                        full_disk()
                    return _real(*args, **kwargs)

                patch.setattr(owner, name, counted)
            try:
                write(folder, new, "v2")
                crashed = False
            except OSError:
                crashed = True
        marks = {fingerprint("v1"): WORDS, fingerprint("v2"): new}
        artifact = read_artifact(folder, "thing")
        assert {n: artifact.file(n).read_bytes() for n in WORDS} == marks[artifact.fingerprint]
        if not crashed:
            assert calls >= 7
            break
    assert not crashed


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_takes_the_place_of_another_is_whole_or_not_there(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"), replacing(path) as whole:
        whole.write_text("ne")
        full_disk()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with replacing(path) as whole:
        whole.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


# ---- what can go wrong on disk


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_never_goes_unseen(tmp_path_factory, data):
    folder = write(tmp_path_factory.mktemp("a"), note="some words")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(files), label="file")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1), label="place")
    old = bytes(content[place : place + 1])
    content[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    path.write_bytes(content)
    if path.name == "manifest.json" and old.isspace():
        with contextlib.suppress(CorruptArtifactError):  # other space between two values says nothing
            assert read(folder) == WORDS
        return
    with pytest.raises(CorruptArtifactError):
        read(folder)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_that_lost_its_end_never_goes_unseen(tmp_path_factory, data):
    folder = write(tmp_path_factory.mktemp("a"))
    path = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CorruptArtifactError, match="remove the folder"):
        read(folder)


def test_a_lost_file_is_named_with_what_to_do(tmp_path):
    write(tmp_path)
    (read_artifact(tmp_path, "thing").data / "a.txt").unlink()
    with pytest.raises(
        CorruptArtifactError, match=r"a\.txt is missing; remove the folder .*, then run: llm-tail thing"
    ):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"kind": "thing"}', "\udcff", "NaN", '"x"'])
def test_a_manifest_that_is_none_is_corrupt(tmp_path, text):
    write(tmp_path)
    (tmp_path / "manifest.json").write_bytes(text.encode("utf8", "surrogateescape"))
    with pytest.raises(CorruptArtifactError, match=r"manifest\.json"):
        read(tmp_path)


def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    path = tmp_path / "a" / "manifest.json"
    outside = read_artifact(tmp_path / "b", "thing").data.name
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "generation": f"../b/{outside}"}))
    with pytest.raises(CorruptArtifactError, match="not what was written"):
        read(tmp_path / "a")


def test_other_inputs_and_other_kinds_are_stale(tmp_path):
    with pytest.raises(StaleArtifactError, match=r"there is no thing at .* yet; run: llm-tail thing"):
        read(tmp_path)
    write(tmp_path)
    with pytest.raises(StaleArtifactError, match=r"made from other inputs or settings .*run: llm-tail thing"):
        read(tmp_path, "v2")
    with pytest.raises(StaleArtifactError, match="holds a thing, expected a graph; make it again"):
        read_artifact(tmp_path, "graph")


def test_another_format_is_stale(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "FORMAT", 0)
        write(tmp_path)
    with pytest.raises(StaleArtifactError, match="has the format 0, expected 1"):
        read(tmp_path)


# ---- fingerprints

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)


@given(value=values)
def test_equal_values_have_equal_fingerprints(value):
    again = json.loads(json.dumps(value))
    assert fingerprint(value) == fingerprint(again)
    assert fingerprint(value) != fingerprint(value, None)
    assert len(fingerprint(value)) == 16


@given(one=values, two=values)
def test_other_values_have_other_fingerprints(one, two):
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (fingerprint(one) == fingerprint(two)) == same


def test_fingerprints_of_arrays():
    grid = np.arange(6.0).reshape(2, 3)
    assert fingerprint(grid) == fingerprint(np.asfortranarray(grid)) == fingerprint(grid.copy())
    others = [grid.T, grid.ravel(), grid.astype("f4"), grid.astype(">f8"), grid + 1e-16 + 1, grid[:0], np.float64(1.0)]
    others += [np.zeros(()), np.array(["2020"], dtype="M8[s]"), np.array([True]), np.array(["ab"]), np.array(["a"])]
    others += [np.array(x, dtype=object) for x in (["a\0b", "c"], ["a", "b\0c"], ["\ud800"], [1, None])]
    prints = [fingerprint(x) for x in [grid, *others]]
    assert len(set(prints)) == len(prints)


def test_a_path_stands_for_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(str(tmp_path / "a"))
