"""How near does a hybrid that is only updated stay to one that is fitted anew? Events are replayed.

    python -m tests.quality.replay                              # amazon-scientific, 20 updates of 10 events
    python -m tests.quality.replay --updates 5 --events 200 --look 5

A twentieth of the items is not there at first; each comes with the first update that names it. The last event of
everybody is the test. Prints a markdown table: after how many events, what was solved, seconds of the update and of a
refit with the same settings, the shared part of the first 20 of both, the rank correlation of their scores (Spearman,
over the items that either lists), and the NDCG@20 of both on the test.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import llm_tail as lt
from llm_tail.evaluation.metrics import ndcg
from llm_tail.recommenders.base import top_k

from .leave_last_out import DATA, ENCODER, FIELDS, ROOT, Cut

SETTINGS = {"tune": False, "learn": False}
JUDGED = 2000


def main() -> None:
    """Fit on the past, replay the rest, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="amazon-scientific", help="a data set whose events have times or positions")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--events", type=int, default=10, help="events of an update")
    parser.add_argument("--look", type=int, default=10, help="updates between two comparisons")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "leave-last-out", help="keeps vectors")
    arguments = parser.parse_args()
    folder = DATA / arguments.data
    if not folder.is_dir():
        sys.exit(f"there is no {folder}; name the folder of all data sets with LLM_TAIL_DATA")
    catalog = lt.Catalog.from_parquet(folder / "items.parquet")
    events = lt.Interactions.from_parquet(folder / "interactions.parquet").on(catalog)
    text = lt.ItemText(lt.TextConfig(fields=FIELDS))
    store = lt.EmbeddingStore.open(arguments.work / arguments.data)
    vectors = store.embed(catalog, lt.Encoder.load(ENCODER), text)
    replay(Cut(events), vectors, arguments)


def replay(cut: Cut, vectors: lt.Embeddings, arguments: argparse.Namespace) -> None:
    """Update again and again, and print a line for each look."""
    rng = np.random.default_rng(arguments.seed)
    events, fresh = cut.earlier, rng.random(len(vectors.ids)) < 0.05
    n_late, on_fresh = arguments.updates * arguments.events, fresh[events.item_rows]
    coming = rng.permutation(np.flatnonzero(on_fresh))[: n_late // 2]
    others = rng.permutation(np.flatnonzero(~on_fresh))[: n_late - len(coming)]
    known = ~on_fresh
    known[others] = False
    there = lt.Embeddings([i for i, f in zip(vectors.ids, fresh, strict=True) if not f], vectors.vectors[~fresh])
    model = lt.HybridRecommender(SETTINGS).fit(events.where(known), there)
    print(f"{model}, fitted on {int(known.sum()):,} events\n")
    print("| events | items | solved | update s | refit s | shared | rank correlation | NDCG@20 | of a refit |")
    print(f"|{' --- |' * 9}")
    spent = []
    chunks = np.array_split(rng.permutation(np.concatenate([coming, others])), arguments.updates)
    for number, chunk in enumerate(chunks, start=1):
        news = events.where(np.sort(chunk))
        rows = np.unique(news.item_rows)
        rows = rows[model.items.rows(vectors.ids.values[rows]) < 0]
        started = time.perf_counter()
        arrived = lt.Embeddings(vectors.ids.values[rows], vectors.vectors[rows]) if len(rows) else None
        model.update(arrived, news)
        spent.append(time.perf_counter() - started)
        known[chunk] = True
        if number % arguments.look == 0 or number == len(chunks):
            print(line(model, events.where(known), vectors, cut, spent), flush=True)


def line(
    model: lt.HybridRecommender, known: lt.Interactions, vectors: lt.Embeddings, cut: Cut, spent: list[float]
) -> str:
    """Fit anew and compare."""
    started = time.perf_counter()
    refit = lt.HybridRecommender(SETTINGS).fit(known, vectors.on(model.items))
    seconds = time.perf_counter() - started
    people = [u for u in model.users if u in refit.users][:JUDGED]
    histories = model.histories[model.users.rows(people)]
    relevant = cut.test.on(model.items).for_users(cut.test.users).matrix()[cut.test.users.rows(people)]
    lists, scores = [], []
    for one in (model, refit):
        found = np.array(one.score(histories))
        scores.append(found.copy())
        found[histories.nonzero()] = -np.inf
        lists.append(top_k(found, 20)[0])
    shared = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(*lists, strict=True)])
    correlations = []
    for person, (a, b) in enumerate(zip(*lists, strict=True)):
        either = np.union1d(a[a >= 0], b[b >= 0])
        if len(either) > 2:
            correlations.append(spearmanr(scores[0][person, either], scores[1][person, either]).statistic)
    mine, theirs = (float(np.nanmean(ndcg(top, relevant, 20))) for top in lists)
    record = model.training["updates"][-1]
    solved = f"{record['solved']}, {record['touched']:,} of {record['warm']:,}"
    figures = f"{np.mean(spent):.1f} | {seconds:.1f} | {shared:.3f} | {np.nanmean(correlations):.3f} | {mine:.4f}"
    return f"| {len(known):,} | {len(model.items):,} | {solved} | {figures} | {theirs:.4f} |"


if __name__ == "__main__":
    main()
