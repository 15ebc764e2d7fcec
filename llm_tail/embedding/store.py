"""EmbeddingStore and Embeddings: vectors of a catalogue, on disk and in hand."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from llm_tail.artifacts import MANIFEST, disk_errors, fingerprint, sha256, write_json
from llm_tail.config import EmbeddingConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.embedding.text import CountsTokens, ItemText, token_report
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.progress import Bar

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Keys = NDArray[np.bytes_]
_KEY_BYTES = 16  # of a text's hash: two of 10^9 texts are equal with a chance below 10^-20


class Embeddings:
    """One vector for each item, of unit length; an item without any text has the zero vector.

    Parameters
    ----------
    ids : IdMap or iterable of str
        The items.
    vectors : array, shape (n_items, dim)
        Finite; every row that is not zero is scaled to length 1 (float32).
    encoder : str
        Fingerprint of the encoder that made them.

    Raises
    ------
    DataError
        If the shape does not fit the ids or a value is not finite.

    Examples
    --------
    >>> Embeddings(["a", "b"], np.array([[3.0, 4.0], [0.0, 0.0]])).vectors.round(2).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """

    def __init__(self, ids: IdMap | Iterable[str], vectors: NDArray[Any], *, encoder: str = "") -> None:
        self.ids = ids if isinstance(ids, IdMap) else IdMap(ids)
        array = np.asarray(vectors, dtype=np.float32)
        if array.ndim != 2 or array.shape[0] != len(self.ids) or array.shape[1] == 0:
            raise DataError(f"vectors have shape {array.shape}, expected ({len(self.ids)}, dim)")
        lengths = np.linalg.norm(array, axis=1, keepdims=True)  # (n_items, 1)
        if not np.isfinite(lengths).all():
            raise DataError(f"{int((~np.isfinite(lengths)).sum())} vectors hold NaN or infinite values")
        off = np.abs(lengths - 1.0) > 1e-6
        if (off & (lengths > 0)).any():
            array = np.divide(array, lengths, out=np.zeros_like(array), where=lengths > 0)
        self.vectors: Vectors = array
        self.encoder = encoder

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return int(self.vectors.shape[1])

    def on(self, items: IdMap | Catalog) -> Embeddings:
        """Return the vectors in the order of `items`; every one of these needs a vector here."""
        ids = items if isinstance(items, IdMap) else items.ids
        if ids == self.ids:
            return self
        rows = self.ids.rows(ids.values)
        if (rows < 0).any():
            missing = ", ".join(ids.values[rows < 0][:3])
            raise DataError(f"{int((rows < 0).sum())} items have no vector, such as {missing}; embed them first")
        return Embeddings(ids, self.vectors[rows], encoder=self.encoder)

    def fingerprint(self) -> str:
        """Return a digest of ids and vectors."""
        return fingerprint(self.ids.values, self.vectors)

    def __getitem__(self, item_id: str) -> Vectors:
        vector: Vectors = self.vectors[self.ids.row(item_id)]
        return vector

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Embeddings({len(self):,} x {self.dim})"


class TextEncoder(Protocol):
    """What the store asks of an encoder; `llm_tail.embedding.encoder.Encoder` is one."""

    @property
    def dim(self) -> int:
        """The width of a vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that a vector depends on besides its text."""
        ...

    def encode(self, texts: Sequence[str], *, kind: Any = "document", batch_tokens: int = 2048) -> Vectors:
        """Return unit vectors, shape (n_texts, dim)."""
        ...


@dataclass
class EmbedReport:
    """What one call of `EmbeddingStore.embed` did.

    Parameters
    ----------
    n_items : int
        Items of the catalogue; ``n_encoded + n_reused + n_empty``.
    n_encoded : int
        Texts that went through the encoder, each once however many items share it.
    n_reused : int
        Items whose vector was there already, from before or from an equal text.
    n_empty : int
        Items without words; they have the zero vector.
    n_truncated : int
        Encoded texts that were cut at the encoder's limit; 0 where the encoder cannot say.
    damaged : list of str
        Files of the store that were not what had been written, and were made anew.
    seconds, texts_per_s : float
        Wall time, and encoded texts a second of it.
    """

    n_items: int = 0
    n_encoded: int = 0
    n_reused: int = 0
    n_empty: int = 0
    n_truncated: int = 0
    damaged: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def texts_per_s(self) -> float:
        """Encoded texts a second."""
        return self.n_encoded / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        damaged = f", {len(self.damaged)} damaged files made anew" if self.damaged else ""
        return (
            f"{self.n_items:,} items: {self.n_encoded:,} texts encoded ({self.n_truncated:,} cut), {self.n_reused:,} "
            f"reused, {self.n_empty:,} empty, {self.seconds:.1f} s, {self.texts_per_s:,.0f} texts/s{damaged}"
        )


class EmbeddingStore:
    """The vectors of a catalogue on disk: in shards, each written once it is done, so that a job can be resumed.

    ::

        embeddings/
        ├── manifest.json                      the last complete job, and the one under way
        ├── shard-00000-4f0c2a91d3e4.safetensors   ids, text hashes and vectors of 8,192 items
        └── ...

    A vector is kept under the hash of its text, the text template and the encoder: what has not changed is not
    encoded again, wherever it stands in the catalogue. One process may write at a time.

    Parameters
    ----------
    folder : Path
        Where it lies; made by the first `embed`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.report: EmbedReport | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a store, which may be empty or not be there yet."""
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file, expected a folder for embeddings; name another place")
        return cls(folder)

    def embed(
        self,
        catalog: Catalog,
        encoder: TextEncoder,
        text: ItemText | None = None,
        config: EmbeddingConfig | None = None,
    ) -> Embeddings:
        """Return a vector for each item, encoding only what is not in the store yet.

        Parameters
        ----------
        catalog : Catalog
            The items; those that the store has and the catalogue has not are dropped.
        encoder : TextEncoder
            What makes vectors of texts.
        text : ItemText, optional
            What makes a text of an item.
        config : EmbeddingConfig, optional
            Sizes of batches and shards.

        Raises
        ------
        DataError
            If no item at all has a text, or the encoder yields something else than finite vectors of its width.

        Notes
        -----
        ``self.report`` says what was done. After a crash the next call goes on where it was; the shard in flight is
        lost. Memory: one shard of texts and vectors, 16 bytes an item, and at the end all vectors.
        """
        job = _Job(self, catalog, encoder, text or ItemText(), config or EmbeddingConfig())
        self.report = job.run()
        return self.load()

    def load(self) -> Embeddings:
        """Return the vectors of the last complete job; every shard is checked against its digest first.

        Raises
        ------
        StaleArtifactError
            If no job has been completed here.
        CorruptArtifactError
            If a shard is missing or damaged; `embed` makes only that one anew.
        """
        job = self._manifest().get("complete")
        if job is None:
            raise StaleArtifactError(f"there are no complete embeddings at {self.folder}; run: llm-tail embed")
        vectors = np.empty((sum(s["n_items"] for s in job["shards"]), job["dim"]), dtype=np.float32)  # (n_items, dim)
        ids: list[str] = []
        for shard in job["shards"]:
            if not self._sound(shard):
                raise CorruptArtifactError(
                    f"{self.folder / shard['file']} is missing or not what was written",
                    "run: llm-tail embed (only this file is made anew)",
                )
            tensors = self._read(shard["file"], "ids", "vectors")
            vectors[len(ids) : len(ids) + shard["n_items"]] = tensors["vectors"]
            ids.extend(json.loads(tensors["ids"].tobytes()))
        return Embeddings(ids, vectors, encoder=job["encoder"])

    def _manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        if not path.is_file():
            return {}
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["kind"] != "embedding-store":
                raise StaleArtifactError(f"{self.folder} holds a {manifest['kind']}, expected an embedding-store")
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptArtifactError(
                f"{path} is no readable manifest ({error})",
                f"remove the folder {self.folder}, then run: llm-tail embed",
            ) from error
        if manifest.pop("digest", None) not in (None, fingerprint(manifest)):
            raise CorruptArtifactError(
                f"{path} is not what was written", f"remove the folder {self.folder}, then run: llm-tail embed"
            )
        return cast(dict[str, Any], manifest)

    def _sound(self, shard: dict[str, Any]) -> bool:
        path = self.folder / shard["file"]
        return path.is_file() and path.stat().st_size == shard["bytes"] and bool(sha256(path) == shard["sha256"])

    def _read(self, file: str, *names: str) -> dict[str, NDArray[Any]]:
        with safe_open(self.folder / file, framework="numpy") as tensors:
            return {name: tensors.get_tensor(name) for name in names}

    def __repr__(self) -> str:
        job = self._manifest().get("complete")
        what = f"{sum(s['n_items'] for s in job['shards']):,} x {job['dim']}" if job else "empty"
        return f"EmbeddingStore({what}, {self.folder})"


class _Job:
    """One call of `embed`: walks the catalogue shard by shard and writes the manifest after each."""

    def __init__(
        self, store: EmbeddingStore, catalog: Catalog, encoder: TextEncoder, text: ItemText, config: EmbeddingConfig
    ) -> None:
        self.store, self.catalog, self.encoder, self.text, self.config = store, catalog, encoder, text, config
        self.report = EmbedReport(n_items=len(catalog))
        self.salt = fingerprint(text.fingerprint(), encoder.fingerprint).encode()
        self.complete: dict[str, Any] | None = None
        self.known: list[tuple[dict[str, Any], Keys, Rows]] = []  # each sound shard, its sorted keys, their rows

    def run(self) -> EmbedReport:
        start = time.perf_counter()
        self.store.folder.mkdir(parents=True, exist_ok=True)
        self._take_stock()
        shards: list[dict[str, Any]] = []
        with Bar("embedding", len(self.catalog)) as bar:
            for first in range(0, len(self.catalog), self.config.shard_items):
                n_known = len(self.known)
                shards.append(self._shard(len(shards), first))
                bar.advance(shards[-1]["n_items"])
                if len(self.known) == n_known:
                    continue  # it lay there already
                # What an earlier, cut-off job left stays listed: a second crash shall not lose it.
                left = {shard["file"]: shard for shard in [*shards, *(shard for shard, _, _ in self.known)]}
                self._write_manifest(self.complete, list(left.values()))
        report = self.report
        if report.n_empty == report.n_items:
            raise DataError(
                f"none of the {report.n_items:,} items has a text in {', '.join(self.text.config.fields)}; "
                "name other columns under [text] fields, or write descriptions first"
            )
        if report.n_empty > report.n_items / 2:
            warnings.warn(
                f"{report.n_empty:,} of {report.n_items:,} items have no text and get the zero vector", stacklevel=3
            )
        self._write_manifest(self._facts(shards), None)
        self._sweep({shard["file"] for shard in shards})
        report.seconds = time.perf_counter() - start
        return report

    def _take_stock(self) -> None:
        """Find the shards that are whole, of the last complete job and of one that was cut short."""
        try:
            manifest = self.store._manifest()
        except CorruptArtifactError:  # what it listed can no longer be told from what a crash left: all is made anew
            self.report.damaged.append(MANIFEST)
            manifest = {}
        self.complete = manifest.get("complete")
        partial = manifest.get("partial") or {"shards": []}
        found = [*partial["shards"], *(self.complete or {"shards": []})["shards"]]
        for shard in {s["file"]: s for s in found}.values():
            if shard["salt"] != self.salt.decode():
                continue  # another text template or encoder: nothing in it can be of use
            if self.store._sound(shard):
                self._remember(shard, self.store._read(shard["file"], "keys")["keys"])
            else:
                self.report.damaged.append(shard["file"])

    def _remember(self, shard: dict[str, Any], keys: NDArray[np.uint8]) -> None:
        flat = np.ascontiguousarray(keys).view(f"S{_KEY_BYTES}").ravel()  # (n,)
        order = np.argsort(flat, kind="stable")
        self.known.append((shard, flat[order], order))

    def _shard(self, number: int, first: int) -> dict[str, Any]:
        """Return the manifest entry of one shard; it is written unless it lies there already."""
        ids = list(self.catalog.ids.values[first : first + self.config.shard_items])
        texts = self.text.texts(self.catalog.table.slice(first, self.config.shard_items))
        keys = self._keys(texts)  # (n, _KEY_BYTES)
        empty = np.fromiter((not t for t in texts), dtype=bool, count=len(texts))
        self.report.n_empty += int(empty.sum())
        content = fingerprint(self.salt, keys, json.dumps(ids))[:12]
        file = f"shard-{number:05d}-{content}.safetensors"
        for shard, _, _ in self.known:
            if shard["file"] == file:
                self.report.n_reused += int((~empty).sum())
                return shard
        vectors = self._vectors(texts, keys, empty)  # (n, dim)
        blob = np.frombuffer(json.dumps(ids, ensure_ascii=False).encode(), dtype=np.uint8)
        entry = self._write(file, {"ids": blob, "keys": keys, "vectors": vectors})
        self._remember(entry, keys)
        return entry

    def _keys(self, texts: list[str]) -> NDArray[np.uint8]:
        def key(text: str) -> bytes:
            return hashlib.blake2b(
                text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES, key=self.salt
            ).digest()

        return np.frombuffer(b"".join(map(key, texts)), dtype=np.uint8).reshape(len(texts), _KEY_BYTES)

    def _vectors(self, texts: list[str], keys: NDArray[np.uint8], empty: NDArray[np.bool_]) -> Vectors:
        vectors = np.zeros((len(texts), self.encoder.dim), dtype=np.float32)  # (n, dim)
        flat = np.ascontiguousarray(keys).view(f"S{_KEY_BYTES}").ravel()  # (n,)
        missing = ~empty
        for shard, known, rows in self.known:
            if not missing.any():
                break
            places = np.searchsorted(known, flat).clip(max=len(known) - 1)
            found = missing & (known[places] == flat)
            if found.any():
                vectors[found] = self.store._read(shard["file"], "vectors")["vectors"][rows[places[found]]]
                missing &= ~found
        wanted = np.flatnonzero(missing)
        _, once, back = np.unique(flat[wanted], return_index=True, return_inverse=True)
        if len(once):
            vectors[wanted] = self._encode([texts[i] for i in wanted[once]])[back]
        self.report.n_encoded += len(once)
        self.report.n_reused += int((~empty).sum()) - len(once)
        return vectors

    def _encode(self, texts: list[str]) -> Vectors:
        if hasattr(self.encoder, "token_counts"):
            self.report.n_truncated += token_report(texts, cast(CountsTokens, self.encoder)).n_truncated
        vectors = np.asarray(self.encoder.encode(texts, kind="document", batch_tokens=self.config.batch_tokens))
        if vectors.shape != (len(texts), self.encoder.dim) or not np.isfinite(vectors).all():
            raise DataError(
                f"the encoder gave vectors of shape {vectors.shape}, expected {(len(texts), self.encoder.dim)} "
                "with finite values only"
            )
        return vectors.astype(np.float32, copy=False)

    def _write(self, file: str, tensors: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Write a shard so that it is there whole or not at all, and return its manifest entry."""
        temporary = self.store.folder / f".{file}.part"
        try:
            with disk_errors(temporary):
                save_file(tensors, temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            digest, size = sha256(temporary), temporary.stat().st_size
            temporary.replace(self.store.folder / file)
        finally:
            temporary.unlink(missing_ok=True)  # a full disk shall not stay full
        n_items = len(tensors["vectors"])
        return {"file": file, "n_items": n_items, "salt": self.salt.decode(), "bytes": size, "sha256": digest}

    def _facts(self, shards: list[dict[str, Any]]) -> dict[str, Any]:
        text, encoder = self.text.fingerprint(), self.encoder.fingerprint
        return {"encoder": encoder, "text": text, "dim": self.encoder.dim, "shards": shards}

    def _write_manifest(self, complete: dict[str, Any] | None, partial: list[dict[str, Any]] | None) -> None:
        under_way = None if partial is None else self._facts(partial)
        manifest = {"kind": "embedding-store", "format": 1, "complete": complete, "partial": under_way}
        write_json(self.store.folder / MANIFEST, {**manifest, "digest": fingerprint(manifest)})

    def _sweep(self, kept: set[str]) -> None:
        """Remove what no manifest names: shards of older jobs, and what a crash left half-written."""
        for path in self._files():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        yield from self.store.folder.glob("shard-*.safetensors")
        yield from self.store.folder.glob(".shard-*.part")
        yield from self.store.folder.glob(f".{MANIFEST}.*")
