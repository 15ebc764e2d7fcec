import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.embedding.known import KnownTexts, first_of_each, text_keys


def test_keys_are_of_text_and_salt():
    keys = text_keys(["a", "b", "a", "", "ключ", "\ud800"], "salt")
    assert keys.shape == (6, 16) and keys.dtype == np.uint8
    assert (keys[0] == keys[2]).all() and len({key.tobytes() for key in keys}) == 5
    assert (text_keys(["a"], "salt") != text_keys(["a"], "pepper")).any()
    assert text_keys([], "salt").shape == (0, 16)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=12))
def test_what_was_added_is_found_and_nothing_else(shards):
    known, right = KnownTexts(), {}
    for number, texts in enumerate(shards):
        known.add(text_keys([str(t) for t in texts], "s"), number, np.arange(len(texts)))
        for row, text in enumerate(texts):
            right.setdefault(text, set()).add((number, row))
    found = known.find(text_keys([str(t) for t in range(35)], "s"))
    for text, place in enumerate(zip(*found, strict=True)):
        assert place in right[text] if text in right else place == (-1, -1)
    assert len(known) == sum(map(len, shards))


def test_runs_stay_few_and_large_numbers_fit():
    known = KnownTexts()
    for number in range(300):
        known.add(text_keys([f"{number} {i}" for i in range(7)], "s"), number + 2**30, np.arange(7) + 2**31)
    assert len(known._runs) <= 12 and len(known) == 2100
    shards, rows = known.find(text_keys([f"{n} {n % 7}" for n in range(300)], "s"))
    assert (shards == np.arange(300) + 2**30).all() and (rows == np.arange(300) % 7 + 2**31).all()


@given(st.lists(st.sampled_from("abcdef"), max_size=20))
def test_first_of_each(texts):
    first, back = first_of_each(text_keys(texts, "s"))
    once = [texts[row] for row in first]
    assert once == list(dict.fromkeys(texts)) and [once[place] for place in back] == texts
