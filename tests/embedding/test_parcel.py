import json

import numpy as np
import pytest
import torch

from llm_tail.config import LoraConfig
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.engine import encode_shard
from llm_tail.embedding.parcel import RECIPE, pack, unpack
from llm_tail.errors import ConfigError, WorkerError
from tests.embedding.conftest import WORDS
from tests.embedding.letters import LetterEncoder
from tests.embedding.travelling import TravellingLetters

TEXTS = ["the whale hunts the ship", "a book", "captain of the sea " * 9]


def tuned(encoder, kind):
    encoder = encoder.with_adapter(LoraConfig(kind=kind, rank=2, alpha=4))
    for number, weights in enumerate(p for p in encoder.model.parameters() if p.requires_grad):
        torch.manual_seed(number)
        torch.nn.init.normal_(weights, std=0.05)
    encoder.seal_adapter()
    return encoder


def made(bert_folder, kind):
    encoder = Encoder.load(bert_folder, precision="fp32", max_tokens=16)
    if kind == "plain":
        return encoder
    if kind == "changed in this process":  # as pre-training leaves it
        with torch.no_grad():
            next(encoder.model.parameters()).mul_(1.5)
        encoder.base_weights = "of-no-file"
        return encoder
    encoder = tuned(encoder, "lora" if kind == "merged" else kind)
    return encoder.merge() if kind == "merged" else encoder


@pytest.mark.parametrize("here", [True, False], ids=["here", "away"])
@pytest.mark.parametrize("kind", ["plain", "lora", "prefix", "top-layers", "merged", "changed in this process"])
def test_what_arrives_gives_the_same_bytes(bert_folder, tmp_path, kind, here):
    encoder = made(bert_folder, kind)
    folder = pack(encoder, tmp_path / "parcel", here=here).rename(tmp_path / "elsewhere")
    arrived = unpack(folder)
    assert arrived.fingerprint == encoder.fingerprint and arrived.max_tokens == 16
    for kind_of_text in ("document", "query"):
        expected = encoder.encode(TEXTS, kind=kind_of_text)
        assert arrived.encode(TEXTS, kind=kind_of_text).tobytes() == expected.tobytes()


def test_a_decoder_keeps_its_prompts_and_its_end(decoder, tmp_path):
    arrived = unpack(pack(decoder, tmp_path / "parcel", here=False))
    assert arrived.pooling == "last" and arrived.padding_side == "left"
    assert arrived.encode(WORDS).tobytes() == decoder.encode(WORDS).tobytes()


def test_files_of_the_base_stay_where_they_are_on_the_same_machine(bert_folder, tmp_path):
    folder = pack(Encoder.load(bert_folder, precision="fp32"), tmp_path / "parcel", here=True)
    assert [path.name for path in folder.iterdir()] == [RECIPE]


def test_any_encoder_may_travel_that_can_be_saved(tmp_path):
    arrived = unpack(pack(TravellingLetters("here", 3), tmp_path / "parcel", here=False))
    assert (arrived.folder, arrived.lives) == ("here", 3)
    np.testing.assert_array_equal(encode_shard(arrived, ["ab"]).vectors, TravellingLetters().encode(["ab"]))


def test_others_may_not(tmp_path):
    class Hidden(TravellingLetters):
        pass

    for encoder in (LetterEncoder(), Hidden()):
        with pytest.raises(ConfigError, match=rf"{type(encoder).__name__} cannot travel to another process"):
            pack(encoder, tmp_path / "parcel", here=True)


def test_another_encoder_than_was_sent_is_refused(bert_folder, tmp_path):
    folder = pack(Encoder.load(bert_folder, precision="fp32"), tmp_path / "parcel", here=True)
    recipe = json.loads((folder / RECIPE).read_text())
    recipe["config"]["max_tokens"] = 8
    (folder / RECIPE).write_text(json.dumps(recipe))
    with pytest.raises(WorkerError, match=r"made another encoder .* than it was sent .* same versions"):
        unpack(folder)
