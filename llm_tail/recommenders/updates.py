"""Living with change: the hybrid takes in new items, new people and new events without a refit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.interactions import Interactions
from llm_tail.errors import DataError
from llm_tail.recommenders.collaborative import check_size
from llm_tail.recommenders.folding import fold_in
from llm_tail.recommenders.recency import ages

if TYPE_CHECKING:
    from llm_tail.embedding.store import Embeddings
    from llm_tail.recommenders.hybrid import HybridRecommender


def update(
    model: HybridRecommender, new_items: Embeddings | None, new_interactions: Interactions | None, fold: bool
) -> None:
    """Do what `HybridRecommender.update` says."""
    model._check_fitted()
    events = None if new_interactions is None else _checked(model, new_items, new_interactions)
    if new_items is not None and len(new_items):
        _check_new(model, new_items)
    if fold and events is not None and model.config.solution == "whole":
        _check_room(model, events)
    if new_items is not None and len(new_items):
        _grow_items(model, new_items)
    if events is None or not len(events):
        if new_items is not None:
            model._assemble()
        return
    events = events.on(model.items)
    before = _grow_histories(model, events)
    learned = before if model._unlearned is None else _without(before, _shaped(model._unlearned, before.shape))
    if fold:
        model._unlearned = None
        _learn(model, learned)
    else:
        model._unlearned = _without(_binary(model.histories), learned)
    if fold or new_items is not None:
        model._assemble()


def _checked(model: HybridRecommender, new_items: Embeddings | None, events: Interactions) -> Interactions:
    """Refuse events on items that nobody knows, before anything is changed."""
    known = model.items.rows(events.items.values) >= 0
    if new_items is not None:
        known |= new_items.ids.rows(events.items.values) >= 0
    unknown = ~known[events.item_rows]
    if unknown.any():
        shown = ", ".join(map(str, np.unique(events.items.values[events.item_rows[unknown]].astype(str))[:3]))
        raise DataError(
            f"{int(unknown.sum())} of {len(events)} new events name items that are not there, such as {shown}; give "
            "their vectors as new_items"
        )
    return events


def _check_room(model: HybridRecommender, events: Interactions) -> None:
    """Refuse events on more items than the closed form takes, before anything is changed."""
    taken = np.asarray(model.items.values, dtype=object)[np.diff(model.histories.tocsc().indptr) > 0]
    named = np.asarray(events.items.values, dtype=object)[np.unique(events.item_rows)]
    n = len(np.union1d(taken.astype(str), named.astype(str)))
    check_size(sp.csr_matrix(np.ones((1, n), dtype=np.float32)), model.config.max_items)


def _check_new(model: HybridRecommender, embeddings: Embeddings) -> None:
    known = [x for x in embeddings.ids if x in model.items]
    if known:
        raise DataError(f"{len(known)} items are there already, such as {', '.join(known[:3])}")
    model._space.check(embeddings)


def _grow_items(model: HybridRecommender, embeddings: Embeddings) -> None:
    """Give new items their neighbours; nobody has taken them yet."""
    n_old, n_new = len(model.items), len(embeddings)
    alike = model._near_vectors is model._vectors
    model._vectors = np.vstack([model._vectors, model._space.place(embeddings)])
    near = model._near_vectors if alike else np.vstack([model._near_vectors, model._near_space.place(embeddings)])
    model._near_vectors = model._vectors if alike else near
    model._counts = np.concatenate([model._counts, np.zeros(n_new, dtype=np.int64)])
    new = np.arange(n_old, n_old + n_new)
    lent = model._attend(model._learned_attention(), model._neighborhood(model._counts, None, new), new)
    model._borrowing = sp.vstack([model._borrowing, lent], format="csr")
    model.items = IdMap([*model.items, *embeddings.ids], "item")
    shape = (len(model.users), n_old + n_new)
    model.histories, model._seen = (_shaped(matrix, shape) for matrix in (model.histories, model._seen))
    model._ages = None if model._ages is None else _shaped(model._ages, shape)


def _grow_histories(model: HybridRecommender, events: Interactions) -> sp.csr_matrix:
    """Add events to the histories and return who took what before, both of the new shape."""
    strangers = np.unique(events.user_rows[model.users.rows(events.users.values)[events.user_rows] < 0])
    if len(strangers):
        model.users = IdMap([*model.users, *(events.users[row] for row in strangers)], "user")
    named = model.users.rows(events.users.values)[events.user_rows]
    events = Interactions(
        model.users, events.items, named, events.item_rows, times=events.times, positions=events.positions
    )
    shape, aged = (len(model.users), len(model.items)), ages(events)
    before = _binary(_shaped(model.histories, shape))
    taken = _binary(sp.csr_matrix(before + _binary(aged)))
    model._seen = _binary(sp.csr_matrix(_shaped(model._seen, shape) + taken))
    model.histories = taken
    if model._ages is not None:
        model._take(_joined(_shaped(model._ages, shape), aged))
    return before


def _joined(old: sp.csr_matrix, new: sp.csr_matrix) -> sp.csr_matrix:
    """Return the ages when what is new has come after what is old; what was taken again is young again."""
    moments = np.asarray(new.max(axis=1).todense()).ravel()  # how far each person's old items move back
    moved = old.copy()
    moved.data += np.repeat(moments, np.diff(old.indptr)).astype(old.dtype)
    again = moved.multiply(new > 0)
    return sp.csr_matrix(moved - again + new, dtype=np.int32)


def _learn(model: HybridRecommender, before: sp.csr_matrix) -> None:
    """Let what is learned of IDs and neighbours follow the histories."""
    after = _binary(model.histories)
    warm_before = model._collaborative.warm
    model._collaborative, record = fold_in(
        model._collaborative, before, after, model._vectors, model.config, seed=model.seed
    )
    model._counts = np.bincount(after.indices, minlength=after.shape[1]).astype(np.int64)
    n_moved = _borrow_again(model, warm_before)
    record |= {"new_warm": len(model._collaborative.warm) - len(warm_before), "new_neighbors": n_moved}
    record |= {"events": int(after.nnz - before.nnz)}
    model.training = {**model.training, "updates": [*model.training.get("updates", []), record]}


def _borrow_again(model: HybridRecommender, warm_before: Rows) -> int:
    """Let items that have become warm lend to those to whom they are nearer than a lender of today; return how many."""
    warm = model._collaborative.warm
    place = np.searchsorted(warm, warm_before)
    lent = model._borrowing
    lent = sp.csr_matrix((lent.data, place[lent.indices], lent.indptr), shape=(lent.shape[0], len(warm)))
    newly = np.setdiff1d(warm, warm_before)
    if len(newly):
        rows = np.flatnonzero(_has_nearer(model._near_vectors, lent, warm, newly, model.config.neighbors))
        again = model._attend(model._learned_attention(), model._neighborhood(model._counts, None, rows), rows)
        kept = np.ones(lent.shape[0], dtype=np.float32)
        kept[rows] = 0.0
        back = sp.csr_matrix(
            (np.ones(len(rows), dtype=np.float32), (rows, np.arange(len(rows)))), shape=(lent.shape[0], len(rows))
        )
        lent = sp.csr_matrix(sp.diags(kept) @ lent + back @ again)
        lent.eliminate_zeros()
        model._borrowing = lent
        return len(rows)
    model._borrowing = lent
    return 0


def _has_nearer(
    vectors: NDArray[np.float32], lent: sp.csr_matrix, warm: Rows, newly: Rows, k: int
) -> NDArray[np.bool_]:
    """Return which items have one of `newly` nearer than their k-th lender, or fewer than k lenders."""
    n, step = lent.shape[0], 4096
    nearer: NDArray[np.bool_] = np.diff(lent.indptr) < k
    for start in range(0, n, step):
        part = lent[start : start + step]
        line = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
        here = vectors[start : start + step]
        cosines = np.einsum("nd,nd->n", here[line], vectors[warm[part.indices]])
        cosines[~vectors[warm[part.indices]].any(axis=1)] = -np.inf  # tied, and without a text
        order = np.lexsort((-cosines, line))
        rank = np.arange(len(line)) - np.repeat(part.indptr[:-1], np.diff(part.indptr))
        farthest = np.full(part.shape[0], np.inf, dtype=np.float32)
        last = rank == np.minimum(np.diff(part.indptr), k)[line] - 1  # those beyond are there for the graph's sake
        farthest[line[last]] = cosines[order][last]
        nearer[start : start + step] |= (here @ vectors[newly].T).max(axis=1) > farthest
    nearer &= np.abs(vectors).max(axis=1) > 0
    return nearer


def _binary(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Return 1 wherever something stands, with sorted indices."""
    ones = sp.csr_matrix((np.ones(matrix.nnz, dtype=np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)
    ones.sort_indices()
    return ones


def _without(matrix: sp.csr_matrix, left_out: sp.csr_matrix) -> sp.csr_matrix:
    """Return a binary matrix without what stands in another."""
    rest = sp.csr_matrix(matrix - left_out)
    rest.eliminate_zeros()
    return rest


def _shaped(matrix: sp.csr_matrix, shape: tuple[int, int]) -> sp.csr_matrix:
    """Return the matrix with empty rows and columns added at the end."""
    indptr = np.concatenate([matrix.indptr, np.full(shape[0] - matrix.shape[0], matrix.indptr[-1])])
    return sp.csr_matrix((matrix.data, matrix.indices, indptr), shape=shape)
