"""What of an encoder is tuned: LoRA and its kin, a prefix, the last blocks, or everything.

========== ======================================================= ========= ==========================================
kind       what learns                                             merges    strength s, from the base (0) to tuned (1)
========== ======================================================= ========= ==========================================
lora       W + alpha / rank * B A for each linear layer W          yes       B times s
rslora     the same with alpha / sqrt(rank)                        yes       B times s
dora       direction like lora, length of each row of W by itself  yes       B times s, lengths on the line
ia3        a factor for each key, value and feed-forward feature   yes       1 + (factor - 1) * s
prefix     `rank` keys and values before those of the text         no        a prefix token counts s times
top-layers the weights of the last blocks                          yes       weights on the line
full       all weights                                             yes       weights on the line
========== ======================================================= ========= ==========================================

Sources: E. J. Hu et al., "LoRA", ICLR 2022; D. Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with
LoRA", 2023; S.-Y. Liu et al., "DoRA", ICML 2024; H. Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and
Cheaper than In-Context Learning", NeurIPS 2022 (IA3); T. Dettmers et al., "QLoRA", NeurIPS 2023; prefix: see `prefix`.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from llm_tail.artifacts import fingerprint
from llm_tail.config import LoraConfig
from llm_tail.embedding.families import quiet
from llm_tail.embedding.layers import blocks, ia3_layers, target_layers
from llm_tail.embedding.prefix import add_prefix, prefixes
from llm_tail.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from llm_tail.embedding.encoder import Encoder

LORA_KINDS = ("lora", "rslora", "dora")
WEIGHT_KINDS = ("top-layers", "full")
_WEIGHTS = "tuned.safetensors"
_LEARNED = re.compile(r"\b(lora_|ia3_l|prefix\.)")  # in the names of parameters that were added


@dataclass(frozen=True)
class Tuning:
    """What of an encoder learns or has learned.

    Parameters
    ----------
    kind : str
        One of the kinds of `LoraConfig`.
    n_trainable : int
        Parameters that learn.
    n_base : int
        Parameters of the base.
    base : mapping of str to Tensor
        For top-layers and full: the weights of the base, by name, that have a tuned copy; shared, not copied.
    origin : SentenceTransformer, optional
        The base in full precision, where what is trained stands on a copy of it in 4 bits.
    """

    kind: str
    n_trainable: int
    n_base: int
    base: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    origin: SentenceTransformer | None = field(default=None, repr=False)


def attach(base: Encoder, config: LoraConfig | None = None) -> Encoder:
    """Return an encoder with something to train, which shares all frozen weights with `base`; `base` stays as it is.

    Parameters
    ----------
    base : Encoder
        Without an adapter.
    config : LoraConfig, optional
        ``kind`` says what is tuned, and ``rank``, ``alpha``, ``dropout``, ``target_modules``, ``top_layers`` and
        ``quantize`` what it looks like.

    Returns
    -------
    Encoder
        What learns, and nothing else, has ``requires_grad``; its vectors are those of the base, but for a prefix, which
        moves them a little from the start. Call ``seal_adapter()`` on it once its weights are final.

    Raises
    ------
    ConfigError
        If `base` has an adapter, no layer fits, or the kind does not work for the architecture.
    MissingExtraError
        If ``quantize`` is set and bitsandbytes is missing.

    Notes
    -----
    Random starts are drawn from the global generator of torch. Memory: what learns, and for top-layers and full a copy
    of the weights that do, in fp32. With ``quantize`` (QLoRA) a copy of the linear layers in 4 bits (NF4) comes on top,
    on CUDA, and the base may lie in the memory of the processor (``device = "cpu"``); ``seal_adapter()`` puts what was
    learned onto the base in full precision.

    Examples
    --------
    >>> from llm_tail.embedding.encoder import Encoder
    >>> base = Encoder.load(precision="fp32")
    >>> for kind in ("lora", "ia3", "prefix", "top-layers", "full"):
    ...     tuned = attach(base, LoraConfig(kind=kind, rank=8, top_layers=1))
    ...     print(f"{kind:10} {tuned.n_trainable:10,} {tuned.trainable_share:8.2%}")
    lora          331,776    1.46%
    ia3            13,824    0.06%
    prefix         36,864    0.16%
    top-layers  1,774,464    7.81%
    full       22,713,216  100.00%
    """
    if base.adapter is not None:
        raise ConfigError("this encoder has an adapter already; call merge() first, or start from the base")
    return base.with_adapter(config)


def tuned_copy(model: SentenceTransformer, config: LoraConfig, name: str = "") -> tuple[SentenceTransformer, Tuning]:
    """Return a copy of the model with something to train, and what that is; `name` is put into PEFT's file."""
    base = dict(model.named_parameters())
    n_base = sum(p.numel() for p in base.values())
    own = _weights_of(model, config) if config.kind in WEIGHT_KINDS else []
    tuned = _copied(model, {n: nn.Parameter(base[n].detach().float().clone()) for n in own})
    origin = None
    if config.kind == "prefix":
        _refuse_quantize(config)
        add_prefix(tuned[0].model, config.rank)
    elif config.kind not in WEIGHT_KINDS:
        if config.quantize:
            origin = model
            tuned = _quantized(tuned, config)
        tuned[0].model = _with_peft(tuned[0].model, config, name)
    else:
        _refuse_quantize(config)
    n_trainable = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    return tuned, Tuning(config.kind, n_trainable, n_base, {n: base[n].detach() for n in own}, origin)


def tuned_weights(model: SentenceTransformer, tuning: Tuning) -> dict[str, Tensor]:
    """Return what was learned, by name; for top-layers and full only the weights that differ from the base."""
    named = {n: p.detach() for n, p in model.named_parameters()}
    if tuning.kind in WEIGHT_KINDS:
        return {n: named[n] for n, base in tuning.base.items() if not torch.equal(named[n], base.float())}
    return {n: p for n, p in named.items() if _LEARNED.search(n)}


def digest(model: SentenceTransformer, tuning: Tuning) -> str:
    """Return a digest of everything that the vectors owe to the tuning."""
    weights = tuned_weights(model, tuning)
    arrays = (x for n in sorted(weights) for x in (n, weights[n].float().cpu().numpy()))
    scales = sorted({getattr(m, "scaling", {}).get("default", 1.0) for m in _peft_layers(model)})
    return fingerprint(tuning.kind, scales, _strength(model), *arrays)


def sealed(model: SentenceTransformer, tuning: Tuning) -> tuple[SentenceTransformer, Tuning]:
    """Return the model frozen; what was learned on a base in 4 bits now stands on the one in full precision."""
    if tuning.origin is not None:
        weights = tuned_weights(model, tuning)
        settings = model[0].model.peft_config["default"]
        model = _copied(tuning.origin, {})
        with torch.random.fork_rng():  # what is drawn here is written over
            model[0].model = _peft_model(model[0].model, settings)
        _fill(model, weights)
        tuning = replace(tuning, origin=None)
    return model.eval().requires_grad_(False), tuning


def merged(model: SentenceTransformer, tuning: Tuning) -> SentenceTransformer:
    """Return a copy of the model with what was learned inside its own weights; `ConfigError` for a prefix."""
    if tuning.kind == "prefix":
        raise ConfigError(
            "a prefix is no change of weights and cannot be merged into them, nor saved as a plain folder of "
            "sentence-transformers; keep it with save_adapter(folder), or tune with another [lora] kind than 'prefix'"
        )
    model = copy.deepcopy(model)
    if tuning.kind not in WEIGHT_KINDS:
        with quiet():
            model[0].model = model[0].model.merge_and_unload()
    return model


def scaled(model: SentenceTransformer, tuning: Tuning, strength: float) -> SentenceTransformer:
    """Return a copy between base (0) and tuned model (1), as the table above says; other weights are shared."""
    if not (math.isfinite(strength) and strength >= 0):
        raise ConfigError(f"the strength of an adapter is {strength}, expected a number from 0 (base) to 1 (tuned)")
    weights = tuned_weights(model, tuning)
    if tuning.kind in WEIGHT_KINDS:
        changed = {n: torch.lerp(tuning.base[n].float(), tuned, strength) for n, tuned in weights.items()}
    elif tuning.kind == "ia3":
        changed = {n: 1 + (factor - 1) * strength for n, factor in weights.items()}
    else:
        changed = {n: end * strength for n, end in weights.items() if "lora_B" in n}
    copied = _copied(model, {n: nn.Parameter(w, requires_grad=False) for n, w in changed.items()}, frozen=False)
    for layer in _peft_layers(copied) if tuning.kind == "dora" else []:
        vector = layer.lora_magnitude_vector["default"]
        length = _lengths(layer)
        vector.weight = nn.Parameter(torch.lerp(length, vector.weight.detach(), strength), requires_grad=False)
    for _, prefix in prefixes(copied):
        prefix.strength *= strength
    return copied


def write(model: SentenceTransformer, tuning: Tuning, folder: Path) -> dict[str, Any]:
    """Write what was learned as safetensors and return the facts that `read` needs; LoRA and IA3 in PEFT's own form."""
    from safetensors.torch import save_file

    if tuning.kind in WEIGHT_KINDS or tuning.kind == "prefix":
        weights = tuned_weights(model, tuning)
        save_file({n: w.contiguous() for n, w in weights.items()}, str(folder / _WEIGHTS))
    else:
        with quiet():
            # Looking for resized vocabularies would ask the hub.
            model[0].model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    return {
        "kind": tuning.kind,
        "n_trainable": tuning.n_trainable,
        "trainable_share": tuning.n_trainable / tuning.n_base,
        "strength": _strength(model),
    }


def read(model: SentenceTransformer, folder: Path, facts: Mapping[str, Any]) -> tuple[SentenceTransformer, Tuning]:
    """Return a copy of the base with what `write` wrote, frozen; the base's weights are shared."""
    from safetensors.torch import load_file

    kind = facts.get("kind", "lora")
    base = dict(model.named_parameters())
    n_base = sum(p.numel() for p in base.values())
    weights = load_file(str(folder / _WEIGHTS), device=str(model.device)) if kind in (*WEIGHT_KINDS, "prefix") else {}
    own = {n: base[n].detach() for n in weights} if kind in WEIGHT_KINDS else {}
    tuned = _copied(model, {n: nn.Parameter(weights[n], requires_grad=False) for n in own})
    if kind == "prefix":
        with torch.random.fork_rng(devices=[]):
            add_prefix(tuned[0].model, next(iter(weights.values())).shape[1])
        _fill(tuned, weights)
        for _, prefix in prefixes(tuned):
            prefix.strength = float(facts["strength"])
    elif kind not in WEIGHT_KINDS:
        import peft

        with quiet(), torch.random.fork_rng(devices=[]):  # what is drawn there is written over
            tuned[0].model = peft.PeftModel.from_pretrained(tuned[0].model, str(folder), torch_device=str(model.device))
    n_learned = sum(p.numel() for n, p in tuned.named_parameters() if _LEARNED.search(n))
    return sealed(tuned, Tuning(kind, int(facts.get("n_trainable", n_learned)), n_base, own))


def _weights_of(model: SentenceTransformer, config: LoraConfig) -> list[str]:
    """Return the names of the weights that top-layers or full train."""
    if config.kind == "full":
        return [n for n, _ in model.named_parameters()]
    found = blocks(model[0])
    if len(found) < config.top_layers:
        raise ConfigError(
            f"setting 'lora.top_layers' is {config.top_layers}, and the model has {len(found)} blocks; "
            + ("take fewer, or kind = 'full'" if found else "take kind = 'full'")
        )
    chosen = {id(p) for _, block in found[-config.top_layers :] for p in block.parameters()}
    return [n for n, p in model.named_parameters() if id(p) in chosen]


def _copied(model: SentenceTransformer, own: Mapping[str, nn.Parameter], *, frozen: bool = True) -> SentenceTransformer:
    """Return a copy whose parameters `own` are these and whose others share their memory with those of `model`."""
    memo: dict[int, Any] = {id(b): b for b in model.buffers()}
    for name, weight in model.named_parameters():
        # Parameters of their own over the same memory: what is frozen here may learn there.
        shared = nn.Parameter(weight.detach(), requires_grad=False if frozen else weight.requires_grad)
        memo[id(weight)] = own.get(name, shared)
    return copy.deepcopy(model, memo)


def _fill(model: SentenceTransformer, weights: Mapping[str, Tensor]) -> None:
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            named[name].copy_(weight)


def _with_peft(transformer: nn.Module, config: LoraConfig, name: str) -> Any:
    import peft

    if config.kind == "ia3":
        targets, inner = ia3_layers(transformer, config.target_modules)
        return _peft_model(
            transformer,
            peft.IA3Config(target_modules=targets, feedforward_modules=inner, base_model_name_or_path=name),
        )
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.kind == "rslora",
        use_dora=config.kind == "dora",
        target_modules=target_layers(transformer, config.target_modules),
        base_model_name_or_path=name,
    )
    return _peft_model(transformer, settings)


def _peft_model(transformer: nn.Module, settings: Any) -> Any:
    import peft

    with quiet():
        return peft.get_peft_model(transformer, settings)


def _refuse_quantize(config: LoraConfig) -> None:
    if config.quantize:
        raise ConfigError(
            f"setting 'lora.quantize' is true, which goes with the kinds {', '.join(LORA_KINDS)}, and not with "
            f"{config.kind!r}; set it to false, or change the kind"
        )


def _quantized(model: SentenceTransformer, config: LoraConfig) -> SentenceTransformer:
    """Replace the linear layers of the blocks by 4-bit copies and move all to CUDA; `model` is a copy already."""
    if config.kind == "ia3":
        _refuse_quantize(config)
    if not torch.cuda.is_available():
        raise ConfigError(
            "setting 'lora.quantize' is true and needs a CUDA device, and there is none; set it to false, or run this "
            "on a machine that has one"
        )
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "qlora") from error
    transformer = model[0].model
    for name in target_layers(transformer):
        layer = transformer.get_submodule(name)
        if isinstance(layer, nn.Linear):
            transformer.set_submodule(name, _in_4_bits(layer, bitsandbytes.nn))
    transformer.is_loaded_in_4bit = True  # asked by PEFT
    return model.to("cuda")


def _in_4_bits(layer: nn.Linear, library: Any) -> nn.Module:
    small = library.Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, torch.bfloat16, quant_type="nf4", device="meta"
    )
    small.weight = library.Params4bit(layer.weight.detach(), requires_grad=False, quant_type="nf4", module=small)
    small.bias = layer.bias
    return small  # type: ignore[no-any-return]


def _strength(model: SentenceTransformer) -> float:
    """Return what is remembered beside the weights: how much a prefix counts; 1 where there is none."""
    return next((prefix.strength for _, prefix in prefixes(model)), 1.0)


def _peft_layers(model: SentenceTransformer) -> list[Any]:
    return [m for m in model.modules() if getattr(m, "adapter_layer_names", None) and hasattr(m, "lora_A")]


def _lengths(layer: Any) -> Tensor:
    """Return the length of each row of a frozen matrix, from which DoRA starts."""
    weight = layer.get_base_layer().weight.detach()
    lengths: Tensor = torch.linalg.vector_norm((weight.T if layer.fan_in_fan_out else weight).float(), dim=1)
    return lengths
