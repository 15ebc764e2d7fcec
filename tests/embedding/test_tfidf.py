import numpy as np
import pytest

from llm_tail.embedding import words
from llm_tail.embedding.runtimes import open_runtime
from llm_tail.embedding.tfidf import TfidfEncoder
from llm_tail.errors import DataError
from tests.embedding.contracts import TEXTS, RuntimeContract


@pytest.fixture(scope="module")
def runtime():
    return TfidfEncoder.fit(TEXTS, dim=4)


class TestTfidf(RuntimeContract):
    pass


def test_the_whole_width_keeps_the_angles_of_the_words():
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = {"token_pattern": r"(?u)\w+", "stop_words": "english"}
    given = TfidfVectorizer(sublinear_tf=True, **words).fit_transform(TEXTS)
    whole = TfidfEncoder.fit(TEXTS, dim=1000)
    vectors = whole.encode(TEXTS)
    np.testing.assert_allclose(vectors @ vectors.T, (given @ given.T).toarray(), atol=1e-5)


def test_the_folding_is_the_best_there_is():
    random = np.random.default_rng(0)
    words = [f"word{i}" for i in range(60)]
    texts = [" ".join(random.choice(words, size=12)) for _ in range(80)]
    whole, folded = TfidfEncoder.fit(texts, dim=60), TfidfEncoder.fit(texts, dim=8)
    turned = folded.components.T @ whole.components[:, :8]  # (8, 8): the same space, signs and order aside
    assert folded.dim == 8
    np.testing.assert_allclose(np.linalg.svd(turned)[1], 1, atol=0.05)


def test_a_text_of_unknown_words_has_the_zero_vector():
    assert not TfidfEncoder.fit(TEXTS).encode(["xylophone quartet"]).any()


def test_texts_without_a_word_that_says_something_are_refused():
    with pytest.raises(DataError, match="none of the texts holds a usable word"):
        TfidfEncoder.fit(["the and of", "?!", ""])


def test_many_texts_are_thinned_out_evenly():
    texts = [f"word{i} whale" for i in range(1000)]
    encoder = TfidfEncoder.fit(texts, n_texts=10, n_words=6)
    assert encoder.words.words == ["whale", "word0", "word111", "word222", "word333", "word444"]


def test_pairs_tell_apart_what_words_do_not(tmp_path):
    texts = ["red tea cup", "red cup tea", "red tea cup", "blue tea pot", "blue cup tea"]
    plain, paired = (TfidfEncoder.fit(texts, pairs=pairs) for pairs in (False, True))
    assert plain.encode(texts)[0] @ plain.encode(texts)[1] > 0.999
    assert paired.encode(texts)[0] @ paired.encode(texts)[1] < 0.9
    assert {"tea cup", "cup tea"} <= set(paired.words.words) and "tea pot" not in paired.words.words  # of one text only
    assert plain.fingerprint != paired.fingerprint
    again = open_runtime(paired.save(tmp_path / "words"))
    np.testing.assert_array_equal(again.encode(texts), paired.encode(texts))
    assert again.fingerprint == paired.fingerprint


def test_what_is_seen_once_among_very_many_is_forgotten(monkeypatch):
    monkeypatch.setattr(words, "MOST_SEEN", 20)
    texts = [f"whale ship number{n} of{n}" for n in range(40)]
    assert {"whale", "ship", "whale ship"} <= set(TfidfEncoder.fit(texts, pairs=True).words.words)


def test_pairs_are_made_of_characters_where_nothing_parts_words():
    paired = TfidfEncoder.fit(["紅茶杯", "紅茶壺", "綠茶杯"], pairs=True)
    assert {"紅 茶", "茶 杯"} <= set(paired.words.words)
