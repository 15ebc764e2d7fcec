"""Recommender, the contract that every model keeps; Recommendations, the answer that every model gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import Artifact, fingerprint, read_artifact, write_artifact
from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError, DataError, NotFittedError, StaleArtifactError, UnknownIdError
from llm_tail.html import html_table

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph

Scores = NDArray[np.float32]
BLOCK_BYTES = 128 << 20  # one block of scores; what recommending for many people needs beside the model


class Recommendations:
    """Ranked items for some people.

    Parameters
    ----------
    users : sequence of str
        Who was asked for, length n_users.
    items : IdMap
        What the rows stand for.
    item_rows : array of int64, shape (n_users, k)
        Best first; -1 where a person has fewer than k candidates.
    scores : array of float32, shape (n_users, k)
        Higher is better; -inf where there is no item.
    from_popularity : array of bool, shape (n_users,)
        True for people without any history: they were given what most people take.
    """

    def __init__(
        self, users: Sequence[str], items: IdMap, item_rows: Rows, scores: Scores, from_popularity: NDArray[np.bool_]
    ) -> None:
        self.users, self.items = list(users), items
        self.item_rows, self.scores, self.from_popularity = item_rows, scores, from_popularity

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, n: int) -> list[tuple[str, float]]:
        """Return the (item_id, score) pairs of the n-th person, best first."""
        return [
            (self.items[row], float(score))
            for row, score in zip(self.item_rows[n], self.scores[n], strict=True)
            if row >= 0
        ]

    def __iter__(self) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        for n, user in enumerate(self.users):
            yield user, self[n]

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each recommendation: user_id, item_id, rank (from 1), score."""
        there = self.item_rows >= 0
        person, place = np.nonzero(there)
        return pd.DataFrame(
            {
                "user_id": np.asarray(self.users, dtype=object)[person],
                "item_id": self.items.values[self.item_rows[there]],
                "rank": (place + 1).astype(np.int64),
                "score": self.scores[there],
            }
        )

    def __repr__(self) -> str:
        return f"Recommendations({len(self):,} people, k={self.item_rows.shape[1]})"

    def _repr_html_(self) -> str:
        rows = self.to_frame().itertuples(index=False, name=None)
        return html_table(["user", "item", "rank", "score"], rows, title=repr(self))


class Recommender(ABC):
    """A model that ranks items for a person, who is nothing but a history of items.

    A subclass writes `_fit` and `_score`, and `_state` and `_restore` where it learns arrays. All else is done here.

    Attributes
    ----------
    name : str
        The name in tables and on the command line.
    serves_cold : bool
        True where items without any interaction can be ranked by more than chance.
    items, users : IdMap
        What rows stand for, after `fit`.
    histories : csr_matrix, shape (n_users, n_items)
        What each known person took in training (1.0), after `fit`.
    training : dict
        JSON-like record of what was tried, measured and kept, for models that choose; empty for others.
    """

    name: str = "recommender"
    serves_cold: ClassVar[bool] = False
    needs_embeddings: ClassVar[bool] = False

    training: Mapping[str, Any] = MappingProxyType({})
    items: IdMap
    users: IdMap
    histories: sp.csr_matrix
    _seen: sp.csr_matrix

    # ---- to be written by each model

    @abstractmethod
    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        """Learn; `train` and `validation` have the rows of `self.items` and `self.users`."""

    @abstractmethod
    def _score(self, histories: sp.csr_matrix) -> NDArray[Any]:
        """Return scores, shape (n_histories, n_items), for histories of the same width."""

    def _state(self) -> dict[str, NDArray[Any]]:
        """Return every learned array, for `save`."""
        return {}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027  (most models have nothing to do)
        """Take back what `_state` returned; ids, histories and settings are there already."""

    def _settings(self) -> dict[str, Any]:
        """Return JSON-like settings, for `save`; passed to the constructor by `load`."""
        return {}

    def _popularity(self) -> NDArray[Any]:
        """Return what people without a history are given, shape (n_items,)."""
        return np.asarray(self.histories.sum(axis=0)).ravel()

    def history_matrix(self, events: Interactions) -> sp.csr_matrix:
        """Return events as the histories that `score` reads, shape (n_users, n_items): 1 where a person took an item.

        A model that looks at order keeps it in the weights; so ask for histories here, not at `Interactions.matrix`.
        """
        return events.matrix()

    # ---- the same for all

    def fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None = None,
        graph: ItemGraph | None = None,
        *,
        validation: Interactions | None = None,
    ) -> Self:
        """Learn from interactions and, where the model uses them, item vectors and a graph.

        Parameters
        ----------
        train : Interactions
            What is learned from; `train.items` may hold cold items.
        embeddings : Embeddings, optional
            Their items become the items of the model; else those of `train`.
        graph : ItemGraph, optional
            Over the same items.
        validation : Interactions, optional
            To tune on, never to fit on. What people have there is not recommended to them either.

        Returns
        -------
        self

        Raises
        ------
        DataError
            If there is nothing to learn from, or `embeddings` is needed and missing.
        """
        if self.needs_embeddings and embeddings is None:
            raise DataError(f"{self.name} needs item vectors: fit(train, embeddings)")
        items = train.items if embeddings is None else embeddings.ids
        train = train.on(items)
        if len(train) == 0:
            raise DataError("there are no training interactions; expected at least one")
        users = train.users
        if validation is not None:
            validation = validation.on(items)
            new = [u for u in validation.users if u not in users]
            users = IdMap([*users, *new], "user") if new else users
            validation = validation.for_users(users)
        train = train.for_users(users)
        self.items, self.users = items, users
        self.histories = self.history_matrix(train)
        self._seen = self.histories if validation is None else _union(self.histories, validation.matrix())
        try:
            self._fit(train, embeddings, graph, validation)
        except BaseException:
            del self._seen  # what has learned half of it has not learned
            raise
        return self

    @property
    def is_fitted(self) -> bool:
        """True after `fit` or `load`."""
        return hasattr(self, "_seen")

    def score(self, histories: sp.csr_matrix) -> Scores:
        """Return the score of every item for people given as histories.

        Parameters
        ----------
        histories : csr_matrix, shape (n_histories, n_items)
            Non-negative weights; 1.0 where the person took the item.

        Returns
        -------
        array of float32, shape (n_histories, n_items)
            Higher is better. What the person took is scored too.
        """
        self._check_fitted()
        if histories.shape[1] != len(self.items):
            raise DataError(f"histories are {histories.shape[1]} items wide, expected {len(self.items)}")
        return np.asarray(self._score(histories), dtype=np.float32)

    def recommend(
        self,
        users: Sequence[str] | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 20,
        candidates: Sequence[str] | NDArray[np.bool_] | None = None,
        unknown: Literal["raise", "popular"] = "raise",
    ) -> Recommendations:
        """Rank items for known people, or for one person given by what they took.

        Parameters
        ----------
        users : sequence of str, optional
            Known people; all of them if neither this nor `history` is given.
        history : sequence of str, optional
            Item ids of one person who need not be known, the latest last for models that look at order. No refit.
        k : int
            How many; fewer come back where there are fewer candidates.
        candidates : sequence of str, or bool mask of shape (n_items,), optional
            The only items that may be recommended. What a person already has is never recommended.
        unknown : {"raise", "popular"}
            What to do about people in `users` who are not known.

        Returns
        -------
        Recommendations
            People without a history are given popular items and marked in ``from_popularity``.

        Raises
        ------
        NotFittedError, UnknownIdError, DataError
        """
        self._check_fitted()
        if k < 1:
            raise DataError(f"k is {k}, expected at least 1")
        for name, ids in (("users", users), ("history", history), ("candidates", candidates)):
            if isinstance(ids, str):  # a str is a sequence of str as well: one letter, one id
                raise DataError(f"{name} is the text {ids!r}, expected a list of ids: [{ids!r}]")
        allowed = self._candidates(candidates)
        if history is not None:
            if users is not None:
                raise DataError("give users or a history, not both")
            row = self._history(history)
            return self._rank([""], row, row, allowed, k)
        names = list(self.users) if users is None else [str(u) for u in users]
        rows = self.users.rows(names) if names else np.zeros(0, dtype=np.int64)
        if unknown == "raise" and (rows < 0).any():
            raise UnknownIdError("user", names[int(np.argmax(rows < 0))], self.users)
        pick = _pick_rows(rows, len(self.users))
        return self._rank(names, (pick @ self.histories).tocsr(), (pick @ self._seen).tocsr(), allowed, k)

    def save(self, folder: str | Path) -> Path:
        """Write the fitted model to a folder (safetensors, parquet, JSON; no pickle) and return the folder."""
        self._check_fitted()
        arrays = {f"state.{name}": np.ascontiguousarray(a) for name, a in self._state().items()}
        for name, matrix in (("histories", self.histories), ("seen", self._seen)):
            arrays |= {f"{name}.indptr": matrix.indptr.astype(np.int64), f"{name}.indices": matrix.indices}
        facts = {"class": type(self).__name__, "name": self.name, "settings": self._settings()}
        facts["training"] = dict(self.training)
        with write_artifact(folder, "recommender", fingerprint(facts), facts) as draft:
            save_file(arrays, draft.file("arrays.safetensors"))
            for name, ids in (("items", self.items), ("users", self.users)):
                pd.DataFrame({"id": ids.values.astype(str)}).to_parquet(draft.file(f"{name}.parquet"))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a model that `save` wrote; every file is checked against its digest first."""
        artifact = read_artifact(folder, "recommender")
        if artifact.facts["class"] != cls.__name__:
            raise DataError(f"{folder} holds a {artifact.facts['class']}, expected a {cls.__name__}")
        try:
            return cls._from_artifact(artifact)
        except (KeyError, TypeError, ConfigError) as error:  # its bytes are right, so others wrote it
            raise StaleArtifactError(
                f"the {cls.__name__} at {folder} was written by another version of llm_tail ({error!r}); fit it again"
            ) from error

    @classmethod
    def _from_artifact(cls, artifact: Artifact) -> Self:
        model = cls(**artifact.facts["settings"])
        model.name, model.training = artifact.facts["name"], artifact.facts["training"]
        arrays = load_file(artifact.file("arrays.safetensors"))
        model.items = IdMap(pd.read_parquet(artifact.file("items.parquet"))["id"].to_numpy(), "item")
        model.users = IdMap(pd.read_parquet(artifact.file("users.parquet"))["id"].to_numpy(), "user")
        shape = (len(model.users), len(model.items))
        for attribute, name in (("histories", "histories"), ("_seen", "seen")):
            indices, indptr = arrays[f"{name}.indices"], arrays[f"{name}.indptr"]
            ones = np.ones(len(indices), dtype=np.float32)
            setattr(model, attribute, sp.csr_matrix((ones, indices, indptr), shape=shape))
        state = {name.removeprefix("state."): a for name, a in arrays.items() if name.startswith("state.")}
        model._restore(state)
        return model

    def _check_fitted(self) -> None:
        if not self.is_fitted:
            raise NotFittedError(f"{self.name} has not learned yet; call {type(self).__name__}.fit(train, ...) first")

    def _history(self, item_ids: Sequence[str]) -> sp.csr_matrix:
        rows = np.unique(np.asarray([self.items.row(x) for x in item_ids], dtype=np.int64))
        ones = np.ones(len(rows), dtype=np.float32)
        return sp.csr_matrix((ones, (np.zeros(len(rows), dtype=np.int64), rows)), shape=(1, len(self.items)))

    def _candidates(self, candidates: Sequence[str] | NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        if candidates is None:
            return np.ones(len(self.items), dtype=bool)
        if isinstance(candidates, np.ndarray) and candidates.dtype == bool:
            if candidates.shape != (len(self.items),):
                raise DataError(f"the candidate mask has shape {candidates.shape}, expected ({len(self.items)},)")
            return candidates
        rows = self.items.rows(list(candidates))
        if (rows < 0).any():
            raise UnknownIdError("item", str(list(candidates)[int(np.argmax(rows < 0))]), self.items)
        mask = np.zeros(len(self.items), dtype=bool)
        mask[rows] = True
        return mask

    def _rank(
        self, names: Sequence[str], histories: sp.csr_matrix, seen: sp.csr_matrix, allowed: NDArray[np.bool_], k: int
    ) -> Recommendations:
        k = min(k, len(self.items))
        n, block = len(names), max(1, BLOCK_BYTES // (4 * max(1, len(self.items))))
        item_rows, scores = np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
        empty = np.diff(histories.indptr) == 0
        popularity = self._popularity().astype(np.float32) if empty.any() else None
        for start in range(0, n, block):
            part = slice(start, min(start + block, n))
            block_scores = np.array(self.score(histories[part]), copy=True)  # (n_block, n_items)
            if popularity is not None:
                block_scores[empty[part]] = popularity
            block_scores[:, ~allowed] = -np.inf
            block_scores[seen[part].nonzero()] = -np.inf
            item_rows[part], scores[part] = top_k(block_scores, k)
        return Recommendations(names, self.items, item_rows, scores, empty)

    def __repr__(self) -> str:
        fitted = f", {len(self.users):,} people, {len(self.items):,} items" if self.is_fitted else ", not fitted"
        return f"{type(self).__name__}({self.name}{fitted})"


def top_k(scores: Scores, k: int) -> tuple[Rows, Scores]:
    """Return the rows and scores of the k best of each line, best first; equal scores by row.

    Parameters
    ----------
    scores : array, shape (n, n_items)
        -inf marks what may not be returned; NaN counts as -inf.
    k : int
        At least 1; more than n_items counts as n_items.

    Returns
    -------
    rows : array of int64, shape (n, k)
        -1 where fewer than k may be returned.
    scores : array of float32, shape (n, k)

    Notes
    -----
    O(n_items + k log k) a line.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    k = min(k, scores.shape[1])
    if k < scores.shape[1]:
        border = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]  # (n, 1)
        chosen = scores >= border
        crowded = np.flatnonzero(chosen.sum(axis=1) > k)
        if len(crowded):  # ties at the border go by row, so that the answer does not hang on how partition moves things
            above, ties = scores[crowded] > border[crowded], scores[crowded] == border[crowded]
            ties &= np.cumsum(ties, axis=1, dtype=np.int32) <= k - above.sum(axis=1, keepdims=True)
            chosen[crowded] = above | ties
        rows = np.nonzero(chosen)[1].reshape(len(scores), k)
    else:
        rows = np.tile(np.arange(k), (len(scores), 1))
    best = np.take_along_axis(scores, rows, axis=1)  # (n, k)
    order = np.argsort(-best, axis=1, kind="stable")
    rows, best = np.take_along_axis(rows, order, axis=1), np.take_along_axis(best, order, axis=1)
    return np.where(np.isfinite(best), rows, -1).astype(np.int64), best.astype(np.float32)


def _union(a: sp.csr_matrix, b: sp.csr_matrix) -> sp.csr_matrix:
    both: sp.csr_matrix = sp.csr_matrix(a + b)
    both.data[:] = 1.0
    return both


def _pick_rows(rows: Rows, n: int) -> sp.csr_matrix:
    """Return the matrix, shape (len(rows), n), that picks these rows; -1 picks an empty one."""
    there = np.flatnonzero(rows >= 0)
    return sp.csr_matrix((np.ones(len(there), dtype=np.float32), (there, rows[there])), shape=(len(rows), n))
