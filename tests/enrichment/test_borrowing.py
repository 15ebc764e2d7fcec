import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.enrichment.borrowing import borrow_words
from llm_tail.enrichment.keyphrases import words_of
from llm_tail.errors import ConfigError, DataError

TEXTS = ["Moby-Dick", "whale hunt at sea", "a whale and the open sea", "whale oil", "iron pan", ""]
VECTORS = np.array([[1, 0], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0, 1], [0, 0]], np.float32)


def words(loans):
    return [loan.word for loan in loans]


def test_what_several_near_ones_say_is_lent_with_its_lenders():
    found = borrow_words(TEXTS, VECTORS, np.array([0]), min_lenders=2)[0]
    assert {loan.word: loan.lenders for loan in found} == {"whale": (1, 2, 3), "sea": (1, 2)}
    assert words(found) == ["whale", "sea"] and found[0].weight == 1.0 and found[0].share == pytest.approx(1.0)


def test_what_one_says_alone_is_its_own():
    assert words(borrow_words(TEXTS, VECTORS, np.array([0]), min_lenders=3)[0]) == ["whale"]


def test_nobody_is_lent_what_they_have():
    assert "whale" not in words(borrow_words(TEXTS, VECTORS, np.array([1]), min_lenders=1)[0])


def test_far_ones_and_empty_ones_lend_nothing():
    assert borrow_words(TEXTS, VECTORS, np.array([4]), min_lenders=1)[0] == []
    assert borrow_words(TEXTS, VECTORS, np.array([5]), min_lenders=1)[0] == []


def test_only_lenders_lend():
    found = borrow_words(TEXTS, VECTORS, np.array([0]), lenders=np.array([1, 2]), min_lenders=1)[0]
    assert {row for loan in found for row in loan.lenders} <= {1, 2} and "oil" not in words(found)


def test_a_script_without_spaces_lends_pairs_of_letters():
    texts = ["白鯨", "捕鯨の海", "鯨の海", "鍋"]
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]], np.float32)
    assert "の海" in words(borrow_words(texts, vectors, np.array([0]), min_lenders=2)[0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), st.integers(1, 6), st.integers(1, 3))
def test_laws(seed, neighbors, min_lenders):
    rng = np.random.default_rng(seed)
    texts = [" ".join(2 * letter for letter in rng.choice(list("pqrstuvw"), 4).tolist()) for _ in range(12)]
    vectors = rng.normal(size=(12, 3)).astype(np.float32)
    rows = np.arange(12)
    options = {"neighbors": neighbors, "min_lenders": min_lenders, "min_similarity": -1.0, "k": 3}
    found = borrow_words(texts, vectors, rows, **options)
    assert found == borrow_words(texts, vectors, rows, **options)
    for row, loans in zip(rows, found, strict=True):
        assert len(loans) <= 3 and [loan.weight for loan in loans] == sorted(
            (loan.weight for loan in loans), reverse=True
        )
        for loan in loans:
            assert len(loan.lenders) >= min_lenders and row not in loan.lenders
            assert loan.word not in words_of(texts[row])
            assert all(loan.word in words_of(texts[lender]) for lender in loan.lenders)
            assert 0 < loan.share <= 1.0001


def test_settings_and_shapes_are_checked():
    with pytest.raises(ConfigError, match="min_lenders 0"):
        borrow_words(TEXTS, VECTORS, np.array([0]), min_lenders=0)
    with pytest.raises(DataError, match="2 vectors for 6 texts"):
        borrow_words(TEXTS, VECTORS[:2], np.array([0]))
