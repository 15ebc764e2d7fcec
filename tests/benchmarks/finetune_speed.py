"""How fast and how lean fine-tuning is, beside a plain trainer on the same machine, in one run.

The plain trainer is the ``SentenceTransformerTrainer`` of sentence-transformers with its defaults: the same LoRA from
peft, ``MultipleNegativesRankingLoss``, the same pairs of texts, the same batch, the same cut in tokens::

    python -m tests.benchmarks.finetune_speed

Each of the two runs in a process of its own, in turns, so that peaks of memory do not mix; the ratio of the medians is
what counts. The texts are the shipped books, title and description.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 3


def main() -> None:
    """Run both in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=("plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, list[dict]] = {"plain": [], "ours": []}
    for _ in range(arguments.rounds):
        for name, results in found.items():
            words = [sys.executable, "-m", "tests.benchmarks.finetune_speed", "--one", name]
            words += [f"--{key}={getattr(arguments, key)}" for key in ("pairs", "batch", "tokens")]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"| {arguments.pairs} pairs, batch {arguments.batch}, {arguments.tokens} tokens | pairs/s | peak memory |")
    print("| --- | --- | --- |")
    medians = {}
    for name, results in found.items():
        rates = [r["pairs_per_second"] for r in results]
        peak = statistics.median(r["peak_mb"] for r in results)
        medians[name] = (statistics.median(rates), peak)
        print(f"| {name} | {medians[name][0]:.1f} ({min(rates):.1f} to {max(rates):.1f}) | {peak:,.0f} MB |")
    fast, lean = (medians["ours"][i] / medians["plain"][i] for i in (0, 1))
    print(f"| ours / plain | {fast:.2f}x | {lean:.2f}x |")


def measure(arguments: argparse.Namespace) -> dict:
    """Train once and return pairs a second and the peak of this process."""
    import numpy as np
    import torch

    import llm_tail as lt
    from llm_tail.config import LoraConfig
    from llm_tail.data.books import load_catalog
    from llm_tail.embedding.text import ItemText

    texts = ItemText().texts(load_catalog())
    rng = np.random.default_rng(0)
    anchors = rng.integers(0, len(texts), arguments.pairs)
    positives = (anchors + rng.integers(1, len(texts), arguments.pairs)) % len(texts)
    config = LoraConfig(batch_size=arguments.batch, max_tokens=arguments.tokens, checkpoints=0)
    torch.manual_seed(0)
    if arguments.one == "ours":
        popularity = np.full(len(texts), -np.log(len(texts)), np.float32)
        pairs = lt.TextPairs(anchors, positives, texts, popularity)
        encoder = lt.Encoder.load()
        started = time.perf_counter()
        lt.finetune(encoder, pairs, config)
        seconds = time.perf_counter() - started
    else:  # and no encoder of ours beside the model: it would count as memory of the other
        seconds = plain([texts[i] for i in anchors], [texts[i] for i in positives], config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"pairs_per_second": arguments.pairs / seconds, "peak_mb": peak}


def plain(anchors: list[str], positives: list[str], config) -> float:
    """Train as a user of sentence-transformers would, and return the seconds."""
    import peft
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    from llm_tail.config import DEFAULT_ENCODER
    from llm_tail.embedding.layers import target_layers
    from llm_tail.embedding.loading import find_device
    from llm_tail.embedding.sources import locate

    device = find_device("auto")
    model = SentenceTransformer(str(locate(DEFAULT_ENCODER)), device=str(device))
    model.max_seq_length = config.max_tokens
    layers = target_layers(model[0].model)
    model.add_adapter(peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=layers))
    data = Dataset.from_dict({"anchor": anchors, "positive": positives})
    with tempfile.TemporaryDirectory() as folder:
        settings = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=device.type == "cpu",
        )
        trainer = SentenceTransformerTrainer(model, settings, data, loss=MultipleNegativesRankingLoss(model))
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
