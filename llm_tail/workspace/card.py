"""The model card of an exported encoder, written from the run and from nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_tail.config import EncoderConfig
    from llm_tail.workspace.guard import Verdict

TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "recommender-systems", "llm-tail")
N_LOSSES = 8  # points of the loss curve on the card


def model_card(
    title: str,
    *,
    base: str,
    config: EncoderConfig,
    dim: int,
    pooling: str,
    adapter: bool,
    settings: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    losses: Sequence[float] = (),
    verdict: Verdict | None = None,
    made: str = "",
) -> str:
    """Return a model card in Markdown, with YAML front matter; it names no path of the machine it was made on.

    Parameters
    ----------
    title : str
        Its heading, and what the examples load.
    base : str
        The model that the run started from.
    config : EncoderConfig
        Of the encoder, with prompts resolved.
    dim : int
        Width of a vector.
    pooling : str
        How token states become one vector.
    adapter : bool
        Whether an adapter is merged into the weights.
    settings : mapping
        Tables of the run that matter beside ``[lora]``, such as ``text`` (how an item became one text), by name.
    facts : mapping
        Those of the fine-tuned encoder's manifest; empty where nothing was fine-tuned.
    losses : sequence of float
        The loss of each training step.
    verdict : Verdict, optional
        The guard's table.
    made : str
        The date; left out if empty.

    Examples
    --------
    >>> from llm_tail.config import EncoderConfig
    >>> name, config = "sentence-transformers/all-MiniLM-L6-v2", EncoderConfig()
    >>> how = {"dim": 384, "pooling": "mean", "adapter": False, "settings": {}, "facts": {}}
    >>> card = model_card("shop", base=name, config=config, **how)
    >>> card.splitlines()[1]
    'base_model: "sentence-transformers/all-MiniLM-L6-v2"'
    """
    kind = facts.get("lora", {}).get("kind", "lora") if adapter else ""
    lines = [*_front_matter(base, kind), f"# {title}", ""]
    lines += [_opening(public_name(base), dim, pooling, config.max_tokens, kind, "pretrain" in settings), ""]
    if made:
        lines += [f"Made on {made}.", ""]
    if facts and not facts.get("kept", True):
        lines += ["**The guard did not keep this update; it was exported all the same.**", ""]
    lines += ["## How to load it", "", *_loading(title, config)]
    if facts:
        lines += ["## What it was trained on", "", *_data(facts), ""]
    tables = {**({"lora": facts["lora"]} if "lora" in facts else {}), **settings}
    if tables:
        lines += ["## Settings", "", *_table(tables), ""]
    if losses:
        lines += ["## Training loss", "", *_curve(losses), ""]
    if verdict is not None:
        lines += ["## How it was judged", "", *_judged(verdict)]
    return "\n".join(lines).rstrip() + "\n"


def public_name(name: str) -> str:
    """Return a model's name as others may read it: a folder without what stands before it.

    Examples
    --------
    >>> public_name("sentence-transformers/all-MiniLM-L6-v2"), public_name("/models/ours")
    ('sentence-transformers/all-MiniLM-L6-v2', 'ours')
    """
    return name if _on_a_hub(name) else Path(name).name


def _on_a_hub(name: str) -> bool:
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)) and not Path(name).exists()


def _front_matter(name: str, kind: str) -> list[str]:
    tags = [*TAGS, *([kind] if kind else [])]
    base = [f"base_model: {json.dumps(name)}"] if _on_a_hub(name) else []
    library = ['library_name: "sentence-transformers"', 'pipeline_tag: "sentence-similarity"']
    return ["---", *base, *library, "tags:", *(f"- {json.dumps(tag)}" for tag in tags), "---", ""]


def _opening(base: str, dim: int, pooling: str, max_tokens: int, kind: str, pretrained: bool) -> str:
    steps = ["adapted to the texts of a catalogue"] if pretrained else []
    if kind:
        told = f"fine-tuned ({kind}, merged into the weights)"
        steps.append(f"{told} so that the texts of items which the same people took lie close")
    how = ", then ".join(steps) or "as it was: no update of it is part of this model"
    pooled = f" by {pooling} pooling" if pooling else ""
    return f"`{base}`, {how}. Texts of up to {max_tokens:,} tokens become vectors of {dim:,} numbers{pooled}."


def _loading(title: str, config: EncoderConfig) -> list[str]:
    prompts = ""
    if config.query_prompt or config.document_prompt:
        prompts = " The prompts it was trained with are part of its files."
    return [
        f"With sentence-transformers alone.{prompts} Vectors are to be compared by their cosine:",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        f"model = SentenceTransformer({json.dumps(title)})",
        'items = model.encode_document(["title. description"], normalize_embeddings=True)',
        'asked = model.encode_query(["what somebody looks for"], normalize_embeddings=True)',
        "```",
        "",
        "With llm_tail, where it takes the place of `[encoder] name` in a config file:",
        "",
        "```python",
        "import llm_tail as lt",
        "",
        f"encoder = lt.Encoder.load({json.dumps(f'./{title}')})",
        'items = encoder.encode(["title. description"])',
        "```",
        "",
    ]


def _data(facts: Mapping[str, Any]) -> list[str]:
    data, pairs = facts.get("data", {}), facts.get("pairs", {})
    counts = ", ".join(f"{data[f'n_{name}']:,} {name}" for name in ("items", "users", "events") if f"n_{name}" in data)
    told = f"{pairs['n_pairs']:,} pairs of texts, drawn from " if "n_pairs" in pairs else "Drawn from "
    prints = [f"{name} `{data[key]}`" for name, key in (("items", "catalog"), ("events", "train")) if key in data]
    return [f"{told}{counts} (training events only). Fingerprints: {', '.join(prints)}."]


def _table(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        f"| `{name}.{key}` | `{json.dumps(value, ensure_ascii=False, default=str)}` |"
        for name, table in tables.items()
        for key, value in table.items()
        if key != "enabled"
    ]
    return ["| setting | value |", "| --- | --- |", *rows]


def _curve(losses: Sequence[float]) -> list[str]:
    """Return the loss curve in short: means over equal stretches of the steps."""
    n = min(N_LOSSES, len(losses))
    borders = [round(part * len(losses) / n) for part in range(n + 1)]
    values = {
        f"{start + 1:,} to {end:,}" if end - start > 1 else f"{end:,}": round(mean(losses[start:end]), 4)
        for start, end in pairwise(borders)
    }
    return ["| steps | mean loss |", "| --- | --- |", *(f"| {step} | {value:.4f} |" for step, value in values.items())]


def _judged(verdict: Verdict) -> list[str]:
    probe = (
        "The probe asks, of texts in the catalogue, whether one part finds the other among all."
        if verdict.probe
        else ""
    )
    people = ", ".join(f"{verdict.report.n_users[name]:,} {name}" for name in verdict.segments)
    return [
        "Items ranked by the vectors alone, on validation events that training has not seen. In brackets: the paired "
        f"difference to `{verdict.base}` with its bootstrap 95 % interval over people ({people}). The same events "
        f"chose the step and the strength, so that differences and intervals are a little optimistic. {probe}".rstrip(),
        "",
        f"{verdict}.",
        "",
        verdict.to_markdown(),
    ]
