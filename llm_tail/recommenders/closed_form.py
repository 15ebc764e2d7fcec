"""Item-item matrices that are solved for, not trained: EASE, its twin of the texts, and EASE pulled towards it.

With X the binary matrix of who took what, G = X'X, and V one vector for each item::

    ease_weights   argmin_B  |X - XB|^2 + ridge |B|^2                       with diag(B) = 0
    text_weights   argmin_S  |V' - V'S|^2 + ridge |S|^2                     with diag(S) = 0
    l3ae_weights   argmin_B  |X - XB|^2 + ridge |B|^2 + pull |B - S|^2      with diag(B) = 0

A person's scores are ``history @ B``. The inverses are computed in float64, all results are float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from llm_tail.errors import ConfigError, DataError

Weights = NDArray[np.float32]
TextFactors = tuple[Weights, Weights, Weights]
_BLOCK = 1024


def ease_weights(gram: NDArray[Any] | sp.spmatrix | sp.sparray, ridge: float) -> Weights:
    """Return the item-item matrix of EASE: B = I - P / diag(P) with P = (G + ridge I)^-1.

    Parameters
    ----------
    gram : array or sparse matrix, shape (n_items, n_items)
        G = X'X: how many people took both items; the diagonal holds how many took each.
    ridge : float
        L2 penalty, above 0.

    Returns
    -------
    array of float32, shape (n_items, n_items)
        Zero on the diagonal; row and column of an item that nobody took are zero.

    Raises
    ------
    ConfigError, DataError
        If `ridge` is not above 0, or `gram` is not square or no Gram matrix.

    Notes
    -----
    O(n^3) time and one float64 copy of n^2 for the n items that somebody took: 0.2 GB for 5,000, 7 GB for 30,000.
    Equation 8 of H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019.

    Examples
    --------
    >>> ease_weights(np.array([[2.0, 1.0], [1.0, 2.0]]), ridge=2.0).tolist()
    [[0.0, 0.25], [0.25, 0.0]]
    """
    n_items, warm = _check(gram, ridge)
    inverse = _inverse(gram, warm, ridge)
    weights = np.zeros((n_items, n_items), dtype=np.float32)
    weights[np.ix_(warm, warm)] = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def text_weights(vectors: NDArray[Any], ridge: float) -> Weights:
    """Return the ridge item-item matrix of the texts: S = I - P / diag(P) with P = (V V' + ridge I)^-1.

    Parameters
    ----------
    vectors : array, shape (n_items, dim)
        One vector for each item; a zero vector gives a zero row and column.
    ridge : float
        L2 penalty, above 0.

    Returns
    -------
    array of float32, shape (n_items, n_items)
        Column i rebuilds the vector of item i from those of the others; zero on the diagonal.

    Raises
    ------
    ConfigError
        If `ridge` is not above 0.

    Notes
    -----
    By Woodbury only a dim x dim matrix is inverted: with H = V (V'V + ridge I)^-1 V', S_ij = H_ij / (1 - H_jj).
    O(n^2 dim) time, n^2 float32 memory.
    """
    left, right, _ = text_factors(vectors, ridge)
    weights = left @ right.T  # (n_items, n_items)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights, dtype=np.float32)


def text_factors(vectors: NDArray[Any], ridge: float) -> TextFactors:
    """Return S of `text_weights` without ever holding it: S = left right' - diag(own).

    Parameters
    ----------
    vectors : array, shape (n_items, dim)
    ridge : float
        As in `text_weights`.

    Returns
    -------
    left, right : array of float32, shape (n_items, dim)
    own : array of float32, shape (n_items,)

    Raises
    ------
    ConfigError
        If `ridge` is not above 0.

    Notes
    -----
    O(n_items dim^2) time, O(n_items dim) memory.
    """
    if not ridge > 0:
        raise ConfigError(f"ridge is {ridge}, expected a number above 0")
    n, dim = vectors.shape
    covariance = np.zeros((dim, dim))
    for start in range(0, n, _BLOCK):  # in float64, which a whole catalogue at once would have no room for
        exact = np.asarray(vectors[start : start + _BLOCK], dtype=np.float64)
        covariance += exact.T @ exact
    covariance[np.diag_indices_from(covariance)] += ridge
    root = np.linalg.inv(np.linalg.cholesky(covariance)).T
    left, right = np.empty((2, n, dim), dtype=np.float32)
    own = np.empty(n, dtype=np.float32)
    for start in range(0, n, _BLOCK):
        some = slice(start, start + _BLOCK)
        half = np.asarray(vectors[some], dtype=np.float64) @ root  # H = half half'
        leverage = np.einsum("nd,nd->n", half, half)
        left[some], right[some], own[some] = half, half / (1.0 - leverage)[:, None], leverage / (1.0 - leverage)
    return left, right, own


def l3ae_weights(gram: NDArray[Any] | sp.spmatrix | sp.sparray, text: Weights, ridge: float, pull: float) -> Weights:
    """Return EASE pulled towards a matrix of the texts: B = I + pull P S - P diag(m), P = (G + (ridge + pull) I)^-1.

    The multipliers m_j = (1 + pull (PS)_jj) / P_jj make the diagonal zero.

    Parameters
    ----------
    gram : array or sparse matrix, shape (n_items, n_items)
        G = X'X, as in `ease_weights`.
    text : array of float32, shape (n_items, n_items)
        S of `text_weights`.
    ridge : float
        L2 penalty, above 0.
    pull : float
        How strongly B is pulled towards S, at least 0; 0 is EASE.

    Returns
    -------
    array of float32, shape (n_items, n_items)
        Zero on the diagonal; columns of items that nobody took are filled from the texts.

    Raises
    ------
    ConfigError, DataError
        As `ease_weights`, or if the shapes of `gram` and `text` differ.

    Notes
    -----
    Only the items that somebody took enter the inverse; for the others P is 1 / (ridge + pull). O(n^3) time; one
    float64 and three float32 copies of n^2. From the second stage of L3AE (J. Moon et al., "LLM-Enhanced Linear
    Autoencoders for Recommendation", CIKM 2025, arXiv:2508.13500).
    """
    n_items, warm = _check(gram, ridge)
    if not pull >= 0:
        raise ConfigError(f"pull is {pull}, expected a number of at least 0")
    if text.shape != (n_items, n_items):
        raise DataError(f"the text matrix has shape {text.shape}, expected ({n_items}, {n_items}) like the Gram matrix")
    exact = _inverse(gram, warm, ridge + pull)  # (n_warm, n_warm)
    diagonal = np.diag(exact).copy()
    inverse = exact.astype(np.float32)
    del exact
    weights = text * np.float32(pull / (ridge + pull))  # right already in the rows of items that nobody took
    rows = np.float32(pull) * (inverse @ np.ascontiguousarray(text[warm], dtype=np.float32))  # (n_warm, n_items)
    multipliers = (1.0 + rows[np.arange(len(warm)), warm].astype(np.float64)) / diagonal  # (n_warm,)
    inverse *= multipliers.astype(np.float32)
    rows[:, warm] -= inverse
    weights[warm] = rows
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights, dtype=np.float32)


def l3ae_of_factors(
    gram: NDArray[Any] | sp.spmatrix | sp.sparray, text: TextFactors, ridge: float, pull: float
) -> Weights:
    """Return `l3ae_weights` of items that all were taken, from `text_factors` in place of the matrix of the texts.

    Parameters
    ----------
    gram : array or sparse matrix, shape (n_items, n_items)
        G = X'X without a 0 on the diagonal.
    text : tuple of arrays
        S = left right' - diag(own), as `text_factors` returns it.
    ridge, pull : float
        As in `l3ae_weights`.

    Returns
    -------
    array of float32, shape (n_items, n_items)
        The same within 1e-5.

    Notes
    -----
    PS takes 4 n^2 dim operations in place of 2 n^3: 2.4 s in place of 3.0 at 3,500 items on one core, dim 896. One
    float64 and two float32 copies of n^2.
    """
    left, right, own = text
    exact = _inverse(gram, np.arange(len(own)), ridge + pull)
    diagonal = np.diag(exact).copy()
    inverse = exact.astype(np.float32)
    del exact
    heard = np.float32(pull) * (inverse @ left)  # (n_items, dim)
    weights = heard @ right.T  # pull P (S + diag(own))
    kept = pull * own * diagonal  # of that what an item says of itself
    multipliers = (1.0 + np.einsum("nd,nd->n", heard, right, dtype=np.float64) - kept) / diagonal  # (n_items,)
    inverse *= (multipliers + pull * own).astype(np.float32)
    weights -= inverse
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights, dtype=np.float32)


def _check(gram: Any, ridge: float) -> tuple[int, NDArray[np.int64]]:
    """Return how many items there are, and the rows of those that somebody took."""
    if not ridge > 0:
        raise ConfigError(f"ridge is {ridge}, expected a number above 0")
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise DataError(f"the Gram matrix has shape {gram.shape}, expected a square one")
    return int(gram.shape[0]), np.flatnonzero(gram.diagonal() > 0).astype(np.int64)


def _inverse(gram: Any, rows: NDArray[np.int64], ridge: float) -> NDArray[np.float64]:
    """Return (gram[rows, rows] + ridge I)^-1 by Cholesky, in place of one float64 copy."""
    is_sparse = sp.issparse(gram)
    part = gram.tocsr()[rows][:, rows].toarray() if is_sparse else gram[np.ix_(rows, rows)]
    matrix = np.array(part, dtype=np.float64, order="C").T  # LAPACK wants columns; of a symmetric matrix the rows do
    if len(rows) == 0:
        return matrix
    matrix[np.diag_indices_from(matrix)] += ridge
    factor, failed = lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if failed:
        raise DataError("the Gram matrix is not positive definite; expected X'X of finite, non-negative events")
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    for start in range(0, len(rows), _BLOCK):  # LAPACK fills the lower half only
        stop = start + _BLOCK
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
        square = inverse[start:stop, start:stop]
        square[...] = np.tril(square) + np.tril(square, -1).T
    return np.asarray(inverse)
