import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from llm_tail.artifacts import write_artifact
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, StaleArtifactError
from llm_tail.recommenders import base
from llm_tail.recommenders.base import Recommender, top_k
from llm_tail.recommenders.baselines import Ease, ItemKnn, Popularity

SCORES = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    elements=st.sampled_from([-np.inf, np.nan, -1.0, 0.0, 0.5, 1.0, 2.0]),
)


@given(SCORES, st.integers(1, 12))
def test_top_k_is_a_stable_sort_cut_off(scores, k):
    rows, best = top_k(scores, k)
    for line, got, values in zip(scores, rows, best, strict=True):
        there = [n for n in range(len(line)) if np.isfinite(line[n])]
        wanted = sorted(there, key=lambda n: (-line[n], n))[:k]
        assert [n for n in got if n >= 0] == wanted
        assert [n for n in got if n < 0] == [-1] * (min(k, len(line)) - len(wanted))
        np.testing.assert_array_equal(values[: len(wanted)], line[wanted])
        assert np.isneginf(values[len(wanted) :]).all()


def pairs():
    return [("ann", "emma"), ("ann", "dune"), ("bob", "emma"), ("eve", "dracula")]


def test_blocks_do_not_change_the_answer(monkeypatch):
    train = Interactions.from_pairs([(f"u{n}", f"i{m}") for n in range(30) for m in range(n % 7, 12, 3)])
    model = ItemKnn(k=5).fit(train)
    whole = model.recommend(k=4)
    monkeypatch.setattr(base, "BLOCK_BYTES", 4 * 12 * 7)
    parts = model.recommend(k=4)
    np.testing.assert_array_equal(whole.item_rows, parts.item_rows)
    np.testing.assert_array_equal(whole.scores, parts.scores)


def test_to_frame_has_a_row_for_each_recommendation():
    frame = Popularity().fit(Interactions.from_pairs(pairs())).recommend(["ann", "eve"], k=2).to_frame()
    assert frame.to_dict("list") == {
        "user_id": ["ann", "eve", "eve"],
        "item_id": ["dracula", "emma", "dune"],
        "rank": [1, 1, 2],
        "score": [1.0, 2.0, 1.0],
    }


def test_the_items_of_the_vectors_are_the_items_of_the_model():
    vectors = Embeddings(["dune", "ulysses", "emma"], np.eye(3))
    model = Ease(1.0).fit(Interactions.from_pairs(pairs()), vectors)
    assert list(model.items) == ["dune", "ulysses", "emma"]
    assert model.histories.sum() == 3  # the one on dracula has no vector and is left out


def test_a_model_that_failed_to_learn_is_not_fitted():
    class Stumbling(Popularity):
        def _fit(self, *args):
            raise DataError("no")

    model = Stumbling()
    with pytest.raises(DataError):
        model.fit(Interactions.from_pairs(pairs()))
    assert not model.is_fitted


@pytest.mark.parametrize("ask", [{"users": "ann"}, {"history": "emma"}, {"users": ["ann"], "candidates": "emma"}])
def test_a_text_in_place_of_a_list_is_refused(ask):
    model = Popularity().fit(Interactions.from_pairs(pairs()))
    with pytest.raises(DataError, match="expected a list of ids"):
        model.recommend(**ask)


def test_users_and_history_exclude_each_other():
    model = Popularity().fit(Interactions.from_pairs(pairs()))
    with pytest.raises(DataError, match="not both"):
        model.recommend(["ann"], history=["emma"])


def test_a_candidate_mask_of_the_wrong_length_is_refused():
    model = Popularity().fit(Interactions.from_pairs(pairs()))
    with pytest.raises(DataError, match=r"shape \(2,\), expected \(3,\)"):
        model.recommend(["ann"], candidates=np.array([True, False]))


def test_the_same_person_may_be_asked_for_twice():
    model = Popularity().fit(Interactions.from_pairs(pairs()))
    answer = model.recommend(["eve", "eve"], k=1)
    assert answer[0] == answer[1] == [("emma", 2.0)]


def test_loading_another_class_is_refused(tmp_path):
    Popularity().fit(Interactions.from_pairs(pairs())).save(tmp_path)
    with pytest.raises(DataError, match="holds a Popularity, expected a Ease"):
        Ease.load(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    Popularity().fit(Interactions.from_pairs(pairs())).save(tmp_path)
    arrays = next(tmp_path.rglob("arrays.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:-1])
    with pytest.raises(CorruptArtifactError, match=r"arrays\.safetensors"):
        Popularity.load(tmp_path)


@pytest.mark.parametrize("facts", [{}, {"settings": {"old": 1}, "training": {}, "name": "popularity"}])
def test_a_model_of_another_version_is_stale(tmp_path, facts):
    with write_artifact(tmp_path, "recommender", "x", {"class": "Popularity", "settings": {}, **facts}):
        pass
    with pytest.raises(StaleArtifactError, match=r"Popularity at .* was written by another version .*fit it again"):
        Popularity.load(tmp_path)


def test_what_is_not_to_be_recommended_survives_saving(tmp_path):
    train = Interactions.from_pairs(pairs())
    held = Interactions.from_pairs([("eve", "emma")])
    model = Popularity().fit(train, validation=held)
    again = Popularity.load(model.save(tmp_path))
    assert dict(again.recommend(["eve"], k=9)[0]) == {"dune": 1.0}


def test_the_contract_itself_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Recommender()  # type: ignore[abstract]


def test_a_subclass_writes_two_methods():
    class Alphabetical(Recommender):
        name = "alphabetical"

        def _fit(self, train, embeddings, graph, validation):
            self.order = np.argsort(np.argsort(self.items.values))

        def _score(self, histories):
            return -np.tile(self.order, (histories.shape[0], 1))

    model = Alphabetical().fit(Interactions.from_pairs(pairs()))
    assert [item for item, _ in model.recommend(["eve"], k=2)[0]] == ["dune", "emma"]
    assert model.score(sp.csr_matrix((2, 3), dtype=np.float32)).dtype == np.float32
