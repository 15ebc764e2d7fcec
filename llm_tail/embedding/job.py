"""One run of the store over a catalogue: what is there stays, what is missing goes through the engine."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_tail.artifacts import MANIFEST, fingerprint
from llm_tail.config import EmbeddingConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import Rows
from llm_tail.embedding.engine import Encoded, Engine, LocalEngine, TextEncoder
from llm_tail.embedding.known import Keys, KnownTexts, first_of_each, text_keys
from llm_tail.embedding.shards import (
    Journal,
    Shard,
    Tensors,
    empty_pack,
    ids_of,
    map_tensors,
    names_of,
    pack,
    read_manifest,
    repack,
    shard_name,
    sweep,
    write_manifest,
    write_shard,
)
from llm_tail.embedding.text import ItemText
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.progress import Bar

MOST_SMALL = 8  # shards less than half full; when there are more, their items move together into full ones


@dataclass
class EmbedReport:
    """What one call of `EmbeddingStore.embed` or `update` did.

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
    n_shards, n_written : int
        Files of the store, and those of them that were written now.
    max_tokens : int
        Where the encoder cuts texts; 0 where it cannot say, and then the next three are 0 too.
    n_tokens, n_truncated, n_lost : int
        Tokens of all texts of the catalogue, texts that were cut, tokens that were cut off.
    n_shortened : int
        Texts as long as ``text.max_chars`` allows: what came behind did not even reach the encoder.
    damaged : list of str
        Files of the store that were not what had been written, and were made anew.
    anew : str
        Why all was made anew where something lay there: another encoder, template or format.
    seconds, texts_per_s : float
        Wall time, and encoded texts a second of it.
    """

    n_items: int = 0
    n_encoded: int = 0
    n_reused: int = 0
    n_empty: int = 0
    n_shards: int = 0
    n_written: int = 0
    max_tokens: int = 0
    n_tokens: int = 0
    n_truncated: int = 0
    n_lost: int = 0
    n_shortened: int = 0
    damaged: list[str] = field(default_factory=list)
    anew: str = ""
    seconds: float = 0.0

    @property
    def texts_per_s(self) -> float:
        """Encoded texts a second."""
        return self.n_encoded / self.seconds if self.seconds else 0.0

    @property
    def lost_share(self) -> float:
        """Share of all tokens that was cut off, in [0, 1]."""
        return self.n_lost / max(self.n_tokens, 1)

    def __str__(self) -> str:
        parts = [
            f"{self.n_items:,} items: {self.n_encoded:,} texts encoded, {self.n_reused:,} reused, "
            f"{self.n_empty:,} empty, {self.seconds:.1f} s, {self.texts_per_s:,.0f} texts/s"
        ]
        if self.max_tokens:
            parts.append(f"{self.n_truncated:,} cut at {self.max_tokens} tokens ({self.lost_share:.1%} of all lost)")
        if self.n_shortened:
            parts.append(f"{self.n_shortened:,} cut at text.max_chars")
        if self.damaged:
            parts.append(f"damaged and made anew: {', '.join(self.damaged[:3])}{' ...' * (len(self.damaged) > 3)}")
        if self.anew:
            parts.append(self.anew)
        return "; ".join(parts)


@dataclass
class _Plan:
    """One shard: whose vectors it takes over from where, and which texts have to be encoded for it."""

    number: int
    ids: list[str]
    keys: Keys
    shards: NDArray[np.int64]  # (n_items,): places of the texts that are known
    rows: NDArray[np.int64]
    wanted: Rows  # items whose text is encoded for this shard
    back: NDArray[np.int64]  # (n_wanted,): the text of each
    texts: list[str]
    source: int  # what other shards call it


class Job:
    """One call of `EmbeddingStore.update`: plans shard by shard, and writes each when the engine gives it back.

    Parameters
    ----------
    folder : Path
        Where the store lies.
    catalog : Catalog
        The items.
    encoder : TextEncoder
        What makes vectors of texts.
    text : ItemText
        What makes a text of an item.
    config : EmbeddingConfig
        Sizes and number format.
    engine : Engine, optional
        Who runs the encoder; this process if left out.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        encoder: TextEncoder,
        text: ItemText,
        config: EmbeddingConfig,
        engine: Engine | None,
    ) -> None:
        self.folder, self.catalog, self.encoder, self.text, self.config = folder, catalog, encoder, text, config
        self.engine, self.journal = engine, Journal(folder)
        self.report = EmbedReport(n_items=len(catalog), max_tokens=int(getattr(encoder, "max_tokens", 0)))
        # A cut vector follows from the whole one: both lie under the same keys.
        whole = getattr(encoder, "uncut_fingerprint", encoder.fingerprint)
        self.salt = fingerprint(text.fingerprint(), whole)
        self.format = (int(encoder.dim), config.storage)
        self.base: list[Shard] = []  # of the last complete job
        self.there: dict[str, Shard] = {}  # all whole shards by their file
        self.sources: list[Shard | None] = []  # all shards that hold known texts; None while still under way
        self.known = KnownTexts()
        self.done: list[Shard] = []

    def run(self) -> EmbedReport:
        """Bring the store up to date and say what was done."""
        start = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_stock()
        with Bar("embedding", len(self.catalog), listens=True) as bar:
            self._go(bar)
        report = self.report
        if report.n_empty == report.n_items:
            raise DataError(
                f"none of the {report.n_items:,} items has a text in {', '.join(self.text.config.fields)}; "
                "name other columns under [text] fields, or write descriptions first"
            )
        if report.n_empty > report.n_items / 2:
            warnings.warn(
                f"{report.n_empty:,} of {report.n_items:,} items have no text and get the zero vector", stacklevel=4
            )
        write_manifest(self.folder, self._facts(), self.done)
        self.journal.remove()
        sweep(self.folder, self.done)
        report.n_shards, report.seconds = len(self.done), time.perf_counter() - start
        for name in ("n_tokens", "n_truncated", "n_lost"):
            setattr(report, name, sum(getattr(shard, name) for shard in self.done))
        return report

    def _facts(self) -> dict[str, object]:
        return {
            "encoder": self.encoder.fingerprint,
            "text": self.text.fingerprint(),
            "salt": self.salt,
            "dim": self.format[0],
            "storage": self.format[1],
            "shard_items": self.config.shard_items,
            "max_tokens": self.report.max_tokens,
            "n_empty": self.report.n_empty,
            "n_shortened": self.report.n_shortened,
        }

    # ---- what is there

    def _take_stock(self) -> None:
        """Find the shards that are whole: of the last complete job, and of one that was cut short."""
        manifest = self._manifest() or {"shards": []}
        left = self.journal.read()
        for shard in [*manifest["shards"], *left]:
            if shard.file in self.there or not shard.holds(self.salt, *self.format):
                continue
            if not shard.is_sound(self.folder):
                self.report.damaged.append(shard.file)
                continue
            self.there[shard.file] = shard
            keys = np.array(map_tensors(self.folder / shard.file)["keys"])
            self.known.add(keys, self._source(shard), np.arange(len(keys)))
        self.base = [shard for shard in manifest["shards"] if shard.file in self.there]
        self.journal.start(shard for shard in left if shard.file in self.there)

    def _manifest(self) -> dict[str, list[Shard]] | None:
        try:
            manifest = read_manifest(self.folder)
        except CorruptArtifactError:  # what it listed can no longer be told from what a crash left: all is made anew
            self.report.damaged.append(MANIFEST)
            return None
        except StaleArtifactError as error:
            if "has the format" not in str(error):
                raise  # somebody else's folder
            self.report.anew = "all is made anew: another version of llm_tail wrote what was there"
            return None
        if manifest is not None and not any(s.holds(self.salt, *self.format) for s in manifest["shards"]):
            self.report.anew = self._why_anew(manifest)
        return manifest

    def _why_anew(self, manifest: dict[str, object]) -> str:
        mine = {"encoder": self.encoder.fingerprint, "text template": self.text.fingerprint()}
        theirs = {"encoder": manifest["encoder"], "text template": manifest["text"]}
        other = [f"{name} {theirs[name]}, now {mine[name]}" for name in mine if theirs[name] != mine[name]]
        if manifest["salt"] == self.salt:
            width = f"{self.format[0]} wide in {self.format[1]}"
            other = [f"{manifest['dim']} wide in {manifest['storage']}, too little for {width}"]
        return f"all is made anew: what was there was made with {' and '.join(other)}"

    def _source(self, shard: Shard | None) -> int:
        self.sources.append(shard)
        return len(self.sources) - 1

    # ---- planning

    def _go(self, bar: Bar) -> None:
        pending: deque[_Plan] = deque()
        finished = 0

        def shards() -> Iterator[list[str]]:
            for plan in self._plans():
                if isinstance(plan, Shard):
                    self.done.append(plan)
                    bar.skip(plan.n_items)
                else:
                    pending.append(plan)
                    yield plan.texts

        engine = self.engine or LocalEngine()
        results = engine.encode_shards(self.encoder, shards(), batch_tokens=self.config.batch_tokens)
        try:
            for encoded in results:
                if not pending:
                    raise DataError(f"{engine!r} gave more results than there are shards")
                plan = pending.popleft()
                self._finish(plan, encoded)
                finished += len(plan.ids)
                bar.advance(finished - bar.done)  # an encoder in this process has moved it part of the way
        finally:
            getattr(results, "close", lambda: None)()  # an engine's workers end even where a disk is full
        if pending or sum(shard.n_items for shard in self.done) != len(self.catalog):
            raise DataError(f"{engine!r} stopped before the last shard; nothing is lost, embed again")

    def _plans(self) -> Iterator[_Plan | Shard]:
        """Yield every shard of the store to be: as it is where that is right, else as a plan."""
        covered = np.zeros(len(self.catalog), dtype=bool)
        size, taken = self.config.shard_items, set()
        small = [shard for shard in self.base if shard.n_items < size / 2]
        dissolved = {shard.file for shard in small} if len(small) > MOST_SMALL else set()
        for shard in self.base:
            if shard.file in dissolved:
                continue
            rows = self.catalog.ids.rows(ids_of(map_tensors(self.folder / shard.file)))
            rows = rows[rows >= 0]  # what the catalogue no longer has is left out
            if len(rows):
                covered[rows] = True
                taken.add(shard.number)
                yield self._plan(shard.number, rows)
        rest, number = np.flatnonzero(~covered), 0
        for start in range(0, len(rest), size):
            while number in taken:
                number += 1
            yield self._plan(number, rest[start : start + size])
            number += 1

    def _plan(self, number: int, rows: Rows) -> _Plan | Shard:
        ids = list(self.catalog.ids.values[rows])
        together = rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
        table = self.catalog.table
        texts = self.text.texts(table.slice(rows[0], len(rows)) if together else table.take(rows))
        keys = text_keys(texts, self.salt)
        empty = np.fromiter((not t for t in texts), dtype=bool, count=len(texts))
        report, longest = self.report, self.text.config.max_chars
        report.n_empty += int(empty.sum())
        report.n_shortened += sum(len(t) >= longest for t in texts)
        file = shard_name(number, self.salt, *self.format, ids, keys)
        if file in self.there:
            report.n_reused += int((~empty).sum())
            return self.there[file]
        shards, places = self.known.find(keys)
        shards[empty] = -1
        wanted = np.flatnonzero((shards < 0) & ~empty)
        once, back = first_of_each(keys[wanted])
        source = self._source(None)
        self.known.add(keys[wanted[once]], source, wanted[once])
        report.n_encoded += len(once)
        report.n_reused += int((~empty).sum()) - len(once)
        return _Plan(number, ids, keys, shards, places, wanted, back, [texts[i] for i in wanted[once]], source)

    # ---- writing

    def _finish(self, plan: _Plan, encoded: Encoded) -> None:
        self._check(plan, encoded)
        dim, storage = self.format
        packed = empty_pack(len(plan.ids), dim, storage)
        tokens = np.zeros(len(plan.ids), dtype=np.int64)  # (n_items,)
        for source in np.unique(plan.shards[plan.shards >= 0]):
            here = np.flatnonzero(plan.shards == source)
            found, counts = self._take(self.sources[source], plan.rows[here])
            tokens[here] = counts
            for name, values in found.items():
                packed[name][here] = values
        if len(plan.wanted):
            for name, values in pack(encoded.vectors, storage).items():
                packed[name][plan.wanted] = values[plan.back]
            tokens[plan.wanted] = encoded.tokens[plan.back]
        shard = write_shard(
            self.folder,
            plan.number,
            self.salt,
            plan.ids,
            plan.keys,
            tokens,
            packed,
            max_tokens=self.report.max_tokens,
        )
        self.journal.add(shard)
        self.sources[plan.source] = shard
        self.done.append(shard)
        self.report.n_written += 1

    def _take(self, shard: Shard | None, rows: NDArray[np.int64]) -> tuple[Tensors, NDArray[np.int64]]:
        """Return vectors and token counts of rows of a shard that is there."""
        if shard is None:
            raise DataError("an engine gave its results in another order than that of the shards")
        tensors = map_tensors(self.folder / shard.file)
        packed = {name: tensors[name][rows] for name in names_of(shard.storage)}
        return repack(packed, shard, *self.format), tensors["tokens"][rows].astype(np.int64)

    def _check(self, plan: _Plan, encoded: Encoded) -> None:
        shape = (len(plan.texts), self.format[0])
        if encoded.vectors.shape != shape or encoded.tokens.shape != shape[:1]:
            raise DataError(
                f"an engine gave vectors of shape {encoded.vectors.shape} for a shard, expected {shape} "
                "and as many token counts"
            )
