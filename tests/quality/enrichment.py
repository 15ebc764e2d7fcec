"""Have the judge's own code rank by the texts alone, with and without what extraction adds; every line the same people.

Only the vectors differ between two lines: the ranking is the plain text kernel (``--model content``). On
movielens-small, tail and cold items lose all words but their title first (by training counts of the judge's split), as
if a shop had never described them; amazon-scientific is taken as it is (43 % have no description)::

    python tests/quality/enrichment.py amazon-scientific --phase validation          every variant, to choose by
    python tests/quality/enrichment.py amazon-scientific movielens-small             the chosen, on the test part

Prints markdown: N@20 (mean over seeds) and the difference to no enrichment with its 95 % interval, people drawn again
with all their seeds. Vectors are kept by text under ``--work``, so that only new texts are encoded.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from llm_tail.config import TextConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.data.segments import Segments
from llm_tail.embedding.embeddings import Embeddings, unit
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.negatives import nearest_blocks
from llm_tail.embedding.runtimes import load_runtime
from llm_tail.embedding.text import ItemText
from llm_tail.enrichment.extractive import Extractive
from llm_tail.evaluation import metrics
from llm_tail.recommenders.content import ContentSimilarity, centre
from tests.quality.judge import COLUMNS, PROTOCOL, ROOT

TOLD = ("description", "tagline", "keywords", "categories")  # what thin items lose
CUT = ("movielens-small",)
N_BOOTSTRAP = 1000
BLOCK = 2048  # people that are ranked at once
OWN = ("categories", "brand", "keywords")


class Kept:
    """An encoder whose vectors are kept by text, between runs too."""

    def __init__(self, file: Path) -> None:
        self.file, self._encoder = file, None
        self.vectors, self.places = np.zeros((0, 384), np.float16), {}
        if file.exists():
            stored = np.load(file)
            self.vectors, self.places = stored["v"], {t: i for i, t in enumerate(json.loads(str(stored["t"])))}

    dim, fingerprint = 384, "kept"

    def encode(self, texts: Sequence[str], *, kind: str = "document", batch_tokens: int = 2048) -> np.ndarray:
        """Return unit vectors, encoding only what was never seen."""
        new = [text for text in dict.fromkeys(texts) if text not in self.places]
        if new:
            self._encoder = self._encoder or load_runtime(Encoder.load(), "openvino")
            started = time.perf_counter()
            made = self._encoder.encode(new, batch_tokens=batch_tokens).astype(np.float16)
            self.places |= {text: len(self.places) + i for i, text in enumerate(new)}
            self.vectors = np.concatenate([self.vectors, made])
            np.savez(self.file, v=self.vectors, t=json.dumps(list(self.places)))
            print(f"encoded {len(new):,} texts in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        return unit(self.vectors[[self.places[text] for text in texts]].astype(np.float32))


class Case:
    """One cut of one data set: its items as they are to be ranked, and who takes what."""

    def __init__(self, judge: ModuleType, name: str, seed: int, encoder: Kept) -> None:
        self.judge, self.name, self.seed, self.encoder = judge, name, seed, encoder
        self.split = judge.Split(name, seed)
        items = self.split.items.copy()
        segments = Segments.from_counts(np.asarray(self.split.train.sum(axis=0)).ravel())
        self.whole = _catalog(items)
        if name in CUT:
            for column in TOLD:
                items[column] = items[column].mask(segments.tail | segments.cold, None)
        self.catalog = _catalog(items)
        self.texts = ItemText().texts(self.catalog)
        self.vectors = encoder.encode(self.texts)
        self._backends: dict[str, Extractive] = {}

    def added(self, parts: Sequence[str], *, only: str = "", **options: float) -> list[str]:
        """Return texts with what extraction gives at their end, for ``thin`` or ``told`` items only where asked."""
        backend = self.backend(parts, **options)
        told = backend.extract(np.arange(len(self.texts)))
        found = []
        for row, (text, (phrases, guesses, loans)) in enumerate(zip(self.texts, told, strict=True)):
            words = [g.value for g in guesses] + [p.words for p in phrases] + [loan.word for loan in loans]
            use = words and only in ("", "thin" if backend._thin[row] else "told")
            found.append(". ".join(filter(None, [text, ", ".join(words)])) if use else text)
        return found

    def backend(self, parts: Sequence[str], **options: float) -> Extractive:
        """Return what extracts, made once for each setting."""
        key = json.dumps([list(parts), options])
        if key not in self._backends:
            embeddings = Embeddings(self.catalog.ids, self.vectors)
            self._backends[key] = Extractive.learn(
                self.catalog, self.encoder, embeddings=embeddings, parts=list(parts), **options
            )
        return self._backends[key]

    def smoothed(self, share: float, *, all_items: bool = False, k: int = 10) -> np.ndarray:
        """Return vectors of thin items moved towards the mean of their neighbours': what words could add beyond it."""
        thin = np.flatnonzero(self.backend(["keyphrases"])._thin | all_items)
        centred = centre(self.vectors)
        rows, cosines = nearest_blocks(centred[thin], centred, k + 1)
        weights = np.where(rows == thin[:, None], 0.0, np.maximum(cosines, 0.0)).astype(np.float32)
        means = unit(np.einsum("nk,nkd->nd", weights, self.vectors[rows]))
        moved = self.vectors.copy()
        moved[thin] = unit((1 - share) * moved[thin] + share * means)
        return moved

    def own_columns(self) -> list[str]:
        """Return texts with the catalogue's other columns at their end, where the item has any."""
        fields = ["title", "description", *(name for name in OWN if name in self.catalog.columns)]
        return ItemText(TextConfig(fields=fields)).texts(self.catalog)

    def ndcg(self, vectors: np.ndarray, phase: str) -> dict[str, pd.Series]:
        """Return N@20 of each person for each ranking, by the judge's split, top k and metric (which has to agree)."""
        split, judge = self.split, self.judge
        train = Interactions.from_frame(split.frame(split.train), items=self.catalog.ids)
        model = ContentSimilarity().fit(train, Embeddings(self.catalog.ids, vectors))
        tasks = list(split.tasks(phase))
        found: dict[str, list[pd.Series]] = {name: [] for name, *_ in tasks}
        for start in range(0, len(split.user_ids), BLOCK):
            people = np.arange(start, min(start + BLOCK, len(split.user_ids)))
            all_scores = model.score(split.train[people])
            for name, relevant, candidates, seen in tasks:
                asked = people[np.diff(relevant[people].indptr) > 0]
                scores = all_scores[asked - start].astype(np.float64)
                scores[:, ~candidates] = -np.inf
                scores[seen[asked].nonzero()] = -np.inf
                top = judge.top_k(scores, 20)
                each = metrics.ndcg(top, relevant[asked])
                if abs(each.mean() - judge.rank_metrics(top, relevant, asked)[1]) > 1e-9:
                    sys.exit("the judge and llm_tail.evaluation.metrics differ on N@20")
                found[name].append(pd.Series(each, index=split.user_ids[asked]))
        return {name: pd.concat(parts) for name, parts in found.items()}


VALIDATION: dict[str, Callable[[Case], list[str] | np.ndarray]] = {
    "no enrichment": lambda case: case.vectors,
    "keyphrases": lambda case: case.added(["keyphrases"]),
    "keyphrases, thin items only": lambda case: case.added(["keyphrases"], only="thin"),
    "keyphrases, described items only": lambda case: case.added(["keyphrases"], only="told"),
    "categories, sure at .8": lambda case: case.added(["categories"]),
    "categories, sure at .6": lambda case: case.added(["categories"], min_confidence=0.6),
    "borrowed, 4 words": lambda case: case.added(["borrowed"], n_borrowed=4),
    "borrowed, 8 words": lambda case: case.added(["borrowed"]),
    "all parts": lambda case: case.added(["keyphrases", "categories", "borrowed"]),
    "keyphrases and categories": lambda case: case.added(["keyphrases", "categories"]),
    "thin vectors .2 towards neighbours'": lambda case: case.smoothed(0.2),
    "all vectors .2 towards neighbours'": lambda case: case.smoothed(0.2, all_items=True),
    "own columns in the text": lambda case: case.own_columns(),
    "nothing cut (what true words are worth)": lambda case: ItemText().texts(case.whole),
}
TEST = (
    "no enrichment",
    "keyphrases and categories",
    "keyphrases",
    "categories, sure at .8",
    "borrowed, 8 words",
    "all parts",
    "all vectors .2 towards neighbours'",
    "own columns in the text",
    "nothing cut (what true words are worth)",
)


def main() -> None:
    """Parse, measure each variant on each cut, print a table a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="names of data sets that the judge knows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--phase", choices=["validation", "test"], default="test")
    parser.add_argument("--only", nargs="+", help="these variants only, beside no enrichment")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "enrichment", help="where vectors are kept")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    arguments = parser.parse_args()
    if not arguments.protocol.is_file():
        sys.exit(f"there is no judge at {arguments.protocol}; name it with --protocol")
    arguments.work.mkdir(parents=True, exist_ok=True)
    judge, figures = _judge(arguments.protocol), {}
    for name in arguments.data:
        names = list(VALIDATION) if arguments.phase == "validation" else list(TEST)
        if name not in CUT:
            names = names[:-1]
        wanted = [one for one in names if not arguments.only or one in (names[0], *arguments.only)]
        encoder = Kept(arguments.work / f"{name}.npz")
        values: dict[str, list[dict[str, pd.Series]]] = {variant: [] for variant in wanted}
        made: dict[str, np.ndarray] = {}
        for seed in arguments.seeds:
            case = Case(judge, name, seed, encoder)
            for variant in wanted:
                if variant not in made or name in CUT:  # else every seed has the same texts
                    found = VALIDATION[variant](case)
                    made[variant] = found if isinstance(found, np.ndarray) else encoder.encode(found)
                values[variant].append(case.ndcg(made[variant], arguments.phase))
                print(_line(f"{name} {seed} {variant}", values[variant][-1]), file=sys.stderr, flush=True)
        figures[name] = compared(values)
        print(f"\n{name}, {arguments.phase}, seeds {arguments.seeds}\n\n{table(figures[name])}", flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(figures, indent=1))


def compared(values: dict[str, list[dict[str, pd.Series]]]) -> dict[str, dict[str, list[float]]]:
    """Return mean, difference to the first variant, and the ends of its interval, by variant and column."""
    first = next(iter(values))
    found: dict[str, dict[str, list[float]]] = {variant: {} for variant in values}
    for column in COLUMNS:
        frames = {v: pd.DataFrame({i: one[column] for i, one in enumerate(each)}) for v, each in values.items()}
        people = len(frames[first])
        rng = np.random.default_rng(0)
        drawn = np.stack([np.bincount(rng.integers(0, people, people), minlength=people) for _ in range(N_BOOTSTRAP)])
        there = frames[first].notna().to_numpy(np.float64)  # (n_people, n_seeds)
        sizes = drawn @ there
        base = drawn @ frames[first].fillna(0.0).to_numpy() / sizes  # (n_bootstrap, n_seeds)
        for variant, frame in frames.items():
            means = drawn @ frame.fillna(0.0).to_numpy() / sizes
            low, high = np.quantile((means - base).mean(axis=1), [0.025, 0.975])
            mean = float(frame.mean().mean())
            found[variant][column] = [mean, mean - float(frames[first].mean().mean()), float(low), float(high)]
    return found


def table(figures: dict[str, dict[str, list[float]]]) -> str:
    """Return markdown: N@20, and in brackets the interval of the difference to the first line."""
    lines = [f"| N@20 | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    for place, (variant, columns) in enumerate(figures.items()):
        cells = []
        for column in COLUMNS:
            mean, gap, low, high = columns[column]
            told = "" if place == 0 else f" ({gap:+.4f}: {low:+.4f} to {high:+.4f})"
            cells.append(f"{mean:.4f}{told}".replace("0.", "."))
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _line(label: str, found: dict[str, pd.Series]) -> str:
    return f"{label:60s} " + " ".join(f"{column} {found[column].mean():.4f}" for column in COLUMNS)


def _catalog(items: pd.DataFrame) -> Catalog:
    rows = items.where(items.notna(), None).to_dict("records")
    kept = ("item_id", "title", "description", *OWN)

    def plain(value: object) -> object:
        return [str(one) for one in value] if isinstance(value, (list, np.ndarray)) else value

    return Catalog.from_items([{k: plain(v) for k, v in row.items() if k in kept} for row in rows])


def _judge(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("protocol", path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
