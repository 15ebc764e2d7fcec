"""How long SampledSoftmaxFactors takes, and how much memory, on a made catalogue of any size.

People have a taste, one of a hundred; nine of ten of their items are of it, and items are popular by Zipf's law. One
event of each person out of a thousand is held back, so that early stopping has something to look at::

    python -m tests.benchmarks.factors_scale --items 1000000 --events 10000000 --epochs 5

One line of JSON: seconds to make and to fit, seconds of all processors together, events a second of training, peak
memory of the process, NDCG@20 of the held-back events. On one core: 90,000 events a second of processor time at 100,000
items, 70,000 (in the training alone) at a million; 2.5 GB for a million items and a million events.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

N_TASTES = 100


def main() -> None:
    """Make a catalogue, fit, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--minutes", type=float, default=None)
    print(json.dumps(measure(parser.parse_args())))


def measure(arguments: argparse.Namespace) -> dict:
    """Fit once and return what it took."""
    from llm_tail.recommenders.factors import SampledSoftmaxFactors

    started = time.perf_counter()
    train, held = make(arguments.items, arguments.events)
    made, busy = time.perf_counter(), time.process_time()
    before = peak_gb()
    model = SampledSoftmaxFactors(
        factors=arguments.factors,
        negatives=arguments.negatives,
        batch_events=arguments.batch,
        epochs=arguments.epochs,
        learning_rate=arguments.rate,
        max_minutes=arguments.minutes,
    )
    model.fit(train, validation=held)
    seconds = time.perf_counter() - made
    epochs = model.training["epochs"]
    return {
        "items": arguments.items,
        "events": len(train),
        "people": len(train.users),
        "factors": arguments.factors,
        "made_s": round(made - started, 1),
        "fit_s": round(seconds, 1),
        "cpu_s": round(time.process_time() - busy, 1),
        "epochs": epochs,
        "events_per_s": round(epochs * len(train) / seconds),
        "peak_gb_before": before,
        "peak_gb": peak_gb(),
        "loss": [round(x, 3) for x in model.training["loss"]],
        "ndcg": [round(m["overall"], 4) for m in model.training["measured"]],
    }


def make(n_items: int, n_events: int, seed: int = 0) -> tuple:
    """Return training and held-back interactions: ten events a person, Zipf's law, a taste for each."""
    from llm_tail.data.ids import IdMap
    from llm_tail.data.interactions import Interactions

    rng = np.random.default_rng(seed)
    n_users = max(1, n_events // 10)
    user = np.repeat(np.arange(n_users), 10)
    popular = np.minimum(
        (n_items ** rng.random(len(user))).astype(np.int64), n_items - 1
    )  # log-uniform: about 1 / rank
    taste = (user * 7919) % N_TASTES
    item = np.where(rng.random(len(user)) < 0.9, popular // N_TASTES * N_TASTES + taste, popular) % n_items
    users, items = (
        IdMap([f"{x}{n}" for n in range(size)], kind)
        for x, size, kind in (("u", n_users, "user"), ("i", n_items, "item"))
    )
    out = (user % 1000 == 0) & (np.arange(len(user)) % 10 == 9)
    return tuple(Interactions(users, items, user[mask], item[mask]) for mask in (~out, out))


def peak_gb() -> float:
    """Return the most memory that this process has held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    main()
