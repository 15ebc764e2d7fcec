"""One vector for each item, and the search structure that serves them."""

import numpy as np
import pytest

from llm_tail.config import IndexConfig
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import CorruptArtifactError, DataError, NotFittedError, StaleArtifactError, UnknownIdError
from llm_tail.recommenders import scoring
from llm_tail.recommenders.hybrid import HybridRecommender
from llm_tail.recommenders.serving import ServingIndex

from .shelf import N_WARM, Shelf
from .test_sequence import in_order

PLAIN = {"tune": False, "learn": False, "ridge": 5.0, "neighbors": 5}
GRAPH = IndexConfig(exact_below=0, links=8)


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


@pytest.fixture(scope="module")
def model(shelf):
    return HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings, validation=shelf.validation())


@pytest.fixture(scope="module")
def lean(model, tmp_path_factory):
    """The same without the matrix of scores."""
    folder = model.save(tmp_path_factory.mktemp("model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "WHOLE_BYTES", 0)
        return HybridRecommender.load(folder)


def test_at_full_width_the_inner_products_are_the_scores(model, lean):
    scores = model.score(model.histories)
    for one in (model, lean):
        vectors = one.item_vectors(dim=10_000)
        assert vectors.keys.shape == vectors.queries.shape == (42, 42)
        np.testing.assert_allclose(vectors.score(model.histories), scores, rtol=1e-3, atol=1e-4)


def test_a_narrow_cut_is_the_best_there_is(model):
    owned = np.sqrt(np.bincount(model.histories.indices, minlength=42) + 1.0)[:, None]
    left, strength, right = np.linalg.svd(owned * model._weights, full_matrices=False)
    for dim in (1, 5, 12):
        vectors = model.item_vectors(dim)
        assert vectors.dim == dim
        best = (left[:, :dim] * strength[:dim]) @ right[:dim]
        np.testing.assert_allclose(owned * (vectors.queries @ vectors.keys.T), best, atol=2e-3 * strength[0])


def test_the_parts_of_a_row_are_those_of_the_whole(model, lean):
    owned, asked = np.array([3, 0, 38]), np.array([38, 3, 7, 41])
    np.testing.assert_allclose(lean._said(owned, asked), model._weights[np.ix_(owned, asked)], rtol=1e-4, atol=1e-6)
    for some, all_of_it in zip(model._rows(owned, asked), model._rows(owned), strict=True):
        np.testing.assert_allclose(some, all_of_it[:, asked], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("config", [None, GRAPH], ids=["exact", "graph"])
@pytest.mark.parametrize("rescore", [0, 42])
def test_it_answers_as_the_model_does(model, lean, config, rescore):
    for one in (model, lean):
        index = one.to_index(dim=42, config=config, rescore=rescore)
        assert index.index.is_exact == (config is None)
        mine, theirs = index.recommend(list(model.users), k=6), model.recommend(list(model.users), k=6)
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-3, atol=1e-4)
        assert np.mean(mine.item_rows == theirs.item_rows) > 0.98
        for history in (["w1", "c2"], ["w0"]):
            mine, theirs = (m.recommend(history=history, k=5) for m in (index, model))
            np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-3, atol=1e-4)
            assert not set(history) & {item for item, _ in mine[0]}


def test_scoring_again_makes_good_what_the_cut_has_lost(model):
    index = model.to_index(dim=4, rescore=15)
    measured = index.measured
    assert model.training["serving"] == measured
    assert (measured["dim"], measured["rescore"], measured["people"]) == (4, 15, 60)
    assert 0 < measured["overlap_vectors"] <= measured["overlap_rescored"] <= 1
    assert set(measured) >= {"ndcg_full", "ndcg_vectors", "ndcg_rescored"}
    rows, scores = index.search(model.histories, 5)
    exact = np.take_along_axis(model.score(model.histories), rows, axis=1)
    np.testing.assert_allclose(scores, exact, rtol=1e-4)
    assert index.rescore == 15


def test_at_full_width_nothing_is_lost(model, shelf):
    measured = model.to_index(dim=42, rescore=0).measured
    assert measured["overlap_vectors"] > 0.99
    assert measured["ndcg_vectors"] == pytest.approx(measured["ndcg_full"], abs=0.005)
    alone = HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings).to_index(dim=8).measured
    assert "ndcg_full" not in alone  # nothing to judge by


def test_validation_and_more_than_there_is(model):
    index = model.to_index(dim=8, rescore=10)
    answer = index.recommend(["u0", "u1"], k=1000)
    for user, items in answer:
        listed = [item for item, _ in items]
        assert len(set(listed)) == len(listed)
        assert not set(model.items.rows(listed)) & set(model._seen[model.users.row(user)].indices)
    everyone = index.recommend(list(model.users), k=3)
    assert (everyone.item_rows >= 0).all()
    assert (np.diff(everyone.scores, axis=1) <= 1e-6).all()


def test_people_without_history_and_mistakes_have_defined_answers(model):
    index = model.to_index(dim=8)
    answer = index.recommend(history=[], k=4)
    assert answer.from_popularity.all()
    np.testing.assert_array_equal(answer.item_rows, model.recommend(history=[], k=4).item_rows)
    assert len(index.recommend([], k=3)) == 0
    with pytest.raises(DataError, match="one of them"):
        index.recommend()
    with pytest.raises(DataError, match="k is 0"):
        index.recommend(["u0"], k=0)
    with pytest.raises(UnknownIdError):
        index.recommend(["zzz"])
    with pytest.raises(DataError, match="dim is 0"):
        model.to_index(dim=0)
    with pytest.raises(DataError, match="rescore is -1"):
        model.to_index(dim=4, rescore=-1)
    with pytest.raises(NotFittedError):
        HybridRecommender().item_vectors()


def test_order_and_new_items_are_served(shelf):
    train = in_order(shelf.train, np.arange(len(shelf.train)))
    model = HybridRecommender(PLAIN | {"recency": 0.5}).fit(train, shelf.embeddings)
    model.update(new_items=Embeddings(["n0"], shelf.embeddings.vectors[[N_WARM]]))
    index = model.to_index(dim=43)
    for history in (["w1", "w2", "w3"], ["w3", "w2", "w1"]):
        mine, theirs = (m.recommend(history=history, k=5) for m in (index, model))
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-3, atol=1e-5)
    assert "n0" in dict(index.recommend(["u0"], k=99)[0])


def test_a_catalogue_without_a_word_or_a_pattern(shelf):
    model = HybridRecommender(PLAIN | {"text_weight": 0.0, "thin_text_weight": 0.0, "borrow": 0.0})
    model.fit(shelf.train, Embeddings(shelf.ids, np.zeros((42, 3))))
    answer = model.to_index(dim=4).recommend(list(model.users), k=3)
    assert np.isfinite(answer.scores[answer.item_rows >= 0]).all()


def test_an_index_of_another_state_says_so(shelf, tmp_path):
    model = HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings)
    index = model.to_index(dim=8)
    index.save(tmp_path / "serving")
    news = Interactions.from_pairs([("u0", shelf.ids[-1])], items=shelf.embeddings.ids)
    model.update(new_interactions=news, fold=False)
    index.recommend(["u0"])  # scores are what they were
    model.update(new_interactions=news)
    with pytest.raises(StaleArtifactError, match="has changed since this index was made"):
        index.recommend(["u0"])
    with pytest.raises(StaleArtifactError, match="another state of the model"):
        ServingIndex.load(tmp_path / "serving", model)


def test_what_is_lost_is_measured_some_people_at_a_time(model, monkeypatch):
    whole = model.to_index(dim=8).measured
    monkeypatch.setattr("llm_tail.recommenders.serving.SCORES_AT_ONCE", 7 * len(model.items))
    assert model.to_index(dim=8).measured == whole


def test_it_is_saved_and_read(model, shelf, tmp_path):
    index = model.to_index(dim=8, config=GRAPH, rescore=12)
    again = ServingIndex.load(index.save(tmp_path / "serving"), model)
    assert (again.rescore, again.measured) == (12, index.measured)
    np.testing.assert_array_equal(again.recommend(["u3"]).item_rows, index.recommend(["u3"]).item_rows)
    assert "ServingIndex(42 x 8, rescore=12" in repr(again)
    with pytest.raises(StaleArtifactError):
        ServingIndex.load(tmp_path / "nowhere", model)
    other = HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings)
    other.update(new_items=Embeddings(["n0"], shelf.embeddings.vectors[:1]))
    with pytest.raises(DataError, match=r"42 items that are not the 43 .*to_index"):
        ServingIndex.load(tmp_path / "serving", other)
    vectors = next((tmp_path / "serving").rglob("vectors.safetensors"))
    vectors.write_bytes(vectors.read_bytes()[:-9])
    with pytest.raises(CorruptArtifactError):
        ServingIndex.load(tmp_path / "serving", model)
