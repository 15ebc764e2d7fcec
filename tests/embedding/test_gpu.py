"""The same calls on a CUDA device; run by hand with ``pytest -m gpu -s``."""

import time

import numpy as np
import pytest
import torch

from llm_tail.config import LoraConfig
from llm_tail.data.books import load_books
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.finetune import finetune
from llm_tail.embedding.pairs import TextPairs
from llm_tail.embedding.text import ItemText

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")]


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "top-layers", "full"])
def test_every_kind_trains_in_bf16_and_encodes_as_the_processor_does(kind, tmp_path):
    catalog, events = load_books()
    base = Encoder.load(device="cuda", precision="bf16")
    pairs = TextPairs.from_interactions(events, catalog, n_pairs=1024)
    tuned = finetune(base, pairs, LoraConfig(kind=kind, n_pairs=1024), folder=tmp_path / "adapter")
    assert np.isfinite(tuned.training.losses).all()
    texts = ItemText().texts(catalog)
    there = Encoder.load(adapter=tmp_path / "adapter", device="cpu", precision="fp32").encode(texts[:64])
    assert (np.einsum("ij,ij->i", tuned.encode(texts[:64]), there) > 0.995).all()


def test_texts_a_second(record_property):
    texts = ItemText().texts(load_books()[0]) * 40
    for precision in ("fp32", "bf16"):
        encoder = Encoder.load(device="cuda", precision=precision)
        encoder.encode(texts[:512], batch_tokens=65_536)
        torch.cuda.synchronize()
        started = time.perf_counter()
        encoder.encode(texts, batch_tokens=65_536)
        rate = len(texts) / (time.perf_counter() - started)
        record_property(f"texts_per_second_{precision}", rate)
        print(f"\n{encoder.model[0].model.config._attn_implementation} {precision}: {rate:,.0f} texts/s")
        assert rate > 0
