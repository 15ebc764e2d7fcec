"""What families of encoders expect: prompts, pooling, an end token; and how to keep their libraries quiet."""

from __future__ import annotations

import logging
import re
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import llm_tail
from llm_tail.config import EncoderConfig


@dataclass(frozen=True)
class Family:
    """What is known of a family of encoders; see ``prompts/encoders.toml`` for the meaning of the parts."""

    match: str = ""
    query: str = ""
    document: str = ""
    pooling: Literal["mean", "cls", "last"] | None = None
    append_eos: bool = False


def prompts_folder() -> Path:
    """Return the folder of the prompt files: inside an installed package, beside it in the repository."""
    package = Path(llm_tail.__file__).parent
    inside = package / "prompts"
    return inside if inside.is_dir() else package.parent / "prompts"


def family_of(name: str) -> Family:
    """Return what is known of the family that the model `name` belongs to; an empty `Family` for a stranger.

    Examples
    --------
    >>> family_of("intfloat/e5-small-v2").document
    'passage: '
    """
    short = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return next((family for family in _families() if re.search(family.match, short)), Family())


@cache
def _families() -> tuple[Family, ...]:
    with (prompts_folder() / "encoders.toml").open("rb") as stream:
        return tuple(Family(**entry) for entry in tomllib.load(stream)["family"])


def is_decoder(config: Any) -> bool:
    """Whether each token sees only those before it, so that the last one alone has seen all."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = getattr(config, "model_type", "")
    causal_only = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = getattr(config, "is_causal", True) and not getattr(config, "use_bidirectional_attention", False)
    return bool(getattr(config, "is_decoder", False) or (causal_only and causal))


def append_eos(tokenizer: Any) -> None:
    """Let the tokenizer end each text with the end-of-text token, if it does not do so already."""
    from tokenizers import processors

    eos, number = tokenizer.eos_token, tokenizer.eos_token_id
    if eos is None or tokenizer("a")["input_ids"][-1:] == [number]:
        return
    end = processors.TemplateProcessing(single=f"$A {eos}", special_tokens=[(eos, number)])
    backend = tokenizer.backend_tokenizer
    backend.post_processor = (
        end if backend.post_processor is None else processors.Sequence([backend.post_processor, end])
    )


def resolve_prompts(model: Any, settings: EncoderConfig, family: Family) -> dict[str, str]:
    """Return the prompts for queries and documents: the settings', else the model's own, else the family's."""
    own: Mapping[str, str] = {key: value for key, value in (model.prompts or {}).items() if value}
    default = own.get(model.default_prompt_name or "", "")
    if own.keys() & {"query", "document", "passage"} or default:
        found = (own.get("query", default), own.get("document", own.get("passage", default)))
    else:
        found = (family.query, family.document)
    given = (settings.query_prompt, settings.document_prompt)
    query, document = (f if g is None else g for f, g in zip(found, given, strict=True))
    return {"query": query, "document": document}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the chatter of the libraries below off the screen: bars, notices and warnings to their developers."""
    from transformers import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "huggingface_hub", "peft")]
    levels = [logger.level for logger in loggers]
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
        for logger, old in zip(loggers, levels, strict=True):
            logger.setLevel(old)
