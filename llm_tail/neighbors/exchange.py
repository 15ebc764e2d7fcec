"""An item graph for other tools: networkx, GraphML, JSON-LD, N-Triples and parquet; back from networkx and parquet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from llm_tail.artifacts import replacing
from llm_tail.config import GraphConfig
from llm_tail.data.ids import IdMap
from llm_tail.errors import CorruptArtifactError, DataError
from llm_tail.neighbors.edges import SharedValues
from llm_tail.neighbors.graph import ItemGraph

if TYPE_CHECKING:
    import networkx as nx

RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
SYMMETRIC = "http://www.w3.org/2002/07/owl#SymmetricProperty"
XSD_FLOAT = "http://www.w3.org/2001/XMLSchema#float"
FACTS = b"llm_tail.item_graph"  # where the parquet file keeps relations, hubs and settings
BLOCK = 65_536  # ties turned into Python values at once
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Tie(NamedTuple):
    """One tie, as it is written."""

    source: str
    relation: str
    target: str
    weight: float


def ties_of(graph: ItemGraph, relations: Sequence[str]) -> Iterator[Tie]:
    """Yield every tie once, relation by relation, in the order of the items."""
    for name in relations:
        upper = sp.triu(graph.matrix(name), k=1).tocoo()
        for start in range(0, upper.nnz, BLOCK):
            part = slice(start, start + BLOCK)
            ends = graph.ids.values[upper.row[part]], graph.ids.values[upper.col[part]], upper.data[part].tolist()
            yield from (Tie(a, name, b, weight) for a, b, weight in zip(*ends, strict=True))


def to_networkx(graph: ItemGraph, relations: Sequence[str]) -> nx.MultiGraph:
    """Do what `ItemGraph.to_networkx` says; the graph carries what is needed to come back without loss."""
    import networkx as nx

    made = nx.MultiGraph()
    made.graph["item_graph"] = facts = _facts(graph, relations)
    titles = graph._titles.to_pylist()
    made.add_nodes_from((item_id, {"title": title}) for item_id, title in zip(graph.ids, titles, strict=True))
    facts["values"] = {name: dict(zip(graph.ids, graph._values[name].by_item(), strict=True)) for name in facts["hubs"]}
    made.add_edges_from((a, b, relation, {"weight": w}) for a, relation, b, w in ties_of(graph, relations))
    return made


def from_networkx(graph: nx.Graph) -> ItemGraph:
    """Do what `ItemGraph.from_networkx` says."""
    if graph.is_directed():
        raise DataError("the networkx graph is directed, and ties of items are not; give graph.to_undirected()")
    nodes = dict(graph.nodes(data=True))
    keyed = graph.edges(keys=True, data=True) if graph.is_multigraph() else None
    rows: list[tuple[Any, ...]] = []
    if keyed is not None:
        rows = [(a, b, key if isinstance(key, str) else _name(d), d.get("weight", 1.0)) for a, b, key, d in keyed]
    else:
        rows = [(a, b, _name(d), d.get("weight", 1.0)) for a, b, d in graph.edges(data=True)]
    frame = pd.DataFrame(rows, columns=["source", "target", "relation", "weight"])
    facts = graph.graph.get("item_graph", {})
    titles = [str(data.get("title", "")) for data in nodes.values()]
    held = {name: [words.get(node, []) for node in nodes] for name, words in facts.get("values", {}).items()}
    return _from_frame(frame, list(nodes), titles, held, facts)


def export(graph: ItemGraph, path: Path, relations: Sequence[str], base: str) -> Path:
    """Do what `ItemGraph.export` says."""
    writers: dict[str, Callable[[TextIO], None]] = {
        ".graphml": lambda out: _graphml(graph, relations, out),
        ".jsonld": lambda out: _jsonld(graph, relations, base, out),
        ".nt": lambda out: _ntriples(graph, relations, base, out),
    }
    suffix = path.suffix.lower()
    if suffix not in (*writers, ".parquet"):
        raise DataError(f"{path} is no name of a graph; expected one that ends in {', '.join(writers)} or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".parquet":
        return _parquet(graph, path, relations)
    with replacing(path) as whole, whole.open("w", encoding="utf-8", newline="\n") as out:
        writers[suffix](out)
    return path


def from_parquet(path: Path) -> ItemGraph:
    """Do what `ItemGraph.from_parquet` says."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; expected what ItemGraph.export wrote")
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {}).get(FACTS, b"{}"))
        frame = table.to_pandas()
        items = pq.read_table(_items_path(path)) if _items_path(path).is_file() else None
    except (pa.ArrowInvalid, ValueError) as error:
        raise CorruptArtifactError(f"{path} cannot be read ({error})", "export the graph again") from error
    if missing := {"source", "target"} - set(frame.columns):
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}; it has: {', '.join(frame.columns)}")
    if items is None:
        ids = pd.unique(pd.concat([frame["source"], frame["target"]])).tolist()
        return _from_frame(frame, ids, [""] * len(ids), {}, {})
    held = {name: [words or [] for words in items[name].to_pylist()] for name in facts.get("hubs", {})}
    return _from_frame(frame, items["item_id"].to_pylist(), items["title"].to_pylist(), held, facts)


# ---- back


def _from_frame(
    frame: pd.DataFrame, ids: list[Any], titles: list[str], held: dict[str, list[list[str]]], facts: dict[str, Any]
) -> ItemGraph:
    """Return the graph of a table of ties: source, target, and perhaps relation and weight."""
    items = IdMap(ids, "item")
    source, target = (items.rows(frame[end]) for end in ("source", "target"))
    if (unknown := (source < 0) | (target < 0)).any():
        raise DataError(f"{int(unknown.sum())} ties name items that are not among the {len(items):,} of the graph")
    weights = frame["weight"].to_numpy(np.float32) if "weight" in frame else np.ones(len(frame), dtype=np.float32)
    if not np.isfinite(weights).all() or (weights <= 0).any():
        raise DataError("the weights of ties have to be finite and above 0")
    named = frame["relation"].astype(str) if "relation" in frame else pd.Series(["tied"] * len(frame), dtype=str)
    matrices = {}
    for name in facts.get("relations") or list(dict.fromkeys(named)):
        part = (named == name).to_numpy() & (source != target)
        matrices[name] = _matrix(source[part], target[part], weights[part], len(items))
    values = {name: _shared(words, facts["hubs"][name]) for name, words in held.items()}
    config = GraphConfig(**facts.get("config", {}))
    return ItemGraph(
        items,
        matrices or {"tied": _matrix(source, target, weights, len(items))},
        titles=titles,
        values=values,
        config=config,
    )


def _matrix(source: Any, target: Any, weights: Any, n: int) -> sp.csr_matrix:
    """Return a symmetric matrix; of a tie that stands twice the stronger counts."""
    low, high = np.minimum(source, target), np.maximum(source, target)
    order = np.lexsort((-weights, high, low))
    low, high, weights = low[order], high[order], weights[order]
    first = np.ones(len(low), dtype=bool)
    first[1:] = (np.diff(low) != 0) | (np.diff(high) != 0)
    low, high, weights = low[first], high[first], weights[first]
    ends = np.concatenate([low, high]), np.concatenate([high, low])
    matrix = sp.csr_matrix((np.concatenate([weights, weights]), ends), shape=(n, n), dtype=np.float32)
    matrix.sort_indices()
    return matrix


def _shared(words: Sequence[Sequence[str]], hubs: dict[str, int]) -> SharedValues:
    """Return who has which value; values are numbered in the order in which they stand, as `shared_values` does."""
    flat = [word for held in words for word in held]
    ends = np.concatenate([[0], np.cumsum([len(held) for held in words])]).astype(np.int64)
    codes, names = pd.factorize(np.array(flat, dtype=object))
    members = sp.csr_matrix(
        (np.ones(len(flat), np.float32), codes.astype(np.int32), ends), shape=(len(words), len(names))
    )
    members.sort_indices()
    return SharedValues(members, np.asarray(names, dtype=object), hubs)


def _facts(graph: ItemGraph, relations: Sequence[str]) -> dict[str, Any]:
    hubs = {name: graph._values[name].hubs for name in relations if name in graph._values}
    return {"relations": list(relations), "hubs": hubs, "config": graph.config.model_dump()}


def _name(data: dict[str, Any]) -> str:
    return str(data.get("relation", "tied"))


# ---- out


def _items_path(path: Path) -> Path:
    return path.with_suffix(f".items{path.suffix}")


def _parquet(graph: ItemGraph, path: Path, relations: Sequence[str]) -> Path:
    facts = {FACTS: json.dumps(_facts(graph, relations)).encode()}
    words = pa.array(graph.ids.values, pa.string())
    columns = {"item_id": words, "title": graph._titles}
    columns |= {
        name: pa.array(graph._values[name].by_item(), pa.list_(pa.string()))
        for name in relations
        if name in graph._values
    }
    with replacing(_items_path(path)) as whole:
        pq.write_table(pa.table(columns), whole, compression="zstd")
    fields = [("source", pa.string()), ("relation", pa.string()), ("target", pa.string()), ("weight", pa.float32())]
    schema = pa.schema(fields, metadata=facts)
    with replacing(path) as whole, pq.ParquetWriter(whole, schema, compression="zstd") as writer:
        for name in relations:
            upper = sp.triu(graph.matrix(name), k=1).tocoo()
            ends = words.take(pa.array(upper.row)), words.take(pa.array(upper.col))
            column = pa.array([name]).take(pa.array(np.zeros(upper.nnz, dtype=np.int64)))
            arrays = [ends[0], column, ends[1], pa.array(upper.data.astype(np.float32))]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return path


def _graphml(graph: ItemGraph, relations: Sequence[str], out: TextIO) -> None:
    out.write('<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
    for key, kind, what in (("title", "string", "node"), ("relation", "string", "edge"), ("weight", "double", "edge")):
        out.write(f'<key id="{key}" for="{what}" attr.name="{key}" attr.type="{kind}"/>\n')
    out.write('<graph edgedefault="undirected">\n')
    for item_id, title in zip(graph.ids, graph._titles.to_pylist(), strict=True):
        out.write(f'<node id={_attribute(item_id)}><data key="title">{_text(title)}</data></node>\n')
    for number, tie in enumerate(ties_of(graph, relations)):
        out.write(
            f'<edge id="{number}" source={_attribute(tie.source)} target={_attribute(tie.target)}>'
            f'<data key="relation">{_text(tie.relation)}</data><data key="weight">{tie.weight!r}</data></edge>\n'
        )
    out.write("</graph>\n</graphml>\n")


def _text(words: str) -> str:
    """Return words as XML; what XML cannot say at all becomes a question mark in a box."""
    return escape(_NO_XML.sub("\ufffd", words), {"\r": "&#13;"})


def _attribute(words: str) -> str:
    return quoteattr(_NO_XML.sub("\ufffd", words), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def _jsonld(graph: ItemGraph, relations: Sequence[str], base: str, out: TextIO) -> None:
    context = {
        "@vocab": f"{base}vocabulary:",
        "title": LABEL,
        "source": {"@type": "@id"},
        "target": {"@type": "@id"},
        "relation": {"@type": "@id"},
        "weight": {"@type": XSD_FLOAT},
    }
    out.write(f'{{"@context": {json.dumps(context)},\n"@graph": [\n')
    lines = _json_nodes(graph, relations, base)
    out.write(json.dumps(next(lines), ensure_ascii=False))
    out.writelines(f",\n{json.dumps(line, ensure_ascii=False)}" for line in lines)
    out.write("\n]}\n")


def _json_nodes(graph: ItemGraph, relations: Sequence[str], base: str) -> Iterator[dict[str, Any]]:
    for name in relations:
        yield {"@id": _iri(base, "relation", name), "@type": ["Relation", SYMMETRIC], "title": name}
    for item_id, title in zip(graph.ids, graph._titles.to_pylist(), strict=True):
        yield {"@id": _iri(base, "item", item_id), "@type": "Item", "title": title}
    for number, tie in enumerate(ties_of(graph, relations)):
        ends = {end: _iri(base, "item", getattr(tie, end)) for end in ("source", "target")}
        relation = _iri(base, "relation", tie.relation)
        yield {
            "@id": _iri(base, "tie", str(number)),
            "@type": "Tie",
            **ends,
            "relation": relation,
            "weight": tie.weight,
        }


def _ntriples(graph: ItemGraph, relations: Sequence[str], base: str, out: TextIO) -> None:
    """Write each tie twice: as a plain triple to follow, and as a thing of its own that carries the weight."""
    vocabulary = f"{base}vocabulary:"

    def say(subject: str, predicate: str, value: str) -> None:
        out.write(f"<{subject}> <{predicate}> {value} .\n")

    for name in relations:
        say(_iri(base, "relation", name), RDF_TYPE, f"<{SYMMETRIC}>")
        say(_iri(base, "relation", name), LABEL, _literal(name))
    for item_id, title in zip(graph.ids, graph._titles.to_pylist(), strict=True):
        say(_iri(base, "item", item_id), RDF_TYPE, f"<{vocabulary}Item>")
        say(_iri(base, "item", item_id), LABEL, _literal(title))
    for number, tie in enumerate(ties_of(graph, relations)):
        source, target = _iri(base, "item", tie.source), _iri(base, "item", tie.target)
        relation, itself = _iri(base, "relation", tie.relation), _iri(base, "tie", str(number))
        say(source, relation, f"<{target}>")
        say(itself, RDF_TYPE, f"<{vocabulary}Tie>")
        for name, other in (("source", source), ("relation", relation), ("target", target)):
            say(itself, f"{vocabulary}{name}", f"<{other}>")
        say(itself, f"{vocabulary}weight", f'"{tie.weight!r}"^^<{XSD_FLOAT}>')


def _iri(base: str, kind: str, name: str) -> str:
    return f"{base}{kind}:{quote(name, safe='')}"


def _literal(words: str) -> str:
    """Return a string of N-Triples: quotes, backslashes and control characters escaped, all else as it is."""
    marks = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
    said = "".join(marks.get(c) or (c if ord(c) >= 0x20 and c != "\x7f" else f"\\u{ord(c):04X}") for c in words)
    return f'"{said}"'
