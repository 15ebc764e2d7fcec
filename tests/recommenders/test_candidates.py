"""A few items scored for one history, where ID embeddings are of low rank and nothing is kept whole."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.recommenders import scoring
from llm_tail.recommenders.candidates import Candidates, _entries
from llm_tail.recommenders.hybrid import HybridRecommender

from .shelf import Shelf

N_ITEMS = 42
THIN = {"tune": False, "learn": False, "ridge": 5.0, "neighbors": 5, "solution": "low-rank", "rank": 12}
SOME = st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=12).map(lambda rows: np.array(rows, dtype=np.int64))


@pytest.fixture(scope="module")
def lean(tmp_path_factory):
    shelf = Shelf()
    settings = THIN | {"tail_lift": 1.5, "damping": 0.3, "borrow": 0.7}
    model = HybridRecommender(settings).fit(shelf.train, shelf.embeddings, validation=shelf.validation())
    folder = model.save(tmp_path_factory.mktemp("model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "WHOLE_BYTES", 0)
        return HybridRecommender.load(folder)


@given(owned=SOME.filter(len), asked=SOME, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_it_says_what_the_matrix_of_scores_does(lean, owned, asked, seed):
    weights = np.random.default_rng(seed).uniform(0.1, 1.0, len(owned)).astype(np.float32)
    history = sp.csr_matrix((weights, (np.zeros_like(owned), owned)), shape=(1, N_ITEMS))
    found = Candidates(lean, lean._collaborative).score(owned, weights, asked)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, lean._score(history)[0, asked], rtol=1e-4, atol=1e-5)


def test_the_serving_index_asks_it(lean, monkeypatch):
    index = lean.to_index(dim=20, rescore=N_ITEMS)
    assert isinstance(index._candidates, Candidates)
    assert lean.to_index(dim=20, rescore=0)._candidates is None
    people = list(lean.users)
    everyone = lean.recommend(people, k=5)
    monkeypatch.setattr(HybridRecommender, "_said", lambda *_: pytest.fail("scored pair by pair"))
    answer = index.recommend(people, k=5)
    np.testing.assert_allclose(answer.scores, everyone.scores, rtol=1e-4, atol=1e-5)
    assert np.mean(answer.item_rows == everyone.item_rows) > 0.98
    cold = index.recommend(history=["c1", "c2"], k=5)
    np.testing.assert_allclose(cold.scores, lean.recommend(history=["c1", "c2"], k=5).scores, rtol=1e-4, atol=1e-5)


@given(rows=st.lists(st.integers(0, 6), max_size=10), seed=st.integers(0, 99))
def test_entries_are_those_of_the_rows_asked_for(rows, seed):
    matrix = sp.random(7, 5, density=0.4, format="csr", dtype=np.float32, random_state=seed)
    line, column, value = _entries(matrix, np.array(rows, dtype=np.int64))
    dense = np.zeros((len(rows), 5), dtype=np.float32)
    dense[line, column] = value
    np.testing.assert_array_equal(dense, matrix[rows].toarray() if rows else dense)
