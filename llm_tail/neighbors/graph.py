"""ItemGraph: items and the typed ties between them, to walk along and to explain by.

Inside, each relation is one sparse matrix (CSR); a networkx graph, which takes some hundred bytes an edge, is made only
on demand. The words behind a tie, such as the author that two books share, are kept once an item and not once a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.artifacts import fingerprint as digest
from llm_tail.config import GraphConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError
from llm_tail.html import html_table
from llm_tail.neighbors.edges import (
    SIMILAR,
    TAKEN_TOGETHER,
    SharedValues,
    co_ties,
    near_rows,
    near_ties,
    shared_values,
    tie_columns,
    value_ties,
)
from llm_tail.neighbors.questions import Questions
from llm_tail.neighbors.report import ALL, Degrees, GraphReport, components_of, sizes_of
from llm_tail.neighbors.strengths import arrays_of
from llm_tail.neighbors.walks import Related, Step

if TYPE_CHECKING:
    import networkx as nx

    from llm_tail.neighbors.index import NeighborIndex

__all__ = ["GraphReport", "ItemGraph", "Related", "Step"]

HUBS_SHOWN = 20


class ItemGraph(Questions):
    """Items and typed, weighted, undirected ties between them; made with `build` or `load`.

    Attributes
    ----------
    ids : IdMap
        The items; their rows are the rows of every matrix.
    config : GraphConfig
        The settings it was built with.

    Notes
    -----
    A tie's *strength* makes relations comparable. It lies in (0, 1): the cosine itself for "similar" and
    "taken_together", 1 - exp(-weight) for shared values. Several relations between the same two items add up like
    independent reasons, 1 - (1 - s1)(1 - s2)...; a path is as strong as the product of its steps.

    Memory: 8 bytes a direction of a tie and relation (`n_bytes` counts every array). `path`, `communities`, `bridges`
    and a `walk` in a graph of medium size make the combined matrix of several relations, which is kept and takes as
    much again; `related` and `neighborhood` do without.

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
        titles: Sequence[str] | pa.Array | None = None,
        values: Mapping[str, SharedValues] | None = None,
        config: GraphConfig | None = None,
    ) -> None:
        self.ids = ids
        self._matrices = dict(matrices)
        words = [""] * len(ids) if titles is None else titles
        self._titles = words if isinstance(words, pa.Array) else pa.array(words, pa.string())
        self._values = dict(values or {})
        self.config = config or GraphConfig()
        self._strengths = {}

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
            matrices[SIMILAR] = near_ties(rows, similarities, config.min_similarity, mutual=config.mutual)
        values = {column: shared_values(catalog, column, config.hub_cap) for column in columns}
        matrices |= {column: value_ties(shared) for column, shared in values.items()}
        if interactions is not None and config.co_interaction:
            matrices[TAKEN_TOGETHER] = co_ties(interactions.on(catalog), config.co_neighbors)
        if not matrices:
            raise DataError("nothing is given that could tie items; give an index, relations or interactions")
        return cls(catalog.ids, matrices, titles=titles_of(catalog), values=values, config=config)

    @property
    def relations(self) -> list[str]:
        """The names of the relations."""
        return list(self._matrices)

    @property
    def n_edges(self) -> int:
        """How many ties there are: each pair counts once for every relation that ties it."""
        return sum(self.edges.values())

    @property
    def edges(self) -> dict[str, int]:
        """How many ties each relation has, each pair counted once."""
        return {name: matrix.nnz // 2 for name, matrix in self._matrices.items()}

    @property
    def n_bytes(self) -> int:
        """What all arrays take: ties with their weights, who has which value, and what was made of them since."""
        ties = sum(array.nbytes for matrix in self._matrices.values() for array in arrays_of(matrix))
        values = sum(array.nbytes for shared in self._values.values() for array in arrays_of(shared.members))
        return ties + values + sum(made.kept_bytes for made in self._strengths.values())

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
        return self._along().whole() if relation is None else self._matrices[self._known(relation)]

    def degree(self, relation: str | None = None) -> NDArray[np.int64]:
        """Return how many other items each item is tied to, shape (n_items,)."""
        return self._along(None if relation is None else (self._known(relation),)).degrees()

    def report(self) -> GraphReport:
        """Count ties, degrees, hubs that were left out, and the parts that hang together.

        O(n_edges) time; memory for one relation.
        """
        degrees = {name: self.degree(name) for name in self.relations}
        together = self.degree()
        labels, tied = components_of(self._matrices, len(self)), together > 0
        sizes = sizes_of(labels, tied)
        return GraphReport(
            len(self),
            self.edges,
            {name: len(shared.hubs) for name, shared in self._values.items()},
            {name: dict(list(shared.hubs.items())[:HUBS_SHOWN]) for name, shared in self._values.items()},
            int((~tied).sum()),
            {name: Degrees.of(one) for name, one in {**degrees, ALL: together}.items()},
            tuple(sizes[:HUBS_SHOWN].tolist()),
            len(sizes),
            self.n_bytes,
        )

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
        from llm_tail.neighbors.exchange import to_networkx

        return to_networkx(self, self._chosen(relations))

    @classmethod
    def from_networkx(cls, graph: nx.Graph) -> ItemGraph:
        """Return the item graph that `to_networkx` gave, or one of any undirected networkx graph.

        Parameters
        ----------
        graph : networkx.Graph or MultiGraph
            Nodes may carry ``title``, edges ``weight`` (1 if missing) and, in a plain graph, ``relation``.

        Raises
        ------
        DataError
            If it is directed, or a weight is not above 0.
        """
        from llm_tail.neighbors.exchange import from_networkx

        return from_networkx(graph)

    def export(self, path: str | Path, *, relations: Sequence[str] | None = None, base: str = "urn:llm-tail:") -> Path:
        """Write the graph for other tools and return its path; the suffix says how.

        Parameters
        ----------
        path : path
            ``.graphml`` (Gephi, yEd, networkx), ``.jsonld`` and ``.nt`` (RDF stores), or ``.parquet``, which
            `from_parquet` reads back without loss: a table of ties, and beside it ``NAME.items.parquet``.
        relations : sequence of str, optional
            Which; all of them if left out.
        base : str
            What the IRIs of items and relations begin with, in JSON-LD and N-Triples.

        Raises
        ------
        DataError
            If the suffix is none of these, or there is no such relation.
        """
        from llm_tail.neighbors.exchange import export

        return export(self, Path(path), self._chosen(relations), base)

    @classmethod
    def from_parquet(cls, path: str | Path) -> ItemGraph:
        """Read what `export` wrote into a parquet file; another table of ties will do too.

        Parameters
        ----------
        path : path
            Columns ``source``, ``target``, and if there ``relation`` and ``weight``.
        """
        from llm_tail.neighbors.exchange import from_parquet

        return from_parquet(Path(path))

    def upsert(
        self,
        catalog: Catalog,
        changed: Sequence[str] = (),
        *,
        index: NeighborIndex | None = None,
        embeddings: Embeddings | None = None,
        interactions: Interactions | None = None,
    ) -> ItemGraph:
        """Return the graph with items added, replaced and removed; the ties of the others are kept and not made again.

        It equals a graph that is built anew, up to what an approximate search finds.

        Parameters
        ----------
        catalog : Catalog
            All items as they are now. Those that the graph lacks are added, those that it has and the catalogue has
            not are removed.
        changed : sequence of str
            Items that were there before and have other values or another vector now.
        index, embeddings : NeighborIndex or Embeddings
            The vectors of all items as they are now; one of them where the graph has the relation "similar".
        interactions : Interactions, optional
            All training interactions as they are now; without them, ties of "taken_together" stay as they are.

        Raises
        ------
        DataError
            If a changed item is not in the catalogue, or the vectors are missing.

        Notes
        -----
        O(n_new n_items dim) for those whose neighbours a new item displaces, and a query for each of these; with
        ``mutual``, a query for every item. Only ties of columns that a new item could have changed are counted again.
        """
        from llm_tail.neighbors.growing import upsert

        return upsert(self, catalog, changed, index if index is not None else embeddings, interactions)

    def plot(
        self, item_id: str, hops: int = 2, *, k: int = 30, relations: Sequence[str] | None = None, ax: Any = None
    ) -> Any:
        """Draw an item and what is near it in the graph, by matplotlib (extra ``plot``).

        Parameters
        ----------
        item_id : str
            The item in the middle.
        hops : int
            Rings around it.
        k : int
            How many other items at most.
        relations : sequence of str, optional
            Along these relations only; all of them if left out.
        ax : matplotlib axes, optional
            Where to draw; a figure of its own if left out.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from llm_tail.neighbors.drawing import draw_neighborhood

        return draw_neighborhood(self.neighborhood(item_id, hops=hops, k=k, relations=relations), ax)

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
        from llm_tail.neighbors.graph_files import save_graph

        return save_graph(self, Path(folder), fingerprint or self.fingerprint())

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
        from llm_tail.neighbors.graph_files import load_graph

        return load_graph(Path(folder), fingerprint)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.ids

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {n:,}" for name, n in self.edges.items())
        edges = "edge" if self.n_edges == 1 else "edges"
        return f"ItemGraph({len(self):,} items, {self.n_edges:,} {edges}: {parts})"

    def _repr_html_(self) -> str:
        rows = ([name, n] for name, n in self.edges.items())
        return html_table(["relation", "edges"], rows, title=repr(self))


def titles_of(catalog: Catalog) -> pa.Array:
    """Return the titles of a catalogue as they lie in its table."""
    column = catalog.table["title"].combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
