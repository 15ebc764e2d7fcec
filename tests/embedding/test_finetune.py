import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from llm_tail.config import LoraConfig
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.finetune import finetune
from llm_tail.embedding.pairs import TextPairs
from llm_tail.errors import ConfigError, DataError, NotFittedError, StaleArtifactError

SEA = ["whale sea", "the ship", "captain hunts", "sea novel"]
KITCHEN = ["iron pan", "egg cook", "kitchen steel", "cook fries"]
TEXTS = [*SEA, *KITCHEN]
SMALL = LoraConfig(
    rank=4, batch_size=8, learning_rate=1e-2, soft_labels=0.0, false_negatives="together", keep=0.0, temperature=0.05
)


def make_pairs(n=160, seed=0):
    rng = np.random.default_rng(seed)
    side = rng.integers(0, 2, n) * 4
    first = rng.integers(0, 4, n)
    second = (first + rng.integers(1, 4, n)) % 4
    return TextPairs(side + first, side + second, TEXTS, np.full(8, np.log(1 / 8), np.float32), {"n_events": n})


@pytest.fixture(scope="module")
def tuned(decoder):
    return finetune(decoder, make_pairs(), SMALL)


def gap(encoder):
    vectors = encoder.encode(TEXTS)
    near = vectors @ vectors.T
    inside = (near[:4, :4].sum() + near[4:, 4:].sum() - 8) / 24
    return inside - near[:4, 4:].mean()


def test_what_people_take_together_moves_together_and_the_base_stays(decoder, tuned):
    before = decoder.encode(TEXTS)
    assert gap(tuned) > gap(decoder) + 0.2
    assert len(tuned.training.losses) == 20 and tuned.training.losses[-1] < tuned.training.losses[0]
    np.testing.assert_array_equal(decoder.encode(TEXTS), before)
    assert decoder.adapter is None and not any("lora" in n for n, _ in decoder.model.named_parameters())
    assert tuned.fingerprint != decoder.fingerprint


def test_the_same_seed_gives_the_same_adapter_and_the_process_keeps_its_random_state(decoder, tuned):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = finetune(decoder, make_pairs(), SMALL)
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(again.encode(TEXTS), tuned.encode(TEXTS))
    assert again.fingerprint == tuned.fingerprint
    assert finetune(decoder, make_pairs(), SMALL, seed=1).fingerprint != tuned.fingerprint


def test_save_and_load_the_adapter(decoder, decoder_folder, tuned, tmp_path):
    folder = tuned.save_adapter(tmp_path / "adapter")
    loaded = Encoder.load(decoder_folder, adapter=folder, precision="fp32")
    np.testing.assert_allclose(loaded.encode(TEXTS), tuned.encode(TEXTS), atol=1e-5)
    assert loaded.fingerprint == tuned.fingerprint
    assert "with adapter" in repr(loaded)


def test_another_base_is_refused(tuned, mistral_like_folder, tmp_path):
    folder = tuned.save_adapter(tmp_path / "adapter")
    with pytest.raises(StaleArtifactError, match=r"trained on .*tiny-qwen3.*the encoder is .*e5-mistral-tiny"):
        Encoder.load(mistral_like_folder, adapter=folder)


def test_merged_and_saved_gives_the_same_vectors(tuned, tmp_path):
    merged = tuned.merge()
    np.testing.assert_allclose(merged.encode(TEXTS), tuned.encode(TEXTS), atol=1e-5)
    assert merged.adapter is None and merged.merge() is merged
    plain = SentenceTransformer(str(merged.save(tmp_path / "merged")), device="cpu")
    vectors = plain.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(vectors, tuned.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(gap(tuned), gap(merged), atol=1e-5)


def test_minilm_merged_and_saved(minilm, tmp_path):
    tuned = finetune(minilm, make_pairs(16), SMALL.replace(learning_rate=1e-3), folder=tmp_path / "adapter")
    assert np.abs(tuned.encode(TEXTS) - minilm.encode(TEXTS)).max() > 1e-3
    loaded = Encoder.load(minilm.config.name, adapter=tmp_path / "adapter", precision="fp32")
    np.testing.assert_allclose(loaded.encode(TEXTS), tuned.encode(TEXTS), atol=1e-5)
    plain = SentenceTransformer(str(tuned.save(tmp_path / "merged")), device="cpu")
    vectors = plain.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(vectors, tuned.encode(TEXTS), atol=1e-5)
    (log,) = tmp_path.glob("adapter/*/training.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[0]["provenance"]["n_events"] == 16
    assert [line["step"] for line in lines[1:]] == [1, 2] and lines[1]["loss"] == tuned.training.losses[0]


def test_in_bf16_too(decoder_folder):
    assert np.isfinite(
        finetune(Encoder.load(decoder_folder, precision="bf16"), make_pairs(16), SMALL).training.losses
    ).all()


def test_layers_that_do_not_exist(minilm):
    with pytest.raises(ConfigError, match=r"\['q_proj'\].*its linear layers are: dense, key, query, value"):
        finetune(minilm, make_pairs(4), SMALL.replace(target_modules=["q_proj"]))


def test_few_pairs_make_one_small_batch(decoder):
    assert len(finetune(decoder, make_pairs(3), SMALL).training.steps) == 1
    with pytest.raises(DataError, match="at least 2 pairs"):
        finetune(decoder, make_pairs(1), SMALL)


def test_no_second_adapter(tuned):
    with pytest.raises(ConfigError, match=r"merge\(\)"):
        finetune(tuned, make_pairs(4), SMALL)


def test_a_loss_that_is_no_number_names_the_step_and_saves_nothing(decoder, tuned, tmp_path, monkeypatch):
    folder = tuned.save_adapter(tmp_path / "adapter")
    before = sorted(p.name for p in folder.rglob("*"))
    pairs = make_pairs(16)
    pairs.log_popularity[:] = np.nan
    with pytest.raises(DataError, match=r"the loss became nan at step 1 of 2; nothing was saved"):
        finetune(decoder, pairs, SMALL, folder=folder)
    assert sorted(p.name for p in folder.rglob("*")) == before


def test_half_of_the_update_lies_between_base_and_tuned(decoder, decoder_folder, tmp_path):
    tuned = finetune(decoder, make_pairs(), SMALL.replace(learning_rate=1e-3))
    half = tuned.with_strength(0.5)
    vectors = [encoder.encode(TEXTS) for encoder in (decoder, half, tuned)]
    to_base, to_tuned, apart = (np.linalg.norm(vectors[a] - vectors[b], axis=1) for a, b in ((0, 1), (1, 2), (0, 2)))
    assert (to_base < apart).all() and (to_tuned < apart).all() and (apart > 0).all()
    np.testing.assert_allclose(tuned.with_strength(1.0).encode(TEXTS), vectors[2], atol=1e-6)
    np.testing.assert_allclose(tuned.with_strength(0.0).encode(TEXTS), vectors[0], atol=1e-6)
    assert len({half.fingerprint, tuned.fingerprint, decoder.fingerprint}) == 3
    half.save_adapter(tmp_path / "half")
    loaded = Encoder.load(decoder_folder, adapter=tmp_path / "half", precision="fp32")
    np.testing.assert_allclose(loaded.encode(TEXTS), vectors[1], atol=1e-5)
    with pytest.raises(NotFittedError, match="no adapter"):
        decoder.with_strength(0.5)


def test_fields_that_are_not_known_cannot_drop_out(decoder):
    with pytest.raises(ConfigError, match=r"with_fields\(catalog\)"):
        finetune(decoder, make_pairs(16), SMALL.replace(field_dropout=0.5))
