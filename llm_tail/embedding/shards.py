"""Shards: the files of a store, how vectors lie in them, and the manifest and journal that name them.

::

    embeddings/
    ├── manifest.json                          encoder, template, width, storage, each shard with its sha256
    ├── journal.jsonl                          only while a job is under way: the shards that it has written so far
    ├── shard-00000-4f0c2a91d3e4.safetensors   ids, vectors, text hashes and token counts of up to 8,192 items
    └── ...

A shard is written under another name, synced and renamed; then the journal gets its line; the manifest comes last.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from llm_tail.artifacts import MANIFEST, fingerprint, replacing, sha256, write_json
from llm_tail.embedding.embeddings import Vectors, unit
from llm_tail.embedding.known import Keys
from llm_tail.errors import CorruptArtifactError, StaleArtifactError

KIND, FORMAT = "embedding-store", 2
JOURNAL = "journal.jsonl"
FINENESS = {"int8": 0, "float16": 1, "float32": 2}
_DTYPES = {"F32": "<f4", "F16": "<f2", "I8": "i1", "U8": "u1", "U32": "<u4"}
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Shard:
    """What manifest and journal say of one file.

    Parameters
    ----------
    file : str
        Its name.
    number : int
        Its place in the order of the store.
    n_items, bytes : int
        Its items and its size.
    sha256 : str
        Digest of all its bytes.
    salt : str
        Digest of encoder and template; texts have equal keys only under equal salts.
    dim : int
        The width of its vectors.
    storage : str
        The number format of its vectors.
    n_tokens, n_truncated, n_lost : int
        Tokens of its texts, texts that were cut, tokens that were cut off; 0 where the encoder cannot say.
    """

    file: str
    number: int
    n_items: int
    bytes: int
    sha256: str
    salt: str
    dim: int
    storage: str
    n_tokens: int
    n_truncated: int
    n_lost: int

    def is_sound(self, folder: Path) -> bool:
        """Say whether the file is there and is what was written; reads all of it."""
        path = folder / self.file
        return path.is_file() and path.stat().st_size == self.bytes and bool(sha256(path) == self.sha256)

    def check(self, folder: Path) -> None:
        """Raise `CorruptArtifactError` where the file is not what was written."""
        if not self.is_sound(folder):
            raise CorruptArtifactError(
                f"{folder / self.file} is missing or not what was written",
                "run: llm-tail embed (only this file is made anew)",
            )

    def holds(self, salt: str, dim: int, storage: str) -> bool:
        """Say whether its vectors can become those that are asked for: no encoding is needed to make them coarser."""
        return self.salt == salt and self.dim >= dim and FINENESS[self.storage] >= FINENESS[storage]


# ---- number formats


def pack(vectors: Vectors, storage: str) -> Tensors:
    """Return unit vectors as they are stored.

    ``float32`` as they are, ``float16`` rounded, ``int8`` as whole numbers q and a scale max|v| / 127 for each vector,
    so that v is about scale * q.

    Examples
    --------
    >>> packed = pack(np.array([[0.6, -0.8]], dtype=np.float32), "int8")
    >>> packed["vectors"].tolist(), unpack(packed, "int8").round(2).tolist()
    ([[95, -127]], [[0.6000000238418579, -0.800000011920929]])
    """
    if storage != "int8":
        return {"vectors": vectors.astype(_number_type(storage), copy=False)}
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / 127.0).astype(np.float32)  # (n,)
    steps = np.rint(vectors / np.where(scales > 0, scales, 1.0)[:, None])  # (n, dim)
    return {"vectors": steps.astype(np.int8), "scales": scales}


def unpack(packed: Tensors, storage: str) -> Vectors:
    """Return what `pack` made as float32 unit vectors, shape (n, dim)."""
    vectors = packed["vectors"]
    if storage == "float32":
        return np.asarray(vectors, dtype=np.float32)
    return unit(vectors if storage == "float16" else vectors * packed["scales"][:, None])


def repack(packed: Tensors, shard: Shard, dim: int, storage: str) -> Tensors:
    """Return what a shard holds in another width or number format; byte for byte the same where neither differs."""
    if (shard.dim, shard.storage) == (dim, storage):
        return packed
    vectors = unpack(packed, shard.storage)
    return pack(vectors if shard.dim == dim else unit(vectors[:, :dim]), storage)


def names_of(storage: str) -> tuple[str, ...]:
    """Return the tensors that `pack` makes."""
    return ("vectors", "scales") if storage == "int8" else ("vectors",)


def empty_pack(n_items: int, dim: int, storage: str) -> Tensors:
    """Return `pack` of zero vectors."""
    return pack(np.zeros((n_items, dim), dtype=np.float32), storage)


def _number_type(storage: str) -> str:
    return {"float32": "<f4", "float16": "<f2"}[storage]


# ---- files


def map_tensors(path: Path) -> Tensors:
    """Return the tensors of a safetensors file where they lie: memory-mapped, read when they are looked at."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    length = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + length].tobytes())
    tensors = {}
    for name, facts in header.items():
        if name != "__metadata__":
            start, stop = (8 + length + offset for offset in facts["data_offsets"])
            tensors[name] = data[start:stop].view(_DTYPES[facts["dtype"]]).reshape(facts["shape"])
    return tensors


def ids_of(tensors: Tensors) -> list[str]:
    """Return the item ids of a shard."""
    return cast(list[str], json.loads(tensors["ids"].tobytes()))


def shard_name(number: int, salt: str, dim: int, storage: str, ids: Sequence[str], keys: Keys) -> str:
    """Return the name of the file that holds these items: equal names mean equal contents."""
    content = fingerprint(salt, dim, storage, keys, json.dumps(list(ids)))[:12]
    return f"shard-{number:05d}-{content}.safetensors"


def write_shard(
    folder: Path,
    number: int,
    salt: str,
    ids: Sequence[str],
    keys: Keys,
    tokens: NDArray[np.int64],
    packed: Tensors,
    *,
    max_tokens: int,
) -> Shard:
    """Write a shard so that it is there whole or not at all, and return what the manifest says of it."""
    dim = packed["vectors"].shape[1]
    storage = {"f4": "float32", "f2": "float16", "i1": "int8"}[packed["vectors"].dtype.str[1:]]
    blob = np.frombuffer(json.dumps(list(ids), ensure_ascii=False).encode("utf-8", "surrogatepass"), dtype=np.uint8)
    data = save({"ids": blob, "keys": keys, "tokens": tokens.astype(np.uint32), **packed})
    file = shard_name(number, salt, dim, storage, ids, keys)
    temporary = folder / f".{file}.part"
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(folder / file)
    finally:
        temporary.unlink(missing_ok=True)  # a full disk shall not stay full
    lost = np.maximum(tokens - max_tokens, 0) if max_tokens else np.zeros_like(tokens)
    return Shard(
        file,
        number,
        len(ids),
        len(data),
        hashlib.sha256(data).hexdigest(),
        salt,
        int(dim),
        storage,
        n_tokens=int(tokens.sum()),
        n_truncated=int((lost > 0).sum()),
        n_lost=int(lost.sum()),
    )


class Journal:
    """The shards that a job under way has written, a line each; what a crash leaves half-written is not believed.

    Parameters
    ----------
    folder : Path
        The folder of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL

    def read(self) -> list[Shard]:
        """Return what it lists; lines that are no whole ones are passed over."""
        found = []
        for line in self.path.read_bytes().splitlines() if self.path.is_file() else []:
            try:
                digest, facts = json.loads(line)
                if digest == fingerprint(facts):
                    found.append(Shard(**facts))
            except (ValueError, TypeError):
                continue
        return found

    def start(self, shards: Iterable[Shard]) -> None:
        """Begin anew with what an earlier job left: a second crash shall not lose it."""
        with replacing(self.path) as temporary:
            temporary.write_text("".join(map(_line, shards)), encoding="utf-8")

    def add(self, shard: Shard) -> None:
        """Note a shard once its file is there."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(shard))
            stream.flush()
            os.fsync(stream.fileno())

    def remove(self) -> None:
        """End: the manifest has taken its place."""
        self.path.unlink(missing_ok=True)


def _line(shard: Shard) -> str:
    facts = asdict(shard)
    return json.dumps([fingerprint(facts), facts]) + "\n"


# ---- the manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest with its ``shards`` as `Shard`, or None where there is none.

    Raises
    ------
    CorruptArtifactError
        If it cannot be read, or says something else than was written.
    StaleArtifactError
        If the folder holds something else, or another version wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    remedy = f"remove the folder {folder}, then run: llm-tail embed"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind, found = manifest["kind"], manifest.get("format")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(f"{path} is no readable manifest ({error})", remedy) from error
    if kind != KIND:
        raise StaleArtifactError(f"{folder} holds a {kind}, expected an {KIND}; name another folder")
    if found != FORMAT:
        raise StaleArtifactError(
            f"{folder} has the format {found}, expected {FORMAT}; another version of llm_tail wrote it; "
            "run: llm-tail embed (all is made anew)"
        )
    if manifest.pop("digest", None) != fingerprint(manifest):
        raise CorruptArtifactError(f"{path} is not what was written", remedy)
    manifest["shards"] = [Shard(**facts) for facts in manifest["shards"]]
    return cast(dict[str, Any], manifest)


def write_manifest(folder: Path, facts: dict[str, Any], shards: Sequence[Shard]) -> None:
    """Write the manifest, unless the very same one is there; readers see the old one or the new one."""
    listed = [asdict(shard) for shard in sorted(shards, key=lambda shard: shard.number)]
    tokens = {name: sum(shard[name] for shard in listed) for name in ("n_tokens", "n_truncated", "n_lost")}
    whole = {"n_items": sum(shard["n_items"] for shard in listed), **facts, **tokens, "shards": listed}
    manifest = {"kind": KIND, "format": FORMAT, "generation": fingerprint(whole), **whole}
    manifest["digest"] = fingerprint(manifest)
    try:
        if json.loads((folder / MANIFEST).read_text(encoding="utf-8")) == manifest:
            return
    except (OSError, ValueError):
        pass
    write_json(folder / MANIFEST, manifest)


def sweep(folder: Path, kept: Iterable[Shard]) -> None:
    """Remove what no manifest names: shards of older jobs, and what a crash left half-written."""
    names = {shard.file for shard in kept}
    for pattern in ("shard-*.safetensors", ".shard-*.part", f".{MANIFEST}.*", f".{JOURNAL}.*"):
        for path in folder.glob(pattern):
            if path.name not in names:
                path.unlink(missing_ok=True)
