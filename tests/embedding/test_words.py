import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.embedding.words import Words, document_shares, weighted
from llm_tail.errors import DataError


def test_words_are_those_of_most_texts_first():
    words = Words.learn(["b a", "b b b", "c a b"], most=2, max_words=9)
    assert words.words == ["b", "a"] and len(words) == 2


def test_scripts_without_spaces_are_read_by_characters():
    counts, unknown, lengths = Words([], max_words=9).count(["白い鯨 whale", "Белый кит"])
    assert unknown == ["白", "い", "鯨", "whale", "белый", "кит"]
    assert lengths.tolist() == [4, 2] and counts.shape == (2, 6)


def test_long_texts_are_cut_and_counted_whole():
    counts, _, lengths = Words(["a"], max_words=3).count(["a a a a a b", "a " * 1000])
    assert counts.toarray().tolist() == [[3.0], [3.0]] and lengths.tolist() == [6, 1000]


def test_there_have_to_be_words():
    with pytest.raises(DataError, match="usable word"):
        Words.learn(["...", ""], 5, 5)


@given(st.lists(st.text(max_size=30), max_size=8))
def test_every_word_is_counted_once(texts):
    words = Words(["a"], max_words=100)
    counts, unknown, lengths = words.count(texts)
    assert counts.shape == (len(texts), 1 + len(unknown))
    np.testing.assert_array_equal(np.asarray(counts.sum(axis=1)).ravel(), lengths)
    np.testing.assert_array_equal(words.numbers(texts), lengths)


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=6))
def test_weighted_rows_have_length_one_or_zero(rows):
    counts = sp.csr_matrix(np.array(rows, dtype=np.float32))
    found = weighted(counts, document_shares(counts, 3))
    lengths = np.linalg.norm(found.toarray(), axis=1)
    there = np.array([any(row) for row in rows])
    np.testing.assert_allclose(lengths, there.astype(float), atol=1e-6)
