"""Have an outside judge rank by the texts alone, before and after fine-tuning, one line a variant.

Nothing but the vectors differs between two lines: the ranking is the plain text kernel (``--model content``), and the
figures are the judge's, on its test part. Tuning sees the judge's training part and validation only::

    python tests/quality/finetune.py amazon-scientific --seeds 0 1 2        frozen against tuned, mean and spread
    python tests/quality/finetune.py amazon-scientific --table ablation     what each ingredient gave
    python tests/quality/finetune.py amazon-scientific --table kinds        LoRA and its kin on the same budget

Prints markdown: N@20 by column, and what it is as a multiple of the frozen encoder's. ``--out`` keeps all as JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.quality.judge import COLUMNS, CONFIG, PROTOCOL, ROOT, call, judged

TABLES = {
    "main": {"frozen": None, "tuned": []},
    "ablation": {
        "frozen": None,
        "all of it": [],
        "taught by EASE": ["lora.teacher=ease"],
        "hard labels": ["lora.soft_labels=0.0", "lora.false_negatives=together"],
        "not centred": ["lora.centre=false"],
        "temperature .05": ["lora.temperature=0.05"],
        "nothing stays true": ["lora.keep=0.0"],
        "no others, nothing stays true": ["lora.keep=0.0", "lora.others=0"],
        "others no negatives": ["lora.others_apart=false"],
        "popularity correction .5": ["lora.popularity_correction=0.5"],
        "tail as often as head": ["lora.balance=1.0"],
        "half the pairs": ["lora.n_pairs=HALF"],
        "full update only": ["lora.strengths=[1.0]"],
        "hard negatives": ["lora.hard_negatives=1"],
        "sentence-transformers' loss": ["lora.loss=multiple-negatives"],
        "squared error": ["lora.loss=squared-error"],
    },
    "kinds": {
        "frozen": None,
        "full": ["lora.kind=full", "lora.learning_rate=5e-5"],
        "lora": [],
        "rslora": ["lora.kind=rslora"],
        "dora": ["lora.kind=dora"],
        "ia3": ["lora.kind=ia3", "lora.learning_rate=5e-3"],
        "prefix": ["lora.kind=prefix", "lora.learning_rate=5e-3"],
        "top-layers": ["lora.kind=top-layers", "lora.learning_rate=1e-4"],
    },
}


def main() -> None:
    """Parse, run each variant on each seed, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="name of a data set that the judge knows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", choices=TABLES, default="main")
    parser.add_argument("--only", nargs="+", help="run these variants only, beside frozen")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="TABLE.KEY=VALUE")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "finetune", help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    arguments = parser.parse_args()
    if not arguments.protocol.is_file():
        sys.exit(f"there is no judge at {arguments.protocol}; name it with --protocol")
    results: list[dict] = []
    for seed in arguments.seeds:
        folder = arguments.work / f"{arguments.data}-{seed}"
        call([sys.executable, arguments.protocol, "prepare", arguments.data, seed, folder])
        for name, changes in TABLES[arguments.table].items():
            if name == "frozen" or not arguments.only or name in arguments.only:
                results.append(measure(arguments, seed, folder, name, changes))
                print(line(results[-1], results), file=sys.stderr, flush=True)
                if arguments.out:
                    arguments.out.write_text(json.dumps(results, indent=1))
    print(table(results))


def measure(arguments: argparse.Namespace, seed: int, folder: Path, name: str, changes: list[str] | None) -> dict:
    """Run one variant up to its vectors, let the text kernel recommend, and ask the judge."""
    config = folder / "run.toml"
    config.write_text(CONFIG.format(seed=seed, lora=str(changes is not None).lower(), relations="[]"))
    label = re.sub(r"\W+", "-", name)
    changed = [*arguments.overrides, *(changes or []), f'folder="{label}"']
    half = next((int(c.partition("=")[2]) // 2 for c in arguments.overrides if c.startswith("lora.n_pairs")), 9_600)
    overrides = [word for change in changed for word in ("--set", change.replace("HALF", str(half)))]
    tool = [sys.executable, "-m", "llm_tail"]
    started = time.perf_counter()
    stages = json.loads(call([*tool, "run", config, "--until", "embed", "--json", *overrides]))
    seconds = time.perf_counter() - started
    said = judged(arguments, seed, folder, "content", overrides)
    found = {column: float(n) for column, n in re.findall(r"(\w+) \d\.\d+/(\d\.\d+)", said)}
    return {"name": name, "seed": seed, "ndcg": found, "seconds": seconds, "run": stages}


def line(result: dict, results: list[dict]) -> str:
    """Return one variant of one seed in a line."""
    frozen = next(r["ndcg"] for r in results if r["seed"] == result["seed"])
    cells = " | ".join(f"{c} {result['ndcg'][c]:.4f} ({result['ndcg'][c] / frozen[c]:.3f}x)" for c in COLUMNS)
    return f"{result['name']:28s} seed {result['seed']} {result['seconds']:5.0f} s | {cells}"


def table(results: list[dict]) -> str:
    """Return markdown: for each variant the mean over seeds, its spread, and the multiple of frozen."""
    seeds = sorted({r["seed"] for r in results})
    lines = [f"| N@20, seeds {seeds} | {' | '.join(COLUMNS)} | minutes |", "| --- |" + " --- |" * (len(COLUMNS) + 1)]
    frozen = {c: statistics.mean(r["ndcg"][c] for r in results if r["name"] == "frozen") for c in COLUMNS}
    for name in dict.fromkeys(r["name"] for r in results):
        mine = [r for r in results if r["name"] == name]
        cells = []
        for column in COLUMNS:
            values = [r["ndcg"][column] for r in mine]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            mean = statistics.mean(values)
            times = "" if name == "frozen" else f" ({mean / frozen[column]:.2f}x)"
            cells.append(f"{mean:.4f}{spread}{times}".replace("0.", "."))
        minutes = statistics.mean(r["seconds"] for r in mine) / 60
        lines.append(f"| {name} | {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
