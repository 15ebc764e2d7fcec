"""Hold the metric code and GfCf against a published number: R@20/N@20 .1849/.1518 on the gowalla split of LightGCN.

Y. Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021, all 29,858 people, full ranking over
40,981 items without those of training::

    python tests/quality/gowalla.py

Needs train.parquet and test.parquet (user_id, item_id) in a folder ``gowalla`` of the shared data. Exits with 1 where
either figure is further than .0005 from the published one.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

from llm_tail import GfCf, Interactions
from llm_tail.evaluation.metrics import ndcg, recall

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("LLM_TAIL_DATA", ROOT.parent / "shared" / "data")) / "gowalla"
PUBLISHED = {"recall@20": 0.1849, "ndcg@20": 0.1518}
TOLERANCE = 0.0005


def main() -> None:
    """Fit, rank everybody, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seed", type=int, default=0, help="of the vector that the decomposition starts from")
    arguments = parser.parse_args()
    if not (arguments.data / "train.parquet").is_file():
        sys.exit(f"there is no train.parquet in {arguments.data}; name the folder with --data")
    train = Interactions.from_parquet(arguments.data / "train.parquet")
    test = Interactions.from_parquet(arguments.data / "test.parquet").on(train.items).for_users(train.users)
    started = time.perf_counter()
    model = GfCf(alpha=0.3, factors=256, seed=arguments.seed).fit(train)
    fitted = time.perf_counter()
    top = model.recommend(k=20).item_rows  # in blocks of 128 MB of scores
    ranked = time.perf_counter()
    relevant = test.matrix()
    found = {"recall@20": np.nanmean(recall(top, relevant)), "ndcg@20": np.nanmean(ndcg(top, relevant))}
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{model}: fit {fitted - started:.0f} s, rank {ranked - fitted:.0f} s, peak memory {gigabytes:.1f} GB")
    for name, value in found.items():
        print(f"{name} {value:.4f}, published {PUBLISHED[name]:.4f}, off by {value - PUBLISHED[name]:+.4f}")
    sys.exit(int(any(abs(value - PUBLISHED[name]) > TOLERANCE for name, value in found.items())))


if __name__ == "__main__":
    main()
