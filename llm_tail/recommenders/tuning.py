"""The yardstick on which the hybrid chooses its own settings: ranking quality on validation interactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.config import HybridConfig
from llm_tail.data.ids import Rows
from llm_tail.data.splits import Segments

MIN_GAIN = 0.003


@dataclass(frozen=True)
class ValidationTask:
    """Four rankings on validation interactions, each measured by the mean NDCG@k.

    Attributes
    ----------
    users : array of int64, shape (n_users,)
        Rows of the people who are asked for.
    histories : csr_matrix, shape (n_users, n_items)
        What they took in training.
    warm_candidates, cold_candidates : array of bool, shape (n_items,)
        What may be ranked.
    relevant : mapping of name to csr_matrix, shape (n_users, n_items)
        What should be found: "warm", "tail", "cold" and "overall".
    k : int
        Length of the lists.
    """

    users: Rows
    histories: sp.csr_matrix
    warm_candidates: NDArray[np.bool_]
    cold_candidates: NDArray[np.bool_]
    relevant: Mapping[str, sp.csr_matrix]
    k: int = 20

    @classmethod
    def build(
        cls, train: sp.csr_matrix, validation: sp.csr_matrix, *, max_users: int = 4000, k: int = 20, seed: int = 0
    ) -> ValidationTask:
        """Make the task of two matrices of shape (n_users, n_items).

        Items that validation names and training does not are the cold ones. Of the items that neither names, as many
        as these are taken for newcomers that nobody can have met yet and are left out; the rest stand among the warm
        candidates, as the items of a real shop that nobody bought.
        """
        rng = np.random.default_rng(seed)
        counts = np.asarray(train.sum(axis=0)).ravel().astype(np.int64)
        segments = Segments.from_counts(counts)
        named = np.asarray(validation.sum(axis=0)).ravel() > 0
        cold = segments.cold & named
        unnamed = np.flatnonzero(segments.cold & ~named)
        newcomers = rng.choice(unnamed, min(int(cold.sum()), len(unnamed)), replace=False)
        warm = ~cold
        warm[newcomers] = False
        asked = np.flatnonzero(np.diff(validation.indptr) > 0)
        if len(asked) > max_users:
            asked = np.sort(rng.choice(asked, max_users, replace=False))
        wanted = validation[asked]
        relevant = {"warm": ~cold, "tail": warm & ~segments.head, "cold": cold, "overall": np.ones_like(cold)}
        return cls(
            asked.astype(np.int64),
            train[asked].tocsr(),
            warm,
            cold,
            {name: _columns(wanted, mask) for name, mask in relevant.items()},
            k,
        )

    def measure(self, scores: NDArray[np.float32]) -> dict[str, float]:
        """Return the mean NDCG@k of each ranking that someone can be measured on; overwrites nothing.

        Parameters
        ----------
        scores : array of float32, shape (n_users, n_items)
        """
        open_scores = np.array(scores, dtype=np.float32, copy=True)
        open_scores[self.histories.nonzero()] = -np.inf
        rankings = (
            (("warm", "tail"), self.warm_candidates),
            (("cold",), self.cold_candidates),
            (("overall",), self.warm_candidates | self.cold_candidates),
        )
        measured = {}
        for names, candidates in rankings:
            wanted = self.relevant[names[0]]
            if wanted.nnz == 0:
                continue
            gains = _gains(open_scores, candidates, wanted, self.k)
            for name in names:
                relevant = self.relevant[name]
                if relevant.nnz:
                    measured[name] = _mean_ndcg(gains.multiply(relevant), relevant, self.k)
        return measured


def objective(measured: Mapping[str, float]) -> float:
    """Return the one number that is maximised: the mean of the columns."""
    return float(np.mean(list(measured.values()))) if measured else 0.0


def is_better(found: float, best: float) -> bool:
    """Return whether a change is worth it: smaller gains than MIN_GAIN are as likely luck as not."""
    return found > best * (1.0 + MIN_GAIN)


def coordinate_search(
    start: HybridConfig,
    grid: Mapping[str, Sequence[Any]],
    quality: Callable[[HybridConfig], float],
    passes: int = 2,
) -> tuple[HybridConfig, float]:
    """Return the best of the settings found by changing one after the other, and its quality.

    Parameters
    ----------
    start : HybridConfig
        Where to begin; each key of `grid` is one of its settings.
    grid : mapping of str to sequence
        The values to try.
    quality : callable
        Higher is better; asked once for each new setting.
    passes : int
        How often to go round; ends early when a round changes nothing.
    """
    best, best_quality = start, quality(start)
    for _ in range(passes):
        before = best
        for name, values in grid.items():
            for value in values:
                if value == getattr(best, name):
                    continue
                candidate = best.replace(**{name: value})
                if is_better(found := quality(candidate), best_quality):
                    best, best_quality = candidate, found
        if best == before:
            break
    return best, best_quality


def _columns(matrix: sp.csr_matrix, mask: NDArray[np.bool_]) -> sp.csr_matrix:
    kept = matrix @ sp.diags(mask.astype(np.float32))
    kept = kept.tocsr()
    kept.eliminate_zeros()
    return kept


def _gains(
    scores: NDArray[np.float32], candidates: NDArray[np.bool_], relevant: sp.csr_matrix, k: int
) -> sp.csr_matrix:
    """Return 1 / log2(1 + rank) of each relevant item within the first k, from its rank alone: nothing is sorted.

    A tie counts as lost: a model that scores everything alike has found nothing.
    """
    allowed = np.flatnonzero(candidates)
    person, item = relevant.nonzero()
    mine = scores[person, item]
    narrow = np.ascontiguousarray(scores[:, allowed])  # (n_users, n_candidates)
    rank = np.empty(len(person), dtype=np.int64)
    block = max(1, (16 << 20) // (4 * max(1, len(allowed))))
    for start in range(0, len(person), block):
        part = slice(start, start + block)
        rank[part] = np.count_nonzero(narrow[person[part]] >= mine[part, None], axis=1)  # 1 is best: it counts itself
    found = (rank <= k) & np.isfinite(mine)
    gains = np.where(found, 1.0 / np.log2(np.maximum(rank, 1) + 1.0), 0.0)
    return sp.csr_matrix((gains, (person, item)), shape=relevant.shape)


def _mean_ndcg(gains: sp.csr_matrix, relevant: sp.csr_matrix, k: int) -> float:
    """Return the mean over people with something relevant of gained over ideal."""
    n_relevant = np.diff(relevant.indptr)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])[np.minimum(n_relevant, k)]
    asked = n_relevant > 0
    return float((np.asarray(gains.sum(axis=1)).ravel()[asked] / ideal[asked]).mean())
