import shutil

import networkx
import numpy as np
import pytest

from llm_tail.config import GraphConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError, UnknownIdError
from llm_tail.neighbors.graph import ItemGraph
from llm_tail.neighbors.index import NeighborIndex

# emma and persuasion share an author, persuasion is near pride in meaning, pride and dracula were taken together,
# dracula and carmilla share a subject; nothing ties the atlas.
BOOKS = [
    {"item_id": "emma", "title": "Emma", "author": "Jane Austen", "subjects": ["manners"]},
    {"item_id": "persuasion", "title": "Persuasion", "author": "JANE  austen", "subjects": ["navy"]},
    {"item_id": "pride", "title": "Pride and Prejudice", "author": "", "subjects": []},
    {"item_id": "dracula", "title": "Dracula", "author": "Bram Stoker", "subjects": ["Vampires", "letters"]},
    {"item_id": "carmilla", "title": "Carmilla", "author": "Sheridan Le Fanu", "subjects": ["vampires"]},
    {"item_id": "atlas", "title": "An Atlas", "author": None, "subjects": None},
]
VECTORS = np.array(
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.8, 0.6, 0], [0, 0, 0, 1], [-1, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float32
)
PAIR = 1 / np.log2(3)  # the weight of a value that two items share


@pytest.fixture(scope="module")
def catalog():
    return Catalog.from_items(BOOKS)


@pytest.fixture(scope="module")
def parts(catalog):
    return {
        "embeddings": Embeddings(catalog.ids, VECTORS),
        "relations": ["author", "subjects"],
        "interactions": Interactions.from_pairs([("ann", "pride"), ("ann", "dracula"), ("bob", "emma"), ("eve", "x")]),
    }


@pytest.fixture(scope="module")
def graph(catalog, parts):
    return ItemGraph.build(catalog, **parts)


def ties(graph, relation):
    upper = np.triu(graph.matrix(relation).toarray())
    return {(graph.ids[a], graph.ids[b]): pytest.approx(float(upper[a, b]), abs=1e-5) for a, b in np.argwhere(upper)}


def test_each_relation_ties_what_the_eye_sees(graph):
    assert graph.relations == ["similar", "author", "subjects", "taken_together"]
    assert ties(graph, "similar") == {("persuasion", "pride"): 0.8}
    assert ties(graph, "author") == {("emma", "persuasion"): PAIR}
    assert ties(graph, "subjects") == {("dracula", "carmilla"): PAIR}
    assert ties(graph, "taken_together") == {("pride", "dracula"): 1.0}
    assert graph.n_edges == 4
    assert graph.degree().tolist() == [1, 2, 2, 2, 1, 0] and graph.degree("author").tolist() == [1, 1, 0, 0, 0, 0]
    assert repr(graph) == "ItemGraph(6 items, 4 edges: similar 1, author 1, subjects 1, taken_together 1)"


def test_matrices_are_symmetric_without_loops(graph):
    for relation in [None, *graph.relations]:
        matrix = graph.matrix(relation)
        assert matrix.format == "csr" and matrix.dtype == np.float32 and matrix.shape == (6, 6)
        assert (matrix != matrix.T).nnz == 0 and not matrix.diagonal().any()
        assert (matrix.data > 0).all()


def test_neighbors_of_one_relation(graph):
    assert graph.neighbors("emma", "author") == [("persuasion", pytest.approx(PAIR))]
    assert graph.neighbors("emma", "similar") == []


def test_related_goes_as_far_as_it_is_let(graph):
    shared = 1 - np.exp(-PAIR)
    (one,) = graph.related("emma")
    assert (one.item_id, one.relations, one.hops, one.via) == ("persuasion", ("author",), 1, ())
    assert one.weight == pytest.approx(shared, abs=1e-5)
    found = graph.related("emma", hops=2)
    assert [r.item_id for r in found] == ["persuasion", "pride"]
    assert found[1].via == ("persuasion",) and found[1].relations == ("author", "similar") and found[1].hops == 2
    assert found[1].weight == pytest.approx(shared * 0.8, abs=1e-5)
    assert [r.item_id for r in graph.related("emma", hops=9)] == ["persuasion", "pride", "dracula", "carmilla"]
    assert [r.item_id for r in graph.related("emma", hops=9, k=1)] == ["persuasion"]
    assert graph.related("atlas", hops=3) == []


def test_related_along_one_relation(graph):
    assert [r.item_id for r in graph.related("persuasion", relation="similar", hops=5)] == ["pride"]
    assert graph.related("emma", relation="similar") == []


def test_related_names_every_reason_of_one_hop(catalog):
    vectors = VECTORS.copy()
    vectors[1] = [0.9, np.sqrt(1 - 0.81), 0, 0]
    graph = ItemGraph.build(catalog, embeddings=Embeddings(catalog.ids, vectors), relations="author")
    first = graph.related("emma")[0]
    assert first.item_id == "persuasion" and first.relations == ("similar", "author")
    assert first.weight == pytest.approx(1 - 0.1 * np.exp(-PAIR), abs=1e-4)  # two reasons weigh more than one


def test_path_explains_step_by_step(graph):
    path = graph.path("emma", "carmilla")
    assert [(s.source, s.relation, s.target, s.value) for s in path] == [
        ("emma", "author", "persuasion", "Jane Austen"),
        ("persuasion", "similar", "pride", None),
        ("pride", "taken_together", "dracula", None),
        ("dracula", "subjects", "carmilla", "Vampires"),
    ]
    (far,) = (r for r in graph.related("emma", hops=4) if r.item_id == "carmilla")
    assert np.prod([step.weight for step in path]) == pytest.approx(far.weight, rel=1e-5)
    assert far.relations == tuple(step.relation for step in path)
    assert far.via == tuple(step.target for step in path[:-1])


def test_no_path_is_an_empty_list(graph):
    assert graph.path("emma", "atlas") == [] == graph.path("atlas", "emma")
    assert graph.path("emma", "emma") == []


def test_path_names_the_rarest_shared_value():
    items = [{"item_id": str(n), "tags": ["common", *(["Rare"] if n < 2 else [])]} for n in range(5)]
    (step,) = ItemGraph.build(Catalog.from_items(items), relations=["tags"]).path("0", "1")
    assert step.value == "Rare"


def test_report_tells_hubs_and_the_untied():
    items = [{"item_id": str(n), "type": "Book", "author": "x" if n < 2 else str(n)} for n in range(9)]
    graph = ItemGraph.build(Catalog.from_items(items), relations=["type", "author"], config=GraphConfig(hub_cap=8))
    assert graph.report().hubs == {"type": {"Book": 9}, "author": {}}
    assert graph.report().n_hubs == {"type": 1, "author": 0} and graph.report().n_untied == 7
    assert graph.report().edges == {"type": 0, "author": 1}
    assert "type: 1 values too common to tie items, such as Book (9 items)" in str(graph.report())
    assert graph.path("2", "3") == []


def test_settings_are_used(catalog, parts):
    without = {**parts, "relations": ()}
    graph = ItemGraph.build(catalog, **without, config=GraphConfig(relations=["author"], co_interaction=False))
    assert graph.relations == ["similar", "author"]
    strict = ItemGraph.build(catalog, embeddings=parts["embeddings"], config=GraphConfig(min_similarity=0.9))
    assert strict.n_edges == 0 and strict.report().n_untied == 6 and strict.related("emma") == []
    assert strict.path("emma", "pride") == []


def test_an_index_of_other_order_and_more_items_gives_the_same_ties(catalog, parts):
    ids = ["new", *reversed(list(catalog.ids))]
    vectors = np.vstack([[0, 0, 0, -1.0], VECTORS[::-1]])
    graph = ItemGraph.build(catalog, index=NeighborIndex.build(Embeddings(ids, vectors)))
    assert ties(graph, "similar") == {("persuasion", "pride"): 0.8}


def test_wrong_input_is_named(catalog, parts, graph):
    with pytest.raises(DataError, match="no column 'autor' to tie items by; did you mean 'author'"):
        ItemGraph.build(catalog, relations=["autor"])
    with pytest.raises(DataError, match="it has: item_id, title"):
        ItemGraph.build(catalog, relations=["zzz"])
    with pytest.raises(DataError, match="nothing is given"):
        ItemGraph.build(catalog)
    with pytest.raises(DataError, match="not in the index, such as pride"):
        ItemGraph.build(catalog, index=NeighborIndex.build(Embeddings(["emma", "persuasion"], VECTORS[:2])))
    with pytest.raises(DataError, match="no vector"):
        ItemGraph.build(catalog, embeddings=Embeddings(["emma", "persuasion"], VECTORS[:2]))
    with pytest.raises(DataError, match="made by the graph itself"):
        ItemGraph.build(Catalog.from_items([{"item_id": "a", "similar": "b"}]), relations=["similar"])
    with pytest.raises(DataError, match="none of the 1 interactions"):
        ItemGraph.build(catalog, interactions=Interactions.from_pairs([("ann", "unheard-of")]))
    for ask in (lambda: graph.matrix("autor"), lambda: graph.related("emma", relation="autor")):
        with pytest.raises(DataError, match="no relation 'autor'; did you mean 'author'"):
            ask()
    for ask in (
        lambda: graph.related("ema"),
        lambda: graph.path("emma", "ema"),
        lambda: graph.neighbors("ema", "author"),
    ):
        with pytest.raises(UnknownIdError, match="closest are: emma"):
            ask()
    for ask in (lambda: graph.related("emma", hops=0), lambda: graph.related("emma", k=0)):
        with pytest.raises(DataError, match="expected"):
            ask()


def test_networkx_has_the_same_numbers(graph):
    there = graph.to_networkx()
    assert isinstance(there, networkx.MultiGraph)
    assert there.number_of_nodes() == len(graph) and there.number_of_edges() == graph.n_edges
    assert there.nodes["pride"]["title"] == "Pride and Prejudice"
    assert there["emma"]["persuasion"]["author"]["weight"] == pytest.approx(PAIR)
    assert graph.to_networkx(["author"]).number_of_edges() == 1
    with pytest.raises(DataError, match="no relation"):
        graph.to_networkx(["autor"])


def test_what_is_loaded_equals_what_was_saved(graph, tmp_path):
    loaded = ItemGraph.load(graph.save(tmp_path / "graph"), graph.fingerprint())
    assert repr(loaded) == repr(graph) and loaded.report() == graph.report() and loaded.ids == graph.ids
    assert loaded.fingerprint() == graph.fingerprint()
    for relation in [None, *graph.relations]:
        assert (loaded.matrix(relation) != graph.matrix(relation)).nnz == 0
    assert loaded.related("emma", hops=4) == graph.related("emma", hops=4)
    assert loaded.path("emma", "carmilla") == graph.path("emma", "carmilla")
    assert loaded.to_networkx().nodes["emma"] == {"title": "Emma"}
    again = loaded.save(tmp_path / "again")
    assert ItemGraph.load(again).fingerprint() == graph.fingerprint()


def test_a_graph_without_columns_or_edges_is_saved_too(catalog, parts, tmp_path):
    graph = ItemGraph.build(catalog, embeddings=parts["embeddings"], config=GraphConfig(min_similarity=0.9))
    assert ItemGraph.load(graph.save(tmp_path)).n_edges == 0


def test_damage_is_an_error(graph, tmp_path):
    folder = graph.save(tmp_path / "graph")
    files = sorted(next(folder.glob("g-*")).iterdir())
    assert [f.name for f in files] == ["edges.safetensors", "items.parquet", "values.parquet"]
    random = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        for at in random.integers(len(whole), size=20).tolist():
            flipped = bytearray(whole)
            flipped[at] ^= 1 << int(random.integers(8))
            for damaged in (bytes(flipped), whole[:at]):
                file.write_bytes(damaged)
                with pytest.raises(CorruptArtifactError, match=file.name):
                    ItemGraph.load(folder)
        shutil.move(file, tmp_path / "away")
        with pytest.raises(CorruptArtifactError, match="missing"):
            ItemGraph.load(folder)
        file.write_bytes(whole)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"columns"', '"colums"'))
    with pytest.raises(CorruptArtifactError, match="not what was written"):
        ItemGraph.load(folder)


def test_another_fingerprint_is_stale(graph, tmp_path):
    graph.save(tmp_path, fingerprint="of-the-run")
    assert len(ItemGraph.load(tmp_path, "of-the-run")) == 6
    with pytest.raises(StaleArtifactError, match="llm-tail graph"):
        ItemGraph.load(tmp_path, "another")


def test_the_same_input_gives_the_same_graph(catalog, parts, graph):
    again = ItemGraph.build(catalog, **parts)
    assert again.fingerprint() == graph.fingerprint()
    assert "emma" in graph and "ema" not in graph
