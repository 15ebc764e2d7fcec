"""The verbs: what they print, where, and how they end."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from llm_tail.cli import app
from llm_tail.cli.common import read_ids, split_ids
from llm_tail.config import RunConfig
from tests import shop


@pytest.fixture
def call():
    runner = CliRunner()

    def call(*words, code=0):
        done = runner.invoke(app, [str(word) for word in words])
        assert done.exit_code == code, f"{done.exit_code}: {done.stdout}\n{done.stderr}\n{done.exception!r}"
        return done

    return call


VERBS = [
    *("demo", "run", "config", "audit", "pretrain", "finetune", "embed", "index", "graph", "fit", "evaluate"),
    *("adapters", "compare", "export"),
    *("similar", "related", "recommend", "explain", "explore"),
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(call, verb):
    text = call(verb, "--help").stdout
    assert "Usage" in text
    if verb not in ("demo",):
        assert "--set" in text


def test_help_lists_every_verb_and_the_settings_of_a_stage(call):
    text = call("--help").stdout
    assert all(verb in text for verb in VERBS)
    assert "Layers to adapt" in call("finetune", "--help").stdout


# ---- running


def test_run_prints_the_table_of_stages_to_stdout_and_progress_to_stderr(call, finished_shop):
    done = call("run", finished_shop)
    assert "What it cost" in done.stdout and "hybrid" in done.stdout and "R@5" in done.stdout
    assert "nothing to do" in done.stderr and "What it cost" not in done.stderr


def test_run_as_json(call, finished_shop):
    results = json.loads(call("run", finished_shop, "--json").stdout)
    assert [entry["name"] for entry in results] == ["audit", "embed", "index", "graph", "fit", "evaluate"]
    assert {entry["state"] for entry in results} == {"skipped"}
    assert all(entry["seconds"] >= 0 and entry["peak_mb"] > 0 for entry in results)


@pytest.mark.parametrize("verb", ["audit", "embed", "index", "graph", "fit", "evaluate"])
def test_single_stages(call, finished_shop, verb):
    done = call(verb, finished_shop)
    assert done.stdout.strip() and "finished before" in done.stderr
    assert isinstance(json.loads(call(verb, finished_shop, "--json").stdout), dict)


def test_a_setting_can_be_overridden_on_any_verb(call, shop_copy):
    assert "recommender" in call("fit", shop_copy, "--set", "hybrid.neighbors=3").stdout.lower()
    done = call("recommend", shop_copy, "u01", code=1)
    assert "run: llm-tail fit" in done.stderr


def test_an_audit_with_errors_is_a_failure(call, tmp_path):
    frame = shop.events().assign(item_id=lambda f: "x" + f["item_id"])
    done = call("audit", shop.write(tmp_path, event_frame=frame), code=1)
    assert "error" in done.stdout
    assert "error" in call("run", tmp_path / "shop.toml", code=1).stderr


# ---- asking


def test_similar(call, finished_shop):
    assert "kitchen" in call("similar", finished_shop, "k0", "-k", 3).stdout
    done = call("similar", finished_shop, "the night sky", "-k", 2, "--json")
    found = json.loads(done.stdout)
    assert len(found) == 2 and set(found[0]) == {"item_id", "title", "similarity", "vector_rank", "word_rank"}
    assert "searched for it as a text" in done.stderr
    near = json.loads(call("similar", finished_shop, "k0", "--json").stdout)
    assert set(near[0]) == {"item_id", "title", "similarity"}


def test_similar_by_words_and_only_what_passes(call, finished_shop):
    found = json.loads(call("similar", finished_shop, "frying pan", "--how", "words", "--json").stdout)
    assert set(found[0]) == {"item_id", "title", "bm25"} and "pan" in json.dumps(found).lower()
    some = json.loads(call("similar", finished_shop, "k0", "-k", 5, "--where", "segment = cold", "--json").stdout)
    assert all(line["item_id"] in call("similar", finished_shop, "k0", "-k", 50).stdout for line in some)
    assert "vector rank" in call("similar", finished_shop, "the night sky").stdout
    assert "no such column" in call("similar", finished_shop, "k0", "--where", "colour = red", code=1).stderr
    assert "none of: vectors" in call("similar", finished_shop, "k0", "--how", "guess", code=2).stderr
    assert "nothing that passes" in call("similar", finished_shop, "k0", "--where", "title = nothing").stderr


def test_similar_by_id_loads_no_torch(finished_shop):
    code = (
        "import sys\nfrom llm_tail.cli import app\n"
        f"try:\n app(['similar', {str(finished_shop)!r}, 'k0'])\nexcept SystemExit:\n pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "kitchen" in done.stdout and done.stderr.strip().endswith("False")


def test_similar_names_close_ids_and_says_why_nothing_is_near(call, finished_shop, tmp_path):
    assert "(the closest are: k0" in call("similar", finished_shop, "kk0").stderr
    frame = shop.items()
    frame.loc[frame["item_id"] == "k0", ["title", "description"]] = ""
    config = shop.write(tmp_path, item_frame=frame)
    call("run", config, "--until", "index")
    assert "'k0' has no text" in call("similar", config, "k0").stderr


def test_related(call, finished_shop):
    assert "category" in call("related", finished_shop, "k0").stdout
    found = json.loads(call("related", finished_shop, "k0", "--hops", 2, "-k", 4, "--json").stdout)
    assert len(found) == 4 and {"item_id", "title", "relations", "weight", "hops", "via"} == set(found[0])
    assert "did you mean 'brand'" in call("related", finished_shop, "k0", "--relation", "brnd", code=1).stderr


def test_recommend_to_people_and_histories(call, finished_shop):
    assert "For u01" in call("recommend", finished_shop, "u01", "u02", "-k", 3).stdout
    found = json.loads(call("recommend", finished_shop, "--history", "k0, k1", "-k", 3, "--json").stdout)
    assert found[0]["user_id"] is None and [item["rank"] for item in found[0]["items"]] == [1, 2, 3]
    assert not {"k0", "k1"} & {item["item_id"] for item in found[0]["items"]}


def test_recommend_by_files(call, finished_shop, tmp_path):
    users, items, out = tmp_path / "people.txt", tmp_path / "items.txt", tmp_path / "deep" / "recs.parquet"
    users.write_text("u01\n\nnobody\nu01\nu02\n", encoding="utf-8")
    items.write_text("\ufeffk0\nk1\nk2\nm0\na0\ng0\n", encoding="utf-8")
    done = call(
        *("recommend", finished_shop, "--users", users, "--candidates", items, "-k", 2, "--out", out),
        *("--model", "popularity"),
    )
    frame = pd.read_parquet(out)
    assert list(frame.columns) == ["user_id", "item_id", "rank", "score"]
    assert list(frame["user_id"].unique()) == ["u01", "nobody", "u02"] and frame["rank"].min() == 1
    assert set(frame["item_id"]) <= {"k0", "k1", "k2", "m0", "a0", "g0"}
    assert "1 of 3 people" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("model", ["ease", "content"])
def test_recommend_with_any_model(call, shop_copy, model):
    assert "For u01" in call("recommend", shop_copy, "u01", "--model", model).stdout


def test_recommend_wrongly(call, finished_shop, tmp_path):
    call("recommend", finished_shop, code=2)
    call("recommend", finished_shop, "u01", "--history", "k0", code=2)
    call("recommend", finished_shop, "--history", " , ", code=2)
    call("recommend", finished_shop, "u01", "-k", 0, code=2)
    assert "no user has the id 'uu01'" in call("recommend", finished_shop, "uu01", code=1).stderr
    assert "expected .parquet or .csv" in call("recommend", finished_shop, "u01", "--out", "x.txt", code=1).stderr
    assert "did you mean" in call("recommend", finished_shop, "u01", "--model", "hybird", code=1).stderr
    (tmp_path / "none.txt").write_text("\n", encoding="utf-8")
    assert "holds no ids" in call("recommend", finished_shop, "--users", tmp_path / "none.txt", code=1).stderr
    assert "nowhere.txt" in call("recommend", finished_shop, "--users", tmp_path / "nowhere.txt", code=1).stderr


def test_explain(call, finished_shop):
    assert "signal borrowed from" in call("explain", finished_shop, "k0").stdout
    told = json.loads(call("explain", finished_shop, "k0", "--user", "u01", "--json").stdout)
    assert told["own"] + told["borrowed"] + told["text"] == pytest.approx(told["score"])
    assert json.loads(call("explain", finished_shop, "k0", "--history", "k1,k2", "--json").stdout)["user"] == ""
    call("explain", finished_shop, "k0", "--user", "u01", "--history", "k1", code=2)
    assert "the closest are: k0" in call("explain", finished_shop, "kk0", code=1).stderr


def test_explore_reads_lines_until_they_end(finished_shop):
    done = subprocess.run(
        [sys.executable, "-m", "llm_tail", "explore", str(finished_shop)],
        input="k0\n:related\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Frying pan" in done.stdout and "bye" in done.stdout and done.stderr == ""


def test_explore_speaks_json_and_survives_what_is_no_text(finished_shop):
    command = [sys.executable, "-m", "llm_tail", "explore", str(finished_shop), "--json"]
    asked = b"k0\n\xff\xfe[/] \x00\n\n:related 99\n:why\n"
    done = subprocess.run(command, input=asked, capture_output=True, check=True)
    answers = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [next(key for key in answer if key != "asked") for answer in answers] == [
        *("item", "items", "text", "error", "why")
    ]
    assert done.stderr == b""


# ---- settings and failures


def test_config_prints_toml_that_reads_back(call, finished_shop, tmp_path):
    (tmp_path / "all.toml").write_text(call("config").stdout, encoding="utf-8")
    assert RunConfig.load(tmp_path / "all.toml") == RunConfig().resolved(tmp_path)
    shown = call("config", finished_shop).stdout
    (tmp_path / "shop.toml").write_text(shown, encoding="utf-8")
    assert RunConfig.load(tmp_path / "shop.toml") == RunConfig.load(finished_shop)
    changed = json.loads(call("config", "--set", "hybrid.neighbors=7", "--json").stdout)
    assert changed["hybrid"]["neighbors"] == 7


def test_shipped_configs_are_right(call):
    from llm_tail.cli import config

    folder = next(p for p in config.Path(__file__).parents if (p / "configs").is_dir()) / "configs"
    for path in sorted(folder.glob("*.toml")):
        call("config", path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nowhere.toml"], "no config file"),
        (["run", "{config}", "--set", "hybrid.neighbours=3"], "did you mean 'hybrid.neighbors'"),
        (["run", "{config}", "--set", "neighbors"], "expected table.key=value"),
        (["run", "{config}", "--until", "embd"], "did you mean 'embed'"),
        (["finetune", "{config}"], "lora.enabled=true"),
        (["related", "{config}", "kk0"], "the closest are: k0"),
        (["explain", "{config}", "?"], "no item has the id '?'; the closest are: "),
        (["recommend", "{config}", "--users", "no-such.txt"], "No such file or directory: no-such.txt"),
    ],
)
def test_foreseen_failures_are_one_line_and_exit_1(call, finished_shop, words, message):
    done = call(*(word.format(config=finished_shop) for word in words), code=1)
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_ids_with_commas_and_lists_with_a_header(tmp_path):
    known = {"A/37, blue", "b", "c,d,e", "c,d"}
    assert split_ids("A/37, blue,b, c,d,e ,zzz", known) == ["A/37, blue", "b", "c,d,e", "zzz"]
    assert split_ids("a, b,,c") == ["a", "b", "c"]
    with pytest.raises(typer.BadParameter):
        split_ids(" , ")
    (tmp_path / "users.csv").write_text("user_id\n0001\n0002\n", encoding="utf-8")
    assert read_ids(tmp_path / "users.csv") == ["0001", "0002"]


def test_wrong_usage_is_exit_2(call):
    call("similar", code=2)
    call("no-such-verb", code=2)
    call("run", "--no-such-option", code=2)


def hear_interrupts() -> None:
    """Undo that a shell has programs which it starts in the background ignore interrupts, and all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupt_keeps_what_is_whole_and_the_next_run_resumes(call, tmp_path):
    for attempt in range(8):  # an interrupt that falls into the import of a library may be swallowed by it
        folder = tmp_path / str(attempt)
        folder.mkdir()
        config = shop.write(folder)
        call("audit", config)
        command = [sys.executable, "-m", "llm_tail", "run", str(config), "--until", "index"]
        running = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
        )
        assert "audit     finished before" in running.stderr.readline()  # now it is in the next stage
        time.sleep(attempt / 2)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
        if running.returncode:
            break
    # Ended by the signal is 130 to a shell, too: so Python does where the interrupt fell into an `exec`, as of an
    # import that makes a dataclass, however well it was handled.
    assert running.returncode in (130, -signal.SIGINT), said
    assert "interrupted" in said and "goes on from there" in said and "Traceback" not in said
    again = call("run", config, "--until", "index", "--json")
    states = [entry["state"] for entry in json.loads(again.stdout)]
    assert states[0] == "skipped" and states[-1] == "done"


def test_a_closed_pipe_is_no_failure(finished_shop):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "llm_tail", "similar", str(finished_shop), "k0", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 0 and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
@pytest.mark.parametrize(
    "verb", ["embed", "fit", *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("index", "graph", "evaluate"))]
)
def test_a_disk_that_takes_no_more_is_one_line_and_the_old_result_stays(call, shop_copy, verb):
    import resource

    def small_files():  # what a full disk does, for any file of more than 1,000 bytes
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    changed = {
        "embed": 'text.separator=" - "',
        "index": "index.links=5",
        "graph": "graph.neighbors=3",
        "fit": "hybrid.ridge=7.5",
        "evaluate": "evaluation.n_bootstrap=5",
    }
    command = [sys.executable, "-m", "llm_tail", verb, str(shop_copy), "--set", changed[verb]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=small_files)
    said = done.stderr.splitlines()
    assert done.returncode == 1 and said[-1].startswith("error: File too large"), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    states = [entry["state"] for entry in json.loads(call("run", shop_copy, "--json").stdout)]
    assert set(states) == {"skipped"}


def test_a_full_disk_is_told_with_what_to_do():
    from llm_tail.cli.common import in_words

    said = in_words(OSError(errno.ENOSPC, "No space left on device", "run/x"))
    assert said.startswith("No space left on device: run/x; ") and "make room" in said
    assert in_words(FileNotFoundError(errno.ENOENT, "No such file", "who.txt")) == "No such file: who.txt"
    assert in_words(OSError("odd")) == "odd"
