"""One model of the benchmark on one cut of the data: tuned on validation, fitted once, judged; in a process of its own.

::

    this process            a child                              another child
    job.json ── tune ──►  fit, judge on validation, again     │
             └─ judge ─────────────────────────────────────►  fit once, judge ── result.json, people.safetensors

The most memory that a process ever held cannot be reset, hence the child; and the trials of tuning shall not hide what
the final fit needs, hence the second one. A model that takes its process with it takes nothing else.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import write_json
from llm_tail.config import RunConfig
from llm_tail.workspace.child import REFUSED, RESULT, FailedError, end_with_parent, run_child
from llm_tail.workspace.contestants import CONTESTANTS, Contestant
from llm_tail.workspace.measuring import own_peak_mb
from llm_tail.workspace.tuner import Tuner, in_words

if TYPE_CHECKING:
    from llm_tail.data.splits import Split
    from llm_tail.embedding.embeddings import Embeddings
    from llm_tail.evaluation.compare import Result
    from llm_tail.recommenders.base import Recommender
    from llm_tail.workspace.workspace import Workspace

Phase = Literal["test", "validation"]
TUNE, JUDGE = "tune", "judge"
PEOPLE = "people.safetensors"


@dataclass(frozen=True)
class Job:
    """One model on one cut.

    Parameters
    ----------
    model : str
        Name of a contestant.
    row : str
        What it is called in the table.
    config : RunConfig
        The run whose split, vectors and graph it is given; its seed is that of the model, its ``[bench]`` the budget.
    phase : {"test", "validation"}
        What it is judged on in the end.
    trials : Path
        The file that keeps what has been tried.
    """

    model: str
    row: str
    config: RunConfig
    phase: Phase
    trials: Path

    @property
    def contestant(self) -> Contestant:
        """The model."""
        return CONTESTANTS[self.model]

    @property
    def n_trials(self) -> int:
        """How many settings are tried; 0 where there is nothing to choose from."""
        wanted = self.config.bench.trials
        return wanted if wanted > 1 and self.contestant.search_space() else 0

    def tuner(self) -> Tuner:
        """Return the search, with the trials there are."""
        one = self.contestant
        return Tuner(self.trials, one.search_space(), one.defaults(), self.config.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        return {
            "model": self.model,
            "row": self.row,
            "config": self.config.model_dump(),
            "phase": self.phase,
            "trials": str(self.trials),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Job:
        """Return what `to_dict` was made of."""
        return cls(raw["model"], raw["row"], RunConfig(**raw["config"]), raw["phase"], Path(raw["trials"]))


@dataclass
class Ground:
    """What all models of one cut are given; loaded once, when it is first asked for.

    Parameters
    ----------
    config : RunConfig
        The run; its stages up to the graph are finished.
    given : Workspace, optional
        The run itself, where it is open already.
    """

    config: RunConfig
    given: Workspace | None = field(default=None, repr=False)

    @cached_property
    def workspace(self) -> Workspace:
        """The run."""
        from llm_tail.workspace.workspace import Workspace

        return self.given or Workspace(self.config)

    @cached_property
    def tuning(self) -> tuple[Split, Split]:
        """The split that settings are fitted on, and the same with as many people of validation as are asked."""
        from llm_tail.workspace.adapters import judging_split
        from llm_tail.workspace.samples import few_people

        split = judging_split(self.workspace)
        return split, few_people(split, self.config.bench.max_people, seed=self.config.seed)

    def fit(self, contestant: Contestant, settings: Mapping[str, Any], split: Split) -> Recommender:
        """Return the model, fitted on the training part; validation is given for models that stop or tune by it."""
        embeddings = self._vectors(contestant) if contestant.uses_text() else None
        graph = self.workspace.graph if contestant.graph else None
        model = contestant.make(self.workspace, settings)
        return model.fit(split.train, embeddings, graph, validation=split.validation if len(split.validation) else None)

    def warm_up(self, contestant: Contestant) -> None:
        """Load what the model will be given, so that its time does not hold the reading of files."""
        _ = self.workspace.split
        if contestant.uses_text():
            _ = self._vectors(contestant)
        if contestant.graph:
            _ = self.workspace.graph

    def _vectors(self, contestant: Contestant) -> Embeddings:
        """Return what a model reads of the items: ours counts words too, as in a run; peers are as published."""
        return self._worded if contestant.group == "ours" else self.workspace.embeddings

    @cached_property
    def _worded(self) -> Embeddings:
        from llm_tail.workspace.wording import learn_words, worded_embeddings

        return worded_embeddings(self.workspace, learn_words(self.workspace))


# ---- the two steps


def tune(job: Job, ground: Ground, on_trial: Callable[[], None] = lambda: None) -> None:
    """Try settings on validation; what came of each is kept in ``job.trials``."""
    from llm_tail.evaluation.evaluate import per_person

    bench, (whole, judged) = job.config.bench, ground.tuning

    def quality(settings: dict[str, Any]) -> float:
        model = ground.fit(job.contestant, settings, whole)
        found = per_person(model, judged, bench.k, phase="validation")
        return mean(float(one.values[f"ndcg@{bench.k}"].mean()) for one in found.values())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the final fit says the same once
        job.tuner().run(quality, job.n_trials, bench.minutes, on_trial)


def judge(job: Job, ground: Ground) -> Result:
    """Fit once with the best settings and judge."""
    from llm_tail.evaluation.compare import Result
    from llm_tail.evaluation.evaluate import PerPerson, per_person

    facts: dict[str, Any] = {"settings": job.contestant.defaults(), "n_trials": 0, "tune_seconds": 0.0}
    if job.n_trials:
        tuner = job.tuner()
        best, tried = tuner.best(job.n_trials), tuner.tried[: job.n_trials]
        facts["settings"], facts["n_trials"] = best.params, len(tried)
        facts["tune_seconds"] = sum(one.seconds for one in tried)
        facts["validation"] = {"defaults": tried[0].value, "best": best.value}
        facts["failed"] = [one.error for one in tried if one.error]
    ground.warm_up(job.contestant)
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        model = ground.fit(job.contestant, facts["settings"], ground.workspace.split)
    fitted = time.perf_counter()
    facts["warnings"] = list(dict.fromkeys(str(one.message) for one in warned if one.category is UserWarning))
    found = per_person(model, ground.workspace.split, job.config.bench.k, phase=job.phase)
    facts["fit_seconds"], facts["score_seconds"] = fitted - started, time.perf_counter() - fitted
    kept = {
        segment: PerPerson(one.people, {m: v for m, v in one.values.items() if m.startswith(("recall@", "ndcg@"))})
        for segment, one in found.items()
    }
    return Result(job.row, job.config.seed, kept, facts)


def compete(job: Job, folder: Path, ground: Ground, on_trial: Callable[[], None]) -> Result:
    """Tune, fit and judge one model.

    Parameters
    ----------
    job : Job
        What to do.
    folder : Path
        An empty one, for what the processes say to each other.
    ground : Ground
        What the model is given, where it is not fitted in a process of its own.
    on_trial : callable
        Called after each trial.

    Raises
    ------
    FailedError
        If nothing came of it; what was tried before is kept.
    """
    from llm_tail.evaluation.compare import Result

    try:
        if not job.config.bench.isolate:
            if job.n_trials:
                tune(job, ground, on_trial)
            return judge(job, ground)
        write_json(folder / "job.json", job.to_dict())
        if job.n_trials:
            _tune_in_children(job, folder, on_trial)
        return Result.from_parts(run_child(__name__, folder, JUDGE), load_file(folder / PEOPLE))
    except Exception as error:  # one model less is no reason to lose the whole table
        if job.n_trials and not any(one.error == "" for one in job.tuner().tried):
            job.trials.unlink(missing_ok=True)  # whatever was wrong may be put right: the next call tries again
        raise error if isinstance(error, FailedError) else FailedError(in_words(error)) from error


def _tune_in_children(job: Job, folder: Path, on_trial: Callable[[], None]) -> None:
    """Tune in a child; settings that it dies of have failed, and another one goes on."""
    while True:
        try:
            run_child(__name__, folder, TUNE, lambda line: on_trial() if line == TUNE else None)
        except FailedError as error:
            if not (error.died and job.tuner().give_up(str(error))):
                raise
            on_trial()
        else:
            return


# ---- in the child


def main(folder: Path, step: str) -> None:
    """Do one step of the job in `folder` and write down what came of it."""
    job = Job.from_dict(json.loads((folder / "job.json").read_text(encoding="utf-8")))
    ground = Ground(job.config)
    try:
        if step == TUNE:
            tune(job, ground, _tell)
            write_json(folder / RESULT, {})
            return
        result = judge(job, ground)
    except Exception as error:  # the parent says it in the table
        write_json(folder / REFUSED, in_words(error))
        return
    result.facts["peak_mb"] = own_peak_mb()
    facts, arrays = result.to_parts()
    save_file(arrays, folder / PEOPLE)
    write_json(folder / RESULT, facts)


def _tell() -> None:
    sys.stdout.write(f"{TUNE}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]), sys.argv[2])
