"""ItemGraph: items and the typed ties between them, to walk along and to explain by.

Inside, each relation is one sparse matrix (CSR); a networkx graph, which takes some hundred bytes an edge, is made only
on demand. The words behind a tie, such as the author that two books share, are kept once an item and not once a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import fingerprint as digest
from llm_tail.artifacts import read_artifact, write_artifact
from llm_tail.config import GraphConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, closest
from llm_tail.neighbors.edges import (
    SIMILAR,
    TAKEN_TOGETHER,
    GraphReport,
    SharedValues,
    co_ties,
    near_rows,
    near_ties,
    shared_values,
    tie_columns,
    value_ties,
)
from llm_tail.neighbors.exact import check_k
from llm_tail.neighbors.walks import STRONGEST, Related, Step, best_ways, strongest_path, together

if TYPE_CHECKING:
    import networkx as nx

    from llm_tail.neighbors.index import NeighborIndex

__all__ = ["GraphReport", "ItemGraph", "Related", "Step"]

KIND = "item-graph"
HUBS_SHOWN = 20


class ItemGraph:
    """Items and typed, weighted, undirected ties between them; made with `build` or `load`.

    Attributes
    ----------
    ids : IdMap
        The items; their rows are the rows of every matrix.
    report : GraphReport
        Ties of each relation, hubs that were left out, items without a tie.

    Notes
    -----
    A tie's *strength* makes relations comparable. It lies in (0, 1): the cosine itself for "similar" and
    "taken_together", 1 - exp(-weight) for shared values. Several relations between the same two items add up like
    independent reasons, 1 - (1 - s1)(1 - s2)...; a path is as strong as the product of its steps.

    Memory: 8 bytes a direction of a tie and relation, and as much again for the combined matrix once it is used.

    Examples
    --------
    >>> books = Catalog.from_items([
    ...     {"item_id": "emma", "title": "Emma", "author": "Jane Austen"},
    ...     {"item_id": "persuasion", "title": "Persuasion", "author": "Jane  AUSTEN"},
    ...     {"item_id": "dracula", "title": "Dracula", "author": "Bram Stoker"},
    ... ])
    >>> graph = ItemGraph.build(books, relations=["author"])
    >>> graph
    ItemGraph(3 items, 1 edge: author 1)
    >>> [(step.relation, step.value, step.target) for step in graph.path("emma", "persuasion")]
    [('author', 'Jane Austen', 'persuasion')]
    """

    def __init__(
        self,
        ids: IdMap,
        matrices: Mapping[str, sp.csr_matrix],
        *,
        titles: Sequence[str] | None = None,
        values: Mapping[str, SharedValues] | None = None,
        report: GraphReport | None = None,
    ) -> None:
        self.ids = ids
        self._matrices = dict(matrices)
        self._titles = list(titles) if titles is not None else [""] * len(ids)
        self._values = dict(values or {})
        self._strengths: dict[str | None, sp.csr_matrix] = {}
        self.report = report or GraphReport({name: m.nnz // 2 for name, m in self._matrices.items()})

    @classmethod
    def build(
        cls,
        catalog: Catalog,
        *,
        index: NeighborIndex | None = None,
        embeddings: Embeddings | None = None,
        relations: Sequence[str] = (),
        interactions: Interactions | None = None,
        config: GraphConfig | None = None,
    ) -> ItemGraph:
        """Tie the items of a catalogue.

        Parameters
        ----------
        catalog : Catalog
            The items and the columns whose values they may share.
        index : NeighborIndex, optional
            Gives the relation "similar"; has to hold every item of the catalogue.
        embeddings : Embeddings, optional
            The same without an index, by exact search.
        relations : sequence of str, optional
            Columns, scalar or list; sharing a value of which n items have ties two items with 1 / log2(1 + n), summed
            over the values they share. ``config.relations`` if left out.
        interactions : Interactions, optional
            Gives the relation "taken_together". TRAINING interactions only: ties made of others carry the test into
            the model.
        config : GraphConfig, optional
            How many ties an item keeps, and which values are too common to tie any.

        Raises
        ------
        DataError
            If a relation is no column, an item has no vector, or nothing is given that could tie items.
        """
        config = config or GraphConfig()
        columns = tie_columns(catalog, [relations] if isinstance(relations, str) else relations or config.relations)
        matrices: dict[str, sp.csr_matrix] = {}
        source = index if index is not None else embeddings
        if source is not None:
            rows, similarities = near_rows(catalog, source, config.neighbors)
            matrices[SIMILAR] = near_ties(rows, similarities, config.min_similarity)
        values = {column: shared_values(catalog, column, config.hub_cap) for column in columns}
        matrices |= {column: value_ties(shared) for column, shared in values.items()}
        if interactions is not None and config.co_interaction:
            matrices[TAKEN_TOGETHER] = co_ties(interactions.on(catalog), config.co_neighbors)
        if not matrices:
            raise DataError("nothing is given that could tie items; give an index, relations or interactions")
        graph = cls(catalog.ids, matrices, titles=catalog.titles, values=values)
        graph.report = GraphReport(
            graph.report.edges,
            {column: len(shared.hubs) for column, shared in values.items()},
            {column: dict(list(shared.hubs.items())[:HUBS_SHOWN]) for column, shared in values.items()},
            int((graph.degree() == 0).sum()),
        )
        return graph

    @property
    def relations(self) -> list[str]:
        """The names of the relations."""
        return list(self._matrices)

    @property
    def n_edges(self) -> int:
        """How many ties there are: each pair counts once for every relation that ties it."""
        return sum(self.report.edges.values())

    def matrix(self, relation: str | None = None) -> sp.csr_matrix:
        """Return one relation's weights, or how strongly items are tied by all relations together.

        Parameters
        ----------
        relation : str, optional
            One of `relations`; all of them, as strengths in (0, 1), if left out.

        Returns
        -------
        csr_matrix of float32, shape (n_items, n_items)
            Symmetric, no loops. Not a copy: do not write into it.
        """
        return self._strength(None) if relation is None else self._matrices[self._known(relation)]

    def degree(self, relation: str | None = None) -> NDArray[np.int64]:
        """Return how many other items each item is tied to, shape (n_items,)."""
        return np.diff(self.matrix(relation).indptr).astype(np.int64)

    def neighbors(self, item_id: str, relation: str) -> list[tuple[str, float]]:
        """Return the items that one relation ties to an item and the weights of the ties, strongest first."""
        row, matrix = self.ids.row(item_id), self._matrices[self._known(relation)]
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        order = np.lexsort((matrix.indices[part], -matrix.data[part]))
        found = zip(matrix.indices[part][order], matrix.data[part][order].tolist(), strict=True)
        return [(self.ids[int(other)], weight) for other, weight in found]

    def related(self, item_id: str, *, hops: int = 1, relation: str | None = None, k: int = 20) -> list[Related]:
        """Return the items that can be reached from an item, best first.

        Parameters
        ----------
        item_id : str
            Where to start.
        hops : int
            How many steps to go at most, at least 1.
        relation : str, optional
            Walk along this relation only.
        k : int
            How many to return at most.

        Raises
        ------
        UnknownIdError
            If there is no such item.
        DataError
            If there is no such relation, or `hops` or `k` is below 1.

        Notes
        -----
        O(ties within reach) time a hop, O(n_items) memory a hop.
        """
        k, start = check_k(k), self.ids.row(item_id)
        if hops < 1:
            raise DataError(f"hops is {hops}, expected at least 1")
        ways = best_ways(self._strength(relation), start, hops)
        return [self._related(way, weight, relation) for way, weight in ways.best(k)]

    def path(self, a: str, b: str) -> list[Step]:
        """Return the strongest chain of ties from one item to another, to explain the one by the other.

        The strongest chain is that with the largest product of strengths (as in `related`), whatever its length: two
        strong steps beat one weak one. It is empty where there is none, and where `a` is `b`.

        Raises
        ------
        UnknownIdError
            If there is no such item.

        Notes
        -----
        Dijkstra's algorithm on -log(strength): O(n_edges log n_items) time.
        """
        start, end = self.ids.row(a), self.ids.row(b)
        way = strongest_path(self._strength(None), start, end)
        return [self._step(source, target) for source, target in pairwise(way)]

    def to_networkx(self, relations: Sequence[str] | None = None) -> nx.MultiGraph:
        """Return a networkx graph: nodes carry ``title``, edges have the relation as key and carry ``weight``.

        Parameters
        ----------
        relations : sequence of str, optional
            Which; all of them if left out.

        Notes
        -----
        Takes some 500 bytes an edge: 10 GB for twenty million of them.
        """
        import networkx as nx

        graph = nx.MultiGraph()
        graph.add_nodes_from((item_id, {"title": title}) for item_id, title in zip(self.ids, self._titles, strict=True))
        for relation in self.relations if relations is None else relations:
            upper = sp.triu(self._matrices[self._known(relation)], k=1).tocoo()
            ends = (self.ids.values[upper.row], self.ids.values[upper.col], upper.data.tolist())
            graph.add_edges_from((a, b, relation, {"weight": w}) for a, b, w in zip(*ends, strict=True))
        return graph

    def fingerprint(self) -> str:
        """Return a digest of the items and all ties."""
        arrays = (
            x for m in self._matrices.values() for x in (m.indptr.astype(np.int64), m.indices.astype(np.int64), m.data)
        )
        return digest(self.ids.values, self.relations, *arrays)

    def save(self, folder: str | Path, *, fingerprint: str | None = None) -> Path:
        """Write the graph and return its folder.

        Parameters
        ----------
        folder : path
            Gets ``edges.safetensors``, ``items.parquet`` and ``values.parquet``.
        fingerprint : str, optional
            Digest of what it was made from; `fingerprint` of the graph itself if left out.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for name, matrix in self._matrices.items():
            arrays |= _parts(f"ties/{name}", matrix) | {f"ties/{name}/data": matrix.data}
        for name, shared in self._values.items():
            arrays |= _parts(f"values/{name}", shared.members)
        words = [(name, str(value)) for name, shared in self._values.items() for value in shared.names]
        report = self.report
        facts = {
            "n_items": len(self),
            "relations": self.relations,
            "columns": list(self._values),
            "report": {
                "edges": report.edges,
                "n_hubs": report.n_hubs,
                "hubs": report.hubs,
                "n_untied": report.n_untied,
            },
        }
        with write_artifact(folder, KIND, fingerprint or self.fingerprint(), facts) as draft:
            save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, draft.file("edges.safetensors"))
            items = pd.DataFrame({"id": self.ids.values.astype(str), "title": self._titles})
            items.to_parquet(draft.file("items.parquet"))
            frame = pd.DataFrame(words, columns=["relation", "value"], dtype=str)
            frame.to_parquet(draft.file("values.parquet"))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None) -> ItemGraph:
        """Read a graph that `save` wrote; every file is checked against its digest before it is opened.

        Raises
        ------
        StaleArtifactError
            If it is not there, or was made from something else than `fingerprint` says.
        CorruptArtifactError
            If a file is not what was written.
        """
        artifact = read_artifact(folder, KIND, fingerprint, stage="llm-tail graph")
        try:
            facts = artifact.facts
            arrays = load_file(artifact.file("edges.safetensors"))
            items = pd.read_parquet(artifact.file("items.parquet"))
            words = pd.read_parquet(artifact.file("values.parquet"))
            n = len(items)
            matrices = {name: _matrix(f"ties/{name}", arrays, (n, n)) for name in facts["relations"]}
            values, report = {}, GraphReport(**facts["report"])
            for name in facts["columns"]:
                names = words["value"][words["relation"] == name].to_numpy(dtype=object)
                members = _matrix(f"values/{name}", arrays, (n, len(names)))
                values[name] = SharedValues(members, names, report.hubs[name])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifactError(
                f"the {KIND} at {folder} cannot be read ({error})", "remove the folder, then run: llm-tail graph"
            ) from error
        ids = IdMap(items["id"].to_numpy(), "item")
        return cls(ids, matrices, titles=items["title"].tolist(), values=values, report=report)

    def _known(self, relation: str) -> str:
        if relation not in self._matrices:
            near = closest(relation, self._matrices, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(self._matrices)}"
            raise DataError(f"the graph has no relation {relation!r}; {hint}")
        return relation

    def _strength(self, relation: str | None) -> sp.csr_matrix:
        """Return the ties with strengths in (0, 1) for weights, made once; `relation` None is all of them together."""
        if relation not in self._strengths:
            if relation is None:
                self._strengths[None] = together([self._scaled(name) for name in self._matrices])
            else:
                self._strengths[relation] = self._scaled(self._known(relation))
        return self._strengths[relation]

    def _scaled(self, relation: str) -> sp.csr_matrix:
        scaled = self._matrices[relation].copy()
        if relation in self._values:
            scaled.data = -np.expm1(-scaled.data)
        np.minimum(scaled.data, STRONGEST, out=scaled.data)
        return scaled

    def _related(self, way: list[int], weight: float, relation: str | None) -> Related:
        hops = len(way) - 1
        if relation is not None:
            relations: tuple[str, ...] = (relation,) * hops
        elif hops == 1:
            relations = tuple(self._between(*way))
        else:
            relations = tuple(next(iter(self._between(*step))) for step in pairwise(way))
        return Related(self.ids[way[-1]], relations, weight, hops, tuple(self.ids[row] for row in way[1:-1]))

    def _between(self, a: int, b: int) -> dict[str, float]:
        """Return the strengths of the relations that tie two items, strongest first."""
        found = {}
        for name, matrix in self._matrices.items():
            weight = float(matrix[a, b])
            if weight > 0:
                found[name] = float(-np.expm1(-weight)) if name in self._values else weight
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def _step(self, a: int, b: int) -> Step:
        relation = next(iter(self._between(a, b)))
        weight = float(self._strength(None)[a, b])
        return Step(self.ids[a], relation, self.ids[b], weight, self._shared(relation, a, b))

    def _shared(self, relation: str, a: int, b: int) -> str | None:
        """Return the rarest value that two items share."""
        if relation not in self._values:
            return None
        shared = self._values[relation]
        both = np.intersect1d(shared.members[a].indices, shared.members[b].indices)
        return str(shared.names[both[np.argmax(shared.weights[both])]])

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.ids

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {n:,}" for name, n in self.report.edges.items())
        edges = "edge" if self.n_edges == 1 else "edges"
        return f"ItemGraph({len(self):,} items, {self.n_edges:,} {edges}: {parts})"


def _parts(name: str, matrix: sp.csr_matrix) -> dict[str, NDArray[Any]]:
    return {f"{name}/indptr": matrix.indptr.astype(np.int64), f"{name}/indices": matrix.indices.astype(np.int32)}


def _matrix(name: str, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> sp.csr_matrix:
    indices = arrays[f"{name}/indices"]
    data = arrays.get(f"{name}/data", np.ones(len(indices), dtype=np.float32))
    return sp.csr_matrix((data, indices, arrays[f"{name}/indptr"]), shape=shape)
