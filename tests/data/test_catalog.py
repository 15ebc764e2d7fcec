import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog, Item
from llm_tail.errors import DataError, UnknownIdError

ITEMS = [
    {"item_id": "emma", "title": "Emma", "description": "A matchmaker.", "year": 1815, "tags": ["wit", "love"]},
    {"item_id": "x", "title": None, "year": None, "tags": []},
]


def test_items_come_back():
    catalog = Catalog.from_items(ITEMS)
    assert catalog["emma"] == Item("emma", "Emma", "A matchmaker.", {"year": 1815, "tags": ["wit", "love"]})
    assert catalog["x"] == Item("x")
    assert list(catalog) == [catalog["emma"], catalog["x"]]
    assert Catalog.from_items(list(catalog)).titles == ["Emma", ""]
    assert catalog.columns == ["item_id", "title", "description", "year", "tags"]
    assert catalog.title("x") == "x"
    assert catalog.column("year") == [1815, None]
    assert "emma" in catalog
    assert "ulysses" not in catalog
    assert repr(Catalog.from_items(ITEMS, name="books")) == "Catalog(books: 2 items)"


def test_the_order_of_take_is_kept():
    catalog = Catalog.from_items(ITEMS).take([1, 0])
    assert list(catalog.ids) == ["x", "emma"]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.text(max_size=5), st.one_of(st.none(), st.text(max_size=9)), st.one_of(st.none(), st.integers(-9, 9))
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda row: row[0],
    )
)
def test_save_and_read_give_the_same_catalogue(tmp_path_factory, rows):
    rows = [row for row in rows if row[0].strip()]
    if not rows:
        return
    catalog = Catalog.from_items([{"item_id": a, "title": b, "n": c} for a, b, c in rows])
    path = catalog.save(tmp_path_factory.mktemp("c") / "deep" / "items.parquet")
    again = Catalog.from_parquet(path)
    assert again.table.equals(catalog.table)
    assert again.fingerprint() == catalog.fingerprint()


def test_the_fingerprint_sees_every_cell():
    base = Catalog.from_items(ITEMS)
    assert base.fingerprint() == Catalog.from_items(ITEMS).fingerprint()
    for change in ({"title": "Emm"}, {"year": 1816}, {"tags": ["wit"]}, {"item_id": "y"}):
        assert Catalog.from_items([{**ITEMS[0], **change}, ITEMS[1]]).fingerprint() != base.fingerprint()


def test_a_slice_has_the_fingerprint_of_its_rows():
    catalog = Catalog.from_items([{"item_id": str(n), "title": f"t{n}"} for n in range(30)])
    part = Catalog(catalog.table.slice(10, 5))
    assert (
        part.fingerprint()
        == Catalog.from_items([{"item_id": str(n), "title": f"t{n}"} for n in range(10, 15)]).fingerprint()
    )


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.int64(), pa.dictionary(pa.int32(), pa.string())])
def test_ids_of_any_arrow_type_are_words(kind):
    catalog = Catalog(pa.table({"item_id": pa.array(["1", "2"]).cast(kind if kind != pa.int64() else pa.int64())}))
    assert catalog["1"].item_id == "1"
    assert list(catalog)[1] == Item("2")


def test_mixed_types_are_kept_as_words():
    catalog = Catalog.from_items([{"item_id": 1, "size": 3}, {"item_id": 2, "size": "big"}])
    assert catalog.column("size") == ["3", "big"]
    assert list(catalog.ids) == ["1", "2"]


def test_what_is_no_catalogue_is_refused():
    with pytest.raises(DataError, match="catalogue is empty"):
        Catalog.from_items([])
    with pytest.raises(DataError, match=r"no column 'item_id'; found sku, title.*columns=\{'item_id'"):
        Catalog(pa.table({"sku": ["a"], "title": ["b"]}))
    with pytest.raises(DataError, match="more than once: a"):
        Catalog.from_items([{"item_id": "a"}, {"item_id": "a"}])
    with pytest.raises(DataError, match="1 item ids are missing"):
        Catalog.from_items([{"item_id": None}, {"item_id": "b"}])
    with pytest.raises(DataError, match="no column 'brand'; it has: item_id"):
        Catalog.from_items(ITEMS).column("brand")
    with pytest.raises(UnknownIdError, match="closest are: emma"):
        Catalog.from_items(ITEMS)["ema"]


def test_a_frame_of_pandas_is_a_table():
    frame = pd.DataFrame({"item_id": [1, 2], "title": ["a", None]})
    assert Catalog(pa.Table.from_pandas(frame, preserve_index=False)).titles == ["a", ""]


def test_a_data_frame_is_a_catalogue_and_what_is_missing_in_it_is_missing():
    frame = pd.DataFrame(
        {
            "sku": [1.0, 2.0, 3.0],
            "name": ["Lamp", None, "Cup"],
            "brand": [float("nan"), "Acme", float("nan")],
            "stock": pd.array([1, None, 3], dtype="Int64"),
            "since": pd.to_datetime(["2020-01-01", None, None]),
        }
    )
    read = Catalog.from_frame(frame, columns={"item_id": "sku", "title": "name"}, name="shop")
    assert list(read.ids) == ["1", "2", "3"] and read.titles == ["Lamp", "", "Cup"] and read.name == "shop"
    assert read["3"].fields == {"stock": 3} and read["2"].fields == {"brand": "Acme"}
    assert [*Catalog.from_items(frame.rename(columns={"sku": "item_id"}))] == [
        *Catalog.from_frame(frame, columns={"item_id": "sku"})
    ]
    records = [{"item_id": "a", "title": float("nan"), "kind": pd.NA}, {"item_id": "b", "kind": pd.NaT}]
    assert [item.fields for item in Catalog.from_items(records)] == [{}, {}]
    with pytest.raises(DataError, match="no column nam; found: sku, name"):
        Catalog.from_frame(frame, columns={"title": "nam"})
    with pytest.raises(DataError, match="1 of 2 rows have no item_id"):
        Catalog.from_frame(pd.DataFrame({"item_id": ["a", None]}))
    with pytest.raises(DataError, match="'title' is there twice"):
        Catalog.from_frame(pd.DataFrame([["a", "b", "c"]], columns=["item_id", "title", "title"]))
