"""KnownTexts: where the vector of a text lies, for millions of texts in a few sorted arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16  # of a text's hash: two of 10^9 texts are equal with a chance below 10^-20
Keys = NDArray[np.uint8]
_Run = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]


def text_keys(texts: Sequence[str], salt: str) -> Keys:
    """Return the keys of texts, shape (n_texts, 16): blake2b of the UTF-8 bytes, keyed by `salt`.

    The salt stands for encoder and template, so that equal keys mean equal vectors.
    """
    key = salt.encode()
    digests = (hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES, key=key) for t in texts)
    return np.frombuffer(b"".join(d.digest() for d in digests), dtype=np.uint8).reshape(len(texts), KEY_BYTES)


class KnownTexts:
    """Maps text keys to places: the number of a shard and a row in it.

    Sorted runs whose sizes at least halve from one to the next: adding n texts costs O(n log n) in all, a look-up
    touches O(log n) runs however many shards there are. 24 bytes a text: its key, and where it lies.

    Examples
    --------
    >>> known = KnownTexts()
    >>> known.add(text_keys(["emma", "dracula"], "salt"), 7, np.array([0, 1]))
    >>> shards, rows = known.find(text_keys(["dracula", "ulysses"], "salt"))
    >>> shards.tolist(), rows.tolist()
    ([7, -1], [1, -1])
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def add(self, keys: Keys, shard: int, rows: NDArray[np.int64]) -> None:
        """Note that the texts of `keys`, shape (n, 16), lie in these rows of a shard."""
        if not len(keys):
            return
        high, low = _halves(keys)
        self._runs.append(_sorted(high, low, (np.int64(shard) << np.int64(32)) | rows.astype(np.int64)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(_sorted(*(np.concatenate(pair) for pair in zip(before, last, strict=True))))

    def find(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return shards and rows of texts, each of shape (n,), with -1 for a text that is not known."""
        high, low = _halves(keys)
        places = np.full(len(keys), -1, dtype=np.int64)
        left = np.argsort(high)  # neighbours are looked up one after the other: far fewer misses of the cache
        for known_high, known_low, known_places in self._runs:
            if not len(left):
                break
            at = np.searchsorted(known_high, high[left]).clip(max=len(known_high) - 1)
            # Two texts that share the first half but not the second may be missed here: one is then encoded again.
            found = (known_high[at] == high[left]) & (known_low[at] == low[left])
            places[left[found]] = known_places[at[found]]
            left = left[~found]
        return np.where(places < 0, -1, places >> 32), np.where(places < 0, -1, places & 0xFFFFFFFF)

    def __len__(self) -> int:
        return sum(len(run[0]) for run in self._runs)


def first_of_each(keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row of each distinct key's first occurrence in order, and for each key its place among them."""
    flat = np.ascontiguousarray(keys).view(f"V{KEY_BYTES}").ravel()  # (n,)
    _, first, back = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order].astype(np.int64), place[back.ravel()].astype(np.int64)


def _halves(keys: Keys) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    halves = np.ascontiguousarray(keys).view("<u8").reshape(-1, 2)  # (n, 2)
    return halves[:, 0].copy(), halves[:, 1].copy()


def _sorted(high: NDArray[np.uint64], low: NDArray[np.uint64], places: NDArray[np.int64]) -> _Run:
    order = np.argsort(high, kind="stable")  # two sorted halves are merged in linear time
    return high[order], low[order], places[order]
