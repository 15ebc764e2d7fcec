"""Search by words: what counts as one in many scripts, known answers, changes, files; and both rankings as one."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.catalog import Catalog
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError, UnknownIdError
from llm_tail.neighbors.fusing import HybridSearch, fuse
from llm_tail.neighbors.index import NeighborIndex
from llm_tail.neighbors.tokens import tokens_of
from llm_tail.neighbors.words import K1, B, WordIndex

SHOP = {
    "bolt": "Hex bolt M8x20-A2, stainless steel 20mm",
    "nut": "Hex nut M8 stainless",
    "valve": "Ball valve DN-25 1.5 bar",
    "screw": "不锈钢螺丝 M8x20",
    "book": "Ein schönes Buch über Straßen, l'eau",
    "blank": "",
}


@pytest.fixture
def words():
    return WordIndex.build(SHOP, list(SHOP.values()))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hex bolt", ["hex", "bolt"]),
        ("M8x20-A2", ["m8x20-a2", "m8x20a2", "m8x20", "m8", "20", "a2"]),
        ("DN-25", ["dn-25", "dn25", "dn", "25"]),
        ("well-known", ["well", "known"]),
        ("3.5", ["3.5"]),
        ("20mm", ["20mm", "20", "mm"]),
        ("Straße ＡＢＣ", ["strasse", "abc"]),
        ("不锈钢", ["不锈", "锈钢"]),
        ("钢", ["钢"]),
        ("M8螺丝", ["m8", "螺丝"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("Привет мир", ["привет", "мир"]),
        ("한국어 책", ["한국어", "책"]),
        ("snake_case", ["snake", "case"]),
        ("-- ... !!", []),
        ("", []),
        ("\udcff x", ["x"]),
    ],
)
def test_what_counts_as_a_word(text, tokens):
    assert tokens_of(text) == tokens


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_words_without_space_or_case(text):
    found = tokens_of(text)
    assert all(word and not any(letter.isspace() for letter in word) for word in found)
    assert tokens_of(text) == found


@pytest.mark.parametrize(
    ("asked", "best"),
    [
        ("m8x20-a2", "bolt"),
        ("M8X20A2", "bolt"),
        ("m8", "nut"),
        ("dn25", "valve"),
        ("DN 25", "valve"),
        ("20 mm", "bolt"),
        ("锈钢", "screw"),
        ("strassen", "book"),
        ("1.5", "valve"),
    ],
)
def test_known_answers(words, asked, best):
    assert words.search(asked).item_ids[0] == best


def test_what_shares_no_word_is_not_found(words):
    assert words.search("sofa").item_ids == () and words.search("").item_ids == ()
    assert words.search("hex sofa").item_ids == ("nut", "bolt")
    assert "blank" not in words.search(" ".join(SHOP.values()), 100).item_ids
    assert repr(words).startswith("WordIndex(6 items, ") and "bolt" in words and list(words.ids) == list(SHOP)


def test_scores_are_those_of_the_formula():
    texts = ["a a b", "b c", "c c c d", "a"]
    words = WordIndex.build(map(str, range(4)), texts)
    tokens = [text.split() for text in texts]
    mean = np.mean([len(line) for line in tokens])
    for word in "abcd":
        n_with = sum(word in line for line in tokens)
        rare = np.log(1 + (4 - n_with + 0.5) / (n_with + 0.5))
        expected = [
            rare * line.count(word) / (line.count(word) + K1 * (1 - B + B * len(line) / mean)) for line in tokens
        ]
        found = words.search(word)
        by_id = dict(zip(found.item_ids, found.similarities.tolist(), strict=True))
        np.testing.assert_allclose([by_id.get(str(n), 0) for n in range(4)], expected, rtol=1e-5)


def test_items_come_and_go(words):
    words.add(["pin", "nut"], ["Dowel pin M8x20-A2 hex", "Wing nut"])
    assert set(words.search("m8x20-a2").item_ids) >= {"pin", "bolt"} and len(words) == 7
    assert "nut" not in words.search("hex").item_ids and words.search("wing").item_ids == ("nut",)
    late = words.search("hex m8 wing stainless", 10)
    words.compact()
    assert set(words.search("hex m8 wing stainless", 10).item_ids) == set(late.item_ids)
    words.remove(["bolt", "pin"])
    assert words.search("m8x20-a2").item_ids == ("screw", "nut")[:1] and len(words) == 5
    with pytest.raises(UnknownIdError, match="'bolt'"):
        words.remove("bolt")
    words.add(["bolt"], ["back again"])
    assert words.search("again").item_ids == ("bolt",)
    words.remove(list(words.ids))
    assert len(words) == 0 and words.search("hex").item_ids == ()
    words.compact()
    words.add(["one"], ["only one"])
    assert words.search("one").item_ids == ("one",)


def test_much_that_comes_is_counted_anew():
    words = WordIndex.build(["a"], ["first"])
    for n in range(600):
        words.add([f"x{n}"], [f"word{n} common"])
    assert len(words._texts.late) < 600 and words.search("word77").item_ids == ("x77",)
    assert len(words.search("common", 1000)) == 600


def test_readers_beside_a_writer(words):
    end, faults = threading.Event(), []

    def read():
        while not end.is_set():
            if "valve" not in words.search("valve hex").item_ids:
                faults.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(40):
        words.add([f"x{n}"], ["hex thing"])
        words.remove([f"x{n}"])
        if n % 10 == 0:
            words.compact()
    end.set()
    for thread in threads:
        thread.join(timeout=20)
    assert not faults


def test_only_what_passes(words):
    words.attach(Catalog.from_items({"item_id": x, "price": n} for n, x in enumerate(SHOP)))
    assert words.search("hex", where="price > 0").item_ids == ("nut",)
    assert words.search("hex", where=["bolt", "gone"]).item_ids == ("bolt",)
    with pytest.raises(DataError, match="closest are: price"):
        words.search("hex", where="prize > 0")


@pytest.mark.parametrize("texts", [list(SHOP.values()), [""] * 6, ["..."] * 6])
def test_it_is_saved_and_read(texts, tmp_path):
    words = WordIndex.build(SHOP, texts)
    words.add(["more"], ["Hex more"])
    folder = words.save(tmp_path / "words")
    again = WordIndex.load(folder, words.fingerprint())
    assert repr(again) == repr(words) and again.ids == words.ids
    for asked in ("hex", "m8x20-a2", "锈钢", "nothing"):
        one, other = words.search(asked), again.search(asked)
        assert one.item_ids == other.item_ids and (one.similarities == other.similarities).all()
    again.add(["new"], ["hex hex"])
    assert "new" in again.search("hex").item_ids
    with pytest.raises(StaleArtifactError):
        WordIndex.load(folder, "another")
    for file in next(folder.glob("g-*")).iterdir():
        whole = file.read_bytes()
        for damaged in (whole[:-3], whole[:40], b"\0" + whole[1:]):
            file.write_bytes(damaged)
            with pytest.raises(CorruptArtifactError):
                WordIndex.load(folder)
        file.write_bytes(whole)


def test_wrong_input_is_refused(words):
    with pytest.raises(DataError, match="2 texts for 1 items"):
        WordIndex.build(["a"], ["x", "y"])
    with pytest.raises(DataError, match="the text of 'a' is None"):
        WordIndex.build(["a"], [None])
    with pytest.raises(DataError, match="k is 0"):
        words.search("hex", 0)
    with pytest.raises(DataError, match="expected a str"):
        words.search(None)


# ---- both


def test_places_are_fused():
    assert [x for x, _ in fuse([["a", "b"], ["b", "c"]], 9)] == ["b", "a", "c"]
    assert fuse([[], []], 3) == [] and fuse([["a"], ["b"]], 1)[0][0] == "a"
    assert fuse([["a"], ["a"]], 1)[0][1] == pytest.approx(2 / 61)
    with pytest.raises(DataError):
        fuse([["a"]], 0)


@pytest.fixture
def search(words):
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    vectors[5] = 0
    index = NeighborIndex.build(Embeddings(list(SHOP), vectors))
    return HybridSearch(index, words, lambda text: vectors[2])


def test_both_say_where_each_item_stands(search):
    found = search.search("hex", 4)
    assert found.how == "both" and len(found) == 4
    by_vector = search.search("hex", 6, how="vectors").item_ids
    for item, place, word_place in zip(found.item_ids, found.vector_ranks, found.word_ranks, strict=True):
        assert by_vector[place - 1] == item
        assert word_place == {"nut": 1, "bolt": 2}.get(item, 0)
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.similarities, search.index.cosines(search.encode(""), found.item_ids))
    only = search.search("hex", 4, how="words")
    assert only.item_ids == ("nut", "bolt") and only.vector_ranks.tolist() == [0, 0]


def test_an_item_without_vector_is_found_by_its_words():
    index = NeighborIndex.build(Embeddings(["a", "b"], np.array([[1.0, 0.0], [0.0, 0.0]])))
    search = HybridSearch(index, WordIndex.build(["a", "b"], ["x", "rare word"]), lambda text: np.array([1.0, 0.0]))
    found = dict(search.search("rare"))
    assert found["b"] == 0.0 and set(found) == {"a", "b"}


def test_wrong_searches_are_refused(search):
    for text, kind in (("  ", "both"), (3, "both"), ("hex", "guess")):
        with pytest.raises(DataError):
            search.search(text, how=kind)
    with pytest.raises(DataError, match="k is 0"):
        search.search("hex", 0)
    assert len(search.search("hex", where=["bolt", "book"])) == 2
    assert len(search.ranked(search.encode(""), "hex", 9, without="bolt")) == 4
