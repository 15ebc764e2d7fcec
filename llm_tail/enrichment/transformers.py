"""LocalModel: a causal language model on this machine answers, a batch of prompts at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_tail.artifacts import fingerprint
from llm_tail.config import EnrichmentConfig
from llm_tail.config.enriching import TASKS, Task
from llm_tail.embedding.families import quiet
from llm_tail.enrichment.backends import Reply, Request
from llm_tail.errors import ConfigError


class LocalModel:
    """A causal language model of transformers.

    Parameters
    ----------
    config : EnrichmentConfig
        ``model`` is a folder or a name that lies in the local cache of the hub; ``batch_size`` prompts go in at once.

    Raises
    ------
    ConfigError
        If no model is named.

    Notes
    -----
    Prompts are told to the model through its chat template where it has one, else one below the other. Temperature 0 is
    greedy: the answer does not depend on a seed. Nothing holds the model to the form; what breaks it is set aside.
    """

    name = "transformers"
    costs = False
    extracts = False
    tasks: tuple[Task, ...] = TASKS

    def __init__(self, config: EnrichmentConfig) -> None:
        if not config.model:
            raise ConfigError("[enrichment] model is not set; give the folder or the name of a causal language model")
        self.config = config
        folder = Path(config.model)
        self.model = _named(folder) if folder.is_dir() else config.model
        self.settings: Mapping[str, Any] = {}

    def check(self) -> None:
        """Load the model; `ConfigError` where it cannot be."""
        _ = self._loaded

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        name = self.config.model
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(name)
                model = AutoModelForCausalLM.from_pretrained(name)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"[enrichment] model {name!r} cannot be loaded as a causal language model: {first}"
            ) from None
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        tokenizer.padding_side = "left"  # what is written follows the prompt
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return tokenizer, model.to(device).eval()

    def answer(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for each request, ``batch_size`` at a time."""
        source = iter(requests)
        while block := list(itertools.islice(source, self.config.batch_size)):
            for _, alike in itertools.groupby(sorted(block, key=_heat), key=_heat):
                yield from self._block(list(alike))

    def _block(self, block: list[Request]) -> list[Reply]:
        import torch

        tokenizer, model = self._loaded
        prompts = [self._prompt(request) for request in block]
        longest = getattr(model.config, "max_position_embeddings", 0) or 0
        max_new = max(request.max_tokens for request in block)
        room = max(longest - max_new, 16) if longest else None
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        counts = inputs["attention_mask"].sum(dim=1).tolist()  # (n_block,)
        too_long = [room is not None and n > room for n in counts]
        if all(too_long):
            return [_too_long(request, n, room) for request, n in zip(block, counts, strict=True)]
        if any(too_long):  # those that fit are asked without them
            fit = [request for request, long in zip(block, too_long, strict=True) if not long]
            rest = [(r, n) for r, n, long in zip(block, counts, too_long, strict=True) if long]
            return [*self._block(fit), *(_too_long(request, n, room) for request, n in rest)]
        options: dict[str, Any] = {"max_new_tokens": max_new, "pad_token_id": tokenizer.pad_token_id}
        hot = block[0].temperature > 0
        options |= {"do_sample": True, "temperature": block[0].temperature} if hot else {"do_sample": False}
        with torch.inference_mode(), quiet():
            written = model.generate(**inputs.to(model.device), **options)[:, inputs["input_ids"].shape[1] :]
        replies = []
        for request, n_in, tokens in zip(block, counts, written, strict=True):
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            n_out = int((tokens != tokenizer.pad_token_id).sum())
            replies.append(Reply(request.key, text, "", int(n_in), n_out))
        return replies

    def _prompt(self, request: Request) -> str:
        tokenizer, _ = self._loaded
        messages = [dict(message) for message in request.messages]
        if getattr(tokenizer, "chat_template", None):
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return "\n\n".join(message["content"] for message in messages) + "\n\n"

    def __repr__(self) -> str:
        return f"LocalModel({self.model!r})"


def _heat(request: Request) -> float:
    return request.temperature


def _named(folder: Path) -> str:
    """Return the name of a model's folder and a digest of what lies there, by names and sizes."""
    files = sorted((p.name, p.stat().st_size) for p in folder.iterdir() if p.is_file())
    return f"{folder.name}@{fingerprint(files)}"


def _too_long(request: Request, n_tokens: int, room: int | None) -> Reply:
    return Reply(request.key, error=f"the prompt has {n_tokens:,} tokens and the model has room for {room:,}")
