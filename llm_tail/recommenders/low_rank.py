"""ID embeddings for catalogues too large for the whole closed form: the same equations on a Gram matrix of low rank.

The Gram matrix G = X'X is replaced by its first eigenvectors and what is left of its diagonal::

    G ~ V L V' + D        V, L: the k largest eigenvalues, by a randomised SVD of X;  D = diag(G - V L V'), at least 0

so that its inverse, and with it the L3AE matrix, are a diagonal and a product of thin matrices (Woodbury)::

    P = (G + a I)^-1 = diag(d) - Z Z'              a = ridge + pull,  d = 1 / (D + a)
    B = I + pull P S - P diag(m) = Q K' off the diagonal, and 0 on it
    Q = [pull P H, Z],  K = [R, diag(w) Z],  S = H R' - diag(own),  w = (1 + pull (P H R')_jj) / P_jj

With k as large as the rank of X it is `closed_form.l3ae_weights`, and on the way there popular directions come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from llm_tail.data.ids import Rows
from llm_tail.recommenders.closed_form import text_factors

Floats = NDArray[np.float32]
POWER_ROUNDS = 4
MOST_NUMBERS, LEAST_RANK = 200_000_000, 64  # in one thin matrix of float32; half a dozen of them are held


@dataclass(frozen=True)
class FactoredEmbeddings:
    """ID embeddings as a product of two thin matrices; no item speaks for itself.

    Attributes
    ----------
    queries : array of float32, shape (n_warm, rank)
        What an item that is owned says.
    keys : array of float32, shape (n_warm, rank)
        Who listens to it: item h speaks for item j with ``queries[h] @ keys[j]``.
    warm : array of int64, shape (n_warm,)
        Rows of the items that have interactions.

    Examples
    --------
    >>> two = np.array([[1.0, 0.0], [1.0, 1.0]], dtype=np.float32)
    >>> FactoredEmbeddings(two, two, np.arange(2)).rows(np.array([0, 1])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    queries: Floats
    keys: Floats
    warm: Rows

    def rows(self, places: Rows) -> Floats:
        """Return what warm items at these places say of all warm items, shape (n, n_warm)."""
        said: Floats = self.queries[places] @ self.keys.T
        said[np.arange(len(places)), places] = 0.0
        return said

    def mixed(self, shares: sp.csr_matrix) -> Floats:
        """Return what mixtures of warm items, shape (n, n_warm), say of all warm items, shape (n, n_warm)."""
        said: Floats = np.asarray(shares @ self.queries, dtype=np.float32) @ self.keys.T
        line = np.repeat(np.arange(shares.shape[0]), np.diff(shares.indptr))
        said[line, shares.indices] -= shares.data * self.of_itself[shares.indices]
        return said

    def between(self, voices: sp.csr_matrix, listeners: sp.csr_matrix) -> Floats:
        """Return what mixtures of warm items say of other mixtures, shape (n_voices, n_listeners)."""
        said: Floats = (voices @ self.queries) @ np.asarray(listeners @ self.keys).T
        # Only items that speak can be heard by themselves; over all columns scipy would walk the whole catalogue.
        places, column = np.unique(voices.indices, return_inverse=True)
        alone = voices.data * self.of_itself[voices.indices]
        speaking = sp.csr_matrix((alone, column, voices.indptr), shape=(voices.shape[0], len(places)))
        said -= (speaking @ _columns(listeners, places).T).toarray()
        return np.asarray(said, dtype=np.float32)

    def column(self, places: NDArray[Any], shares: Floats) -> Floats:
        """Return what all warm items say of a mixture of warm items, shape (n_warm,)."""
        said: Floats = self.queries @ (shares @ self.keys[places])
        said[places] -= shares * self.of_itself[places]
        return said

    def signal(self, histories: sp.csr_matrix) -> Floats:
        """Return what histories of shape (n_histories, n_items) say of the warm items, shape (n_histories, n_warm)."""
        return self.mixed(sp.csr_matrix(histories[:, self.warm], dtype=np.float32))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that are written to disk."""
        return {"collaborative.queries": self.queries, "collaborative.keys": self.keys, "warm": self.warm}

    @cached_property
    def of_itself(self) -> Floats:
        """What each item would say of itself, shape (n_warm,)."""
        return np.asarray(np.einsum("nr,nr->n", self.queries, self.keys), dtype=np.float32)


class LowRankFitter:
    """Solves for `FactoredEmbeddings` with any penalties; the decomposition is made once and kept.

    Parameters
    ----------
    train : csr_matrix, shape (n_users, n_items)
        1 where a person took an item.
    vectors : array of float32, shape (n_items, dim)
        Unit text vectors.
    text_ridge : float
        Penalty of the text matrix, see `closed_form.text_factors`.
    rank : int
        Eigenvectors k of the Gram matrix; fewer where there are fewer items or people, or so many items that a matrix
        of this width would be larger than 800 MB.
    seed : int
        Of the randomised SVD.

    Notes
    -----
    Time: some ten products of the interactions with k columns and as many orthogonalisations, O(n_events k + n_warm
    k^2); each sum of penalties that is new O(n_warm k^2), then O(n_warm k dim) for a `trial`. Memory: k + 3 dim numbers
    for each warm item, about 3 k more during the decomposition and 2 (k + dim) more for what `fit` returns. The
    decomposition is that of N. Halko et al., "Finding structure with randomness", arXiv:0909.4061, as built by
    scikit-learn.
    """

    def __init__(
        self, train: sp.csr_matrix, vectors: NDArray[Any], text_ridge: float, rank: int, seed: int = 0
    ) -> None:
        counts = np.asarray(train.sum(axis=0)).ravel()
        self.warm: Rows = np.flatnonzero(counts > 0).astype(np.int64)
        people = np.flatnonzero(np.diff(train.indptr))
        taken = sp.csr_matrix(train[people][:, self.warm], dtype=np.float32)
        rank = min(rank, *taken.shape, max(LEAST_RANK, MOST_NUMBERS // max(1, len(self.warm))))
        _, spread, directions = randomized_svd(taken, n_components=rank, n_iter=POWER_ROUNDS, random_state=seed)
        kept = spread > 1e-4 * max(float(spread.max(initial=0.0)), 1e-12)
        self._spread = np.square(spread[kept].astype(np.float64))  # (k,)
        self._directions = np.ascontiguousarray(directions[kept].T, dtype=np.float32)  # (n_warm, k)
        told = np.square(self._directions) @ self._spread.astype(np.float32)
        self._rest = np.maximum(np.asarray(taken.power(2).sum(axis=0)).ravel() - told, 0.0)  # (n_warm,)
        self._vectors, self._text_ridge = vectors, text_ridge
        self._inverses: dict[
            float, Inverse
        ] = {}  # of a sum of ridge and pull; two small vectors and a small matrix each
        self._texts: tuple[float, tuple[Floats, Floats]] | None = None

    def fit(self, ridge: float, pull: float, text_ridge: float | None = None) -> FactoredEmbeddings:
        """Solve for these penalties, `text_ridge` being that of the constructor if left out."""
        tried = self.trial(ridge, pull, text_ridge)
        dim, rank = tried.left.shape[1], self._directions.shape[1]
        queries, keys = np.empty((2, len(self.warm), dim + rank), dtype=np.float32)
        for some in _blocks(len(self.warm)):
            scaled = self._directions[some] * tried.inverse.alone[some, None]
            thin = scaled @ tried.inverse.root  # rows of Z
            queries[some, :dim] = tried.drawn(some, scaled)
            queries[some, dim:] = thin
            keys[some, :dim] = tried.right[some]
            keys[some, dim:] = thin * tried.weight[some, None]
        return FactoredEmbeddings(queries, keys, self.warm)

    def trial(self, ridge: float, pull: float, text_ridge: float | None = None) -> FactoredTrial:
        """Return what can be asked for the signal of histories as the solution itself can, and is not made whole."""
        left, right = self._text_factors(self._text_ridge if text_ridge is None else text_ridge)
        return FactoredTrial(self.warm, self._directions, self._inverse(ridge + pull), left, right, pull)

    def _text_factors(self, ridge: float) -> tuple[Floats, Floats]:
        if self._texts is None or self._texts[0] != ridge:
            self._texts = None  # two at once may be more than there is room for
            self._texts = (ridge, text_factors(self._vectors[self.warm], ridge)[:2])
        return self._texts[1]

    def _inverse(self, penalty: float) -> Inverse:
        if penalty not in self._inverses:
            alone = (1.0 / (self._rest + penalty)).astype(np.float32)  # (n_warm,)
            inner = np.diag(1.0 / self._spread)  # (k, k)
            for some in _blocks(len(alone)):
                part = self._directions[some]
                inner += part.T @ (part * alone[some, None])
            root = np.ascontiguousarray(np.linalg.inv(np.linalg.cholesky(inner)).T, dtype=np.float32)
            length = np.empty_like(alone)
            for some in _blocks(len(alone)):
                thin = (self._directions[some] * alone[some, None]) @ root
                length[some] = np.einsum("nk,nk->n", thin, thin)
            self._inverses[penalty] = Inverse(alone, root, length)
        return self._inverses[penalty]


@dataclass(frozen=True)
class Inverse:
    """(G + a I)^-1 as diag(alone) - Z Z' with Z = diag(alone) directions root.

    Attributes
    ----------
    alone : array of float32, shape (n_warm,)
    root : array of float32, shape (k, k)
    length : array of float32, shape (n_warm,)
        Squared lengths of the rows of Z.
    """

    alone: Floats
    root: Floats
    length: Floats


class FactoredTrial:
    """A solution that is only asked what some histories say: nothing of the width of Q and K is made."""

    def __init__(
        self, warm: Rows, directions: Floats, inverse: Inverse, left: Floats, right: Floats, pull: float
    ) -> None:
        self.warm, self.inverse, self.left, self.right, self._pull = warm, inverse, left, right, np.float32(pull)
        self._directions, self._mixing = directions, inverse.root @ inverse.root.T  # (k, k)
        told = directions.T @ (left * inverse.alone[:, None])  # (k, dim)
        self._told = self._mixing @ told
        drawn = np.empty(len(warm), dtype=np.float32)
        for some in _blocks(len(warm)):
            scaled = directions[some] * inverse.alone[some, None]
            drawn[some] = np.einsum("nd,nd->n", self.drawn(some, scaled), right[some])
        self.weight: Floats = (1.0 + drawn) / np.maximum(inverse.alone - inverse.length, np.float32(1e-12))  # (n_warm,)
        self._itself = drawn + self.weight * inverse.length  # what each item would say of itself

    def drawn(self, some: slice, scaled: Floats) -> Floats:
        """Return these rows of pull P H, shape (n, dim); `scaled` are those of the directions times `alone`."""
        rows: Floats = self.left[some] * self.inverse.alone[some, None] - scaled @ self._told
        rows *= self._pull
        return rows

    def signal(self, histories: sp.csr_matrix) -> Floats:
        """Return what histories of shape (n_histories, n_items) say of the warm items, shape (n_histories, n_warm)."""
        shares = sp.csr_matrix(histories[:, self.warm], dtype=np.float32)
        voices = sp.csr_matrix(shares @ sp.diags(self.inverse.alone))
        turned = np.asarray(voices @ self._directions)  # (n_histories, k)
        words = self._pull * (np.asarray(voices @ self.left) - turned @ self._told)
        turned = turned @ self._mixing
        louder = self.inverse.alone * self.weight
        said: Floats = np.empty(shares.shape, dtype=np.float32)
        for some in _blocks(len(said), 128):
            part = np.matmul(turned[some], self._directions.T, out=said[some])
            part *= louder
            part += words[some] @ self.right.T
        line = np.repeat(np.arange(shares.shape[0]), np.diff(shares.indptr))
        said[line, shares.indices] -= shares.data * self._itself[shares.indices]
        return said


def _columns(matrix: sp.csr_matrix, places: NDArray[Any]) -> sp.csr_matrix:
    """Return these columns, given in rising order, in time that does not depend on how many others there are."""
    found = np.searchsorted(places, matrix.indices)
    there = np.append(places, -1)[found] == matrix.indices
    line = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return sp.csr_matrix((matrix.data[there], (line[there], found[there])), shape=(matrix.shape[0], len(places)))


def _blocks(n: int, step: int = 16_384) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, n, step))
