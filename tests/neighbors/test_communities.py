import sys

import numpy as np
import pytest
import scipy.sparse as sp

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.errors import DataError, MissingExtraError
from llm_tail.neighbors import communities
from llm_tail.neighbors.communities import modularity, name_groups
from llm_tail.neighbors.graph import ItemGraph

KITCHEN = ["frying pan", "sauce pan", "iron pan of steel", "bread knife and pan"]
SKY = ["star atlas", "stars at night", "a star map"]


@pytest.fixture
def two_shelves():
    """Four pans and three stars, each shelf tied throughout, one weak tie between them; one item alone."""
    dense = np.zeros((8, 8), dtype=np.float32)
    dense[:4, :4] = dense[4:7, 4:7] = 0.8
    np.fill_diagonal(dense, 0)
    dense[3, 4] = dense[4, 3] = 0.1
    titles = [*KITCHEN, *SKY, "alone"]
    return ItemGraph(IdMap("abcdefgh"), {"similar": sp.csr_matrix(dense)}, titles=titles)


@pytest.mark.parametrize("method", ["scikit-network", "networkx"])
def test_shelves_are_found_and_named(two_shelves, method):
    if method == "scikit-network":
        pytest.importorskip("sknetwork")
    found = two_shelves.communities(method=method)
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, -1] and found.sizes.tolist() == [4, 3]
    assert found.names[0].startswith("pan") and found.names[1].startswith("star")
    assert found.method == method and 0.3 < found.modularity < 0.6
    assert found.of("b") == 0 and found.name("e") == found.names[1] and found.name("h") == "" and found.of("h") == -1
    assert found.members(1) == ["e", "f", "g"] and found.members(0, 2) == ["a", "b"]
    again = two_shelves.communities(method=method)
    assert (again.labels == found.labels).all() and again.names == found.names


def test_modularity_is_that_of_networkx():
    import networkx

    random = np.random.default_rng(0)
    dense = np.triu(random.random((20, 20)) * (random.random((20, 20)) < 0.3), 1)
    labels = random.integers(0, 3, 20)
    graph = networkx.from_numpy_array(dense + dense.T)
    groups = [set(np.flatnonzero(labels == n).tolist()) for n in range(3)]
    expected = networkx.community.modularity(graph, groups)
    assert modularity(sp.csr_matrix(dense + dense.T), labels) == pytest.approx(expected)


def test_names_come_from_what_is_given(two_shelves):
    words = ["oven"] * 4 + ["telescope"] * 3 + [""]
    assert two_shelves.communities(words).names == ("oven", "telescope")
    rows = [{"item_id": i, "title": w, "description": "x"} for i, w in zip("hgfedcba", words[::-1], strict=True)]
    assert two_shelves.communities(Catalog.from_items(rows)).names == ("oven", "telescope")
    assert two_shelves.communities([""] * 8).names == ("community 0", "community 1")
    with pytest.raises(DataError, match="2 texts for 8 items"):
        two_shelves.communities(["a", "b"])


def test_a_name_says_a_word_once():
    assert name_groups(np.array([0, 0]), ["book books", "books book library"], 2) in {
        ("book, library",),
        ("books, library",),
    }


def test_it_shows_itself(two_shelves):
    found = two_shelves.communities()
    assert repr(found).startswith("Communities(2 of 8 items, modularity 0.") and len(found) == 2
    assert list(found.table().columns) == ["name", "n_items", "share"] and found.table()["n_items"].sum() == 7
    assert found.to_dict()["n_untied"] == 1 and "<td>" in found._repr_html_()
    with pytest.raises(DataError, match="run from 0 to 1"):
        found.members(2)


def test_without_the_library(two_shelves, monkeypatch):
    monkeypatch.setitem(sys.modules, "sknetwork", None)
    monkeypatch.setattr(communities, "find_spec", lambda name: None)
    assert two_shelves.communities().method == "networkx"
    with pytest.raises(MissingExtraError, match=r"llm-tail\[graph\]"):
        two_shelves.communities(method="scikit-network")
    monkeypatch.setattr(communities, "NETWORKX_EDGES", 1)
    with pytest.raises(MissingExtraError, match=r"llm-tail\[graph\]"):
        two_shelves.communities()
    with pytest.raises(DataError, match="above 0"):
        two_shelves.communities(resolution=0)


def test_nothing_is_tied():
    graph = ItemGraph(IdMap("ab"), {"similar": sp.csr_matrix((2, 2), dtype=np.float32)})
    found = graph.communities()
    assert len(found) == 0 and found.labels.tolist() == [-1, -1] and found.table().empty
