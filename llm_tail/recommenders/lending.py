"""Who lends an item its collaborative signal, and how much: by attention, or by regression on its neighbours.

Both are weights over the semantic neighbours of an item. Attention looks at each neighbour by itself. Regression asks
what the neighbours say together: ten copies of one record lend as much as one, and who has no near neighbour borrows
little. It is kernel ridge regression of the ID embeddings on the texts, solved around each item by itself::

    a_i = max(0, (K + ridge I)^-1 k_i)      K_jl = max(0, cos(v_j, v_l))^2,  k_ij = max(0, cos(v_i, v_j))^2

which is kriging by nearest neighbours: A. Datta et al., "Hierarchical Nearest-Neighbor Gaussian Process Models", JASA
111, 2016. No weight is negative, so that what is borrowed can be told as shares of lenders.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from llm_tail.config import HybridConfig
from llm_tail.recommenders.fusion import Floats
from llm_tail.recommenders.learning import Neighborhood, attend

if TYPE_CHECKING:
    from llm_tail.recommenders.attention import NeighborAttention

POWER, RIDGE = 2, 1.0  # from a third to three times the ridge is as good, powers of one and three are worse
BLOCK_NUMBERS = 16_000_000  # neighbours' vectors held at once


def lend(
    config: HybridConfig,
    attention: NeighborAttention,
    neighborhood: Neighborhood,
    vectors: Floats,
    warm_vectors: Floats,
) -> tuple[sp.csr_matrix, Floats]:
    """Return how much of what each item borrows each warm item lends, and how sure that is.

    Parameters
    ----------
    config : HybridConfig
        Its ``lending`` says by what.
    attention : NeighborAttention
        Asked where it is to decide.
    neighborhood : Neighborhood
        Of the items, among the warm ones.
    vectors : array of float32, shape (n_items, dim)
        Unit text vectors of the items; zero where an item has no text.
    warm_vectors : array of float32, shape (n_warm, dim)
        Those of the warm items.

    Returns
    -------
    weights : csr_matrix, shape (n_items, n_warm)
        Not negative, rows sum to 1 or, where nothing is near, to 0.
    certainty : array of float32, shape (n_items,)
        In [0, 1]: 1 where attention decides, less the further an item is from all that could lend to it by regression.

    Notes
    -----
    Regression takes O(k^2 (dim + k)) for each item with k neighbours.
    """
    if config.lending == "attention":
        return attend(attention, neighborhood, vectors, warm_vectors), np.ones(len(vectors), dtype=np.float32)
    return regress(neighborhood, vectors, warm_vectors)


def regress(neighborhood: Neighborhood, vectors: Floats, warm_vectors: Floats) -> tuple[sp.csr_matrix, Floats]:
    """Do what `lend` says, by regression.

    Examples
    --------
    >>> neighborhood = Neighborhood(np.array([[0, 1, 2]]), np.zeros((1, 3)), np.zeros((1, 3, 0)))
    >>> warm = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)  # the first two say the same
    >>> weights, certainty = regress(neighborhood, np.array([[0.6, 0.8]], dtype=np.float32), warm)
    >>> [round(float(w), 2) for w in weights.toarray()[0]], round(float(certainty[0]), 2)
    ([0.21, 0.21, 0.57], 0.56)
    """
    n, k = neighborhood.rows.shape
    weights = np.zeros((n, k), dtype=np.float32)
    for some in _blocks(n, max(1, BLOCK_NUMBERS // max(1, k * vectors.shape[1]))):
        rows = neighborhood.rows[some]
        there = rows >= 0
        lenders = warm_vectors[np.maximum(rows, 0)] * there[:, :, None]  # (n_block, k, dim)
        among = np.maximum(lenders @ lenders.transpose(0, 2, 1), 0.0) ** POWER  # (n_block, k, k)
        to_item = np.maximum(lenders @ vectors[some][:, :, None], 0.0) ** POWER  # (n_block, k, 1)
        among[:, np.arange(k), np.arange(k)] += np.float32(RIDGE)
        weights[some] = np.maximum(np.linalg.solve(among, to_item)[:, :, 0], 0.0) * there
    sums = weights.sum(axis=1)
    weights /= np.where(sums > 0, sums, 1.0)[:, None]
    line, place = np.nonzero(weights)
    shape = (n, len(warm_vectors))
    matrix = sp.csr_matrix((weights[line, place], (line, neighborhood.rows[line, place])), shape=shape)
    return matrix, np.minimum(sums, 1.0).astype(np.float32)


def _blocks(n: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, n, step))
