import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.data.ids import IdMap
from llm_tail.errors import DataError, UnknownIdError

names = st.lists(st.text(max_size=6), unique=True, max_size=20)


@given(ids=names, others=st.lists(st.text(max_size=6), max_size=10))
def test_rows_and_ids_are_inverse(ids, others):
    id_map = IdMap(ids)
    assert len(id_map) == len(ids)
    assert list(id_map) == ids
    assert [id_map[row] for row in range(len(ids))] == ids
    assert [id_map.row(x) for x in ids] == list(range(len(ids)))
    assert id_map.rows(ids).tolist() == list(range(len(ids)))
    assert id_map.values.tolist() == ids
    expected = [ids.index(x) if x in ids else -1 for x in others]
    rows = id_map.rows(others)
    assert rows.tolist() == expected
    assert rows.dtype == np.int64
    assert [x in id_map for x in others] == [x in ids for x in others]


@given(ids=names)
def test_equal_content_is_equal_and_has_the_same_fingerprint(ids):
    assert IdMap(ids) == IdMap(iter(ids))
    assert IdMap(ids).fingerprint() == IdMap(ids).fingerprint()
    if len(ids) > 1:
        assert IdMap(ids) != IdMap(ids[::-1])
        assert IdMap(ids).fingerprint() != IdMap(ids[::-1]).fingerprint()


def test_ids_of_other_types_become_words():
    for ids in ([1, 2], np.array([1, 2]), pd.Series([1, 2]), pd.Index([1, 2]), range(1, 3), np.array(["1", "2"])):
        id_map = IdMap(ids)
        assert list(id_map) == ["1", "2"]
        assert id_map.row("2") == 1
        assert id_map.rows(pd.Series(["2", "x"])).tolist() == [1, -1]


@pytest.mark.parametrize(
    "given_ids", [[1, 2], np.array([1, 2]), pd.Series([1, 2]), pd.Series(["1", "2"], dtype="string")]
)
def test_a_lookup_of_other_types_finds_the_word(given_ids):
    assert IdMap(["1", "2"]).rows(given_ids).tolist() == [0, 1]
    assert IdMap(["1", "2"]).row(given_ids[0]) == 0


def test_what_is_no_set_of_ids_is_refused():
    with pytest.raises(DataError, match="these stand more than once: a"):
        IdMap(["a", "b", "a"])
    with pytest.raises(DataError, match="1 user ids are missing"):
        IdMap(["a", None], "user")
    with pytest.raises(DataError, match="more than once: 1"):
        IdMap([1, "1"])


def test_an_unknown_id_names_the_closest():
    with pytest.raises(UnknownIdError, match="no item has the id 'ema'; the closest are: emma") as caught:
        IdMap(["emma", "dracula"]).row("ema")
    assert caught.value.closest == ["emma", "dracula"]
    assert repr(IdMap(["a"], "user")) == "IdMap(1 users)"
    with pytest.raises(TypeError):
        hash(IdMap(["a"]))
