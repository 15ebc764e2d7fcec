"""One vector for each item, so that a search structure serves the hybrid: ItemVectors and ServingIndex.

The score of item i for a person is a sum over owned items, s_i = sum_h x_h M_hi. With V the `dim` directions in which
the rows of M (weighted by how many people own them) differ most, ``M ~ (M V) V'``: item i is the key V_i, an owned item
the query (M V)_h, a person the weighted sum of the queries, and the score an inner product. M holds what an item
inherits and its text in one: a joint cut loses less than one for each part. It is of full rank, so that a cut does
lose; hence the nearest keys are only candidates, which the hybrid scores again, exactly.

On amazon-scientific (4,385 items, frozen MiniLM) NDCG@20 on validation is .1140 with all scores, and by vectors, with
the share of the first 20 that is the same,

=====  ==============  ===========================
width  inner products  100 candidates scored again
=====  ==============  ===========================
128    .0962  67 %     .1145  92 %
256    .1067  76 %     .1141  96 %
512    .1104  84 %     .1141  98 %
=====  ==============  ===========================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import fingerprint, read_artifact, write_artifact
from llm_tail.config import IndexConfig
from llm_tail.data.ids import IdMap, Rows
from llm_tail.errors import DataError, StaleArtifactError
from llm_tail.neighbors.products import ProductIndex
from llm_tail.progress import track
from llm_tail.recommenders.base import Recommendations, top_k
from llm_tail.recommenders.candidates import Candidates, heard
from llm_tail.recommenders.fusion import ITEMS_AT_ONCE, text_weights
from llm_tail.recommenders.low_rank import FactoredEmbeddings
from llm_tail.recommenders.scoring import mixture

if TYPE_CHECKING:
    from llm_tail.recommenders.hybrid import HybridRecommender

Floats = NDArray[np.float32]
SAMPLED_PAIRS = 1_000_000
PASSES, MORE = 4, 32  # over the rows of M, and directions beside those that are kept
JUDGED = (100, 1000)  # people on whom the loss is measured, at least and at most
MOST_SCORES, SCORES_AT_ONCE = 160_000_000, 20_000_000  # of theirs in all, and held at a time


@dataclass(frozen=True, eq=False, repr=False)
class ItemVectors:
    """Keys and queries: the score of an item is the inner product of its key with a person's query.

    Attributes
    ----------
    ids : IdMap
        The items.
    keys : array of float32, shape (n_items, dim)
        Of items as candidates.
    queries : array of float32, shape (n_items, dim)
        Of items that are owned.
    """

    ids: IdMap
    keys: Floats
    queries: Floats

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return int(self.keys.shape[1])

    def people(self, histories: sp.csr_matrix) -> Floats:
        """Return one query for each history of shape (n_histories, n_items), shape (n_histories, dim)."""
        return np.asarray(histories @ self.queries, dtype=np.float32)

    def score(self, histories: sp.csr_matrix) -> Floats:
        """Return the inner products, shape (n_histories, n_items): nearly the scores of the hybrid."""
        return self.people(histories) @ self.keys.T

    def __repr__(self) -> str:
        return f"ItemVectors({len(self.ids):,} x {self.dim})"


def item_vectors(model: HybridRecommender, dim: int, seed: int) -> ItemVectors:
    """Do what `HybridRecommender.item_vectors` says.

    Notes
    -----
    The singular directions of the score matrix, rows weighted by how many people own them, by subspace iteration
    (N. Halko et al., "Finding Structure with Randomness", SIAM Review 53, 2011, algorithm 4.4).
    """
    model._check_fitted()
    if dim < 1:
        raise DataError(f"dim is {dim}, expected at least 1")
    n = len(model.items)
    dim = min(dim, n)
    if isinstance(model._collaborative, FactoredEmbeddings):
        return _thin_vectors(model, model._collaborative, dim)
    owned = np.bincount(model.histories.indices, minlength=n)
    loud = (owned + 1.0).astype(np.float32)[:, None]  # what many own has to be kept best; squared weights of the rows
    found = np.random.default_rng(seed).standard_normal((n, min(n, dim + MORE))).astype(np.float32)
    # Subspace iteration on M' diag(loud) M: a library's would want M whole, and here its rows may be made as asked.
    for _ in track(range(PASSES), "item vectors"):
        basis = np.linalg.qr(found)[0]  # (n_items, dim + MORE)
        found = np.zeros_like(basis)
        for rows, said in model._stream():
            found += said.T @ (loud[rows] * (said @ basis))
    strength, turn = np.linalg.eigh(basis.T @ found)
    keys = np.ascontiguousarray(basis @ turn[:, np.argsort(-strength)[:dim]])  # (n_items, dim)
    queries = np.empty_like(keys)
    for rows, said in model._stream():
        queries[rows] = said @ keys
    return ItemVectors(model.items, keys, queries)


def _thin_vectors(model: HybridRecommender, known: FactoredEmbeddings, dim: int) -> ItemVectors:
    """Return item vectors of factors that are there already: nothing as large as the matrix of scores is made.

    The text kernel max(0, cos)^p is no inner product; a multiple of the cosine stands for it, as large as the kernel
    on an item's neighbours. The pair of thin matrices is then cut to its first singular directions, rows weighted by
    how many people own them, by way of two matrices of their width. The pair itself is made twice, block by block: in
    a large catalogue it would be larger than the model.
    """
    n, config = len(model.items), model.config
    words = text_weights(model._counts, config) * np.float32(model._mass * _slope(model, known)) * model._lift

    def pair(some: slice) -> tuple[Floats, Floats]:
        voices = mixture(model._place_of[some], model._borrowing[some], len(known.warm))
        keys = np.concatenate([heard(model, known, some), model._vectors[some] * words[some, None]], axis=1)
        queries = np.concatenate([np.asarray(voices @ known.queries), model._vectors[some]], axis=1)
        queries *= model._voice[some, None]
        return keys, queries  # each (n_block, rank + dim_text)

    blocks = [slice(start, start + ITEMS_AT_ONCE) for start in range(0, n, ITEMS_AT_ONCE)]
    loud = np.bincount(model.histories.indices, minlength=n).astype(np.float32) + 1.0
    width = known.keys.shape[1] + model._vectors.shape[1]
    inner, asked = np.zeros((2, width, width))
    for some in track(blocks, "item vectors"):
        keys, queries = pair(some)
        inner += keys.T @ keys
        asked += queries.T @ (queries * loud[some, None])
    inner[np.diag_indices_from(inner)] += 1e-6 * np.trace(inner) / len(inner)
    root = np.linalg.cholesky(inner).T  # keys = basis root, basis orthonormal
    strength, turn = np.linalg.eigh(root @ asked @ root.T)
    kept = turn[:, np.argsort(-strength)[:dim]]
    to_key = np.linalg.solve(root, kept).astype(np.float32)
    to_query = (root.T @ kept).astype(np.float32)
    cut = ItemVectors(model.items, *np.empty((2, n, kept.shape[1]), dtype=np.float32))
    for some in track(blocks, "item vectors, cut"):
        keys, queries = pair(some)
        np.matmul(keys, to_key, out=cut.keys[some])
        np.matmul(queries, to_query, out=cut.queries[some])
    return cut


def _slope(model: HybridRecommender, known: FactoredEmbeddings) -> float:
    """Return how large the text kernel is beside the cosine, on some of the neighbours that items borrow from."""
    line = np.repeat(np.arange(len(model.items)), np.diff(model._borrowing.indptr))
    some = np.random.default_rng(model.seed).permutation(len(line))[:SAMPLED_PAIRS]
    lenders = known.warm[model._borrowing.indices[some]]
    cosines = np.einsum("nd,nd->n", model._vectors[line[some]], model._vectors[lenders]).clip(0.0)
    return float((cosines**model.config.kernel_power).sum() / max(float(cosines.sum()), 1e-9))


class ServingIndex:
    """The hybrid behind a search structure: a person is a query, the nearest keys are candidates, which it scores.

    Made by `HybridRecommender.to_index`. It answers as the model did when it was made: make another after an update.

    Attributes
    ----------
    vectors : ItemVectors
    index : ProductIndex
        Over the keys.
    rescore : int
        Candidates that the hybrid scores for each person; 0 leaves it at the inner products.
    measured : dict
        What is lost against scoring everything, see `HybridRecommender.to_index`.

    Notes
    -----
    Memory: two vectors an item, those of the index, and at low rank the keys of `Candidates`. One person costs one
    search and O(history rescore) look-ups where the score matrix is kept, what `Candidates` says where ID embeddings
    are of low rank, else O(history (n_warm + rescore dim)).
    """

    def __init__(self, model: HybridRecommender, vectors: ItemVectors, index: ProductIndex, rescore: int) -> None:
        self.model, self.vectors, self.index, self.rescore = model, vectors, index, rescore
        self.measured: dict[str, Any] = {}
        self._state = model._assembled
        known, thin = model._collaborative, rescore > 0 and model._weights is None
        self._candidates = Candidates(model, known) if thin and isinstance(known, FactoredEmbeddings) else None

    @classmethod
    def build(
        cls, model: HybridRecommender, vectors: ItemVectors, config: IndexConfig | None, rescore: int, seed: int
    ) -> Self:
        """Link the keys; O(n_items log n_items) comparisons.

        Parameters
        ----------
        model : HybridRecommender
            That has made `vectors`.
        vectors : ItemVectors
            Keys and queries.
        config : IndexConfig, optional
            How the keys are linked.
        rescore : int
            Candidates that the model scores for each person, at least 0.
        seed : int
            Seeds the levels of the graph.
        """
        if rescore < 0:
            raise DataError(f"rescore is {rescore}, expected at least 0")
        return cls(model, vectors, ProductIndex.build(vectors.keys, config, seed=seed), rescore)

    def recommend(
        self, users: Sequence[str] | None = None, *, history: Sequence[str] | None = None, k: int = 20
    ) -> Recommendations:
        """Rank items for known people, or for one person by what they took, as `Recommender.recommend` does.

        Raises
        ------
        UnknownIdError, DataError
        """
        model = self.model
        if (users is None) == (history is None):
            raise DataError("give users or a history, one of them")
        if k < 1:
            raise DataError(f"k is {k}, expected at least 1")
        if history is not None:
            names, histories = [""], model._history(history)
            seen = histories
        else:
            names = [str(user) for user in users or []]
            rows = np.asarray([model.users.row(user) for user in names], dtype=np.int64)
            histories, seen = model.histories[rows], model._seen[rows]
        found, scores = self.search(histories, k, seen=seen)
        empty = np.diff(histories.indptr) == 0
        if empty.any():
            popular = np.tile(model._popularity().astype(np.float32), (int(empty.sum()), 1))
            popular[seen[empty].nonzero()] = -np.inf
            found[empty], scores[empty] = top_k(popular, found.shape[1])
        return Recommendations(names, self.vectors.ids, found, scores, empty)

    def search(
        self, histories: sp.csr_matrix, k: int = 20, *, seen: sp.csr_matrix | None = None
    ) -> tuple[Rows, Floats]:
        """Return the k best items of each history and their scores, best first.

        Parameters
        ----------
        histories : csr_matrix, shape (n_histories, n_items)
            As `HybridRecommender.score` reads them.
        k : int
            At least 1; more than n_items counts as n_items.
        seen : csr_matrix, shape (n_histories, n_items), optional
            What is left out; the histories themselves if not given.

        Returns
        -------
        rows : array of int64, shape (n_histories, k)
            -1 where there are fewer.
        scores : array of float32, shape (n_histories, k)

        Raises
        ------
        StaleArtifactError
            If the model was fitted or has learned something since.
        """
        if self.model._assembled is not self._state:
            raise StaleArtifactError("the model has changed since this index was made of it; make another: to_index()")
        seen = histories if seen is None else seen
        k = min(k, len(self.vectors.ids))
        people = self.vectors.people(histories)  # (n_histories, dim)
        longest = int(np.diff(seen.indptr).max(initial=0))
        wanted = min(max(k, self.rescore) + longest, len(self.vectors.ids))
        rows, scores = self.index.query(people, wanted)  # (n_histories, wanted)
        scores[_contains(seen, rows)] = -np.inf
        if self.rescore:
            self._score_again(histories, rows, scores)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
        return np.where(np.isfinite(scores), rows, -1), scores.astype(np.float32)

    def _score_again(self, histories: sp.csr_matrix, rows: Rows, scores: Floats) -> None:
        """Put the hybrid's own scores in the place of the inner products, person by person."""
        for person in range(len(rows)):
            part = slice(histories.indptr[person], histories.indptr[person + 1])
            there = np.isfinite(scores[person])
            if part.stop > part.start and there.any():
                owned, weights = histories.indices[part].astype(np.int64), histories.data[part]
                asked = rows[person, there]
                if self._candidates is not None:
                    scores[person, there] = self._candidates.score(owned, weights, asked)
                else:
                    scores[person, there] = weights @ self.model._said(owned, asked)

    def measure(self, k: int = 20) -> dict[str, Any]:
        """Return what is lost against scoring everything, on people drawn with the model's seed."""
        model, rng = self.model, np.random.default_rng(self.model.seed)
        n_judged = int(np.clip(MOST_SCORES // max(1, len(model.items)), *JUDGED))
        people = rng.permutation(np.flatnonzero(np.diff(model.histories.indptr)))[:n_judged]
        histories, held = model.histories[people], _without(model._seen[people], model.histories[people])
        lists = {"full": self._best(histories, k)}
        rescore, self.rescore = self.rescore, 0
        lists["vectors"] = self.search(histories, k)[0]
        self.rescore = rescore
        lists["rescored"] = self.search(histories, k)[0]
        found: dict[str, Any] = {"dim": self.vectors.dim, "rescore": rescore, "k": k, "people": len(people)}
        for name in ("vectors", "rescored"):
            shared = (lists["full"][:, :, None] == lists[name][:, None, :]) & (lists["full"][:, :, None] >= 0)
            found[f"overlap_{name}"] = float(shared.sum() / max(1, (lists["full"] >= 0).sum()))
        if held.nnz:
            found |= {f"ndcg_{name}": _ndcg(rows, held) for name, rows in lists.items()}
        return found

    def _best(self, histories: sp.csr_matrix, k: int) -> Rows:
        """Return the k best items by all scores, some people at a time; shape (n_histories, k)."""
        step, found = max(1, SCORES_AT_ONCE // max(1, len(self.vectors.ids))), []
        for start in range(0, histories.shape[0], step):
            some = histories[start : start + step]
            full = np.array(self.model.score(some))
            full[some.nonzero()] = -np.inf
            found.append(top_k(full, k)[0])
        return np.concatenate(found) if found else np.zeros((0, min(k, len(self.vectors.ids))), dtype=np.int64)

    def save(self, folder: str | Path) -> Path:
        """Write vectors and index, without the model, and return the folder."""
        facts = {"rescore": self.rescore, "measured": self.measured, "model": _digest(self.model)}
        arrays = {"keys": self.vectors.keys, "queries": self.vectors.queries}
        made_from = fingerprint(self.vectors.ids.values, *arrays.values(), facts)
        with write_artifact(folder, "serving-index", made_from, facts) as draft:
            save_file(arrays, draft.file("vectors.safetensors"))
            pd.DataFrame({"id": self.vectors.ids.values.astype(str)}).to_parquet(draft.file("items.parquet"))
        self.index.save(Path(folder) / "index")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, model: HybridRecommender) -> Self:
        """Read what `save` wrote, for the model that it was made of.

        Raises
        ------
        StaleArtifactError, CorruptArtifactError
            If there is nothing, it is damaged, or the model has learned something else since.
        DataError
            If the model has other items.
        """
        artifact = read_artifact(folder, "serving-index")
        ids = IdMap(pd.read_parquet(artifact.file("items.parquet"))["id"].to_numpy(), "item")
        if ids != model.items:
            raise DataError(
                f"the index at {folder} serves {len(ids):,} items that are not the {len(model.items):,} of the model; "
                "make it again: model.to_index().save()"
            )
        if artifact.facts.get("model") != _digest(model):
            raise StaleArtifactError(
                f"the index at {folder} was made of another state of the model; make it again: model.to_index().save()"
            )
        arrays = load_file(artifact.file("vectors.safetensors"))
        index = ProductIndex.load(Path(folder) / "index")
        serving = cls(model, ItemVectors(ids, arrays["keys"], arrays["queries"]), index, artifact.facts["rescore"])
        serving.measured = artifact.facts["measured"]
        return serving

    def __repr__(self) -> str:
        return f"ServingIndex({len(self.vectors.ids):,} x {self.vectors.dim}, rescore={self.rescore}, {self.index})"


def _digest(model: HybridRecommender) -> str:
    """Return what tells the scores of one state of a model from those of another."""
    borrowing = model._borrowing
    return fingerprint(model.config.model_dump(), model._mass, model._counts, borrowing.indices, borrowing.data)


def _contains(matrix: sp.csr_matrix, rows: Rows) -> NDArray[np.bool_]:
    """Return which of rows, shape (n, k), stand in the same line of the matrix."""
    width = np.int64(matrix.shape[1])
    line = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return np.isin(np.arange(len(rows))[:, None] * width + rows, line * width + matrix.indices)


def _without(seen: sp.csr_matrix, taken: sp.csr_matrix) -> sp.csr_matrix:
    """Return what stands in `seen` alone: the validation that the model was given."""
    rest = sp.csr_matrix(seen - seen.multiply(taken > 0))
    rest.eliminate_zeros()
    return rest


def _ndcg(rows: Rows, held: sp.csr_matrix) -> float:
    """Return the mean NDCG of lists, over those who have anything in `held`."""
    hits = _contains(held, rows) & (rows >= 0)
    gains = hits / np.log2(np.arange(2, rows.shape[1] + 2))
    n = np.diff(held.indptr)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, rows.shape[1] + 2)))])
    asked = n > 0
    return float((gains.sum(axis=1)[asked] / ideal[np.minimum(n[asked], rows.shape[1])]).mean())
