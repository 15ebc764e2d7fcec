"""CatalogMap: a place in two dimensions for every item, so that near items lie near each other on a picture.

t-SNE (L. van der Maaten and G. Hinton, 2008) in the fast form of openTSNE (P. Poličar et al., 2024; G. Linderman et
al., 2019) where that is installed (extra ``map``), and scikit-learn's elsewhere. Its time grows with the items, so at
most `MOST` of them are laid out so; the others go where their nearest among these lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import read_artifact, write_artifact
from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.segments import Segments
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, MissingExtraError
from llm_tail.html import html_table
from llm_tail.neighbors.communities import Communities
from llm_tail.neighbors.edges import near_asker
from llm_tail.neighbors.exact import search

Places = NDArray[np.float32]
Method = Literal["auto", "opentsne", "scikit-learn"]

KIND = "catalog-map"
MOST: dict[str, int] = {"opentsne": 60_000, "scikit-learn": 3_000}  # items that are laid out; more would take minutes
FEWEST = 8  # fewer items than this are laid out by their two largest components
NEAR = 15  # neighbours that pull an item
EARLY, LATE = 125, 250  # steps with neighbours pulled together, and without
FFT_FROM = 10_000  # items from which forces are interpolated on a grid
ANCHORS, SHARPNESS = 5, 20.0  # an item outside the layout goes between so many that lie near it
FOOT = 0.03  # height of the strip at the bottom for items that have no text


@dataclass(frozen=True, repr=False, eq=False)
class CatalogMap:
    """Where every item lies; made by `catalog_map`.

    Parameters
    ----------
    ids : IdMap
        The items.
    xy : array of float32, shape (n_items, 2)
        Places in [0, 1] x [0, 1]; items without a vector stand at the bottom.
    community : array of int64, shape (n_items,)
        0 the largest; -1 for none.
    names : tuple of str
        Of the communities.
    segments : array of str, shape (n_items,), optional
        head, tail or cold.
    kind : str
        How the places were found.
    """

    ids: IdMap
    xy: Places
    community: Rows
    names: tuple[str, ...] = ()
    segments: NDArray[np.str_] | None = None
    kind: str = ""

    def of(self, item_id: str) -> tuple[float, float]:
        """Return the place of an item.

        Raises
        ------
        UnknownIdError
            If there is no such item.
        """
        x, y = self.xy[self.ids.row(item_id)].tolist()
        return x, y

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each item: item_id, x, y, community, name, and segment where it is known."""
        named = np.array([*self.names, ""], dtype=object)[self.community]
        columns = {"item_id": self.ids.values, "x": self.xy[:, 0], "y": self.xy[:, 1]}
        columns |= {"community": self.community, "name": named}
        return pd.DataFrame(columns | ({} if self.segments is None else {"segment": self.segments}))

    def plot(self, by: Literal["community", "segment"] = "community", ax: Any = None) -> Any:
        """Draw the map, coloured by community or segment; returns a matplotlib figure (extra ``plot``)."""
        from llm_tail.neighbors.drawing import draw_map

        return draw_map(self, by, ax)

    def save(self, folder: str | Path, fingerprint: str) -> Path:
        """Write the map and return its folder; `fingerprint` says what it was made from."""
        arrays = {"xy": self.xy, "community": self.community}
        if self.segments is not None:
            arrays["segment"] = np.searchsorted(_SEGMENTS, self.segments).astype(np.int8)
        facts = {"names": list(self.names), "kind": self.kind}
        with write_artifact(folder, KIND, fingerprint, facts) as draft:
            save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, draft.file("map.safetensors"))
            pd.DataFrame({"id": self.ids.values.astype(str)}).to_parquet(draft.file("items.parquet"))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None) -> CatalogMap:
        """Read what `save` wrote.

        Raises
        ------
        StaleArtifactError, CorruptArtifactError
            If it is not there or made from something else; if a file is not what was written.
        """
        artifact = read_artifact(folder, KIND, fingerprint)
        try:
            arrays, facts = load_file(artifact.file("map.safetensors")), artifact.facts
            ids = IdMap(pd.read_parquet(artifact.file("items.parquet"))["id"].to_numpy(), "item")
            segments = np.array(_SEGMENTS)[arrays["segment"]] if "segment" in arrays else None
            return cls(ids, arrays["xy"], arrays["community"], tuple(facts["names"]), segments, facts["kind"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifactError(
                f"the map at {folder} cannot be read ({error})",
                "remove the folder; it is made again when it is asked for",
            ) from error

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"CatalogMap({len(self):,} items, {len(self.names):,} communities, {self.kind})"

    def _repr_html_(self) -> str:
        sizes = np.bincount(self.community[self.community >= 0], minlength=len(self.names)).tolist()
        return html_table(["community", "items"], zip(self.names, sizes, strict=True), title=repr(self))


_SEGMENTS = ["cold", "head", "tail"]  # in the order of the alphabet


def catalog_map(
    embeddings: Embeddings,
    *,
    communities: Communities | None = None,
    segments: Segments | None = None,
    method: Method = "auto",
    seed: int = 0,
) -> CatalogMap:
    """Return a place for every item, so that items with near vectors lie near each other.

    Parameters
    ----------
    embeddings : Embeddings
        The items and their vectors.
    communities : Communities, optional
        Kept with the places, for colours and names; of `ItemGraph.communities`, over the same items.
    segments : Segments, optional
        Kept with the places.
    method : {"auto", "opentsne", "scikit-learn"}
        What lays the items out; "auto" takes openTSNE where it is installed.
    seed : int
        Same seed, same map.

    Raises
    ------
    DataError
        If communities or segments are of other items.
    MissingExtraError
        If openTSNE is asked for and not installed.

    Notes
    -----
    Time of t-SNE over at most 60,000 items with openTSNE (about a minute) and 3,000 with scikit-learn (some seconds),
    and of O(n_items n_laid_out dim) for the rest; memory of a few blocks of 64 MiB beside the vectors.

    Examples
    --------
    >>> words = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0]])
    >>> catalog_map(Embeddings(["emma", "persuasion", "dracula"], words))
    CatalogMap(3 items, 0 communities, PCA)
    """
    n = len(embeddings)
    if communities is not None and communities.ids != embeddings.ids:
        raise DataError(f"the communities are of {len(communities.labels):,} items that are not those with vectors")
    if segments is not None and len(segments) != n:
        raise DataError(f"the segments are of {len(segments):,} items, there are vectors of {n:,}")
    if method == "opentsne" and find_spec("openTSNE") is None:
        raise MissingExtraError("openTSNE", "map")
    if method == "auto":
        method = "opentsne" if find_spec("openTSNE") is not None else "scikit-learn"
    vectors = embeddings.vectors
    live = np.flatnonzero(vectors.any(axis=1))
    xy, kind = np.zeros((n, 2), dtype=np.float32), "PCA"
    if len(live) < FEWEST:
        xy[live] = _framed(_components(vectors[live]))
    else:
        random = np.random.default_rng(seed)
        laid = np.sort(random.permutation(live)[: MOST[method]])
        places = _tsne(vectors[laid], method, seed)
        xy[live] = _framed(_among(vectors, live, laid, places, random))
        kind = f"t-SNE of {len(laid):,} items" if len(laid) < len(live) else "t-SNE"
    _to_the_foot(xy, live)
    names = () if communities is None else communities.names
    labels = np.full(n, -1, dtype=np.int64) if communities is None else communities.labels
    return CatalogMap(embeddings.ids, xy, labels, names, None if segments is None else segments.labels(), kind)


def _components(vectors: NDArray[np.float32]) -> Places:
    """Return the two largest principal components, shape (n, 2), each with its sign fixed."""
    from sklearn.decomposition import PCA

    n = min(2, *vectors.shape) if len(vectors) > 1 and np.ptp(vectors, axis=0).any() else 0
    places = np.zeros((len(vectors), 2), dtype=np.float32)
    if n:
        places[:, :n] = PCA(n, svd_solver="randomized", random_state=0).fit_transform(vectors)
    return places


def _tsne(vectors: NDArray[np.float32], method: str, seed: int) -> Places:
    start = _components(vectors).astype(np.float64)
    start *= 1e-4 / max(float(start[:, 0].std()), 1e-12)
    if method == "scikit-learn":
        from sklearn.manifold import TSNE

        perplexity = min(float(NEAR), (len(vectors) - 1) / 3)
        model = TSNE(init=start, perplexity=perplexity, max_iter=EARLY + LATE, random_state=seed)
        return np.asarray(model.fit_transform(vectors), dtype=np.float32)
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PrecomputedAffinities

    fast = "fft" if len(vectors) >= FFT_FROM else "bh"
    pulls = PrecomputedAffinities(_pulls(vectors))
    layout = TSNEEmbedding(start, pulls, negative_gradient_method=fast, n_jobs=1, random_state=seed)
    layout = layout.optimize(EARLY, exaggeration=12, momentum=0.5)
    return np.asarray(layout.optimize(LATE, momentum=0.8), dtype=np.float32)


def _pulls(vectors: NDArray[np.float32]) -> Any:
    """Return which items pull each other, shape (n, n): neighbours of either side, all alike."""
    import scipy.sparse as sp

    n, k = len(vectors), min(NEAR, len(vectors) - 1)
    ids = IdMap(map(str, range(n)))
    ask = near_asker(ids, Embeddings(ids, vectors), k)
    found = np.concatenate([ask(np.arange(at, min(at + 4096, n)))[0] for at in range(0, n, 4096)])  # (n, k)
    line = np.repeat(np.arange(n), k)[found.ravel() >= 0]
    column = found.ravel()[found.ravel() >= 0]
    chosen = sp.csr_matrix((np.ones(len(column)), (line, column)), shape=(n, n))
    return chosen.maximum(chosen.T.tocsr()).tocsr()


def _among(vectors: NDArray[np.float32], live: Rows, laid: Rows, places: Places, random: np.random.Generator) -> Places:
    """Return a place for every live item: that of the layout, or one between those of its nearest in the layout."""
    every = np.zeros((len(vectors), 2), dtype=np.float32)
    every[laid] = places
    rest = np.setdiff1d(live, laid)
    if len(rest):
        rows, cosines = search(vectors[rest], vectors[laid], min(ANCHORS, len(laid)))  # (n_rest, k)
        weights = np.where(rows >= 0, np.exp(SHARPNESS * (cosines - cosines[:, :1])), 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        near = places[rows]  # (n_rest, k, 2)
        middle = (weights[:, :, None] * near).sum(axis=1)
        spread = np.minimum(np.abs(near - middle[:, None]).mean(axis=(1, 2)), np.ptp(places, axis=0).max() / 100)
        every[rest] = middle + random.normal(0.0, 0.5, middle.shape) * spread[:, None]
    return every[live]


def _framed(places: Places) -> Places:
    """Return places in [0, 1] x [0, 1], both directions on one scale, in the middle."""
    if not len(places):
        return places
    low, high = places.min(axis=0), places.max(axis=0)
    scale = float((high - low).max())
    return np.asarray((places - (low + high) / 2) / (scale or 1.0) + 0.5, dtype=np.float32).clip(0.0, 1.0)


def _to_the_foot(xy: Places, live: Rows) -> None:
    """Put the items that have no vector side by side at the bottom, and lift the others above them."""
    silent = np.setdiff1d(np.arange(len(xy)), live)
    if len(silent):
        xy[live, 1] = FOOT + (1 - FOOT) * xy[live, 1]
        xy[silent, 0] = (np.arange(len(silent)) + 0.5) / len(silent)
        xy[silent, 1] = 0.0
