import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from llm_tail.config import EncoderConfig, LoraConfig, PretrainConfig
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.pretrain import pretrain
from llm_tail.embedding.tokens import batches
from llm_tail.errors import ConfigError, DataError, NotFittedError

from .conftest import NAMES

TEXTS = ["the whale", "a captain hunts the whale of the sea", "", "an iron pan fries an egg", "  \n", "book"]


def test_minilm_equals_sentence_transformers(minilm):
    reference = minilm.model.encode(["the whale", "an iron pan"], normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(minilm.encode(["the whale", "an iron pan"]), reference, atol=1e-6)
    assert (minilm.dim, minilm.pooling, minilm.max_tokens) == (384, "mean", 128)


@pytest.mark.parametrize("name", ["minilm", "decoder"])
def test_unit_rows_zero_for_no_words_and_right_order(name, request):
    encoder = request.getfixturevalue(name)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (6, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1, 0, 1], atol=1e-6)
    one_by_one = np.vstack([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-5)
    assert encoder.encode([]).shape == (0, encoder.dim)


@pytest.mark.parametrize("name", ["minilm", "decoder"])
@pytest.mark.parametrize("batch_tokens", [1, 16, 100_000])
def test_a_text_does_not_depend_on_its_batch(name, batch_tokens, request):
    encoder = request.getfixturevalue(name)
    np.testing.assert_allclose(encoder.encode(TEXTS, batch_tokens=batch_tokens), encoder.encode(TEXTS), atol=1e-5)


def test_bf16_stays_near():
    exact, fast = (Encoder.load(NAMES["minilm"], precision=p) for p in ("fp32", "bf16"))
    a, b = exact.encode(TEXTS), fast.encode(TEXTS)
    words = np.array([bool(t.strip()) for t in TEXTS])
    assert (a * b).sum(1)[words].min() > 0.999
    np.testing.assert_allclose(fast.encode(TEXTS, batch_tokens=1), b, atol=5e-3)
    assert exact.fingerprint != fast.fingerprint
    assert exact.base_weights == fast.base_weights


# ---- vectors that are cut


@pytest.fixture(scope="module")
def cut():
    return Encoder.load(NAMES["minilm"], precision="fp32", dim=64)


def test_cut_vectors_are_the_first_components_at_length_1(minilm, cut):
    whole = minilm.encode(TEXTS)[:, :64]
    lengths = np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(cut.encode(TEXTS), whole / np.where(lengths > 0, lengths, 1), atol=1e-6)
    assert cut.dim == 64 and cut.forward(cut.tokenize(["the whale"])).shape == (1, 64)
    assert cut.fingerprint != minilm.fingerprint and cut.base_weights == minilm.base_weights
    same = Encoder.load(NAMES["minilm"], precision="fp32", dim=384)
    assert same.dim == 384 and same.fingerprint == minilm.fingerprint


def test_a_saved_encoder_cuts_its_vectors_itself(cut, tmp_path):
    folder = cut.save(tmp_path / "cut")
    alone = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    ours = cut.encode(TEXTS[:2])
    np.testing.assert_allclose(alone.encode(TEXTS[:2], normalize_embeddings=True), ours, atol=1e-6)
    again = Encoder.load(folder, precision="fp32")
    assert again.dim == 64 and Encoder.load(folder, precision="fp32", dim=100).dim == 100
    np.testing.assert_allclose(again.encode(TEXTS[:2]), ours, atol=1e-6)


def test_an_adapter_on_cut_vectors_is_merged_and_read_again(cut, tmp_path):
    tuned = cut.with_adapter(LoraConfig(rank=2))
    tuned.seal_adapter()
    assert tuned.dim == tuned.merge().dim == tuned.with_strength(0.5).dim == 64
    tuned.save_adapter(tmp_path / "adapter")
    same = Encoder.load(NAMES["minilm"], precision="fp32", dim=64, adapter=tmp_path / "adapter")
    assert same.fingerprint == tuned.fingerprint


@pytest.mark.parametrize("method", ["lm", "tsdae"])
def test_cut_vectors_do_not_keep_from_pre_training(cut, method):
    adapted = pretrain(cut, TEXTS[:2], PretrainConfig(method=method, max_steps=1, max_tokens=8))
    assert adapted.dim == 64 and adapted.encode(TEXTS[:1]).shape == (1, 64)


def test_vectors_cannot_be_cut_to_more_than_there_is():
    with pytest.raises(ConfigError, match=r"'encoder\.dim' is 385, and the vectors of this model are 384 wide"):
        Encoder.load(NAMES["minilm"], dim=385)


# ---- batches


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_hold_each_text_once_within_their_size(lengths, batch_tokens):
    array = np.array(lengths, dtype=np.int64)
    parts = list(batches(array, batch_tokens))
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or len(part) * array[part].max() <= batch_tokens for part in parts)


def states(encoder, text):
    """The token states of one text, by the transformer alone."""
    ids = torch.tensor([encoder.tokenize([text])[0]])
    with torch.inference_mode():
        return encoder.model[0].model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()


@pytest.mark.parametrize(
    ("pooling", "by_hand"), [("mean", lambda s: s.mean(0)), ("cls", lambda s: s[0]), ("last", lambda s: s[-1])]
)
@pytest.mark.parametrize("name", ["minilm", "decoder"])
def test_pooling_by_hand(name, pooling, by_hand, request, decoder_folder):
    source = NAMES.get(name, decoder_folder)
    encoder = Encoder.load(source, precision="fp32", pooling=pooling)
    expected = np.stack([by_hand(states(encoder, text)) for text in (TEXTS[0], TEXTS[1])])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode([TEXTS[0], TEXTS[1]]), expected, atol=1e-5)
    assert encoder.pooling == pooling


def test_a_decoder_is_read_at_its_last_token_and_padded_on_the_left(decoder_folder):
    encoder = Encoder.load(decoder_folder, precision="fp32")
    assert (encoder.pooling, encoder.padding_side, encoder.max_tokens) == ("last", "left", 64)
    left = encoder.encode(TEXTS)
    encoder.padding_side = "right"
    np.testing.assert_allclose(encoder.encode(TEXTS), left, atol=1e-5)


def test_a_decoder_in_bf16(decoder_folder, decoder):
    fast = Encoder.load(decoder_folder, precision="bf16")
    assert (fast.encode(TEXTS) * decoder.encode(TEXTS)).sum(1)[0] > 0.99


def test_e5_mistral_gets_its_prompt_and_its_end_token(mistral_like_folder):
    encoder = Encoder.load(mistral_like_folder, precision="fp32")
    assert encoder.pooling == "last" and encoder.config.query_prompt.startswith("Instruct: Given a web search query")
    end = encoder.model.tokenizer.eos_token_id
    assert all(tokens[-1] == end for tokens in encoder.tokenize(["the whale", "whale " * 100]))
    assert len(encoder.tokenize(["whale " * 100])[0]) == 64
    difference = encoder.encode(["the whale"], kind="query") - encoder.encode(["the whale"])
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("folder", ["decoder_folder", "mistral_like_folder"])
def test_a_saved_decoder_is_a_plain_sentence_transformer(folder, request, tmp_path):
    encoder = Encoder.load(request.getfixturevalue(folder), precision="fp32", max_tokens=16)
    texts = ["the whale", "a captain hunts the whale " * 10]
    saved = encoder.save(tmp_path / "saved")
    plain = SentenceTransformer(str(saved), device="cpu").encode(
        texts, normalize_embeddings=True, show_progress_bar=False
    )
    np.testing.assert_allclose(plain, encoder.encode(texts), atol=1e-5)
    np.testing.assert_allclose(Encoder.load(saved, precision="fp32").encode(texts), plain, atol=1e-5)


def test_prompts_own_then_given(tmp_path, minilm):
    folder = minilm.save(tmp_path / "own")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": {"query": "ask: ", "passage": "say: "}}))
    own = Encoder.load(folder, precision="fp32")
    assert (own.config.query_prompt, own.config.document_prompt) == ("ask: ", "say: ")
    np.testing.assert_allclose(own.encode(["whale"]), minilm.encode(["say: whale"]), atol=1e-5)
    np.testing.assert_allclose(own.encode(["whale"], kind="query"), minilm.encode(["ask: whale"]), atol=1e-5)
    given_ = Encoder.load(folder, precision="fp32", query_prompt="", document_prompt="")
    np.testing.assert_allclose(given_.encode(["whale"]), minilm.encode(["whale"]), atol=1e-5)
    assert given_.fingerprint != own.fingerprint


def test_the_fingerprint_is_the_same_for_the_same_settings_only(minilm):
    same = Encoder.load(config=EncoderConfig(precision="fp32"))
    assert same.fingerprint == minilm.fingerprint
    for change in ({"max_tokens": 64}, {"pooling": "cls"}, {"document_prompt": "x "}):
        assert Encoder.load(config=EncoderConfig(precision="fp32"), **change).fingerprint != minilm.fingerprint


def test_counts_are_those_before_the_cut(minilm):
    np.testing.assert_array_equal(minilm.token_counts(["whale", "whale " * 200]), [3, 202])
    assert minilm.token_counts([]).shape == (0,)


def test_misuse_is_named(minilm, tmp_path):
    with pytest.raises(DataError, match="put it into a list"):
        minilm.encode("one text")
    with pytest.raises(ConfigError, match="expected 'document' or 'query'"):
        minilm.encode(["a"], kind="passage")
    with pytest.raises(ConfigError, match=r"'encoder\.device' is 'cuda:99'"):
        Encoder.load(device="cuda:99")
    with pytest.raises(NotFittedError, match="finetune"):
        minilm.save_adapter(tmp_path)


def test_a_damaged_model_is_a_clear_error(tmp_path, minilm):
    folder = minilm.save(tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(DataError, match="cannot be loaded"):
        Encoder.load(folder)


def test_nothing_is_said_on_the_screen(capfd, decoder_folder, tmp_path):
    Encoder.load(decoder_folder).save(tmp_path / "saved")
    Encoder.load(decoder_folder).encode(["whale"], progress=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["minilm", "decoder"])
def test_tokens_are_counted_while_encoding_as_they_are_on_their_own(name, request):
    encoder = request.getfixturevalue(name)
    texts = ["a", "", "whale " * 400, "the sea " * (encoder.max_tokens // 2), "a " * (encoder.max_tokens - 2)]
    vectors, counts = encoder.encode_counted(texts)
    np.testing.assert_array_equal(counts[1:2], 0)
    np.testing.assert_array_equal(np.delete(counts, 1), np.delete(encoder.token_counts(texts), 1))
    np.testing.assert_array_equal(vectors, encoder.encode(texts))


def test_a_cut_encoder_says_whose_vectors_it_cuts(minilm):
    cut = Encoder.load(NAMES["minilm"], precision="fp32", dim=64)
    assert cut.fingerprint != minilm.fingerprint
    assert cut.uncut_fingerprint == minilm.uncut_fingerprint == minilm.fingerprint
