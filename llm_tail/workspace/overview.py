"""What a run's vectors and graph look like as a whole: communities with names, and a map of the catalogue."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from llm_tail.artifacts import fingerprint, read_manifest
from llm_tail.errors import ConfigError, CorruptArtifactError, StaleArtifactError

if TYPE_CHECKING:
    from llm_tail.neighbors.communities import Communities
    from llm_tail.neighbors.layout import CatalogMap
    from llm_tail.workspace import Workspace

FOLDER = "map"
VERSION = 1  # of how places are found


def communities_of(workspace: Workspace) -> Communities:
    """Items that the graph ties to each other more than to the rest, named by the words of their texts."""
    return workspace.graph.communities(workspace.catalog, seed=workspace.config.seed)


def map_of(workspace: Workspace) -> CatalogMap:
    """Where every item lies in two dimensions, with its community and segment; kept in the run's folder ``map``.

    Made anew where vectors, graph, texts, segments or seed are others: about a minute for 60,000 items. A run without a
    graph has a map without communities.
    """
    from llm_tail.neighbors.layout import catalog_map

    kept = kept_map(workspace)
    if kept is not None:
        return kept
    communities = workspace.communities if _tied(workspace) else None
    segments, seed = workspace.segments, workspace.config.seed
    places = catalog_map(workspace.embeddings, communities=communities, segments=segments, seed=seed)
    with suppress(OSError):  # in a folder that may only be read it is made again each time
        places.save(workspace.folder / FOLDER, _made_from(workspace))
    return places


def kept_map(workspace: Workspace) -> CatalogMap | None:
    """Return the map if it is there and not out of date; None otherwise, or where it is damaged."""
    from llm_tail.neighbors.layout import CatalogMap

    folder = workspace.folder / FOLDER
    try:
        manifest = read_manifest(folder)
        if manifest is None or manifest["fingerprint"] != _made_from(workspace):
            return None
        return CatalogMap.load(folder)
    except (CorruptArtifactError, StaleArtifactError):
        return None  # it is nothing that cannot be made again


def _tied(workspace: Workspace) -> str:
    """Return the digest of the run's graph; empty where it has none."""
    try:
        return workspace.graph.fingerprint()
    except (ConfigError, StaleArtifactError):
        return ""


def _made_from(workspace: Workspace) -> str:
    labels = None if workspace.segments is None else workspace.segments.labels()
    tied = _tied(workspace)
    words = workspace.catalog.fingerprint() if tied else ""
    return fingerprint(VERSION, workspace.embeddings.fingerprint(), tied, words, labels, workspace.config.seed)
