"""Settings: one frozen class a stage, all of them in `RunConfig`; TOML in, TOML out.

A setting's one sentence lives beside it and feeds ``--help``, configs/README.md and the error messages. Paths in a
file are relative to that file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import tomli_w
from pydantic import Field

from llm_tail.config.asking import GraphConfig, HybridConfig, IndexConfig
from llm_tail.config.base import Settings, explain, override
from llm_tail.config.data import DataConfig, SplitConfig, TextConfig
from llm_tail.config.encoding import DEFAULT_ENCODER, EmbeddingConfig, EncoderConfig, LoraConfig, PretrainConfig
from llm_tail.config.enriching import EnrichmentConfig
from llm_tail.config.judging import BenchConfig, EvaluationConfig, ValueConfig
from llm_tail.config.serving import ServeConfig
from llm_tail.errors import ConfigError

__all__ = [
    "DEFAULT_ENCODER",
    "BenchConfig",
    "DataConfig",
    "EmbeddingConfig",
    "EncoderConfig",
    "EnrichmentConfig",
    "EvaluationConfig",
    "GraphConfig",
    "HybridConfig",
    "IndexConfig",
    "LoraConfig",
    "PretrainConfig",
    "RunConfig",
    "ServeConfig",
    "Settings",
    "SplitConfig",
    "TextConfig",
    "ValueConfig",
    "explain",
]


class RunConfig(Settings):
    """A whole run: every stage's settings, one seed, one folder."""

    seed: int = Field(0, ge=0, description="Seeds every random choice.")
    folder: str = Field("run", description="Where everything that this run makes is kept.")
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    enrichment: EnrichmentConfig = EnrichmentConfig()
    text: TextConfig = TextConfig()
    encoder: EncoderConfig = EncoderConfig()
    pretrain: PretrainConfig = PretrainConfig()
    lora: LoraConfig = LoraConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    index: IndexConfig = IndexConfig()
    graph: GraphConfig = GraphConfig()
    hybrid: HybridConfig = HybridConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    value: ValueConfig = ValueConfig()
    bench: BenchConfig = BenchConfig()
    serve: ServeConfig = ServeConfig()

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a TOML file; `overrides` are ``table.key=value`` strings that win over it.

        Raises
        ------
        ConfigError
            If the file is missing or no TOML, or a key or value is wrong; a misspelt key is named with its path and
            the nearest right one.
        """
        path = Path(path)
        try:
            with path.open("rb") as stream:
                values = tomllib.load(stream)
        except FileNotFoundError:
            raise ConfigError(f"there is no config file at {path}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no valid TOML: {error}") from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}; expected a TOML file") from None
        for text in overrides:
            override(values, text)
        try:
            return cls(**values).resolved(path.parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def resolved(self, root: Path) -> RunConfig:
        """Return the same settings with relative paths taken from `root`."""

        def absolute(value: str) -> str:
            return value if not value or value.startswith("hf:") else str((root / value).resolve())

        paths = {name: absolute(getattr(self.data, name)) for name in ("catalog", "interactions", "validation", "test")}
        data = {**self.data.model_dump(), **paths}
        encoder = self.encoder.model_dump()
        if encoder["name"].startswith((".", "/")):
            encoder["name"] = absolute(encoder["name"])
        serve = {**self.serve.model_dump(), "state": absolute(self.serve.state)}
        enrichment = self.enrichment.model_dump()
        enrichment |= {name: absolute(enrichment[name]) for name in ("answers", "prompts")}
        if enrichment["model"].startswith((".", "/")):
            enrichment["model"] = absolute(enrichment["model"])
        tables = {"data": data, "encoder": encoder, "serve": serve, "enrichment": enrichment}
        return self.replace(folder=absolute(self.folder), **tables)

    def overridden(self, overrides: Sequence[str]) -> RunConfig:
        """Return the same settings with ``table.key=value`` strings applied; paths in them stay as they are."""
        values = self.model_dump()
        for text in overrides:
            override(values, text)
        return type(self)(**values)

    def to_toml(self) -> str:
        """Return the settings as TOML that `load` reads back to the same settings."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))
