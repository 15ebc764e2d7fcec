"""The notebooks run from top to bottom, and what is stored in them is what a run leaves behind."""

import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
TIMEOUT = 180  # seconds for a cell
SLOW = {"02_finetune", "05_enrichment"}  # these train or go over the books many times: half a minute and more
each_run = pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else [], id=path.stem) for path in NOTEBOOKS],
)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is missing; pip install 'llm-tail[notebooks]'")
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def troubles(notebook):
    """Return what went wrong or was said on stderr, where progress bars and warnings go."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [
        output.get("text") or f"{output.ename}: {output.evalue}"
        for output in outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def shown(notebook):
    """Return all text that a reader of the outputs sees."""
    texts = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            texts.append(output.get("text", ""))
            texts += [str(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


def test_there_is_a_notebook():
    assert NOTEBOOKS


@each_notebook
def test_stored_outputs_are_whole_and_clean(path):
    notebook = read(path)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)], "run it once, from top to bottom"
    assert any(cell.outputs for cell in cells), "run it and store its outputs"
    assert not troubles(notebook)
    pictures = [kind for cell in cells for output in cell.outputs for kind in output.get("data", {})]
    assert pictures.count("image/png") >= sum("plt.show()" in cell.source for cell in cells)


@each_run
def test_simulated_readers_are_called_so(path):
    notebook = read(path)
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    if any("load_books" in cell.source for cell in code_cells(notebook)):
        assert "**The readers are simulated**" in words


# Older releases of jupyter_core say so when they are imported.
@pytest.mark.filterwarnings("ignore:Jupyter is migrating its paths:DeprecationWarning")
@pytest.mark.timeout(2 * TIMEOUT)
@each_run
def test_it_runs(path, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is missing; pip install 'llm-tail[notebooks]'")
    pytest.importorskip("ipykernel", reason="ipykernel is missing; pip install 'llm-tail[notebooks]'")
    notebook = read(path)
    stored = [bool(cell.outputs) for cell in code_cells(notebook)]
    # The kernel picks its own place for figures, so that they come back as outputs.
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment)
    assert not troubles(notebook)
    assert [bool(cell.outputs) for cell in code_cells(notebook)] == stored
    assert str(tmp_path) not in shown(notebook)
    assert not list(tmp_path.iterdir()), "a notebook that is read leaves nothing behind"
