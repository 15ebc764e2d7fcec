"""Which items are worth enriching when not all can be: those with few words, few readers and many empty fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import Rows
from llm_tail.data.interactions import Interactions
from llm_tail.data.segments import Segments
from llm_tail.embedding.text import ItemText
from llm_tail.enrichment.keyphrases import words_of
from llm_tail.errors import ConfigError, DataError

Floats = NDArray[np.float64]

NEED: Mapping[str, float] = MappingProxyType({"cold": 1.0, "tail": 0.5, "head": 0.1})
HALF_TOKENS = 32.0  # a text of so many tokens is half as thin as an empty one
TOKENS_A_WORD = 1.3
PROMPT_TOKENS, ANSWER_TOKENS = 400, 200


@dataclass(frozen=True, eq=False)
class Worth:
    """What enriching each item is expected to bring, and what it takes.

    Parameters
    ----------
    gains : array of float64, shape (n_items,)
        Need times room, in [0, 1]; see `worth`.
    costs : array of float64, shape (n_items,)
        Tokens, both ways, above 0.
    segments : array of str, shape (n_items,)
        head, tail or cold; empty where no interactions were given.
    tokens : array of int64, shape (n_items,)
        Of the texts that there are.
    n_missing : array of int64, shape (n_items,)
        Empty fields.
    """

    gains: Floats
    costs: Floats
    segments: NDArray[np.str_]
    tokens: NDArray[np.int64]
    n_missing: NDArray[np.int64]

    @property
    def values(self) -> Floats:
        """Expected gain for a thousand tokens, shape (n_items,)."""
        return 1000.0 * self.gains / self.costs

    def best(self, n_items: int | None = None, budget: float | None = None) -> Rows:
        """Return the rows of the items to enrich, most rewarding first.

        Parameters
        ----------
        n_items : int, optional
            At most so many, from 0; no limit if left out.
        budget : float, optional
            Tokens, both ways, that all of them may cost together, from 0; no limit if left out.

        Raises
        ------
        ConfigError
            If a limit is below 0.

        Notes
        -----
        By falling value (equal ones by row), until the next would break the budget: of all sets that cost as much, none
        is expected to bring more. Items that gain nothing are left out.
        """
        if (n_items is not None and n_items < 0) or (budget is not None and not budget >= 0):
            raise ConfigError(f"n_items is {n_items} and the budget {budget}, expected numbers from 0 or none")
        order = np.argsort(-np.round(self.values, 9), kind="stable")
        order = order[self.gains[order] > 0]
        if budget is not None:
            order = order[: int(np.searchsorted(np.cumsum(self.costs[order]), budget, side="right"))]
        return order[:n_items].astype(np.int64)

    def __len__(self) -> int:
        return len(self.gains)

    def __repr__(self) -> str:
        n = int((self.gains > 0).sum())
        return f"Worth({len(self):,} items, {n:,} with something to gain, {self.costs.sum():,.0f} tokens for all)"


def worth(
    catalog: Catalog,
    train: Interactions | None = None,
    text: ItemText | None = None,
    *,
    fields: Sequence[str] | None = None,
    tokens: NDArray[Any] | None = None,
    need: Mapping[str, float] = NEED,
    prompt_tokens: int = PROMPT_TOKENS,
    answer_tokens: int = ANSWER_TOKENS,
) -> Worth:
    """Return what enriching each item is expected to bring for its tokens.

    The value of item i is its expected gain per token:

        value_i = need(segment_i) * (thin_i + missing_i) / 2 / (prompt + tokens_i + answer)

    * need is 1 for cold items, 0.5 for tail and 0.1 for head ones: words are all that a cold item has, and hardly
      matter for one that many people took. Segments come from training alone; all items need as much without it.
    * thin_i = 2^(-tokens_i / 32): 1 for an empty text, a half at 32 tokens, next to nothing at 200.
    * missing_i is the share of the fields in which the item has nothing.

    A rule of thumb, not a forecast: it orders items.

    Parameters
    ----------
    catalog : Catalog
        The items.
    train : Interactions, optional
        TRAINING events: the choice must not know the test.
    text : ItemText, optional
        How an item becomes a text.
    fields : sequence of str, optional
        Columns that could be filled; all but the ids if left out. Generated ones never count.
    tokens : array of int, shape (n_items,), optional
        Of each text, as its encoder counts; 1.3 a word if left out.
    need : mapping
        Of head, tail and cold items, each from 0.
    prompt_tokens, answer_tokens : int
        What a request costs beside the item's own text, and its answer, at least 1 together.

    Raises
    ------
    DataError
        If `tokens` do not fit the catalogue, or a field is no column.
    ConfigError
        If a need is missing or below 0.

    Examples
    --------
    >>> catalog = Catalog.from_items([
    ...     {"item_id": "known", "title": "Emma", "description": "A novel. " * 30},
    ...     {"item_id": "thin", "title": "Persuasion"},
    ... ])
    >>> [catalog.ids[row] for row in worth(catalog).best(1)]
    ['thin']
    """
    if set(NEED) - set(need) or any(not value >= 0 for value in need.values()) or prompt_tokens + answer_tokens < 1:
        raise ConfigError(f"need is {dict(need)}, expected a number from 0 for each of {', '.join(NEED)}")
    n = len(catalog)
    if tokens is None:
        words = np.array([len(words_of(one)) for one in (text or ItemText()).texts(catalog)])
        tokens = np.ceil(TOKENS_A_WORD * words)
    tokens = np.asarray(tokens, np.int64)
    if tokens.shape != (n,):
        raise DataError(f"tokens have shape {tokens.shape}, expected one number for each of {n:,} items")
    names = [name for name in (catalog.columns if fields is None else fields) if name != "item_id"]
    names = [name for name in names if not name.startswith("generated_")]
    empty = np.array([[_is_empty(value) for value in catalog.column(name)] for name in names]).reshape(len(names), n)
    if train is None:
        segments, needs = np.full(n, "", dtype="<U4"), np.ones(n)
    else:
        segments = Segments.of(train.on(catalog)).labels()
        needs = np.array([need[name] for name in segments.tolist()])
    thin = 2.0 ** (-tokens / HALF_TOKENS)
    missing = empty.mean(axis=0) if names else np.zeros(n)
    costs = (prompt_tokens + answer_tokens + tokens).astype(np.float64)
    return Worth(needs * (thin + missing) / 2, costs, segments, tokens, empty.sum(axis=0).astype(np.int64))


def _is_empty(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_empty, value))
    return value is None or value != value or not str(value).strip()
