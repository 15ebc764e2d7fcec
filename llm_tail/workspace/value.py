"""Value for money: what each way to embed a catalogue costs and gives.

::

    catalogue ── sample of items ──► each runtime, in a process of its own ──► vectors, texts/s, memory
                                                │
                     each width x each number format on disk ──► ranking validation by them alone: NDCG@20

A runtime encodes once; cuts and formats follow from its vectors. Every measurement and every judgement is kept in the
run's folder as soon as it is there: the same call goes on where it stopped, and does nothing where nothing has changed.

::

    run/value/
    ├── report/               value.json and value.md: the table
    ├── runtimes/torch-bf16/  one measurement each, with its vectors
    └── judged.json           each judgement
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from llm_tail.artifacts import fingerprint, read_artifact, write_artifact, write_json
from llm_tail.config import ValueConfig
from llm_tail.data.ids import IdMap, Rows
from llm_tail.embedding.embeddings import unit
from llm_tail.embedding.known import KEY_BYTES
from llm_tail.embedding.shards import empty_pack, pack, unpack
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.evaluation.pareto import Choice
from llm_tail.progress import Bar
from llm_tail.workspace.adapters import judging_split
from llm_tail.workspace.child import FailedError
from llm_tail.workspace.measuring import VECTORS, Machine, Measured, measure
from llm_tail.workspace.samples import few_items, few_people
from llm_tail.workspace.value_report import ValueReport
from llm_tail.workspace.workspace import Workspace

if TYPE_CHECKING:
    from llm_tail.data.splits import Split

K = 20
MILLION = 1_000_000
TOKEN_BYTES = 4  # the count of an item's tokens in a shard
KIND, RUNTIME_KIND = "value", "value-runtime"
JSON, MARKDOWN = "value.json", "value.md"
NARROWEST = 8
FEW_PEOPLE = 200

Vectors = NDArray[np.float32]
Plan = tuple[str, int, str]  # runtime, width, number format


def value(workspace: Workspace) -> ValueReport:
    """Measure and judge every choice of ``[value]``: runtimes, widths, number formats on disk.

    Parameters
    ----------
    workspace : Workspace
        The run; where it is pre-trained or fine-tuned, that has to have been done.

    Returns
    -------
    ValueReport
        Kept under ``value/report`` in the run's folder too.

    Raises
    ------
    StaleArtifactError
        If the run's own encoder is not there yet.
    DataError
        If none of the runtimes can run here, or no item has words.

    Notes
    -----
    One pass of the sample through each runtime, then one ranking of the people for each width and format: at most
    ``max_items`` items and ``max_people`` people. Vectors are cut from the front and scaled to length 1 again, as
    ``encoder.dim`` does (A. Kusupati et al., "Matryoshka representation learning", NeurIPS 2022).
    """
    return _Comparison(workspace).run()


def widths(dim: int, wanted: Sequence[int] = ()) -> list[int]:
    """Return the widths that vectors are tried at, the full one first.

    Examples
    --------
    >>> widths(384), widths(384, [64, 512, 256])
    ([384, 192, 96], [384, 256, 64])
    """
    tried = [*wanted] or [dim // 2, dim // 4]
    return [dim, *sorted({width for width in tried if NARROWEST <= width < dim}, reverse=True)]


def distinct(texts: Sequence[str], seed: int = 0) -> tuple[list[str], Rows]:
    """Return the distinct texts with words, in an order that goes by nothing, and each text's place among them.

    Parameters
    ----------
    texts : sequence of str
    seed : int
        Of the order.

    Returns
    -------
    list of str
    array of int64, shape (n_texts,)
        -1 for a text without words.

    Examples
    --------
    >>> words, places = distinct(["whale", "", "whale", "moor"])
    >>> sorted(words), [words[n] if n >= 0 else "" for n in places]
    (['moor', 'whale'], ['whale', '', 'whale', 'moor'])
    """
    found = sorted({text for text in texts if text.strip()})
    words = [found[n] for n in np.random.default_rng(seed).permutation(len(found))]
    place = {text: n for n, text in enumerate(words)}
    return words, np.array([place.get(text, -1) for text in texts], dtype=np.int64)


class _Comparison:
    """One call of `value`: what all choices share, and where it is kept."""

    def __init__(self, workspace: Workspace) -> None:
        trained = [stage for stage in ("pretrain", "finetune") if stage in workspace.stages]
        for stage in trained:
            if not workspace.is_finished(stage):
                raise StaleArtifactError(
                    "the run's own encoder is not there yet, or was made from other data or settings; "
                    f"run: llm-tail {stage} {workspace.source}"
                )
        if not trained:  # whatever the run has chosen by now, all choices are compared from the same start
            config = workspace.config
            plain = {"dim": None, "precision": "auto", "runtime": "torch"}
            workspace = Workspace(
                config.replace(encoder={**config.encoder.model_dump(), **plain}), source=workspace.source
            )
        self.workspace, self.config = workspace, workspace.config
        self.settings: ValueConfig = self.config.value
        self.made_from = fingerprint("value-1", *(workspace.fingerprint(stage) for stage in ("audit", *trained)))
        self.folder, self.machine = workspace.folder / "value", Machine.here()
        self.split: Split | None = None
        self.n_users: dict[str, int] = {}
        self.notes = ["another [encoder] precision or dim means to train the encoder again"] if trained else []

    def run(self) -> ValueReport:
        key = fingerprint(self.made_from, self.settings.model_dump(), self._timing)
        known = self._known_report(key)
        if known is not None:
            return known
        rows = self._sample()
        catalog = self.workspace.catalog.take(rows)
        words, places = distinct(self.workspace.item_text.texts(catalog), self.config.seed)
        if not words:
            raise DataError(f"none of {len(rows):,} items has a text in {', '.join(self.config.text.fields)}")
        measured, missing = self._measure_all(words)
        choices = self._judge_all(measured, words, places, catalog.ids)
        report = ValueReport(
            choices=tuple(choices),
            measured=measured,
            missing=missing,
            machine=self.machine,
            settings=self.settings,
            n_items=len(rows),
            n_users=self.n_users,
            notes=tuple(self.notes),
        )
        with write_artifact(self.folder / "report", KIND, key) as draft:
            write_json(draft.file(JSON), report.to_dict())
            draft.file(MARKDOWN).write_text(report.to_markdown(), encoding="utf-8")
        return report

    @property
    def _timing(self) -> list[Any]:
        """What a rate depends on beside runtime and texts."""
        return [asdict(self.machine), self.config.embedding.batch_tokens, self.settings.min_seconds]

    def _known_report(self, key: str) -> ValueReport | None:
        """Return the report of a former call; None where something has changed, or what was missing may be there."""
        try:
            report = ValueReport.load(read_artifact(self.folder / "report", KIND, key).file(JSON))
        except (StaleArtifactError, CorruptArtifactError):
            return None
        return None if report.missing else report

    def _sample(self) -> Rows:
        """Return the rows of the items that are encoded, and make ready who is judged on them."""
        from llm_tail.evaluation.evaluate import make_tasks

        catalog, most, seed = self.workspace.catalog, self.settings.max_items, self.config.seed
        if not self.config.data.interactions:
            self.notes.append("[data] interactions is not set, so nobody can be judged and quality is not known")
        else:
            _ = self.workspace.interactions  # what is wrong with the file itself is raised
            try:
                people = few_people(judging_split(self.workspace), self.settings.max_people, seed=seed)
                split, rows = few_items(people, most, seed=seed)
                self.n_users = {task.name: int(task.people.sum()) for task in make_tasks(split, "validation")}
                self.split = split
                if max(self.n_users.values()) < FEW_PEOPLE:
                    self.notes.append(
                        f"fewer than {FEW_PEOPLE} people are judged on: a few percent of quality are luck"
                    )
                return rows
            except DataError as error:
                self.notes.append(f"nobody can be judged, so quality is not known: {error}")
        return np.sort(np.random.default_rng(seed).permutation(len(catalog))[:most]).astype(np.int64)

    # ---- costs

    def _measure_all(self, words: list[str]) -> tuple[dict[str, Measured], dict[str, str]]:
        measured: dict[str, Measured] = {}
        missing: dict[str, str] = {}
        for runtime in dict.fromkeys(self.settings.runtimes):
            with Bar(f"measuring {runtime}", len(words)) as bar:
                try:
                    measured[runtime] = self._measured(runtime, words, bar)
                except FailedError as error:
                    missing[runtime] = str(error)
        if not measured:
            reasons = "; ".join(f"{runtime}: {reason}" for runtime, reason in missing.items())
            raise DataError(f"none of the runtimes in [value] runtimes can run here: {reasons}")
        return measured, missing

    def _measured(self, runtime: str, words: list[str], bar: Bar) -> Measured:
        """Return one measurement, of now or of a former call."""
        folder, key = self.folder / "runtimes" / runtime, self._runtime_key(runtime, words)
        try:
            return Measured(**read_artifact(folder, RUNTIME_KIND, key).facts)
        except (StaleArtifactError, CorruptArtifactError, TypeError):
            pass  # not there, of other texts, or damaged: it is measured
        with tempfile.TemporaryDirectory(prefix="llm-tail-value-") as place:
            found = measure(self.config, runtime, words, Path(place), on_texts=bar.advance)
            with write_artifact(folder, RUNTIME_KIND, key, asdict(found)) as draft:
                shutil.copyfile(Path(place) / VECTORS, draft.file(VECTORS))
        return found

    def _runtime_key(self, runtime: str, words: list[str]) -> str:
        return fingerprint(self.made_from, runtime, words, self._timing)

    # ---- quality

    def _judge_all(
        self, measured: Mapping[str, Measured], words: list[str], places: Rows, items: IdMap
    ) -> list[Choice]:
        """Return all choices; of one runtime after the other the vectors are held."""
        formats = list(dict.fromkeys(self.settings.storage))
        plans = {
            r: [(r, w, f) for w in widths(m.dim, self.settings.dims) for f in formats] for r, m in measured.items()
        }
        journal = _Journal(self.folder / "judged.json")
        scores: dict[Plan, dict[str, float]] = {}
        with Bar("judging", sum(map(len, plans.values()))) as bar:
            for runtime, plan in plans.items():
                key = self._runtime_key(runtime, words)
                sample = [self.settings.max_people, self.settings.max_items, self.config.seed]
                keys = {one: fingerprint(key, sample, one[1:]) for one in plan}
                if self.split is not None and any(keys[one] not in journal for one in plan):
                    file = read_artifact(self.folder / "runtimes" / runtime, RUNTIME_KIND, key).file(VECTORS)
                    full = _spread(load_file(file)["vectors"], places)  # (n_items, dim)
                    for one in plan:
                        if keys[one] not in journal:
                            journal.add(keys[one], self._judge(_as_stored(full[:, : one[1]], one[2]), items))
                        bar.advance()
                scores |= {one: journal[keys[one]] if self.split is not None else {} for one in plan}
        return self._choices(measured, scores, items)

    def _judge(self, vectors: Vectors, items: IdMap) -> dict[str, float]:
        """Return NDCG@20 of ranking by these vectors alone, for each column."""
        from llm_tail.embedding.store import Embeddings
        from llm_tail.evaluation.evaluate import evaluate
        from llm_tail.recommenders.content import ContentSimilarity

        assert self.split is not None  # noqa: S101  (seen to by the caller; this is for the type checker)
        model = ContentSimilarity().fit(self.split.train, Embeddings(items, vectors))
        report = evaluate([model], self.split, K, n_bootstrap=0, phase="validation")
        return {segment: report.value(model.name, segment, f"ndcg@{K}") for segment in report.segments}

    def _choices(
        self, measured: Mapping[str, Measured], scores: Mapping[Plan, dict[str, float]], items: IdMap
    ) -> list[Choice]:
        means = {plan: float(np.mean(list(ndcg.values()))) for plan, ndcg in scores.items() if ndcg}
        best = max(means.values(), default=0.0)
        ids = json.dumps(items.values.tolist(), ensure_ascii=False).encode("utf-8", "surrogatepass")
        choices = []
        for plan, ndcg in scores.items():
            runtime, dim, storage = plan
            one = measured[runtime]
            seconds = MILLION / one.texts_per_s
            hourly = self.settings.core_hour * self.machine.threads if one.device == "cpu" else self.settings.gpu_hour
            choices.append(
                Choice(
                    runtime=runtime,
                    dim=dim,
                    storage=storage,
                    texts_per_s=one.texts_per_s,
                    peak_mb=one.peak_mb,
                    seconds=seconds,
                    money=seconds / 3600 * hourly,
                    mb=_row_bytes(dim, storage) + len(ids) / len(items),  # bytes an item are MB a million
                    ndcg=ndcg,
                    share=(means[plan] / best if best else 1.0) if plan in means else None,
                )
            )
        return choices


class _Journal:
    """What has been judged so far, on disk after each judgement.

    Parameters
    ----------
    path : Path
        A JSON file; one that cannot be read counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        self._found: dict[str, dict[str, float]] = found if isinstance(found, dict) else {}

    def add(self, key: str, ndcg: dict[str, float]) -> None:
        self._found[key] = ndcg
        write_json(self.path, self._found)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> dict[str, float]:
        return self._found[key]


def _spread(vectors: Vectors, places: Rows) -> Vectors:
    """Return one vector for each item, shape (n_items, dim); zero for one without words."""
    spread = np.zeros((len(places), vectors.shape[1]), dtype=np.float32)  # (n_items, dim)
    there = places >= 0
    spread[there] = vectors[places[there]]
    return spread


def _as_stored(vectors: Vectors, storage: str) -> Vectors:
    """Return vectors, cut or whole, as they come back from disk."""
    return unpack(pack(unit(vectors), storage), storage)


def _row_bytes(dim: int, storage: str) -> float:
    """Return the bytes of an item in a shard beside its id: vector, hash of the text, count of its tokens."""
    n = 1000
    return sum(tensor.nbytes for tensor in empty_pack(n, dim, storage).values()) / n + KEY_BYTES + TOKEN_BYTES
