import numpy as np
import pytest

from llm_tail.workspace import Workspace
from llm_tail.workspace.overview import kept_map


def test_a_run_has_a_map_and_communities(shop_copy):
    workspace = Workspace.open(shop_copy)
    places = workspace.map
    assert places.ids == workspace.catalog.ids and set(places.segments) <= {"head", "tail", "cold"}
    assert len(workspace.communities) >= 3 and places.names == workspace.communities.names
    shelves = np.array([item[0] for item in workspace.catalog.ids])
    for group in range(len(places.names)):
        assert len(set(shelves[places.community == group])) <= 2
    assert (workspace.folder / "map" / "manifest.json").is_file()


def test_the_map_is_kept(shop_copy, monkeypatch):
    first = Workspace.open(shop_copy).map
    again = Workspace.open(shop_copy)
    from llm_tail.neighbors import layout

    monkeypatch.setattr(layout, "catalog_map", lambda *_, **__: pytest.fail("made again"))
    np.testing.assert_array_equal(again.map.xy, first.xy)


def test_a_damaged_or_old_map_is_made_again(shop_copy):
    first = Workspace.open(shop_copy).map
    folder = Workspace.open(shop_copy).folder / "map"
    file = next(folder.glob("g-*/map.safetensors"))
    file.write_bytes(b"nothing")
    np.testing.assert_array_equal(Workspace.open(shop_copy).map.xy, first.xy)
    (folder / "manifest.json").write_text("{}")
    np.testing.assert_array_equal(Workspace.open(shop_copy).map.xy, first.xy)


def test_a_run_without_a_graph_has_a_map_too(shop_copy):
    workspace = Workspace.open(shop_copy, ["graph.neighbors=3"])  # not made with this setting yet
    assert workspace.map.names == () and (workspace.map.community == -1).all()


def test_only_a_map_that_fits_is_kept(shop_copy):
    assert kept_map(Workspace.open(shop_copy)) is None
    _ = Workspace.open(shop_copy).map
    assert kept_map(Workspace.open(shop_copy)) is not None
    assert kept_map(Workspace.open(shop_copy, ["graph.neighbors=3"])) is None
