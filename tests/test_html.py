"""What notebooks show: one table for all, and no item can bring markup of its own."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.data.segments import Segments
from llm_tail.data.splits import split_random
from llm_tail.embedding.store import Embeddings
from llm_tail.evaluation.evaluate import evaluate
from llm_tail.html import MOST_ROWS, html_table
from llm_tail.neighbors.graph import ItemGraph
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.neighbors.layout import catalog_map
from llm_tail.recommenders.baselines import Popularity
from llm_tail.recommenders.hybrid import HybridRecommender

EVIL = "<script>alert('x')</script>&\""


@given(st.text(), st.text())
def test_no_cell_is_markup(title, cell):
    shown = html_table([title], [[cell]], title=title, note=cell)
    for word in (title, cell):
        if "<" in word and len(word) > 12:
            assert word not in shown
    assert shown.count("<td>") == 1 and shown.count("<") == shown.count(">")


def test_numbers_and_long_tables():
    shown = html_table(["a", "b", "c"], [[n, n / 3, None] for n in range(1, 1031)])
    assert shown.count("<tr>") == MOST_ROWS + 1 and f"... and {1030 - MOST_ROWS:,} more" in shown
    assert "0.333" in shown and "<td></td>" in shown


def things():
    ids = [EVIL, "b", "c", "d"]
    catalog = Catalog.from_items([{"item_id": i, "title": i + EVIL, "tag": [EVIL, "x"], "note": None} for i in ids])
    embeddings = Embeddings(catalog.ids, np.array([[1, 0], [0.9, 0.2], [0.8, 0.4], [0, 1]]))
    events = Interactions.from_pairs([(u + EVIL, i) for u in "pqrst" for i in ids[:3]])
    graph = ItemGraph.build(catalog, embeddings=embeddings, relations=["tag"], interactions=events)
    hybrid = HybridRecommender({"tune": False, "learn": False}).fit(events, embeddings)
    split = split_random(events, catalog, seed=0)
    communities = graph.communities()
    yield catalog
    yield NeighborIndex.build(embeddings).similar("b")
    yield graph
    yield graph.report()
    yield graph.related("b")
    yield graph.path("b", EVIL)
    yield graph.walk("b")
    yield graph.neighborhood("b")
    yield graph.bridges(Segments(*np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)))
    yield communities
    yield catalog_map(embeddings, communities=communities)
    yield hybrid.recommend(history=["b"])
    yield hybrid.explain("d", history=["b", EVIL])
    yield hybrid.signal_shares()
    yield evaluate({EVIL: Popularity()}, split, k=2)


@pytest.mark.parametrize("thing", list(things()), ids=lambda thing: type(thing).__name__)
def test_everything_shows_itself(thing):
    shown = thing._repr_html_()
    assert "<table>" in shown and "<script" not in shown and "alert('" not in shown
    assert shown.startswith("<div>") and shown.endswith("</div>")


def test_shares_say_who_borrows():
    events = Interactions.from_pairs([(u, i) for u in range(8) for i in ("ab" if u % 2 else "cd")])
    words = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.1, 0.9, 0], [0.8, 0, 0.2], [0, 0, 0]])
    hybrid = HybridRecommender({"tune": False, "learn": False}).fit(events, Embeddings("badcex", words))
    shares = hybrid.signal_shares()
    total = shares.own + shares.borrowed + shares.text
    np.testing.assert_allclose(total[:5], 1.0)
    assert total[5] == 0 and shares.own[4] == 0 and shares.borrowed[4] > 0  # e is cold, x has no words
    assert (shares.own[:4] > shares.borrowed[:4]).all() and shares.counts.tolist() == [4, 4, 4, 4, 0, 0]
    histories = [hybrid.explain("b", user=str(u)) for u in range(8)]
    own, borrowed, text = (sum(getattr(one, name) for one in histories) for name in ("own", "borrowed", "text"))
    assert shares.borrowed[0] == pytest.approx(abs(borrowed) / (abs(own) + abs(borrowed) + abs(text)), rel=1e-4)
    assert list(shares.to_frame().columns) == ["item_id", "people", "own", "borrowed", "text"]
    assert repr(shares).startswith("SignalShares(6 items: own ")


def test_an_empty_graph_shows_itself():
    graph = ItemGraph(IdMap(["a"]), {"similar": sp.csr_matrix((1, 1), dtype=np.float32)})
    for thing in (graph, graph.related("a"), graph.path("a", "a"), graph.walk("a"), graph.communities()):
        assert thing._repr_html_()
