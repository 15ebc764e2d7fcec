import os

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
)

from llm_tail.embedding.encoder import Encoder

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
SENTENCE = "a the whale sea ship captain hunts novel book of pan iron kitchen fries egg cook steel"
WORDS = SENTENCE.split()
NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}


@pytest.fixture(scope="session")
def minilm():
    return Encoder.load(NAMES["minilm"], precision="fp32")


def save_tokenizer(folder):
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS, ":"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
    fast.save_pretrained(folder)
    return len(vocabulary)


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory):
    """A plain transformers folder with a small random Qwen3, saved without its head, as embedding models are."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen3"
    n_words = save_tokenizer(folder)
    torch.manual_seed(0)
    Qwen3Model(Qwen3Config(vocab_size=n_words, head_dim=8, **SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A plain transformers folder with a small random BERT."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    n_words = save_tokenizer(folder)
    torch.manual_seed(2)
    sizes = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    BertModel(BertConfig(vocab_size=n_words, initializer_range=0.2, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mistral_like_folder(tmp_path_factory):
    """A causal language model whose name says that it belongs to the family of e5-mistral."""
    folder = tmp_path_factory.mktemp("models") / "e5-mistral-tiny"
    n_words = save_tokenizer(folder)
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(vocab_size=n_words, **SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def decoder(decoder_folder):
    return Encoder.load(decoder_folder, precision="fp32")
