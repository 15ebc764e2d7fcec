"""How an encoder comes from its files into memory: device, precision, pooling, end token."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoConfig

from llm_tail.config import EncoderConfig
from llm_tail.embedding.families import Family, append_eos, is_decoder, quiet
from llm_tail.errors import ConfigError, DataError, LlmTailError

POOLING = {"mean": "mean", "cls": "cls", "last": "lasttoken"}


def read_model(
    folder: Path, settings: EncoderConfig, family: Family, device: torch.device, precision: str
) -> SentenceTransformer:
    """Load the model and give it the pooling and the end token that it was trained with."""
    remote = settings.trust_remote_code
    try:
        with quiet():
            stored = None
            if (folder / "config.json").is_file():
                stored = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=remote)
            keep = precision == "bf16" and getattr(stored, "dtype", None) == torch.bfloat16
            model = SentenceTransformer(
                str(folder),
                device=str(device),
                local_files_only=True,
                trust_remote_code=remote,
                model_kwargs={"use_safetensors": True, "dtype": torch.bfloat16 if keep else torch.float32},
            )
    except LlmTailError:
        raise
    except Exception as error:  # the libraries below raise whatever fits the model at hand
        raise DataError(
            f"the encoder at {folder} cannot be loaded ({type(error).__name__}: {error}); expected a "
            "sentence-transformers or transformers model for texts with its tokenizer and safetensors weights"
        ) from error
    tokenizer = getattr(model, "tokenizer", None)
    if not callable(tokenizer) or not hasattr(model[0], "config"):
        raise ConfigError(f"{settings.name} is no transformer with a tokenizer, but a {type(model[0]).__name__}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _set_pooling(model, settings, family, plain=not (folder / "modules.json").is_file())
    if settings.dim is not None:
        _cut_vectors(model, settings.dim)
    if family.append_eos and is_decoder(model[0].config):
        append_eos(tokenizer)
    return model


def _set_pooling(model: SentenceTransformer, settings: EncoderConfig, family: Family, *, plain: bool) -> None:
    module = pooling_module(model)
    wanted: str | None = None if settings.pooling == "auto" else settings.pooling
    if wanted is None and plain:  # a folder without modules.json does not say it
        wanted = family.pooling or ("last" if is_decoder(model[0].config) else "mean")
    if wanted is None:
        return
    if module is None:
        if settings.pooling != "auto":
            raise ConfigError(f"setting 'encoder.pooling' is {wanted!r}, and {settings.name} pools by itself")
        return
    index = list(model).index(module)
    model[index] = Pooling(module.embedding_dimension, POOLING[wanted])


def _cut_vectors(model: SentenceTransformer, dim: int) -> None:
    """Let the model's vectors end at this width, whatever its files say; what is saved of it says so too."""
    model.truncate_dim = None
    full = int(model.get_embedding_dimension())
    if dim > full:
        raise ConfigError(f"setting 'encoder.dim' is {dim}, and the vectors of this model are {full} wide; take less")
    model.truncate_dim = dim if dim < full else None


def pooling_module(model: SentenceTransformer) -> Any:
    """Return the part that makes one vector of the token states, or None where the model does without."""
    return next((module for module in model if isinstance(module, Pooling)), None)


def find_device(name: str) -> torch.device:
    """Return the device of that name, or the best there is for "auto"; `ConfigError` where it is not to be had."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"setting 'encoder.device' is {name!r}, which is not to be had here: {reason}") from None
    return device


def choose_precision(wanted: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the number format of torch's forward pass: "auto" takes bf16 only where it is fast.

    int8 is a format of the runtime openvino alone; torch then does what it does for "auto".
    """
    if wanted in ("auto", "int8"):
        return "bf16" if has_fast_bf16(device) else "fp32"
    return "bf16" if wanted == "bf16" else "fp32"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bf16 itself; where it does not, bf16 can be a hundred times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    probes = [probe for name in names if (probe := getattr(torch.cpu, name, None)) is not None]
    return any(probe() for probe in probes)


def peak_gpu_mb(device: torch.device) -> float:
    """Return the most memory that torch has held on a CUDA device, in MB (10^6 bytes); 0 for any other device."""
    return round(torch.cuda.max_memory_allocated(device) / 1e6, 1) if device.type == "cuda" else 0.0
