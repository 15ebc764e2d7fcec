import numpy as np
import pytest
import scipy.sparse as sp

from llm_tail.config import GraphConfig
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.store import Embeddings
from llm_tail.neighbors.edges import mutual_ties, near_choices, near_ties
from llm_tail.neighbors.graph import ItemGraph
from llm_tail.neighbors.report import components_of, sizes_of
from llm_tail.neighbors.strengths import STRONGEST, Strengths


def drawn(seed, n=30):
    random = np.random.default_rng(seed)
    dense = np.triu(random.random((n, n)) * (random.random((n, n)) < 0.15), 1).astype(np.float32)
    return sp.csr_matrix(dense + dense.T)


def test_rows_are_those_of_the_whole():
    matrices = {"similar": drawn(0), "brand": drawn(1)}
    by_rows, whole = Strengths(matrices, {"brand"}), Strengths(matrices, {"brand"}).whole()
    rows = np.array([3, 0, 17])
    np.testing.assert_allclose(by_rows[rows].toarray(), whole[rows].toarray(), atol=1e-6)
    assert by_rows.degrees().tolist() == np.diff(whole.indptr).tolist() and by_rows.kept_bytes == 0
    expected = 1 - (1 - matrices["similar"].toarray()) * np.exp(-matrices["brand"].toarray())
    np.testing.assert_allclose(whole.toarray(), expected, atol=1e-5)


def test_one_relation_takes_no_room_of_its_own():
    one = Strengths({"similar": drawn(0)}, ())
    assert one.whole().nnz and one.kept_bytes == 0
    sure = drawn(0)
    sure.data[0] = 1.0
    capped = Strengths({"similar": sure}, ())
    assert capped.whole().data.max() <= np.float32(STRONGEST) and sure.data[0] == 1.0
    assert capped.kept_bytes == sure.data.nbytes  # weights anew, places shared


def test_an_edge_takes_less_than_twenty_bytes():
    random = np.random.default_rng(0)
    n = 3000
    catalog = Catalog.from_items([{"item_id": str(i), "brand": str(i % 400)} for i in range(n)])
    vectors = Embeddings(catalog.ids, random.normal(size=(n, 16)))
    graph = ItemGraph.build(catalog, embeddings=vectors, relations=["brand"], config=GraphConfig(min_similarity=0.0))
    graph.related("7", hops=2), graph.report(), graph.neighborhood("7"), graph.walk("7", method="push")
    assert graph.n_bytes / graph.n_edges < 20


def test_only_what_both_choose_and_the_strongest():
    rows = np.array([[1, 2], [0, 2], [1, 0], [2, -1]])
    similarities = np.array([[0.9, 0.5], [0.9, 0.7], [0.7, 0.5], [0.4, -np.inf]], dtype=np.float32)
    assert near_ties(rows, similarities, 0.0).nnz == 2 * 4
    rows[2] = [1, 3]  # 2 does not choose 0 any more
    similarities[2] = [0.7, 0.4]
    found = near_ties(rows, similarities, 0.0, mutual=True).toarray()
    assert found[0, 1] == found[1, 0] == pytest.approx(0.9) and found[1, 2] == pytest.approx(0.7)
    assert found[0, 2] == 0 and found[2, 3] == pytest.approx(0.4)
    rows[2], similarities[2] = [1, 0], [0.7, 0.5]  # nobody chooses 3, which keeps its strongest
    assert near_ties(rows, similarities, 0.0, mutual=True)[3, 2] == pytest.approx(0.4)
    chosen = near_choices(rows, similarities, 0.0)
    both = mutual_ties(chosen)
    assert (both != both.T).nnz == 0 and both.nnz <= near_ties(rows, similarities, 0.0).nnz


def test_mutual_is_a_setting():
    random = np.random.default_rng(1)
    catalog = Catalog.from_items([{"item_id": str(i)} for i in range(200)])
    vectors = Embeddings(catalog.ids, random.normal(size=(200, 8)))
    plain, mutual = (
        ItemGraph.build(catalog, embeddings=vectors, config=GraphConfig(neighbors=6, mutual=m)) for m in (False, True)
    )
    assert mutual.n_edges < plain.n_edges and mutual.report().n_untied == 0
    assert mutual.degree().max() < plain.degree().max()


def test_parts_hang_together_by_any_relation():
    def tied(*pairs):
        dense = np.zeros((7, 7), dtype=np.float32)
        for a, b in pairs:
            dense[a, b] = dense[b, a] = 1
        return sp.csr_matrix(dense)

    labels = components_of({"x": tied((0, 1), (2, 3)), "y": tied((1, 2), (4, 5))}, 7)
    assert len({*labels[:4]}) == 1 and labels[4] == labels[5] and len(set(labels.tolist())) == 3
    assert sizes_of(labels, np.arange(7) < 6).tolist() == [4, 2]


def test_the_report_counts_and_shows_itself():
    dense = np.zeros((5, 5), dtype=np.float32)
    dense[0, 1] = dense[1, 0] = dense[1, 2] = dense[2, 1] = 0.5
    graph = ItemGraph(Catalog.from_items([{"item_id": c} for c in "abcde"]).ids, {"similar": sp.csr_matrix(dense)})
    report = graph.report()
    assert repr(report) == "GraphReport(5 items, 2 edges, 1 components, 2 untied)"
    assert report.components == (3,) and report.degrees["similar"].most == 2 and report.n_bytes == graph.n_bytes
    assert report.table().loc["all together", "edges"] == 2 and report.to_dict()["components"] == [3]
    assert "median 1" in str(report) and "60.0% of the items" in str(report) and "<table>" in report._repr_html_()


def test_a_neighbourhood_is_small_and_whole():
    random = np.random.default_rng(0)
    catalog = Catalog.from_items([{"item_id": str(i), "title": f"T{i}", "brand": str(i % 9)} for i in range(90)])
    vectors = Embeddings(catalog.ids, random.normal(size=(90, 6)))
    graph = ItemGraph.build(catalog, embeddings=vectors, relations=["brand"], config=GraphConfig(neighbors=5))
    near = graph.neighborhood("7", k=12)
    assert len(near.nodes) == 13 and near.nodes[0].item_id == "7" and near.nodes[0].hops == 0
    assert [n.item_id for n in near.nodes[1:]] == [r.item_id for r in graph.related("7", hops=2, k=12)]
    names = {node.item_id for node in near.nodes}
    whole = graph.matrix()
    for edge in near.edges:
        assert {edge.source, edge.target} <= names
        assert whole[graph.ids.row(edge.source), graph.ids.row(edge.target)] == pytest.approx(edge.weight, rel=1e-4)
        assert (edge.value is not None) == (edge.relations[0] == "brand")
    rows = graph.ids.rows(sorted(names))
    assert len(near.edges) == whole[rows][:, rows].nnz // 2
    assert near.to_dict()["nodes"][0]["title"] == "T7" and "<table>" in near._repr_html_()
    only = graph.neighborhood("7", k=12, relations=["brand"])
    assert all(edge.relations == ("brand",) for edge in only.edges)
