import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from llm_tail.artifacts import read_manifest
from llm_tail.config import LoraConfig
from llm_tail.embedding.adapters import attach
from llm_tail.embedding.encoder import Encoder
from llm_tail.errors import ConfigError, MissingExtraError, NotFittedError, StaleArtifactError

from .conftest import NAMES, save_tokenizer

KINDS = ["lora", "rslora", "dora", "ia3", "prefix", "top-layers", "full"]
RATES = {"ia3": 0.05, "prefix": 0.05, "top-layers": 2e-3, "full": 1e-3}
MERGED = [kind for kind in KINDS if kind != "prefix"]
MODELS = ["bert_folder", "decoder_folder", "mistral_like_folder"]
TEXTS = ["the whale", "a captain hunts the whale of the sea", "an iron pan fries an egg", "book"]


def settings_of(kind):
    return LoraConfig(kind=kind, rank=4, top_layers=1)


def trained(base, kind, *, seed=0, steps=2):
    """An encoder after a few steps that pull the first two texts together and the others away."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = attach(base, settings_of(kind))
        weights = [p for p in encoder.model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=RATES.get(kind, 5e-3))
        tokens = encoder.tokenize(TEXTS)
        for _ in range(steps):
            vectors = encoder.forward(tokens)
            loss = torch.nn.functional.cross_entropy(vectors @ vectors.T / 0.2, torch.tensor([1, 0, 3, 2]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    encoder.seal_adapter()
    return encoder


@pytest.fixture(scope="module")
def made(request):
    """What `trained` made, by model and kind: base, tuned, folder of the base."""
    known = {}

    def make(model, kind):
        if (model, kind) not in known:
            folder = request.getfixturevalue(model)
            base = Encoder.load(folder, precision="fp32")
            known[model, kind] = (base, trained(base, kind), folder)
        return known[model, kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_it_learns_and_the_base_stays(made, model, kind):
    base, tuned, folder = made(model, kind)
    assert np.abs(tuned.encode(TEXTS) - base.encode(TEXTS)).max() > 1e-3
    np.testing.assert_array_equal(base.encode(TEXTS), Encoder.load(folder, precision="fp32").encode(TEXTS))
    assert base.adapter is None and base.n_trainable == 0 and all(p.requires_grad for p in base.model.parameters())
    assert not any(p.requires_grad for p in tuned.model.parameters())
    assert tuned.fingerprint != base.fingerprint and f"with adapter ({kind})" in repr(tuned)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_save_and_load(made, model, kind, tmp_path):
    _, tuned, folder = made(model, kind)
    state = torch.random.get_rng_state()
    loaded = Encoder.load(folder, adapter=tuned.save_adapter(tmp_path / "adapter"), precision="fp32")
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_allclose(loaded.encode(TEXTS), tuned.encode(TEXTS), atol=1e-6)
    assert loaded.fingerprint == tuned.fingerprint and loaded.n_trainable == tuned.n_trainable
    again = Encoder.load(folder, adapter=loaded.save_adapter(tmp_path / "again"), precision="fp32")
    assert again.fingerprint == tuned.fingerprint
    facts = read_manifest(tmp_path / "adapter")["facts"]
    assert facts["kind"] == kind and facts["trainable_share"] == pytest.approx(tuned.trainable_share)
    assert {path.suffix for path in (tmp_path / "adapter").glob("*/*")} <= {".json", ".safetensors"}


@pytest.mark.parametrize("kind", MERGED)
@pytest.mark.parametrize("model", MODELS)
def test_merged_and_saved_it_needs_nothing_of_this_package(made, model, kind, tmp_path):
    base, tuned, _ = made(model, kind)
    merged = tuned.merge()
    expected = tuned.encode(TEXTS)
    np.testing.assert_allclose(merged.encode(TEXTS), expected, atol=1e-5)
    assert merged.adapter is None and merged.n_trainable == 0 and merged.fingerprint != base.fingerprint
    plain = SentenceTransformer(str(tuned.save(tmp_path / "saved")), device="cpu")
    found = plain.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False, prompt=tuned.config.document_prompt)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_padding_does_not_matter(made, model, kind):
    _, tuned, _ = made(model, kind)
    expected = np.vstack([tuned.encode([text]) for text in TEXTS])
    side = tuned.padding_side
    for tuned.padding_side in ("right",) if model == "bert_folder" else ("left", "right"):
        np.testing.assert_allclose(tuned.encode(TEXTS), expected, atol=1e-5)
    tuned.padding_side = side


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_strength_goes_from_the_base_to_what_was_tuned(made, model, kind, tmp_path):
    base, tuned, folder = made(model, kind)
    ends = [base.encode(TEXTS), tuned.encode(TEXTS)]
    half = tuned.with_strength(0.5)
    np.testing.assert_allclose(tuned.with_strength(0.0).encode(TEXTS), ends[0], atol=1e-6)
    np.testing.assert_allclose(tuned.with_strength(1.0).encode(TEXTS), ends[1], atol=1e-6)
    np.testing.assert_array_equal(tuned.encode(TEXTS), ends[1])
    assert tuned.with_strength(1.0).fingerprint == tuned.fingerprint
    assert len({half.fingerprint, tuned.fingerprint, base.fingerprint}) == 3
    middle = half.encode(TEXTS)
    away = [np.linalg.norm(middle - end) for end in ends]
    assert max(away) < np.linalg.norm(ends[0] - ends[1]) and min(away) > 1e-4
    loaded = Encoder.load(folder, adapter=half.save_adapter(tmp_path / "half"), precision="fp32")
    np.testing.assert_allclose(loaded.encode(TEXTS), middle, atol=1e-6)
    assert loaded.fingerprint == half.fingerprint
    if kind != "prefix":
        np.testing.assert_allclose(half.merge().encode(TEXTS), middle, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@given(first=st.floats(0.1, 1), second=st.floats(0.1, 1))
@settings(max_examples=3, deadline=None)
def test_strengths_multiply(made, kind, first, second):
    _, tuned, _ = made("bert_folder", kind)
    vectors = tuned.with_strength(first).with_strength(second).encode(TEXTS)
    np.testing.assert_allclose(vectors, tuned.with_strength(first * second).encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_learns_and_what_is_shared(decoder, kind):
    torch.manual_seed(0)
    encoder = attach(decoder, settings_of(kind))
    own = {n: p for n, p in encoder.model.named_parameters() if p.requires_grad}
    frozen = {p.data_ptr() for p in encoder.model.parameters() if not p.requires_grad}
    base = {p.data_ptr() for p in decoder.model.parameters()}
    assert not base & {p.data_ptr() for p in own.values()} and frozen <= base
    assert sum(p.numel() for p in own.values()) == encoder.n_trainable
    n_base = sum(p.numel() for p in decoder.model.parameters())
    assert encoder.trainable_share == encoder.n_trainable / n_base
    if kind == "full":
        assert encoder.n_trainable == n_base
    elif kind == "top-layers":
        assert own and all(".layers.1." in name for name in own)
    elif kind == "prefix":
        assert encoder.n_trainable == 2 * 2 * 2 * 4 * 8  # layers, keys and values, heads of them, tokens, width
    else:
        assert all("lora_" in name or "ia3" in name for name in own)
    if kind != "prefix":  # all others start at the base
        np.testing.assert_allclose(encoder.encode(TEXTS), decoder.encode(TEXTS), atol=1e-5)
    with pytest.raises(NotFittedError, match=r"seal_adapter\(\)"):
        encoder.merge()


def test_two_attached_at_once_do_not_disturb_each_other(decoder):
    alone = trained(decoder, "lora").encode(TEXTS)
    others = [attach(decoder, settings_of(kind)) for kind in KINDS]
    np.testing.assert_array_equal(trained(decoder, "lora").encode(TEXTS), alone)
    assert all(any(p.requires_grad for p in other.model.parameters()) for other in others)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_minilm(minilm, kind, tmp_path):
    before = minilm.encode(TEXTS)
    tuned = trained(minilm, kind, steps=1)
    expected = tuned.encode(TEXTS)
    assert np.abs(expected - before).max() > 1e-3
    np.testing.assert_array_equal(minilm.encode(TEXTS), before)
    folder = tuned.save_adapter(tmp_path / "adapter")
    loaded = Encoder.load(NAMES["minilm"], adapter=folder, precision="fp32")
    np.testing.assert_allclose(loaded.encode(TEXTS), expected, atol=1e-6)
    plain = SentenceTransformer(str(tuned.save(tmp_path / "saved")), device="cpu")
    np.testing.assert_allclose(
        plain.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False), expected, atol=1e-5
    )
    if kind == "full":  # the pooler learned nothing and is not written
        (file,) = folder.glob("*/tuned.safetensors")
        assert len(load_file(file)) == len(tuned.tuning.base) - 2


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_too(decoder_folder, kind):
    base = Encoder.load(decoder_folder, precision="bf16")
    tuned = trained(base, kind)
    assert np.abs(tuned.encode(TEXTS) - base.encode(TEXTS)).max() > 1e-3
    if kind != "prefix":
        assert (tuned.merge().encode(TEXTS) * tuned.encode(TEXTS)).sum(1).min() > 0.999


def test_weights_stored_in_bf16_are_tuned_in_fp32(decoder_folder, tmp_path):
    folder = tmp_path / "half"
    Encoder.load(decoder_folder).model[0].model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    base = Encoder.load(folder, precision="bf16")
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    for kind in ("full", "top-layers", "prefix"):
        tuned = trained(base, kind)
        own = load_file(next(tuned.save_adapter(tmp_path / kind).glob("*/tuned.safetensors")))
        assert {weight.dtype for weight in own.values()} == {torch.float32}
        loaded = Encoder.load(folder, adapter=tmp_path / kind, precision="bf16")
        np.testing.assert_allclose(loaded.encode(TEXTS), tuned.encode(TEXTS), atol=1e-6)
        half = tuned.with_strength(0.5).encode(TEXTS)
        assert np.isfinite(half).all()


@pytest.mark.parametrize("kind", ["full", "prefix"])
def test_another_base_is_refused(made, kind, mistral_like_folder, tmp_path):
    _, tuned, _ = made("decoder_folder", kind)
    folder = tuned.save_adapter(tmp_path / "adapter")
    with pytest.raises(StaleArtifactError, match=r"trained on .*tiny-qwen3.*the encoder is .*e5-mistral-tiny"):
        Encoder.load(mistral_like_folder, adapter=folder)


def test_an_adapter_written_before_there_were_kinds_is_a_lora(made, tmp_path):
    _, tuned, base = made("decoder_folder", "lora")
    folder = tuned.save_adapter(tmp_path / "adapter")
    manifest = json.loads((folder / "manifest.json").read_text())
    from llm_tail.artifacts import write_artifact

    old = {name: manifest["facts"][name] for name in ("base", "base_weights", "adapter")}
    with write_artifact(tmp_path / "old", manifest["kind"], manifest["fingerprint"], old) as draft:
        for path in (folder / manifest["generation"]).iterdir():
            draft.file(path.name).write_bytes(path.read_bytes())
    loaded = Encoder.load(base, adapter=tmp_path / "old", precision="fp32")
    np.testing.assert_allclose(loaded.encode(TEXTS), tuned.encode(TEXTS), atol=1e-6)
    assert (loaded.tuning.kind, loaded.n_trainable) == ("lora", tuned.n_trainable)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_never_learned_is_the_base(decoder, decoder_folder, kind, tmp_path):
    encoder = attach(decoder, settings_of(kind))
    with pytest.raises(NotFittedError, match=r"seal_adapter\(\)"):
        encoder.save_adapter(tmp_path)
    encoder.seal_adapter()
    loaded = Encoder.load(decoder_folder, adapter=encoder.save_adapter(tmp_path), precision="fp32")
    np.testing.assert_allclose(loaded.encode(TEXTS), decoder.encode(TEXTS), atol=1e-6)
    assert loaded.tuning.kind == kind and loaded.fingerprint == encoder.fingerprint


def test_alpha_is_part_of_the_fingerprint(decoder):
    found = set()
    for alpha in (8.0, 16.0):
        torch.manual_seed(0)
        encoder = attach(decoder, LoraConfig(rank=4, alpha=alpha))
        encoder.seal_adapter()
        found.add(encoder.fingerprint)
    assert len(found) == 2


def test_what_a_prefix_cannot_do(made, tmp_path):
    _, tuned, _ = made("bert_folder", "prefix")
    for call in (tuned.merge, lambda: tuned.save(tmp_path / "saved")):
        with pytest.raises(ConfigError, match=r"cannot be merged.*save_adapter\(folder\)"):
            call()


def test_an_architecture_with_attention_of_its_own_takes_no_prefix(tmp_path):
    from transformers import MPNetConfig, MPNetModel

    folder = tmp_path / "tiny-mpnet"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = MPNetConfig(vocab_size=save_tokenizer(folder), initializer_range=0.2, **sizes)
    MPNetModel(config).save_pretrained(folder)
    base = Encoder.load(folder, precision="fp32")
    with pytest.raises(ConfigError, match=r"'prefix' does not work for MPNetModel.*'lora', 'rslora'"):
        attach(base, settings_of("prefix"))
    for kind in ("dora", "ia3", "top-layers"):
        assert np.abs(trained(base, kind).encode(TEXTS) - base.encode(TEXTS)).max() > 1e-3


def test_misuse_is_named(made, decoder):
    _, tuned, _ = made("decoder_folder", "full")
    with pytest.raises(ConfigError, match=r"merge\(\)"):
        attach(tuned)
    for strength in (-0.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"expected a number from 0 \(base\) to 1 \(tuned\)"):
            tuned.with_strength(strength)
    with pytest.raises(ConfigError, match=r"'lora.top_layers' is 3, and the model has 2 blocks; take fewer"):
        attach(decoder, LoraConfig(kind="top-layers", top_layers=3))
    with pytest.raises(ConfigError, match=r"'kind' is 'adalora'.*'lora', 'rslora'"):
        LoraConfig(kind="adalora")
    with pytest.raises(NotFittedError, match="finetune"):
        decoder.seal_adapter()


def test_four_bits_say_what_they_need(decoder, monkeypatch):
    for kind in ("prefix", "ia3", "full"):
        with pytest.raises(ConfigError, match=rf"'lora.quantize' is true.*lora, rslora, dora, and not with '{kind}'"):
            attach(decoder, LoraConfig(kind=kind, quantize=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        attach(decoder, LoraConfig(quantize=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llm-tail\[qlora\]'"):
        attach(decoder, LoraConfig(quantize=True))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_trained_on_four_bits_it_stands_on_the_full_base(kind):
    pytest.importorskip("bitsandbytes")
    base = Encoder.load(NAMES["minilm"], device="cpu", precision="fp32")
    small = attach(base, LoraConfig(kind=kind, rank=4, quantize=True))
    assert small.model.device.type == "cuda" and small.trainable_share < 0.02
    assert (small.encode(TEXTS) * base.encode(TEXTS)).sum(1).min() > 0.9
    small.seal_adapter()
    np.testing.assert_allclose(small.encode(TEXTS), base.encode(TEXTS), atol=1e-2)
    assert small.model.device.type == base.model.device.type == "cpu"
