import numpy as np
import pytest
import scipy.sparse as sp

from llm_tail.data.ids import IdMap
from llm_tail.data.segments import Segments
from llm_tail.errors import DataError
from llm_tail.neighbors.graph import ItemGraph


@pytest.fixture
def graph():
    """Head items a, b; tail t close to a, u far off by a weak tie of b, v behind t; x alone."""
    ids, dense = IdMap("abtuvx"), np.zeros((6, 6), dtype=np.float32)
    for pair, weight in {"ab": 0.9, "at": 0.8, "bu": 0.1, "tv": 0.9}.items():
        one, other = ids.rows(list(pair))
        dense[one, other] = dense[other, one] = weight
    return ItemGraph(ids, {"similar": sp.csr_matrix(dense)})


def segments(*heads, n=6):
    head = np.isin(np.arange(n), heads)
    return Segments(head, ~head, np.zeros(n, dtype=bool))


def test_the_strong_tie_carries_most(graph):
    found = graph.bridges(segments(0, 1))
    assert [(one.head, one.tail, one.relation) for one in found.ties] == [("a", "t", "similar"), ("b", "u", "similar")]
    assert sum(one.share for one in found.ties) == pytest.approx(1) and found.ties[0].share > 0.7
    assert [item for item, _ in found.heads] == ["a", "b"] and [item for item, _ in found.tails] == ["t", "u"]
    assert found.n_reached == 2 and found.n_tail == 4 and 0 < found.crossing_share < 1
    assert len(graph.bridges(segments(0, 1), k=1).ties) == 1
    assert len(found.table()) == 2 and found.to_dict()["ties"][0]["tail"] == "t"
    assert "reaches 2 of 4 items" in repr(found) and "<table>" in found._repr_html_()


def test_shares_are_those_of_a_sampled_walk(graph):
    found = {(one.head, one.tail): one.share for one in graph.bridges(segments(0, 1), restart=0.3).ties}
    random, ties = np.random.default_rng(0), graph.matrix().toarray().astype(float)
    crossed, at = {("a", "t"): 0, ("b", "u"): 0}, 0
    for _ in range(20_000):
        if random.random() < 0.3 or not ties[at].any():
            at = int(random.integers(2))
            continue
        after = int(random.choice(6, p=ties[at] / ties[at].sum()))
        pair = graph.ids[at], graph.ids[after]
        if pair in crossed:
            crossed[pair] += 1
        at = after
    total = sum(crossed.values())
    for pair, share in found.items():
        assert crossed[pair] / total == pytest.approx(share, abs=0.03)


def test_nothing_crosses(graph):
    none = ItemGraph(graph.ids, {"similar": sp.csr_matrix((6, 6), dtype=np.float32)}).bridges(segments(0))
    assert none.ties == [] and none.crossing_share == 0 and none.n_reached == 0 and none.table().empty


def test_segments_have_to_fit(graph):
    with pytest.raises(DataError, match="segments are of 3 items"):
        graph.bridges(segments(0, n=3))
    with pytest.raises(DataError, match="no head item"):
        graph.bridges(segments())
