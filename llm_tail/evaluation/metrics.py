"""Arrays in, numbers out: how good rankings are for each person, and what they do to the catalogue.

A ranking is `top`, an int array of shape (n_users, k): item rows, best first, -1 where there is no item. What would
have been right is `relevant`, a csr_matrix of shape (n_users, n_items) with the same people in the same order.
Measures of a person come as one number for each; people with nothing relevant get NaN, for there was nothing to find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.errors import ConfigError, DataError

Floats = NDArray[np.float64]
Top = NDArray[np.int64]
Mask = NDArray[np.bool_]


def hits(top: Top, relevant: sp.csr_matrix) -> Mask:
    """Return which of the shown items are relevant, shape (n_users, k).

    Raises
    ------
    DataError
        If `top` and `relevant` do not speak of the same number of people, or name items that do not exist.

    Notes
    -----
    O(n_users k log n_relevant) time; nothing of size n_users x n_items is made.

    Examples
    --------
    >>> hits(np.array([[2, 0, -1]]), sp.csr_matrix([[1, 0, 0]])).tolist()
    [[False, True, False]]
    """
    top = np.asarray(top, dtype=np.int64)
    n_users, n_items = relevant.shape
    if top.ndim != 2 or len(top) != n_users:
        raise DataError(f"rankings have shape {top.shape}, expected ({n_users}, k): one line for each person")
    if top.size and top.max() >= n_items:
        raise DataError(f"rankings name item row {top.max()}, expected at most {n_items - 1}")
    true = _taken(relevant)
    keys = np.sort(np.repeat(np.arange(n_users), np.diff(true.indptr)) * n_items + true.indices)
    if not len(keys):
        return np.zeros(top.shape, dtype=bool)
    asked = np.arange(n_users)[:, None] * n_items + top  # (n_users, k)
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.asarray((keys[place] == asked) & (top >= 0))


def recall(top: Top, relevant: sp.csr_matrix, k: int | None = None) -> Floats:
    """Return the share of what is relevant that is among the first k, shape (n_users,), in [0, 1].

    Parameters
    ----------
    top : array of int64, shape (n_users, k_max)
        Item rows, best first, -1 where there is none.
    relevant : csr_matrix, shape (n_users, n_items)
        Anything above 0 is relevant.
    k : int, optional
        How many of each ranking are looked at; all of them if not given.

    Notes
    -----
    Divided by the number of relevant items even where that is above k.

    Examples
    --------
    >>> recall(np.array([[2, 0]]), sp.csr_matrix([[1, 1, 0]])).tolist()
    [0.5]
    """
    return _recall(hits(top, relevant)[:, : _depth(top, k)], _n_relevant(relevant), _depth(top, k))


def ndcg(top: Top, relevant: sp.csr_matrix, k: int | None = None) -> Floats:
    """Return the normalised discounted cumulative gain of the first k, shape (n_users,), in [0, 1].

    Sum of 1 / log2(rank + 1) over the hits, divided by that of the best ranking there could be. Binary gains, as in
    K. Järvelin and J. Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", TOIS 2002.
    """
    return _ndcg(hits(top, relevant)[:, : _depth(top, k)], _n_relevant(relevant), _depth(top, k))


def mrr(top: Top, relevant: sp.csr_matrix, k: int | None = None) -> Floats:
    """Return one over the rank of the first hit among the first k, 0 where there is none, shape (n_users,)."""
    return _mrr(hits(top, relevant)[:, : _depth(top, k)], _n_relevant(relevant), _depth(top, k))


def hit_rate(top: Top, relevant: sp.csr_matrix, k: int | None = None) -> Floats:
    """Return 1 where at least one of the first k is relevant, else 0, shape (n_users,)."""
    return _hit_rate(hits(top, relevant)[:, : _depth(top, k)], _n_relevant(relevant), _depth(top, k))


def precision(top: Top, relevant: sp.csr_matrix, k: int | None = None) -> Floats:
    """Return the share of the first k places that hold a relevant item, shape (n_users,), in [0, 1]."""
    return _precision(hits(top, relevant)[:, : _depth(top, k)], _n_relevant(relevant), _depth(top, k))


def per_user(top: Top, relevant: sp.csr_matrix, ks: Iterable[int]) -> dict[str, Floats]:
    """Return every measure at every k by name (``recall@20``), each of shape (n_users,); hits are looked up once."""
    found, n_relevant = hits(top, relevant), _n_relevant(relevant)
    return {
        f"{name}@{k}": measure(found[:, :k], n_relevant, k)
        for k in sorted(set(ks))
        for name, measure in MEASURES.items()
    }


def exposure(top: Top, n_items: int) -> NDArray[np.int64]:
    """Return how often each item is shown, shape (n_items,)."""
    return np.bincount(top[top >= 0], minlength=n_items)


def coverage(top: Top, candidates: Mask) -> float:
    """Return the share of the candidates, a bool mask of shape (n_items,), that is shown to somebody at all."""
    n_candidates = int(candidates.sum())
    return (
        float((exposure(top, len(candidates))[candidates] > 0).sum() / n_candidates) if n_candidates else float("nan")
    )


def gini(top: Top, candidates: Mask) -> float:
    """Return the Gini index of how often the candidates are shown: 0 all alike, near 1 all places to one item.

    Examples
    --------
    >>> everyone = np.array([True, True])
    >>> gini(np.array([[0], [1]]), everyone), gini(np.array([[0], [0]]), everyone)
    (0.0, 0.5)
    """
    shown = np.sort(exposure(top, len(candidates))[candidates])
    if not shown.sum():
        return float("nan")
    n = len(shown)
    return float(((2 * np.arange(1, n + 1) - n - 1) * shown).sum() / (n * shown.sum()))


def average_popularity(top: Top, counts: NDArray[Any]) -> float:
    """Return how many people took a shown item in training, on average; `counts` has shape (n_items,)."""
    shown = counts[top[top >= 0]]
    return float(shown.mean()) if len(shown) else float("nan")


def novelty(top: Top, counts: NDArray[Any], n_people: int) -> float:
    """Return how surprising a shown item is on average, in bits: -log2 of the share of people who took it, at least 0.

    One is added to both counts, so that an item that nobody took is surprising, not infinitely so.
    After S. Vargas and P. Castells, "Rank and Relevance in Novelty and Diversity Metrics", RecSys 2011.
    """
    shown = np.asarray(counts, dtype=np.float64)[top[top >= 0]]
    return float(-np.log2((shown + 1) / (n_people + 1)).mean() + 0.0) if len(shown) else float("nan")


def exposure_share(top: Top, mask: Mask) -> float:
    """Return the share of all places that goes to the items of a bool mask of shape (n_items,), in [0, 1]."""
    shown = mask[top[top >= 0]]
    return float(shown.mean()) if len(shown) else float("nan")


def resample_means(values: Floats, n_bootstrap: int, seed: int) -> Floats:
    """Return the means of each column over people drawn again with replacement, shape (n_bootstrap, n_columns).

    All columns share the draws, so that the difference of two of them is a paired one.

    Parameters
    ----------
    values : array, shape (n_users, n_columns)
    n_bootstrap : int
        How often the people are drawn.
    seed : int
        The same seed and number of people give the same draws.

    Notes
    -----
    O(n_bootstrap n_users n_columns) as matrix products; at most 64 MB of draws at once.
    """
    n_users = len(values)
    rng = np.random.default_rng(seed)
    means = np.empty((n_bootstrap, values.shape[1]))
    step = max(1, (8 << 20) // max(1, n_users))
    for start in range(0, n_bootstrap, step):
        n = min(step, n_bootstrap - start)
        drawn = rng.integers(0, n_users, (n, n_users)) + np.arange(n)[:, None] * n_users
        times = np.bincount(drawn.ravel(), minlength=n * n_users).reshape(n, n_users)  # how often each is drawn
        means[start : start + n] = times.astype(np.float64) @ values / n_users
    return means


def _taken(relevant: sp.csr_matrix) -> sp.csr_matrix:
    """Return the same matrix without stored zeros and without an entry stored twice."""
    clean = sp.csr_matrix(relevant, copy=True)
    clean.sum_duplicates()
    clean.eliminate_zeros()
    return clean


def _n_relevant(relevant: sp.csr_matrix) -> Floats:
    """Return the number of relevant items, NaN for none, so that what is divided by it is NaN too."""
    n = np.diff(_taken(relevant).indptr).astype(np.float64)
    n[n == 0] = np.nan
    return n


def _depth(top: Top, k: int | None) -> int:
    if k is None:
        return int(top.shape[1])
    if k < 1:
        raise ConfigError(f"k is {k}, expected at least 1")
    return k


def _recall(found: Mask, n_relevant: Floats, k: int) -> Floats:
    return np.asarray(found.sum(axis=1) / n_relevant)


def _ndcg(found: Mask, n_relevant: Floats, k: int) -> Floats:
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[np.nan], np.cumsum(discounts)])  # (k + 1,), by number of relevant items
    best = ideal[np.nan_to_num(np.minimum(n_relevant, k)).astype(np.int64)]
    return np.asarray((found * discounts[: found.shape[1]]).sum(axis=1) / best)


def _mrr(found: Mask, n_relevant: Floats, k: int) -> Floats:
    first = np.where(found.any(axis=1), 1.0 / (1.0 + found.argmax(axis=1)), 0.0) if found.shape[1] else n_relevant * 0
    return np.where(np.isnan(n_relevant), np.nan, first)


def _hit_rate(found: Mask, n_relevant: Floats, k: int) -> Floats:
    return np.where(np.isnan(n_relevant), np.nan, found.any(axis=1))


def _precision(found: Mask, n_relevant: Floats, k: int) -> Floats:
    return np.where(np.isnan(n_relevant), np.nan, found.sum(axis=1) / k)


MEASURES: dict[str, Callable[[Mask, Floats, int], Floats]] = {
    "recall": _recall,
    "ndcg": _ndcg,
    "mrr": _mrr,
    "hit_rate": _hit_rate,
    "precision": _precision,
}
