"""Uploading an exported encoder to a model hub: on request only, private unless said otherwise."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from llm_tail.errors import DataError

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_TIMEOUT = 10.0  # seconds; an unreachable hub shall not hold anybody up


def check_hub(name: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the token to upload with, after asking the hub once whether it is there and knows it.

    Parameters
    ----------
    name : str
        Where the model shall go, as ``owner/model`` or ``model``.
    environment : mapping, optional
        Where the token is looked up (``HF_TOKEN``); ``os.environ`` if not given. It is read from nowhere else.

    Raises
    ------
    DataError
        If the name cannot be one, there is no token, or the hub does not answer or refuses it; within about 10 s.
    """
    if not re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*", name):
        raise DataError(f"{name!r} is no name on a hub; expected owner/model in letters, digits, dots and dashes")
    environment = os.environ if environment is None else environment
    token = next((found for key in TOKENS if (found := environment.get(key, "").strip())), "")
    if not token:
        raise DataError(f"there is no token to upload with; set {TOKENS[0]} to one that may write, and push again")
    from huggingface_hub import constants, get_session

    endpoint = constants.ENDPOINT
    try:  # one plain request: the client's own calls try again for most of a minute
        answer = get_session().get(
            f"{endpoint}/api/whoami-v2", headers={"authorization": f"Bearer {token}"}, timeout=_TIMEOUT
        )
    except Exception as error:  # the hub's client raises what its HTTP library raises, which changes by version
        raise DataError(
            f"the hub at {endpoint} cannot be reached ({_reason(error, token)}); check the connection and push again"
        ) from None
    if answer.status_code >= 400:
        raise DataError(f"the hub at {endpoint} refuses the token (status {answer.status_code}); set {TOKENS[0]} anew")
    return token


def push_folder(folder: str | Path, name: str, token: str, *, private: bool = True) -> str:
    """Upload a folder as a model and return its address.

    Parameters
    ----------
    folder : path
        What `Encoder.save` wrote.
    name : str
        As in `check_hub`, which gives the token too.
    token : str
        May write there.
    private : bool
        Only its owner sees it; what exists already stays as visible as it is.

    Raises
    ------
    DataError
        If the hub does not take it; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    token = token.strip()  # a line break at its end would make a header that cannot be sent
    api = HfApi(token=token)
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=str(folder), commit_message="Exported by llm_tail")
    except Exception as error:  # the hub's client raises what its HTTP library raises, which changes by version
        what = _reason(error, token)
        raise DataError(f"the hub did not take {name!r} ({what}); {folder} is whole, push again") from None
    return str(address)


def _reason(error: Exception, token: str) -> str:
    """Return the first line of an error, without the token: messages are kept in logs and shown to others."""
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else "no reason given"
    for secret in filter(None, (token, repr(token)[1:-1])):  # some quote what they could not send
        said = said.replace(secret, "...")
    return f"{type(error).__name__}: {said}"
