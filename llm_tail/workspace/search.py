"""Search: which settings of ``[lora]`` suit this catalogue, within a budget of minutes.

Each trial fine-tunes with other settings and ranks validation by the texts alone, on the way and at the end; what lags
behind on the way is broken off. The test part is never looked at. All trials lie in a journal in the run's folder: the
same search goes on from there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import mean
from typing import TYPE_CHECKING, Any

import tomli_w

from llm_tail.artifacts import fingerprint
from llm_tail.config import LoraConfig
from llm_tail.errors import ConfigError, DataError, MissingExtraError
from llm_tail.progress import Bar
from llm_tail.workspace.training import make_pairs, settings_of, watch_ranking

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import TrialState

    from llm_tail.embedding.encoder import Encoder
    from llm_tail.workspace.workspace import Workspace

SEARCHED = ("rank", "alpha", "learning_rate", "temperature", "balance", "popularity_correction", "n_pairs")
N_STARTUP = 6  # trials drawn at random before the others are learned from
_NO_RANK = ("ia3", "top-layers", "full")


@dataclass(frozen=True)
class Tried:
    """One set of settings and how it ranked.

    Parameters
    ----------
    number : int
        The trial's, from 0, which is the settings of the run as they are.
    settings : dict
        Names of ``[lora]`` to values.
    strength : float
        Which share of the update ranked best, in (0, 1].
    ndcg : dict
        Column (warm, tail, cold, overall) to NDCG@20 of the texts alone, on a sample of validation.
    seconds : float
        What it took.
    """

    number: int
    settings: dict[str, float]
    strength: float
    ndcg: dict[str, float]
    seconds: float

    @property
    def mean(self) -> float:
        """The mean of the columns, which is what the search climbs."""
        return mean(self.ndcg.values())


@dataclass(frozen=True)
class Sweep:
    """All that a search has tried so far.

    Parameters
    ----------
    base : dict
        Column to NDCG@20 of the encoder without fine-tuning.
    tried : list of Tried
        Best first.
    n_pruned : int
        Trials that were broken off because they lagged behind.
    n_failed : int
        Trials that broke, such as by a loss that was no number any more.
    """

    base: dict[str, float]
    tried: list[Tried]
    n_pruned: int
    n_failed: int

    @property
    def base_mean(self) -> float:
        """The mean of the base's columns."""
        return mean(self.base.values())

    @property
    def best(self) -> Tried | None:
        """The trial to take; None where none beats the base."""
        return self.tried[0] if self.tried and self.tried[0].mean > self.base_mean else None

    def to_toml(self) -> str:
        """Return the best settings as lines for a config file; empty where none beats the base."""
        if self.best is None:
            return ""
        return tomli_w.dumps({"lora": {"enabled": True, **self.best.settings}})


def sweep(workspace: Workspace, minutes: float = 30.0, n_trials: int | None = None) -> Sweep:
    """Try settings of ``[lora]`` until the time is over, the better ones more and more often.

    Parameters
    ----------
    workspace : Workspace
        The run; its own settings are the first trial, and all that is not searched stays as they say.
    minutes : float
        When to stop, above 0. The first trial of all is brought to its end; a later one that is under way then is
        dropped at its next validation, and the first to be tried when the search goes on.
    n_trials : int, optional
        Most trials of this call, at least 1.

    Returns
    -------
    Sweep
        With the trials of former calls on the same data and settings.

    Raises
    ------
    ConfigError
        If there is no time or no trial to be made.
    MissingExtraError
        If optuna is not installed.

    Notes
    -----
    Tree-structured Parzen estimator (J. Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011),
    with median pruning. One trial costs one fine-tuning with all its validations.
    """
    if minutes <= 0 or (n_trials is not None and n_trials < 1):
        raise ConfigError(f"minutes = {minutes:g} and n_trials = {n_trials}; expected more than 0 of both")
    if find_spec("optuna") is None:
        raise MissingExtraError("optuna", "search")
    deadline = time.monotonic() + 60 * minutes
    search = _Search(workspace, deadline)
    with _quiet(), Bar("trials", n_trials) as bar:
        study = _open(workspace, search)
        try:
            study.optimize(
                search.run,
                n_trials=n_trials,
                timeout=max(deadline - time.monotonic(), 1.0),
                catch=(DataError,),
                callbacks=[lambda study, _: bar.advance(note=_note(study))],
            )
        except _TimeUp:
            pass
        finally:
            shutil.rmtree(search.folder / "checkpoints", ignore_errors=True)
    return _result(study)


class _TimeUp(Exception):
    """The budget is spent in the midst of a trial."""


class _Search:
    """What all trials share: encoder, split, the measure."""

    def __init__(self, workspace: Workspace, deadline: float) -> None:
        from llm_tail.workspace.adapters import judging_split

        self.workspace, self.deadline = workspace, deadline
        self.folder = workspace.folder / "search"
        self.split = judging_split(workspace)
        config, texts = workspace.config, workspace.item_text.texts(workspace.catalog)
        self.measure = watch_ranking(
            self.split, texts, config.lora.max_tokens, metric=config.lora.watch, seed=config.seed
        )

    def run(self, trial: Trial) -> float:
        """Fine-tune with the settings of one trial and return the mean of the columns at the best strength."""
        from llm_tail.embedding.finetune import finetune

        started = time.perf_counter()
        lora = self.workspace.config.lora.replace(**suggested(trial, self.workspace.config.lora), checkpoints=0)
        try:
            pairs, _ = make_pairs(self.workspace, self.split, lora)
            tuned = finetune(
                self.workspace.base_encoder,
                pairs,
                lora,
                seed=self.workspace.config.seed,
                checkpoints=self.folder / "checkpoints",
                validate=self._watch(trial),
            )
        except DataError as error:
            trial.set_user_attr("error", str(error))
            raise
        columns: dict[float, dict[str, float]] = {
            share: self.measure(tuned.with_strength(share)) for share in lora.strengths
        }
        best = max(columns, key=lambda share: mean(columns[share].values()))
        trial.set_user_attr("settings", {name: getattr(lora, name) for name in searched(lora)})
        trial.set_user_attr("strength", best)
        trial.set_user_attr("ndcg", columns[best])
        trial.set_user_attr("seconds", round(time.perf_counter() - started, 1))
        return float(mean(columns[best].values()))

    def _watch(self, trial: Trial) -> Callable[[Encoder], Mapping[str, float]]:
        from optuna import TrialPruned
        from optuna.trial import TrialState

        seen: list[float] = []

        def validate(encoder: Encoder) -> Mapping[str, float]:
            columns: dict[str, float] = self.measure(encoder)
            seen.append(mean(columns.values()))
            trial.report(max(seen), len(seen))
            if trial.should_prune():
                raise TrialPruned
            if time.monotonic() > self.deadline and _states(trial.study).count(TrialState.COMPLETE):
                trial.study.enqueue_trial(trial.params)
                raise _TimeUp
            return columns

        return validate


def searched(lora: LoraConfig) -> tuple[str, ...]:
    """Return the settings that mean anything for this kind of adapter and loss."""
    off = {"rank", "alpha"} if lora.kind in _NO_RANK else {"alpha"} if lora.kind == "prefix" else set()
    if lora.loss != "contrastive":
        off |= {"temperature", "popularity_correction"}
    return tuple(name for name in SEARCHED if name not in off)


def suggested(trial: Trial, lora: LoraConfig) -> dict[str, Any]:
    """Return the settings of a trial, numbers with two digits; the scale of the update, alpha / rank, stays."""
    values: dict[str, Any] = {}
    for name, (low, high) in _ranges(lora).items():
        if name in ("rank", "n_pairs"):
            values[name] = trial.suggest_int(name, int(low), int(high), log=True)
        else:
            number = trial.suggest_float(name, low, high, log=name in ("learning_rate", "temperature"))
            values[name] = float(f"{number:.2g}")
    if "alpha" in searched(lora):
        values["alpha"] = lora.alpha / lora.rank * values["rank"]
    return values


def _ranges(lora: LoraConfig) -> dict[str, tuple[float, float]]:
    """Return how far each setting may go: a factor or so around what the run says, so that it is always within."""
    ranges: dict[str, tuple[float, float]] = {
        "rank": (max(lora.rank // 4, 1), min(lora.rank * 4, 512)),
        "learning_rate": (lora.learning_rate / 5, min(lora.learning_rate * 5, 1.0)),
        "temperature": (lora.temperature / 3, min(lora.temperature * 3, 10.0)),
        "balance": (0.0, 1.0),
        "popularity_correction": (0.0, 1.0),
        "n_pairs": (max(lora.n_pairs // 4, 1), lora.n_pairs * 2),
    }
    return {name: ranges[name] for name in searched(lora) if name in ranges}


def _open(workspace: Workspace, search: _Search) -> Study:
    """Open the study of this search, or begin it with the settings of the run."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    config = workspace.config
    key = workspace.fingerprint("finetune")
    search.folder.mkdir(parents=True, exist_ok=True)
    journal = search.folder / f"{fingerprint('search-1', key, settings_of(config))}.journal"
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="lora",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=N_STARTUP - 1),
    )
    # The same draws must not come again when the search goes on.
    seed = fingerprint(config.seed, len(study.trials))
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=N_STARTUP, seed=int(seed, 16) % 2**32)
    if "base" not in study.user_attrs:
        study.set_user_attr("base", search.measure(workspace.base_encoder))
        study.enqueue_trial({name: getattr(config.lora, name) for name in _ranges(config.lora)})
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # the process was killed in it
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _result(study: Study) -> Sweep:
    from optuna.trial import TrialState

    tried = [
        Tried(trial.number, *(trial.user_attrs[name] for name in ("settings", "strength", "ndcg", "seconds")))
        for trial in study.trials
        if trial.state == TrialState.COMPLETE
    ]
    tried.sort(key=lambda one: -one.mean)
    n_failed = sum("error" in trial.user_attrs for trial in study.trials)
    return Sweep(study.user_attrs["base"], tried, _states(study).count(TrialState.PRUNED), n_failed)


def _states(study: Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def _note(study: Study) -> str:
    found = _result(study)
    return f"best {found.tried[0].mean:.4f}, base {found.base_mean:.4f}" if found.tried else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Let optuna say nothing, and as much as before afterwards."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
