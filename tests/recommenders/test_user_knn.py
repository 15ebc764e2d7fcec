import numpy as np
import pytest
import scipy.sparse as sp

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError
from llm_tail.recommenders.user_knn import UserKnn

from .contracts import RecommenderContract
from .shelf import Shelf


class TestUserKnn(RecommenderContract):
    def make(self):
        return UserKnn(k=5, shrink=1.0)


EVENTS = [("ann", "a"), ("ann", "b"), ("bob", "a"), ("bob", "b"), ("bob", "c"), ("eve", "a"), ("eve", "d")]


def test_neighbours_by_hand():
    model = UserKnn(k=2, shrink=1.0).fit(Interactions.from_pairs(EVENTS))
    near = model.neighbors(model.histories).toarray()  # ann, bob, eve
    ab, ae, be = 2 / (np.sqrt(6) + 1), 1 / (2 + 1), 1 / (np.sqrt(6) + 1)
    # ann has nothing that bob does not have; nobody has more than they themselves
    np.testing.assert_allclose(near, [[0, ab, ae], [0, 0, be], [ae, be, 0]], rtol=1e-6)
    nearest = UserKnn(k=1, shrink=1.0).fit(Interactions.from_pairs(EVENTS))
    scores = nearest.score(nearest.histories[:1])
    np.testing.assert_allclose(scores, [[ab, ab, ab, 0]], rtol=1e-6)  # a, b, c from bob; d from nobody


def test_blocks_change_nothing(monkeypatch):
    model = UserKnn(k=7).fit(Shelf().train)
    whole = model.score(model.histories)
    monkeypatch.setattr("llm_tail.recommenders.user_knn.BLOCK_BYTES", 12 * 60 * 7)
    np.testing.assert_array_equal(model.score(model.histories), whole)


def test_weights_of_a_history_are_a_cosine():
    model = UserKnn(shrink=0.0).fit(Interactions.from_pairs(EVENTS))
    weighted = sp.csr_matrix(np.array([[2.0, 0.5, 0, 0]], dtype=np.float32))
    taken = model.histories.toarray()
    cosine = taken @ [2.0, 0.5, 0, 0] / (np.linalg.norm(taken, axis=1) * np.hypot(2.0, 0.5))
    np.testing.assert_allclose(model.neighbors(weighted).toarray()[0], [0, cosine[1], cosine[2]], rtol=1e-6)


def test_nobody_asked_and_nothing_taken():
    model = UserKnn().fit(Interactions.from_pairs(EVENTS))
    assert model.neighbors(sp.csr_matrix((0, 4), dtype=np.float32)).shape == (0, 3)
    assert not model.score(sp.csr_matrix((1, 4), dtype=np.float32)).any()


@pytest.mark.parametrize("make", [lambda: UserKnn(k=0), lambda: UserKnn(shrink=-1)])
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()
