import numpy as np
import pytest

from llm_tail.data.ids import IdMap
from llm_tail.data.segments import Segments
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, MissingExtraError, StaleArtifactError, UnknownIdError
from llm_tail.neighbors import layout
from llm_tail.neighbors.communities import Communities
from llm_tail.neighbors.layout import CatalogMap, catalog_map

N = 120
GROUP = np.arange(N) % 3


@pytest.fixture(scope="module")
def embeddings():
    """Three groups that point in three directions, and one item without words."""
    random = np.random.default_rng(0)
    vectors = np.eye(8)[GROUP] + random.normal(0, 0.15, (N, 8))
    vectors[7] = 0.0
    return Embeddings([f"i{n}" for n in range(N)], vectors)


@pytest.fixture(scope="module", params=["opentsne", "scikit-learn"])
def places(request, embeddings):
    if request.param == "opentsne":
        pytest.importorskip("openTSNE")
    labels = np.where(np.arange(N) == 7, -1, GROUP).astype(np.int64)
    communities = Communities(embeddings.ids, labels, ("a", "b", "<c>"), 0.5, "by eye")
    return catalog_map(
        embeddings, communities=communities, segments=Segments.from_counts(np.arange(N)), method=request.param
    )


def test_groups_lie_apart(places):
    seen = np.flatnonzero(np.arange(N) != 7)
    xy = places.xy[seen]
    assert places.xy.shape == (N, 2) and places.xy.dtype == np.float32
    assert places.xy.min() >= 0 and places.xy.max() <= 1 and np.ptp(places.xy, axis=0).max() > 0.9
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (GROUP[seen][distance.argmin(axis=1)] == GROUP[seen]).mean() > 0.95


def test_an_item_without_words_stands_at_the_bottom(places):
    assert places.of("i7")[1] == 0.0 and (np.delete(places.xy[:, 1], 7) > 0).all()


def test_the_same_seed_gives_the_same_map(embeddings):
    first, again = (catalog_map(embeddings, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.xy, again.xy)


@pytest.mark.parametrize("method", ["opentsne", "scikit-learn"])
def test_beyond_the_layout_items_go_where_their_like_are(embeddings, monkeypatch, method):
    if method == "opentsne":
        pytest.importorskip("openTSNE")
    monkeypatch.setitem(layout.MOST, method, 60)
    found = catalog_map(embeddings, method=method)
    assert found.kind == "t-SNE of 60 items" and np.isfinite(found.xy).all()
    middles = np.array([np.median(found.xy[(np.arange(N) != 7) & (group == GROUP)], axis=0) for group in range(3)])
    nearest = np.linalg.norm(found.xy[:, None] - middles[None], axis=2).argmin(axis=1)
    assert (nearest == GROUP).mean() > 0.9


def test_few_items_have_places_too():
    for n in (1, 2, 5):
        found = catalog_map(Embeddings(map(str, range(n)), np.eye(5)[:n]))
        assert found.kind == "PCA" and np.isfinite(found.xy).all() and len(found) == n
    silent = catalog_map(Embeddings("ab", np.zeros((2, 3))))
    assert silent.xy[:, 1].tolist() == [0, 0] and silent.xy[0, 0] != silent.xy[1, 0]
    same = catalog_map(Embeddings(map(str, range(12)), np.ones((12, 3))))
    assert np.isfinite(same.xy).all()


def test_it_is_kept_and_read(places, tmp_path):
    loaded = CatalogMap.load(places.save(tmp_path / "map", "of-this"), "of-this")
    assert loaded.ids == places.ids and loaded.names == places.names and loaded.kind == places.kind
    for name in ("xy", "community", "segments"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(places, name))
    with pytest.raises(StaleArtifactError):
        CatalogMap.load(tmp_path / "map", "of-another")
    file = next((tmp_path / "map").glob("g-*/map.safetensors"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CorruptArtifactError):
        CatalogMap.load(tmp_path / "map")


def test_it_shows_itself(places):
    assert repr(places) == f"CatalogMap({N} items, 3 communities, t-SNE)"
    frame = places.to_frame()
    assert list(frame.columns) == ["item_id", "x", "y", "community", "name", "segment"] and frame["name"][7] == ""
    assert "&lt;c&gt;" in places._repr_html_() and "<c>" not in places._repr_html_()
    with pytest.raises(UnknownIdError):
        places.of("zz")


def test_parts_have_to_fit(embeddings, monkeypatch):
    with pytest.raises(DataError, match="segments are of 3 items"):
        catalog_map(embeddings, segments=Segments.from_counts([1, 2, 3]))
    with pytest.raises(DataError, match="communities are of 2 items"):
        catalog_map(embeddings, communities=Communities(IdMap("ab"), np.zeros(2, np.int64), ("x",), 0.0, ""))
    monkeypatch.setattr(layout, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"llm-tail\[map\]"):
        catalog_map(embeddings, method="opentsne")


@pytest.mark.parametrize("by", ["community", "segment"])
def test_it_can_be_drawn(places, by, tmp_path):
    pytest.importorskip("matplotlib")
    places.plot(by).savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 5_000
