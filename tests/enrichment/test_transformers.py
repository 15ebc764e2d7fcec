import pytest

from llm_tail.enrichment.backends import Request, make_backend
from llm_tail.enrichment.enrich import enrich
from llm_tail.enrichment.transformers import LocalModel
from llm_tail.errors import ConfigError

from .conftest import settings

UNKNOWN = "<unk>"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A causal language model with random weights and a tokenizer of the books' own words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    from llm_tail.data.books import load_catalog

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[UNKNOWN, "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(load_catalog().column("description")[:50], trainer)
    marks = {"unk_token": UNKNOWN, "bos_token": "<s>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
    set_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def config(folder, **values):
    return settings(backend="transformers", model=str(folder), max_answer_tokens=16, batch_size=3, **values)


def request(key, text="Who?", max_tokens=16):
    messages = ({"role": "system", "content": "Answer."}, {"role": "user", "content": text})
    return Request(
        key=key,
        task="summary",
        subject="a",
        domain="books",
        language="en",
        fields={},
        messages=messages,
        max_tokens=max_tokens,
    )


def test_each_prompt_has_its_reply_and_batches_change_nothing(tiny):
    backend = make_backend(config(tiny), tiny)
    assert isinstance(backend, LocalModel) and not backend.costs
    backend.check()
    asked = [request(f"k{n}", f"What of number {n}? " * (1 + n % 3)) for n in range(7)]
    replies = {reply.key: reply for reply in backend.answer(asked)}
    assert set(replies) == {one.key for one in asked}
    assert all(not reply.error and 0 < reply.tokens_out <= 16 and reply.tokens_in > 5 for reply in replies.values())
    assert [next(iter(backend.answer([one]))).text for one in asked] == [replies[one.key].text for one in asked]


def test_a_prompt_without_room_is_named_and_harms_no_other(tiny):
    backend = LocalModel(config(tiny))
    replies = {reply.key: reply for reply in backend.answer([request("a"), request("b", "word " * 5000)])}
    assert "tokens and the model has room for" in replies["b"].error and not replies["a"].error


def test_babble_is_set_aside(tiny, books, tmp_path):
    found = enrich(books.take(range(3)), LocalModel(config(tiny)), config(tiny), folder=tmp_path)
    assert (found.n_kept, found.n_aside, found.complete) == (0, 3, True) and len(found.enrichment) == 0
    assert found.enrichment.join(books.take(range(3)), tasks=["summary"]).column("generated_summary") == ["", "", ""]


def test_two_models_of_one_name_are_told_apart(tiny, tmp_path):
    other = tmp_path / tiny.name
    other.mkdir()
    (other / "config.json").write_text("{}")
    assert LocalModel(config(tiny)).model != LocalModel(config(other)).model
    with pytest.raises(ConfigError, match="cannot be loaded as a causal language model"):
        LocalModel(config(other)).check()
    with pytest.raises(ConfigError, match="model is not set"):
        LocalModel(settings(backend="transformers", model=""))
