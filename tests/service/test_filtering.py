import numpy as np
import pytest

from llm_tail.data.catalog import Catalog, Item
from llm_tail.data.segments import Segments
from llm_tail.errors import DataError
from llm_tail.service.filtering import Filtering
from llm_tail.service.stock import Shelf

ITEMS = Catalog.from_items(
    [
        {"item_id": "a", "title": "Pan", "brand": "Northwind", "price": 5.0, "tags": ["hot"]},
        {"item_id": "b", "title": "Pot", "brand": "Halcyon", "price": 30.0, "tags": []},
        {"item_id": "c", "title": "Lid", "brand": None, "price": None, "tags": ["hot", "new"]},
    ]
)


@pytest.fixture
def filtering():
    return Filtering(ITEMS, Segments(*np.eye(3, dtype=bool)))


def shelf_of(*items):
    return Shelf().with_items(items, np.eye(len(items), 8, dtype=np.float32), {"a": 0, "b": 1, "c": 2})


@pytest.mark.parametrize(
    ("where", "passed"),
    [
        ([], "abc"),
        (["brand = northwind"], "a"),
        (["price < 20", "tags contains hot"], "a"),
        (["segment = cold or price > 20"], "bc"),
        (["segment = head"], "a"),
    ],
)
def test_all_conditions_must_hold(filtering, where, passed):
    mask = filtering.mask(where)
    assert [x for x, there in zip("abc", mask.tolist(), strict=True) if there] == list(passed)
    assert filtering.mask(where) is mask  # kept


def test_what_came_since_passes_by_its_own_words(filtering):
    shelf = shelf_of(
        Item("a", "Pan", fields={"brand": "Halcyon", "price": "cheap"}),  # a price that is none
        Item("x", "Cup", fields={"price": 3, "tags": ["hot"], "unknown": 1}),
        Item("y", "Jar", fields={"price": [1], "tags": "hot"}),
    )
    assert filtering.among(shelf, ["brand = halcyon"]) == {"a"}
    assert filtering.among(shelf, ["price < 20"]) == {"x"}
    assert filtering.among(shelf, ["segment = cold"]) == {"x", "y"}
    assert filtering.among(shelf, ["segment = head"]) == {"a"}
    assert filtering.among(Shelf(), ["price < 20"]) == set()


def test_what_cannot_be_asked(filtering):
    with pytest.raises(DataError, match="'prize', and there is no such column; the closest are: price"):
        filtering.mask(["prize < 3"])
    with pytest.raises(DataError, match=r"cannot be read|expected"):
        filtering.mask(["price <"])


def test_answers_are_not_kept_without_end(filtering):
    for n in range(200):
        filtering.mask([f"price > {n}"])
    assert len(filtering._kept) == 64
