"""How an item graph lies on disk: ``edges.safetensors``, ``items.parquet``, ``values.parquet`` and a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import read_artifact, write_artifact
from llm_tail.config import GraphConfig
from llm_tail.data.ids import IdMap
from llm_tail.errors import CorruptArtifactError
from llm_tail.neighbors.edges import SharedValues
from llm_tail.neighbors.graph import ItemGraph

KIND = "item-graph"


def save_graph(graph: ItemGraph, folder: Path, made_from: str) -> Path:
    """Do what `ItemGraph.save` says."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, matrix in graph._matrices.items():
        arrays |= _parts(f"ties/{name}", matrix) | {f"ties/{name}/data": matrix.data}
    for name, shared in graph._values.items():
        arrays |= _parts(f"values/{name}", shared.members)
    words = [(name, str(value)) for name, shared in graph._values.items() for value in shared.names]
    facts = {
        "n_items": len(graph),
        "relations": graph.relations,
        "columns": list(graph._values),
        "hubs": {name: shared.hubs for name, shared in graph._values.items()},
        "config": graph.config.model_dump(),
    }
    with write_artifact(folder, KIND, made_from, facts) as draft:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, draft.file("edges.safetensors"))
        items = pa.table({"id": pa.array(graph.ids.values, pa.string()), "title": graph._titles})
        pq.write_table(items, draft.file("items.parquet"))
        frame = pd.DataFrame(words, columns=["relation", "value"], dtype=str)
        frame.to_parquet(draft.file("values.parquet"))
    return folder


def load_graph(folder: Path, fingerprint: str | None) -> ItemGraph:
    """Do what `ItemGraph.load` says."""
    artifact = read_artifact(folder, KIND, fingerprint, stage="llm-tail graph")
    try:
        facts = artifact.facts
        arrays = load_file(artifact.file("edges.safetensors"))
        items = pq.read_table(artifact.file("items.parquet"))
        words = pd.read_parquet(artifact.file("values.parquet"))
        n = items.num_rows
        matrices = {name: _matrix(f"ties/{name}", arrays, (n, n)) for name in facts["relations"]}
        hubs = facts["hubs"] if "hubs" in facts else facts["report"]["hubs"]  # where an earlier version kept them
        values = {}
        for name in facts["columns"]:
            names = words["value"][words["relation"] == name].to_numpy(dtype=object)
            members = _matrix(f"values/{name}", arrays, (n, len(names)))
            values[name] = SharedValues(members, names, hubs[name])
        config = GraphConfig(**facts.get("config", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(
            f"the {KIND} at {folder} cannot be read ({error})", "remove the folder, then run: llm-tail graph"
        ) from error
    ids = IdMap(items["id"].to_pylist(), "item")
    titles = pa.concat_arrays(items["title"].chunks) if items["title"].num_chunks else pa.array([], pa.string())
    return ItemGraph(ids, matrices, titles=titles.cast(pa.string()), values=values, config=config)


def _parts(name: str, matrix: sp.csr_matrix) -> dict[str, NDArray[Any]]:
    return {f"{name}/indptr": matrix.indptr.astype(np.int64), f"{name}/indices": matrix.indices.astype(np.int32)}


def _matrix(name: str, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> sp.csr_matrix:
    indices = arrays[f"{name}/indices"]
    data = arrays.get(f"{name}/data", np.ones(len(indices), dtype=np.float32))
    return sp.csr_matrix((data, indices, arrays[f"{name}/indptr"]), shape=shape)
