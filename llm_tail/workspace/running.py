"""How a run's encoder is run: made once by the embed stage, kept beside the embeddings, opened again for queries.

::

    runtime/
    ├── choice.json     what `auto` measured and took
    └── ...             the converted or learned encoder (none for torch)

It follows from the encoder, the text template and the settings, not from the catalogue: a changed item is one text to
encode, not a new space for all. Remove the folder to measure and learn anew from the catalogue as it is now.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_tail.artifacts import fingerprint, write_json
from llm_tail.errors import CorruptArtifactError, StaleArtifactError

if TYPE_CHECKING:
    from llm_tail.config import EncoderConfig
    from llm_tail.embedding.choosing import RuntimeChoice
    from llm_tail.embedding.runtimes import Runtime
    from llm_tail.workspace import Workspace

FOLDER = "runtime"
CHOICE = "choice.json"
_MEASURING = {"min_cosine", "min_cosine_int8", "measured_texts"}


def training_settings(config: EncoderConfig) -> dict[str, Any]:
    """Return the settings that an encoder depends on; what runs it afterwards is no matter of training."""
    # Where it runs and how large its batches are moves no vector by more than rounding does.
    settings = config.model_dump(exclude={"name", "device", "trust_remote_code", "runtime", *_MEASURING})
    if settings["precision"] == "int8":
        settings["precision"] = "auto"  # what torch does then
    return settings


def running_settings(config: EncoderConfig) -> list[Any]:
    """Return the settings that the runtime depends on; none for torch, which is the encoder itself."""
    if config.runtime == "torch":
        return []
    if config.runtime == "auto":
        return [config.runtime, config.precision, config.model_dump(include=_MEASURING)]
    return [config.runtime, config.precision]


def make_runtime(workspace: Workspace) -> tuple[Runtime, str]:
    """Return what the embed stage encodes with, made unless it is there already, and a word on how it was chosen."""
    from llm_tail.embedding.runtimes import load_runtime

    config, encoder = workspace.config.encoder, workspace.encoder
    if config.runtime == "torch":
        return encoder, ""
    key, folder = _key(workspace), workspace.folder / FOLDER
    try:
        return _opened(workspace, key), _why(folder, config)
    except (StaleArtifactError, CorruptArtifactError):
        pass  # not there, made from something else, or damaged: it is made anew
    texts = workspace.item_text.texts(workspace.catalog)
    folder.mkdir(parents=True, exist_ok=True)
    if config.runtime == "auto":
        from llm_tail.embedding.choosing import choose_runtime

        choice = choose_runtime(
            encoder,
            texts,
            precision=config.precision,
            n_texts=config.measured_texts,
            min_cosine=config.min_cosine,
            min_cosine_int8=config.min_cosine_int8,
            batch_tokens=workspace.config.embedding.batch_tokens,
        )
        runtime = encoder if choice.runtime is None else choice.runtime
    else:
        choice = None
        runtime = load_runtime(encoder, config.runtime, texts, precision=config.precision)
    if save := getattr(runtime, "save", None) if runtime.runtime != "torch" else None:
        save(folder, key)
    if choice is not None:  # last: what it names is there
        write_json(folder / CHOICE, {"made_from": key, **choice.to_dict()})
    return runtime, _why(folder, config)


def find_runtime(workspace: Workspace) -> Runtime:
    """Return what the embeddings were made with, so that a query lies in the same space.

    Raises
    ------
    StaleArtifactError
        If the embed stage has not been run with these settings.
    CorruptArtifactError
        If a file is not what was written.
    """
    if workspace.config.encoder.runtime == "torch":
        return workspace.encoder
    return workspace._load("embed", lambda _: _opened(workspace, _key(workspace)))


def read_choice(folder: Path) -> RuntimeChoice | None:
    """Return what `auto` took for a run, by the folder of its runtime; None where it was not asked."""
    from llm_tail.embedding.choosing import RuntimeChoice

    found = _read(folder)
    return None if found is None else RuntimeChoice.from_dict({k: v for k, v in found.items() if k != "made_from"})


def _opened(workspace: Workspace, key: str) -> Runtime:
    from llm_tail.embedding.runtimes import open_runtime

    folder = workspace.folder / FOLDER
    if workspace.config.encoder.runtime == "auto":
        choice = _read(folder)
        if choice is None or choice.get("made_from") != key:
            raise StaleArtifactError(f"no runtime was chosen for this encoder yet at {folder}")
        if choice["taken"] == "torch":
            return workspace.encoder.with_precision(choice["precision"])
    return open_runtime(folder, key)


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / CHOICE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and "taken" in found else None
    except ValueError as error:
        raise CorruptArtifactError(f"{path} cannot be read ({error})", "run: llm-tail embed") from error


def _why(folder: Path, config: EncoderConfig) -> str:
    choice = _read(folder) if config.runtime == "auto" else None
    return "" if choice is None else str(choice["why"])


def _key(workspace: Workspace) -> str:
    config = workspace.config
    if config.lora.enabled:
        words = workspace.fingerprint("finetune")
    else:
        words = workspace.fingerprint("pretrain") if config.pretrain.enabled else workspace.keys.encoder
    return fingerprint("runtime-1", words, *running_settings(config.encoder))
