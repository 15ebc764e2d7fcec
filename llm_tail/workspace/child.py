"""A step of work in a process of its own: its memory is its own, and if it dies, it dies alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULT, REFUSED, LOG = "result.json", "refused.json", "stderr.txt"


class FailedError(Exception):
    """Work that came to nothing, and why; reported in a table, never raised to the user.

    Parameters
    ----------
    words : str
        Why.
    died : bool
        Whether the process is gone, instead of having said itself what went wrong.
    """

    def __init__(self, words: str, *, died: bool = False) -> None:
        super().__init__(words)
        self.died = died


def run_child(module: str, folder: Path, step: str, on_line: Callable[[str], None] = lambda line: None) -> Any:
    """Run ``python -m module folder step`` and return what it wrote to ``result.json``.

    Parameters
    ----------
    module : str
        Of this package, such as ``llm_tail.workspace.contest``.
    folder : Path
        Where the two write down what they have to say to each other.
    step : str
        What to do.
    on_line : callable
        Told of each line that it prints.

    Raises
    ------
    FailedError
        If it wrote ``refused.json`` instead, or died.
    """
    for name in (RESULT, REFUSED):
        (folder / name).unlink(missing_ok=True)
    package = Path(__file__).resolve().parents[2]
    paths = [str(package), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", module, str(folder), step]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}  # the first is for `end_with_parent` alone
    with (
        (folder / LOG).open("w", encoding="utf-8") as log,
        subprocess.Popen(command, **pipes, stderr=log, text=True, env=environment) as child,  # noqa: S603
    ):
        try:
            assert child.stdout is not None  # noqa: S101  (for the type checker)
            for line in child.stdout:
                on_line(line.strip())
            child.wait()
        finally:
            child.kill()
    if (folder / REFUSED).is_file():
        raise FailedError(str(json.loads((folder / REFUSED).read_text(encoding="utf-8"))))
    if child.returncode or not (folder / RESULT).is_file():
        raise FailedError(last_words(folder / LOG, child.returncode), died=True)
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def end_with_parent() -> None:
    """Let this process end when the one that started it is gone, by `run_child`, however that came about.

    What outlives a killed parent would go on writing beside the next one.
    """

    def wait() -> None:
        while os.read(0, 1):  # not by sys.stdin, whose lock the interpreter wants when it ends
            pass
        os._exit(1)  # the other end is closed

    threading.Thread(target=wait, daemon=True).start()


def last_words(log: Path, code: int) -> str:
    """Return in a line how a process ended: its signal, or the last line it wrote to `log`.

    Examples
    --------
    >>> last_words(Path("no-log"), -9)
    'its process was ended by signal 9, most likely for want of memory'
    """
    if code < 0:
        return f"its process was ended by signal {-code}{', most likely for want of memory' if code == -9 else ''}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"its process ended with code {code}: {lines[-1] if lines else 'it said nothing'}"
