"""What a run can be asked by a text: near in meaning, alike in words, and only what a filter lets through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_tail.errors import DataError, closest

if TYPE_CHECKING:
    from llm_tail.neighbors.answers import Neighbors
    from llm_tail.workspace import Workspace

HOWS = ("vectors", "words", "both")


def similar(
    workspace: Workspace, item_or_text: str, k: int, where: str | Sequence[str] | None, how: str | None
) -> Neighbors:
    """Do what `Workspace.similar` says."""
    if how is not None and how not in HOWS:
        near = closest(how, HOWS, 1)
        raise DataError(
            f"how is {how!r}, expected {', '.join(HOWS)}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    known = item_or_text in workspace.index.ids
    if not known and not item_or_text.strip():
        raise DataError("an empty text is near nothing; give an item id or some words")
    allowed = where if where is None else passing(workspace, where)
    how = how or ("vectors" if known else "both")
    if known and how == "vectors":
        return workspace.index.similar(item_or_text, k, where=allowed)
    from llm_tail.neighbors.fusing import HybridSearch

    search = HybridSearch(
        workspace.index, workspace.words, lambda text: workspace.runtime.encode([text], kind="query")[0]
    )
    if not known:
        return search.search(item_or_text, k, where=allowed, how=how)  # type: ignore[arg-type]  # checked above
    vector = workspace.index.vector(item_or_text) if how == "both" else None
    text = workspace.item_text.of(workspace.catalog[item_or_text])
    return search.ranked(vector, text, k, where=allowed, without=item_or_text)


def passing(workspace: Workspace, where: str | Sequence[str]) -> list[str]:
    """Return the ids of the items that a filter lets through; of several, those that pass all.

    Raises
    ------
    DataError
        If a filter cannot be read or names a column that is not there.
    """
    from llm_tail.neighbors.columns import Columns
    from llm_tail.neighbors.filters import Filter

    texts = [where] if isinstance(where, str) else list(where)
    filters = [Filter.parse(text) for text in texts]
    by_segment = any("segment" in one.columns for one in filters) and "segment" not in workspace.catalog.columns
    columns = Columns(workspace.catalog, workspace.segments if by_segment else None)
    passed = [columns.passing(text) for text in texts]
    others = [set(ids) for ids in passed[1:]]
    return [item for item in passed[0] if all(item in ids for ids in others)] if passed else list(workspace.catalog.ids)
