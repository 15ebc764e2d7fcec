import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError
from llm_tail.recommenders.graph_filter import GfCf
from llm_tail.recommenders.graphs import AlphaRec, LightGcn
from llm_tail.recommenders.propagation import KnownPeople, normalised, project, right_singular, spread, steps

from .contracts import Checkerboard, RecommenderContract
from .shelf import Shelf


class TestGfCf(RecommenderContract):
    def make(self):
        return GfCf(factors=2)


class TestLightGcn(RecommenderContract):
    def make(self):
        return LightGcn(factors=8, epochs=40, learning_rate=0.05)


class TestAlphaRec(RecommenderContract):
    def make(self):
        return AlphaRec(factors=8, hidden=8, epochs=30, learning_rate=0.02)


@pytest.fixture(scope="module")
def board():
    return Checkerboard()


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


# ---- the arithmetic


def some_histories(n_users=9, n_items=7, seed=0, share=0.4):
    taken = np.random.default_rng(seed).random((n_users, n_items)) < share
    return sp.csr_matrix(taken.astype(np.float32))


def test_normalisation_by_hand():
    graph = normalised(sp.csr_matrix(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(graph.toarray(), [[half, 0.5, 0], [0, half, 0], [0, 0, 0]], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), layers=st.integers(0, 4))
def test_layers_are_powers_of_the_whole_graph(seed, layers):
    histories, rng = some_histories(seed=seed), np.random.default_rng(seed)
    n_users, n_items = histories.shape
    people, items = (rng.standard_normal((n, 3)).astype(np.float32) for n in (n_users, n_items))
    graph = normalised(histories)
    whole = sp.bmat([[None, graph], [graph.T, None]]).toarray()
    wanted = [np.vstack([people, items])]
    for _ in range(layers):
        wanted.append(whole @ wanted[-1])
    found, first = spread(graph, people, items, layers)
    np.testing.assert_allclose(found, np.stack(wanted)[:, n_users:], atol=1e-5)
    np.testing.assert_allclose(first, wanted[min(layers, 1)][:n_users], atol=1e-5)
    later, _ = steps(histories, found[:-1], np.asarray(histories.sum(axis=0)).ravel())
    np.testing.assert_allclose(later, np.sum([w[:n_users] for w in wanted[1:]], axis=0) + 0 * later, atol=1e-5)


@pytest.mark.parametrize("k", [2, 6, 12])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_singular_vectors_span_what_a_full_decomposition_spans(k, shape):
    matrix = normalised(some_histories(*shape))
    _, _, wanted = np.linalg.svd(matrix.toarray())
    found = right_singular(matrix, k, seed=3)
    np.testing.assert_allclose(found @ found.T, wanted[:k].T @ wanted[:k], atol=1e-4)


def test_singular_vectors_of_nothing_are_left_out():
    ones = sp.csr_matrix(np.ones((30, 20), dtype=np.float32))
    assert right_singular(ones, 2, seed=0).shape == (20, 1)
    assert right_singular(ones, 500, seed=0).shape == (20, 1)


def test_people_are_known_by_their_history():
    histories = sp.csr_matrix(np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=np.float32))
    known = KnownPeople(histories)
    vectors, default = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32), np.full((4, 1), 9.0, np.float32)
    asked = sp.csr_matrix(np.array([[0, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0.5, 1]], dtype=np.float32))
    assert known.vectors(asked, vectors, default).ravel().tolist() == [2.0, 2.0, 9.0, 9.0]


# ---- GfCf


@pytest.mark.parametrize("alpha", [0.0, 0.3, 2.0])
def test_gf_cf_is_its_formula(shelf, alpha):
    model = GfCf(alpha=alpha, factors=5).fit(shelf.train)
    taken = model.histories.toarray().astype(np.float64)
    people, items = taken.sum(axis=1), taken.sum(axis=0)
    scaled = np.divide(taken, np.sqrt(np.outer(people, items)), out=np.zeros_like(taken), where=taken > 0)
    low = np.linalg.svd(scaled)[2][:5]
    inverse = np.divide(1.0, np.sqrt(items), out=np.zeros_like(items), where=items > 0)
    whole = scaled.T @ scaled + alpha * inverse[:, None] * (low.T @ low) * np.sqrt(items)
    np.testing.assert_allclose(model.score(model.histories), taken @ whole, atol=1e-4)


def test_gf_cf_hangs_on_no_seed(shelf):
    first, second = (GfCf(factors=5, seed=seed).fit(shelf.train) for seed in (0, 1))
    np.testing.assert_allclose(first.score(first.histories), second.score(first.histories), atol=1e-4)


# ---- those that learn


def assert_same_where_known(model, wanted):
    """Of warm items, for people whose history nobody else has."""
    warm = model.histories.sum(axis=0).A1 > 0
    _, group, n = np.unique(model.histories.toarray(), axis=0, return_inverse=True, return_counts=True)
    alone = n[group.ravel()] == 1
    found = model.score(model.histories)
    np.testing.assert_allclose(found[alone][:, warm], wanted[alone][:, warm], atol=1e-5)


def test_a_known_person_has_the_vector_that_was_learned(shelf):
    model = LightGcn(factors=4, layers=2, epochs=3).fit(shelf.train)
    layers, _ = spread(normalised(model.histories), model.person_layer, model.item_layers[0], 2)
    np.testing.assert_allclose(layers, model.item_layers, atol=1e-5)
    graph = normalised(model.histories)
    people = (model.person_layer + graph @ layers[0] + graph @ layers[1]) / 3
    assert_same_where_known(model, people @ layers.mean(axis=0).T)


def test_without_layers_it_is_matrix_factorization(shelf):
    model = LightGcn(factors=4, layers=0, epochs=2).fit(shelf.train)
    assert_same_where_known(model, model.person_layer @ model.item_layers[0].T)
    assert model.recommend(history=["w0", "w3", "c1"], k=3).item_rows.min() >= 0  # nobody is known by that


def test_a_stranger_is_served_like_those_who_are_alike(board):
    model = LightGcn(factors=8, epochs=40, learning_rate=0.05).fit(board.train)
    answer = model.recommend(history=["sea-0", "sea-1", "sea-2"], k=3)
    assert {item for item, _ in answer[0]} == {"sea-3", "sea-4", "sea-5"}


def test_light_gcn_puts_what_nobody_took_last(shelf):
    model = LightGcn(factors=4, epochs=2).fit(shelf.train, shelf.embeddings)
    scores, cold = model.score(model.histories), model.items.rows([f"c{n}" for n in range(6)])
    warm = np.setdiff1d(np.arange(len(model.items)), cold)
    assert (scores[:, cold].max(axis=1) < scores[:, warm].min(axis=1)).all()


def test_alpha_rec_is_its_formula(shelf):
    model = AlphaRec(factors=4, hidden=6, layers=2, epochs=2).fit(shelf.train, shelf.embeddings)
    taken = model.histories.toarray()
    people = project(model.network, taken / taken.sum(axis=1, keepdims=True) @ model.vectors)
    items = project(model.network, model.vectors)
    graph = normalised(model.histories)
    all_people, all_items = [people], [items]
    for _ in range(2):
        all_people, all_items = [*all_people, graph @ all_items[-1]], [*all_items, graph.T @ all_people[-1]]
    e_u, e_i = sum(all_people), sum(all_items)
    cosine = (e_u @ e_i.T) / np.outer(np.linalg.norm(e_u, axis=1), np.linalg.norm(e_i, axis=1))
    np.testing.assert_allclose(model.score(model.histories), cosine, atol=1e-4)


@pytest.mark.parametrize("make", [lambda **k: LightGcn(factors=4, **k), lambda **k: AlphaRec(factors=4, hidden=4, **k)])
def test_validation_decides_when_to_stop(shelf, make):
    model = make(epochs=60, patience=1, learning_rate=0.5).fit(
        shelf.train, shelf.embeddings, validation=shelf.validation()
    )
    record = model.training
    assert record["stopped"] == "patience" and record["epochs"] < 60
    assert record["kept_epoch"] == 5 * (1 + int(np.argmax([np.mean(list(m.values())) for m in record["measured"]])))
    hasty = make(epochs=60, max_minutes=1e-9).fit(shelf.train, shelf.embeddings)
    assert hasty.training["stopped"] == "time" and hasty.training["epochs"] == 1


@pytest.mark.parametrize("make", [lambda **k: LightGcn(factors=8, **k), lambda **k: AlphaRec(factors=8, hidden=8, **k)])
def test_the_loss_falls(shelf, make):
    losses = make(epochs=20, learning_rate=0.02).fit(shelf.train, shelf.embeddings).training["loss"]
    assert losses[-1] < 0.9 * losses[0]


def test_asking_needs_no_torch(shelf, tmp_path):
    LightGcn(factors=4, epochs=1).fit(shelf.train).save(tmp_path / "light")
    AlphaRec(factors=4, hidden=4, epochs=1).fit(shelf.train, shelf.embeddings).save(tmp_path / "words")
    code = (
        "import sys\nfrom llm_tail.recommenders.graphs import AlphaRec, LightGcn\n"
        f"for model in (LightGcn.load({str(tmp_path / 'light')!r}), AlphaRec.load({str(tmp_path / 'words')!r})):\n"
        "    assert model.recommend(k=2).item_rows.min() >= 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_event_is_enough_to_learn_nothing():
    train = Interactions.from_pairs([("ann", "emma")])
    for model in (GfCf(), LightGcn(factors=2, epochs=2)):
        assert model.fit(train).recommend(["ann"], k=1).item_rows.tolist() == [[-1]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: GfCf(alpha=-1),
        lambda: GfCf(factors=0),
        lambda: LightGcn(layers=-1),
        lambda: LightGcn(learning_rate=0),
        lambda: LightGcn(max_minutes=-1),
        lambda: LightGcn(epochs=0),
        lambda: AlphaRec(temperature=0),
        lambda: AlphaRec(hidden=0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()


@pytest.mark.parametrize("model", [GfCf, LightGcn, AlphaRec])
def test_what_is_tuned_can_be_set(model):
    for name, limits in model.search_space().items():
        value = limits[0] if isinstance(limits, tuple) else limits[-1]
        assert getattr(model(**{name: value}), name) == value
