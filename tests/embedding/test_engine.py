import numpy as np
import pytest

from llm_tail.embedding.engine import Encoded, LocalEngine, encode_shard
from llm_tail.errors import DataError

from .letters import CountingEncoder, LetterEncoder


def test_results_come_in_order_and_only_as_they_are_asked_for():
    asked = []

    def shards():
        for number in range(3):
            asked.append(number)
            yield [f"text {number}"] * number

    results = LocalEngine().encode_shards(LetterEncoder(), shards())
    assert asked == []
    assert next(results).vectors.shape == (0, 26) and asked == [0]
    assert [len(done.vectors) for done in results] == [1, 2] and repr(LocalEngine()) == "LocalEngine()"


def test_an_encoder_that_counts_is_not_asked_twice():
    encoder = CountingEncoder(max_tokens=2)
    done = encode_shard(encoder, ["a b c", "d"])
    assert done.tokens.tolist() == [3, 1] and (encoder.n_texts, encoder.n_counted) == (2, 0)


def test_one_that_counts_apart_is_asked_and_one_that_cannot_gives_zeros():
    class Apart(LetterEncoder):
        max_tokens = 3

        def token_counts(self, texts):
            return np.array([len(text) for text in texts])

    assert encode_shard(Apart(), ["abcd", "e"]).tokens.tolist() == [4, 1]
    assert encode_shard(LetterEncoder(), ["abcd", "e"]).tokens.tolist() == [0, 0]


def test_progress_is_asked_for_where_it_is_known():
    told = []

    class Showing(LetterEncoder):
        def encode(self, texts, *, kind="document", batch_tokens=2048, progress=False):
            told.append(progress)
            return super().encode(texts)

    encode_shard(Showing(), ["a"])
    encode_shard(Showing(), ["a"], progress=True)
    encode_shard(LetterEncoder(), ["a"], progress=True)
    assert told == [False, True]


@pytest.mark.parametrize("wrong", ["narrow", "short", "nan"])
def test_an_encoder_that_gives_nonsense_is_named(wrong):
    class Wrong(LetterEncoder):
        def encode(self, texts, **options):
            vectors = super().encode(texts)
            return {"narrow": vectors[:, :3], "short": vectors[1:], "nan": vectors * np.nan}[wrong]

    with pytest.raises(DataError, match=r"vectors of shape .*, expected \(2, 26\) with finite values only"):
        encode_shard(Wrong(), ["a", "b"])


def test_double_precision_becomes_single():
    class Double(LetterEncoder):
        def encode(self, texts, **options):
            return super().encode(texts).astype(np.float64)

    done = encode_shard(Double(), ["a"])
    assert isinstance(done, Encoded) and done.vectors.dtype == np.float32
