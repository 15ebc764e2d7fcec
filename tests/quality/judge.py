"""Have an outside judge rank the whole path: prepare, run, recommend, judge.

The judge is a script with two verbs, ``prepare DATA SEED OUT`` and ``judge DATA SEED OUT``. It cuts the data, keeps the
test part to itself, and reads recommendations back, so that no figure here comes from our own metric code::

    python tests/quality/judge.py amazon-scientific --seeds 0 1 2
    python tests/quality/judge.py amazon-scientific --seeds 0 1 2 --lora

Prints one line a seed and their mean with the spread; ``--out`` keeps the lines and what each stage cost as JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = ROOT.parent / "shared" / "benchmark" / "protocol.py"
RELATIONS = ("brand", "categories", "author", "series")
COLUMNS = ("warm", "tail", "cold", "overall")

CONFIG = """
seed = {seed}
folder = "run"
[data]
catalog = "items.parquet"
interactions = "train.parquet"
validation = "validation.parquet"
[lora]
enabled = {lora}
[graph]
relations = {relations}
"""


def main() -> None:
    """Parse, run each seed, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="name of a data set that the judge knows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lora", action="store_true", help="fine-tune the encoder first")
    parser.add_argument("--model", default="hybrid")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="TABLE.KEY=VALUE")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "judge", help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    arguments = parser.parse_args()
    if not arguments.protocol.is_file():
        sys.exit(f"there is no judge at {arguments.protocol}; name it with --protocol")
    results = []
    for seed in arguments.seeds:
        results.append(judge(arguments, seed))
        print(line(f"{arguments.data} seed {seed}", results[-1]["figures"]), flush=True)
    if len(results) > 1:
        print(line("mean", {c: mean([r["figures"][c] for r in results]) for c in COLUMNS}))
        print(line("spread (sd)", {c: spread([r["figures"][c] for r in results]) for c in COLUMNS}))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1))


def judge(arguments: argparse.Namespace, seed: int) -> dict:
    """Run one seed and return its figures and costs."""
    folder = arguments.work / f"{arguments.data}-{seed}{'-lora' if arguments.lora else ''}"
    call([sys.executable, arguments.protocol, "prepare", arguments.data, seed, folder])
    has = pq.read_schema(folder / "items.parquet").names
    config = folder / "run.toml"
    relations = [r for r in RELATIONS if r in has]
    config.write_text(CONFIG.format(seed=seed, lora=str(arguments.lora).lower(), relations=json.dumps(relations)))
    overrides = [word for override in arguments.overrides for word in ("--set", override)]
    tool = [sys.executable, "-m", "llm_tail"]
    started = time.perf_counter()
    stages = json.loads(call([*tool, "run", config, "--until", "fit", "--json", *overrides]))
    seconds = time.perf_counter() - started
    said = judged(arguments, seed, folder, arguments.model, overrides)
    found = {name: (float(r), float(n)) for name, r, n in re.findall(r"(\w+) (\d\.\d+)/(\d\.\d+)", said)}
    return {"data": arguments.data, "seed": seed, "figures": found, "seconds": seconds, "run": stages}


def judged(arguments: argparse.Namespace, seed: int, folder: Path, model: str, overrides: list[str]) -> str:
    """Let a finished run recommend for each task, and return what the judge says of it."""
    for task in ("warm", "cold", "overall"):
        asked = ["--users", folder / f"users_{task}.txt", "--candidates", folder / f"candidates_{task}.txt"]
        out = ["--model", model, "--out", folder / f"recs_{task}.parquet"]
        call([sys.executable, "-m", "llm_tail", "recommend", folder / "run.toml", *asked, "-k", 20, *out, *overrides])
    return call([sys.executable, arguments.protocol, "judge", arguments.data, seed, folder])


def call(words: list) -> str:
    """Run a command and return what it printed; stop with its own words where it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def mean(pairs: list) -> tuple[float, float]:
    """Return the mean of each figure."""
    return statistics.mean(r for r, _ in pairs), statistics.mean(n for _, n in pairs)


def spread(pairs: list) -> tuple[float, float]:
    """Return the standard deviation of each figure."""
    return statistics.stdev(r for r, _ in pairs), statistics.stdev(n for _, n in pairs)


def line(label: str, figures: dict) -> str:
    """Return one line of R@20/N@20."""
    return f"{label:28s} " + " | ".join(f"{c} {figures[c][0]:.4f}/{figures[c][1]:.4f}" for c in COLUMNS)


if __name__ == "__main__":
    main()
