"""The arithmetic of the hybrid: gate, weights, the text kernel, and the three signals that are added up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import HybridConfig
from llm_tail.data.ids import Rows
from llm_tail.data.segments import Segments
from llm_tail.recommenders.collaborative import Asked
from llm_tail.threads import in_blocks

Floats = NDArray[np.float32]
BLOCK_BYTES = 64 << 20
KEPT_BYTES = 1 << 30
PEOPLE_AT_ONCE = 128  # what is said of so few stays in the cache; all at once takes twice as long, or five times
ITEMS_AT_ONCE = 4096
WHOLE_POWERS = (1, 2, 3, 4, 5, 6)  # to multiply so often is ten times as fast as a power, where AVX-512 is missing


def trust(counts: NDArray[Any], config: HybridConfig) -> Floats:
    """Return how far each item trusts its own ID, n / (n + gate), in [0, 1]; 0 for an item without people.

    Examples
    --------
    >>> trust(np.array([0, 1, 3]), HybridConfig(gate=1.0)).tolist()
    [0.0, 0.5, 0.75]
    """
    n = counts.astype(np.float32)
    share: Floats = np.divide(n, n + np.float32(config.gate), out=np.zeros_like(n), where=n > 0)
    return share


def text_weights(counts: NDArray[Any], config: HybridConfig) -> Floats:
    """Return the weight of the text kernel for each item: text_weight + (1 - trust) borrow thin_text_weight."""
    thin = (1.0 - trust(counts, config)) * np.float32(config.borrow * config.thin_text_weight)
    return np.asarray(thin + np.float32(config.text_weight), dtype=np.float32)


def speech(counts: NDArray[Any], config: HybridConfig) -> Floats:
    """Return how much each owned item says of a person: n^-damping, with n at least 1."""
    return np.asarray(np.maximum(counts, 1).astype(np.float64) ** -config.damping, dtype=np.float32)


def lift(counts: NDArray[Any], config: HybridConfig) -> Floats:
    """Return what each item's score is multiplied with: tail_lift for tail items, 1 for all others.

    Scores grow with evidence, so a tail item stands behind head items that fit a person less. A factor at the border
    of the head was better on validation than a power of the counts, which lifts the thinnest items most and finds the
    wrong ones.

    Examples
    --------
    >>> lift(np.array([9, 0, 1, 2, 3, 1]), HybridConfig(tail_lift=1.5)).tolist()
    [1.0, 1.0, 1.5, 1.5, 1.5, 1.5]
    """
    factors: Floats = np.ones(len(counts), dtype=np.float32)
    if config.tail_lift != 1.0:
        factors[Segments.from_counts(counts).tail] = config.tail_lift
    return factors


def text_kernel(a: Floats, b: Floats, power: float) -> Floats:
    """Return max(0, cosine)^power of unit rows, shape (len(a), len(b))."""
    kernel: Floats = a @ b.T

    def raise_(rows: slice) -> None:
        part = np.maximum(kernel[rows], np.float32(0.0), out=kernel[rows])
        if power not in WHOLE_POWERS:
            np.power(part, np.float32(power), out=part)
            return
        once = part.copy()
        for _ in range(round(power) - 1):
            part *= once

    in_blocks(raise_, len(kernel), PEOPLE_AT_ONCE)
    return kernel


def spread(narrow: Floats, places: Rows, n_items: int) -> Floats:
    """Return what is known of the items at these places, shape (n, n_items), with zeros for all others."""
    wide = np.zeros((len(narrow), n_items), dtype=np.float32)

    def place(some: slice) -> None:
        wide[some][:, places] = narrow[some]

    in_blocks(place, len(wide), PEOPLE_AT_ONCE)
    return wide


@dataclass
class Signals:
    """What histories say of items before the signals are weighed.

    Attributes
    ----------
    own : array of float32, shape (n_histories, n_items)
        By the item's own ID; zero for cold items.
    borrowed : array of float32, shape (n_histories, n_items)
        By the IDs of its neighbours; empty where no attention was given.
    text : array of float32, shape (n_histories, n_items)
        By words.
    mass : float
        What the text has to be multiplied with to be as large as `own` on warm items; 1 where either is silent.
    """

    own: Floats
    borrowed: Floats
    text: Floats
    mass: float

    @classmethod
    def of(
        cls,
        histories: sp.csr_matrix,
        collaborative: Asked,
        borrowing: sp.csr_matrix | None,
        vectors: Floats,
        power: float,
        text: Floats | None = None,
    ) -> Signals:
        """Compute the signals of damped histories, shape (n_histories, n_items); `text` may be had from before."""
        warm = collaborative.warm
        narrow = collaborative.signal(histories)  # (n_histories, n_warm)
        own = spread(narrow, warm, histories.shape[1])
        borrowed = np.zeros((0, 0), np.float32) if borrowing is None else lend(narrow, borrowing)
        text = text_signal(histories, vectors, power) if text is None else text
        spoken = _total(lambda some: np.abs(narrow[some]).sum(dtype=np.float64), len(narrow))
        worded = _total(lambda some: text[some].sum(axis=0, dtype=np.float64)[warm].sum(), len(text))
        mass = spoken / worded if spoken > 0 and worded > 0 else 1.0  # nobody shares anything yet: words alone speak
        return cls(own, borrowed, text, mass)

    def fuse(self, counts: NDArray[Any], config: HybridConfig) -> Floats:
        """Return the scores, shape (n_histories, n_items)."""
        own_share, lifted = trust(counts, config), lift(counts, config)
        borrowed_share = (1.0 - own_share) * np.float32(config.borrow)
        text_share = text_weights(counts, config) * np.float32(self.mass)
        scores: Floats = np.empty(self.own.shape, dtype=np.float32)

        def add(some: slice) -> None:
            part = np.multiply(self.own[some], own_share, out=scores[some])
            part += self.borrowed[some] * borrowed_share
            part += self.text[some] * text_share
            part *= lifted

        in_blocks(add, len(scores), PEOPLE_AT_ONCE)
        return scores


def _total(part: Callable[[slice], float], n_rows: int) -> float:
    parts = np.zeros(-(-n_rows // PEOPLE_AT_ONCE))  # added up in their order: the same for any number of threads

    def add(some: slice) -> None:
        parts[some.start // PEOPLE_AT_ONCE] = part(some)

    in_blocks(add, n_rows, PEOPLE_AT_ONCE)
    return float(parts.sum())


def lend(narrow: Floats, borrowing: sp.csr_matrix) -> Floats:
    """Return what `narrow`, shape (n_histories, n_warm), says of all items through those that they borrow from."""
    lent: Floats = np.empty((len(narrow), borrowing.shape[0]), dtype=np.float32)

    def to_people(some: slice) -> None:
        lent[some] = (borrowing @ np.ascontiguousarray(narrow[some].T)).T

    if len(narrow) > PEOPLE_AT_ONCE:
        in_blocks(to_people, len(narrow), PEOPLE_AT_ONCE)
        return lent
    turned = np.ascontiguousarray(narrow.T)  # (n_warm, n_histories)

    def to_items(some: slice) -> None:
        lent[:, some] = (borrowing[some] @ turned).T

    in_blocks(to_items, borrowing.shape[0], ITEMS_AT_ONCE)
    return lent


def text_signal(
    histories: sp.csr_matrix, vectors: Floats, power: float, kept: dict[int, Floats] | None = None
) -> Floats:
    """Return the text kernel summed over histories, shape (n_histories, n_items); no item speaks for itself.

    For histories that differ in their weights alone, `kept` holds the blocks of the kernel from one call to the next,
    where they are no larger than KEPT_BYTES together.
    """
    owned = np.flatnonzero(np.asarray(histories.sum(axis=0)).ravel() > 0)
    narrow = histories[:, owned].tocsc()
    text = np.zeros(histories.shape, dtype=np.float32)
    block = max(1, BLOCK_BYTES // (4 * max(1, len(vectors))))
    keep = kept is not None and 4 * len(owned) * len(vectors) <= KEPT_BYTES
    for start in range(0, len(owned), block):
        part = slice(start, start + block)
        kernel = None if kept is None else kept.get(start)
        if kernel is None:
            kernel = text_kernel(vectors[owned[part]], vectors, power)
        if kept is not None and keep:
            kept[start] = kernel
        _add_product(text, narrow[:, part].tocsr(), kernel)
    person, item = histories.nonzero()
    itself = np.minimum(1.0, np.einsum("nd,nd->n", vectors, vectors))
    text[person, item] -= histories.data * itself[item].astype(np.float32)
    return text


def _add_product(total: Floats, sparse: sp.csr_matrix, dense: Floats) -> None:
    """Add the product of both to the total, shape (n_histories, n_items)."""

    def add(some: slice) -> None:
        total[some] += sparse[some] @ dense

    in_blocks(add, len(total), PEOPLE_AT_ONCE)
