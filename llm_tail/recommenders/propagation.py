"""What spreads over the graph of people and items: normalisation, steps, singular vectors, people known by history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

Floats = NDArray[np.float32]
SLOPE = 0.01  # of the leaky ReLU, below zero
RIDGE = 1e-3  # of `ridge_map`, as a share of the mean square


def power_of(counts: NDArray[Any], exponent: float) -> Floats:
    """Return counts^exponent, 0 where there is nothing to count."""
    given = np.asarray(counts, dtype=np.float64)
    return np.power(given, exponent, out=np.zeros_like(given), where=given > 0).astype(np.float32)


def normalised(histories: sp.csr_matrix) -> sp.csr_matrix:
    """Return R~ = D_u^-1/2 R D_i^-1/2 of a matrix of shape (n_users, n_items); empty rows and columns stay empty.

    Examples
    --------
    >>> normalised(sp.csr_matrix([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])).toarray().tolist()
    [[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]
    """
    people = power_of(np.asarray(histories.sum(axis=1)).ravel(), -0.5)
    items = power_of(np.asarray(histories.sum(axis=0)).ravel(), -0.5)
    return sp.csr_matrix(sp.diags(people) @ histories @ sp.diags(items), dtype=np.float32)


def right_singular(matrix: sp.csr_matrix, k: int, seed: int) -> Floats:
    """Return the k leading right singular vectors, shape (n_columns, at most k), without those of singular value 0.

    Notes
    -----
    ARPACK in float64. Where k is a quarter of the smaller side or more, the eigenvectors of that side's Gram matrix,
    which is then faster: at most (4 k)^2 float64.
    """
    n_rows, n_columns = matrix.shape
    exact = matrix.astype(np.float64)
    if 4 * k < min(matrix.shape):
        first = np.random.default_rng(seed).standard_normal(min(matrix.shape))
        _, values, vectors = svds(exact, k=k, v0=first)
        values, vectors = values[::-1], vectors[::-1].T  # (k,), (n_columns, k)
    else:
        tall = n_columns <= n_rows
        squares, vectors = np.linalg.eigh(((exact.T @ exact) if tall else (exact @ exact.T)).toarray())
        values, vectors = np.sqrt(np.maximum(squares[::-1][:k], 0.0)), vectors[:, ::-1][:, :k]
        if not tall:
            vectors = (exact.T @ vectors) / np.maximum(values, 1e-300)
    kept = values > 1e-6 * max(values[0], 1e-12)
    return np.ascontiguousarray(vectors[:, kept], dtype=np.float32)


def spread(graph: sp.csr_matrix, people: Floats, items: Floats, layers: int) -> tuple[Floats, Floats]:
    """Return every layer of the items, shape (layers + 1, n_items, dim), and layer 1 of the people.

    Parameters
    ----------
    graph : csr_matrix, shape (n_users, n_items)
        From `normalised`.
    people, items : array, shape (n_users, dim) and (n_items, dim)
        Layer 0.
    layers : int
        Steps, at least 0.
    """
    turned = graph.T.tocsr()
    found, first = [items], people
    for layer in range(layers):
        people, items = graph @ found[-1], turned @ people
        first = people if layer == 0 else first
        found.append(items)
    return np.stack(found).astype(np.float32), first.astype(np.float32)


def steps(histories: sp.csr_matrix, item_layers: Floats, counts: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the sum of the people's layers 1 and later, and layer 1, each of shape (n_histories, dim).

    Parameters
    ----------
    histories : csr_matrix, shape (n_histories, n_items)
    item_layers : array, shape (layers, n_items, dim)
        Layers 0 and later of the items; all but the last.
    counts : array, shape (n_items,)
        How many people took each in training; an item that nobody took is tied to nobody.
    """
    voices = histories @ sp.diags(power_of(counts, -0.5))
    voices = sp.diags(power_of(np.asarray(histories.sum(axis=1)).ravel(), -0.5)) @ voices
    nothing = np.zeros((histories.shape[0], item_layers.shape[2]), dtype=np.float32)
    if not len(item_layers):
        return nothing, nothing
    summed = np.asarray(voices @ item_layers.sum(axis=0), dtype=np.float32)
    return summed, np.asarray(voices @ item_layers[0], dtype=np.float32)


def averaging(histories: sp.csr_matrix) -> sp.csr_matrix:
    """Return the histories scaled so that each row sums to 1; empty rows stay empty."""
    shares = power_of(np.asarray(histories.sum(axis=1)).ravel(), -1.0)
    return sp.csr_matrix(sp.diags(shares) @ histories, dtype=np.float32)


def means(histories: sp.csr_matrix, vectors: Floats) -> Floats:
    """Return the mean vector of each history, shape (n_histories, dim); zero for an empty one."""
    return np.asarray(averaging(histories) @ vectors, dtype=np.float32)


def unit(vectors: Floats) -> Floats:
    """Return vectors of length 1; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-12)
    return scaled


def project(network: Mapping[str, Floats], vectors: Floats) -> Floats:
    """Return W2 leaky_relu(W1 x + b1) + b2 of vectors of shape (n, dim); `network` names the four w1, b1, w2, b2."""
    hidden: Floats = vectors @ network["w1"].T + network["b1"]  # (n, hidden)
    np.multiply(hidden, np.float32(SLOPE), out=hidden, where=hidden < 0)
    projected: Floats = hidden @ network["w2"].T + network["b2"]
    return projected


def ridge_map(given: Floats, wanted: Floats) -> Floats:
    """Return the matrix W, shape (dim_given, dim_wanted), with the least |given W - wanted|^2 + ridge |W|^2."""
    left = given.T.astype(np.float64) @ given
    left[np.diag_indices_from(left)] += max(RIDGE * np.trace(left) / max(1, len(left)), 1e-9)
    return np.asarray(np.linalg.solve(left, given.T.astype(np.float64) @ wanted), dtype=np.float32)


class KnownPeople:
    """Finds people by their histories, since a history is all that a person is when a model is asked.

    Parameters
    ----------
    histories : csr_matrix, shape (n_users, n_items)
        Of the known people. Those with equal histories are one.

    Examples
    --------
    >>> known = KnownPeople(sp.csr_matrix([[1.0, 0.0], [1.0, 1.0]]))
    >>> vectors, default = np.array([[1.0], [2.0]], np.float32), np.array([[7.0], [7.0]], np.float32)
    >>> known.vectors(sp.csr_matrix([[1.0, 1.0], [0.0, 1.0]]), vectors, default).tolist()
    [[2.0], [7.0]]
    """

    def __init__(self, histories: sp.csr_matrix) -> None:
        # A sum of random 64-bit codes tells sets apart; that two of a million agree by chance is one in 10^7.
        self._codes = np.random.default_rng(0).integers(0, 2**64, histories.shape[1], dtype=np.uint64)
        self._marks, self._group = np.unique(self._mark(histories), return_inverse=True)

    def _mark(self, histories: sp.csr_matrix) -> NDArray[np.uint64]:
        running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(self._codes[histories.indices], dtype=np.uint64)])
        return np.asarray(running[histories.indptr[1:]] - running[histories.indptr[:-1]])

    def vectors(self, histories: sp.csr_matrix, known: Floats, default: Floats) -> Floats:
        """Return the vector of each history.

        Parameters
        ----------
        histories : csr_matrix, shape (n_histories, n_items)
        known : array, shape (n_users, dim)
            Of the known people; of several with one history the mean is taken.
        default : array, shape (n_histories, dim)
            For those whom nobody is like, and for histories with weights other than 1.
        """
        odd = np.concatenate([[0], np.cumsum(histories.data != 1.0)])
        plain = odd[histories.indptr[1:]] == odd[histories.indptr[:-1]]
        marks = self._mark(histories)
        place = np.minimum(np.searchsorted(self._marks, marks), len(self._marks) - 1)
        found = np.flatnonzero(plain & (self._marks[place] == marks))
        n_users = len(self._group)
        ones = np.ones(n_users, dtype=np.float32)
        groups = sp.csr_matrix((ones, (self._group, np.arange(n_users))), shape=(len(self._marks), n_users))
        vectors = np.array(default, dtype=np.float32)
        vectors[found] = means(groups[place[found]], known)
        return vectors
