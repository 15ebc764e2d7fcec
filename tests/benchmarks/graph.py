"""What an item graph costs: ties from vectors against index and queries alone, bytes an edge, walks, groups, a map.

    python -m tests.benchmarks.graph --n 100000 [--dim 384] [--neighbors 15] [--only graph,walk,communities,upsert,map]

Vectors are drawn around centres, with as much noise as gives neighbours cosines like those of real texts. Every figure
comes with wall and processor seconds, since a busy machine stretches the former.
"""

from __future__ import annotations

import argparse
import resource
import time
from contextlib import contextmanager

import numpy as np

from llm_tail.config import GraphConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.segments import Segments
from llm_tail.embedding.store import Embeddings
from llm_tail.neighbors.graph import ItemGraph
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.neighbors.layout import catalog_map

PARTS = ("graph", "walk", "communities", "upsert", "map")


@contextmanager
def timed(what, spent):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    spent[what] = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{what:44} {time.perf_counter() - wall:8.2f} s wall {spent[what]:8.2f} s cpu, peak {peak:.2f} GB", flush=True
    )


def world(n, dim, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(2, n // 200), dim)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = centres[random.integers(0, len(centres), n)]
    vectors += random.normal(0, 1.0 / np.sqrt(dim), (n, dim)).astype(np.float32)
    catalog = Catalog.from_items({"item_id": f"i{i}", "title": f"item {i % 97} of kind {i % 31}"} for i in range(n))
    return catalog, Embeddings(catalog.ids, vectors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--neighbors", type=int, default=15)
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_args()
    only, spent = given.only.split(","), {}
    config = GraphConfig(neighbors=given.neighbors, min_similarity=0.0)
    catalog, embeddings = world(given.n, given.dim)
    with timed("index: build", spent):
        index = NeighborIndex.build(embeddings)
    print(index)
    if "graph" in only:
        with timed("index: k neighbours of every item", spent):
            for start in range(0, given.n, 16_384):
                index.similar_rows(np.arange(start, min(start + 16_384, given.n)), given.neighbors)
        with timed("graph: build from the index", spent):
            ItemGraph.build(catalog, index=index, config=config)
        with timed("graph: build from the vectors", spent):
            graph = ItemGraph.build(catalog, embeddings=embeddings, config=config)
        alone = spent["index: build"] + spent["index: k neighbours of every item"]
        ratio = spent["graph: build from the vectors"] / alone
        bytes_an_edge = graph.n_bytes / graph.n_edges
        print(f"{graph}\nfrom vectors {ratio:.2f} times index and queries; {bytes_an_edge:.1f} bytes an edge")
    else:
        graph = ItemGraph.build(catalog, index=index, config=config)
    if "walk" in only:
        for method in ("power", "push"):
            with timed(f"walk from one item: {method}", spent):
                print(graph.walk("i0", 5, method=method))
        with timed("related, two hops", spent):
            graph.related("i0", hops=2)
        with timed("report", spent):
            print(repr(graph.report()))
        with timed("bridges", spent):
            print(graph.bridges(Segments.from_counts(np.arange(given.n) % 1000), 5))
    if "communities" in only:
        with timed("communities with names", spent):
            communities = graph.communities()
        print(communities)
    if "upsert" in only:
        n_new = max(1, given.n // 100)
        old, old_vectors = catalog.take(range(given.n - n_new)), embeddings.vectors[: given.n - n_new]
        before = ItemGraph.build(old, index=NeighborIndex.build(Embeddings(old.ids, old_vectors)), config=config)
        with timed(f"upsert of {n_new:,} items", spent):
            print(before.upsert(catalog, index=index))
    if "map" in only:
        with timed("map", spent):
            print(catalog_map(embeddings))


if __name__ == "__main__":
    main()
