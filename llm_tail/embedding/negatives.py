"""Hard negatives: texts that lie near an anchor, and that nobody took together with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llm_tail.data.ids import Rows
from llm_tail.errors import DataError

if TYPE_CHECKING:
    from llm_tail.embedding.pairs import TextPairs

Search = Callable[[NDArray[np.float32], NDArray[np.float32], int], tuple[Rows, NDArray[np.float32]]]
_BLOCK_BYTES = 64 << 20


def mine_negatives(
    vectors: NDArray[np.floating],
    pairs: TextPairs,
    *,
    n: int = 1,
    window: tuple[int, int] = (10, 50),
    margin: float = 0.95,
    seed: int = 0,
    search: Search | None = None,
) -> NDArray[np.int64]:
    """Return hard negatives for each pair, from the texts that are the positive of some pair of the same kind.

    What stands in no pair is pushed away by none: nobody had the chance to take it together with anything.

    Parameters
    ----------
    vectors : array, shape (n_texts, dim)
        Unit vectors of the texts; of those that stand in no pair they are not looked at.
    pairs : TextPairs
        The pairs; what was taken together with an anchor is none of its negatives.
    n : int
        How many for each pair, >= 1.
    window : (int, int)
        Ranks among the anchor's neighbours (from 1) that negatives come from: the nearest are too often false ones.
    margin : float
        A negative's cosine with the anchor stays below this share of the positive's (so negatives that are nearer than
        the positive are left out), above 0.
    seed : int
        Which of the window's are taken.
    search : callable, optional
        ``search(queries, base, k)`` gives rows and cosines of the k nearest, as `neighbors.exact.nearest`
        does; exact search in blocks if left out.

    Returns
    -------
    array of int64, shape (n_pairs, n)
        Rows of texts, -1 where fewer than `n` are fit.

    Notes
    -----
    Anchors are looked up in blocks of at most 64 MB of cosines, so that memory does not grow with the catalogue;
    O(n_anchors n_texts dim) time when exact. Rank window and margin are those of G. de Souza P. Moreira et al.,
    "NV-Retriever", 2024, "TopK-PercPos".
    """
    first, last = window
    if not 1 <= first <= last or n < 1:
        raise DataError(
            f"hard negatives: {n} from ranks {first} to {last}; expected at least 1 from an ascending range"
        )
    search = search or nearest_blocks
    found = np.full((len(pairs), n), -1, dtype=np.int64)
    rng = np.random.default_rng(seed)
    for kind in np.unique(pairs.kinds):
        chosen = np.flatnonzero(pairs.kinds == kind)
        pool = np.unique(pairs.positives[chosen])
        pool = pool[[bool(pairs.texts[row].strip()) for row in pool]]
        if len(pool):
            found[chosen] = _of_kind(vectors, pairs, chosen, pool, n, window, margin, rng, search)
    return found


def _of_kind(
    vectors: NDArray[np.floating], pairs: TextPairs, chosen: Rows, pool: Rows, n: int, window: tuple[int, int],
    margin: float, rng: np.random.Generator, search: Search,
) -> NDArray[np.int64]:  # fmt: skip
    """Return rows of `pool` for each of the `chosen` pairs, shape (n_chosen, n), -1 where none is fit."""
    first, last = window
    base = np.asarray(vectors[pool], dtype=np.float32)  # (n_pool, dim)
    found = np.full((len(chosen), n), -1, dtype=np.int64)
    order = np.argsort(pairs.anchors[chosen], kind="stable")
    step = max(1, _BLOCK_BYTES // (4 * (last + 1) * 8))
    for start in range(0, len(order), step):
        place = order[start : start + step]
        block = chosen[place]
        anchors, positives = pairs.anchors[block], pairs.positives[block]
        distinct, back = np.unique(anchors, return_inverse=True)
        rows, cosines = search(np.asarray(vectors[distinct], np.float32), base, min(last + 1, len(base)))
        rows, cosines = np.where(rows >= 0, pool[rows], -1)[back], cosines[back]  # (n_block, k) rows of texts
        sides = [np.asarray(vectors[side], np.float32) for side in (anchors, positives)]
        own = np.einsum("ij,ij->i", *sides)  # (n_block,)
        other = rows != anchors[:, None]
        rank = np.cumsum(other, axis=1)  # the anchor finds itself first, and that is no rank
        fit = other & (rows >= 0) & (rows != positives[:, None])
        fit &= (rank >= first) & (rank <= last) & (cosines < margin * own[:, None])
        fit &= ~pairs.together_each(anchors, rows)
        draw = np.where(fit, rng.random(fit.shape), np.inf)
        taken = np.argsort(draw, axis=1)[:, :n]
        good = np.take_along_axis(fit, taken, 1)
        found[place, : taken.shape[1]] = np.where(good, np.take_along_axis(rows, taken, 1), -1)
    return found


def nearest_blocks(queries: NDArray[np.float32], base: NDArray[np.float32], k: int) -> tuple[Rows, NDArray[np.float32]]:
    """Return rows and cosines of the `k` nearest of `base`, best first, in blocks of bounded memory."""
    rows = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float32)
    step = max(1, _BLOCK_BYTES // (4 * max(len(base), 1)))
    for start in range(0, len(queries), step):
        near = queries[start : start + step] @ base.T  # (n_block, n_base)
        top = np.argpartition(-near, k - 1, axis=1)[:, :k]
        value = np.take_along_axis(near, top, 1)
        order = np.argsort(-value, axis=1, kind="stable")
        rows[start : start + step] = np.take_along_axis(top, order, 1)
        cosines[start : start + step] = np.take_along_axis(value, order, 1)
    return rows, cosines
