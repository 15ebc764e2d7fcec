import json

import networkx
import pytest
from typer.testing import CliRunner

from llm_tail.cli import app

runner = CliRunner()


def asked(*words):
    done = runner.invoke(app, [str(word) for word in words])
    return done, done.stdout


def test_related_along_some_relations(finished_shop):
    done, text = asked("related", finished_shop, "k0", "--relation", "category", "--relation", "brand", "--json")
    found = json.loads(text)
    assert done.exit_code == 0 and found and all(set(tie["relations"]) <= {"category", "brand"} for tie in found)


def test_a_walk(finished_shop):
    done, text = asked("related", finished_shop, "k0", "--walk", "-k", "3", "--json")
    assert done.exit_code == 0 and len(json.loads(text)) == 3
    assert "share" in asked("related", finished_shop, "k0", "--walk")[1]


def test_the_graph_as_a_whole(finished_shop):
    done, text = asked("related", finished_shop, "--report")
    assert done.exit_code == 0
    for word in ("Communities", "Bridges from head to tail", "all together", "kitchen"):
        assert word in text
    told = json.loads(asked("related", finished_shop, "--report", "--json")[1])
    assert told["report"]["n_items"] == 28 and told["communities"] and told["bridges"]["ties"]


def test_an_item_or_the_report(finished_shop):
    assert asked("related", finished_shop)[0].exit_code == 2
    assert asked("related", finished_shop, "k0", "--report")[0].exit_code == 2


@pytest.mark.parametrize("suffix", ["graphml", "jsonld", "nt", "parquet"])
def test_export(finished_shop, tmp_path, suffix):
    path = tmp_path / f"graph.{suffix}"
    done, text = asked("export-graph", finished_shop, "--out", path, "--relation", "category")
    assert done.exit_code == 0 and text.strip() == str(path) and path.stat().st_size > 1_000
    if suffix == "graphml":
        assert networkx.read_graphml(path).number_of_nodes() == 28


def test_a_wrong_suffix_is_an_error(finished_shop, tmp_path):
    assert asked("export-graph", finished_shop, "--out", tmp_path / "graph.csv")[0].exit_code == 1


def test_a_map_is_made_and_drawn(shop_copy, tmp_path):
    done, text = asked("map", shop_copy, "--out", tmp_path / "map.png", "--by", "segment")
    assert done.exit_code == 0 and text.startswith("CatalogMap(28 items")
    assert (tmp_path / "map.png").stat().st_size > 5_000
    assert len(json.loads(asked("map", shop_copy, "--json")[1])) == 28
    assert asked("map", shop_copy, "--out", tmp_path / "map.txt")[0].exit_code == 1
