"""How the hybrid's fit grows with the catalogue, and how fast it answers: made data of any size.

People, tastes and popularity as in `factors_scale`, ten events a person and ten times as many events as items; an
item's vector is that of its taste with noise around it. Each size runs in a process of its own, so that its memory is
known::

    python -m tests.benchmarks.hybrid_scale --items 10000 100000
    python -m tests.benchmarks.hybrid_scale --items 1000000 --dim 128 --rows rows.json --plot growth.svg

Prints a markdown table: how ID embeddings were solved for, seconds and peak memory of the fit, people a second in batch
(k = 20, all scores), and of the serving index the seconds until it is ready, the peak memory by then, the median and
the 99th percentile of one person, and the share of the first 20 that it has in common with all scores. ``--rows`` keeps
the lines of one size after another, for the picture.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.factors_scale import N_TASTES, make, peak_gb

COLUMNS = ("items", "events", "solution", "fit s", "peak GB", "people/s")
SERVED = ("ready s", "ready GB", "one: ms", "p99 ms", "shared")  # by the serving index


def main() -> None:
    """Measure each size and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--dim", type=int, default=384, help="width of the text vectors")
    parser.add_argument("--rank", type=int, help="directions of the low-rank solution")
    parser.add_argument("--asked", type=int, default=300, help="people asked in batch, and one by one")
    parser.add_argument("--serve", type=int, default=256, help="width of the serving index; 0 leaves it out")
    parser.add_argument("--plain", action="store_true", help="with settings as they are: only answers are of interest")
    parser.add_argument("--rows", type=Path, help="JSON file of lines measured before, to which these are added")
    parser.add_argument("--plot", type=Path, help="draw seconds and memory over the size")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments)))
        return
    columns = COLUMNS + SERVED if arguments.serve else COLUMNS
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    kept = json.loads(arguments.rows.read_text()) if arguments.rows and arguments.rows.exists() else []
    rows = []
    for n in arguments.items:
        words = [sys.executable, "-m", "tests.benchmarks.hybrid_scale", "--child", "--items", str(n)]
        words += ["--plain"] if arguments.plain else []
        for name in ("dim", "rank", "asked", "serve"):
            if (value := getattr(arguments, name)) is not None:
                words += [f"--{name}", str(value)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("| " + " | ".join(str(rows[-1].get(name, "")) for name in columns) + " |", flush=True)
    kept = [row for row in kept if row["items"] not in {new["items"] for new in rows}]
    rows = sorted(kept + rows, key=lambda row: int(row["items"].replace(",", "")))
    if arguments.rows:
        arguments.rows.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.plot:
        draw(rows, arguments.plot)


def measure(arguments: argparse.Namespace) -> dict:
    """Fit one size and ask it."""
    import llm_tail as lt

    (n,) = arguments.items
    train, held = make(n, 10 * n)
    rng = np.random.default_rng(1)
    tastes = rng.standard_normal((N_TASTES, arguments.dim)).astype(np.float32)
    vectors = tastes[np.arange(n) % N_TASTES]  # `make` gives item i the taste i mod N_TASTES
    vectors += 1.5 * rng.standard_normal(vectors.shape, dtype=np.float32)
    embeddings = lt.Embeddings(train.items, vectors)
    del vectors
    settings = {"tune": False, "learn": False} if arguments.plain else {}
    settings |= {} if arguments.rank is None else {"rank": arguments.rank}
    started = time.perf_counter()
    hybrid = lt.HybridRecommender(settings).fit(train, embeddings, validation=held)
    row = {"items": f"{n:,}", "events": f"{len(train):,}", "fit s": round(time.perf_counter() - started, 1)}
    row |= {"solution": type(hybrid._collaborative).__name__, "peak GB": peak_gb()}
    people = [train.users[int(u)] for u in rng.choice(len(train.users), arguments.asked, replace=False)]
    started = time.perf_counter()
    hybrid.recommend(people, k=20)
    row["people/s"] = round(len(people) / (time.perf_counter() - started), 1)
    if arguments.serve:
        started = time.perf_counter()
        index = hybrid.to_index(dim=arguments.serve)
        row |= {"ready s": round(time.perf_counter() - started, 1), "ready GB": peak_gb()}
        took = []
        for user in people:
            started = time.perf_counter()
            index.recommend([user], k=20)
            took.append(1000 * (time.perf_counter() - started))
        row |= {"one: ms": round(float(np.median(took)), 2), "p99 ms": round(float(np.percentile(took, 99)), 2)}
        row["shared"] = f"{index.measured['overlap_rescored']:.0%}"
    return row


def draw(rows: list[dict], path: Path) -> None:
    """Draw seconds and memory over the number of items, both on logarithmic scales."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import StrMethodFormatter

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    items = [int(row["items"].replace(",", "")) for row in rows]
    for axis, name, label in zip(axes, ("fit s", "peak GB"), ("seconds of a fit", "peak memory, GB"), strict=True):
        axis.loglog(items, [row[name] for row in rows], marker="o")
        for n, row in zip(items, rows, strict=True):
            axis.annotate(f"{row[name]:,.4g}", (n, row[name]), textcoords="offset points", xytext=(-6, 6), ha="right")
        axis.set(xlabel="items", ylabel=label, xlim=(min(items) / 4, max(items) * 2), xticks=items)
        axis.set_ylim(10.0 ** np.floor(np.log10(axis.get_ylim()[0])), 2 * max(row[name] for row in rows))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.minorticks_off()
        axis.grid(visible=True, alpha=0.3)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
