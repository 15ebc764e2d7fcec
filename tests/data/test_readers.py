import contextlib
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.data.readers import BadRows, read_catalog, read_interactions
from llm_tail.data.readers import sources as sources_module
from llm_tail.errors import DataError, LlmTailError

SHARED = Path(os.environ.get("LLM_TAIL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)
    return path


def events_of(interactions):
    return interactions.to_frame().to_dict("list")


# ---- the plain formats

EVENTS = [("ann", "emma", 5.0, 10), ("bob", "emma", 4.0, 20), ("ann", "dracula", 3.5, 30)]


def csv_text(separator=","):
    lines = [separator.join(["user_id", "item_id", "rating", "timestamp"])]
    return "\n".join(lines + [separator.join(map(str, row)) for row in EVENTS]) + "\n"


def jsonl_text():
    names = ["user_id", "item_id", "rating", "timestamp"]
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in EVENTS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("e.csv", csv_text()),
        ("e.csv.gz", csv_text()),
        ("e.csv", csv_text(";")),
        ("e.tsv", csv_text("\t")),
        ("e.tsv.gz", csv_text("\t")),
        ("e.csv", "\ufeff" + csv_text()),
        ("e.csv", csv_text().replace("\n", "\r\n")),
        ("e.csv", csv_text().rstrip("\n")),
        ("e.jsonl", jsonl_text()),
        ("e.jsonl.gz", jsonl_text()),
        ("e.ndjson", jsonl_text().rstrip("\n")),
    ],
)
def test_every_plain_format_gives_the_same_events(tmp_path, name, text):
    events = read_interactions(write(tmp_path / name, text))
    assert list(events.users) == ["ann", "bob"]
    assert list(events.items) == ["emma", "dracula"]
    assert events.user_rows.tolist() == [0, 1, 0]
    assert events.weights.tolist() == [5.0, 4.0, 3.5]
    assert events.times.tolist() == [10.0, 20.0, 30.0]
    assert events.positions is None
    assert str(events.bad_rows) == "all 3 rows are good"


def test_parquet_and_a_folder_of_it(tmp_path):
    frame = pd.DataFrame(EVENTS, columns=["user_id", "item_id", "rating", "timestamp"])
    frame.iloc[:2].to_parquet(tmp_path / "part-0.parquet")
    frame.iloc[2:].to_parquet(tmp_path / "part-1.parquet")
    whole = read_interactions(tmp_path)
    assert events_of(whole) == events_of(Interactions.from_frame(frame))
    assert len(Interactions.from_parquet(tmp_path / "part-0.parquet")) == 2


def test_the_word_of_catalog_and_interactions_leads_here(tmp_path):
    path = write(tmp_path / "shop.csv", "sku,name\na,Alpha\nb,Beta\n")
    catalog = Catalog.read(path, columns={"item_id": "sku", "title": "name"})
    assert catalog.titles == ["Alpha", "Beta"]
    assert catalog.columns == ["item_id", "title", "description"]


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8).filter(
    lambda x: x.strip()
)
catalogs = st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=8, unique_by=lambda x: x[0])


@settings(max_examples=40, deadline=None)
@given(rows=catalogs, form=st.sampled_from(["csv", "csv.gz", "jsonl", "parquet"]))
def test_a_catalogue_comes_back_as_it_was_written(tmp_path_factory, rows, form):
    path = tmp_path_factory.mktemp("c") / f"items.{form}"
    frame = pd.DataFrame(rows, columns=["item_id", "title", "description"])
    if form.startswith("csv"):
        frame.to_csv(path, index=False)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        frame.to_parquet(path)
    table = read_catalog(path).table
    assert [tuple(r.values()) for r in table.to_pylist()] == rows


event_rows = st.lists(
    st.tuples(texts, texts, st.floats(-1e6, 1e6, width=32), st.integers(0, 2_000_000_000)), min_size=1, max_size=12
)


@settings(max_examples=40, deadline=None)
@given(rows=event_rows, form=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_interactions_come_back_as_they_were_written(tmp_path_factory, rows, form):
    path = tmp_path_factory.mktemp("e") / f"events.{form}"
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False, double_precision=15)
    else:
        frame.to_parquet(path)
    read = read_interactions(path)
    assert read.to_frame()[["user_id", "item_id"]].to_numpy().tolist() == frame[["user_id", "item_id"]].values.tolist()
    np.testing.assert_allclose(read.weights, frame["rating"], rtol=1e-6, atol=1e-15)  # pandas writes 15 places
    np.testing.assert_array_equal(read.times, frame["timestamp"])
    assert read.users == IdSorted(frame["user_id"])


def IdSorted(values):
    from llm_tail.data.ids import IdMap

    return IdMap(sorted(set(values)), "user")


def test_small_blocks_give_the_same_answer(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, 50, 3000).astype(str),
            "item_id": [f'i "{x}", \u00e9' for x in rng.integers(0, 80, 3000)],
            "rating": rng.integers(1, 6, 3000),
        }
    )
    frame.to_csv(tmp_path / "e.csv", index=False)
    frame.to_json(tmp_path / "e.jsonl", orient="records", lines=True)
    expected = Interactions.from_frame(frame)
    monkeypatch.setattr(sources_module, "BLOCK_BYTES", 4096)
    for name in ("e.csv", "e.jsonl"):
        read = read_interactions(tmp_path / name)
        assert read.fingerprint() == expected.fingerprint()


# ---- columns


def test_a_wrong_column_names_those_that_are_there_and_the_nearest(tmp_path):
    path = write(tmp_path / "shop.csv", "itemid,title\na,Alpha\n")
    with pytest.raises(DataError, match=r"no column 'item_id'; found: itemid, title; the nearest is 'itemid'"):
        read_catalog(path)
    with pytest.raises(DataError, match=r"no column 'item' \(asked for as 'item_id'\).*nearest is 'itemid'"):
        read_catalog(path, columns={"item_id": "item"})
    with pytest.raises(DataError, match="interactions have no column 'score'; known: user_id"):
        read_interactions(path, columns={"score": "title"})


def test_a_mapped_name_wins_over_a_column_of_the_same_name(tmp_path):
    path = write(tmp_path / "shop.csv", "item_id,sku,title\n1,a,Alpha\n2,b,Beta\n")
    assert list(read_catalog(path, columns={"item_id": "sku"}).ids) == ["a", "b"]
    events = write(tmp_path / "e.csv", "user_id,item_id,rating,stars\nann,a,1,5\n")
    assert read_interactions(events, columns={"weight": "stars"}).weights.tolist() == [5.0]
    assert read_interactions(events, columns={"rating": "stars"}).weights.tolist() == [5.0]


def test_ids_stay_what_they_are(tmp_path):
    path = write(tmp_path / "e.csv", "user_id,item_id\n007,NA\nnull,1.0\n")
    events = read_interactions(path)
    assert list(events.users) == ["007", "null"]
    assert list(events.items) == ["NA", "1.0"]
    pd.DataFrame({"user_id": [1.0, 2.0], "item_id": [3, 4]}).to_parquet(tmp_path / "e.parquet")
    events = read_interactions(tmp_path / "e.parquet")
    assert list(events.users) == ["1", "2"]
    assert list(events.items) == ["3", "4"]


def test_ids_of_a_type_that_is_none_are_refused(tmp_path):
    pq.write_table(pa.table({"user_id": [["a"]], "item_id": ["x"]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"column 'user_id' has the type list.*expected ids"):
        read_interactions(tmp_path / "e.parquet")


def test_cells_of_a_csv_become_numbers_and_lists_where_all_are(tmp_path):
    text = 'item_id,year,price,zip,tags,mixed\na,1815,1.5,00123,"[""x"", ""y""]",1\nb,,2,456,[],z\n'
    catalog = read_catalog(write(tmp_path / "shop.csv", text))
    assert catalog.column("year") == [1815, None]
    assert catalog.column("price") == [1.5, 2.0]
    assert catalog.column("zip") == ["00123", "456"]
    assert catalog.column("tags") == [["x", "y"], []]
    assert catalog.column("mixed") == ["1", "z"]


def test_json_cells_of_every_kind(tmp_path):
    lines = [
        {"item_id": 1, "title": ["Two", "parts"], "tags": ["x"], "spec": {"a": 1}, "mixed": 1, "late": None},
        {"item_id": "b", "title": None, "tags": None, "spec": None, "mixed": "one"},
        {"item_id": "c", "title": 7, "tags": "y", "big": 10**30},
    ]
    catalog = read_catalog(write(tmp_path / "i.jsonl", "\n".join(map(json.dumps, lines))))
    assert list(catalog.ids) == ["1", "b", "c"]
    assert catalog.titles == ["Two parts", "", "7"]
    assert catalog.column("tags") == [["x"], None, ["y"]]
    assert catalog.column("spec") == ['{"a": 1}', None, None]
    assert catalog.column("mixed") == ["1", "one", None]
    assert catalog.column("big") == [None, None, str(10**30)]


def test_blocks_whose_types_differ_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(sources_module, "BLOCK_BYTES", 1)
    lines = [{"item_id": "a", "n": 1, "t": "x"}, {"item_id": "b", "n": 1.5, "t": ["y"]}, {"item_id": "c", "new": "z"}]
    catalog = read_catalog(write(tmp_path / "i.jsonl", "\n".join(map(json.dumps, lines))))
    assert catalog.column("n") == [1.0, 1.5, None]
    assert catalog.column("t") == [["x"], ["y"], None]
    assert catalog.column("new") == [None, None, "z"]


# ---- times


@pytest.mark.parametrize(
    "cell",
    [
        "1577836800",
        "1577836800000",
        "1577836800000000",
        "2020-01-01",
        "2020-01-01T00:00:00Z",
        "2020-01-01 01:00:00+01:00",
    ],
)
def test_every_spelling_of_a_time_is_seconds(tmp_path, cell):
    events = read_interactions(write(tmp_path / "e.csv", f"user_id,item_id,timestamp\nann,emma,{cell}\n"))
    assert events.times.tolist() == [1577836800.0]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("tz", [None, "Europe/Vienna"])
def test_datetime_columns(tmp_path, unit, tz):
    stamps = pd.Series(pd.to_datetime(["2020-01-01", "1969-12-31T23:59:59.5"], utc=True, format="ISO8601")).dt.as_unit(
        unit
    )
    stamps = stamps.dt.tz_convert(tz) if tz else stamps.dt.tz_localize(None)
    pd.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": stamps}).to_parquet(tmp_path / "e.parquet")
    assert read_interactions(tmp_path / "e.parquet").times.tolist() == [1577836800.0, -1.0 if unit == "s" else -0.5]


# ---- bad rows


def test_lines_of_bad_csv_rows_are_right(tmp_path):
    text = (
        "user_id,item_id,rating,timestamp\n"  # line 1
        "ann,emma,5,1\n"
        "\n"
        "too,few\n"  # 4
        '"two\nlines",emma,4,2\n'  # 5 and 6
        "bob,,3,3\n"  # 7
        "bob,emma,lots,4\n"  # 8
        "too,many,5,6,7,8\n"  # 9
        ",emma,3,3\n"  # 10
        "bob,emma,5,yesterday\n"  # 11
        "bob,ulysses,5,12\n"
    )
    bad = read_interactions(write(tmp_path / "e.csv", text), max_bad_share=1).bad_rows
    assert (bad.total, bad.n_bad) == (9, 6)
    assert [(line, reason) for line, reason, _ in bad.first] == [
        (4, "2 cells instead of 4"),
        (7, "without item_id"),
        (8, "non-numeric rating"),
        (9, "6 cells instead of 4"),
        (10, "without user_id"),
    ]
    assert bad.first[2][2] == "bob,emma,lots,4"
    assert bad.reasons["non-numeric time"] == 1
    assert sum(bad.reasons.values()) == bad.n_bad


def test_lines_of_bad_json_rows_are_right(tmp_path):
    good = '{"user_id": "ann", "item_id": "emma", "rating": 5}\n'
    text = (
        good
        + "\n"
        + "{broken\n"  # 3
        + '{"user_id": "bob", "rating": 5}\n'  # 4
        + '["a list"]\n'  # 5
        + '{"user_id": {"name": "bob"}, "item_id": "emma", "rating": 1}\n'  # 6
        + '{"user_id": "bob", "item_id": "emma", "rating": "lots"}\n'  # 7
        + good
    )
    for path in (tmp_path / "e.jsonl", tmp_path / "e.jsonl.gz"):
        bad = read_interactions(write(path, text), max_bad_share=1).bad_rows
        assert [(line, reason) for line, reason, _ in bad.first] == [
            (3, "no valid JSON"),
            (4, "without item_id"),
            (5, "JSON, but no object"),
            (6, "dict as user_id"),
            (7, "non-numeric rating"),
        ]
        assert (bad.total, bad.n_bad) == (7, 5)


@settings(max_examples=30, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["good", "blank", "broken", "no id"]), min_size=1, max_size=30),
    block=st.integers(1, 300),
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_line_numbers_hold_for_any_order_of_bad_lines(tmp_path_factory, form, kinds, block):
    cells = {
        "csv": {"good": "ann,emma", "blank": "", "broken": "a,b,c", "no id": "ann,"},
        "jsonl": {
            "good": '{"user_id":"ann","item_id":"emma"}',
            "blank": "",
            "broken": "{",
            "no id": '{"user_id":"ann"}',
        },
    }[form]
    header = ["user_id,item_id"] if form == "csv" else []
    kinds = ["good", *kinds]
    path = write(tmp_path_factory.mktemp("b") / f"e.{form}", "\n".join([*header, *(cells[kind] for kind in kinds)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources_module, "BLOCK_BYTES", max(block, 40))
        bad = read_interactions(path, max_bad_share=1).bad_rows
    expected = [n for n, kind in enumerate(kinds, 1 + len(header)) if kind in ("broken", "no id")]
    assert [line for line, _, _ in bad.first] == expected[:5]
    assert bad.n_bad == len(expected)
    assert bad.total == sum(kind != "blank" for kind in kinds)


def test_too_many_bad_rows_are_an_error_that_shows_them(tmp_path):
    lines = [f"ann,i{n},5" for n in range(50)] + [f"ann,,{n}" for n in range(7)] + ["x" * 500 + ",,1"]
    path = write(tmp_path / "e.csv", "user_id,item_id,rating\n" + "\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_interactions(path)
    text = str(caught.value)
    assert "8 of 58 rows are bad (13.79 %): 8 without item_id" in text
    assert "line 52: without item_id: ann,,0" in text
    assert text.count("  line ") == 5
    assert "at most 1 % bad rows" in text
    assert len(read_interactions(path, max_bad_share=0.2)) == 50


def test_a_repeated_item_keeps_its_first_row(tmp_path):
    path = write(tmp_path / "i.csv", "item_id,title\na,One\nb,Two\na,Three\n,Four\n")
    catalog = read_catalog(path, max_bad_share=0.5)
    assert catalog.titles == ["One", "Two"]
    assert catalog.bad_rows.reasons == {"without item_id": 1, "item_id that was there before": 1}
    assert [line for line, _, _ in catalog.bad_rows.first] == [4, 5]


def test_nan_ratings_are_bad_unless_all_are(tmp_path):
    some = write(tmp_path / "some.csv", "user_id,item_id,rating\nann,a,5\nann,b,nan\nann,c,\nann,d,inf\nann,e,1e300\n")
    events = read_interactions(some, max_bad_share=0.9)
    assert len(events) == 1
    assert list(events.items) == ["a"]
    assert events.bad_rows.reasons == {"without rating": 2, "non-numeric rating": 2}
    none = write(tmp_path / "none.csv", "user_id,item_id,rating,timestamp\nann,a,,\nann,b,nan,\n")
    events = read_interactions(none)
    assert events.weights is None
    assert events.times is None
    assert events.bad_rows.n_bad == 0


def test_bytes_that_are_no_utf8_cost_their_row(tmp_path):
    path = write(tmp_path / "i.csv", b"item_id,title\na,Alpha\nb,caf\xe9\nc,Gamma\n")
    catalog = read_catalog(path, max_bad_share=0.5)
    assert list(catalog.ids) == ["a", "c"]
    assert catalog.bad_rows.first[0][:2] == (3, "not UTF-8")
    path = write(tmp_path / "i.jsonl", b'{"item_id": "a"}\n{"item_id": "caf\xe9"}\n')
    assert read_catalog(path, max_bad_share=0.5).bad_rows.first[0][:2] == (2, "not UTF-8")


def test_an_open_quote_is_counted_for_all_that_it_swallows(tmp_path):
    text = "user_id,item_id\n" + "ann,emma\n" * 20 + '"bob,emma\n' + "ann,emma\n" * 20
    with pytest.raises(DataError, match=r"quote that swallows the lines after it") as caught:
        read_interactions(write(tmp_path / "e.csv", text), max_bad_share=0.4)
    assert "line 22" in str(caught.value)


def test_rows_of_parquet_are_numbered(tmp_path):
    pd.DataFrame({"user_id": ["a", None, "c"], "item_id": ["x", "y", "z"]}).to_parquet(tmp_path / "e.parquet")
    bad = read_interactions(tmp_path / "e.parquet", max_bad_share=0.5).bad_rows
    assert bad.first[0][:2] == (2, "without user_id")
    assert "'item_id': 'y'" in bad.first[0][2]


def test_bad_rows_say_what_they_are():
    assert not BadRows(3)
    assert BadRows(4, 1, {"x": 1}).share == 0.25
    assert str(BadRows(1000, 20, {"a": 5, "b": 15})) == "20 of 1,000 rows are bad (2.00 %): 15 b, 5 a"


# ---- files that cannot be read


@pytest.mark.parametrize("reader", [read_catalog, read_interactions])
@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("e.csv", b"", "is empty"),
        ("e.csv", b"user_id,item_id\n", "is empty"),
        ("e.csv", b"\n\n", "is empty"),
        ("e.jsonl", b"", "is empty"),
        ("e.jsonl", b"\n \n", "is empty"),
        ("e.json", b'[{"item_id": 1}]', "no JSON objects; line 1"),
        ("e.json", b'[\n{"item_id": 1, "user_id": 1},\n{"item_id": 2, "user_id": 1}\n]', "one JSON array"),
        ("e.parquet", b"PAR1 not really", "cannot be read"),
        ("e.csv.gz", gzip.compress(b"user_id,item_id\n" + b"a,b\n" * 9, mtime=0)[:-12], "cannot be read"),
        ("e.csv.gz", b"user_id,item_id\na,b\n", "cannot be read"),
        ("e.jsonl.gz", gzip.compress(b'{"user_id":"a","item_id":"b"}\n', mtime=0)[:-9], "cannot be read"),
        ("e.xlsx", b"PK", "cannot tell the format"),
    ],
)
def test_what_cannot_be_read_is_a_data_error(tmp_path, reader, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words) as caught:
        reader(tmp_path / name)
    assert name in str(caught.value)


def test_a_missing_file_is_named_with_its_nearest(tmp_path):
    write(tmp_path / "interactions.csv", csv_text())
    with pytest.raises(DataError, match=r"no file or folder .*interaction\.csv; did you mean 'interactions\.csv'"):
        read_interactions(tmp_path / "interaction.csv")
    with pytest.raises(DataError, match="check the path"):
        read_catalog(tmp_path / "nowhere" / "x.csv")
    with pytest.raises(DataError, match="did you mean 'parquet'"):
        read_catalog(tmp_path / "interactions.csv", format="parqet")


def test_a_folder_without_data_says_what_it_holds(tmp_path):
    write(tmp_path / "notes.md", "hello")
    with pytest.raises(DataError, match=r"no items found in the folder .* which holds notes\.md"):
        read_catalog(tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), name=st.sampled_from(["e.csv", "e.jsonl", "e.parquet", "e.csv.gz", "e.inter"]))
def test_any_bytes_are_read_or_refused_in_our_words(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("f") / name
    path.write_bytes(b"user_id,item_id\n" + data if name == "e.csv" else data)
    for reader in (read_catalog, read_interactions):
        with contextlib.suppress(LlmTailError):
            assert len(reader(path, max_bad_share=1.0)) > 0


# ---- formats of others


def test_recbole(tmp_path):
    folder = tmp_path / "shop"
    write(folder / "shop.item", "item_id:token\tmovie_title:token_seq\tgenre:token_seq\trelease_year:float\n"
          'a\tThe "Big" Sleep\tcrime noir\t1946\nb\tEmma\t\t\n')  # fmt: skip
    write(
        folder / "shop.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ta\t5\t100\nu2\tb\t4\t200\n",
    )
    write(folder / "other.inter", "user_id:token\titem_id:token\nx\ty\n")
    catalog, events = read_catalog(folder), read_interactions(folder)
    assert catalog.titles == ['The "Big" Sleep', "Emma"]
    assert catalog.column("categories") == [["crime", "noir"], []]
    assert catalog.column("year") == [1946.0, None]
    assert events_of(events) == {
        "user_id": ["u1", "u2"],
        "item_id": ["a", "b"],
        "weight": [5, 4],
        "timestamp": [100, 200],
    }
    assert len(read_interactions(folder / "other.inter")) == 1


def test_movielens_latest(tmp_path):
    write(tmp_path / "movies.csv", "movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n"
          '2,"Matrix, The (1999)",(no genres listed)\n3,Untitled,Drama\n')  # fmt: skip
    write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,3,2.5,964982704\n")
    write(tmp_path / "tags.csv", "userId,movieId,tag,timestamp\n1,1,fun,3\n")
    catalog, events = read_catalog(tmp_path), read_interactions(tmp_path)
    assert catalog.titles == ["Toy Story", "Matrix, The", "Untitled"]
    assert catalog.column("year") == [1995, 1999, None]
    assert catalog.column("categories") == [["Animation", "Comedy"], [], ["Drama"]]
    assert events_of(events)["weight"] == [4.0, 2.5]
    assert read_interactions(tmp_path / "ratings.csv").fingerprint() == events.fingerprint()


def test_movielens_1m(tmp_path, monkeypatch):
    monkeypatch.setattr(sources_module, "BLOCK_BYTES", 64)
    movies = "".join(f"{n}::Caf\u00e9 {n} (19{n:02d})::Drama|Film-Noir\n" for n in range(10, 60))
    write(tmp_path / "movies.dat", movies.encode("latin1"))
    write(tmp_path / "ratings.dat", "".join(f"{n % 7}::{n}::5::{978300000 + n}\n" for n in range(10, 60)))
    catalog, events = read_catalog(tmp_path), read_interactions(tmp_path)
    assert catalog["12"].title == "Caf\u00e9 12"
    assert catalog["12"].fields == {"categories": ["Drama", "Film-Noir"], "year": 1912}
    assert len(events) == 50
    assert events.on(catalog).times.tolist() == [978300000.0 + n for n in range(10, 60)]


def test_movielens_100k(tmp_path):
    flags = ["0"] * 19
    flags[5] = flags[14] = "1"
    write(tmp_path / "u.item", f"1|Caf\u00e9 (1995)|01-Jan-1995||http://x|{'|'.join(flags)}\n".encode("latin1"))
    write(tmp_path / "u.data", "196\t1\t3\t881250949\n186\t1\t3\t891717742\n")
    catalog, events = read_catalog(tmp_path), read_interactions(tmp_path)
    assert catalog["1"].title == "Caf\u00e9"
    assert catalog["1"].fields["categories"] == ["Comedy", "Romance"]
    assert events.times.tolist() == [881250949.0, 891717742.0]


AMAZON_2018 = {
    "asin": "B01",
    "title": "Fast &amp; quiet <b>fan</b>",
    "description": ["<p>Short.</p>"],
    "feature": ["5 blades", "Runs at 5 < 6 V"],
    "category": ["Home &amp; Kitchen", "Fans"],
    "brand": "Acme",
    "price": "$12.00",
    "details": {"Weight": "2 kg"},
    "also_buy": ["B02"],
    "image": ["http://x"],
}
AMAZON_2023 = {
    "parent_asin": "B01",
    "title": "Fan",
    "description": [],
    "features": ["5 blades"],
    "categories": ["Home", "Fans"],
    "store": "Acme",
    "price": 12.0,
    "main_category": "Home",
    "details": {"Weight": "2 kg", "Colours": {"a": "red"}},
    "images": [{"large": "http://x"}],
}


def test_amazon_2018(tmp_path):
    full = {**AMAZON_2018, "asin": "B02", "description": ["x" * 100], "price": None}
    path = write(tmp_path / "meta.jsonl.gz", json.dumps(AMAZON_2018) + "\n" + json.dumps(full) + "\n")
    catalog = read_catalog(path)
    item = catalog["B01"]
    assert item.title == "Fast & quiet fan"
    assert item.description == "Short. 5 blades Runs at 5 < 6 V Weight: 2 kg"
    assert item.fields["categories"] == ["Home & Kitchen", "Fans"]
    assert item.fields["brand"] == "Acme"
    assert "image" not in catalog.columns
    assert catalog["B02"].description == "x" * 100
    review = {"reviewerID": "A1", "asin": "B01", "overall": 5.0, "unixReviewTime": 1529193600, "reviewText": "good"}
    events = read_interactions(write(tmp_path / "reviews.json", json.dumps(review)), format="amazon")
    assert events_of(events) == {"user_id": ["A1"], "item_id": ["B01"], "weight": [5.0], "timestamp": [1529193600.0]}


def test_amazon_2023(tmp_path):
    catalog = read_catalog(write(tmp_path / "meta.jsonl", json.dumps(AMAZON_2023)))
    assert catalog["B01"].description == "5 blades Weight: 2 kg. Colours: a: red"
    assert catalog["B01"].fields["brand"] == "Acme"
    review = {"user_id": "A1", "parent_asin": "B01", "asin": "B99", "rating": 4.0, "timestamp": 1588687728923}
    events = read_interactions(write(tmp_path / "reviews.jsonl", json.dumps(review)))
    assert list(events.items) == ["B01"]
    assert events.times.tolist() == [1588687728.923]
    events = read_interactions(write(tmp_path / "r.csv", "user_id,parent_asin,rating,timestamp\nA,B,5,1588687728923\n"))
    assert events.times.tolist() == [1588687728.923]


def test_descriptions_keep_their_tags_where_they_are_not_from_amazon(tmp_path):
    path = write(tmp_path / "i.jsonl", '{"item_id": "a", "description": "use <b> for bold"}')
    assert read_catalog(path)["a"].description == "use <b> for bold"


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_data_sets_on_disk(tmp_path, datasets_cache):
    path = write(tmp_path / "e.csv", csv_text())
    expected = read_interactions(path).fingerprint()
    assert read_interactions(f"hf:{path}").fingerprint() == expected
    assert read_interactions(f"hf:{path}:train").fingerprint() == expected
    with pytest.raises(DataError, match="has no split 'test'; it has: train"):
        read_interactions(f"hf:{path}:test")
    saved = datasets_cache.Dataset.from_list([AMAZON_2023, {**AMAZON_2023, "parent_asin": None}])
    saved.save_to_disk(tmp_path / "saved")
    catalog = read_catalog(f"hf:{tmp_path / 'saved'}", max_bad_share=0.5)
    assert list(catalog.ids) == ["B01"]
    assert catalog.bad_rows.first[0][:2] == (2, "without item_id")
    with pytest.raises(DataError, match="cannot be loaded"):
        read_catalog(f"hf:{tmp_path / 'nowhere'}")


# ---- memory, weight, real data


def test_a_large_file_needs_no_multiple_of_its_size(tmp_path):
    line = b"user-%07d,item-%05d,5,1529193600," + b"x" * 150 + b"\n"
    path = tmp_path / "e.csv"
    with path.open("wb") as stream:
        stream.write(b"user_id,item_id,rating,timestamp,review\n")
        for n in range(400_000):
            stream.write(line % (n % 5000, n % 700))
    code = (
        "import resource, sys\nfrom llm_tail.data.readers import read_interactions\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(read_interactions(sys.argv[1])) == 400_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = int(subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True).stdout) * 1024
    assert grown < 1.5 * path.stat().st_size


def test_reading_loads_no_heavy_library():
    code = (
        "import sys, llm_tail.data.readers, llm_tail.data.audit, llm_tail.data.splits\n"
        "print([m for m in ('torch', 'datasets', 'sklearn', 'transformers', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["amazon-giftcards", "amazon-scientific", "citeulike-a", "movielens-small"])
def test_real_data_has_no_bad_row(name):
    folder = SHARED / name
    if not folder.exists():
        pytest.skip(f"no data set at {folder}; set LLM_TAIL_DATA")
    catalog, events = read_catalog(folder), read_interactions(folder)
    assert not catalog.bad_rows
    assert not events.bad_rows
    frame = pd.read_parquet(folder / "interactions.parquet")
    assert events.fingerprint() == Interactions.from_frame(frame).fingerprint()
    assert list(catalog.ids) == pd.read_parquet(folder / "items.parquet")["item_id"].tolist()
