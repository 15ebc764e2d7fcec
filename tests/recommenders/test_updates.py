"""New items, people and events without a refit, held against a refit with the same settings."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import HybridConfig
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError, NotFittedError
from llm_tail.evaluation.metrics import ndcg
from llm_tail.recommenders import folding
from llm_tail.recommenders.closed_form import ease_weights, l3ae_weights, text_weights
from llm_tail.recommenders.collaborative import GramFitter
from llm_tail.recommenders.folding import conjugate_gradients, fold_in
from llm_tail.recommenders.hybrid import HybridRecommender
from llm_tail.recommenders.recency import ages

from .shelf import N_WARM, Shelf
from .test_hybrid import assert_adds_up, mirrored
from .test_sequence import in_order

PLAIN = {"tune": False, "learn": False, "ridge": 5.0, "pull": 10.0, "neighbors": 5}


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


@pytest.fixture
def by_columns(monkeypatch):
    """In so small a world everything would be solved again."""
    monkeypatch.setattr("llm_tail.recommenders.folding.WHOLE_SHARE", 1.0)


def events(shelf, pairs, items=None):
    return Interactions.from_pairs(pairs, items=items or shelf.embeddings.ids)


# ---- folding


def taken(seed, n_users=80, n_items=40):
    rng = np.random.default_rng(seed)
    chance = 0.3 / (1 + np.arange(n_items) / 8)
    vectors = rng.standard_normal((n_items, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return sp.csr_matrix(rng.random((n_users, n_items)) < chance, dtype=np.float32), vectors


def grown(matrix, seed, n=3):
    rng = np.random.default_rng(seed)
    more = matrix.tolil()
    more[rng.integers(0, matrix.shape[0], n), rng.integers(0, matrix.shape[1], n)] = 1.0
    return sp.csr_matrix(more)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 20.0]))
def test_touched_columns_and_their_rows_are_those_of_a_refit(seed, pull):
    before, vectors = taken(seed)
    after = grown(before, seed + 1)
    config = HybridConfig(ridge=10.0, pull=pull)
    old, new = (GramFitter(m, vectors, config.text_ridge, 99).fit(10.0, pull) for m in (before, after))
    found, record = fold_in(old, before, after, vectors, config, whole_share=1.0)
    people = np.flatnonzero(np.diff(after.indptr) > np.diff(before.indptr))
    np.testing.assert_array_equal(found.warm, new.warm)
    if not len(people):
        assert found is old
        return
    assert record["solved"] == "columns"
    touched = np.isin(new.warm, after[people].indices)
    np.testing.assert_allclose(found.weights[:, touched], new.weights[:, touched], rtol=2e-3, atol=2e-4)
    far = np.abs(found.weights - new.weights)
    assert not far.diagonal().any()
    assert far.max() < 0.05 * np.abs(new.weights).max()


def test_above_its_share_everything_is_solved_again():
    before, vectors = taken(0)
    after = grown(before, 1, n=200)
    config = HybridConfig(ridge=10.0, pull=20.0)
    old, new = (GramFitter(m, vectors, config.text_ridge, 99).fit(10.0, 20.0) for m in (before, after))
    found, record = fold_in(old, before, after, vectors, config, whole_share=0.25)
    assert record["solved"] == "whole"
    np.testing.assert_array_equal(found.weights, new.weights)


def test_few_columns_of_many_are_solved_alone():
    """A hundred columns of 30,000 items that 100,000 people took ten each of, none of a made-up crowd of 40."""
    crowd = sp.csr_matrix((np.ones(1_000_000), np.zeros(1_000_000), np.arange(0, 1_000_001, 10)), (100_000, 30_000))
    assert folding._fair_share(crowd, 30_000) * 30_000 > 100
    assert folding._fair_share(taken(0)[0], 40) * 40 < 1


def test_too_many_items_are_refused():
    before, vectors = taken(0)
    config = HybridConfig(max_items=5, solution="whole")
    old = GramFitter(before, vectors, config.text_ridge, 99).fit(10.0, 20.0)
    with pytest.raises(DataError, match="at most 5"):
        fold_in(old, before, grown(before, 1), vectors, config)


@pytest.mark.parametrize("shift", [1e-3, 1.0, 100.0])
def test_conjugate_gradients_solve(shift):
    gram = sp.csr_matrix(taken(3)[0].T @ taken(3)[0]).astype(np.float64)
    right = np.random.default_rng(0).standard_normal((40, 7))
    right[:, 3] = 0.0
    found, steps = conjugate_gradients(gram, shift, right)
    np.testing.assert_allclose(
        found, np.linalg.solve(gram.toarray() + shift * np.eye(40), right), rtol=2e-2, atol=2e-2 / shift
    )
    assert steps <= 300


def test_what_does_not_converge_is_solved_whole(monkeypatch):
    before, vectors = taken(0)
    monkeypatch.setattr("llm_tail.recommenders.folding.MOST_STEPS", 1)
    config = HybridConfig(ridge=1.0, pull=2.0)
    old = GramFitter(before, vectors, config.text_ridge, 99).fit(1.0, 2.0)
    _, record = fold_in(old, before, grown(before, 1), vectors, config, whole_share=1.0)
    assert record["solved"] == "whole"


def test_the_closed_forms_are_what_they_were():
    matrix, vectors = taken(5)
    gram = (matrix.T @ matrix).toarray()
    np.testing.assert_allclose(
        l3ae_weights(gram, text_weights(vectors, 3.0), 2.0, 0.0), ease_weights(gram, 2.0), atol=1e-6
    )


# ---- the whole hybrid


def test_events_alone_all_touched_are_a_refit(shelf):
    pairs = sorted(shelf.pairs)
    order = np.random.default_rng(0).permutation(len(pairs))
    early, late = ([pairs[n] for n in part] for part in (order[40:], order[:40]))
    model = HybridRecommender(PLAIN).fit(events(shelf, early), shelf.embeddings)
    assert model.update(new_interactions=events(shelf, late)) is model
    wanted = HybridRecommender(PLAIN).fit(events(shelf, pairs), shelf.embeddings)
    wanted._mass = model._mass  # the scale of the texts stays
    wanted._assemble()
    assert model.training["updates"][0]["solved"] == "whole"
    order = wanted.users.rows(model.users.values)
    np.testing.assert_array_equal(model.histories.toarray(), wanted.histories[order].toarray())
    np.testing.assert_array_equal(model._counts, wanted._counts)
    np.testing.assert_allclose(model._weights, wanted._weights, rtol=1e-4, atol=1e-5)


def test_a_replay_agrees_with_a_refit(shelf, by_columns):
    """Item by item, person by person: the lists of the living model stay near those of one that is fitted anew."""
    rng = np.random.default_rng(7)
    held = [f"w{n}" for n in (5, 17, 30)]  # come later, as new items
    people = {f"u{n}" for n in range(52)}
    early = [(u, i) for u, i in shelf.pairs if i not in held and u in people]
    late = [pair for pair in shelf.pairs if pair not in set(early)]
    news = [late[n] for n in rng.permutation(len(late))]
    there = [i for i in shelf.ids if i not in held]
    vectors = dict(zip(shelf.ids, shelf.embeddings.vectors, strict=True))
    first = Embeddings(there, np.stack([vectors[i] for i in there]))
    model = HybridRecommender(PLAIN).fit(events(shelf, early, first.ids), first)
    model.update(new_items=Embeddings(held, np.stack([vectors[i] for i in held])))
    trusted = []
    for start in range(0, len(news), 8):
        model.update(new_interactions=Interactions.from_pairs(news[start : start + 8]))
        trusted.append(model._counts[model.items.rows(held)].sum())
    wanted = HybridRecommender(PLAIN).fit(events(shelf, shelf.pairs, model.items), shelf.embeddings.on(model.items))
    np.testing.assert_array_equal(model._counts, wanted._counts)
    assert trusted[-1] > trusted[0]
    mine, theirs = (m.recommend(sorted(wanted.users), k=10) for m in (model, wanted))
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(mine.item_rows, theirs.item_rows, strict=True)]
    assert np.mean(shared) > 0.9
    relevant = shelf.validation().on(model.items).for_users(wanted.users).matrix()
    order = wanted.users.rows(mine.users)
    figures = [np.nanmean(ndcg(answer.item_rows, relevant[order], 10)) for answer in (mine, theirs)]
    assert abs(figures[0] - figures[1]) < 0.02
    assert_adds_up(model, model.explain("w5", user="u3"), model.score(model.histories)[model.users.row("u3"), -3])
    assert model.explain("w5", user="u3").own != 0  # from borrowed to own
    assert "w5" in {lender for i in shelf.ids for lender, _ in model.explain(i, history=[], n=9).neighbors}


def test_an_item_that_comes_and_is_taken_at_once_is_as_in_a_refit(shelf, by_columns):
    vectors = mirrored(shelf.embeddings.vectors.mean(axis=0).astype(np.float64))
    news = [("u0", "n0"), ("u3", "n0"), ("stranger", "n0"), ("stranger", "w3"), ("u1", "n1")]
    both = Embeddings([*shelf.ids, "n0", "n1"], np.vstack([shelf.embeddings.vectors, vectors]))
    model = HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings)
    model.update(Embeddings(["n0", "n1"], vectors), Interactions.from_pairs(news))
    wanted = HybridRecommender(PLAIN).fit(events(shelf, [*shelf.pairs, *news], both.ids), both)
    wanted._mass = model._mass
    wanted._assemble()
    np.testing.assert_array_equal(model._collaborative.warm, wanted._collaborative.warm)
    assert abs(model._borrowing - wanted._borrowing).max() < 1e-4
    assert np.abs(model._weights - wanted._weights).max() < 0.03 * np.abs(wanted._weights).max()
    assert model.recommend(["stranger"], k=3)[0]
    assert not {"n0", "w3"} & set(dict(model.recommend(["stranger"], k=99)[0]))


def test_only_the_histories_grow_where_nothing_is_folded(shelf):
    model = HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings)
    weights = model._weights.copy()
    model.update(new_interactions=events(shelf, [("eve", "w1"), ("eve", "c1"), ("u0", "w1")]), fold=False)
    np.testing.assert_array_equal(model._weights, weights)
    np.testing.assert_allclose(
        model.recommend(["eve"], k=7).scores, model.recommend(history=["w1", "c1"], k=7).scores, rtol=1e-5
    )
    assert "updates" not in model.training


@pytest.mark.parametrize("whole_share", [0.0, 1.0])
def test_what_is_folded_later_counts_what_was_only_added(shelf, whole_share, monkeypatch, tmp_path):
    monkeypatch.setattr("llm_tail.recommenders.folding.WHOLE_SHARE", whole_share)
    one, two = (HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings) for _ in range(2))
    a, b = [("eve", "w1"), ("eve", "c1")], [("u1", "w8"), ("u1", "c2")]
    one.update(new_interactions=events(shelf, a + b))
    two.update(new_interactions=events(shelf, a), fold=False)
    two = HybridRecommender.load(two.save(tmp_path / "model"))
    two.update(new_interactions=events(shelf, b))
    for key in ("touched", "solved", "events"):
        assert two.training["updates"][0][key] == one.training["updates"][0][key]
    np.testing.assert_array_equal(two._counts, one._counts)
    np.testing.assert_allclose(two._weights, one._weights, atol=1e-5)


def test_new_events_are_younger_than_all_there_was(shelf):
    train = in_order(shelf.train, np.arange(len(shelf.train), dtype=np.float64))
    model = HybridRecommender(PLAIN | {"recency": 0.5}).fit(train, shelf.embeddings)
    user = model.users.row("u0")
    before, oldest = model._ages[user].toarray().ravel(), model._ages[user].max()
    again = model.items[int(np.argmax(model._ages[user].toarray()))]
    news = in_order(events(shelf, [("u0", "c0"), ("u0", again), ("eve", "c1")]), np.array([1.0, 2.0, 0.0]))
    model.update(new_interactions=news)
    after = model._ages[user].toarray().ravel()
    assert (after[model.items.row("c0")], after[model.items.row(again)]) == (2, 1)
    rest = (before > 0) & (before < oldest)
    np.testing.assert_array_equal(after[rest], before[rest] + 2)
    np.testing.assert_array_equal(model.histories[user].data, 0.5 ** (model._ages[user].data - 1.0))
    pairs = [*shelf.pairs, ("u0", "c0"), ("u0", again), ("eve", "c1")]
    whole = in_order(events(shelf, pairs), np.arange(len(pairs), dtype=np.float64))
    np.testing.assert_array_equal(
        ages(whole.for_users(model.users)).toarray(), model._ages.toarray()
    )  # as if it had always been known


@pytest.mark.parametrize("ordered", [False, True])
def test_a_model_that_was_updated_is_saved(shelf, ordered, tmp_path):
    train = in_order(shelf.train, np.arange(len(shelf.train))) if ordered else shelf.train
    model = HybridRecommender(PLAIN | {"recency": 0.7}).fit(train, shelf.embeddings)
    news = Interactions.from_pairs([("eve", "n0"), ("eve", "w2"), ("u0", "c3")])
    model.update(Embeddings(["n0"], shelf.embeddings.vectors[:1]), news)
    again = HybridRecommender.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.score(again.histories), model.score(model.histories))
    assert again.training == model.training
    more = events(shelf, [("u1", "c3"), ("u2", "w9")])
    for one in (model, again):
        one.update(new_interactions=more)
    np.testing.assert_array_equal(again._weights, model._weights)


def test_what_cannot_be_taken_in_is_refused_and_changes_nothing(shelf):
    model = HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings)
    before, n = model._weights.copy(), len(model.items)
    with pytest.raises(DataError, match="1 of 2 new events name items that are not there, such as zzz"):
        model.update(
            Embeddings(["n0"], shelf.embeddings.vectors[:1]), Interactions.from_pairs([("u0", "zzz"), ("u0", "n0")])
        )
    with pytest.raises(DataError, match="there already"):
        model.update(Embeddings(["w0"], shelf.embeddings.vectors[:1]), events(shelf, [("u0", "w9")]))
    with pytest.raises(NotFittedError):
        HybridRecommender().update()
    full = HybridRecommender(PLAIN | {"solution": "whole", "max_items": N_WARM}).fit(shelf.train, shelf.embeddings)
    with pytest.raises(DataError, match="37 items have interactions"):
        full.update(Embeddings(["n0"], shelf.embeddings.vectors[:1]), Interactions.from_pairs([("u0", "n0")]))
    assert len(full.items) == n and full.recommend(["u0"], k=3)[0] == model.recommend(["u0"], k=3)[0]
    assert len(model.items) == n
    np.testing.assert_array_equal(model._weights, before)
    model.update().update(new_interactions=events(shelf, [("u0", shelf.ids[0])]).where(np.zeros(1, dtype=bool)))
    np.testing.assert_array_equal(model._weights, before)
