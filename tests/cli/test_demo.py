"""The demo, whole: slow, as it takes the better part of a minute."""

import re

import pytest
from typer.testing import CliRunner

from llm_tail.cli import app
from llm_tail.cli.demo import write_books
from llm_tail.workspace import Workspace


def test_the_demo_writes_its_books_and_a_config_that_reads_back(tmp_path):
    workspace = Workspace.open(write_books(tmp_path))
    assert len(workspace.catalog) == 500 and len(workspace.interactions.users) == 1200
    assert (tmp_path / "readings-simulated.parquet").is_file()
    assert workspace.config.graph.relations == ["author", "series", "subjects"]
    assert "finetune" in Workspace.open(write_books(tmp_path, lora=True)).stages


@pytest.mark.slow
def test_the_demo_shows_five_cold_books_and_says_that_readers_are_simulated(tmp_path):
    done = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("lent by its semantic neighbours") == 5
    assert done.stdout.count("own past 0%") == 5
    assert done.stdout.count("(simulated) who read") == 15
    assert len(re.findall(r"^│ (?:hybrid|popularity|ease)", done.stdout, re.MULTILINE)) == 3
    assert max(map(len, done.stdout.splitlines())) <= 100
    again = CliRunner().invoke(app, ["demo", "--folder", str(tmp_path)])
    assert "nothing to do" in again.stderr
