"""Fingerprints: what each stage of a run is made from, as one digest; what has not changed is not run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_tail.artifacts import fingerprint, read_manifest
from llm_tail.config import RunConfig
from llm_tail.errors import ConfigError, LlmTailError
from llm_tail.workspace.data import HELD
from llm_tail.workspace.generated import ENRICHED, FIELDS, answers_folder, source_text, uses_generated
from llm_tail.workspace.record import RunRecord
from llm_tail.workspace.running import running_settings, training_settings
from llm_tail.workspace.training import settings_of

# How answers are fetched, paid for and let into the rest of the run is no part of what they say.
_RUNNING = {
    *("enabled", "use", "answers", "base_url_from", "api_key_from", "structured", "in_flight", "requests_per_minute"),
    *("tokens_per_minute", "timeout", "retries", "price_in", "price_out", "currency", "batch_size"),
    *("min_confidence", "when_spent"),
}
_BUDGETS = {"max_money", "max_tokens"}


class Fingerprints:
    """The digests of one run's stages and of what they have in common.

    Parameters
    ----------
    config : RunConfig
        All settings.
    record : RunRecord
        Knows the digests of files that have not changed.

    Examples
    --------
    >>> run = RunConfig(folder="runs/none-yet")
    >>> Fingerprints(run, RunRecord(Path(run.folder))).of("embed")
    Traceback (most recent call last):
    ...
    llm_tail.errors.ConfigError: [data] catalog is not set; name the file that holds the items
    """

    def __init__(self, config: RunConfig, record: RunRecord) -> None:
        self.config, self.record = config, record

    def of(self, stage: str) -> str:
        """Return the digest of everything that a stage is made from."""
        config = self.config
        if stage == "audit":
            return fingerprint(stage, self.split, self.encoder, config.graph.relations, config.hybrid.word_fields)
        if stage == "enrich":
            return fingerprint(stage, self._asked, config.enrichment.model_dump(include=_BUDGETS), self._decided)
        if stage == "pretrain":
            settings = config.pretrain.model_dump(exclude={"enabled", "checkpoint_steps"})
            return fingerprint(stage, self.encoder, self.words, settings, config.seed)
        base = self.of("pretrain") if config.pretrain.enabled else self.encoder
        if stage == "finetune":
            return fingerprint(stage, base, self.split, settings_of(config), config.seed, *self._enriched)
        if stage == "embed":
            words = self.of("finetune") if config.lora.enabled else base
            return fingerprint(stage, self.words, words, config.embedding.storage, *running_settings(config.encoder))
        if stage == "index":
            return fingerprint(stage, self.of("embed"), config.index.model_dump(), config.seed)
        if stage == "graph":
            return fingerprint(stage, self.of("index"), self.split, config.graph.model_dump())
        if stage == "fit":
            return fingerprint(stage, self.of("graph"), config.hybrid.model_dump(), config.seed)
        return fingerprint(stage, self.of("fit"), config.evaluation.model_dump())

    @property
    def catalog(self) -> str:
        """Of the items as the files have them."""
        data = self.config.data
        if not data.catalog:
            raise ConfigError("[data] catalog is not set; name the file that holds the items")
        return fingerprint(self.record.digest(data.catalog), data.format, data.item_columns, data.max_bad_share)

    @property
    def words(self) -> str:
        """Of the items with their generated fields, where the run has any."""
        return fingerprint(self.catalog, *self._enriched) if self._enriched else self.catalog

    @property
    def split(self) -> str:
        """Of training, validation and test."""
        return fingerprint(self.catalog, self._events, self.config.split.model_dump(), self.config.seed)

    @property
    def encoder(self) -> str:
        """Of the encoder that the settings name, and of how an item becomes a text."""
        encoder = self.config.encoder
        return fingerprint(self._encoder_name, training_settings(encoder), self.config.text.model_dump())

    @property
    def _encoder_name(self) -> str:
        name = self.config.encoder.name
        return self.record.digest(name) if Path(name).is_dir() else name

    @property
    def _events(self) -> str:
        files = {key: self.record.digest(getattr(self.config.data, key)) for key in ("interactions", *HELD)}
        return fingerprint(files, self.config.data.model_dump(exclude={"catalog", "item_columns", *files}))

    # ---- enrichment

    @property
    def _asked(self) -> str:
        """Of what is asked about the items, and of whom."""
        config, enrichment = self.config, self.config.enrichment
        settings = enrichment.model_dump(exclude=_RUNNING | _BUDGETS)
        if enrichment.prompts:
            settings["prompts"] = self.record.digest(enrichment.prompts)
        if Path(enrichment.model).is_dir():
            settings["model"] = self.record.digest(enrichment.model)
        parts: list[Any] = [self.catalog, settings]
        if enrichment.backend == "extractive":
            parts += [self._encoder_name, source_text(config).model_dump(), config.seed]
        if config.data.interactions and ("profile" in enrichment.tasks or enrichment.n_items or self._has_budget):
            parts.append(self.split)  # who has too few words and readers goes by training alone
        return fingerprint(*parts)

    @property
    def _has_budget(self) -> bool:
        return any(getattr(self.config.enrichment, name) is not None for name in _BUDGETS)

    @property
    def _decided(self) -> str:
        from llm_tail.enrichment.cache import decisions_key

        return decisions_key(answers_folder(self.config))

    @property
    def _enriched(self) -> list[str]:
        """What stands for the generated fields in the stages behind; nothing where there are none."""
        if not uses_generated(self.config):
            return []
        try:
            manifest = read_manifest(Path(self.config.folder) / ENRICHED)
            there = manifest["files"][FIELDS]["sha256"] if manifest else "not there yet"
        except (LlmTailError, KeyError, TypeError):
            there = "cannot be read"
        return [self._asked, there, str(self.config.enrichment.min_confidence)]
