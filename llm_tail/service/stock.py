"""Stock: items that came or changed through the service, found beside those of the run."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.catalog import Item
from llm_tail.embedding.embeddings import Embeddings
from llm_tail.service.journal import StoredItem

if TYPE_CHECKING:
    from llm_tail.recommenders.hybrid import HybridRecommender

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Shelf:
    """A state of the stock that no longer changes: a question looks at one from beginning to end.

    Parameters
    ----------
    items : mapping of str to Item
        By id, in the order of `vectors`.
    vectors : array of float32, shape (n_items, dim)
        Of length 1 or 0.
    changed : frozenset of str
        Those that the run has too, under older words.
    """

    items: Mapping[str, Item] = field(default_factory=dict)
    vectors: Vectors = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    changed: frozenset[str] = frozenset()

    def with_items(self, items: Sequence[Item], vectors: Vectors, known: Mapping[str, int]) -> Shelf:
        """Return a shelf with these items too, each in the place of what had its id; `known` are those of the run."""
        places = {item_id: place for place, item_id in enumerate(self.items)}
        for item in items:
            places.setdefault(item.item_id, len(places))
        grown = np.zeros((len(places), vectors.shape[1]), dtype=np.float32)
        if len(self.items):
            grown[: len(self.items)] = self.vectors
        for item, vector in zip(items, vectors, strict=True):  # of one id that stands twice the last counts
            grown[places[item.item_id]] = vector
        named = {**self.items, **{item.item_id: item for item in items}}
        return Shelf(named, grown, self.changed | {item.item_id for item in items if item.item_id in known})

    def near(
        self, vector: Vectors, k: int, *, without: str | None = None, among: Container[str] | None = None
    ) -> list[tuple[str, float]]:
        """Return up to k items with their cosines, best first; none for the zero vector.

        Parameters
        ----------
        vector : array, shape (dim,)
            Of length 1 or 0.
        k : int
            How many at most.
        without : str, optional
            An item to leave out.
        among : container of str, optional
            The only ones that may be found.
        """
        if not self.items or not vector.any():
            return []
        cosines = np.clip(self.vectors @ vector, -1.0, 1.0)
        cosines[~self.vectors.any(axis=1)] = -np.inf
        ids = list(self.items)
        found: list[tuple[str, float]] = []
        for place in np.argsort(-cosines, kind="stable").tolist():
            if len(found) == k or not np.isfinite(cosines[place]):
                break
            if ids[place] != without and (among is None or ids[place] in among):
                found.append((ids[place], float(cosines[place])))
        return found

    def vector(self, item_id: str) -> Vectors:
        """Return the vector of one of the items, shape (dim,)."""
        vector: Vectors = self.vectors[list(self.items).index(item_id)]
        return vector


class Stock:
    """What came through the service on top of one run: searched at once, recommended as soon as the hybrid has it.

    Parameters
    ----------
    known : mapping of str to int
        The items of the run.
    hybrid : HybridRecommender, optional
        As it was fitted; never changed, copies of it are.
    words : callable, optional
        Gives the vectors of the words of items, where the hybrid looks at them.

    Attributes
    ----------
    shelf : Shelf
        The state of this moment; replaced as a whole.
    hybrid : HybridRecommender or None
        With all new items that it has been told of.
    """

    def __init__(
        self,
        known: Mapping[str, int],
        hybrid: HybridRecommender | None,
        words: Callable[[Sequence[Item]], Vectors | None] = lambda _: None,
    ) -> None:
        self.known, self.shelf, self._words = known, Shelf(), words
        self._fitted = self.hybrid = hybrid
        self._told: dict[str, tuple[bytes, Item]] = {}  # new items that the hybrid has, as it has them
        self._work = threading.Lock()

    def put(self, items: Sequence[Item], vectors: Vectors) -> None:
        """Let items be found from now on; calls must not overlap."""
        self.shelf = self.shelf.with_items(items, vectors, self.known)

    def tell(self) -> None:
        """Let the hybrid know of all new items; who waits for another's turn finds the work done.

        Costs what `HybridRecommender.update` does; a new item that has changed since makes it start again from
        what was fitted.
        """
        if self._fitted is None or self.hybrid is None:
            return
        with self._work:
            shelf = self.shelf
            new = {
                item_id: (shelf.vectors[place].tobytes(), item)
                for place, (item_id, item) in enumerate(shelf.items.items())
                if item_id not in self.known
            }
            if new == self._told:
                return
            moved = any(new.get(item_id) != told for item_id, told in self._told.items())
            start = self._fitted if moved else self.hybrid
            ids = [item_id for item_id in new if moved or item_id not in self._told]
            vectors = np.stack([np.frombuffer(new[item_id][0], dtype=np.float32) for item_id in ids])
            # `update` puts new arrays in the place of old ones and writes into none, so that a copy of the names is
            # enough for those who are asking the former model now.
            words = self._words([shelf.items[item_id] for item_id in ids])
            self.hybrid = copy.copy(start).add_items(Embeddings(ids, vectors, words=words))
            self._told = new

    def is_told(self, item_ids: Sequence[str]) -> bool:
        """Say whether the hybrid can recommend all of these."""
        return self._fitted is not None and all(x in self._told or x in self.known for x in item_ids)


def stored(item: Item, vector: Vectors, encoder: str, received: float) -> StoredItem:
    """Return an item as the journal keeps it."""
    record = {"title": item.title, "description": item.description, "fields": dict(item.fields)}
    words = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return StoredItem(item.item_id, words, np.asarray(vector, dtype="<f4").tobytes(), encoder, received)


def restored(kept: StoredItem) -> tuple[Item, Vectors]:
    """Return the item and the vector that the journal kept."""
    record = json.loads(kept.record)
    vector = np.frombuffer(kept.vector, dtype="<f4").astype(np.float32)
    return Item(kept.item_id, record["title"], record["description"], record["fields"]), vector
