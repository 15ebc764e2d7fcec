import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.service.titles import Titles

WORDS = st.lists(st.text(alphabet="abcÄß -", max_size=8), min_size=1, max_size=12)


def plain(text):
    return " ".join(text.casefold().split())


def test_the_beginning_counts_most_then_a_word_then_the_inside():
    titles = Titles(["Bread knife", "Knife block", "Penknife", "Bowl", "knife"], np.array([3, 2, 9, 1, 1]))
    assert titles.find("KNIFE", 10) == [1, 4, 0, 2]
    assert titles.find("knife", 2) == [1, 4]
    assert titles.find("  ", 5) == [] and titles.find("zebra", 5) == []


def test_among_equals_what_many_took_comes_first():
    titles = Titles(["pan a", "pan b", "pan c"], np.array([1, 5, 3]))
    assert titles.find("pan", 3) == [1, 2, 0]


def test_sixty_thousand_titles_are_quick():
    titles = Titles([f"Thing {n} of {n % 97} kinds" for n in range(60_000)], np.arange(60_000))
    for letters in ("t", "thing", "kinds", "59999", "hing 5", "nothing like it"):
        assert len(titles.find(letters, 10)) <= 10


@settings(deadline=None)
@given(WORDS, st.text(alphabet="abcÄß -", max_size=4))
def test_what_is_found_holds_the_letters_and_all_of_it_is_found(titles, letters):
    found = Titles(titles, np.zeros(len(titles), dtype=int)).find(letters, 100)
    wanted = {n for n, title in enumerate(titles) if plain(letters) and plain(letters) in plain(title)}
    assert len(found) == len(set(found)) and set(found) == wanted
