"""What an index answers with: items and their cosines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llm_tail.errors import DataError
from llm_tail.html import html_table
from llm_tail.neighbors.exact import Similarities

MOST_CELLS = 100_000_000


@dataclass(frozen=True, repr=False, eq=False)
class Neighbors:
    """What lies near: items and their cosines, best first.

    Parameters
    ----------
    item_ids : tuple of str
        The items.
    similarities : array of float32, shape (n,)
        Their cosines, in [-1, 1].
    """

    item_ids: tuple[str, ...]
    similarities: Similarities

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(zip(self.item_ids, self.similarities.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.item_ids)

    def __getitem__(self, place: int) -> tuple[str, float]:
        return self.item_ids[place], float(self.similarities[place])

    def __repr__(self) -> str:
        shown = [f"{item_id} {similarity:.3f}" for item_id, similarity in list(self)[:5]]
        return f"Neighbors({', '.join([*shown, '...'] if len(self) > 5 else shown) or 'none'})"

    def _repr_html_(self) -> str:
        return html_table(["item", "similarity"], self)


def check_answer(n_queries: int, k: int, n_items: int) -> None:
    """Raise `DataError` where an answer would be larger than any memory, most of it empty."""
    if k > max(n_items, 1) and n_queries * k > MOST_CELLS:
        raise DataError(f"k is {k:,} for {n_queries:,} queries of {n_items:,} items; ask for fewer, or fewer at once")


def names_of(item_ids: str | Iterable[str]) -> list[str]:
    """Return one id, or several, as a list, each once."""
    if isinstance(item_ids, str):
        return [item_ids]
    if not isinstance(item_ids, Iterable):
        raise DataError(f"the ids are {item_ids!r}, expected one or several str")
    return list(dict.fromkeys(map(str, item_ids)))
