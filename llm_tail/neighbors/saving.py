"""How a neighbour index lies on disk.

::

    index/
    ├── manifest.json         settings, engine, ef, recall, and the digest of each file
    ├── g-.../
    │   ├── ids.parquet           one id a row
    │   ├── vectors.safetensors   float32 or float16, one row an item
    │   ├── slots.safetensors     which entry of the engine stands for which row
    │   └── index.hnsw            or index.faiss, index.usearch: the engine's own file
    └── snapshots/            see `llm_tail.neighbors.snapshots`
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import fingerprint as digest
from llm_tail.artifacts import read_artifact, read_manifest, write_artifact
from llm_tail.config import IndexConfig
from llm_tail.data.ids import IdMap
from llm_tail.errors import ConfigError, CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.neighbors.engines import load_engine
from llm_tail.neighbors.exact import Stored, Vectors
from llm_tail.neighbors.living import LivingSearch
from llm_tail.neighbors.table import ItemTable
from llm_tail.neighbors.tuning import Measured

KIND = "neighbor-index"
LAYOUT = 2


def write_index(living: LivingSearch, encoder: str, folder: str | Path, fingerprint: str | None = None) -> None:
    """Write what is in memory; the caller sees to it that nothing changes meanwhile."""
    table, engine, measured = living.table, living.engine, living.measured
    facts = {
        "layout": LAYOUT,
        "n_items": len(table),
        "dim": table.dim,
        "engine": engine.name,
        "ef": measured.ef,
        "measured_recall": measured.recall,
        "recall_error": measured.error,
        "config": living.config.model_dump(),
        "seed": living.seed,
        "encoder": encoder,
    }
    made = fingerprint or made_from(table.ids, table.vectors, living.config, living.seed)
    with write_artifact(folder, KIND, made, facts) as draft:
        save_file({"vectors": np.ascontiguousarray(table.vectors)}, draft.file("vectors.safetensors"))
        pd.DataFrame({"id": table.ids.values.astype(str)}).to_parquet(draft.file("ids.parquet"))
        engine.save(draft.data)


def read_index(folder: str | Path, fingerprint: str | None = None) -> tuple[LivingSearch, str]:
    """Return what `write_index` wrote, after checking every byte, and the encoder of its vectors.

    Raises
    ------
    StaleArtifactError
        If it is not there, was made from something else, or was written by an earlier version.
    CorruptArtifactError
        If a file is not what was written.
    """
    artifact = read_artifact(folder, KIND, fingerprint, stage="llm-tail index")
    facts = artifact.facts
    if facts.get("layout") != LAYOUT:
        raise StaleArtifactError(f"the {KIND} at {folder} was written by an earlier version; run: llm-tail index")
    try:
        config, seed = IndexConfig(**facts["config"]), int(facts["seed"])
        ids = IdMap(pd.read_parquet(artifact.file("ids.parquet"))["id"].to_numpy(), "item")
        table = ItemTable(ids, load_file(artifact.file("vectors.safetensors"))["vectors"])
        measured = Measured(int(facts["ef"]), float(facts["measured_recall"]), float(facts["recall_error"]))
        engine = load_engine(facts["engine"], table, config, seed, artifact.data)
        return LivingSearch(table, engine, config, seed, measured), str(facts["encoder"])
    except (KeyError, TypeError, ConfigError, DataError, RuntimeError, OSError, SafetensorError) as error:
        raise CorruptArtifactError(
            f"the {KIND} at {folder} cannot be read ({error})", "remove the folder, then run: llm-tail index"
        ) from error


def fingerprint_at(folder: str | Path | None) -> str | None:
    """Return the fingerprint of the index that lies in a folder, None where there is none."""
    manifest = None if folder is None else read_manifest(folder)
    return None if manifest is None else str(manifest["fingerprint"])


def stored(vectors: Vectors, config: IndexConfig) -> Stored:
    """Return vectors in the number format that the settings name."""
    return vectors if config.storage == "float32" else vectors.astype(np.float16)


def made_from(ids: IdMap, vectors: Stored, config: IndexConfig, seed: int) -> str:
    """Return the fingerprint of an index over these items."""
    return digest(ids.values, vectors, config.model_dump(), seed)
