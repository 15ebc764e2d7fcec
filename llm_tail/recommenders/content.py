"""Recommenders that look at item texts alone: near in meaning (vectors), near in words (TF-IDF)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from llm_tail.data.interactions import Interactions
from llm_tail.embedding.text import ItemText
from llm_tail.errors import ConfigError, DataError
from llm_tail.recommenders.base import BLOCK_BYTES, Recommender

if TYPE_CHECKING:
    from llm_tail.data.catalog import Catalog, Item
    from llm_tail.embedding.store import Embeddings
    from llm_tail.neighbors.graph import ItemGraph

Floats = NDArray[np.float32]


def centre(vectors: NDArray[Any]) -> Floats:
    """Return vectors minus their mean, scaled to length 1 again; zero vectors stay zero.

    What all texts of one catalogue share ("a book", "a product") says nothing of how two of them differ.

    Parameters
    ----------
    vectors : array, shape (n_items, dim)

    Returns
    -------
    array of float32, shape (n_items, dim)

    Examples
    --------
    >>> centre(np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, -1.0], [0.0, 0.0]]
    """
    exact = np.asarray(vectors, dtype=np.float64)
    there = np.any(exact != 0, axis=1)
    moved = np.zeros_like(exact)
    if there.any():
        moved[there] = exact[there] - exact[there].mean(axis=0)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)  # (n_items, 1)
    # Below this only rounding is left of a vector that lay on the mean.
    unit: Floats = np.divide(moved, lengths, out=np.zeros_like(moved), where=lengths > 1e-6).astype(np.float32)
    return unit


def kernel_scores(histories: sp.csr_matrix, vectors: Floats | sp.csr_matrix, power: float) -> Floats:
    """Return histories @ K with K_ij = max(0, v_i . v_j)^power, without ever holding K.

    Parameters
    ----------
    histories : csr_matrix, shape (n_histories, n_items)
    vectors : array or csr_matrix, shape (n_items, dim)
        Of unit length.
    power : float
        Above 0; the higher, the more the nearest count.

    Returns
    -------
    array of float32, shape (n_histories, n_items)

    Notes
    -----
    Only kernel rows of items in `histories` are computed, in blocks of at most 128 MB: O(n_used n_items dim) time.
    """
    n_items = histories.shape[1]
    scores = np.zeros((histories.shape[0], n_items), dtype=np.float32)
    by_item = histories.tocsc()
    used = np.flatnonzero(np.diff(by_item.indptr))
    step = max(1, BLOCK_BYTES // (4 * max(1, n_items)))
    for start in range(0, len(used), step):
        rows = used[start : start + step]
        product = vectors[rows] @ vectors.T  # (n_rows, n_items)
        kernel = np.asarray(product.toarray() if sp.issparse(product) else product, dtype=np.float32)
        scores += by_item[:, rows].tocsr() @ _power(np.maximum(kernel, 0.0, out=kernel), power)
    return scores


def _power(values: Floats, power: float) -> Floats:
    """Return values^power; small whole powers by multiplication, which is many times faster."""
    if power == int(power) and 1 <= power <= 8:
        result = values
        for _ in range(int(power) - 1):
            result = result * values
        return result
    return np.power(values, np.float32(power))


class ContentSimilarity(Recommender):
    """Items whose texts mean the same as what the person took: score_i = sum_{j taken} max(0, cos(v_i, v_j))^power.

    The vectors are centred and scaled to length 1 again first (see `centre`). Nothing is learned from interactions,
    so that cold items stand as well as all others: the plain rival that is hardest to beat on cold and tail items.

    Parameters
    ----------
    power : float
        Sharpness, above 0. High powers look at the nearest texts only; 2 to 6 hardly differ.

    Notes
    -----
    Fitting is free. Scoring costs O(n_used n_items dim) for the n_used distinct items in the histories at hand.

    Examples
    --------
    >>> from llm_tail.embedding.store import Embeddings
    >>> train = Interactions.from_pairs([("ann", "emma")])
    >>> vectors = Embeddings(["emma", "persuasion", "dune"], np.array([[1, 0.1], [1, 0.2], [0, 1.0]]))
    >>> ContentSimilarity().fit(train, vectors).recommend(["ann"], k=1)[0][0][0]
    'persuasion'
    """

    name = "content"
    serves_cold: ClassVar[bool] = True
    needs_embeddings: ClassVar[bool] = True
    vectors: Floats

    def __init__(self, power: float = 3.0) -> None:
        self.power = _positive("power", power)

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        assert embeddings is not None  # noqa: S101  (`fit` has seen to it; this is for the type checker)
        self.vectors = centre(embeddings.vectors)

    def _score(self, histories: sp.csr_matrix) -> Floats:
        return kernel_scores(histories, self.vectors, self.power)

    def _state(self) -> dict[str, NDArray[Any]]:
        return {"vectors": self.vectors}

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.vectors = state["vectors"]

    def _settings(self) -> dict[str, Any]:
        return {"power": self.power}


class TfidfSimilarity(Recommender):
    """Items that share rare words with what the person took: the same kernel over TF-IDF vectors.

    Parameters
    ----------
    catalog : Catalog, optional
        Where the words are; needed for `fit`, not for `load`. It has to hold every item of the training data.
    text : ItemText or callable, optional
        How an item becomes one text; title and description if not given.
    power : float
        Sharpness, above 0.

    Notes
    -----
    Words of two letters and more in any script, lower case, English stop words left out, 1 + log(count) times the
    inverse document frequency, unit length (scikit-learn). With power 1 scoring costs two sparse products; else it
    is that of `ContentSimilarity` with sparse vectors.

    Examples
    --------
    >>> from llm_tail.data.catalog import Catalog
    >>> books = Catalog.from_items(
    ...     [{"item_id": "a", "title": "white whale"}, {"item_id": "b", "title": "a whale"}, {"item_id": "c"}]
    ... )
    >>> train = Interactions.from_pairs([("ann", "a")], items=books.ids)
    >>> TfidfSimilarity(books).fit(train).recommend(["ann"], k=1)[0][0][0]
    'b'
    """

    name = "tfidf"
    serves_cold: ClassVar[bool] = True
    matrix: sp.csr_matrix

    def __init__(
        self, catalog: Catalog | None = None, text: ItemText | Callable[[Item], str] | None = None, power: float = 1.0
    ) -> None:
        self.catalog, self.text = catalog, text
        self.power = _positive("power", power)

    def _texts(self) -> list[str]:
        if self.catalog is None:
            raise DataError("tfidf needs the words of the items: TfidfSimilarity(catalog).fit(train)")
        rows = self.catalog.ids.rows(self.items.values)
        if (rows < 0).any():
            missing = ", ".join(self.items.values[rows < 0][:3])
            raise DataError(f"{int((rows < 0).sum())} items are not in the catalogue, such as {missing}")
        catalog = self.catalog.take(rows)
        if self.text is None or isinstance(self.text, ItemText):
            return (self.text or ItemText()).texts(catalog)
        return [self.text(item) for item in catalog]

    def _fit(
        self,
        train: Interactions,
        embeddings: Embeddings | None,
        graph: ItemGraph | None,
        validation: Interactions | None,
    ) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = self._texts()
        vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english", dtype=np.float32)
        try:
            self.matrix = sp.csr_matrix(vectorizer.fit_transform(texts))
        except ValueError as error:
            raise DataError(f"the texts of the {len(texts):,} items hold no usable word ({error})") from error

    def _score(self, histories: sp.csr_matrix) -> Floats:
        if self.power == 1.0:  # all cosines are at least 0: the kernel is linear
            return np.asarray(((histories @ self.matrix) @ self.matrix.T).toarray(), dtype=np.float32)
        return kernel_scores(histories, self.matrix, self.power)

    def _state(self) -> dict[str, NDArray[Any]]:
        width = np.array([self.matrix.shape[1]], dtype=np.int64)
        return {
            "indptr": self.matrix.indptr,
            "indices": self.matrix.indices,
            "data": self.matrix.data,
            "width": width,
        }

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        shape = (len(self.items), int(state["width"][0]))
        self.matrix = sp.csr_matrix((state["data"], state["indices"], state["indptr"]), shape=shape)

    def _settings(self) -> dict[str, Any]:
        return {"power": self.power}


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ConfigError(f"{name} is {value}, expected a number above 0")
    return float(value)
