import json

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.data.interactions import Interactions
from llm_tail.errors import ConfigError, DataError, UnknownIdError
from llm_tail.recommenders.baselines import ContentSimilarity, Ease, ItemKnn, L3ae, Popularity
from llm_tail.recommenders.ensembles import RankFusion, SparseDenseMixer, Stacked
from llm_tail.recommenders.graphs import LightGcn
from llm_tail.recommenders.members import Ensemble, packed, scaled, standardised, unpacked
from llm_tail.recommenders.tuning import ValidationTask, objective

from .contracts import RecommenderContract
from .shelf import Shelf


def members():
    return [Ease(ridge=5.0), L3ae(text_ridge=1.0, ridge=5.0, pull=5.0), ContentSimilarity()]


class TestRankFusion(RecommenderContract):
    def make(self):
        return RankFusion(members())


class TestStacked(RecommenderContract):
    def make(self):
        return Stacked(members())


class TestSparseDenseMixer(RecommenderContract):
    def make(self):
        return SparseDenseMixer(sparse=Ease(ridge=5.0))


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


@pytest.fixture(scope="module")
def fitted(shelf):
    return [m.fit(shelf.train, shelf.embeddings) for m in (Ease(5.0), ContentSimilarity(), ItemKnn(k=5))]


def fit(model, shelf, **options):
    return model.fit(shelf.train, shelf.embeddings, **options)


# ---- what all share


@pytest.mark.parametrize("make", [RankFusion, Stacked, lambda m: SparseDenseMixer(0.5, 0.5, m[0], m[1])])
def test_a_member_that_is_ready_is_taken_as_it_is(shelf, fitted, make):
    weights = fitted[0].weights
    model = fit(make(fitted[:2]), shelf)
    assert model.members[0] is fitted[0] and fitted[0].weights is weights


def test_a_member_fitted_on_other_events_is_fitted_again(shelf):
    half = shelf.train.where(np.arange(len(shelf.train)) % 2 == 0)
    member = Ease(5.0).fit(half, shelf.embeddings)
    model = fit(RankFusion([member]), shelf)
    wanted = fit(Ease(5.0), shelf)
    np.testing.assert_array_equal(model.members[0].score(wanted.histories), wanted.score(wanted.histories))


def test_parts_add_up(shelf, fitted):
    for model in (RankFusion(fitted), Stacked(fitted), SparseDenseMixer(0.3, 0.6, fitted[0], fitted[1])):
        fit(model, shelf)
        score = model.score(model.histories[3])[0]
        for item in ("w5", "c2"):
            parts = model.parts(item, user=model.users[3])
            assert len(parts) == 3
            assert sum(parts.values()) == pytest.approx(score[model.items.row(item)], abs=1e-5)
        history = list(model.items.values[model.histories[3].indices])
        assert model.parts("w5", history=history) == pytest.approx(model.parts("w5", user=model.users[3]))
        with pytest.raises(DataError, match="one of them"):
            model.parts("w5")
        with pytest.raises(UnknownIdError, match="w5"):
            model.parts("w55", history=[])


def test_members_with_one_name_are_told_apart(shelf):
    model = fit(Stacked([Ease(1.0), Ease(100.0)]), shelf)
    assert set(model.parts("w1", user="u1")) == {"ease", "ease-2"}
    assert "0.50 ease + 0.50 ease-2" in repr(model)


@pytest.mark.parametrize("wrong", [[], ["ease"], [Ease]])
def test_members_that_are_none_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        RankFusion(wrong)


def test_what_members_can_do_so_can_the_whole():
    assert not RankFusion([Ease(), ItemKnn()]).serves_cold
    assert not RankFusion([Ease(), ItemKnn()]).needs_embeddings
    assert RankFusion([Ease(), ContentSimilarity()]).serves_cold
    assert RankFusion([Ease(), ContentSimilarity()]).needs_embeddings


def test_ensembles_of_ensembles_are_kept(shelf, tmp_path):
    inner = Stacked([LightGcn(factors=4, epochs=1), ItemKnn(k=3)])
    model = fit(RankFusion([inner, ContentSimilarity(power=2.0)]), shelf, validation=shelf.validation())
    again = RankFusion.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.score(model.histories), model.score(model.histories))
    assert again.members[0].training == inner.training
    assert repr(again) == repr(model)


@pytest.mark.parametrize("home", ["somewhere:Else", "llm_tail.recommenders.lost:Else", "os:PathLike"])
def test_a_member_that_nobody_defines_is_said(home):
    with pytest.raises(ConfigError, match=f"{home}; import the module"):
        unpacked(packed(Ease()) | {"class": home})


def test_settings_of_members_are_json(fitted):
    assert json.loads(json.dumps(Stacked(fitted)._settings())) == Stacked(fitted)._settings()


class Odd(Ensemble):
    name = "odd"

    def _parts(self, histories):
        return {"none": np.zeros(histories.shape, dtype=np.float32)}


def test_a_member_from_elsewhere_is_found(shelf):
    assert isinstance(unpacked(packed(Odd([Ease()]))), Odd)


# ---- one scale


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100.0), shift=st.floats(-5.0, 5.0))
def test_standardised_scores_forget_scale_and_place(seed, scale, shift):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((4, 9)).astype(np.float32)
    has = sp.csr_matrix((rng.random((4, 9)) < 0.3).astype(np.float32))
    found = standardised(scores, has)
    np.testing.assert_allclose(standardised((scores * scale + shift).astype(np.float32), has), found, atol=1e-2)
    for line, own in zip(found, has.toarray() > 0, strict=True):
        if (~own).sum() > 1:
            assert line[~own].mean() == pytest.approx(0, abs=1e-4) and line[~own].std() == pytest.approx(1, abs=1e-4)


def test_a_member_that_says_nothing_weighs_nothing():
    same, nobody = np.full((2, 4), 7.3, dtype=np.float32), sp.csr_matrix((2, 4), dtype=np.float32)
    assert not standardised(same, nobody).any()
    assert not scaled(same, nobody).any()
    told = standardised(np.array([[1.0, 2.0, -50.0, -50.0]], np.float32), nobody[:1], np.array([0, 0, 1, 1], bool))
    np.testing.assert_allclose(told, [[-1.0, 1.0, 0.0, 0.0]])


# ---- by rank


def test_ranks_by_hand():
    train = Interactions.from_pairs(
        [("ann", "a"), ("bob", "a"), ("bob", "b"), ("eve", "c"), ("eve", "b"), ("tim", "d")]
    )
    model = RankFusion([Popularity()], k0=1.0).fit(train)
    # ann has a; b (2 people) is first, c and d (1 each) share the third place, and a is the last of four
    np.testing.assert_allclose(model.score(model.histories[:1]), [[1 / 5, 1 / 2, 1 / 4, 1 / 4]], rtol=1e-6)


def test_one_member_keeps_its_order(shelf, fitted):
    for member in fitted[:2]:
        model = fit(RankFusion([member]), shelf)
        wanted, found = member.recommend(k=8), model.recommend(k=8)
        first = member.score(member.histories)
        for person, (mine, theirs) in enumerate(zip(found.item_rows, wanted.item_rows, strict=True)):
            np.testing.assert_allclose(first[person, mine], first[person, theirs], atol=1e-5)


# ---- by weights


def test_weights_are_learned_and_not_worse_than_any_member(shelf, fitted):
    held = shelf.validation()
    model = fit(Stacked([Ease(5.0), ContentSimilarity(), Popularity()]), shelf, validation=held)
    found, alone = objective(model.training["found"]), [objective(m) for m in model.training["alone"].values()]
    assert found >= max(alone)
    assert model.weights.min() >= 0 and model.weights.sum() == pytest.approx(1)
    task = ValidationTask.build(model.histories, held.for_users(model.users).matrix())
    assert objective(task.measure(model.score(task.histories))) == pytest.approx(found)


def test_the_best_member_stays_alone_where_others_do_not_help(shelf):
    held = shelf.validation()
    model = fit(Stacked([ContentSimilarity(), ContentSimilarity(), Popularity()]), shelf, validation=held)
    assert sorted(model.weights) == [0, 0, 1]
    alone = fit(ContentSimilarity(), shelf)
    np.testing.assert_array_equal(model.score(model.histories), alone.score(model.histories))
    assert "1.00 content" in repr(model)


def test_without_validation_all_weigh_the_same(shelf, fitted):
    assert fit(Stacked(fitted), shelf).weights.tolist() == pytest.approx([1 / 3] * 3)


def test_members_that_cannot_serve_the_cold_do_not_push_it_down(shelf, fitted):
    model = fit(Stacked([fitted[0], fitted[1]]), shelf)
    cold = model.items.rows([f"c{n}" for n in range(6)])
    unit = standardised(fitted[1].score(model.histories), model.histories)
    np.testing.assert_allclose(model.score(model.histories)[:, cold], 0.5 * unit[:, cold], atol=1e-5)


# ---- sparse and dense


@pytest.mark.parametrize(("alpha", "beta", "which"), [(1.0, 1.0, 0), (0.0, 0.0, 1), (0.0, 1.0, 1), (0.0, 0.3, 1)])
def test_corners_of_the_mix_are_its_ends(shelf, fitted, alpha, beta, which):
    model = fit(SparseDenseMixer(alpha, beta, *fitted[:2]), shelf)
    mine, theirs = model.score(model.histories), fitted[which].score(model.histories)
    ratio = np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1)
    np.testing.assert_allclose(mine, theirs * ratio[:, None], atol=1e-5)
    assert (ratio > 0).all()


def test_the_third_corner_is_the_sparse_model_of_what_is_foretold(shelf, fitted):
    model = fit(SparseDenseMixer(1.0, 0.0, *fitted[:2]), shelf)
    foretold = model.foretell(model.histories)
    wanted = scaled(fitted[0].score(foretold), model.histories)
    np.testing.assert_allclose(model.score(model.histories), wanted, atol=1e-5)


def test_the_mix_is_linear_in_its_corners(shelf, fitted):
    def scores(alpha, beta):
        model = fit(SparseDenseMixer(alpha, beta, *fitted[:2]), shelf)
        return model.score(model.histories)

    wanted = 0.6 * 0.75 * scores(1, 0) + 0.6 * 0.25 * scores(1, 1) + 0.4 * scores(0, 0)
    np.testing.assert_allclose(scores(0.6, 0.25), wanted, atol=1e-4)


def test_what_is_foretold_is_new_warm_and_as_much_as_the_history(shelf, fitted):
    model = fit(SparseDenseMixer(0.5, 0.5, *fitted[:2], width=4), shelf)
    row = model.foretell(model.histories)
    assert not row.multiply(model.histories).nnz
    assert set(row.indices) <= set(model.histories.indices)
    np.testing.assert_allclose(row.sum(axis=1), model.histories.sum(axis=1), rtol=1e-5)
    assert np.diff(row.indptr).max() == 4 and row.data.min() > 0
    wide = fit(SparseDenseMixer(0.5, 0.5, *fitted[:2], width=10_000), shelf).foretell(model.histories)
    assert (np.diff(wide.indptr) <= len(model.items)).all()


def test_someone_with_nothing_but_cold_items_is_heard_by_the_sparse_model(shelf, fitted):
    model = fit(SparseDenseMixer(1.0, 0.0, *fitted[:2]), shelf)
    history = ["c0", "c3"]  # both of taste 0, and nobody took them
    assert not fitted[0].score(model._history(history)).any()
    best = model.recommend(history=history, k=3)[0]
    assert {int(item[1:]) % 3 for item, _ in best} == {0}


def test_alpha_and_beta_are_chosen_on_validation(shelf):
    held = shelf.validation()
    model = fit(SparseDenseMixer(sparse=Ease(5.0)), shelf, validation=held)
    assert model.mix == (model.training["alpha"], model.training["beta"])
    found = objective(model.training["found"])
    assert found >= max(objective(m) for m in model.training["alone"].values()) - 1e-12
    task = ValidationTask.build(model.histories, held.for_users(model.users).matrix())
    assert objective(task.measure(model.score(task.histories))) == pytest.approx(found)
    given = fit(SparseDenseMixer(0.2, 0.8, sparse=Ease(5.0)), shelf, validation=held)
    assert given.mix == (0.2, 0.8) and not given.training
    half = fit(SparseDenseMixer(alpha=0.2, sparse=Ease(5.0)), shelf, validation=held)
    assert half.mix[0] == 0.2 and half.training


@pytest.mark.parametrize(
    "make",
    [
        lambda: RankFusion(k0=0),
        lambda: SparseDenseMixer(alpha=1.1),
        lambda: SparseDenseMixer(beta=-0.1),
        lambda: SparseDenseMixer(width=0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()
