"""The words of the items, counted for the hybrid beside what they mean; kept, so that new items are counted alike."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from llm_tail.errors import DataError

if TYPE_CHECKING:
    from llm_tail.embedding.embeddings import Embeddings
    from llm_tail.embedding.tfidf import TfidfEncoder
    from llm_tail.workspace.workspace import Workspace

FOLDER = "words"  # within that of the fitted hybrid
WIDTH, MOST_NUMBERS = 512, 100_000_000  # of a vector; and of all of them, so that a million items get narrower ones


def learn_words(workspace: Workspace) -> TfidfEncoder | None:
    """Learn which words and pairs of words the texts of the catalogue hold; None where that is switched off or vain."""
    from llm_tail.embedding.tfidf import TfidfEncoder

    if workspace.config.hybrid.word_share == 0:
        return None
    texts = workspace.item_text.texts(workspace.catalog)
    width = min(WIDTH, max(1, MOST_NUMBERS // max(1, len(texts))))
    try:
        return TfidfEncoder.fit(texts, dim=width, pairs=True, seed=workspace.config.seed)
    except DataError as error:
        warnings.warn(f"the hybrid goes by what texts mean alone: {error}", stacklevel=2)
        return None


def worded_embeddings(workspace: Workspace, words: TfidfEncoder | None) -> Embeddings:
    """Return the vectors of the items, with those of their words beside them."""
    if words is None:
        return workspace.embeddings
    return workspace.embeddings.with_words(words.encode(workspace.item_text.texts(workspace.catalog)))


def word_encoder_of(workspace: Workspace) -> TfidfEncoder | None:
    """Return what counted the words for the run's hybrid; None where it does not look at any.

    Raises
    ------
    StaleArtifactError, CorruptArtifactError
        If it is not the one that the hybrid was fitted with, as after a fit that was cut off; fit again then.
    """
    if not workspace.hybrid.hears_words:
        return None
    return workspace._load("fit", lambda folder: _kept(folder, workspace.fingerprint("fit")))


def _kept(folder: Path, made_from: str) -> TfidfEncoder:
    from llm_tail.artifacts import read_artifact
    from llm_tail.embedding.runtimes import SAVED_KIND
    from llm_tail.embedding.tfidf import TfidfEncoder

    return TfidfEncoder.read(read_artifact(folder / FOLDER, SAVED_KIND, made_from))
