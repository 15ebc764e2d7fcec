import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.sparse as sp

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.data.segments import Segments
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError, NotFittedError, UnknownIdError
from llm_tail.neighbors.graph import ItemGraph
from llm_tail.recommenders import scoring
from llm_tail.recommenders.hybrid import HybridRecommender

from .contracts import RecommenderContract
from .shelf import N_COLD, N_WARM, Shelf

PLAIN = {"tune": False, "learn": False}


def graph_of(ids, brands):
    books = [{"item_id": i, "title": i, "description": "", "brand": str(b)} for i, b in zip(ids, brands, strict=True)]
    return ItemGraph.build(Catalog.from_items(books), relations=["brand"])


class HybridContract(RecommenderContract):
    def test_no_history_gives_what_most_people_take(self, model):
        answer = model.recommend(history=[], k=14)
        taken = np.asarray(model.histories.sum(axis=0)).ravel()[answer.item_rows[0]]
        assert answer.from_popularity.all()
        assert taken[0] == taken.max()
        assert (np.diff(taken[taken > 0]) <= 0).all()  # cold ones stand between them, with what they inherit


class TestHybrid(HybridContract):
    def make(self):
        return HybridRecommender(PLAIN | {"ridge": 5.0, "pull": 5.0, "neighbors": 3})


class TestHybridThatChooses(HybridContract):
    def make(self):
        return HybridRecommender({"ridge": 5.0, "pull": 5.0, "neighbors": 3})


class TestHybridWithAGraph(HybridContract):
    def make(self):
        return HybridRecommender({"ridge": 5.0, "pull": 5.0, "neighbors": 3, "tune": False})

    def fit(self, model, board):
        return model.fit(
            board.train,
            board.embeddings,
            graph_of(board.catalog.ids, [item.split("-")[0] for item in board.catalog.ids]),
        )


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


@pytest.fixture(scope="module")
def plain(shelf):
    return HybridRecommender(PLAIN | {"ridge": 5.0}).fit(shelf.train, shelf.embeddings)


@pytest.fixture(scope="module")
def chosen(shelf):
    return HybridRecommender(seed=3).fit(shelf.train, shelf.embeddings, validation=shelf.validation())


def fitted(shelf, **settings):
    return HybridRecommender(PLAIN | settings).fit(shelf.train, shelf.embeddings)


# ---- why


def one_row(model, items):
    history = sp.csr_matrix((1, len(model.items)), dtype=np.float32).tolil()
    history[0, model.items.rows(items)] = 1.0
    return history.tocsr()


def assert_adds_up(model, why, expected):
    assert why.score == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert why.own + why.borrowed + why.text == pytest.approx(why.score, abs=1e-5)
    assert sum(weight for _, weight in why.neighbors) <= 1 + 1e-5
    assert np.isfinite([why.own, why.borrowed, why.text]).all()


@pytest.mark.parametrize("item", ["w0", "w20", "w35", "c0", "c5"])
@pytest.mark.parametrize("which", ["plain", "chosen"])
def test_shares_add_up_to_the_score_of_a_known_person(request, which, item):
    model = request.getfixturevalue(which)
    for user in ("u0", "u17"):
        score = model.score(model.histories[model.users.row(user)])[0, model.items.row(item)]
        why = model.explain(item, user=user, n=100)
        assert_adds_up(model, why, score)
        assert sum(brought for _, brought in why.because) == pytest.approx(why.score, abs=1e-5)
        assert sum(weight for _, weight in why.neighbors) == pytest.approx(1, abs=1e-5)
        assert why.user == user


@pytest.mark.parametrize("history", [["w1"], ["w1", "w4", "c1"], ["c0", "c2"], []])
@pytest.mark.parametrize("item", ["w2", "c1"])
def test_shares_add_up_for_any_history(plain, history, item):
    why = plain.explain(item, history=history)
    assert_adds_up(plain, why, plain.score(one_row(plain, history))[0, plain.items.row(item)])
    assert {owned for owned, _ in why.because} <= set(history)


def test_an_explanation_without_history_is_zero(plain):
    why = plain.explain("w2", history=[])
    assert (why.score, why.own, why.borrowed, why.text, why.because, why.user) == (0, 0, 0, 0, [], "")
    assert why.neighbors  # whom it borrows from does not hang on the person
    assert why.to_dict()["item"] == "w2"


def test_a_cold_item_has_no_own_share_and_neighbors_of_its_taste(plain):
    for n in range(N_COLD):
        why = plain.explain(f"c{n}", user="u0")
        assert why.own == 0
        assert all(int(item[1:]) % 3 == n % 3 for item, _ in why.neighbors)
    assert plain.explain("w0", user="u3").own > 0


def test_an_item_speaks_for_others_but_not_for_itself(plain):
    assert plain.explain("c1", history=["c1"]).score == 0
    assert plain.explain("c4", history=["c1"]).score > 0
    assert "w0" not in dict(plain.explain("w0", history=["w0", "w3"]).because)


def test_n_names_as_many_most_first(plain):
    why = plain.explain("w9", user="u0", n=2)
    full = plain.explain("w9", user="u0", n=100)
    assert why.because == full.because[:2]
    assert why.neighbors == full.neighbors[:2]
    assert [weight for _, weight in full.neighbors] == sorted((w for _, w in full.neighbors), reverse=True)


def test_what_cannot_be_explained_is_said(plain):
    with pytest.raises(DataError, match="one of them"):
        plain.explain("w0")
    with pytest.raises(DataError, match="one of them"):
        plain.explain("w0", user="u0", history=["w1"])
    with pytest.raises(UnknownIdError):
        plain.explain("zzz", user="u0")
    with pytest.raises(UnknownIdError):
        plain.explain("w0", user="zzz")
    with pytest.raises(UnknownIdError):
        plain.explain("w0", history=["zzz"])
    for ask in (lambda m: m.explain("w0", user="u0"), lambda m: m.audience("w0")):
        with pytest.raises(NotFittedError, match=r"HybridRecommender\.fit\("):
            ask(HybridRecommender())


def test_the_audience_of_an_item_are_those_whom_it_fits_best(chosen):
    scores = chosen.score(chosen.histories)
    for item in ("w5", "c2"):
        row = chosen.items.row(item)
        audience = chosen.audience(item, k=4)
        has = np.asarray(chosen._seen[:, [row]].todense()).ravel() > 0
        best = np.sort(scores[~has, row])[::-1][:4]
        np.testing.assert_allclose([score for _, score in audience], best, rtol=1e-5)
        assert not {user for user, _ in audience} & {chosen.users[u] for u in np.flatnonzero(has)}
    assert len(chosen.audience("c2", k=10_000)) <= len(chosen.users)


# ---- the limits of the settings


def parts(model, item, user="u0"):
    why = model.explain(item, user=user)
    return why.own, why.borrowed, why.text


def test_gate_zero_leaves_warm_items_to_themselves(shelf):
    model = fitted(shelf, gate=0.0, text_weight=0.0)
    own, borrowed, text = parts(model, "w9")
    assert own != 0
    assert (borrowed, text) == (0, 0)
    assert parts(model, "c0")[1] > 0


def test_borrow_zero_leaves_cold_items_to_their_words(shelf):
    model = fitted(shelf, borrow=0.0, text_weight=0.1)
    own, borrowed, text = parts(model, "c0")
    assert (own, borrowed) == (0, 0)
    assert text > 0
    silent = fitted(shelf, borrow=0.0, text_weight=0.0)
    assert not silent.score(silent.histories)[:, N_WARM:].any()


def test_without_text_weights_the_words_are_silent(shelf):
    model = fitted(shelf, text_weight=0.0, thin_text_weight=0.0)
    assert all(parts(model, item)[2] == 0 for item in ("w0", "w9", "c0"))


def test_damping_quiets_what_everybody_owns(shelf):
    loud, quiet = (fitted(shelf, damping=d) for d in (0.0, 1.0))
    count = loud.histories[:, [0]].sum()
    brought = [dict(m.explain("w9", history=["w0"]).because)["w0"] for m in (loud, quiet)]
    own = [m.explain("w9", history=["w0"]).own for m in (loud, quiet)]
    assert own[1] == pytest.approx(own[0] / count, rel=1e-5)
    assert brought[1] < brought[0]


def test_tail_lift_multiplies_what_tail_items_score_and_nothing_else(shelf):
    plain, lifted = fitted(shelf), fitted(shelf, tail_lift=1.5)
    tail = Segments.of(shelf.train).tail
    assert tail.any() and not tail.all()
    expected = plain._score(plain.histories) * np.where(tail, np.float32(1.5), np.float32(1.0))
    np.testing.assert_allclose(lifted._score(lifted.histories), expected, rtol=1e-5, atol=1e-6)
    item = int(np.flatnonzero(tail)[0])
    np.testing.assert_allclose(lifted._column(item), 1.5 * plain._column(item), rtol=1e-5)
    assert parts(lifted, f"w{item}") == pytest.approx([1.5 * part for part in parts(plain, f"w{item}")], rel=1e-5)


def test_a_mistaken_setting_is_refused():
    with pytest.raises(ValueError, match="gate"):
        HybridRecommender({"gate": -1})


# ---- learning


def test_nothing_of_validation_enters_the_fit(shelf):
    a, b = shelf.validation(1), Interactions.from_pairs([("new", "c3"), ("u1", "w30")], items=shelf.embeddings.ids)
    models = [HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings, validation=held) for held in (None, a, b)]
    for model in models[1:]:
        np.testing.assert_array_equal(model._weights, models[0]._weights)


def test_the_matrix_is_solved_on_training_alone_where_it_is_tuned_on_validation(shelf, chosen):
    settings = chosen.config.model_dump() | PLAIN
    again = HybridRecommender(settings).fit(shelf.train, shelf.embeddings)
    np.testing.assert_array_equal(again._collaborative.weights, chosen._collaborative.weights)
    np.testing.assert_array_equal(again._counts, shelf.train.counts())
    assert set(chosen._collaborative.warm) == set(range(N_WARM))


def test_without_validation_it_is_tuned_within_training_and_fitted_on_all_of_it(shelf):
    model = HybridRecommender(seed=3).fit(shelf.train, shelf.embeddings)
    assert model.training["n_people"] > 0
    assert set(model._collaborative.warm) == set(range(N_WARM))
    again = HybridRecommender(model.config.model_dump() | PLAIN).fit(shelf.train, shelf.embeddings)
    np.testing.assert_array_equal(again._collaborative.weights, model._collaborative.weights)


def test_same_seed_same_scores(shelf, chosen):
    again = HybridRecommender(seed=3).fit(shelf.train, shelf.embeddings, validation=shelf.validation())
    np.testing.assert_array_equal(again.score(again.histories), chosen.score(chosen.histories))
    assert again.training == chosen.training


def test_it_tells_what_was_tried_and_kept(chosen):
    given, tuned, attention = (chosen.training[key] for key in ("given", "tuned", "attention"))
    assert set(given) == {"warm", "tail", "cold", "overall"}
    worth = [
        np.mean(list(m.values())) - max(0.0, chosen.training["parts"]["ids"]["warm"] - m["warm"])
        for m in (given, tuned)
    ]
    assert worth[1] >= worth[0]
    assert attention["kept"] == (attention["look"] > 0)
    assert np.isfinite(attention["loss"]).all()
    assert all(getattr(chosen.config, name) == value for name, value in chosen.training["settings"].items())


def test_more_warm_items_than_it_takes_are_refused_before_anything_is_tried(shelf):
    for settings in ({}, PLAIN):
        model = HybridRecommender(settings | {"max_items": 10, "solution": "whole"})
        with pytest.raises(DataError, match=r"36 items have interactions .* at most 10.*max_items"):
            model.fit(shelf.train, shelf.embeddings)
        assert not model.training
        assert not model.is_fitted


def test_a_graph_over_other_items_is_refused(shelf):
    with pytest.raises(DataError, match="2 items that are not the 42 with vectors"):
        HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings, graph_of("ab", "xx"))


def test_the_graph_is_heard_once_it_is_learned(shelf):
    graph = graph_of(shelf.ids, shelf.taste)
    untied = HybridRecommender(PLAIN | {"tied_neighbors": 0}).fit(shelf.train, shelf.embeddings, graph)
    plain = HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings)
    np.testing.assert_array_equal(untied._weights, plain._weights)  # untrained, ties say nothing of near items
    model = HybridRecommender(PLAIN).fit(shelf.train, shelf.embeddings, graph)
    assert (model._borrowing != 0).sum() > (plain._borrowing != 0).sum()  # and bring others in
    attention, neighborhood = model._learned_attention(), model._neighborhood(model._counts, graph)
    assert neighborhood.edges.shape[2] == 1
    same = shelf.taste[:, None] == shelf.taste[neighborhood.rows]
    np.testing.assert_array_equal(neighborhood.edges[:, :, 0] > 0, same & (neighborhood.rows >= 0))
    attention.relations.data += 5.0
    assert abs(model._attend(attention, neighborhood) - model._borrowing).max() > 0.01


# ---- small and odd worlds


@pytest.mark.parametrize("settings", [PLAIN, {}], ids=["plain", "choosing"])
@pytest.mark.parametrize(
    ("pairs", "vectors"),
    [
        ([("ann", "a")], np.eye(2)),  # one person, one event
        ([("ann", "a"), ("ann", "b")], np.eye(2)),  # two items, both warm
        ([("ann", "a"), ("ann", "b"), ("ann", "c")], np.ones((3, 4))),  # the same text thrice: centred it is nothing
        ([("ann", "a"), ("bob", "b")], np.zeros((3, 2))),  # no text at all
        ([("ann", "a"), ("bob", "a"), ("bob", "b")], np.array([[1.0, 0], [0, 0], [1, 0.1], [0, 1]])),
        ([("ann", "a"), ("bob", "a")], np.array([[1.0, 0], [1, 0], [0, 1]])),
    ],
)
def test_small_worlds_have_finite_answers(settings, pairs, vectors):
    ids = list("abcd")[: len(vectors)]
    train = Interactions.from_pairs(pairs, items=Embeddings(ids, vectors).ids)
    for extra in ({}, {"gate": 0.0}, {"borrow": 0.0, "text_weight": 0.0}, {"pull": 0.0}):
        model = HybridRecommender(settings | extra).fit(train, Embeddings(ids, vectors))
        scores = model.score(model.histories)
        assert np.isfinite(scores).all()
        assert np.isfinite(model._borrowing.data).all()
        answer = model.recommend(k=9)
        assert all(set(dict(items)) == set(ids) - {i for u, i in pairs if u == user} for user, items in answer)
        for item in ids:
            assert_adds_up(model, model.explain(item, user="ann"), scores[0, model.items.row(item)])


def test_all_items_warm(shelf):
    ids = shelf.ids[:N_WARM]
    vectors = Embeddings(ids, shelf.embeddings.vectors[:N_WARM])
    model = HybridRecommender().fit(Interactions.from_pairs(shelf.pairs, items=vectors.ids), vectors)
    assert np.isfinite(model.score(model.histories)).all()
    assert model.training["given"]


def test_items_without_text_are_kept_apart(shelf):
    vectors = shelf.embeddings.vectors.copy()
    vectors[[4, N_WARM]] = 0.0
    model = HybridRecommender().fit(shelf.train, Embeddings(shelf.ids, vectors), validation=shelf.validation())
    why = model.explain("w4", user="u1")
    assert (why.neighbors, why.borrowed, why.text) == ([], 0, 0)
    assert why.own != 0
    assert model.explain("c0", user="u0").score == 0
    assert all("w4" not in dict(model.explain(item, user="u1", n=99).neighbors) for item in shelf.ids)


def test_equal_texts_under_two_ids_are_two_items(shelf):
    vectors = shelf.embeddings.vectors.copy()
    vectors[N_WARM + 1] = vectors[N_WARM]
    model = HybridRecommender(PLAIN).fit(shelf.train, Embeddings(shelf.ids, vectors))
    scores = model.score(model.histories)
    np.testing.assert_allclose(scores[:, N_WARM], scores[:, N_WARM + 1], rtol=1e-5)
    listed = [item for item, _ in model.recommend(["u0"], k=99)[0]]
    assert {"c0", "c1"} <= set(listed)


def test_people_without_history_are_given_popularity_that_cold_items_inherit(plain):
    answer = plain.recommend(history=[], k=len(plain.items))
    scores = dict(answer[0])
    counts = np.asarray(plain.histories.sum(axis=0)).ravel()
    assert answer.from_popularity.all()
    for item in ("c0", "c4"):
        lenders = dict(plain.explain(item, history=[], n=99).neighbors)
        lent = sum(weight * counts[plain.items.row(name)] for name, weight in lenders.items())
        assert scores[item] == pytest.approx(plain.config.borrow * lent, rel=1e-4)
        assert scores[item] > 0


def test_blocks_change_nothing(shelf, plain, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 4 * len(shelf.ids) * 5)
    again = HybridRecommender(PLAIN | {"ridge": 5.0}).fit(shelf.train, shelf.embeddings)
    np.testing.assert_allclose(again._weights, plain._weights, rtol=1e-5, atol=1e-6)


# ---- new items


def mirrored(centre, seed=5):
    """Two unit vectors whose mean is `centre`: taken in from the start they do not move it."""
    aside = np.random.default_rng(seed).standard_normal(len(centre))
    aside -= centre * (aside @ centre) / (centre @ centre)
    aside *= np.sqrt(1 - centre @ centre) / np.linalg.norm(aside)
    return np.stack([centre + aside, centre - aside])


@pytest.mark.parametrize("settings", [PLAIN, {"tune": False}], ids=["plain", "learned"])
def test_a_new_item_is_answered_as_if_it_had_always_been_there(shelf, settings, tmp_path):
    vectors = mirrored(shelf.embeddings.vectors.mean(axis=0).astype(np.float64))
    news, held = Embeddings(["n0", "n1"], vectors), shelf.validation()
    early = Embeddings([*shelf.ids, "n0", "n1"], np.vstack([shelf.embeddings.vectors, vectors]))
    late = HybridRecommender(settings).fit(shelf.train, shelf.embeddings, validation=held)
    wanted = HybridRecommender(PLAIN).fit(shelf.train, early, validation=held)
    if settings != PLAIN:
        wanted._learned = late._learned
        wanted._borrowing = wanted._attend(wanted._learned_attention(), wanted._neighborhood(wanted._counts, None))
        wanted._assemble()
    loaded = HybridRecommender.load(late.save(tmp_path / "late"))
    for model in (late, loaded):
        n_before = len(model.items)
        before = model.score(model.histories)
        assert model.add_items(news) is model
        assert len(model.items) == n_before + 2
        scores = model.score(model.histories)
        np.testing.assert_allclose(scores[:, :n_before], before, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scores, wanted.score(wanted.histories), rtol=1e-4, atol=1e-5)
        assert "n0" in dict(model.recommend(["u0"], k=99)[0])
        assert model.recommend(["u0"], k=1, candidates=["n1"])[0][0][0] == "n1"
        assert_adds_up(model, model.explain("n0", user="u4"), scores[model.users.row("u4"), -2])
        assert_adds_up(model, model.explain("w2", history=["n0"]), model.score(one_row(model, ["n0"]))[0, 2])
        assert model.audience("n1", k=3)
    again = HybridRecommender.load(late.save(tmp_path / "grown"))
    np.testing.assert_array_equal(again.score(again.histories), late.score(late.histories))


def test_new_items_after_a_graph_was_learned(shelf, tmp_path):
    graph = graph_of(shelf.ids, shelf.taste)
    model = HybridRecommender({"tune": False}).fit(shelf.train, shelf.embeddings, graph)
    loaded = HybridRecommender.load(model.save(tmp_path / "model"))
    news = Embeddings(["n0"], shelf.embeddings.vectors[:1])
    scores = [m.add_items(news).score(m.histories) for m in (model, loaded)]
    np.testing.assert_array_equal(*scores)
    assert np.isfinite(scores[0]).all()


def test_new_items_that_are_none_are_refused_and_change_nothing(shelf):
    model = fitted(shelf)
    before = model.score(model.histories)
    with pytest.raises(DataError, match="1 items are there already, such as w0"):
        model.add_items(Embeddings(["w0", "n0"], shelf.embeddings.vectors[:2]))
    with pytest.raises(DataError, match="3 wide, expected 12"):
        model.add_items(Embeddings(["n0"], np.ones((1, 3))))
    np.testing.assert_array_equal(model.score(model.histories), before)
    with pytest.raises(NotFittedError):
        HybridRecommender().add_items(shelf.embeddings)
    model.add_items(Embeddings(["n0"], np.zeros((1, 12))))  # nothing is known of it: it comes last
    assert not model.score(model.histories)[:, -1].any()


def test_a_loaded_model_recommends_without_torch(shelf, plain, tmp_path):
    code = """
        import sys
        from llm_tail.recommenders.hybrid import HybridRecommender
        model = HybridRecommender.load(sys.argv[1])
        assert len(model.recommend(k=3)) == 60
        assert model.explain("c0", user="u0").score
        assert model.recommend(history=[]).from_popularity.all()
        model.audience("c0")
        assert "torch" not in sys.modules, "torch was loaded"
    """
    folder = plain.save(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_matrix_too_large_to_keep_gives_the_same_answers(shelf, plain, chosen, monkeypatch, tmp_path):
    for model in (plain, chosen):
        kept = model.score(model.histories)
        column = model._column(40)
        monkeypatch.setattr(scoring, "WHOLE_BYTES", 0)
        model.save(tmp_path / "model")
        lean = HybridRecommender.load(tmp_path / "model")
        monkeypatch.undo()
        assert lean._weights is None
        np.testing.assert_allclose(lean.score(lean.histories), kept, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.histories @ column, kept[:, 40], rtol=1e-5, atol=1e-6)
        assert [u for u, _ in lean.audience("c2")] == [u for u, _ in model.audience("c2")]


def test_what_was_measured_and_kept_is_saved(chosen, tmp_path):
    chosen.save(tmp_path / "model")
    assert HybridRecommender.load(tmp_path / "model").training == chosen.training != {}


def test_a_second_fit_begins_where_the_first_did():
    shelf = Shelf()
    model = HybridRecommender({"learn": False, "tail_lift": 50.0})
    lists = [
        list(model.fit(shelf.train, shelf.embeddings, validation=shelf.validation()).recommend(["u0", "u1", "u2"], k=5))
        for _ in range(2)
    ]
    assert lists[0] == lists[1] and model.training["settings"]["tail_lift"] <= 100.0


def test_to_people_without_a_history_nothing_is_shown_before_what_lends_it_readers():
    ids = ["hit", "cold1", "cold2", "rare"]
    words = Embeddings(ids, np.array([[1.0, 0.0], [1.0, 0.02], [1.0, -0.02], [0.0, 1.0]]))
    train = Interactions.from_pairs([(f"u{n}", "hit") for n in range(50)] + [("u0", "rare")], items=words.ids)
    model = HybridRecommender({"tune": False, "learn": False, "borrow": 2.0}).fit(train, words)
    assert model.recommend(history=[], k=1)[0][0][0] == "hit"
