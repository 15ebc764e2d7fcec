import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from llm_tail.config import EncoderConfig
from llm_tail.embedding import choosing, openvino
from llm_tail.embedding.choosing import Measured, RuntimeChoice, choose_runtime
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.runtimes import check_runtime, check_texts, load_runtime, open_runtime
from llm_tail.embedding.tokens import Tokens, ahead
from llm_tail.errors import ConfigError, DataError, MissingExtraError, StaleArtifactError
from tests.embedding.contracts import TEXTS, RuntimeContract

OPENVINO = importlib.util.find_spec("openvino") is not None and importlib.util.find_spec("nncf") is not None
BF16 = openvino._has_bf16()


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def runtime(request, minilm):
    if request.param == "bf16" and not BF16:
        pytest.skip("this processor has no bf16 products")
    return load_runtime(minilm, "torch", precision=request.param)


class TestTorch(RuntimeContract):
    @pytest.fixture(autouse=True)
    def _tolerance(self, runtime):
        self.tolerance = {"fp32": 1e-5, "bf16": 5e-3}[runtime.precision]


def test_names_and_precisions_are_checked():
    with pytest.raises(ConfigError, match=r"there is no runtime 'openvin'; did you mean 'openvino'\?"):
        check_runtime("openvin")
    with pytest.raises(
        ConfigError, match="there is no runtime 'zzz'; expected torch, openvino, static or tfidf or auto"
    ):
        check_runtime("zzz")
    with pytest.raises(ConfigError, match="'torch' has no precision 'int8'"):
        Encoder.load(config=EncoderConfig(precision="int8"))
    assert Encoder.load(config=EncoderConfig(precision="int8", runtime="openvino")).precision in ("fp32", "bf16")


def test_long_things_that_are_no_texts_are_shown_in_part():
    with pytest.raises(DataError) as caught:
        check_texts([b"x" * 1000])
    assert len(str(caught.value)) < 200 and "xxx..." in str(caught.value)


def test_another_precision_is_the_same_encoder(minilm):
    assert minilm.with_precision("fp32").fingerprint == minilm.fingerprint
    assert minilm.with_precision("bf16").fingerprint == Encoder.load(precision="bf16").fingerprint


def test_weights_in_bf16_are_widened_in_a_copy(decoder_folder, tmp_path):
    import torch
    from transformers import AutoModel

    AutoModel.from_pretrained(decoder_folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    for file in decoder_folder.glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    narrow = Encoder.load(tmp_path, precision="bf16")
    wide = narrow.with_precision("fp32")
    assert wide.fingerprint == Encoder.load(tmp_path, precision="fp32").fingerprint
    np.testing.assert_allclose(
        wide.encode(["whale"]), Encoder.load(tmp_path, precision="fp32").encode(["whale"]), atol=1e-6
    )
    assert {p.dtype for p in narrow.model.parameters()} == {torch.bfloat16}


def test_nothing_lies_in_an_empty_folder(tmp_path):
    with pytest.raises(StaleArtifactError, match="there is no runtime at"):
        open_runtime(tmp_path)


# ---- tokens, and work done ahead


def test_tokens_are_those_of_the_encoder(minilm):
    tokens = Tokens.of(minilm)
    texts = [*TEXTS, "whale " * 500, ""]
    assert [one.tolist() for one in tokens.ids(texts)] == minilm.tokenize(texts)
    np.testing.assert_array_equal(tokens.counts(texts), minilm.token_counts(texts))
    ids, counts = tokens.counted(texts)
    assert [len(one) for one in ids] == [len(one) for one in minilm.tokenize(texts)]
    np.testing.assert_array_equal(counts, minilm.token_counts(texts))


def test_what_goes_wrong_ahead_is_raised_where_it_is_asked():
    given = ahead([1, 0, 2], lambda n: 1 / n)
    assert next(given) == (1, 1.0)
    with pytest.raises(ZeroDivisionError):
        next(given)


# ---- choosing


@pytest.fixture(scope="module")
def base(bert_folder):
    return Encoder.load(bert_folder, precision="fp32")


WORDS = [f"the whale hunts {n} of the ship" for n in ("captain", "book", "pan", "egg", "fries", "novel")] * 3


def test_auto_takes_the_fastest_of_the_faithful(base):
    choice = choose_runtime(base, WORDS, n_texts=8)
    (taken,) = [row for row in choice.rows if row.state == "taken"]
    faithful = [row for row in choice.rows if row.state in ("taken", "slower")]
    assert (taken.runtime, taken.precision) == (choice.taken, choice.precision)
    assert taken.texts_per_s == max(row.texts_per_s for row in faithful)
    assert {(row.runtime, row.precision) for row in choice.rows} == {
        ("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")
    }  # fmt: skip
    assert choice.runtime.encode(WORDS).shape == (len(WORDS), base.dim)
    assert choice.encoder == base.fingerprint
    assert RuntimeChoice.from_dict(json.loads(json.dumps(choice.to_dict()))) == dataclasses.replace(
        choice, runtime=None
    ) or any(row.cosine != row.cosine for row in choice.rows)
    shown = str(choice)
    assert choice.why in shown and all(row.name in shown for row in choice.rows)


def fake(monkeypatch, base, speeds):
    """Let runtimes be measured at these speeds and cosines."""
    monkeypatch.setattr(choosing, "has_fast_bf16", lambda device: True)
    monkeypatch.setattr(choosing, "has_fast_int8", lambda: True)
    monkeypatch.setattr(choosing, "load_runtime", lambda *given, **more: base)
    monkeypatch.setattr(choosing, "_measured", lambda tried, *rest: {key: speeds[key] for key in tried})


SPEEDS = {
    ("torch", "fp32"): (10.0, 1.0),
    ("torch", "bf16"): (20.0, 0.9999),
    ("openvino", "fp32"): (25.0, 1.0),
    ("openvino", "bf16"): (40.0, 0.9995),
    ("openvino", "int8"): (60.0, 0.985),
}


@pytest.mark.parametrize(
    ("limits", "taken"),
    [
        ({}, "openvino bf16"),
        ({"min_cosine_int8": 0.98}, "openvino int8"),
        ({"min_cosine": 0.9998}, "openvino fp32"),
        ({"precision": "bf16", "min_cosine": 0.9998}, "torch bf16"),
        ({"precision": "int8"}, "torch fp32"),
    ],
)
def test_what_is_unfaithful_is_not_taken(monkeypatch, base, limits, taken):
    fake(monkeypatch, base, SPEEDS)
    choice = choose_runtime(base, WORDS, n_texts=4, **limits)
    assert f"{choice.taken} {choice.precision}" == taken
    assert taken in choice.why and choice.why.endswith(("texts", "true to the encoder"))


def test_what_is_not_there_is_said(monkeypatch, base):
    fake(monkeypatch, base, SPEEDS)
    monkeypatch.setattr(choosing, "has_fast_bf16", lambda device: False)
    monkeypatch.setattr(choosing, "has_fast_int8", lambda: False)

    def load(encoder, name, *given, **more):
        if name == "openvino":
            raise MissingExtraError("openvino", "openvino")
        return base

    monkeypatch.setattr(choosing, "load_runtime", load)
    choice = choose_runtime(base, WORDS, n_texts=4)
    notes = {row.name: row.note for row in choice.rows if row.state == "not there"}
    assert notes == {
        "torch bf16": "this processor has no bf16 products",
        "openvino fp32": "'openvino' is not installed; run: pip install 'llm-tail[openvino]'",
        "openvino bf16": "this processor has no bf16 products",
        "openvino int8": "this processor has no int8 products (VNNI or AMX)",
    }
    assert (choice.taken, choice.precision) == ("torch", "fp32")
    assert RuntimeChoice.from_dict(choice.to_dict()).rows[1].note == choice.rows[1].note


def test_auto_needs_texts(base):
    with pytest.raises(DataError, match="measuring on texts, and none with words"):
        load_runtime(base, "auto", ["", " "])


def test_a_row_tells_its_name():
    assert Measured("torch", "fp32").name == "torch fp32"
