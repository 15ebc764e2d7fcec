"""How an encoder travels to another process or machine: as files and a recipe, never as a pickle."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llm_tail.artifacts import write_json
from llm_tail.config import EncoderConfig
from llm_tail.embedding.engine import TextEncoder
from llm_tail.errors import ConfigError, LlmTailError, WorkerError

if TYPE_CHECKING:
    from llm_tail.embedding.encoder import Encoder

RECIPE = "recipe.json"
_LEFT_BEHIND = shutil.ignore_patterns("onnx", "openvino", "*.bin", "*.h5", "*.msgpack", "*.ot", "*.pt", ".git*")


def pack(encoder: TextEncoder, folder: Path, *, here: bool) -> Path:
    """Write what is needed to make the same encoder in another process, and return its folder.

    Parameters
    ----------
    encoder : TextEncoder
        An `Encoder` (its base and its adapter travel apart, so that no digit changes), a runtime with `save`, or any
        other one whose class can be imported and has ``save(folder)`` and ``load(folder)``.
    folder : Path
        Where to, such as a temporary one.
    here : bool
        Whether it is opened on this machine: the files of the base then stay where they are.

    Raises
    ------
    ConfigError
        If the encoder can be saved in none of these ways.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind, name = type(encoder), getattr(encoder, "runtime", "")
    recipe: dict[str, Any]
    if name == "torch":
        recipe = _pack_model(cast("Encoder", encoder), folder, here=here)
    elif not hasattr(encoder, "save") or not (name or hasattr(kind, "load")) or "<locals>" in kind.__qualname__:
        raise ConfigError(
            f"{kind.__name__} cannot travel to another process: it needs save(folder) and load(folder), at the top of "
            "a module; or set [embedding] engine = 'local'"
        )
    else:
        encoder.save(folder / "encoder")
        recipe = {"class": "" if name else f"{kind.__module__}:{kind.__qualname__}", "fingerprint": encoder.fingerprint}
    write_json(folder / RECIPE, recipe)
    return folder


def _pack_model(encoder: Encoder, folder: Path, *, here: bool) -> dict[str, Any]:
    source = _source(encoder)
    if source is None:  # it was made in this process, and its weights lie in no file
        encoder = encoder.merge()
    name = Path(encoder.config.name).name or "model"  # prompts and pooling go by the last part of it
    if source is None:
        encoder.save(folder / "model" / name)
    elif not here:
        shutil.copytree(source, folder / "model" / name, ignore=_LEFT_BEHIND)
    if encoder.adapter is not None:
        encoder.save_adapter(folder / "adapter")
    return {
        "config": encoder.config.model_dump(),
        "model": encoder.config.name if source is not None and here else f"model/{name}",
        "moved": source is None or not here,
        "adapter": encoder.adapter is not None,
        "base_weights": encoder.base_weights,
        "fingerprint": encoder.fingerprint,
    }


def _source(encoder: Encoder) -> Path | None:
    """Return the folder that holds the very weights of the encoder's base, or None where none does."""
    from llm_tail.embedding.sources import locate, weights_digest

    try:
        folder = locate(encoder.config.name, trust_remote_code=encoder.config.trust_remote_code)
    except LlmTailError:
        return None
    return folder if weights_digest(folder) == encoder.base_weights else None


def unpack(folder: Path, device: str = "cpu") -> TextEncoder:
    """Make the encoder that `pack` has written.

    Parameters
    ----------
    folder : Path
        What `pack` returned, or a copy of it.
    device : str
        Where a torch model runs; "cuda" is the first GPU that the process sees.

    Raises
    ------
    WorkerError
        If what comes out is another encoder, as with other versions of the libraries.
    """
    recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    encoder: TextEncoder
    if "model" in recipe:
        from llm_tail.embedding.encoder import Encoder

        name = str(folder / recipe["model"]) if recipe["moved"] else recipe["model"]
        config = EncoderConfig(**recipe["config"]).replace(device=device)
        model = Encoder.load(name, config, adapter=folder / "adapter" if recipe["adapter"] else None)
        model.base_weights = recipe["base_weights"]  # files that were saved anew are others, their weights the same
        encoder = model
    elif recipe["class"]:
        module, _, name = recipe["class"].partition(":")
        encoder = getattr(importlib.import_module(module), name).load(folder / "encoder")
    else:
        from llm_tail.embedding.runtimes import open_runtime

        encoder = open_runtime(folder / "encoder")
    if encoder.fingerprint != recipe["fingerprint"]:
        raise WorkerError(
            f"a worker made another encoder (fingerprint {encoder.fingerprint}) than it was sent "
            f"({recipe['fingerprint']}); install the same versions of llm-tail and its libraries on all machines"
        )
    return encoder
