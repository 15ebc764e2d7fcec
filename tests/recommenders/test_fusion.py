"""The arithmetic of the hybrid, and the closed form behind it."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import HybridConfig
from llm_tail.errors import DataError
from llm_tail.recommenders import fusion
from llm_tail.recommenders.closed_form import ease_weights
from llm_tail.recommenders.collaborative import CollaborativeEmbeddings, GramFitter, check_size
from llm_tail.recommenders.fusion import Signals, speech, text_kernel, text_signal, text_weights, trust


def world(seed=0, n_users=20, n_items=12, dim=4):
    rng = np.random.default_rng(seed)
    taken = (rng.random((n_users, n_items)) < 0.3).astype(np.float32)
    taken[:, -2:] = 0  # cold
    taken[0] = 0
    vectors = rng.standard_normal((n_items, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[3] = 0
    return sp.csr_matrix(taken), vectors


counts_of = st.lists(st.integers(0, 10_000), min_size=1, max_size=30).map(np.array)


@given(counts_of, st.floats(0, 1000))
def test_trust_lies_between_nothing_and_all_and_grows(counts, gate):
    share = trust(np.sort(counts), HybridConfig(gate=gate))
    assert share.dtype == np.float32
    assert ((share >= 0) & (share <= 1)).all()
    assert (np.diff(share) >= 0).all()
    assert not share[np.sort(counts) == 0].any()
    assert not (share[np.sort(counts) > 0] == 0).any()


def test_without_a_gate_one_person_is_enough():
    assert trust(np.array([0, 1, 9]), HybridConfig(gate=0.0)).tolist() == [0, 1, 1]


def test_text_weighs_more_where_evidence_is_thin():
    config = HybridConfig(gate=1.0, borrow=0.5, text_weight=0.1, thin_text_weight=0.4)
    np.testing.assert_allclose(text_weights(np.array([0, 1, 10**9]), config), [0.3, 0.2, 0.1], rtol=1e-5)
    np.testing.assert_allclose(text_weights(np.array([0, 5]), config.replace(borrow=0.0)), [0.1, 0.1])


@given(counts_of, st.floats(-1, 2))
def test_an_item_of_one_person_speaks_with_one_voice(counts, damping):
    voice = speech(counts, HybridConfig(damping=damping))
    assert np.isfinite(voice).all()
    assert (voice > 0).all()
    assert (voice[counts <= 1] == 1).all()


def test_the_kernel_is_the_positive_cosine_to_a_power():
    a = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    b = np.array([[0.6, 0.8], [-1, 0]], np.float32)
    np.testing.assert_allclose(text_kernel(a, b, 3.0), [[0.216, 0], [0.512, 0], [0, 0]], rtol=1e-6)
    for power in (1.0, 2.0, 2.5, 6.0, 7.0):  # by products where it is a small whole number, by a power where not
        np.testing.assert_allclose(text_kernel(a, b, power), np.maximum(a @ b.T, 0) ** power, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 6.0))
def test_text_of_histories_in_blocks_equals_the_direct_product(seed, power):
    taken, vectors = world(seed)
    histories = sp.csr_matrix(taken @ sp.diags(np.linspace(0.5, 2, taken.shape[1])), dtype=np.float32)
    kernel = np.maximum(vectors @ vectors.T, 0) ** power
    np.fill_diagonal(kernel, 0)
    wanted = histories @ kernel
    np.testing.assert_allclose(text_signal(histories, vectors, power), wanted, atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "BLOCK_BYTES", 4 * len(vectors) * 2)
        np.testing.assert_allclose(text_signal(histories, vectors, power), wanted, atol=1e-5)


def test_signals_are_weighed_as_written():
    taken, vectors = world(1)
    counts = np.asarray(taken.sum(axis=0)).ravel()
    embeddings = GramFitter(taken, vectors, 1.0, 100).fit(2.0, 3.0)
    borrowing = sp.random(12, len(embeddings.warm), 0.4, format="csr", random_state=0, dtype=np.float32)
    signals = Signals.of(taken, embeddings, borrowing, vectors, 2.0)
    b = np.zeros((12, 12), np.float32)
    b[np.ix_(embeddings.warm, embeddings.warm)] = embeddings.weights
    np.testing.assert_allclose(signals.own, taken @ b, atol=1e-6)
    np.testing.assert_allclose(signals.borrowed, (taken @ b)[:, embeddings.warm] @ borrowing.T.toarray(), atol=1e-6)
    warm = embeddings.warm
    assert signals.mass * signals.text[:, warm].sum() == pytest.approx(np.abs(signals.own).sum(), rel=1e-5)
    config = HybridConfig(gate=1.0, borrow=0.6)
    g, t = trust(counts, config), text_weights(counts, config)
    wanted = g * signals.own + (1 - g) * 0.6 * signals.borrowed + signals.mass * t * signals.text
    np.testing.assert_allclose(signals.fuse(counts, config), wanted, atol=1e-6)


@pytest.mark.parametrize("silent", ["text", "interactions"])
def test_where_one_signal_is_silent_the_mass_is_one(silent):
    taken, vectors = world(1)
    vectors = vectors * 0 if silent == "text" else vectors
    n = np.flatnonzero(np.asarray(taken.sum(axis=0)).ravel())
    weights = (
        np.zeros((len(n), len(n)), np.float32) if silent == "interactions" else np.ones((len(n), len(n)), np.float32)
    )
    signals = Signals.of(taken, CollaborativeEmbeddings(weights, n), None, vectors, 3.0)
    assert signals.mass == 1
    assert signals.borrowed.size == 0


def test_id_embeddings_are_those_of_the_warm_items():
    taken, vectors = world(2)
    fitter = GramFitter(taken, vectors, 1.0, 100)
    counts = np.asarray(taken.sum(axis=0)).ravel()
    assert fitter.warm.tolist() == np.flatnonzero(counts).tolist()
    plain = fitter.fit(2.0, 0.0)  # without any pull it is EASE
    dense = taken.toarray()[:, fitter.warm]
    np.testing.assert_allclose(plain.weights, ease_weights(dense.T @ dense, 2.0), atol=1e-6)
    np.testing.assert_allclose(plain.signal(taken), dense @ plain.weights, atol=1e-6)
    assert not np.diag(fitter.fit(2.0, 9.0).weights).any()
    assert fitter.fit(2.0, 0.0) is plain  # a solution is kept


def test_too_many_items_are_refused_with_the_memory_they_would_take():
    taken, vectors = world()
    with pytest.raises(
        DataError, match=r"10 items have interactions .* at most 9; 10 would need about 0 GB.*max_items"
    ):
        GramFitter(taken, vectors, 1.0, 9)
    assert len(check_size(taken, 10)) == 10
    wide = sp.csr_matrix(np.ones((1, 40_000), np.float32))
    with pytest.raises(DataError, match="about 30 GB"):
        check_size(wide, 30_000)


@pytest.mark.parametrize("n_people", [0, 1, 7, 20])
def test_what_is_lent_is_the_same_by_blocks_of_people_and_of_items(monkeypatch, n_people):
    rng = np.random.default_rng(n_people)
    borrowing = sp.random(23, 9, density=0.3, format="csr", dtype=np.float32, random_state=1)
    narrow = rng.standard_normal((n_people, 9)).astype(np.float32)
    monkeypatch.setattr(fusion, "PEOPLE_AT_ONCE", 8)
    monkeypatch.setattr(fusion, "ITEMS_AT_ONCE", 5)
    np.testing.assert_allclose(fusion.lend(narrow, borrowing), narrow @ borrowing.toarray().T, rtol=1e-5, atol=1e-6)
