"""What a run's vectors and graph look like as a whole: communities with names, and a map of the catalogue."""

from __future__ import annotations

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
    from llm_tail.neighbors.layout import CatalogMap, catalog_map

    segments, seed, embeddings = workspace.segments, workspace.config.seed, workspace.embeddings
    labels = None if segments is None else segments.labels()
    try:
        tied = workspace.graph.fingerprint()
    except (ConfigError, StaleArtifactError):
        tied = ""
    words = workspace.catalog.fingerprint() if tied else ""
    made_from = fingerprint(VERSION, embeddings.fingerprint(), tied, words, labels, seed)
    folder = workspace.folder / FOLDER
    try:
        manifest = read_manifest(folder)
        if manifest is not None and manifest["fingerprint"] == made_from:
            return CatalogMap.load(folder, made_from)
    except (CorruptArtifactError, StaleArtifactError):
        pass  # it is nothing that cannot be made again
    communities = workspace.communities if tied else None
    places = catalog_map(embeddings, communities=communities, segments=segments, seed=seed)
    places.save(folder, made_from)
    return places
