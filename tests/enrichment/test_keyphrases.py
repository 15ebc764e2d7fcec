import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.embedding.tfidf import TfidfEncoder
from llm_tail.enrichment.keyphrases import CommonWords, Phrase, candidates, keyphrases, words_of
from llm_tail.errors import ConfigError, DataError

TEXTS = [
    "Cast iron skillet, 12 inch. Pre-seasoned for the stove and the oven",
    "A steel frying pan with a wooden handle",
    "Claw hammer, 16 oz, fibreglass handle",
    "铸铁锅 适合炉灶和烤箱",
    "",
]
ENCODER = TfidfEncoder.fit(TEXTS[:-1])


def test_phrases_do_not_cross_punctuation_or_stop_words():
    assert candidates("the white whale, and the sea", longest=2, stop=CommonWords.of([]).stop) == [
        "white",
        "white whale",
        "whale",
        "sea",
    ]


def test_a_number_alone_is_no_phrase():
    assert candidates("16 oz 2019", longest=2) == ["16 oz", "oz"]


def test_a_script_without_spaces_is_read_in_runs_of_letters():
    assert candidates("鯨の本") == ["鯨の", "鯨の本", "の本"]
    assert words_of("白鯨 moby") == ["白鯨", "moby"]


def test_signs_stay_on_their_letters():
    assert words_of("हिन्दी कहानी") == ["हिन्दी", "कहानी"]
    assert words_of("cafe\u0301 noir") == ["cafe\u0301", "noir"]
    assert words_of("Andersen's 'tales'") == ["andersen's", "tales"]


def test_the_rarest_words_are_kept_where_there_are_too_many():
    found = candidates(
        "common rare common other", longest=1, most=1, weights={"common": 0.1, "rare": 9.0, "other": 1.0}
    )
    assert found == ["rare"]


def test_words_of_most_texts_say_nothing():
    texts = [f"novel number {i} {'of' if i % 2 else 'dune'}" for i in range(60)]
    stop = CommonWords.of(texts).stop
    assert {"novel", "number", "dune", "the"} <= stop and "7" not in stop


def test_each_text_has_its_own_phrases_and_an_empty_one_none():
    found = keyphrases(TEXTS, ENCODER, k=3)
    assert [bool(each) for each in found] == [True, True, True, True, False]
    for text, phrases in zip(TEXTS, found, strict=True):
        flat = " ".join(words_of(text))
        assert all(" ".join(words_of(phrase.words)) in flat for phrase in phrases)
        assert all(-1 <= phrase.similarity <= 1.0001 for phrase in phrases)


def test_no_phrase_holds_another():
    for phrases in keyphrases(TEXTS, ENCODER, k=9):
        words = [f" {phrase.words.lower()} " for phrase in phrases if phrase.words.isascii()]
        assert not any(one in other for one in words for other in words if one is not other)


class Compass:
    """Phrases point where they are said to."""

    dim, fingerprint = 2, "compass"
    where = {"north": (0.0, 1.0), "northish": (0.1, 1.0), "east": (1.0, 0.0)}  # noqa: RUF012

    def encode(self, texts, *, kind="document", batch_tokens=2048):
        found = np.array([self.where.get(text.lower(), (0.6, 0.8)) for text in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_diversity_prefers_what_was_not_said_yet():
    vectors = np.array([[0.5, 0.866]], np.float32)
    alike = keyphrases(["north, northish, east"], Compass(), vectors=vectors, k=2, diversity=0.0)[0]
    other = keyphrases(["north, northish, east"], Compass(), vectors=vectors, k=2, diversity=0.6)[0]
    assert [phrase.words for phrase in alike] == ["northish", "north"]
    assert [phrase.words for phrase in other] == ["northish", "east"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(alphabet="ab c,.鯨本", max_size=30), min_size=1, max_size=6), st.integers(1, 4))
def test_the_same_answer_for_any_text_alone_and_again(texts, k):
    vectors = np.ones((len(texts), 2), np.float32) / np.sqrt(2)
    found = keyphrases(texts, Compass(), vectors=vectors, k=k)
    assert found == keyphrases(texts, Compass(), vectors=vectors, k=k)
    assert all(len(each) <= k and len({p.words.lower() for p in each}) == len(each) for each in found)
    assert all(isinstance(phrase, Phrase) for each in found for phrase in each)


def test_settings_and_shapes_are_checked():
    with pytest.raises(ConfigError, match="k is 0"):
        keyphrases(TEXTS, ENCODER, k=0)
    with pytest.raises(DataError, match=r"shape \(1, 2\)"):
        keyphrases(TEXTS, ENCODER, vectors=np.zeros((1, 2), np.float32))
