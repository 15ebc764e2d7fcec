"""Prefix tuning: learned keys and values that every token of a text may attend to, in every block.

PEFT hands a prefix over as a cache of past keys and values, which encoders such as BERT do not take. Here it goes in
where transformers lets an attention function be named: that one puts the prefix before the keys and values at hand.
The prefix stands at no position and is no token, so positions, mask, padding and pooling of the text stay as they are,
the same for bidirectional encoders and for decoders.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llm_tail.errors import ConfigError

_NAME = "llm_tail_prefix"
_KEY_SPREAD = 0.02
_WORKS = "'lora', 'rslora', 'dora', 'ia3', 'top-layers' and 'full'"


class Prefix(nn.Module):
    """The learned keys and values of one attention layer.

    Parameters
    ----------
    keys, values : Tensor, shape (n_heads, n_tokens, head_dim)
        Of the key and value heads, of which there may be fewer than of the query heads.
    strength : float
        At least 0; the prefix is attended to as if each of its tokens stood there this many times.
    """

    def __init__(self, keys: Tensor, values: Tensor, strength: float = 1.0) -> None:
        super().__init__()
        self.keys, self.values = nn.Parameter(keys), nn.Parameter(values)
        self.strength = strength


def add_prefix(transformer: Any, n_tokens: int) -> None:
    """Put a prefix before the keys and values of every attention layer, in place.

    After X. L. Li and P. Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021, without their
    reparametrisation and with another start: values of zero and small random keys, which leave an encoder that is good
    already nearest to itself (16 tokens in MiniLM: cosine 0.98 with the base; keys and values of real words: 0.77).

    Parameters
    ----------
    transformer : PreTrainedModel
        Its weights are left as they are.
    n_tokens : int
        Length of the prefix, >= 1.

    Raises
    ------
    ConfigError
        If the architecture computes attention in code of its own, where no prefix can go in.
    """
    name = type(transformer).__name__
    if not getattr(transformer, "_supports_sdpa", False):
        raise ConfigError(
            f"[lora] kind = 'prefix' does not work for {name}, which computes attention in code of its own; the kinds "
            f"that do are {_WORKS}"
        )
    _register()
    transformer.config._attn_implementation = _NAME
    seen: dict[nn.Module, Tensor] = {}
    ids = torch.zeros(1, 1, dtype=torch.long, device=transformer.device)
    _recorders.append(seen)
    try:
        with torch.no_grad():
            transformer(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        _recorders.pop()
    if not seen:
        raise ConfigError(
            f"[lora] kind = 'prefix' finds no attention layer in {name} to put a prefix into; the kinds that work are "
            f"{_WORKS}"
        )
    for layer, key in seen.items():
        shape = (key.shape[1], n_tokens, key.shape[3])  # (n_heads, n_tokens, head_dim)
        keys = torch.empty(shape, device=key.device).normal_(std=_KEY_SPREAD)
        layer.prefix = Prefix(keys, torch.zeros_like(keys))


def prefixes(model: nn.Module) -> Iterator[tuple[str, Prefix]]:
    """Yield the name and the prefix of each attention layer that has one."""
    for name, module in model.named_modules():
        if isinstance(module, Prefix):
            yield name, module


_recorders: list[dict[nn.Module, Tensor]] = []  # filled while a model without prefixes shows its layers


def _register() -> None:
    """Make the attention function and its mask known to transformers, under a name of their own."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _mask)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    from transformers.masking_utils import sdpa_mask

    # Without a mask, a causal layer would count from the first key, which is now one of the prefix.
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})  # type: ignore[no-any-return]


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend to the prefix of the layer and to the keys; shapes (n_texts, n_heads, n_tokens, head_dim)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    prefix = getattr(module, "prefix", None)
    if prefix is None and _recorders:
        _recorders[-1][module] = key
    if prefix is not None and prefix.strength > 0:
        n_texts, n_tokens = len(key), prefix.keys.shape[1]
        key = torch.cat([prefix.keys.to(key.dtype).expand(n_texts, -1, -1, -1), key], dim=2)
        value = torch.cat([prefix.values.to(value.dtype).expand(n_texts, -1, -1, -1), value], dim=2)
        attention_mask = _widened(attention_mask, query, key, n_tokens, prefix.strength)
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = nn.functional.pad(kwargs["position_bias"], (n_tokens, 0))
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output


def _widened(mask: Tensor | None, query: Tensor, key: Tensor, n_tokens: int, strength: float) -> Tensor | None:
    """Return the mask with `n_tokens` columns more on the left, in which a strength s adds log(s) to the logits."""
    if mask is None:
        if strength == 1:
            return None
        mask = torch.ones(1, 1, query.shape[2], key.shape[2] - n_tokens, dtype=torch.bool, device=key.device)
    if strength == 1:
        return nn.functional.pad(mask, (n_tokens, 0), value=True if mask.dtype == torch.bool else 0.0)
    if mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill(~mask, lowest)
    return nn.functional.pad(mask, (n_tokens, 0), value=math.log(strength))
