"""Communities: items that are tied to each other more than to the rest, named by their most telling words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp

from llm_tail.data.ids import IdMap, Rows
from llm_tail.embedding.words import Words
from llm_tail.errors import DataError, MissingExtraError
from llm_tail.html import html_table

Method = Literal["auto", "scikit-network", "networkx"]
MOST_WORDS = 20_000  # that are counted to find names
READ = 200  # words of a text that are read for it
BLOCK = 8192  # texts counted at once
NETWORKX_EDGES = 300_000  # without the extra, a larger graph would take many minutes


@dataclass(frozen=True, repr=False, eq=False)
class Communities:
    """Which items belong together; made by `ItemGraph.communities`.

    Parameters
    ----------
    ids : IdMap
        The items.
    labels : array of int64, shape (n_items,)
        The community of each, 0 the largest; -1 for items without a tie.
    names : tuple of str
        Of each community: the words that tell it from the others, most telling first.
    modularity : float
        How much more of the ties lies inside than chance would put there, below 1.
    method : str
        The library that found them.
    """

    ids: IdMap
    labels: Rows
    names: tuple[str, ...]
    modularity: float
    method: str

    @property
    def sizes(self) -> Rows:
        """Items of each community, shape (n_communities,)."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.names)).astype(np.int64)

    def of(self, item_id: str) -> int:
        """Return the community of an item; -1 where nothing ties it."""
        return int(self.labels[self.ids.row(item_id)])

    def name(self, item_id: str) -> str:
        """Return the name of an item's community; empty where nothing ties it."""
        label = self.of(item_id)
        return self.names[label] if label >= 0 else ""

    def members(self, community: int, k: int | None = None) -> list[str]:
        """Return the items of a community in the order of the catalogue, at most `k`.

        Raises
        ------
        DataError
            If there is no such community.
        """
        if not 0 <= community < len(self):
            raise DataError(f"there is no community {community}; they run from 0 to {len(self) - 1}")
        return [str(item) for item in self.ids.values[np.flatnonzero(self.labels == community)[:k]]]

    def table(self) -> pd.DataFrame:
        """Return one row for each community: name, n_items, share of all items."""
        sizes = self.sizes
        shares = sizes / max(1, len(self.labels))
        return pd.DataFrame({"name": list(self.names), "n_items": sizes, "share": shares}).rename_axis("community")

    def to_dict(self) -> dict[str, Any]:
        """Return names and sizes as JSON-like values."""
        rows = zip(self.names, self.sizes.tolist(), strict=True)
        return {
            "communities": [{"community": n, "name": name, "n_items": size} for n, (name, size) in enumerate(rows)],
            "n_untied": int((self.labels < 0).sum()),
            "modularity": self.modularity,
            "method": self.method,
        }

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Communities({len(self):,} of {len(self.labels):,} items, modularity {self.modularity:.2f})"

    def _repr_html_(self) -> str:
        rows = ([n, name, int(size)] for n, (name, size) in enumerate(zip(self.names, self.sizes, strict=True)))
        return html_table(["community", "name", "items"], rows, title=repr(self))


def find_communities(ties: sp.csr_matrix, resolution: float, seed: int, method: Method) -> tuple[Rows, float, str]:
    """Return the community of each item (0 the largest, -1 for the untied), the modularity, and the library used."""
    if resolution <= 0:
        raise DataError(f"resolution is {resolution}, expected a number above 0; more than 1 gives smaller communities")
    there = find_spec("sknetwork") is not None
    if method == "scikit-network" and not there:
        raise MissingExtraError("scikit-network", "graph")
    if method == "auto":
        if not there and ties.nnz // 2 > NETWORKX_EDGES:
            raise MissingExtraError("scikit-network", "graph")
        method = "scikit-network" if there else "networkx"
    tied = np.flatnonzero(np.diff(ties.indptr))
    if not len(tied):
        return np.full(ties.shape[0], -1, dtype=np.int64), 0.0, method
    within = ties[tied][:, tied].astype(np.float64)
    find = _by_sknetwork if method == "scikit-network" else _by_networkx
    found = find(within, resolution, seed)
    labels = np.full(ties.shape[0], -1, dtype=np.int64)
    labels[tied] = _by_size(found)
    return labels, modularity(within, found), method


def _by_sknetwork(ties: sp.csr_matrix, resolution: float, seed: int) -> Rows:
    from sknetwork.clustering import Louvain

    model = Louvain(resolution=resolution, shuffle_nodes=True, random_state=seed)
    return np.asarray(model.fit_predict(sp.csr_matrix(ties)), dtype=np.int64)


def _by_networkx(ties: sp.csr_matrix, resolution: float, seed: int) -> Rows:
    import networkx as nx

    graph = nx.from_scipy_sparse_array(ties)
    found = nx.community.louvain_communities(graph, resolution=resolution, seed=seed)
    labels = np.empty(ties.shape[0], dtype=np.int64)
    for number, members in enumerate(found):
        labels[list(members)] = number
    return labels


def _by_size(labels: Rows) -> Rows:
    """Return labels numbered by falling size, equal ones by their first item."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(first))
    return rank[inverse]


def modularity(ties: sp.csr_matrix, labels: Rows) -> float:
    """Return the share of ties within communities beyond what the items' strengths alone would give."""
    total = float(ties.sum())
    if total <= 0:
        return 0.0
    line = np.repeat(np.arange(ties.shape[0]), np.diff(ties.indptr))
    inside = float(ties.data[labels[line] == labels[ties.indices]].sum()) / total
    strength = np.bincount(labels, np.asarray(ties.sum(axis=1)).ravel()) / total
    return inside - float((strength**2).sum())


def name_groups(labels: Rows, texts: Sequence[str], n_words: int = 3) -> tuple[str, ...]:
    """Return the words that tell each group from the others, most telling first.

    Class-based TF-IDF (M. Grootendorst, "BERTopic", 2022), where a word counts once an item: its share p among the
    group's words times log(p / q), with q its share among the words of all groups (T. Tomokiyo and M. Hurst, 2003) in
    place of the logarithm there, which lets words of everyday through where groups are few. A group without a telling
    word is called by its number.

    Examples
    --------
    >>> name_groups(np.array([0, 0, 1, 1]), ["white whale", "whale hunt", "iron pan", "frying pan"], 1)
    ('whale', 'pan')
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    n_groups = int(labels.max(initial=-1)) + 1
    try:
        words = Words.learn(texts, MOST_WORDS, READ, left_out=ENGLISH_STOP_WORDS)
    except DataError:  # no text says anything
        return tuple(f"community {group}" for group in range(n_groups))
    counts = np.zeros((n_groups, len(words)), dtype=np.float32)
    for start in range(0, len(texts), BLOCK):
        block = slice(start, min(start + BLOCK, len(texts)))
        rows = np.flatnonzero(labels[block] >= 0)
        found = words.count(texts[block])[0][rows][:, : len(words)]
        found.data[:] = 1.0
        into = sp.csr_matrix(
            (np.ones(len(rows), dtype=np.float32), (labels[block][rows], np.arange(len(rows)))),
            shape=(n_groups, len(rows)),
        )
        counts += (into @ found).toarray()
    usable = np.array([(len(word) > 1 and not word.isdigit()) or not word.isascii() for word in words.words])
    total = counts.sum(axis=0)
    of_group = counts.sum(axis=1, keepdims=True)
    share, among_all = counts / np.maximum(of_group, 1.0), total / max(1.0, float(total.sum()))
    scores = share * np.log(np.maximum(share, 1e-12) / np.maximum(among_all, 1e-12))
    if n_groups == 1:  # there is nothing to tell it from
        scores = share
    scores[:, ~usable] = 0.0
    sizes = np.bincount(labels[labels >= 0], minlength=n_groups)
    scores[(counts < 2) & (sizes >= 4)[:, None]] *= 0.01  # one item does not speak for a group
    return tuple(_name(scores[group], words.words, n_words) or f"community {group}" for group in range(n_groups))


def _name(scores: Any, words: Sequence[str], n: int) -> str:
    """Return the best words, none of them another form of one before."""
    chosen: list[str] = []
    for place in np.argsort(-scores, kind="stable")[: 5 * n]:
        word = words[place]
        if scores[place] <= 0 or len(chosen) == n:
            break
        if not any(_stem(word) == _stem(other) for other in chosen):
            chosen.append(word)
    return ", ".join(chosen)


def _stem(word: str) -> str:
    return re.sub(r"(ies|es|s|y|ing|ed)$", "", word) if len(word) > 4 else word
