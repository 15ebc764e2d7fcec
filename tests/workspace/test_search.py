"""The search for settings: it climbs validation, keeps to its budget and goes on where it stopped."""

import json
import tomllib

import pytest
from typer.testing import CliRunner

from llm_tail.cli import app
from llm_tail.config import LoraConfig, RunConfig
from llm_tail.errors import ConfigError, DataError, MissingExtraError
from llm_tail.workspace import Workspace, search
from llm_tail.workspace.search import Sweep, Tried, searched, sweep
from tests import shop

optuna = pytest.importorskip("optuna", reason="optuna is missing; pip install 'llm-tail[search]'")

QUICK = ["lora.n_pairs=32", "lora.batch_size=16", "lora.validations=2", "lora.rank=2", "lora.strengths=[0.5, 1.0]"]
QUICK += ["encoder.precision=fp32"]
LORA = LoraConfig(rank=2, alpha=8, n_pairs=32)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    config = shop.write(tmp_path_factory.mktemp("swept"))
    return config, sweep(Workspace.open(config, QUICK), minutes=5, n_trials=2)


def test_the_settings_of_the_run_come_first_and_the_best_stands_on_top(swept):
    config, found = swept
    lora = Workspace.open(config, QUICK).config.lora
    first = next(one for one in found.tried if one.number == 0)
    assert first.settings == {name: getattr(lora, name) for name in searched(lora)}
    assert len(found.tried) + found.n_pruned == 2 and set(found.base) == set(first.ndcg) >= {"warm", "overall"}
    assert [one.mean for one in found.tried] == sorted((one.mean for one in found.tried), reverse=True)
    assert all(one.strength in (0.5, 1.0) and one.seconds > 0 for one in found.tried)
    assert not (config.parent / "run" / "search" / "checkpoints").exists()


def test_it_goes_on_where_it_stopped_and_the_verb_prints_lines_to_paste(swept):
    config, before = swept
    words = [word for setting in QUICK for word in ("--set", setting)]
    call = ["sweep", str(config), *words, "--minutes", "0.0001"]
    done = CliRunner().invoke(app, [*call, "--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and told["base"] == before.base
    assert [one["settings"] for one in told["tried"]] == [one.settings for one in before.tried]
    shown = CliRunner().invoke(app, call)
    assert "trial" in shown.stdout and "base" in shown.stdout
    if told["best"]:
        lines = tomllib.loads(before.to_toml())
        assert RunConfig(**lines).lora.enabled and f"rank = {told['best']['rank']}\n" in shown.stdout
    else:
        assert "none of them ranks better" in shown.stderr


def test_a_trial_that_was_cut_off_is_the_next_one(swept):
    config, before = swept
    workspace = Workspace.open(config, QUICK)
    shared = search._Search(workspace, 0.0)
    study = search._open(workspace, shared)
    waiting = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
    assert len(waiting) == 1, "the call above ended in the midst of one"
    killed = study.ask()
    rank = search.suggested(killed, workspace.config.lora)["rank"]
    again = search._open(workspace, shared)
    (waiting,) = again.get_trials(states=(optuna.trial.TrialState.WAITING,))
    assert waiting.system_attrs["fixed_params"]["rank"] == rank
    assert len(search._result(again).tried) == len(before.tried) and search._result(again).n_failed == 0


def test_what_breaks_is_counted_and_the_search_goes_on(tmp_path, monkeypatch):
    def breaks(*_):
        raise DataError("the loss became nan")

    monkeypatch.setattr(search, "make_pairs", breaks)
    found = sweep(Workspace.open(shop.write(tmp_path), QUICK), minutes=1, n_trials=2)
    assert (found.tried, found.n_failed, found.best, found.to_toml()) == ([], 2, None, "")


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, set()),
        ({"kind": "prefix"}, {"alpha"}),
        ({"kind": "full"}, {"rank", "alpha"}),
        ({"loss": "squared-error"}, {"temperature", "popularity_correction"}),
    ],
)
def test_only_what_means_anything_is_searched(settings, left):
    assert set(search.SEARCHED) - set(searched(LORA.replace(**settings))) == left


def test_settings_stay_in_their_ranges_and_the_scale_of_the_update_stays():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        tried = LORA.replace(**search.suggested(study.ask(), LORA))
        assert tried.alpha / tried.rank == 4 and 1 <= tried.rank <= 8 and 8 <= tried.n_pairs <= 64


def test_the_lines_are_settings_and_nothing_is_best_that_the_base_beats():
    tried = Tried(3, {"rank": 8, "alpha": 16.0}, 0.5, {"warm": 0.3, "cold": 0.5}, 2.0)
    better, worse = (Sweep({"warm": base, "cold": base}, [tried], 0, 0) for base in (0.3, 0.4))
    assert tomllib.loads(better.to_toml()) == {"lora": {"enabled": True, "rank": 8, "alpha": 16.0}}
    assert worse.best is None and worse.to_toml() == ""


def test_a_budget_of_nothing_and_a_missing_library_are_said(swept, monkeypatch):
    workspace = Workspace.open(swept[0], QUICK)
    with pytest.raises(ConfigError, match="more than 0 of both"):
        sweep(workspace, minutes=0)
    monkeypatch.setattr(search, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"llm-tail\[search\]"):
        sweep(workspace)
