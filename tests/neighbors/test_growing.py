import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import GraphConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError
from llm_tail.neighbors import edges, growing
from llm_tail.neighbors.graph import ItemGraph
from llm_tail.neighbors.index import NeighborIndex


def world(seed, n=60, prefix="i"):
    random = np.random.default_rng(seed)
    rows = [
        {
            "item_id": f"{prefix}{n}",
            "title": f"Item {n}",
            "brand": str(random.integers(12)) if random.random() < 0.8 else None,
            "tags": [f"t{t}" for t in random.integers(0, 25, random.integers(0, 4))],
        }
        for n in range(n)
    ]
    return rows, random.normal(size=(n, 6)).astype(np.float32)


def make(rows, vectors, config, events=None):
    catalog = Catalog.from_items(rows)
    embeddings = Embeddings(catalog.ids, vectors)
    graph = ItemGraph.build(
        catalog, embeddings=embeddings, relations=["brand", "tags"], interactions=events, config=config
    )
    return catalog, embeddings, graph


def assert_equal(one, other):
    assert one.ids == other.ids and one.relations == other.relations
    for name in one.relations:
        a, b = one.matrix(name), other.matrix(name)
        assert (a.indptr == b.indptr).all() and (a.indices == b.indices).all(), name
        np.testing.assert_allclose(a.data, b.data, atol=1e-5)
    assert one.report().hubs == other.report().hubs


@given(
    st.integers(0, 10_000),
    st.integers(0, 20),
    st.lists(st.integers(0, 59), max_size=8, unique=True),
    st.lists(st.integers(0, 59), max_size=8, unique=True),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_it_equals_a_graph_built_anew(seed, n_new, removed, changed, mutual):
    config = GraphConfig(neighbors=4, min_similarity=0.2, hub_cap=7, mutual=mutual)
    rows, vectors = world(seed)
    _, _, before = make(rows, vectors, config)
    fresh, fresh_vectors = world(seed + 1)
    fresh_rows, new_vectors = world(seed + 2, n_new, "new")
    changed = [n for n in changed if n not in removed]
    for n in changed:
        rows[n], vectors[n] = {**fresh[n], "title": "changed"}, fresh_vectors[n]
    stay = [n for n in range(60) if n not in removed]
    rows = [*fresh_rows[: n_new // 2], *(rows[n] for n in stay), *fresh_rows[n_new // 2 :]]
    vectors = np.vstack([new_vectors[: n_new // 2], vectors[stay], new_vectors[n_new // 2 :]])
    catalog, embeddings, expected = make(rows, vectors, config)
    found = before.upsert(catalog, [f"i{n}" for n in changed], embeddings=embeddings)
    assert_equal(found, expected)
    assert all(found.title(f"i{n}") == "changed" for n in changed)


def test_crowded_items_keep_the_same_ties(monkeypatch):
    monkeypatch.setattr(growing, "MAX_TIES", 5)
    monkeypatch.setattr(edges.value_ties, "__defaults__", (5,))
    monkeypatch.setattr(edges.value_rows, "__defaults__", (5,))
    config = GraphConfig(neighbors=4, hub_cap=30)
    rows, vectors = world(5)
    _, _, before = make(rows, vectors, config)
    more, new = world(6, 5, "new")
    catalog, embeddings, expected = make([*rows, *more], np.vstack([vectors, new]), config)
    assert_equal(before.upsert(catalog, embeddings=embeddings), expected)


def test_an_approximate_index_will_do():
    config = GraphConfig(neighbors=5, min_similarity=0.1)
    rows, vectors = world(1, 300)
    _, _, before = make(rows[:280], vectors[:280], config)
    catalog, embeddings, expected = make(rows, vectors, config)
    index = NeighborIndex.build(embeddings)
    assert_equal(before.upsert(catalog, index=index), expected)


def test_few_items_are_asked_for_again(monkeypatch):
    config, asked = GraphConfig(neighbors=4), []
    rows, vectors = world(2, 400)
    _, _, before = make(rows[:-1], vectors[:-1], config)
    catalog, embeddings, expected = make(rows, vectors, config)
    nearest = edges.nearest
    monkeypatch.setattr(edges, "nearest", lambda q, *rest, **more: asked.append(len(q)) or nearest(q, *rest, **more))
    assert_equal(before.upsert(catalog, embeddings=embeddings), expected)
    assert 1 <= sum(asked) < 40


def test_who_took_what_is_counted_again_where_it_is_given():
    config = GraphConfig(neighbors=4)
    rows, vectors = world(3)
    events = Interactions.from_pairs([("ann", "i1"), ("ann", "i2"), ("bob", "i3"), ("bob", "i4")])
    _, _, before = make(rows, vectors, config, events)
    more, new = world(4, 2, "new")
    later = Interactions.from_pairs([("ann", "i1"), ("ann", "i2"), ("bob", "i3"), ("bob", "new0")])
    catalog, embeddings, expected = make([*rows, *more], np.vstack([vectors, new]), config, later)
    assert_equal(before.upsert(catalog, embeddings=embeddings, interactions=later), expected)
    kept = before.upsert(catalog, embeddings=embeddings)
    assert [other for other, _ in kept.neighbors("i3", "taken_together")] == ["i4"]


def test_wrong_input_is_named():
    rows, vectors = world(0, 10)
    catalog, embeddings, graph = make(rows, vectors, GraphConfig())
    with pytest.raises(DataError, match="not in the catalogue, such as zz"):
        graph.upsert(catalog, ["zz"], embeddings=embeddings)
    with pytest.raises(DataError, match="index or the embeddings"):
        graph.upsert(catalog)
    bigger = Catalog.from_items([*rows, {"item_id": "new"}])
    with pytest.raises(DataError, match="no vector"):
        graph.upsert(bigger, embeddings=embeddings)
    with pytest.raises(DataError, match="no column 'brand'"):
        graph.upsert(Catalog.from_items([{"item_id": "a", "tags": ["x"]}]), embeddings=embeddings)
    assert graph.upsert(catalog, embeddings=embeddings).fingerprint() == graph.fingerprint()
