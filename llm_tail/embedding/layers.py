"""Which layers of a transformer are tuned, found by rule and not by a list of architectures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from llm_tail.errors import ConfigError

# What architectures call the layers that make keys and values, alone or together with the queries.
_KEYS_VALUES = re.compile(
    r"(k|v|key|value|[kv]_proj|(key|value)_proj|[kv]_lin|qkv|qkv_proj|wqkv|kv|query_key_value|c_attn|in_proj|[kv]proj)",
    re.IGNORECASE,
)


def target_layers(model: nn.Module, wanted: list[str] | None = None) -> list[str]:
    """Return the full names of the linear layers to adapt: those inside the blocks, or those named in `wanted`.

    A name in `wanted` counts as PEFT counts it: the whole name of a layer, or its end after a dot.
    """
    linear = [name for name, module in model.named_modules() if _is_linear(module)]
    if wanted:
        found = [n for n in linear if any(n == w or n.endswith(f".{w}") for w in wanted)]
    else:
        # Blocks are what stands in a list of modules; embeddings, poolers and heads stand outside.
        lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
        found = [n for n in linear if any(n.startswith(f"{block}.") for block in lists)]
    if not found:
        asked = f"setting 'lora.target_modules' is {wanted}, which" if wanted else "the rule 'inside the blocks'"
        raise ConfigError(f"{asked} matches no linear layer of the model; its linear layers are: {_there(linear)}")
    return found


def ia3_layers(model: nn.Module, wanted: list[str] | None = None) -> tuple[list[str], list[str]]:
    """Return the names of the layers that IA3 scales, and those among them whose input is scaled, not their output.

    Without `wanted`: in each block the layers that make keys and values, by their name, and the last linear layer
    outside the attention that leads back to the width of the block, whose input are the feed-forward features.
    """
    linear = {n: m for n, m in model.named_modules() if n in set(target_layers(model))}
    keys = [n for n in linear if _KEYS_VALUES.fullmatch(n.rpartition(".")[2])]
    if not keys and not wanted:
        raise ConfigError(
            "[lora] kind = 'ia3' finds no layer that makes keys or values; name layers under target_modules; the "
            f"linear layers of the model are: {_there(linear)}"
        )
    attentions = {n.rpartition(".")[0] for n in keys}
    width = _shape(linear[keys[0]])[0] if keys else 0
    last: dict[str, str] = {}
    for name, layer in linear.items():
        if name.rpartition(".")[0] not in attentions and _shape(layer)[1] == width:
            last[_block_of(name)] = name
    inner = list(last.values())
    targets = target_layers(model, wanted) if wanted else [*keys, *inner]
    return targets, [n for n in inner if n in targets]


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the names and modules of the blocks, first to last: the longest list of modules that is in no other."""
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    outer = [(n, m) for n, m in lists if not any(n.startswith(f"{other}.") for other, _ in lists)]
    if not outer:
        return []
    name, longest = max(outer, key=lambda entry: len(entry[1]))
    return [(f"{name}.{i}" if name else str(i), block) for i, block in enumerate(longest)]


def _is_linear(module: nn.Module) -> bool:
    # GPT-2 and its kin write their linear layers as Conv1D.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _shape(layer: Any) -> tuple[int, int]:
    """Return the widths of what goes into a linear layer and of what comes out."""
    out, into = layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.T.shape
    return into, out


def _block_of(name: str) -> str:
    """Return the part of a layer's name up to the first number: the block it stands in."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: number + 1])


def _there(linear: Iterable[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in linear})) or "none"
