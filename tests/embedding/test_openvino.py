import importlib.util
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from llm_tail.config import LoraConfig
from llm_tail.embedding import openvino as module
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.openvino import OpenvinoEncoder, _possible
from llm_tail.embedding.runtimes import load_runtime
from llm_tail.errors import ConfigError, DataError, MissingExtraError
from tests.embedding.contracts import TEXTS, RuntimeContract

if importlib.util.find_spec("openvino") is None or importlib.util.find_spec("nncf") is None:
    pytest.skip("needs the extra openvino", allow_module_level=True)

LEAST = {"fp32": 0.99999, "bf16": 0.999, "int8": 0.97}  # int8: calibrated by six texts only
FAST = {"fp32": True, "bf16": module._has_bf16(), "int8": module.has_fast_int8()}


@pytest.fixture(scope="module", params=LEAST)
def runtime(request, minilm):
    if not FAST[request.param]:
        pytest.skip(f"this processor has no {request.param} products")
    return OpenvinoEncoder.convert(minilm, request.param, TEXTS)


class TestOpenvino(RuntimeContract):
    @pytest.fixture(autouse=True)
    def _tolerance(self, runtime):
        self.tolerance = {"fp32": 1e-5, "bf16": 5e-3, "int8": 5e-3}[runtime.precision]

    def test_it_is_true_to_the_encoder(self, runtime, minilm):
        near = (runtime.encode(TEXTS) * minilm.encode(TEXTS)).sum(axis=1)
        assert near.mean() > LEAST[runtime.precision]

    def test_it_tells_itself_apart(self, runtime, minilm):
        assert runtime.fingerprint not in (minilm.fingerprint, minilm.with_precision("bf16").fingerprint)
        assert runtime.precision in repr(runtime)

    def test_several_threads_may_ask_at_once(self, runtime):
        expected, found = runtime.encode(TEXTS), {}
        threads = [threading.Thread(target=lambda n=n: found.update({n: runtime.encode(TEXTS[n:])})) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for n in range(3):
            np.testing.assert_allclose(found[n], expected[n:], atol=self.tolerance)


def test_every_precision_has_a_fingerprint_of_its_own(bert_folder):
    base = Encoder.load(bert_folder, precision="fp32")
    made = [OpenvinoEncoder.convert(base, precision) for precision in ("fp32", "bf16") if FAST[precision]]
    assert len({runtime.fingerprint for runtime in made}) == len(made)
    # torch's own precision is no part of it: the weights are the same
    assert OpenvinoEncoder.convert(base.with_precision("bf16"), "fp32").fingerprint == made[0].fingerprint


WORDS = ["whale", "the whale hunts a ship", "captain of the ship", "iron pan " * 8]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("folder", ["bert_folder", "decoder_folder", "mistral_like_folder"])
def test_poolings_prompts_and_decoders(folder, pooling, request):
    encoder = Encoder.load(
        request.getfixturevalue(folder),
        precision="fp32",
        pooling=pooling,
        query_prompt="book : ",
        max_tokens=16,
        dim=16,
    )
    runtime = load_runtime(encoder, "openvino", precision="fp32")
    assert runtime.dim == 16
    for kind in ("document", "query"):
        np.testing.assert_allclose(runtime.encode(WORDS, kind=kind), encoder.encode(WORDS, kind=kind), atol=2e-5)
        np.testing.assert_array_equal(runtime.token_counts(WORDS, kind=kind), encoder.token_counts(WORDS, kind=kind))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_is_merged_into_a_copy(decoder_folder, kind):
    tuned = Encoder.load(decoder_folder, precision="fp32").with_adapter(LoraConfig(rank=2, kind=kind))
    for name, weight in tuned.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.3)
    tuned.seal_adapter()
    before = tuned.encode(WORDS)
    runtime = load_runtime(tuned, "openvino", precision="fp32")
    np.testing.assert_allclose(runtime.encode(WORDS), before, atol=2e-5)
    np.testing.assert_array_equal(tuned.encode(WORDS), before)
    assert tuned.adapter is not None


def test_int8_needs_texts(bert_folder):
    if not FAST["int8"]:
        pytest.skip("this processor has no int8 products")
    with pytest.raises(DataError, match="int8 needs texts"):
        OpenvinoEncoder.convert(Encoder.load(bert_folder, precision="fp32"), "int8", ["", " "])


def test_a_processor_without_such_products_is_told(monkeypatch):
    monkeypatch.setattr(module, "_has_bf16", lambda: False)
    monkeypatch.setattr(module, "has_fast_int8", lambda: False)
    assert _possible("auto") == "fp32"
    with pytest.raises(ConfigError, match="this processor has no bf16 products"):
        _possible("bf16")
    with pytest.raises(ConfigError, match="this processor has no int8 products"):
        _possible("int8")


def test_a_missing_library_names_the_extra(monkeypatch, minilm):
    for name in ("openvino", "nncf"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(
            MissingExtraError, match=rf"'{name}' is not installed; run: pip install 'llm-tail\[openvino\]'"
        ):
            module._import(name)


def test_a_model_that_becomes_another_is_refused(bert_folder):
    encoder = Encoder.load(bert_folder, precision="fp32")
    runtime = OpenvinoEncoder.convert(encoder, "fp32")
    with torch.no_grad():
        for weight in encoder.model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    with pytest.raises(ConfigError, match="becomes another model when it is converted"):
        runtime._compare(encoder)


def test_a_model_that_cannot_be_traced_is_refused(bert_folder, monkeypatch):
    encoder = Encoder.load(bert_folder, precision="fp32")
    monkeypatch.setattr(type(encoder.model[0]), "forward", lambda self, features: 1 / 0)
    with pytest.raises(ConfigError, match=r"cannot be converted for openvino .*runtime = 'torch'"):
        OpenvinoEncoder.convert(encoder, "fp32")


def test_opened_again_it_needs_no_torch_and_tells_nobody(minilm, tmp_path):
    OpenvinoEncoder.convert(minilm, "fp32").save(tmp_path / "runtime")
    code = (
        "import sys\nfrom llm_tail.embedding.runtimes import open_runtime\n"
        f"runtime = open_runtime({str(tmp_path / 'runtime')!r})\n"
        "print(runtime.encode(['a whale'], kind='query').shape)\n"
        "del runtime\n"
        "print(sorted({'torch', 'transformers', 'nncf', 'openvino_telemetry'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["(1, 384)", "[]"] and not done.stderr


def test_nothing_is_said_while_quantizing(bert_folder, capfd):
    if not FAST["int8"]:
        pytest.skip("this processor has no int8 products")
    OpenvinoEncoder.convert(Encoder.load(bert_folder, precision="fp32"), "int8", WORDS)
    said = capfd.readouterr()
    assert not said.out and not said.err
