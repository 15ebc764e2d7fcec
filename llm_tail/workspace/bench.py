"""Bench: ours and all peers on the same cuts of the data, with the same budget of tuning, judged by the same code.

::

    for each seed:  cut ── embed, index, graph        (frozen encoder; and the run's own, where it is trained)
                     └ for each model:  settings tried on validation ── the best fitted once ── judged on test

    run/bench/
    ├── runs/frozen-1/          the run of another seed, or with the encoder as it was published
    ├── trials/ease-0-5f0c.json what has been tried; a larger budget adds to it
    ├── results/ease-0/         one finished model on one cut: what each person got, what it cost
    └── bench.json, bench.md    the table

Each finished model is kept under the fingerprint of its data and settings: a bench that was killed goes on, and one
that has nothing new to do takes a second.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import load_file, save_file

from llm_tail import __version__
from llm_tail.artifacts import fingerprint, read_artifact, write_artifact, write_json
from llm_tail.errors import ConfigError, CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.progress import Bar
from llm_tail.workspace.child import FailedError
from llm_tail.workspace.contest import PEOPLE, Ground, Job, Phase, compete
from llm_tail.workspace.contestants import Contestant, chosen
from llm_tail.workspace.generated import answers_folder
from llm_tail.workspace.tuner import check_optuna
from llm_tail.workspace.workspace import Workspace

if TYPE_CHECKING:
    from llm_tail.evaluation.bench_table import BenchTable
    from llm_tail.evaluation.compare import Result

KIND = "bench-result"
FROZEN, TUNED = "frozen", "tuned"
SUFFIX = f" + {TUNED}"
JSON, MARKDOWN = "bench.json", "bench.md"
CUT_BY_FILES = "the cut is the same for every seed; only what is random in a model differs"
ON_VALIDATION = (
    "there is no test part: judged on validation, on which the settings were chosen too, so that all figures are "
    "optimistic and those of models with many settings most"
)


@dataclass
class Bench:
    """What the models did on one data set.

    Parameters
    ----------
    name : str
        Of the data set, in the table.
    phase : {"test", "validation"}
        What they were judged on.
    results : list of Result
        One for each model and cut that came to an end.
    groups : dict
        Row of the table to its group, in the order of the table.
    notes : list of str
        Who failed and why, and what else has to be known.
    """

    name: str
    phase: Phase
    results: list[Result] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def bench(workspace: Workspace, name: str = "", on_result: Callable[[Result], None] = lambda result: None) -> Bench:
    """Tune, fit and judge all models of ``[bench]`` on all its seeds; what is finished already is not done again.

    Parameters
    ----------
    workspace : Workspace
        The run. The cut of its own seed is its own; the other seeds get runs of their own below ``bench/runs``.
    name : str
        What the data set is called in the table; the name of the run's folder if empty.
    on_result : callable
        Told of each result as it is there, those of former calls left out.

    Returns
    -------
    Bench
        `table_of` makes a table of it.

    Raises
    ------
    ConfigError
        If a model is unknown, or the run has no interactions.
    DataError
        If nothing is held out to judge on, or the audit finds the data useless.
    MissingExtraError
        If settings are to be tried and optuna is not installed.

    Notes
    -----
    Every model gets the same number of trials on each cut, its default settings first, and is judged by the mean
    NDCG@k of warm, tail, cold and overall on validation; then it is fitted on training alone and judged on the test
    part. A model that chooses by validation inside its own fit, as the hybrid does, is fitted once.
    """
    return _Benching(workspace, name, on_result).run()


def table_of(benches: Sequence[Bench], *, n_bootstrap: int = 1000, seed: int = 0, k: int = 20) -> BenchTable:
    """Return the table of one data set, or of means over several.

    Parameters
    ----------
    benches : sequence of Bench
        At least one.
    n_bootstrap : int
        Draws of people behind each interval.
    seed : int
        Of the draws.
    k : int
        Length of the lists that were judged.

    Raises
    ------
    DataError
        If no model came to a result.
    """
    from llm_tail.evaluation.compare import compare

    groups: dict[str, str] = {}
    for one in benches:
        groups |= {row: group for row, group in one.groups.items() if row not in groups}
    phases = sorted({one.phase for one in benches})
    return compare(
        {one.name: one.results for one in benches},
        groups,
        k=k,
        phase=" and ".join(phases),
        n_bootstrap=n_bootstrap,
        seed=seed,
        notes=benches[0].notes
        if len(benches) == 1
        else [f"{one.name}: {note}" for one in benches for note in one.notes],
    )


class _Benching:
    """One call of `bench`."""

    def __init__(self, workspace: Workspace, name: str, on_result: Callable[[Result], None]) -> None:
        config, self.on_result = workspace.config, on_result
        if not config.data.interactions:
            raise ConfigError("a comparison needs interactions and [data] interactions is not set; name the file")
        self.workspace, self.settings = workspace, config.bench
        self.seeds = list(dict.fromkeys(config.bench.seeds or [config.seed]))
        self.folder = workspace.folder / "bench"
        self.is_trained = config.lora.enabled or config.pretrain.enabled
        wanted = chosen(config.bench.models)
        self.contestants = [one for one in wanted if one.is_there()]
        if config.bench.trials > 1 and any(one.search_space() for one in self.contestants):
            check_optuna()
        self.done = Bench(name or workspace.folder.name, "test")
        missing = [one.name for one in wanted if not one.is_there()]
        if missing:
            self.done.notes.append(f"not in this version of llm_tail: {', '.join(missing)}")

    def run(self) -> Bench:
        self.workspace.run(until="audit")
        self.done.phase = self._phase()
        data, split = self.workspace.config.data, self.workspace.config.split
        is_same = bool(data.validation or data.test) or split.method in ("leave-last-out", "time")
        if is_same and len(self.seeds) > 1:
            self.done.notes.append(CUT_BY_FILES)
        self._name_groups()
        for seed in self.seeds:
            self._run_seed(seed)
        return self.done

    def _phase(self) -> Phase:
        split = self.workspace.split
        if len(split.test):
            return "test"
        if not len(split.validation):
            raise DataError("there is nothing to judge on: name [data] test, or a [split] method that holds events out")
        self.done.notes.append(ON_VALIDATION)
        return "validation"

    def _name_groups(self) -> None:
        """Set the order of the table: all rows with the encoder as published, then those with the run's own."""
        self.done.groups = {one.name: one.group for one in self.contestants}
        if self.is_trained:
            for one in self.contestants:
                if one.uses_text():
                    self.done.groups[one.name + SUFFIX] = TUNED if one.group == "peer" else one.group

    # ---- the cuts

    def _arena(self, seed: int, kind: str) -> Workspace:
        """Return the run whose split, vectors and graph models are given."""
        config = self.workspace.config
        is_own = seed == config.seed and (kind == TUNED or not self.is_trained)
        if kind == FROZEN:
            off = {table: getattr(config, table).replace(enabled=False).model_dump() for table in ("lora", "pretrain")}
            config = config.replace(**off)
        folder = self.workspace.folder if is_own else self.folder / "runs" / f"{kind}-{seed}"
        answers = {**config.enrichment.model_dump(), "answers": str(answers_folder(config))}
        config = config.replace(enrichment=answers)  # what was paid for once serves every cut
        arena = Workspace(config.replace(seed=seed, folder=str(folder)), self.workspace.source)
        store = folder / "embeddings"
        if kind == FROZEN and not store.exists():
            self._lend_vectors(store, seed)
        last = "graph" if any(one.graph for one in self.contestants) else "embed"
        if any(one.uses_text() or one.graph for one in self.contestants):
            for stage in arena.stages[1 : arena.stages.index(last) + 1]:
                arena.run_stage(stage)
        return arena

    def _lend_vectors(self, store: Path, seed: int) -> None:
        """Copy the vectors of another cut: those of the frozen encoder are the same on each."""
        homes = [self.folder / "runs" / f"{FROZEN}-{other}" for other in self.seeds if other != seed]
        if not self.is_trained:
            homes.insert(0, self.workspace.folder)
        home = next((one / "embeddings" for one in homes if (one / "embeddings").is_dir()), None)
        if home is not None:
            shutil.copytree(home, store)

    # ---- the models

    def _run_seed(self, seed: int) -> None:
        grounds = {kind: self._ground(seed, kind) for kind in ([FROZEN, TUNED] if self.is_trained else [FROZEN])}
        same = TUNED in grounds and any(one.uses_text() for one in self.contestants) and _same_vectors(grounds)
        if same:
            self.done.notes.append(
                f"seed {seed}: training changed no vector, so that the rows{SUFFIX} repeat the others"
            )
        plan = [(one, FROZEN) for one in self.contestants]
        if self.is_trained and not same:
            plan += [(one, TUNED) for one in self.contestants if one.uses_text()]
        jobs = [(self._job(one, kind, grounds[kind]), grounds[kind]) for one, kind in plan]
        with Bar(f"{self.done.name}, seed {seed}", sum(job.n_trials + 1 for job, _ in jobs)) as bar:
            for job, ground in jobs:
                bar.advance(0, note=job.row)
                self._add(job, ground, bar)
        if same:
            copied = [r for r in self.done.results if r.seed == seed and r.model + SUFFIX in self.done.groups]
            self.done.results += [replace(r, model=r.model + SUFFIX) for r in copied]

    def _ground(self, seed: int, kind: str) -> Ground:
        arena = self._arena(seed, kind)
        return Ground(arena.config, arena)

    def _job(self, one: Contestant, kind: str, ground: Ground) -> Job:
        row = one.name + (SUFFIX if kind == TUNED else "")
        seed, key = ground.config.seed, self._key(one, ground)
        return Job(
            one.name, row, ground.config, self.done.phase, self.folder / "trials" / f"{_slug(row)}-{seed}-{key}.json"
        )

    def _key(self, one: Contestant, ground: Ground) -> str:
        """Return the digest of all that the quality of a model's settings hangs on."""
        arena, bench = ground.workspace, self.settings
        stages = ["audit", *(["embed"] if one.uses_text() else []), *(["graph"] if one.graph else [])]
        made_from = [arena.fingerprint(stage) for stage in stages]
        own = ground.config.hybrid.model_dump() if one.group == "ours" else {}
        space = one.search_space()
        judged = [bench.k, bench.max_people] if space else [bench.k]
        return fingerprint("bench-1", __version__, one.name, made_from, own, space, one.defaults(), judged)

    def _add(self, job: Job, ground: Ground, bar: Bar) -> None:
        """Add what one model did on one cut, or why it failed."""
        bench = self.settings
        key = fingerprint(job.trials.name, job.phase, job.n_trials, bench.minutes if job.n_trials else 0, bench.isolate)
        folder = self.folder / "results" / f"{_slug(job.row)}-{job.config.seed}"
        result = _known(folder, key)
        if result is not None:
            bar.skip(job.n_trials + 1)
        else:
            n_tried = len(job.tuner().tried[: job.n_trials]) if job.n_trials else 0
            bar.skip(n_tried)
            until = bar.done + job.n_trials - n_tried  # fewer where time is over, or there is no more to try
            try:
                with tempfile.TemporaryDirectory(prefix="llm-tail-bench-") as place:
                    result = compete(job, Path(place), ground, bar.advance)
            except FailedError as error:
                self.done.notes.append(f"{job.row} failed (seed {job.config.seed}): {error}")
                bar.skip(until + 1 - bar.done)
                return
            facts, arrays = result.to_parts()
            with write_artifact(folder, KIND, key, facts) as draft:
                save_file(arrays, draft.file(PEOPLE))
            bar.skip(until - bar.done)
            bar.advance()
            self.on_result(result)
        self.done.results.append(result)
        told = [f"{job.row}: {said}" for said in result.facts.get("warnings", [])]
        self.done.notes += [note for note in told if note not in self.done.notes]
        if failed := result.facts.get("failed"):
            n = f"{len(failed)} of {result.facts['n_trials']}"
            self.done.notes.append(f"{job.row} (seed {job.config.seed}): {n} settings failed, such as by: {failed[0]}")


def save_table(table: BenchTable, folder: Path) -> None:
    """Keep a table as JSON and Markdown in a run's ``bench`` folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JSON, table.to_dict())
    table.save(folder / MARKDOWN)


def _known(folder: Path, key: str) -> Result | None:
    """Return the result of a former call; None where there is none, or it was made from something else."""
    from llm_tail.evaluation.compare import Result

    try:
        artifact = read_artifact(folder, KIND, key)
        return Result.from_parts(artifact.facts, load_file(artifact.file(PEOPLE)))
    except (StaleArtifactError, CorruptArtifactError, KeyError, TypeError):
        return None


def _same_vectors(grounds: Mapping[str, Ground]) -> bool:
    frozen, tuned = (grounds[kind].workspace.embeddings.fingerprint() for kind in (FROZEN, TUNED))
    return frozen == tuned


def _slug(row: str) -> str:
    return row.replace(" ", "")
