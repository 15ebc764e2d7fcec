"""What the imports say: floors, owners of heavy libraries, a face that loads nothing; and sizes that feel at home."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import llm_tail

PACKAGE = Path(llm_tail.__file__).parent

# From the top down: a module imports from its own floor and from those below it.
FLOORS = [
    {"cli", "__main__"},
    {"explore", "prompt", "comparing", "show", "plots", "service"},
    {"workspace"},
    {"evaluation"},
    {"recommenders"},
    {"neighbors"},
    {"embedding", "enrichment"},
    {"data", "progress", "html", "threads"},
    {"config", "artifacts"},
    {"errors"},
]
OWNERS = {
    "torch": {
        "embedding",
        "enrichment/transformers.py",
        "recommenders/attention.py",
        "recommenders/learning.py",
        "recommenders/hybrid.py",
        "recommenders/loop.py",
        "recommenders/nets.py",
        "recommenders/coldnets.py",
        "recommenders/transformer.py",
        "recommenders/coldstart.py",
        "recommenders/sequence.py",
        "recommenders/graphs.py",
        "recommenders/graph_learning.py",
    },
    "transformers": {"embedding", "enrichment/transformers.py"},
    "openai": {"enrichment/openai.py"},
    "jinja2": {"enrichment/prompts.py"},
    "sentence_transformers": {"embedding"},
    "peft": {"embedding"},
    "hnswlib": {"neighbors/hnsw.py", "neighbors/products.py"},
    "faiss": {"neighbors/with_faiss.py"},
    "usearch": {"neighbors/with_usearch.py"},
    "bm25s": {"neighbors/words.py"},
    "ray": {"embedding/distributed.py"},
    "networkx": {"neighbors/graph.py", "neighbors/exchange.py", "neighbors/communities.py"},
    "sknetwork": {"neighbors/communities.py"},
    "openTSNE": {"neighbors/layout.py"},
    "openvino": {"embedding/openvino.py"},
    "nncf": {"embedding/openvino.py"},
    "sklearn": {
        "embedding/tfidf.py",
        "enrichment/keyphrases.py",
        "enrichment/taxonomy.py",
        "neighbors/communities.py",
        "neighbors/layout.py",
        "recommenders",
    },
    "implicit": {"recommenders"},
    "optuna": {"workspace/search.py", "workspace/tuner.py"},
    "matplotlib": {"plots.py", "neighbors/drawing.py"},
    "typer": {"cli"},
    "fastapi": {"service", "cli/serve.py"},
    "starlette": {"service"},
    "prometheus_client": {"service"},
    "uvicorn": {"cli/serve.py"},
    "orjson": {"service"},
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def relative(path):
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def imports(path, *, at_top=False):
    """Return the dotted names that a module imports; TYPE_CHECKING blocks import nothing when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= {id(inner) for inner in ast.walk(node)}
        if at_top and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            skipped |= {id(inner) for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return tuple(found)


def floor_of(name):
    return next((number for number, rooms in enumerate(FLOORS) if name in rooms), None)


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_imports_run_downward(path):
    room = relative(path).split("/")[0].removesuffix(".py")
    if room == "__init__":
        return  # the face of the package names all rooms and loads none
    here = floor_of(room)
    assert here is not None, f"{room} is on no floor; say in FLOORS where it belongs"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "llm_tail" and len(parts) > 1:
            there = floor_of(parts[1])
            assert there is not None and there >= here, f"{relative(path)} imports {name}, which lies above it"


def test_evaluation_knows_recommenders_by_their_contract_only():
    for path in (PACKAGE / "evaluation").glob("*.py"):
        known = {name for name in imports(path) if name.startswith("llm_tail.recommenders")}
        assert known <= {"llm_tail.recommenders.base"}, relative(path)


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_have_owners(library):
    for path in modules():
        if any(name.split(".")[0] == library for name in imports(path)):
            owned = any(relative(path) == owner or relative(path).startswith(f"{owner}/") for owner in OWNERS[library])
            assert owned, f"{relative(path)} imports {library}, which belongs to {OWNERS[library]}"


def loaded_by(statement):
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "transformers", "sentence_transformers", "sklearn", "implicit", "networkx", "hnswlib", "ray"}


def test_the_face_is_lazy():
    assert not loaded_by("import llm_tail") & (HEAVY | {"pandas", "numpy", "pyarrow", "pydantic", "scipy", "rich"})


def test_the_command_line_starts_fast():
    assert not loaded_by("import llm_tail.cli") & (HEAVY | {"pandas", "pyarrow", "scipy"})


def test_neighbours_need_no_torch():
    statement = "from llm_tail.neighbors.index import NeighborIndex\nfrom llm_tail.neighbors.graph import ItemGraph"
    assert not loaded_by(statement) & {"torch", "transformers", "sentence_transformers", "networkx"}


@pytest.mark.parametrize("name", llm_tail.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(llm_tail, name)
    assert value.__doc__ and value.__module__.startswith("llm_tail")
    assert name in dir(llm_tail)


def test_a_wrong_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Katalog"):
        _ = llm_tail.Katalog


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_rooms_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 450, f"{relative(path)} has outgrown itself"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            start = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            length = (node.end_lineno or 0) - start.lineno + 1
            assert length <= 60, f"{relative(path)}: {node.name} runs over {length} lines"


def test_nothing_prints_and_nothing_pickles():
    for path in modules():
        names = set(imports(path))
        assert not names & {"pickle", "dill", "joblib", "shelve"}, relative(path)
