"""llm-tail bench: several configs, seeds behind one option, tables, a picture, and what cannot be."""

import json

import pytest
from typer.testing import CliRunner

from llm_tail.cli import app
from tests.workspace.test_bench import write

pytest.importorskip("optuna", reason="optuna is missing; pip install 'llm-tail[search]'")


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return [write(folder / name, trials=2) for name in ("one", "two")]


def call(*words, code=0):
    done = CliRunner().invoke(app, ["bench", *map(str, words)])
    assert done.exit_code == code, done.output
    return done


def test_one_table_each_one_of_means_and_a_picture(configs, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is missing; pip install 'llm-tail[plot]'")
    files = ["--markdown", tmp_path / "new" / "bench.md", "--out", tmp_path / "new" / "bench.png"]
    done = call(*configs, "--seeds", 0, 1, "--models", "popularity, ease", *files)
    assert "one/books: R@20/N@20 on test, seeds 0, 1" in done.stdout
    assert "mean over one/books, two/books" in done.stdout and "\nbest peer " in done.stdout
    text = (tmp_path / "new" / "bench.md").read_text()
    assert text.count("| popularity |") == 3 and text.count("**mean over") == 1
    assert (tmp_path / "new" / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert (configs[0].parent / "run" / "bench" / "bench.md").read_text() in text


def test_as_json_and_nothing_done_twice(configs):
    told = json.loads(call(configs[0], "--json", "--seeds", "0,1", "--models", "popularity,ease").stdout)
    assert [table["data"] for table in told] == [["books"]] and told[0]["seeds"] == [0, 1]
    rows = {row["model"]: row for row in told[0]["rows"]}
    assert list(rows) == ["popularity", "ease"] and rows["ease"]["n_trials"] == 2
    again = json.loads(call(configs[0], "--json", "--seeds", "0,1", "--models", "popularity,ease").stdout)
    assert again == told
    few = json.loads(call(configs[0], "--json", "--trials", 0, "--models", "ease", "--seeds", "1").stdout)
    assert few[0]["rows"][0]["settings"] == [{"ridge": 100.0}] and few[0]["seeds"] == [1]


def test_what_failed_is_said_on_stderr_and_under_the_table(configs, monkeypatch):
    from llm_tail.recommenders.baselines import ItemKnn

    monkeypatch.setattr(ItemKnn, "_fit", lambda *_: 1 / 0)
    done = call(configs[0], "--models", "popularity,item-knn", "--seeds", "5", "--trials", "0")
    assert "item-knn failed (seed 5): ZeroDivisionError" in done.stderr
    assert "popularity               seed 5" in done.stderr and "ndcg@20: warm ." in done.stderr
    assert "item-knn failed (seed 5): ZeroDivisionError" in done.stdout
    assert "no model came to a result" in call(configs[0], "--models", "item-knn", "--seeds", "5", code=1).stderr


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--models", "eaze"], "did you mean 'ease'", 1),
        (["--set", "data.interactions="], "[data] interactions is not set", 1),
        (["--set", "split.method=none"], "nothing to judge on", 1),
        (["--seeds", "one"], "expected whole numbers", 2),
        (["--trials", "-1"], "--trials", 2),
        (["--out", "bench.txt"], "no name of a picture", 1),
    ],
)
def test_what_cannot_be(configs, words, said, code):
    done = call(configs[0], *words, code=code)
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_no_config(tmp_path):
    call("--seeds", 0, 1, code=2)
    assert "there is no config file" in call(tmp_path / "none.toml", code=1).stderr
