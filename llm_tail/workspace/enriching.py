"""The stage ``enrich`` of a run: who answers, which items come first, what prompts may see, and what is kept.

::

    enriched/fields.parquet      the generated fields, one row a part, each with its provenance
    enriched/profiles.parquet    what people's training histories say of them, where profiles are asked for
    enrichment/answers.sqlite    every answer, paid for once; shared by later runs in this folder
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from llm_tail.artifacts import Artifact, read_manifest, write_artifact
from llm_tail.enrichment.result import Enrichment
from llm_tail.enrichment.schema import field_of
from llm_tail.workspace.generated import ENRICHED, FIELDS, answers_folder, field_names, is_read, source_text

if TYPE_CHECKING:
    from llm_tail.enrichment.asking import Asker
    from llm_tail.enrichment.backends import Backend
    from llm_tail.enrichment.provenance import History
    from llm_tail.workspace import Workspace

KIND = "enrichment"
PROFILES = "profiles.parquet"


def make_enriched(workspace: Workspace, folder: Path, made_from: str) -> str:
    """Ask for what the items lack; what was answered before is not asked again."""
    from llm_tail.enrichment.enrich import enrich
    from llm_tail.enrichment.provenance import check_provenance

    config, catalog = workspace.config.enrichment, workspace.source_catalog
    given = inputs(workspace)
    outcome = enrich(catalog, backend_of(workspace), config, folder=answers_folder(workspace.config), **given)
    made = outcome.enrichment
    if workspace.config.data.interactions and "profile" in config.tasks:
        check_provenance(made, workspace.split)
    is_profile = pc.equal(made.table["field"], field_of("profile"))
    facts = {
        "complete": outcome.complete,
        "n_asked": outcome.n_asked,
        "n_kept": outcome.n_kept,
        "n_aside": outcome.n_aside,
        "tokens": outcome.spent.tokens,
        "money": outcome.spent.money,
        "currency": config.currency,
    }
    with write_artifact(folder, KIND, made_from, facts) as draft:
        Enrichment(made.table.filter(pc.invert(is_profile))).save(draft.file(FIELDS))
        Enrichment(made.table.filter(is_profile)).save(draft.file(PROFILES))
    names = field_names(workspace.config)
    if not names or is_read(workspace.config):
        return str(outcome)
    return f"{outcome}; nothing reads them yet: add {', '.join(names)} to [text] fields or [graph] relations"


def read_enriched(found: Artifact) -> Enrichment:
    """Return the generated fields of items."""
    return Enrichment.load(found.file(FIELDS))


def is_complete(folder: Path) -> bool:
    """Say whether every question of a finished stage had an answer; a run may have gone on without some."""
    manifest = read_manifest(folder)
    return manifest is None or bool(manifest["facts"].get("complete", True))


def facts_of(workspace: Workspace) -> dict[str, Any]:
    """Return what the stage has noted: answers, tokens, money."""
    manifest = read_manifest(workspace.folder / ENRICHED)
    return dict(manifest["facts"]) if manifest else {}


def inputs(workspace: Workspace) -> dict[str, Any]:
    """Return what a task needs beside the catalogue: near items, training histories, an order."""
    config = workspace.config.enrichment
    given: dict[str, Any] = {"rows": _order(workspace)}
    if "relations" in config.tasks:
        given["candidates"] = _candidates(workspace)
    if "profile" in config.tasks and workspace.config.data.interactions:
        given["histories"] = _histories(workspace)
    return given


def backend_of(workspace: Workspace) -> Backend:
    """Return who answers, by the settings."""
    from llm_tail.enrichment.backends import make_backend

    config = workspace.config
    if config.enrichment.backend != "extractive":
        return make_backend(config.enrichment, answers_folder(config))
    from llm_tail.embedding.text import ItemText
    from llm_tail.enrichment.extractive import Extractive

    text, catalog = ItemText(source_text(config)), workspace.source_catalog
    given: dict[str, Any] = {"parts": config.enrichment.extracts, "seed": config.seed}
    if config.encoder.runtime == "tfidf":
        from llm_tail.embedding.tfidf import TfidfEncoder

        return Extractive.learn(catalog, TfidfEncoder.fit(text.texts(catalog)), text, **given)
    return Extractive.learn(catalog, workspace.source_encoder, text, **given)


def asker_of(workspace: Workspace) -> Asker:
    """Return the questions of a run, for those who look at the answers."""
    from llm_tail.enrichment.asking import Asker

    return Asker(workspace.source_catalog, workspace.config.enrichment, backend_of(workspace), **inputs(workspace))


def _order(workspace: Workspace) -> NDArray[np.int64] | None:
    """Return the items by what enriching them is expected to bring, where not all may be; None where all are."""
    from llm_tail.embedding.text import ItemText
    from llm_tail.enrichment.choosing import worth

    config = workspace.config
    limits = (config.enrichment.n_items, config.enrichment.max_money, config.enrichment.max_tokens)
    if not any(limits):
        return None
    train = workspace.split.train if config.data.interactions else None
    values = worth(workspace.source_catalog, train, ItemText(source_text(config))).values
    return np.argsort(-values, kind="stable").astype(np.int64)


def _candidates(workspace: Workspace) -> NDArray[np.int64]:
    """Return the nearest items of each by the words of their texts, shape (n_items, candidates); nobody's doings."""
    from llm_tail.embedding.text import ItemText
    from llm_tail.embedding.tfidf import TfidfEncoder
    from llm_tail.neighbors.exact import nearest

    texts = ItemText(source_text(workspace.config)).texts(workspace.source_catalog)
    vectors = TfidfEncoder.fit(texts).encode(texts)
    rows, _ = nearest(
        vectors, vectors, workspace.config.enrichment.candidates, exclude_rows=np.arange(len(texts), dtype=np.int64)
    )
    return rows


def _histories(workspace: Workspace) -> list[History]:
    from llm_tail.enrichment.provenance import training_histories

    return training_histories(workspace.split.train, workspace.split)
