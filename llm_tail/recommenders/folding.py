"""Folding new events into the closed form: only the columns whose own equations have changed are solved again.

Column j of the L3AE matrix solves (G + a I) b_j = G_j + pull s_j - m_j e_j with a = ridge + pull, b_jj = 0, and P the
inverse of G + a I. An event changes the rows and columns of G of the items that its person has. For these items T::

    columns   P e_j and P s_j by conjugate gradients with the new, sparse G: exact
    rows      B_Tj = pull (P S)_Tj - P_Tj (m_j + a): exact, but for m_j of columns outside of T, which stay as they were
    all else  stays as it was; it changes by what the inverse does elsewhere, which is of second order
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import HybridConfig
from llm_tail.data.ids import Rows
from llm_tail.recommenders.closed_form import text_factors
from llm_tail.recommenders.collaborative import CollaborativeEmbeddings, Embedded, check_size, fitter_for, warm_items

Exact = NDArray[np.float64]
BLOCK = 256  # columns solved at once
TOLERANCE, MOST_STEPS = 1e-4, 300  # of what is left over; weights are told apart by more
WHOLE_SHARE: float | None = None
STEPS, SPARSE_COST = 20, 30.0  # expected, and how much longer a sparse product takes for each number than a dense one


def fold_in(
    known: Embedded,
    before: sp.csr_matrix,
    after: sp.csr_matrix,
    vectors: NDArray[np.float32],
    config: HybridConfig,
    whole_share: float | None = None,
    seed: int = 0,
) -> tuple[Embedded, dict[str, Any]]:
    """Return the collaborative part after new events, and what was done.

    Parameters
    ----------
    known : CollaborativeEmbeddings
        Of `before`.
    before, after : csr_matrix, shape (n_users, n_items)
        Who took what; `after` holds all that `before` does.
    vectors : array of float32, shape (n_items, dim)
        Unit text vectors.
    config : HybridConfig
        Penalties, and how many warm items are accepted.
    whole_share : float, optional
        Above this share of touched items everything is solved again, as `fit` does it; if left out, where that is
        faster.
    seed : int
        Of what is solved again at low rank.

    Raises
    ------
    DataError
        If there are more warm items than the settings allow.

    Notes
    -----
    O(n_touched (steps nnz(G) + n_warm dim)) time, some 20 to 100 steps; one copy of the matrix and about 6 KB times
    n_warm for a block of columns.
    """
    warm = check_size(after, config.max_items) if config.solution == "whole" else warm_items(after)
    place = np.full(after.shape[1], -1, dtype=np.int64)
    place[warm] = np.arange(len(warm))
    people = np.flatnonzero(np.diff(after.indptr) > np.diff(before.indptr))
    touched = np.unique(place[after[people].indices])  # (n_touched,)
    record: dict[str, Any] = {"people": len(people), "touched": len(touched), "warm": len(warm), "solved": "nothing"}
    if not len(touched):
        return known, record
    if whole_share is None:
        whole_share = WHOLE_SHARE if WHOLE_SHARE is not None else _fair_share(after, len(warm))
    if isinstance(known, CollaborativeEmbeddings) and len(touched) <= whole_share * len(warm):
        folded, steps = _fold(known, before, after, vectors, config, warm, touched)
        if folded is not None:
            return folded, record | {"solved": "columns", "steps": steps}
    fitter = fitter_for(after, vectors, config, seed)
    return fitter.fit(config.ridge, config.pull, config.text_ridge), record | {"solved": "whole"}


def _fair_share(taken: sp.csr_matrix, n_warm: int) -> float:
    """Return the share of columns that conjugate gradients solve in the time of one solution for all."""
    lengths = np.diff(taken.indptr).astype(np.float64)
    pairs = min(float(np.square(lengths).sum()), float(n_warm) ** 2)  # at most so many numbers in the Gram matrix
    return 3.0 * n_warm**2 / (4.0 * STEPS * SPARSE_COST * max(pairs, 1.0))


def _fold(
    known: CollaborativeEmbeddings,
    before: sp.csr_matrix,
    after: sp.csr_matrix,
    vectors: NDArray[np.float32],
    config: HybridConfig,
    warm: Rows,
    touched: Rows,
) -> tuple[CollaborativeEmbeddings | None, int]:
    """Solve for the touched columns, then fill their rows; None where the steps did not suffice."""
    shift, pull = config.ridge + config.pull, config.pull
    n, old = len(warm), np.searchsorted(warm, known.warm)  # where the old ones stand among all
    weights = np.zeros((n, n), dtype=np.float32)
    weights[np.ix_(old, old)] = known.weights
    multipliers = np.full(n, shift, dtype=np.float64)
    multipliers[old] = _multipliers(_gram(before, known.warm), known.weights, shift)
    gram = _gram(after, warm)
    left, right, own = text_factors(vectors[warm], config.text_ridge)
    most = 0
    solved: list[tuple[Rows, NDArray[np.float32]]] = []
    for start in range(0, len(touched), BLOCK):
        part = touched[start : start + BLOCK]
        here = (part, np.arange(len(part)))
        text = (left @ right[part].T).astype(np.float64)  # (n_warm, n_part)
        text[here] -= own[part]
        unit = np.zeros_like(text)
        unit[here] = 1.0
        found, steps = conjugate_gradients(gram, shift, np.hstack([unit, pull * text]))
        if found is None:
            return None, steps
        inverse, drawn = np.hsplit(found, 2)  # P e_j and pull P s_j
        most = max(most, steps)
        multipliers[part] = (1.0 + drawn[here]) / inverse[here]
        column = drawn - inverse * multipliers[part]
        column[here] = 0.0
        solved.append((part, column.astype(np.float32)))
        spoken = inverse.T.astype(np.float32)  # (n_part, n_warm)
        rows = np.float32(pull) * ((spoken @ left) @ right.T - spoken * own) - spoken * multipliers.astype(np.float32)
        rows[here[::-1]] = 0.0
        weights[part] = rows
    for part, exact in solved:  # last: where a row and a column cross the column is exact
        weights[:, part] = exact
    return CollaborativeEmbeddings(weights, warm), most


def conjugate_gradients(gram: sp.csr_matrix, shift: float, right: Exact) -> tuple[Exact | None, int]:
    """Return (gram + shift I)^-1 right, shape of `right`, and the steps it took; None where they did not suffice.

    Each column goes its own way; the diagonal is the preconditioner.

    Examples
    --------
    >>> found, _ = conjugate_gradients(sp.csr_matrix([[1.0, 1.0], [1.0, 1.0]]), 1.0, np.array([[3.0], [0.0]]))
    >>> found.round(6).tolist()
    [[2.0], [-1.0]]
    """
    scale = 1.0 / (gram.diagonal() + shift)[:, None]
    solution, residual = np.zeros_like(right), right.copy()
    target = np.square(TOLERANCE) * np.einsum("ij,ij->j", right, right)
    wanted = scale * residual
    direction, energy = wanted.copy(), np.einsum("ij,ij->j", residual, wanted)
    for step in range(MOST_STEPS):
        if (np.einsum("ij,ij->j", residual, residual) <= target).all():
            return solution, step
        moved = gram @ direction + shift * direction
        length = np.divide(energy, np.einsum("ij,ij->j", direction, moved), out=np.zeros_like(energy), where=energy > 0)
        solution += length * direction
        residual -= length * moved
        wanted = scale * residual
        last, energy = energy, np.einsum("ij,ij->j", residual, wanted)
        direction *= np.divide(energy, last, out=np.zeros_like(energy), where=last > 0)
        direction += wanted
    return None, MOST_STEPS


def _gram(taken: sp.csr_matrix, warm: Rows) -> sp.csr_matrix:
    narrow = taken[:, warm].astype(np.float64)
    return sp.csr_matrix(narrow.T @ narrow)


def _multipliers(gram: sp.csr_matrix, weights: NDArray[np.float32], shift: float) -> Exact:
    """Return m_j + a of columns that are solved: a + G_jj - (GB)_jj, shape (n,)."""
    pairs = gram.tocoo()
    said = np.bincount(pairs.col, pairs.data * weights[pairs.row, pairs.col], minlength=len(weights))
    return np.asarray(shift + gram.diagonal() - said)
