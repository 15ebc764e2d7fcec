"""The benchmark: the same cuts and budget for all, nothing done twice, nobody stopped by another's failure."""

import json
import os
import subprocess
import sys
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

import llm_tail
from llm_tail.data.books import load_books
from llm_tail.errors import ConfigError, DataError, MissingExtraError
from llm_tail.evaluation.evaluate import evaluate
from llm_tail.recommenders.baselines import Ease, ItemKnn, Popularity
from llm_tail.workspace import Workspace, contest
from llm_tail.workspace.bench import SUFFIX, bench, save_table, table_of
from llm_tail.workspace.child import FailedError, run_child
from llm_tail.workspace.contestants import CONTESTANTS, Contestant, chosen

pytest.importorskip("optuna", reason="optuna is missing; pip install 'llm-tail[search]'")

DATA = Path(os.environ.get("LLM_TAIL_DATA", Path(__file__).parents[3] / "shared" / "data"))
FAST = ["popularity", "ease", "item-knn"]
N = "ndcg@20"


def write(folder, extra="", models=FAST, trials=4, seeds=(0, 1), isolate=False):
    """Write the shipped books with 150 of their simulated readers, and a config file; return the config file.

    No model there looks at the texts, so that no encoder is needed.
    """
    catalog, events = load_books()
    folder.mkdir(parents=True, exist_ok=True)
    catalog.save(folder / "books.parquet")
    frame = events.to_frame()
    frame[frame["user_id"] < "reader-0150"].to_parquet(folder / "readings.parquet", index=False)
    (folder / "books.toml").write_text(
        f'folder = "run"\n[encoder]\nname = "./none"\n'
        f'[data]\ncatalog = "books.parquet"\ninteractions = "readings.parquet"\n{extra}'
        f"[bench]\nmodels = {json.dumps(list(models))}\ntrials = {trials}\nseeds = {list(seeds)}\n"
        f"n_bootstrap = 50\nisolate = {str(isolate).lower()}\n"
    )
    return folder / "books.toml"


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    config = write(tmp_path_factory.mktemp("books"))
    return config, bench(Workspace.open(config), "books")


class Fits:
    """Counts the fits of EASE; the n-th may be interrupted."""

    def __init__(self, monkeypatch):
        self.made, self.dies_at, fit = [], -1, Ease._fit

        def counted(model, *arguments):
            self.made.append(model.ridge)
            if len(self.made) == self.dies_at:
                raise KeyboardInterrupt
            return fit(model, *arguments)

        monkeypatch.setattr(Ease, "_fit", counted)


@pytest.fixture
def fits(monkeypatch):
    return Fits(monkeypatch)


def figures(done):
    return {(r.model, r.seed): [round(r.mean(s, N), 6) for s in r.rankings] for r in done.results}


def chosen_settings(done):
    return {(r.model, r.seed): r.facts["settings"] for r in done.results}


# ---- what comes out


def test_every_model_is_judged_on_every_cut_as_evaluate_judges(books):
    config, done = books
    assert set(figures(done)) == {(model, seed) for model in FAST for seed in (0, 1)} and done.phase == "test"
    for seed in (0, 1):
        split = Workspace.open(config, [f"seed={seed}"]).split
        known = next(r for r in done.results if (r.model, r.seed) == ("ease", seed))
        report = evaluate([Popularity(), Ease(**known.facts["settings"])], split, 20, n_bootstrap=0)
        for segment in report.segments:
            for result in (r for r in done.results if r.seed == seed and r.model in report.models):
                assert result.mean(segment, N) == pytest.approx(report.value(result.model, segment), abs=1e-6)


def test_settings_are_chosen_on_validation_and_the_defaults_are_among_them(books):
    config, done = books
    for result in done.results:
        if result.model == "popularity":
            assert result.facts["n_trials"] == 0 and result.facts["settings"] == {}
        else:
            assert result.facts["n_trials"] == 4
            assert result.facts["validation"]["best"] >= result.facts["validation"]["defaults"]
    ease = next(r for r in done.results if r.model == "ease")
    split = Workspace.open(config).split
    models = {str(ridge): Ease(ridge) for ridge in (100.0, ease.facts["settings"]["ridge"])}
    report = evaluate(models, split, 20, n_bootstrap=0, phase="validation")
    means = [np.mean([report.value(name, s) for s in report.segments]) for name in models]
    assert means == pytest.approx([ease.facts["validation"][name] for name in ("defaults", "best")])


def test_the_table_is_kept_in_the_run(books, tmp_path):
    table = table_of([books[1]], n_bootstrap=20)
    save_table(table, tmp_path / "bench")
    assert (tmp_path / "bench" / "bench.md").read_text() == table.to_markdown()
    told = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [row["model"] for row in told["rows"]] == FAST and told["seeds"] == [0, 1]
    assert table.versus == (), "there is none of ours here"


def test_a_small_budget_people_and_lists(tmp_path):
    config = write(tmp_path, models=["ease"], trials=0, seeds=())
    done = bench(Workspace.open(config, ["seed=3", "bench.k=5"]))
    (result,) = done.results
    assert result.seed == 3 and result.facts["settings"] == {"ridge": 100.0} and done.name == "run"
    assert "ndcg@5" in result.rankings["warm"].values and not (tmp_path / "run" / "bench" / "trials").exists()


# ---- nothing is done twice


def test_again_is_the_same_and_costs_nothing(books, tmp_path, fits):
    config, done = books
    again = bench(Workspace.open(config), "books")
    assert figures(again) == figures(done) and fits.made == []
    elsewhere = bench(Workspace.open(write(tmp_path)), "books")
    assert chosen_settings(elsewhere) == chosen_settings(done)
    assert figures(elsewhere) == figures(done) and len(fits.made) == 2 * 5


def test_a_bench_that_was_killed_goes_on(books, tmp_path, fits):
    config = write(tmp_path)
    fits.dies_at = 8  # four trials and a fit of the first cut, then in the midst of the second
    with pytest.raises(KeyboardInterrupt):
        bench(Workspace.open(config))
    assert len(fits.made) == 8
    done = bench(Workspace.open(config))
    assert len(fits.made) == 2 * 5 + 1, "the one that was under way is the only one lost"
    assert chosen_settings(done) == chosen_settings(books[1])
    assert figures(done) == figures(books[1])


def test_more_trials_add_to_those_there_are_and_a_new_setting_is_a_new_result(tmp_path, fits):
    config = write(tmp_path, models=["ease"], seeds=[0])
    bench(Workspace.open(config))
    bench(Workspace.open(config, ["bench.trials=6"]))
    assert len(fits.made) == 5 + 3
    bench(Workspace.open(config, ["split.cold_share=0.3"]))
    assert len(fits.made) == 8 + 5, "other data, other trials"


def test_a_damaged_result_is_made_again(tmp_path, fits):
    config = write(tmp_path, models=["ease"], seeds=[0], trials=0)
    bench(Workspace.open(config))
    (file,) = (tmp_path / "run" / "bench" / "results").rglob("people.safetensors")
    file.write_bytes(b"nothing")
    assert len(bench(Workspace.open(config)).results) == 1 and len(fits.made) == 2


# ---- who fails


def test_a_model_that_fails_is_said_and_the_others_go_on(tmp_path, monkeypatch):
    def breaks(*_):
        raise MemoryError("4 TB are not there")

    monkeypatch.setattr(ItemKnn, "_fit", breaks)
    done = bench(Workspace.open(write(tmp_path, seeds=[0])))
    assert {r.model for r in done.results} == {"popularity", "ease"}
    assert done.notes == ["item-knn failed (seed 0): MemoryError: 4 TB are not there"]
    assert "MemoryError" in table_of([done]).to_markdown()
    monkeypatch.undo()
    assert len(bench(Workspace.open(write(tmp_path, seeds=[0], trials=2))).results) == 3, "it is tried again"


def test_settings_that_fail_are_counted(tmp_path, monkeypatch):
    fit = Ease._fit

    def breaks_elsewhere(self, *arguments):
        if self.ridge != 100:
            raise ValueError("singular")
        return fit(self, *arguments)

    monkeypatch.setattr(Ease, "_fit", breaks_elsewhere)
    done = bench(Workspace.open(write(tmp_path, models=["ease"], seeds=[0])))
    assert done.results[0].facts["settings"] == {"ridge": 100.0}
    assert done.notes == ["ease (seed 0): 3 of 4 settings failed, such as by: ValueError: singular"]


def test_what_a_model_warns_of_is_said_once(tmp_path, monkeypatch):
    def warns(*_):
        warnings.warn("the order is a guess", stacklevel=2)

    monkeypatch.setattr(Popularity, "_fit", warns)
    done = bench(Workspace.open(write(tmp_path, models=["popularity"])))
    assert done.notes == ["popularity: the order is a guess"] and len(done.results) == 2


def test_nobody_came_to_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(Ease, "_fit", lambda *_: 1 / 0)
    done = bench(Workspace.open(write(tmp_path, models=["ease"], seeds=[0])))
    with pytest.raises(DataError, match=r"ease failed \(seed 0\): ZeroDivisionError"):
        table_of([done])


# ---- a process of its own


def test_a_model_in_a_process_of_its_own_does_the_same_and_its_memory_is_known(books, tmp_path):
    done = bench(Workspace.open(write(tmp_path, models=["ease"], seeds=[0], isolate=True)))
    assert done.notes == []
    (result,) = done.results
    assert figures(done)["ease", 0] == figures(books[1])["ease", 0]
    assert result.facts["peak_mb"] > 50 and result.facts["fit_seconds"] > 0


def test_settings_that_a_process_dies_of_have_failed_and_another_one_goes_on(tmp_path, monkeypatch):
    workspace = Workspace.open(write(tmp_path, isolate=True))
    job = contest.Job("ease", "ease", workspace.config, "test", tmp_path / "trials.json")
    steps, told = [], []

    def dies(module, folder, step, on_line):
        steps.append(step)
        search = job.tuner()
        if len(steps) == 1:
            search.run(lambda params: 0.5, 2)
            search._write(under_way={"ridge": 7.0})
            raise FailedError("its process was ended by signal 9", died=True)
        search.run(lambda params: 0.4, job.n_trials)

    monkeypatch.setattr(contest, "run_child", dies)
    contest._tune_in_children(job, tmp_path, lambda: told.append(1))
    tried = job.tuner().tried
    assert steps == ["tune", "tune"] and len(tried) == 4 and tried[2].error == "its process was ended by signal 9"

    def refuses(*_):
        raise FailedError("no module named implicit")

    monkeypatch.setattr(contest, "run_child", refuses)
    with pytest.raises(FailedError, match="implicit"):
        contest._tune_in_children(job, tmp_path, lambda: None)


def test_the_last_words_of_a_process(tmp_path):
    with pytest.raises(FailedError, match=r"ended with code 1: .*No module named") as caught:
        run_child("llm_tail.nowhere", tmp_path, "step")
    assert caught.value.died


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    waits = "import time\nfrom llm_tail.workspace.child import end_with_parent\nend_with_parent()\n"
    waits += "print(1, flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.read(1) == b"1"
        child.stdin.close()
        assert child.wait(30) == 1


# ---- what cannot be


def test_models_are_known_by_name_and_those_that_are_missing_are_said(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"no model 'easy'; did you mean 'ease'"):
        chosen(["easy"])
    assert [one.name for one in chosen([])] == list(CONTESTANTS)
    monkeypatch.setitem(CONTESTANTS, "oracle", Contestant("oracle", "Oracle"))
    done = bench(Workspace.open(write(tmp_path, models=["popularity", "oracle"], seeds=[0])))
    assert done.notes == ["not in this version of llm_tail: oracle"]
    with pytest.raises(ConfigError, match="has no Oracle"):
        CONTESTANTS["oracle"].load()


@pytest.mark.parametrize("name", [one.name for one in CONTESTANTS.values() if one.is_there()])
def test_the_defaults_of_every_model_lie_in_its_search_space(name):
    one = CONTESTANTS[name]
    space, defaults = one.search_space(), one.defaults()
    assert one.load().name == name and one.public in llm_tail.__all__
    for setting, limits in space.items():
        if isinstance(limits, tuple):
            low, high, scale = limits
            assert low < high and scale in ("log", "linear", "int") and (scale != "log" or low > 0)
            assert low <= defaults[setting] <= high or (scale == "log" and defaults[setting] == 0)
        else:
            assert defaults[setting] in limits


def test_no_interactions_nothing_held_out_and_no_optuna(tmp_path, monkeypatch):
    config = write(tmp_path)
    with pytest.raises(ConfigError, match=r"\[data\] interactions is not set"):
        bench(Workspace.open(config, ["data.interactions="]))
    with pytest.raises(DataError, match="nothing to judge on"):
        bench(Workspace.open(config, ["split.method=none"]))
    from llm_tail.workspace import tuner

    monkeypatch.setattr(tuner, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"llm-tail\[search\]"):
        bench(Workspace.open(config))
    assert len(bench(Workspace.open(config, ["bench.trials=0", "bench.seeds=[0]"])).results) == 3


def test_a_cut_by_files_without_a_test_part_is_judged_on_validation_and_said_so(tmp_path):
    split = Workspace.open(write(tmp_path / "own")).split
    files = {"train": split.train, "valid": split.validation, "test": split.test}
    for name, part in files.items():
        path = tmp_path / "own" / f"{name}.parquet"
        part.to_frame().to_parquet(path, index=False)
    config = write(tmp_path / "own", extra='validation = "valid.parquet"\n', models=["popularity"])
    config.write_text(config.read_text().replace("readings.parquet", "train.parquet"))
    done = bench(Workspace.open(config))
    assert done.phase == "validation" and any("optimistic" in note for note in done.notes)
    assert any("the cut is the same for every seed" in note for note in done.notes)
    given = Workspace.open(config).split
    report = evaluate([Popularity()], given, 20, n_bootstrap=0, phase="validation")
    assert figures(done)["popularity", 0][0] == pytest.approx(report.value("popularity", "warm"), abs=1e-6)
    config.write_text(config.read_text().replace('validation = "valid', 'test = "test'))
    tested = bench(Workspace.open(config, ["bench.models=['ease']", "bench.seeds=[0]"]))
    assert tested.phase == "test" and tested.results[0].facts["n_trials"] == 4, "tuned on a cut of training"


# ---- with vectors


def test_models_that_use_text_run_with_the_runs_own_encoder_too(shop_copy):
    more = ["lora.enabled=true", "lora.n_pairs=32", "lora.batch_size=16", "lora.validations=1", "lora.rank=2"]
    more += ["lora.strengths=[1.0]", "encoder.precision=fp32", "bench.isolate=false", "bench.trials=0"]
    more += ["bench.models=['hybrid', 'content', 'ease']", "bench.n_bootstrap=20"]
    done = bench(Workspace.open(shop_copy, more))
    assert done.groups == {
        "hybrid": "ours",
        "content": "peer",
        "ease": "peer",
        f"hybrid{SUFFIX}": "ours",
        f"content{SUFFIX}": "tuned",
    }
    assert {r.model for r in done.results} == set(done.groups)
    table = table_of([done], n_bootstrap=10)
    assert {one.ours for one in table.versus} == {"hybrid", f"hybrid{SUFFIX}"}
    assert not {one.peer for one in table.versus} & {f"content{SUFFIX}"}


def test_vectors_of_the_frozen_encoder_are_lent_to_other_cuts(shop_copy):
    more = ["bench.isolate=false", "bench.trials=2", "bench.models=['content', 'hybrid']", "bench.seeds=[0, 1]"]
    workspace = Workspace.open(shop_copy, more)
    done = bench(workspace)
    assert len(done.results) == 4 and done.notes == []
    other = workspace.folder / "bench" / "runs" / "frozen-1"
    note = json.loads((other / "run.json").read_text())["stages"]["embed"]["note"]
    assert "0 texts encoded, 28 reused" in note


# ---- beside the outside judge


@pytest.mark.skipif(not (DATA / "movielens-small").is_dir(), reason=f"movielens-small is not under {DATA}")
def test_figures_are_those_of_the_outside_judge(tmp_path):
    script = DATA.parent / "benchmark" / "protocol.py"
    if not script.is_file():
        pytest.skip("the judge is not there")
    spec = spec_from_file_location("protocol", script)
    protocol = module_from_spec(spec)
    sys.modules["protocol"] = protocol
    spec.loader.exec_module(protocol)
    split = protocol.Split("movielens-small", 1)
    popular = np.asarray(split.train.sum(axis=0)).ravel()
    expected = protocol.table(split, lambda users: np.tile(popular, (len(users), 1)))
    config = tmp_path / "ml.toml"
    home = DATA / "movielens-small"
    config.write_text(
        f'[encoder]\nname = "./none"\n[data]\ncatalog = "{home}/items.parquet"\n'
        f'interactions = "{home}/interactions.parquet"\n'
        'positive = 4.0\nmin_user_events = 5\n[bench]\nmodels = ["popularity"]\nseeds = [1]\nisolate = false\n'
    )
    (result,) = bench(Workspace.open(config)).results
    for segment in ("warm", "tail", "overall"):  # equal scores go by row here and by chance there; cold has most
        assert result.mean(segment, "recall@20") == pytest.approx(expected[segment][0], abs=0.004)
        assert result.mean(segment, N) == pytest.approx(expected[segment][1], abs=0.004)
