import sys

import numpy as np
import pytest

from llm_tail.config import GraphConfig
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import MissingExtraError
from llm_tail.neighbors import drawing
from llm_tail.neighbors.graph import ItemGraph

pytest.importorskip("matplotlib", reason="matplotlib is missing; pip install 'llm-tail[plot]'")


@pytest.fixture(scope="module")
def graph():
    random = np.random.default_rng(0)
    rows = [
        {"item_id": str(n), "title": f"A $title$ with _signs_ and \\alpha {n}" * 2, "brand": str(n % 9)}
        for n in range(60)
    ]
    catalog = Catalog.from_items(rows)
    vectors = np.vstack([random.normal(size=(59, 6)), np.zeros((1, 6))])
    return ItemGraph.build(
        catalog, embeddings=Embeddings(catalog.ids, vectors), relations=["brand"], config=GraphConfig(neighbors=4)
    )


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_neighbourhood_has_a_picture(graph, tmp_path, hops):
    figure = graph.plot("7", hops=hops, k=20)
    figure.savefig(tmp_path / "near.png")
    assert (tmp_path / "near.png").stat().st_size > 5_000
    words = [text.get_text() for text in figure.axes[0].texts]
    assert len(words) == 1 + len(graph.related("7", hops=hops, k=20)) and all(
        len(word) <= drawing.LONGEST for word in words
    )


def test_who_is_tied_to_nobody_has_one_too(tmp_path):
    catalog = Catalog.from_items([{"item_id": "a"}, {"item_id": "b"}])
    alone = ItemGraph.build(catalog, embeddings=Embeddings(catalog.ids, np.eye(2)))
    alone.plot("a").savefig(tmp_path / "alone.png")
    assert (tmp_path / "alone.png").is_file()


def test_it_can_be_drawn_into_a_figure_of_ones_own(graph):
    figure, ax = drawing.new_figure(4, 3)
    assert graph.plot("7", ax=ax, relations=["brand"]) is figure and len(ax.texts) > 1


def test_without_the_library(graph, monkeypatch):
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"llm-tail\[plot\]"):
        graph.plot("7")
