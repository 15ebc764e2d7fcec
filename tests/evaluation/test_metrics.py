import ir_measures
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, P, R, Success, nDCG

from llm_tail.errors import ConfigError, DataError
from llm_tail.evaluation import metrics

N_ITEMS = 12


@st.composite
def rankings(draw):
    """Some people, their rankings of distinct items with -1 behind, and what is relevant to them."""
    seed, n_users, k = draw(st.integers(0, 10_000)), draw(st.integers(1, 5)), draw(st.integers(1, N_ITEMS))
    rng = np.random.default_rng(seed)
    top = np.argsort(rng.random((n_users, N_ITEMS)), axis=1)[:, :k]
    top = np.where(np.arange(k) < rng.integers(0, k + 1, (n_users, 1)), top, -1)
    relevant = rng.random((n_users, N_ITEMS)) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    relevant[np.arange(n_users), rng.integers(0, N_ITEMS, n_users)] = True
    return top, sp.csr_matrix(relevant.astype(np.float32))


@given(rankings(), st.integers(1, N_ITEMS + 3))
def test_every_measure_lies_between_0_and_1(case, k):
    for name, values in metrics.per_user(*case, [k]).items():
        assert ((values >= 0) & (values <= 1)).all(), name


@given(rankings())
def test_recall_and_hit_rate_never_fall_with_k(case):
    top, relevant = case
    for measure in (metrics.recall, metrics.hit_rate, metrics.mrr):
        values = [measure(top, relevant, k) for k in range(1, top.shape[1] + 1)]
        assert (np.diff(values, axis=0) >= 0).all()


@given(rankings())
def test_a_perfect_ranking_is_1(case):
    _, relevant = case
    perfect = np.argsort(-relevant.toarray(), axis=1, kind="stable")
    for k in (1, 3, N_ITEMS):
        np.testing.assert_allclose(metrics.ndcg(perfect, relevant, k), 1.0)
        assert (metrics.mrr(perfect, relevant, k) == 1).all()
        assert (metrics.hit_rate(perfect, relevant, k) == 1).all()
    np.testing.assert_allclose(metrics.recall(perfect, relevant), 1.0)


@given(rankings(), st.integers(1, N_ITEMS))
def test_one_function_for_all_and_one_for_each_agree(case, k):
    together = metrics.per_user(*case, [k])
    for name in metrics.MEASURES:
        np.testing.assert_array_equal(together[f"{name}@{k}"], getattr(metrics, name)(*case, k))


def test_an_independent_library_agrees():
    rng = np.random.default_rng(0)
    n_users, n_items, k = 60, 50, 20
    top = np.argsort(rng.random((n_users, n_items)), axis=1)[:, :k]
    relevant = rng.random((n_users, n_items)) < rng.choice([0.02, 0.2, 0.6], (n_users, 1))
    relevant[np.arange(n_users), rng.integers(0, n_items, n_users)] = True
    judged = [ir_measures.Qrel(str(u), str(i), 1) for u, i in zip(*np.nonzero(relevant), strict=True)]
    run = [ir_measures.ScoredDoc(str(u), str(i), float(k - r)) for u in range(n_users) for r, i in enumerate(top[u])]
    names = {"recall": R, "ndcg": nDCG, "mrr": RR, "hit_rate": Success, "precision": P}
    for depth in (1, 5, 20):
        measures = {name: measure @ depth for name, measure in names.items()}
        theirs = ir_measures.calc_aggregate(list(measures.values()), judged, run)
        ours = metrics.per_user(top, sp.csr_matrix(relevant.astype(np.float32)), [depth])
        for name, measure in measures.items():
            assert ours[f"{name}@{depth}"].mean() == pytest.approx(theirs[measure], abs=1e-9), name


def test_by_hand():
    top = np.array([[3, 0, 1]])
    relevant = sp.csr_matrix(np.array([[1, 1, 1, 0, 1]]))
    assert metrics.recall(top, relevant).tolist() == [0.5]
    assert metrics.precision(top, relevant).tolist() == [2 / 3]
    assert metrics.mrr(top, relevant).tolist() == [0.5]
    gain, best = 1 / np.log2(3) + 1 / np.log2(4), 1 + 1 / np.log2(3) + 1 / np.log2(4)
    np.testing.assert_allclose(metrics.ndcg(top, relevant), gain / best)


def test_nothing_relevant_is_nan_not_zero():
    top, relevant = np.array([[0, 1], [0, 1]]), sp.csr_matrix(np.array([[0, 0], [0, 1]]))
    for name, values in metrics.per_user(top, relevant, [2]).items():
        assert np.isnan(values[0]), name
        assert values[1] > 0, name


def test_nobody_has_anything_relevant():
    assert not metrics.hits(np.array([[0, 1]]), sp.csr_matrix((1, 2))).any()


def test_stored_zeros_and_doubles_are_not_relevant_twice():
    relevant = sp.csr_matrix((np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1]), np.array([0, 3])), shape=(1, 3))
    assert metrics.recall(np.array([[0, 1]]), relevant).tolist() == [1.0]
    assert relevant.nnz == 3  # the caller's matrix stays as it is


def test_wrong_shapes_are_refused():
    relevant = sp.csr_matrix(np.eye(2))
    with pytest.raises(DataError, match=r"expected \(2, k\)"):
        metrics.recall(np.zeros((3, 1), dtype=int), relevant)
    with pytest.raises(DataError, match="item row 7, expected at most 1"):
        metrics.recall(np.array([[0], [7]]), relevant)
    with pytest.raises(ConfigError, match="k is 0"):
        metrics.ndcg(np.zeros((2, 1), dtype=int), relevant, 0)


def test_exposure_by_hand():
    top = np.array([[0, 1], [0, -1], [0, 2]])
    everything = np.ones(4, dtype=bool)
    assert metrics.exposure(top, 4).tolist() == [3, 1, 1, 0]
    assert metrics.coverage(top, everything) == 0.75
    assert metrics.coverage(top, np.array([False, False, True, True])) == 0.5
    assert metrics.exposure_share(top, np.array([True, False, False, False])) == 0.6
    assert metrics.average_popularity(top, np.array([10, 5, 0, 1])) == 7.0
    assert metrics.novelty(np.array([[0, 1]]), np.array([7, 1]), 7) == 1.0  # 8/8 people: 0 bits; 2/8: 2 bits
    assert metrics.gini(top, everything) == pytest.approx((1 * -1 + 1 * 1 + 3 * 3) / (4 * 5))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_gini_lies_between_0_and_1_and_knows_no_names(shown):
    top = np.array(shown)[:, None]
    value = metrics.gini(top, np.ones(10, dtype=bool))
    assert 0 <= value < 1
    assert metrics.gini(9 - top, np.ones(10, dtype=bool)) == pytest.approx(value)


def test_what_nobody_is_shown_has_no_share():
    top = np.full((2, 3), -1)
    everything = np.ones(4, dtype=bool)
    for value in (
        metrics.gini(top, everything),
        metrics.exposure_share(top, everything),
        metrics.average_popularity(top, np.ones(4)),
        metrics.novelty(top, np.ones(4), 3),
        metrics.coverage(top, ~everything),
    ):
        assert np.isnan(value)


def test_resampled_means_are_seeded_and_have_the_right_spread():
    values = np.random.default_rng(1).random((400, 2))
    drawn = metrics.resample_means(values, 2000, seed=5)
    np.testing.assert_array_equal(drawn, metrics.resample_means(values, 2000, seed=5))
    np.testing.assert_allclose(drawn.mean(axis=0), values.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(drawn.std(axis=0), values.std(axis=0) / np.sqrt(400), rtol=0.1)
    assert metrics.resample_means(values, 0, seed=5).shape == (0, 2)
