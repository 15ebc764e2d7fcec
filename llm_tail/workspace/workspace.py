"""Workspace: the folder of one run, and the only room that knows the order of the stages.

::

    data files ── audit
        │
        ├─ (enrich) ── (pretrain) ── (finetune) ── embed ── index ── graph ── fit ── evaluate
        └─ split ──────────────────────────┘

A stage is finished when the record (``run.json``) holds the fingerprint of its inputs: the bytes of the data files, the
settings that matter to it, and the fingerprints of the stages before it. Change a setting, and just the stages behind
it run again.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llm_tail.artifacts import MANIFEST, generation_of, read_artifact
from llm_tail.config import RunConfig
from llm_tail.errors import ConfigError, CorruptArtifactError, DataError, StaleArtifactError, closest
from llm_tail.workspace.data import Events, make_split, read_catalog, read_raw, select_events
from llm_tail.workspace.fingerprints import Fingerprints
from llm_tail.workspace.freshness import States, check_unchanged, note, refresh
from llm_tail.workspace.generated import ENRICHED, effective, uses_generated
from llm_tail.workspace.lock import alone_in
from llm_tail.workspace.overview import communities_of, map_of
from llm_tail.workspace.record import RunRecord, StageResult
from llm_tail.workspace.running import find_runtime
from llm_tail.workspace.stages import HYBRID, MAKERS, find_baseline

if TYPE_CHECKING:  # each of these is loaded when it is first needed: `similar` by id needs no torch
    from llm_tail.data.audit import Audit
    from llm_tail.data.catalog import Catalog
    from llm_tail.data.interactions import Interactions
    from llm_tail.data.splits import Segments, Split
    from llm_tail.embedding.encoder import Encoder
    from llm_tail.embedding.runtimes import Runtime
    from llm_tail.embedding.store import Embeddings
    from llm_tail.embedding.text import ItemText
    from llm_tail.enrichment.result import Enrichment
    from llm_tail.evaluation.report import Report
    from llm_tail.neighbors.graph import ItemGraph
    from llm_tail.neighbors.index import NeighborIndex, Neighbors
    from llm_tail.neighbors.words import WordIndex
    from llm_tail.recommenders.base import Recommender
    from llm_tail.recommenders.hybrid import HybridRecommender

__all__ = ["STAGES", "StageResult", "Workspace"]

STAGES = ("audit", "enrich", "pretrain", "finetune", "embed", "index", "graph", "fit", "evaluate")
FOLDERS = {
    "audit": "audit",
    "enrich": ENRICHED,
    "pretrain": "pretrained",
    "finetune": "encoder",
    "embed": "embeddings",
    "index": "index",
    "graph": "graph",
    "fit": "models/hybrid",
    "evaluate": "report",
}
# the table whose `enabled` turns a stage on
SWITCHES = {"enrich": "enrichment", "pretrain": "pretrain", "finetune": "lora"}
Watcher = Callable[[str, StageResult | None], None]
T = TypeVar("T")


class Workspace:
    """One run: its settings, its folder, and everything in it, loaded when it is first asked for.

    Parameters
    ----------
    config : RunConfig
        All settings; relative paths are taken from the current directory.
    source : str
        The config file, as it is to be named in the commands that messages give.

    Attributes
    ----------
    folder : Path
        Where all results lie.
    record : RunRecord
        What is finished, and what it cost.

    Examples
    --------
    >>> workspace = Workspace(RunConfig(folder="runs/none-yet"))
    >>> workspace.index
    Traceback (most recent call last):
    ...
    llm_tail.errors.ConfigError: [data] catalog is not set; name the file that holds the items
    """

    def __init__(self, config: RunConfig, source: str = "CONFIG") -> None:
        self.config, self.source = effective(config), source
        self.folder = Path(config.folder)
        self.record = RunRecord(self.folder)
        self.keys = Fingerprints(self.config, self.record)
        self._models: dict[str, Recommender] = {}
        self._loaded_from: States | None = None  # of the files, before the first of them was read

    @classmethod
    def open(cls, config: str | Path | RunConfig, overrides: Sequence[str] = ()) -> Workspace:
        """Open the run that a TOML file or a `RunConfig` describes; nothing is read or made yet.

        Parameters
        ----------
        config : path or RunConfig
            The settings.
        overrides : sequence of str
            ``table.key=value`` settings that win over the file.

        Raises
        ------
        ConfigError
            If the file is missing or a setting is wrong.
        """
        if isinstance(config, RunConfig):
            return cls(config.overridden(overrides))
        words = [str(config), *(word for override in overrides for word in ("--set", override))]
        return cls(RunConfig.load(config, overrides), shlex.join(words))

    # ---- running

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this run in order: those with a switch only where it is on, few without interactions."""
        off = {name for name, table in SWITCHES.items() if not getattr(self.config, table).enabled}
        if not self.config.data.interactions:
            off |= {"audit", "finetune", "fit", "evaluate"}
        return tuple(name for name in STAGES if name not in off)

    def run(self, until: str | None = None, on_stage: Watcher | None = None) -> list[StageResult]:
        """Run all stages up to `until`, the finished ones skipped.

        Parameters
        ----------
        until : str, optional
            The last stage to run; all if left out.
        on_stage : callable, optional
            Called with a stage's name and None when it begins, and with its `StageResult` when it has ended.

        Returns
        -------
        list of StageResult

        Raises
        ------
        ConfigError
            If there is no such stage, or it is switched off.
        DataError
            If the audit found something that makes all that follows useless.
        """
        last = self._known(until) if until else self.stages[-1]
        results = []
        for name in self.stages[: self.stages.index(last) + 1]:
            if on_stage:
                on_stage(name, None)
            results.append(self.run_stage(name))
            if on_stage:
                on_stage(name, results[-1])
            if name == "audit" and not self.audit.ok:
                worst = next(finding for finding in self.audit.findings if finding.severity == "error")
                raise DataError(f"the data cannot be used: {worst.message}; all findings: llm-tail audit {self.source}")
        return results

    def run_stage(self, name: str) -> StageResult:
        """Run one stage, or skip it where it is finished.

        Raises
        ------
        StaleArtifactError
            If a stage that it needs has not been run; the message names the command. If a file changed meanwhile.
        ConfigError
            If another process is at work in the folder.
        """
        name = self._known(name)
        folder, made_from = self._path(name), self.fingerprint(name)
        since = refresh(self)
        if self.record.matches("stages", name, made_from, folder):
            return self.record.skipped(name)
        with alone_in(self.folder):
            started = time.perf_counter()
            told = MAKERS[name](self, folder, made_from)
            self._forget(name)
            check_unchanged(self, "stages", name, since, self.fingerprint(name) == made_from)
            return self.record.end("stages", name, made_from, folder, time.perf_counter() - started, told)

    def is_finished(self, name: str) -> bool:
        """Say whether a stage's result is there and was made from the inputs and settings at hand."""
        return self.record.matches("stages", name, self.fingerprint(name), self._path(name))

    def fingerprint(self, stage: str) -> str:
        """Return the digest of everything that a stage is made from."""
        return self.keys.of(stage)

    # ---- what the run holds

    @cached_property
    def source_catalog(self) -> Catalog:
        """The items as the files have them."""
        note(self)
        return read_catalog(self.config.data)

    @property
    def catalog(self) -> Catalog:
        """The items, with the generated fields where the run has any."""
        return self.enriched_catalog if uses_generated(self.config) else self.source_catalog

    @cached_property
    def enriched_catalog(self) -> Catalog:
        """The items with a column ``generated_<task>`` for each task of items."""
        least, tasks = self.config.enrichment.min_confidence, self.config.enrichment.tasks
        return self.enrichment.join(self.source_catalog, tasks=tasks, min_confidence=least)

    @cached_property
    def enrichment(self) -> Enrichment:
        """The generated fields of the items, each with its provenance."""
        from llm_tail.workspace.enriching import KIND, read_enriched

        return self._load("enrich", lambda folder: read_enriched(read_artifact(folder, KIND)))

    @cached_property
    def audit(self) -> Audit:
        """What is wrong with the data."""
        from llm_tail.data.audit import Audit

        return self._load("audit", lambda folder: Audit.from_dict(read_artifact(folder, "audit").facts["audit"]))

    @cached_property
    def raw_interactions(self) -> Interactions:
        """The events as the file has them."""
        note(self)
        return read_raw(self.config.data)

    @cached_property
    def _events(self) -> Events:
        events = select_events(self.config.data, self.raw_interactions, self.source_catalog)
        del self.__dict__["raw_interactions"]  # only the audit looks at it, and that comes first
        return events

    @property
    def interactions(self) -> Interactions:
        """The events on items of the catalogue that count: positive, of people with enough of them."""
        return self._events.main

    @cached_property
    def split(self) -> Split:
        """Training, validation and test."""
        return make_split(self.config, self._events, self.source_catalog)

    @cached_property
    def item_text(self) -> ItemText:
        """How an item becomes one text."""
        from llm_tail.embedding.text import ItemText

        return ItemText(self.config.text)

    @cached_property
    def source_encoder(self) -> Encoder:
        """The model that ``[encoder]`` names."""
        from llm_tail.embedding.encoder import Encoder

        note(self)
        return Encoder.load(config=self.config.encoder)

    @cached_property
    def base_encoder(self) -> Encoder:
        """The model as it was before any fine-tuning, adapted to the text where the run says so."""
        return self._encoder() if self.config.pretrain.enabled else self.source_encoder

    @cached_property
    def encoder(self) -> Encoder:
        """The model that turns texts into vectors, fine-tuned where the run says so and where it was better."""
        if not self.config.lora.enabled:
            return self.base_encoder
        tuned = self._load("finetune", lambda folder: read_artifact(folder, "encoder"))
        return self._encoder(tuned.file("adapter")) if tuned.facts["kept"] else self.base_encoder

    def _encoder(self, adapter: Path | None = None) -> Encoder:
        from llm_tail.embedding.encoder import Encoder

        name = None
        if self.config.pretrain.enabled:
            name = self._load("pretrain", lambda folder: read_artifact(folder, "pretrained-encoder").file("model"))
        return Encoder.load(name, self.config.encoder, adapter=adapter)

    @cached_property
    def runtime(self) -> Runtime:
        """What the item vectors were made with, and queries are: the encoder, or another way to run it."""
        return find_runtime(self)

    @cached_property
    def embeddings(self) -> Embeddings:
        """One vector for each item."""
        from llm_tail.embedding.store import EmbeddingStore

        return self._load("embed", lambda folder: EmbeddingStore.open(folder).load(self.catalog))

    @cached_property
    def index(self) -> NeighborIndex:
        """Who is near whom."""
        from llm_tail.neighbors.index import NeighborIndex

        return self._load("index", lambda folder: NeighborIndex.load(folder, self.fingerprint("index")))

    @cached_property
    def words(self) -> WordIndex:
        """Which words stand in which item's text."""
        from llm_tail.neighbors.words import WordIndex

        return self._load("index", lambda folder: WordIndex.load(folder / "words", self.fingerprint("index")))

    @cached_property
    def graph(self) -> ItemGraph:
        """The items and their ties."""
        from llm_tail.neighbors.graph import ItemGraph

        return self._load("graph", lambda folder: ItemGraph.load(folder, self.fingerprint("graph")))

    @cached_property
    def hybrid(self) -> HybridRecommender:
        """The fitted recommender."""
        from llm_tail.recommenders.hybrid import HybridRecommender

        return self._load("fit", HybridRecommender.load)

    @property
    def report(self) -> Report:
        """How good the recommender is, beside the baselines; `DataError` where no event was held out to judge on."""
        from llm_tail.evaluation.report import Report

        found = self._load("evaluate", lambda folder: read_artifact(folder, "report"))
        if not found.facts["judged"]:
            raise DataError("there is nothing to judge on: name [data] test, or a [split] method that holds events out")
        return Report.load(found.file("report.json"))

    def model(self, name: str = HYBRID) -> Recommender:
        """Return a fitted model: the hybrid or a baseline, which is fitted on its first use and kept.

        Raises
        ------
        ConfigError
            If there is no model of that name.
        StaleArtifactError
            If a stage that it needs has not been run, or a file changed while it was fitted.
        """
        from llm_tail.recommenders.baselines import BASELINES

        if name not in (HYBRID, *BASELINES):
            raise ConfigError(_unknown("model", name, (HYBRID, *BASELINES)))
        refresh(self)
        if name == HYBRID:
            return self.hybrid
        if name not in self._models:
            self._models[name] = find_baseline(self, name)
        return self._models[name]

    def similar(
        self, item_or_text: str, k: int = 10, where: str | Sequence[str] | None = None, how: str | None = None
    ) -> Neighbors:
        """Return the items nearest to an item or, where no item has that id, to a text.

        Parameters
        ----------
        item_or_text : str
            An item id, or any words. Only a text needs the encoder, and so torch where that is the runtime.
        k : int
            How many.
        where : str or sequence of str, optional
            Filters that all have to let an item through, such as ``brand = Acme and segment = tail``.
        how : {"vectors", "words", "both"}, optional
            What is looked at; vectors for an item and both for a text, if left out.
        """
        from llm_tail.workspace.asking import similar

        return similar(self, item_or_text, k, where, how)

    @cached_property
    def segments(self) -> Segments | None:
        """Head, tail and cold by training; None where the run has no interactions."""
        return self.split.segments if self.config.data.interactions else None

    communities = cached_property(communities_of)
    map = cached_property(map_of)

    # ---- small helpers

    def _path(self, stage: str) -> Path:
        return self.folder / FOLDERS[stage]

    def _made(self, stage: str) -> Path:
        """Return the folder of a stage's result after checking that it is there and not out of date."""
        if stage in ("fit", "evaluate") and not self.config.data.interactions:
            raise DataError("[data] interactions is not set: nothing is known of people; `llm-tail similar` needs none")
        folder, command = self._path(stage), f"run: llm-tail {stage} {self.source}"
        if self.is_finished(stage):
            return folder
        there = stage in self.record and (folder / MANIFEST).is_file()
        if there and not generation_of(folder):
            raise CorruptArtifactError(f"{folder / MANIFEST} cannot be read", command)
        state = "was made from other data or settings" if there else "is not there yet"
        raise StaleArtifactError(f"the result of {stage!r} {state}; {command}")

    def _load(self, stage: str, read: Callable[[Path], T]) -> T:
        """Read a stage's result; a damaged one counts as not there, so that the command named makes it anew."""
        note(self)
        folder = self._made(stage)
        try:
            return read(folder)
        except (CorruptArtifactError, StaleArtifactError) as error:
            self.record.forget("stages", stage)
            command = f"run: llm-tail {stage} {self.source}"
            if isinstance(error, CorruptArtifactError):
                raise CorruptArtifactError(error.found, command) from error
            raise StaleArtifactError(f"{str(error).partition('; run:')[0]}; {command}") from error

    def _known(self, stage: str) -> str:
        if stage not in STAGES:
            raise ConfigError(_unknown("stage", stage, self.stages))
        if stage not in self.stages and not self.config.data.interactions:
            raise ConfigError(f"{stage} needs interactions and [data] interactions is not set; name the file")
        if stage not in self.stages:
            table = SWITCHES[stage]
            raise ConfigError(f"{stage} is switched off; give --set {table}.enabled=true or set it under [{table}]")
        return stage

    def _forget(self, stage: str) -> None:
        """Drop what was loaded of this stage's old result and of those behind it."""
        held = {"embed": "embeddings", "pretrain": "base_encoder", "finetune": "encoder", "fit": "hybrid"}
        held |= {"enrich": "enrichment"}
        for name in (held.get(stage, stage), "runtime", "words", *(["enriched_catalog"] if stage == "enrich" else [])):
            self.__dict__.pop(name, None)

    def __repr__(self) -> str:
        finished = [name for name in self.stages if name in self.record]
        return f"Workspace({self.folder}, finished: {', '.join(finished) or 'nothing'})"


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    near = closest(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return f"there is no {kind} {name!r}; {hint}"
