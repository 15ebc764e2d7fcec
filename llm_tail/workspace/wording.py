"""The words of the items, counted for the hybrid beside what they mean; kept, so that new items are counted alike."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llm_tail.config import TextConfig
from llm_tail.data.catalog import Catalog, Item
from llm_tail.embedding.text import ItemText
from llm_tail.errors import DataError
from llm_tail.workspace.generated import PREFIX

if TYPE_CHECKING:
    from llm_tail.embedding.embeddings import Embeddings
    from llm_tail.embedding.tfidf import TfidfEncoder
    from llm_tail.workspace.workspace import Workspace

FOLDER = "words"  # within that of the fitted hybrid
AUTO = "auto"
WIDTH, MOST_NUMBERS = 512, 100_000_000  # of a vector; and of all of them, so that a million items get narrower ones


@dataclass(frozen=True)
class ItemWords:
    """Counts the words of items.

    Attributes
    ----------
    text : ItemText
        Which columns they stand in: those of the run's texts, and those that say what kind of item it is.
    encoder : TfidfEncoder
        Counts and folds them.
    """

    text: ItemText
    encoder: TfidfEncoder

    def of_catalog(self, catalog: Catalog) -> NDArray[np.float32]:
        """Return one vector a row, shape (n_items, dim); zero for an item without known words."""
        return self.encoder.encode(self.text.texts(catalog))

    def of_items(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """Return the same for items of which no catalogue knows."""
        return self.encoder.encode([self.text.of(item) for item in items])

    def save(self, folder: Path, made_from: str) -> None:
        """Keep both."""
        self.encoder.save(folder, made_from, text=self.text.config.model_dump())


def learn_words(workspace: Workspace) -> ItemWords | None:
    """Learn which words and pairs of words the items of the catalogue have; None where that is switched off or vain."""
    from llm_tail.embedding.tfidf import TfidfEncoder

    if workspace.config.hybrid.word_share == 0:
        return None
    text = workspace.item_text.with_fields(*word_columns(workspace))
    texts = text.texts(workspace.catalog)
    width = min(WIDTH, max(1, MOST_NUMBERS // max(1, len(texts))))
    try:
        return ItemWords(text, TfidfEncoder.fit(texts, dim=width, pairs=True, seed=workspace.config.seed))
    except DataError as error:
        warnings.warn(f"the hybrid goes by what texts mean alone: {error}", stacklevel=2)
        return None


def word_columns(workspace: Workspace) -> list[str]:
    """Return the columns beside those of the text whose words are counted."""
    from llm_tail.enrichment.taxonomy import category_columns

    named, catalog = list(workspace.config.hybrid.word_fields), workspace.catalog
    if AUTO in named and AUTO not in catalog.columns:
        place = named.index(AUTO)
        tied = [name for name in workspace.config.graph.relations if not name.startswith(PREFIX)]
        named[place : place + 1] = [*tied, *category_columns(catalog)]
    read = workspace.config.text.fields
    return [name for name in dict.fromkeys(named) if name not in read]


def worded_embeddings(workspace: Workspace, words: ItemWords | None) -> Embeddings:
    """Return the vectors of the items, with those of their words beside them."""
    if words is None:
        return workspace.embeddings
    return workspace.embeddings.with_words(words.of_catalog(workspace.catalog))


def kept_words(workspace: Workspace) -> ItemWords | None:
    """Return what counted the words for the run's hybrid; None where it does not look at any.

    Raises
    ------
    StaleArtifactError, CorruptArtifactError
        If it is not the one that the hybrid was fitted with, as after a fit that was cut off; fit again then.
    """
    if not workspace.hybrid.hears_words:
        return None
    return workspace._load("fit", lambda folder: _kept(folder, workspace.fingerprint("fit")))


def _kept(folder: Path, made_from: str) -> ItemWords:
    from llm_tail.artifacts import read_artifact
    from llm_tail.embedding.runtimes import SAVED_KIND
    from llm_tail.embedding.tfidf import TfidfEncoder

    artifact = read_artifact(folder / FOLDER, SAVED_KIND, made_from)
    return ItemWords(ItemText(TextConfig(**artifact.facts["text"])), TfidfEncoder.read(artifact))
