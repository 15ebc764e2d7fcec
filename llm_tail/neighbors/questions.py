"""What an item graph can be asked: who is related, along which path, where a walk leads, what belongs together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.data.segments import Segments
from llm_tail.errors import DataError, closest
from llm_tail.neighbors import communities as grouping
from llm_tail.neighbors import random_walks
from llm_tail.neighbors.bridges import Bridge, Bridges, crossings
from llm_tail.neighbors.communities import Communities
from llm_tail.neighbors.edges import SharedValues
from llm_tail.neighbors.exact import check_k
from llm_tail.neighbors.neighborhood import Edge, Neighborhood, Node
from llm_tail.neighbors.random_walks import Walk
from llm_tail.neighbors.strengths import Strengths
from llm_tail.neighbors.walks import ItemPath, Related, RelatedItems, Step, best_ways, strongest_path


class Questions:
    """The asking half of `ItemGraph`, which sets what is named here."""

    ids: IdMap
    _matrices: dict[str, sp.csr_matrix]
    _values: dict[str, SharedValues]
    _titles: pa.Array
    _strengths: dict[tuple[str, ...], Strengths]

    def neighbors(self, item_id: str, relation: str) -> list[tuple[str, float]]:
        """Return the items that one relation ties to an item and the weights of the ties, strongest first."""
        row, matrix = self.ids.row(item_id), self._matrices[self._known(relation)]
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        order = np.lexsort((matrix.indices[part], -matrix.data[part]))
        found = zip(matrix.indices[part][order], matrix.data[part][order].tolist(), strict=True)
        return [(self.ids[int(other)], weight) for other, weight in found]

    def related(
        self,
        item_id: str,
        *,
        hops: int = 1,
        relation: str | None = None,
        k: int = 20,
        relations: Sequence[str] | None = None,
    ) -> list[Related]:
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
        relations : sequence of str, optional
            Walk along these relations only; all of them if left out.

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
        k, start, names = check_k(k), self.ids.row(item_id), self._chosen(relations, relation)
        if hops < 1:
            raise DataError(f"hops is {hops}, expected at least 1")
        found = [
            self._related(way, weight, names) for way, weight in best_ways(self._along(names), start, hops).best(k)
        ]
        return RelatedItems(found, [self.title(one.item_id) for one in found])

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
        way = strongest_path(self._along().whole(), start, end)
        return ItemPath(self._step(source, target) for source, target in pairwise(way))

    def between(self, a: str, b: str) -> list[tuple[str, float]]:
        """Return the relations that tie two items and their strengths in (0, 1], strongest first."""
        return list(self._between(self.ids.row(a), self.ids.row(b)).items())

    def neighborhood(
        self, item_id: str, *, k: int = 30, hops: int = 2, relations: Sequence[str] | None = None
    ) -> Neighborhood:
        """Return an item, at most k others within reach, and all ties among them: a graph small enough to be drawn.

        Parameters
        ----------
        item_id : str
            The item in the middle.
        k, hops, relations
            As in `related`.

        Raises
        ------
        UnknownIdError, DataError
            As `related` does.
        """
        found = self.related(item_id, hops=hops, k=k, relations=relations)
        nodes = [Node(item_id, self.title(item_id), 1.0, 0)]
        nodes += [Node(one.item_id, self.title(one.item_id), one.weight, one.hops) for one in found]
        rows = self.ids.rows([node.item_id for node in nodes])
        names = self._chosen(relations)
        near = sp.triu(self._along(names)[rows][:, rows], k=1).tocoo()
        order = np.lexsort((near.col, near.row, -near.data))
        ends = zip(near.row[order].tolist(), near.col[order].tolist(), near.data[order].tolist(), strict=True)
        return Neighborhood(item_id, nodes, [self._edge(int(rows[a]), int(rows[b]), w, names) for a, b, w in ends])

    def walk(
        self,
        items: str | Sequence[str] | Mapping[str, float],
        k: int = 20,
        *,
        restart: float = 0.15,
        relations: Sequence[str] | None = None,
        method: random_walks.Method = "auto",
    ) -> Walk:
        """Return where a random walk from some items spends its time: personalised PageRank.

        Each step goes along a tie, drawn by its strength, or with probability `restart` back to the start. Unlike
        `related` it adds up all ways to an item, so that many weak ones count too.

        Parameters
        ----------
        items : str, sequence of str or mapping of str to float
            Where it starts; with a mapping, how often at each. They are left out of the answer.
        k : int
            How many items to return at most.
        restart : float
            Between 0 and 1; a larger one stays closer to the start.
        relations : sequence of str, optional
            Walk along these relations only; all of them if left out.
        method : {"auto", "power", "push"}
            Exact, by power iteration over the whole graph; or by pushing shares on from the start until what is left
            does not matter, for large graphs. "auto" takes the first up to 3 million ties.

        Raises
        ------
        UnknownIdError, DataError
            If an item or relation is not there, nothing is given to start from, or a number is out of its range.
        """
        k, restart = check_k(k), random_walks.check_restart(restart)
        start, ties = random_walks.starting_shares(self.ids, items), self._along(self._chosen(relations))
        if method == "auto":
            n_edges = sum(matrix.nnz // 2 for matrix in self._matrices.values())
            method = "power" if n_edges <= random_walks.POWER_EDGES else "push"
        left = 0.0
        if method == "power":
            shares = random_walks.power(ties.whole(), start, restart)
        else:
            shares, left = random_walks.push(ties, start, restart)
        shares[start > 0] = 0.0
        reached = np.flatnonzero(shares > 0)
        best = reached[np.lexsort((reached, -shares[reached]))][:k]
        ids = tuple(self.ids[int(row)] for row in best)
        return Walk(ids, shares[best], tuple(map(self.title, ids)), left)

    def communities(
        self,
        texts: Catalog | Sequence[str] | None = None,
        *,
        relations: Sequence[str] | None = None,
        resolution: float = 1.0,
        seed: int = 0,
        method: grouping.Method = "auto",
        n_words: int = 3,
    ) -> Communities:
        """Return items that are tied to each other more than to the rest, and name them by their most telling words.

        Parameters
        ----------
        texts : Catalog or sequence of str, optional
            What the names are taken from: titles, descriptions and shared values, or one text an item; the titles if
            left out.
        relations : sequence of str, optional
            Look at these only; all of them if left out.
        resolution : float
            Above 1 for more and smaller communities, below 1 for fewer.
        seed : int
            Same seed, same communities.
        method : {"auto", "scikit-network", "networkx"}
            Louvain's method (V. Blondel et al., 2008) by one of these; "auto" takes scikit-network (extra ``graph``)
            where it is installed, and networkx, which takes minutes for a million ties, elsewhere.
        n_words : int
            Words of a name.

        Raises
        ------
        DataError
            If there is no such relation, or the texts are not as many as the items.
        MissingExtraError
            If scikit-network is asked for, or the graph is too large for networkx, and it is not installed.
        """
        words = self._words(texts)
        ties = self._along(self._chosen(relations)).whole()
        labels, modularity, used = grouping.find_communities(ties, resolution, seed, method)
        return Communities(self.ids, labels, grouping.name_groups(labels, words, n_words), modularity, used)

    def bridges(
        self, segments: Segments, k: int = 20, *, restart: float = 0.15, relations: Sequence[str] | None = None
    ) -> Bridges:
        """Return by which ties a random walk that starts at the head items gets to tail and cold ones.

        The walk is that of `walk` with every head item as a start; a tie counts by the expected number of steps over
        it from its head end to its other end, which is computed and not sampled.

        Parameters
        ----------
        segments : Segments
            Head, tail and cold, in the order of the graph's items.
        k : int
            How many ties and items to return at most.
        restart, relations
            As in `walk`.

        Raises
        ------
        DataError
            If the segments are of another catalogue, or there is no head item.
        """
        k, restart = check_k(k), random_walks.check_restart(restart)
        head = segments.head
        if len(head) != len(self.ids):
            raise DataError(f"the segments are of {len(head):,} items, the graph has {len(self.ids):,}")
        if not head.any():
            raise DataError("there is no head item to start from; bridges need some interactions")
        start = head / head.sum()
        names = self._chosen(relations)
        steps, total = crossings(self._along(names).whole(), head, start, restart)
        crossed = float(steps.data.sum()) or 1.0
        order = np.lexsort((steps.col, steps.row, -steps.data))[:k]
        ties = [
            self._bridge(int(steps.row[i]), int(steps.col[i]), float(steps.data[i]) / crossed, names) for i in order
        ]
        heads, tails = (
            self._most(np.bincount(side, steps.data, len(head)) / crossed, k) for side in (steps.row, steps.col)
        )
        n_reached = len(np.unique(steps.col))
        share = float(steps.data.sum()) / total if total > 0 else 0.0
        return Bridges(ties, heads, tails, share, n_reached, int((~head).sum()))

    def title(self, item_id: str) -> str:
        """Return the title of an item; empty where none is known."""
        return str(self._titles[self.ids.row(item_id)].as_py())

    # ---- small helpers

    def _known(self, relation: str) -> str:
        if relation not in self._matrices:
            near = closest(relation, self._matrices, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(self._matrices)}"
            raise DataError(f"the graph has no relation {relation!r}; {hint}")
        return relation

    def _chosen(self, relations: Sequence[str] | None, relation: str | None = None) -> tuple[str, ...]:
        """Return the relations that are meant, in the order of the graph; all where none is named."""
        if isinstance(relations, str):
            relations = [relations]
        named = {self._known(name) for name in [*(relations or []), *([relation] if relation is not None else [])]}
        return tuple(name for name in self._matrices if not named or name in named)

    def _along(self, relations: tuple[str, ...] | None = None) -> Strengths:
        """Return the strengths of some relations together; those of one relation and of all are kept."""
        names = tuple(self._matrices) if relations is None else relations
        if names not in self._strengths:
            made = Strengths({name: self._matrices[name] for name in names}, self._values)
            if len(names) not in (1, len(self._matrices)):
                return made
            self._strengths[names] = made
        return self._strengths[names]

    def _words(self, texts: Catalog | Sequence[str] | None) -> list[str]:
        if texts is None:
            return list(self._titles.to_pylist())
        if isinstance(texts, Catalog):
            rows = texts.ids.rows(self.ids.values)
            words = [f"{t} {d}" for t, d in zip(texts.titles, texts.column("description"), strict=True)]
            said = [words[row] if row >= 0 else "" for row in rows.tolist()]
            for shared in self._values.values():
                said = [f"{text} {' '.join(held)}" for text, held in zip(said, shared.by_item(), strict=True)]
            return said
        if len(texts) != len(self.ids):
            raise DataError(f"there are {len(texts):,} texts for {len(self.ids):,} items; expected one for each")
        return list(texts)

    def _related(self, way: list[int], weight: float, names: Collection[str]) -> Related:
        hops = len(way) - 1
        if hops == 1:
            relations = tuple(self._between(way[0], way[1], names))
        else:
            relations = tuple(next(iter(self._between(a, b, names))) for a, b in pairwise(way))
        return Related(self.ids[way[-1]], relations, weight, hops, tuple(self.ids[row] for row in way[1:-1]))

    def _between(self, a: int, b: int, names: Iterable[str] | None = None) -> dict[str, float]:
        """Return the strengths of the relations that tie two items, strongest first."""
        found = {}
        for name in self._matrices if names is None else names:
            weight = float(self._matrices[name][a, b])
            if weight > 0:
                found[name] = float(-np.expm1(-weight)) if name in self._values else weight
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def _step(self, a: int, b: int) -> Step:
        relation = next(iter(self._between(a, b)))
        weight = float(self._along().whole()[a, b])
        return Step(self.ids[a], relation, self.ids[b], weight, self._shared(relation, a, b))

    def _edge(self, a: int, b: int, weight: float, names: Collection[str]) -> Edge:
        relations = tuple(self._between(a, b, names))
        return Edge(self.ids[a], self.ids[b], relations, weight, self._shared(relations[0], a, b))

    def _bridge(self, a: int, b: int, share: float, names: Collection[str]) -> Bridge:
        relation = next(iter(self._between(a, b, names)))
        return Bridge(self.ids[a], self.ids[b], relation, share, self._shared(relation, a, b))

    def _most(self, shares: Any, k: int) -> list[tuple[str, float]]:
        rows = np.flatnonzero(shares > 0)
        best = rows[np.lexsort((rows, -shares[rows]))][:k]
        return [(self.ids[int(row)], float(shares[row])) for row in best]

    def _shared(self, relation: str, a: int, b: int) -> str | None:
        """Return the rarest value that two items share."""
        if relation not in self._values:
            return None
        shared = self._values[relation]
        both = np.intersect1d(shared.members[a].indices, shared.members[b].indices)
        return str(shared.names[both[np.argmax(shared.weights[both])]]) if len(both) else None
