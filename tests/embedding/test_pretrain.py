import copy
import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, MPNetConfig, MPNetModel, PreTrainedTokenizerFast

from llm_tail.config import LoraConfig, PretrainConfig
from llm_tail.embedding.checkpoints import COMPLETE, mark_whole
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.finetune import finetune
from llm_tail.embedding.objectives import Denoising, WordGuessing, _StandIn
from llm_tail.embedding.pairs import TextPairs
from llm_tail.embedding.pretrain import _Watch, bucketed, load_pretrained, pretrain
from llm_tail.embedding.sources import weights_digest
from llm_tail.errors import ConfigError, DataError, StaleArtifactError
from tests.embedding.conftest import WORDS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXTS = [
    "the whale hunts the ship", "captain of the sea", "a novel of the whale", "the ship the captain the sea",
    "an iron pan", "fries an egg in the pan", "kitchen steel", "the cook fries the egg",
] * 4  # fmt: skip
SMALL = PretrainConfig(batch_size=8, epochs=6, learning_rate=3e-3, head_learning_rate=1e-2, max_tokens=16)
METHODS = ["lm", "tsdae"]


def save_with_tokenizer(folder, make):
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS, "an", "in"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, SPECIAL, strict=True))).save_pretrained(folder)
    torch.manual_seed(0)
    make(len(vocabulary)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    return save_with_tokenizer(folder, lambda n: BertModel(BertConfig(vocab_size=n, **SIZES)))


@pytest.fixture(scope="session")
def bert(bert_folder):
    return Encoder.load(bert_folder, precision="fp32")


@pytest.fixture(scope="module")
def adapted(bert):
    return {method: pretrain(bert, TEXTS, SMALL.replace(method=method)) for method in METHODS}


def weights(encoder):
    return {name: value.detach().clone() for name, value in encoder.model.state_dict().items()}


def assert_same_weights(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **(tolerance or {"rtol": 0, "atol": 0}))


# ---- what is learned


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_and_the_base_stays(bert, bert_folder, adapted, method):
    losses = adapted[method].training.losses
    assert len(losses) == 24 and np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.3
    assert_same_weights(weights(bert), weights(Encoder.load(bert_folder, precision="fp32")))
    assert bert.model[0].model.config._attn_implementation == "sdpa" and not bert.model.training
    new = weights(adapted[method])
    words = "0.model.embeddings.word_embeddings.weight"
    assert (new[words] != weights(bert)[words]).any()  # embeddings learn too
    assert new.keys() == weights(bert).keys()  # and nothing of the head is left
    assert adapted[method].fingerprint != bert.fingerprint
    assert adapted[method].model[0].model.config._attn_implementation == "sdpa"


def test_a_decoder_learns_the_next_word(decoder):
    adapted = pretrain(decoder, TEXTS, SMALL)
    losses = adapted.training.losses
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.5
    left = adapted.encode(["the whale", "the whale hunts the ship of the captain"])
    np.testing.assert_allclose(left[:1], adapted.encode(["the whale"]), atol=1e-5)
    assert adapted.model.tokenizer.padding_side == decoder.model.tokenizer.padding_side


def test_tsdae_decodes_from_the_vector_and_not_from_the_words_before_alone(bert):
    denoising = Denoising(copy.deepcopy(bert.model), 0.6, bf16=False).eval()
    tokens = [np.array(t, np.int32) for t in bert.tokenize(TEXTS[:4])]
    batch = denoising.batch(tokens, seed=0)
    assert batch["left_input_ids"].shape[1] < batch["input_ids"].shape[1]
    assert (batch["left_attention_mask"].sum(1) >= 3).all()  # both ends and one word at least
    other = {
        **batch,
        "left_input_ids": batch["left_input_ids"].flip(0),
        "left_attention_mask": batch["left_attention_mask"].flip(0),
    }
    with torch.no_grad():
        assert float(denoising(**batch)["loss"]) != float(denoising(**other)["loss"])
    assert denoising.new_parameters()


def test_tsdae_starts_from_the_weights_at_hand_and_not_from_those_on_disk(bert):
    model = copy.deepcopy(bert.model)
    with torch.no_grad():
        model[0].model.embeddings.word_embeddings.weight += 1.0
    expected = model[0].model.embeddings.word_embeddings.weight.clone()
    denoising = Denoising(model, 0.6, bf16=False)
    torch.testing.assert_close(model[0].model.embeddings.word_embeddings.weight, expected)
    decoder = denoising.autoencoder.decoder
    assert decoder.get_input_embeddings().weight is model[0].model.embeddings.word_embeddings.weight


def test_hidden_words_are_drawn_by_number_and_guessed_alone(bert):
    guessing = WordGuessing(copy.deepcopy(bert.model), 0.3, bf16=False).eval()
    tokens = [np.array(t, np.int32) for t in bert.tokenize(TEXTS)]
    one, same, other = (guessing.batch(tokens, seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one) and not torch.equal(one["labels"], other["labels"])
    hidden = one["labels"] != -100
    words = one["attention_mask"].sum() - 2 * len(TEXTS)
    assert 0.15 < hidden.sum() / words < 0.45
    # by the library's own model, all tokens through its head
    guessing.head.bert = guessing.body
    theirs = guessing.head(**one).loss
    whole = float(theirs.detach())
    guessing._n_together = 4  # in parts
    guessing.head.bert = _StandIn()
    assert float(guessing(**one)["loss"].detach()) == pytest.approx(whole, abs=1e-5)
    assert guessing.head.get_output_embeddings().weight is guessing.body.get_input_embeddings().weight
    nothing = {**one, "labels": torch.full_like(one["labels"], -100)}
    assert float(guessing(**nothing)["loss"].detach()) == 0.0


def test_a_head_that_is_stored_is_taken(tmp_path):
    folder = save_with_tokenizer(tmp_path / "with-head", lambda n: BertForMaskedLM(BertConfig(vocab_size=n, **SIZES)))
    stored = BertForMaskedLM.from_pretrained(folder).cls.predictions.transform.dense.weight
    encoder = Encoder.load(folder, precision="fp32")
    torch.testing.assert_close(
        WordGuessing(encoder.model, 0.15, bf16=False).head.cls.predictions.transform.dense.weight, stored
    )


# ---- saved, loaded, the same again


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded(bert, adapted, method, tmp_path):
    folder = tmp_path / "pretrained"
    again = pretrain(bert, TEXTS, SMALL.replace(method=method), folder=folder)
    vectors = again.encode(TEXTS)
    np.testing.assert_array_equal(vectors, adapted[method].encode(TEXTS))  # same seed, same weights
    assert again.base_weights == adapted[method].base_weights
    loaded = load_pretrained(folder, bert.config)
    np.testing.assert_allclose(loaded.encode(TEXTS), vectors, atol=1e-6)
    assert loaded.fingerprint == again.fingerprint
    (model,) = folder.glob("g-*/model")
    assert weights_digest(model) == again.base_weights
    plain = SentenceTransformer(str(model), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(plain, vectors, atol=1e-5)
    log = [json.loads(line) for line in next(folder.glob("g-*/training.jsonl")).read_text().splitlines()]
    assert log[0]["provenance"]["pretrain"]["method"] == method and len(log) == 25
    assert not (folder / "training").exists()


def test_another_seed_gives_other_weights_and_the_process_keeps_its_random_state(bert, adapted):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    expected = torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    other = pretrain(bert, TEXTS, SMALL, seed=1)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected  # noqa: NPY002
    assert other.base_weights != adapted["lm"].base_weights


def test_there_is_none_yet(tmp_path):
    with pytest.raises(StaleArtifactError, match="run: llm-tail pretrain"):
        load_pretrained(tmp_path)


def test_an_adapter_on_top(adapted, bert, tmp_path):
    rows = np.arange(len(TEXTS))
    pairs = TextPairs(rows, np.roll(rows, 1), TEXTS, np.full(len(TEXTS), np.log(1 / 32), np.float32), {})
    tuned = finetune(adapted["lm"], pairs, LoraConfig(rank=2))
    with pytest.raises(ConfigError, match=r"merge\(\)"):
        pretrain(tuned, TEXTS, SMALL)
    tuned.save_adapter(tmp_path / "adapter")
    with pytest.raises(StaleArtifactError, match="trained on"):
        Encoder.load(bert.config.name, adapter=tmp_path / "adapter")


# ---- killed and resumed

KILLED = """
import os, signal, sys
from llm_tail.embedding import pretrain as room
from llm_tail.embedding.encoder import Encoder
from tests.embedding.test_pretrain import OFTEN, TEXTS
base, folder = sys.argv[1:]
def killed(self, args, state, control, **more):
    if state.global_step == 11:
        os.kill(os.getpid(), signal.SIGKILL)
room._Watch.on_step_end = killed
room.pretrain(Encoder.load(base, precision="fp32"), TEXTS, OFTEN, folder=folder)
"""
OFTEN = SMALL.replace(checkpoint_steps=4)


def checkpoints(folder):
    (draft,) = (folder / "training").iterdir()
    assert {path.name for path in draft.iterdir()} == {"checkpoint-4", "checkpoint-8"}
    return draft


def test_killed_and_resumed_gives_the_same(bert, bert_folder, adapted, tmp_path):
    folder = tmp_path / "pretrained"
    call = [sys.executable, "-c", KILLED, str(bert_folder), str(folder)]
    killed = subprocess.run(call, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (checkpoints(folder) / "checkpoint-8" / COMPLETE).unlink()  # as if it had been killed while writing that one
    resumed = pretrain(bert, TEXTS, OFTEN, folder=folder)
    assert_same_weights(weights(resumed), weights(adapted["lm"]), rtol=0, atol=1e-4)
    assert resumed.training.losses == pytest.approx(adapted["lm"].training.losses, abs=1e-4)


def test_interrupted_and_resumed_gives_the_same(bert, adapted, tmp_path, monkeypatch):
    config = OFTEN.replace(method="tsdae")

    def interrupted(self, args, state, control, **_):
        if state.global_step == 11:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Watch, "on_step_end", interrupted)
        pretrain(bert, TEXTS, config, folder=tmp_path)
    checkpoints(tmp_path)
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(_Watch, "on_step_end", lambda self, args, state, control, **_: steps.append(state.global_step))
        resumed = pretrain(bert, TEXTS, config, folder=tmp_path)
    assert steps == list(range(9, 25))
    assert_same_weights(weights(resumed), weights(adapted["tsdae"]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kilobytes", [40, 110])  # of a file: less than the weights, less than the optimizer's state
def test_what_cannot_be_written_is_an_os_error_and_the_rest_stays(bert, tmp_path, kilobytes):
    resource = pytest.importorskip("resource")
    pretrain(bert, TEXTS, SMALL.replace(max_steps=1), folder=tmp_path)
    limits, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 * kilobytes, limits[1]))
        with pytest.raises(OSError, match=r"training"):
            pretrain(bert, TEXTS, OFTEN, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, heard)
    assert load_pretrained(tmp_path, bert.config).base_weights
    assert not list(tmp_path.glob("training/*/*/complete.json"))


def test_checkpoints_of_other_settings_are_not_gone_on_from(bert, tmp_path):
    old = tmp_path / "training" / "other" / "checkpoint-9"
    old.mkdir(parents=True)
    mark_whole(old)
    assert len(pretrain(bert, TEXTS[:8], SMALL.replace(max_steps=1), folder=tmp_path).training.steps) == 1
    assert not old.exists()


# ---- settings and bad input


def test_texts_of_like_length_lie_in_one_batch():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    batches = bucketed(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(batches)) == list(range(1000))
    padding = sum(len(b) * lengths[b].max() - lengths[b].sum() for b in batches) / lengths.sum()
    assert padding < 0.1
    longest = [lengths[b].max() for b in batches]
    assert longest != sorted(longest, reverse=True)


def test_minutes_and_steps_end_it(bert):
    assert len(pretrain(bert, TEXTS, SMALL.replace(minutes=1e-6)).training.steps) == 1
    assert len(pretrain(bert, TEXTS, SMALL.replace(max_steps=3)).training.steps) == 3


def test_empty_texts_are_left_out_and_long_ones_cut(bert):
    few = pretrain(bert, ["", "the whale " * 500, " ", "iron pan"], SMALL.replace(epochs=1))
    assert few.training.provenance["n_texts"] == 2 and len(few.training.steps) == 1
    for texts in ([], ["", " "], ["whale", ""]):
        with pytest.raises(DataError, match=r"at least 2 texts with words, found \d of"):
            pretrain(bert, texts, SMALL)
    with pytest.raises(DataError, match="list of texts"):
        pretrain(bert, "whale", SMALL)


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_no_number_names_the_step(bert_folder, tmp_path, method):
    broken = Encoder.load(bert_folder, precision="fp32")
    with torch.no_grad():
        broken.model[0].model.encoder.layer[0].output.dense.weight.fill_(torch.inf)
    with pytest.raises(DataError, match=r"the loss became nan at step 1 of 24; nothing was saved; try a smaller"):
        pretrain(broken, TEXTS, SMALL.replace(method=method), folder=tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_methods_that_do_not_fit_name_the_one_that_does(decoder, tmp_path):
    with pytest.raises(ConfigError, match=r"decodes from a vector.*qwen3 does not; use method 'lm'"):
        pretrain(decoder, TEXTS, SMALL.replace(method="tsdae"))
    folder = save_with_tokenizer(tmp_path / "mpnet", lambda n: MPNetModel(MPNetConfig(vocab_size=n, **SIZES)))
    mpnet = Encoder.load(folder, precision="fp32")
    with pytest.raises(ConfigError, match=r"mpnet does not; use method 'lm'"):
        pretrain(mpnet, TEXTS, SMALL.replace(method="tsdae"))
    losses = pretrain(mpnet, TEXTS, SMALL).training.losses
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    mpnet.model.tokenizer.mask_token = None
    with pytest.raises(ConfigError, match=r"no mask token; use method 'tsdae'"):
        pretrain(mpnet, TEXTS, SMALL)


def test_in_bf16(bert_folder):
    losses = pretrain(Encoder.load(bert_folder, precision="bf16"), TEXTS, SMALL).training.losses
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_minilm(minilm):
    config = PretrainConfig(max_steps=2, batch_size=4, max_tokens=16)
    adapted = pretrain(minilm, TEXTS, config)
    assert len(adapted.training.steps) == 2
    near = (adapted.encode(TEXTS[:8]) * minilm.encode(TEXTS[:8])).sum(1)
    assert (near > 0.99).all() and (near < 1).any()
