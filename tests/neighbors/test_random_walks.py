import networkx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.ids import IdMap
from llm_tail.errors import DataError, UnknownIdError
from llm_tail.neighbors.graph import ItemGraph
from llm_tail.neighbors.random_walks import power, push


def drawn(seed, n=40, share=0.08):
    random = np.random.default_rng(seed)
    dense = np.triu(random.uniform(0.05, 0.95, (n, n)) * (random.random((n, n)) < share), k=1).astype(np.float32)
    return sp.csr_matrix(dense + dense.T)


def start_at(n, *rows):
    start = np.zeros(n)
    start[list(rows)] = 1 / len(rows)
    return start


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.15, 0.5]))
@settings(max_examples=25, deadline=None)
def test_shares_are_those_of_networkx(seed, restart):
    ties = drawn(seed)
    start = start_at(40, 0, 7)
    graph = networkx.from_scipy_sparse_array(ties)
    expected = networkx.pagerank(
        graph, alpha=1 - restart, personalization={0: 0.5, 7: 0.5}, weight="weight", tol=1e-12, max_iter=2000
    )
    found = power(ties, start, restart)
    np.testing.assert_allclose(found, [expected[n] for n in range(40)], atol=1e-7)
    close, left = push(ties, start, restart, epsilon=1e-8)
    assert 0 <= left < 40 * 1e-8 and np.abs(close - found).sum() < 1e-5


def test_pushing_stops_where_nothing_matters():
    ties = sp.csr_matrix(sp.diags_array([np.full(999, 0.5), np.full(999, 0.5)], offsets=[1, -1], shape=(1000, 1000)))
    shares, left = push(ties, start_at(1000, 0), 0.5, epsilon=1e-4)
    assert (shares > 0).sum() < 40 and 0 < left < 0.01


@pytest.fixture
def chain():
    """Items a - b - c - d with equal ties, and e alone."""
    dense = np.zeros((5, 5), dtype=np.float32)
    for n in range(3):
        dense[n, n + 1] = dense[n + 1, n] = 0.5
    return ItemGraph(IdMap("abcde"), {"similar": sp.csr_matrix(dense)}, titles=["A", "B", "C", "D", "E"])


@pytest.mark.parametrize("method", ["auto", "power", "push"])
def test_a_walk_stays_near_its_start(chain, method):
    walk = chain.walk("a", method=method)
    assert walk.item_ids == ("b", "c", "d") and walk.titles == ("B", "C", "D")
    assert (np.diff(walk.shares) < 0).all() and 0 < walk.shares.sum() < 1
    assert len(chain.walk("a", 1)) == 1 and chain.walk("a", 2)[1][0] == "c"
    assert chain.walk("a", restart=0.9).shares[0] < walk.shares[0]


def test_weights_of_the_start_count(chain):
    towards_a, towards_d = chain.walk({"a": 9, "d": 1}), chain.walk({"a": 1, "d": 9})
    assert towards_a.item_ids == ("b", "c") and towards_d.item_ids == ("c", "b")
    assert chain.walk(["a", "d"]).shares[0] == pytest.approx(chain.walk(["a", "d"]).shares[1])


def test_who_is_tied_to_nobody_gets_nowhere(chain):
    for method in ("power", "push"):
        walk = chain.walk("e", method=method)
        assert len(walk) == 0 and repr(walk) == "Walk(nowhere)"
    assert chain.walk(["a", "e"]).item_ids == ("b", "c", "d")


def test_relations_may_be_chosen(chain):
    both = ItemGraph(chain.ids, {"similar": chain.matrix("similar"), "brand": sp.csr_matrix((5, 5), dtype=np.float32)})
    assert both.walk("a", relations=["similar"]).item_ids == ("b", "c", "d")
    assert len(both.walk("a", relations=["brand"])) == 0
    with pytest.raises(DataError, match="no relation 'brnad'; did you mean 'brand'"):
        both.walk("a", relations=["brnad"])


def test_a_walk_shows_itself(chain):
    walk = chain.walk("a")
    assert repr(walk).startswith("Walk(b 0.") and "<table>" in walk._repr_html_()
    assert [row["item_id"] for row in walk.to_dict()["items"]] == ["b", "c", "d"]


def test_wrong_starts_are_named(chain):
    with pytest.raises(UnknownIdError):
        chain.walk("z")
    with pytest.raises(DataError, match="start somewhere"):
        chain.walk([])
    with pytest.raises(DataError, match="above 0"):
        chain.walk({"a": 0.0})
    for restart in (0, 1, float("nan")):
        with pytest.raises(DataError, match="restart"):
            chain.walk("a", restart=restart)
