"""ServedRun: one run in memory, with everything that an answer needs laid out for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from llm_tail.artifacts import fingerprint, read_manifest
from llm_tail.data.catalog import Item
from llm_tail.data.segments import Segments
from llm_tail.embedding.store import EmbeddingStore
from llm_tail.errors import DataError, LlmTailError, UnknownIdError
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.recommenders.baselines import BASELINES
from llm_tail.service.drift import Drift
from llm_tail.service.filtering import Filtering
from llm_tail.service.places import Places, of_run
from llm_tail.service.problems import ConflictError
from llm_tail.service.queries import QueryEncoder
from llm_tail.service.stock import Stock
from llm_tail.service.titles import Titles
from llm_tail.workspace.wording import kept_words

if TYPE_CHECKING:
    from llm_tail.recommenders.base import Recommender
    from llm_tail.workspace import Workspace

T = TypeVar("T")
HYBRID = "hybrid"
BASE_FOLDER = "base-embeddings"
NEARBY_IDS = 40  # that are compared with an unknown one: those beside it in the alphabet


@dataclass(frozen=True)
class Card:
    """What a list shows of an item."""

    title: str
    segment: str | None
    n_interactions: int


class ServedRun:
    """One run in memory; made by `load`, never changed but for its `stock`.

    Attributes
    ----------
    workspace : Workspace
        The run; its artifacts are loaded.
    key : str
        Tells one state of the run's results from every other.
    ids : list of str
        The items by row; `row_of` is the way back.
    encoder : QueryEncoder
        For texts.
    stock : Stock
        What came through the service.
    """

    def __init__(self, workspace: Workspace, encoder: QueryEncoder) -> None:
        self.workspace, self.encoder = workspace, encoder
        self.key = key_of(workspace)
        self.loaded = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.index, self.graph, self.catalog = workspace.index, workspace.graph, workspace.catalog
        self.hybrid = workspace.hybrid if "fit" in workspace.stages else None
        if self.index.ids != self.catalog.ids:
            raise DataError("the index holds other items than the catalogue; run: llm-tail run " + workspace.source)
        self.ids: list[str] = [str(x) for x in self.index.ids.values]
        self.row_of = {item_id: row for row, item_id in enumerate(self.ids)}
        self.titles = [title or item_id for title, item_id in zip(self.catalog.titles, self.ids, strict=True)]
        counts = np.zeros(len(self.ids), dtype=np.int64)
        self.segments: Segments | None = None
        if self.hybrid is not None:
            counts = np.bincount(self.hybrid.histories.indices, minlength=len(self.ids)).astype(np.int64)
            self.segments = Segments.from_counts(counts)
        self.counts: list[int] = counts.tolist()
        self.labels: list[str | None] = [None] * len(self.ids)
        if self.segments is not None:
            self.labels = self.segments.labels().tolist()
        self.completion = Titles(self.titles, counts)
        self.filtering = Filtering(self.catalog, self.segments)
        self.words = workspace.words
        self.places = of_run(workspace, np.asarray(self.index.vectors, dtype=np.float32))
        self._item_words = None if self.hybrid is None else kept_words(workspace)
        self.stock = Stock(self.row_of, self.hybrid, self._counted)
        self._others: dict[str, Recommender] = {}
        self._made: dict[str, Any] = {}
        self._making = threading.Lock()

    @classmethod
    def load(cls, workspace: Workspace) -> ServedRun:
        """Load all that answers need, and encode one text so that the first asker does not wait for it.

        Raises
        ------
        StaleArtifactError, CorruptArtifactError
            If the run is not finished or damaged; the message names the command.
        """
        check_finished(workspace)
        encoder = QueryEncoder(workspace.runtime, workspace.config.serve.cache)
        try:
            run = cls(workspace, encoder)
            encoder.documents(["ready"])
            _ = run.together_matrix, run.drift, run._sorted  # made now, not when the first asks
            if workspace.config.serve.compare_base:
                _ = run.base_index
        except BaseException:
            encoder.close()
            raise
        return run

    def _counted(self, items: Sequence[Item]) -> NDArray[np.float32] | None:
        return None if self._item_words is None else self._item_words.of_items(items)

    # ---- items

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.row_of or item_id in self.stock.shelf.items

    def check(self, item_id: str) -> None:
        """Raise `UnknownIdError` where there is no such item, at no great cost however many there are."""
        if item_id not in self:
            near = int(np.searchsorted(self._sorted, item_id)) if len(self._sorted) else 0
            some = self._sorted[max(0, near - NEARBY_IDS) : near + NEARBY_IDS]
            raise UnknownIdError("item", item_id, [*some, *list(self.stock.shelf.items)[:NEARBY_IDS]])

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.ids)

    def item(self, item_id: str) -> Item:
        """Return an item as it is now."""
        self.check(item_id)
        found = self.stock.shelf.items.get(item_id)
        return found if found is not None else self.catalog[item_id]

    def card(self, item_id: str) -> Card:
        """Return what a list shows of an item; O(1)."""
        changed, row = self.stock.shelf.items.get(item_id), self.row_of.get(item_id)
        if row is None:
            return Card((changed.title if changed else "") or item_id, "cold" if self.hybrid else None, 0)
        title = self.titles[row] if changed is None else changed.title or item_id
        return Card(title, self.labels[row], self.counts[row])

    @property
    def n_items(self) -> int:
        """How many items there are, the new ones too."""
        shelf = self.stock.shelf
        return len(self.ids) + len(shelf.items) - len(shelf.changed)

    def vector(self, row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the vector of an item of the run, shape (dim,), of length 1 or 0 but for rounding."""
        found: np.ndarray[Any, np.dtype[np.float32]] = self.index.table.floats(slice(row, row + 1))[0]
        return found

    # ---- models

    @cached_property
    def models(self) -> list[str]:
        """The models that can be asked: the hybrid, and those that were fitted and kept."""
        if self.hybrid is None:
            return []
        folder = self.workspace.folder / "models"
        return [HYBRID, *(name for name in BASELINES if (folder / name / "manifest.json").is_file())]

    def model(self, name: str) -> Recommender:
        """Return a model by its name; nothing is fitted for a question.

        Raises
        ------
        ConflictError
            If it was not fitted, or over other items.
        """
        if self.hybrid is None or self.stock.hybrid is None:
            raise ConflictError("this run has no interactions and so no people; name [data] interactions and run again")
        if name == HYBRID:
            return self.stock.hybrid
        if name not in self.models:
            raise ConflictError(f"there is no model {name!r} in this run; there are: {', '.join(self.models)}")
        if name not in self._others:
            try:
                # every entry of BASELINES is the class itself
                model = BASELINES[name].load(self.workspace.folder / "models" / name)  # type: ignore[attr-defined]
            except LlmTailError as error:
                raise ConflictError(f"the model {name!r} cannot be read: {error}") from error
            if model.items != self.hybrid.items:
                raise ConflictError(f"the model {name!r} was fitted over other items; run: llm-tail evaluate")
            self._others[name] = model
        return self._others[name]

    @cached_property
    def together_matrix(self) -> Any:
        """Who took what by training, by item: csc_matrix of shape (n_users, n_items), or None."""
        return None if self.hybrid is None else self.hybrid.histories.tocsc()

    @cached_property
    def base_index(self) -> NeighborIndex | None:
        """The items by the encoder as it was before fine-tuning; None where it was not asked for.

        Where nothing was fine-tuned, or the guard did not keep it, this is the index of the run.
        """
        workspace = self.workspace
        if not workspace.config.lora.enabled or not _kept(workspace):
            return self.index
        if not workspace.config.serve.compare_base:
            return None
        store = EmbeddingStore.open(workspace.folder / BASE_FOLDER)
        vectors = store.embed(self.catalog, workspace.base_encoder, workspace.item_text)
        for name in ("base_encoder", "source_encoder"):  # two models at once are one too many
            workspace.__dict__.pop(name, None)
        return NeighborIndex.build(vectors, workspace.config.index, seed=workspace.config.seed)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` makes, which is kept under this name for as long as the run is served."""
        with self._making:
            if name not in self._made:
                self._made[name] = make()
        found: T = self._made[name]
        return found

    def draw(self) -> None:
        """Put the run's own map, with its communities, in the place of the plain one; draw it where it is missing.

        About a minute for 60,000 items, once a run.
        """
        drawn = self.workspace.map
        self.places = Places(drawn.xy, drawn.community, drawn.names, drawn.kind)

    def community_of(self, item_id: str) -> int:
        """Return the community of an item; -1 where it has none, or the run knows of none."""
        row = self.row_of.get(item_id)
        return -1 if row is None else int(self.places.communities[row])

    @cached_property
    def drift(self) -> Drift:
        """What recent vectors are held against."""
        return Drift(self.index.vectors)

    def text_of(self, item: Item) -> str:
        """Return the text of an item as the run's encoder reads it."""
        return self.workspace.item_text.of(item)

    def close(self) -> None:
        """End what runs beside; questions that are under way may fail after it."""
        self.encoder.close()

    def __repr__(self) -> str:
        return f"ServedRun({self.workspace.folder}, {self.n_items:,} items)"


def check_finished(workspace: Workspace) -> None:
    """Raise `StaleArtifactError` where a stage that answers need is not finished; nothing is loaded for it."""
    for stage in ("embed", "index", "graph", "fit"):
        if stage in workspace.stages:
            workspace._made(stage)


def _kept(workspace: Workspace) -> bool:
    """Say whether the guard kept what fine-tuning made."""
    manifest = read_manifest(workspace._made("finetune"))
    return bool(manifest and manifest["facts"]["kept"])


def key_of(workspace: Workspace) -> str:
    """Return what tells one state of a run's results from every other."""
    last = "fit" if "fit" in workspace.stages else "graph"
    return fingerprint(workspace.fingerprint(last), workspace.fingerprint("embed"))


def encode_items(run: ServedRun, items: Sequence[Item]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vectors of items, of length 1, or 0 where an item has no words; shape (n_items, dim)."""
    return run.encoder.documents([run.text_of(item) for item in items])
