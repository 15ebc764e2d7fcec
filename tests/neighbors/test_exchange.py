import json
import re

import networkx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import GraphConfig
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError
from llm_tail.neighbors.exchange import _literal
from llm_tail.neighbors.graph import ItemGraph

NASTY = 'A "quote", <b>&amp;\\ back\nnew\tline ☃ \U0001f600'


def built(titles=("Emma", NASTY, "Dracula", ""), ids=("emma", 'p "<&> q', "dracula/1", "alone")):
    rows = [
        {"item_id": i, "title": t, "author": a, "tags": tags}
        for i, t, a, tags in zip(
            ids,
            titles,
            ["Jane", "JANE ", None, None],
            [["x", "y"], ["y", "common"], ["Y", "common"], ["common", "x"]],
            strict=True,
        )
    ]
    vectors = np.array([[1, 0.1], [1, 0.3], [0.5, 1], [0, 0]])
    catalog = Catalog.from_items(rows)
    config = GraphConfig(hub_cap=2, neighbors=3)
    return ItemGraph.build(
        catalog, embeddings=Embeddings(catalog.ids, vectors), relations=["author", "tags"], config=config
    )


def assert_same(one, other):
    assert one.ids == other.ids and one.relations == other.relations and one.fingerprint() == other.fingerprint()
    assert one.report() == other.report() and one.config == other.config
    assert one._titles.equals(other._titles)
    for item in one.ids:
        assert one.related(item, hops=3) == other.related(item, hops=3)
        assert one.path(one.ids[0], item) == other.path(one.ids[0], item)


def test_networkx_and_back_without_loss():
    graph = built()
    assert_same(graph, ItemGraph.from_networkx(graph.to_networkx()))
    assert ItemGraph.from_networkx(graph.to_networkx(["author"])).relations == ["author"]


def test_parquet_and_back_without_loss(tmp_path):
    graph = built()
    path = graph.export(tmp_path / "deep" / "ties.parquet")
    assert_same(graph, ItemGraph.from_parquet(path))
    assert pq.read_table(path).column_names == ["source", "relation", "target", "weight"]
    assert {p.name for p in path.parent.iterdir()} == {"ties.parquet", "ties.items.parquet"}
    again = ItemGraph.from_parquet(path).export(tmp_path / "again.parquet")
    assert_same(graph, ItemGraph.from_parquet(again))


def test_a_foreign_table_of_ties_is_a_graph(tmp_path):
    table = pa.table({"source": ["a", "b", "b"], "target": ["b", "a", "c"], "weight": [0.5, 0.7, 0.2]})
    pq.write_table(table, tmp_path / "own.parquet")
    graph = ItemGraph.from_parquet(tmp_path / "own.parquet")
    assert graph.edges == {"tied": 2} and graph.neighbors("a", "tied") == [("b", pytest.approx(0.7))]
    pq.write_table(pa.table({"from": ["a"]}), tmp_path / "wrong.parquet")
    with pytest.raises(DataError, match="no column source, target; it has: from"):
        ItemGraph.from_parquet(tmp_path / "wrong.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(CorruptArtifactError):
        ItemGraph.from_parquet(tmp_path / "broken.parquet")
    with pytest.raises(DataError, match="no file"):
        ItemGraph.from_parquet(tmp_path / "none.parquet")


def test_a_foreign_networkx_graph_is_a_graph():
    foreign = networkx.Graph([("a", "b"), ("b", "c", {"weight": 2.0, "relation": "near"}), ("c", "c")])
    graph = ItemGraph.from_networkx(foreign)
    assert graph.edges == {"tied": 1, "near": 1} and graph.related("a", hops=2)[1].item_id == "c"
    with pytest.raises(DataError, match="directed"):
        ItemGraph.from_networkx(networkx.DiGraph())
    with pytest.raises(DataError, match="above 0"):
        ItemGraph.from_networkx(networkx.Graph([("a", "b", {"weight": -1.0})]))


def test_graphml_is_read_by_networkx(tmp_path):
    graph = built(titles=("Emma", NASTY, "control \x01 sign", ""))
    there = networkx.read_graphml(graph.export(tmp_path / "ties.graphml"))
    assert set(there.nodes) == set(graph.ids) and there.number_of_edges() == graph.n_edges
    assert there.nodes["emma"]["title"] == "Emma" and there.nodes['p "<&> q']["title"] == NASTY
    assert there.nodes["dracula/1"]["title"] == "control \ufffd sign"
    found = {(a, b, d["relation"]): d["weight"] for a, b, d in there.edges(data=True)}
    for a, b, key, data in graph.to_networkx().edges(keys=True, data=True):
        assert found.get((a, b, key), found.get((b, a, key))) == pytest.approx(data["weight"])


LINE = re.compile(
    r'^<([^<>"{}|^`\\\x00-\x20]*)> <([^<>"\s]*)> (<[^<>"\s]*>|"((?:[^"\\\n\r]|\\.)*)"(\^\^<[^<>]*>)?) \.$'
)


def test_every_line_of_ntriples_is_one(tmp_path):
    graph = built()
    lines = graph.export(tmp_path / "ties.nt", base="https://shop.example/").read_text("utf-8").split("\n")
    assert lines.pop() == ""
    assert all(LINE.match(line) for line in lines), [line for line in lines if not LINE.match(line)]
    assert "<https://shop.example/item:emma> <https://shop.example/relation:author>" in "\n".join(lines)
    assert "<https://shop.example/item:dracula%2F1>" in "\n".join(lines)
    assert sum("#type> <https://shop.example/vocabulary:Tie>" in line for line in lines) == graph.n_edges


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_a_literal_says_what_was_written(words):
    said = _literal(words)
    assert "\n" not in said and "\r" not in said
    unmarked = said[1:-1].replace("\\b", "\\u0008").replace("\\f", "\\u000C")
    marks = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
    back = re.sub(
        r"\\(u[0-9A-F]{4}|.)", lambda m: chr(int(m[1][1:], 16)) if m[1][0] == "u" else marks[m[1]], unmarked, flags=re.S
    )
    if "\\" not in words:  # a written backslash before b or f is told from the mark by the parser alone
        assert back == words


def test_json_ld_is_json_and_names_what_it_ties(tmp_path):
    graph = built()
    told = json.loads(graph.export(tmp_path / "ties.jsonld", relations=["author"]).read_text("utf-8"))
    nodes = {node["@id"]: node for node in told["@graph"]}
    (tie,) = (node for node in nodes.values() if node["@type"] == "Tie")
    assert nodes[tie["target"]]["title"] == NASTY and nodes[tie["relation"]]["title"] == "author"
    assert tie["weight"] == pytest.approx(1 / np.log2(3)) and len(nodes) == 4 + 1 + 1


def test_wrong_names_are_named(tmp_path):
    with pytest.raises(DataError, match=r"ends in \.graphml, \.jsonld, \.nt or \.parquet"):
        built().export(tmp_path / "ties.csv")
    with pytest.raises(DataError, match="no relation 'autor'"):
        built().export(tmp_path / "ties.nt", relations=["autor"])
    assert not list(tmp_path.iterdir())
