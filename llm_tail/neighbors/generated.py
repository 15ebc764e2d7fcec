"""Ties out of generated fields: each a relation of its own called ``generated:...``, so that all can be dropped.

::

    generated:<name>         items that share a generated value of that name; for a name that is also a column of the
                             catalogue, items without a value of their own with those that have the guessed one
    generated:substitute     what a language model said of two items; the reason and who gave it stand in the
    generated:complement     enrichment (`why_tied`)
    generated:sequel
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config.enriching import Task
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap, Rows
from llm_tail.enrichment.result import Enrichment, Generated
from llm_tail.enrichment.schema import field_of
from llm_tail.errors import ConfigError
from llm_tail.neighbors.edges import SharedValues, shared_values, value_ties
from llm_tail.neighbors.graph import ItemGraph

PREFIX = "generated:"
TYPED: dict[str, Task] = {"generated_attributes": "attributes", "generated_relations": "relations"}
OTHER = "other"
MOST_NAMES = 12  # relations of shared values; rarer names share one
_ID = "item_id"


def with_generated(
    graph: ItemGraph,
    enrichment: Enrichment,
    catalog: Catalog | None = None,
    *,
    tasks: Sequence[Task] = ("attributes", "relations"),
    min_confidence: float = 0.5,
) -> ItemGraph:
    """Return the graph with the ties that generated fields make; every other tie stays as it is.

    Parameters
    ----------
    graph : ItemGraph
        Over the items; parts about others are left out.
    enrichment : Enrichment
        Whose ``attributes`` and ``relations`` are looked at.
    catalog : Catalog, optional
        Ties guessed values of a column to the items that have them by their own; without it guesses tie each other.
    tasks : sequence of {"attributes", "relations"}
        Whose answers tie. In a run, those that ``[graph] relations`` names as ``generated_attributes`` and
        ``generated_relations``.
    min_confidence : float
        Parts that are less sure tie nothing, in [0, 1].

    Returns
    -------
    ItemGraph
        The same items. Ties that a language model gave weigh as much as it was sure; both directions are one.

    Raises
    ------
    ConfigError
        If `min_confidence` is out of its range.

    Notes
    -----
    Values are compared and weighed as those of columns are, hubs left out by ``graph.config.hub_cap``. The twelve most
    frequent names have a relation each, all others share ``generated:other``.

    Examples
    --------
    >>> books = Catalog.from_items([{"item_id": i, "title": i, "author": "x"} for i in ("emma", "persuasion", "dune")])
    >>> parts = [Generated(i, "attributes", "comic", name="mood", confidence=0.9) for i in ("emma", "persuasion")]
    >>> parts.append(Generated("dune", "relations", "both are long", "complement", "emma", confidence=0.8))
    >>> graph = with_generated(ItemGraph.build(books, relations=["author"]), Enrichment.from_parts(parts))
    >>> graph
    ItemGraph(3 items, 5 edges: author 3, generated:mood 1, generated:complement 1)
    >>> without_generated(graph).relations
    ['author']
    """
    if not 0 <= min_confidence <= 1:
        raise ConfigError(f"min_confidence is {min_confidence}, expected a number from 0 to 1")
    sure = enrichment.table.filter(pc.greater_equal(enrichment.table["confidence"], min_confidence))
    plain = without_generated(graph)
    matrices, values = dict(plain._matrices), dict(plain._values)
    told = _shared(sure, graph.ids, catalog, graph.config.hub_cap) if "attributes" in tasks else {}
    for name, (shared, guessed) in told.items():
        matrices[PREFIX + name], values[PREFIX + name] = _told(value_ties(shared), guessed), shared
    for kind, ties in (_given(sure, graph.ids) if "relations" in tasks else {}).items():
        matrices[PREFIX + kind] = ties
    kept = {name: matrix for name, matrix in matrices.items() if matrix.nnz or not name.startswith(PREFIX)}
    values = {name: shared for name, shared in values.items() if name in kept}
    return ItemGraph(graph.ids, kept, titles=graph._titles, values=values, config=graph.config)


def without_generated(graph: ItemGraph) -> ItemGraph:
    """Return the graph as it is without any tie that was generated."""
    matrices = {name: matrix for name, matrix in graph._matrices.items() if not name.startswith(PREFIX)}
    values = {name: shared for name, shared in graph._values.items() if name in matrices}
    return ItemGraph(graph.ids, matrices, titles=graph._titles, values=values, config=graph.config)


def why_tied(enrichment: Enrichment, a: str, b: str, catalog: Catalog | None = None) -> list[Generated]:
    """Return the generated parts behind the ties of two items: what both were given, and what was said of both.

    Parameters
    ----------
    enrichment : Enrichment
        What the ties were made of.
    a, b : str
        Ids of the items.
    catalog : Catalog, optional
        Where one of the two may have by its own what the other was given.

    Notes
    -----
    One pass over the table. Each part tells its basis, confidence and provenance.
    """
    table = enrichment.table
    parts = list(Enrichment(table.filter(pc.is_in(table[_ID], value_set=pa.array([a, b])))))
    given = [p for p in parts if p.task == "attributes"]
    held = {item: {(p.name, p.value.casefold()) for p in given if p.item_id == item} for item in (a, b)}
    for name in {p.name for p in given} if catalog is not None else ():
        for item in (a, b):
            own = catalog[item].fields.get(name) if catalog is not None and item in catalog else None
            held[item] |= {(name, str(one).casefold()) for one in (own if isinstance(own, list) else [own])}
    shared = held[a] & held[b]
    said = [p for p in parts if p.task == "relations" and {p.item_id, p.target} == {a, b}]
    return said + [p for p in given if (p.name, p.value.casefold()) in shared]


def _shared(
    sure: pa.Table, ids: IdMap, catalog: Catalog | None, hub_cap: int
) -> dict[str, tuple[SharedValues, NDArray[np.bool_] | None]]:
    """Return who shares which generated value, by name, and where items have values of their own, who was guessed."""
    table = sure.filter(pc.equal(sure["field"], field_of("attributes")))
    rows = ids.rows(table[_ID].to_pylist())
    names, words = np.asarray(table["name"].to_pylist(), object), np.asarray(table["value"].to_pylist(), object)
    there = rows >= 0
    rows, names, words = rows[there], names[there], words[there]
    distinct, counts = np.unique(names.astype(str), return_counts=True)
    frequent = sorted(distinct[np.argsort(-counts, kind="stable")][:MOST_NAMES].tolist())
    found = {}
    for name in [*frequent, OTHER] if len(distinct) > len(frequent) else frequent:
        mine = ~np.isin(names.astype(str), frequent) if name == OTHER and name not in frequent else names == name
        guessed, own = None, None
        if catalog is not None and name in catalog.columns:
            guessed = np.zeros(len(ids), dtype=bool)
            guessed[rows[mine]] = True
            own = catalog.take(catalog.ids.rows(ids.values)).table[name]
        column = _lists(len(ids), rows[mine], words[mine], own)
        relation = Catalog(pa.table({_ID: pa.array(ids.values, pa.string()), PREFIX: column}))
        found[name] = (shared_values(relation, PREFIX, hub_cap), guessed)
    return found


def _lists(n: int, rows: Rows, words: Sequence[str] | NDArray[np.object_], own: pa.ChunkedArray | None) -> pa.Array:
    """Return a list of values for each item: what was generated, and what it has of its own."""
    lists: list[list[str]] = [[] for _ in range(n)]
    for row, word in zip(rows.tolist(), words, strict=True):
        lists[row].append(word)
    for row, value in enumerate([] if own is None else own.to_pylist()):
        given = value if isinstance(value, list) else [value]
        lists[row] += [str(one) for one in given if one is not None and str(one).strip()]
    return pa.array(lists, pa.list_(pa.string()))


def _told(ties: sp.csr_matrix, guessed: NDArray[np.bool_] | None) -> sp.csr_matrix:
    """Return the ties that a guess takes part in: the others are those of the column itself."""
    if guessed is None:
        return ties
    coo = ties.tocoo()
    kept = guessed[coo.row] | guessed[coo.col]
    return sp.csr_matrix((coo.data[kept], (coo.row[kept], coo.col[kept])), shape=ties.shape)


def _given(sure: pa.Table, ids: IdMap) -> dict[str, sp.csr_matrix]:
    """Return the ties that were said of two items, by kind; the surest where both were said of each other."""
    table = sure.filter(pc.equal(sure["field"], field_of("relations")))
    kinds = np.asarray(table["name"].to_pylist(), object)
    ends = [ids.rows(table[column].to_pylist()) for column in (_ID, "target")]
    weights = np.asarray(table["confidence"].to_numpy(), np.float32)
    found = {}
    for kind in dict.fromkeys(kinds.tolist()):
        fit = (kinds == kind) & (ends[0] >= 0) & (ends[1] >= 0) & (ends[0] != ends[1]) & (weights > 0)
        order = np.flatnonzero(fit)[np.argsort(weights[fit], kind="stable")]
        one, other = np.r_[ends[0][order], ends[1][order]], np.r_[ends[1][order], ends[0][order]]
        places, last = np.unique((one * len(ids) + other)[::-1], return_index=True)
        data = np.r_[weights[order], weights[order]][::-1][last]
        shape = (len(ids), len(ids))
        found[kind] = sp.csr_matrix((data, (places // len(ids), places % len(ids))), shape=shape)
    return found
