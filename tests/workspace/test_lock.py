"""Two runs at once in one folder: the second is told, and nothing of the first is lost."""

import subprocess
import sys

import pytest

from llm_tail.errors import ConfigError
from llm_tail.workspace import Workspace
from llm_tail.workspace.lock import LOCK, alone_in
from tests import shop


def test_a_folder_at_work_is_left_alone(tmp_path):
    config = shop.write(tmp_path)
    workspace = Workspace.open(config)
    with alone_in(workspace.folder):
        with pytest.raises(ConfigError, match=r"another process is at work in .*run; wait .*--set folder"):
            Workspace.open(config).run(until="audit")
        with alone_in(tmp_path / "another"):
            pass
    workspace.run(until="audit")
    with alone_in(workspace.folder):
        assert [result.state for result in Workspace.open(config).run(until="audit")] == ["skipped"]


def test_what_was_killed_holds_nothing(tmp_path):
    code = (
        "import os, pathlib; from llm_tail.workspace.lock import alone_in\n"
        f"with alone_in(pathlib.Path({str(tmp_path)!r})): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / LOCK).is_file()
    with alone_in(tmp_path):
        pass
