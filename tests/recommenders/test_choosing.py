"""How the hybrid chooses: the yardstick, the search, and what is kept."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import HybridConfig
from llm_tail.data.segments import Segments
from llm_tail.evaluation.metrics import ndcg
from llm_tail.recommenders import choosing, tuning
from llm_tail.recommenders.attention import NeighborAttention
from llm_tail.recommenders.base import top_k
from llm_tail.recommenders.choosing import Chooser
from llm_tail.recommenders.hybrid import HybridRecommender
from llm_tail.recommenders.learning import Neighborhood
from llm_tail.recommenders.tuning import MIN_GAIN, ValidationTask, coordinate_search, is_better, lead, objective

from .shelf import Shelf


def matrices(seed, n_users=30, n_items=50):
    rng = np.random.default_rng(seed)
    train = rng.random((n_users, n_items)) < 0.15 / (1 + np.arange(n_items) / 10)
    held = (rng.random((n_users, n_items)) < 0.06) & ~train
    train[:, 40:], held[:, 45:] = False, False  # 40-44: cold; 45-49: named by nobody
    train[0], held[1] = False, False
    return sp.csr_matrix(train, dtype=np.float32), sp.csr_matrix(held, dtype=np.float32)


# ---- the yardstick


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_it_agrees_with_the_metrics_of_evaluation(seed, k):
    train, held = matrices(seed)
    task = ValidationTask.build(train, held, k=k)
    rng = np.random.default_rng(seed)
    scores = rng.permutation(task.histories.shape[0] * 50).reshape(-1, 50).astype(np.float32)  # no ties
    candidates = {"warm": task.warm_candidates, "tail": task.warm_candidates, "cold": task.cold_candidates}
    measured = task.measure(scores)
    assert set(measured) == {name for name, relevant in task.relevant.items() if relevant.nnz}
    for name in measured:
        allowed = candidates.get(name, task.warm_candidates | task.cold_candidates)
        open_scores = np.where(allowed, scores, -np.inf)
        open_scores[task.histories.nonzero()] = -np.inf
        top, _ = top_k(open_scores, k)
        assert measured[name] == pytest.approx(np.nanmean(ndcg(top, task.relevant[name], k)), rel=1e-6)


def test_scores_stay_as_they_are_and_blocks_change_nothing(monkeypatch):
    task = ValidationTask.build(*matrices(0))
    scores = np.random.default_rng(0).random((len(task.users), 50)).astype(np.float32)
    before, measured = scores.copy(), task.measure(scores)
    monkeypatch.setattr(tuning, "BLOCK_BYTES", 4 * 50 * 3)
    assert task.measure(scores) == measured
    np.testing.assert_array_equal(scores, before)


def test_ties_and_what_is_no_number_count_as_lost():
    task = ValidationTask.build(*matrices(0), k=5)
    shape = (len(task.users), 50)
    for nothing in (np.zeros(shape), np.full(shape, np.nan), np.full(shape, -np.inf)):
        assert set(task.measure(nothing.astype(np.float32)).values()) == {0.0}
    right = task.relevant["overall"].toarray()
    assert task.measure(right)["overall"] < 1  # the right ones tie with each other
    untied = right * (1 + np.arange(50) / 100)
    assert all(value == pytest.approx(1) for value in task.measure(untied.astype(np.float32)).values())


def test_candidates_are_those_of_a_real_shop():
    train, held = matrices(3)
    counts = np.asarray(train.sum(axis=0)).ravel()
    named = np.asarray(held.sum(axis=0)).ravel() > 0
    task = ValidationTask.build(train, held, seed=4)
    cold = (counts == 0) & named
    np.testing.assert_array_equal(task.cold_candidates, cold)
    left_out = ~task.warm_candidates & ~task.cold_candidates
    unnamed = (counts == 0) & ~named
    assert left_out.sum() == min(np.ceil(1.05 * cold.sum()), unnamed.sum())  # newcomers that nobody can have met yet
    assert unnamed[left_out].all()
    assert task.warm_candidates[counts > 0].all()
    assert task.users.tolist() == np.flatnonzero(np.diff(held.indptr)).tolist()
    head = Segments.from_counts(counts).head
    assert not task.relevant["tail"].toarray()[:, head | cold].any()
    assert task.relevant["warm"].nnz + task.relevant["cold"].nnz == task.relevant["overall"].nnz == held.nnz
    again = ValidationTask.build(train, held, seed=4)
    np.testing.assert_array_equal(again.warm_candidates, task.warm_candidates)


def test_at_most_so_many_people_are_asked():
    train, held = matrices(0)
    task = ValidationTask.build(train, held, max_users=7)
    assert len(task.users) == 7
    np.testing.assert_array_equal(task.histories.toarray(), train[task.users].toarray())
    np.testing.assert_array_equal(task.relevant["overall"].toarray(), held[task.users].toarray())


def test_rankings_that_nobody_can_be_measured_on_are_left_out():
    train, held = matrices(0)
    counts = np.asarray(train.sum(axis=0)).ravel()
    warm_only = sp.csr_matrix(held.toarray() * (counts > 0))
    measured = ValidationTask.build(train, warm_only).measure(
        np.zeros((30, 50), np.float32)[: np.count_nonzero(np.diff(warm_only.indptr))]
    )
    assert "cold" not in measured
    assert objective({}) == 0
    assert objective({"warm": 0.1, "cold": 0.3}) == pytest.approx(0.2)
    assert objective({"warm": 0.1, "cold": 0.3}, "cold") == 0.3
    assert objective({"warm": 0.1, "cold": 0.3}, "tail") == pytest.approx(0.2)  # nothing to measure it on


# ---- the search

GRID = {"gate": (0.0, 0.5, 1.0, 2.0), "borrow": (0.5, 1.0, 2.0), "text_weight": (0.0, 0.3, 0.9)}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(GRID["gate"]), st.sampled_from(GRID["borrow"]), st.sampled_from(GRID["text_weight"]))
def test_the_best_of_a_separable_quality_is_found(gate, borrow, text_weight):
    asked = []

    def quality(config):
        asked.append((config.gate, config.borrow, config.text_weight))
        return 9.0 - abs(config.gate - gate) - abs(config.borrow - borrow) - abs(config.text_weight - text_weight)

    best, value = coordinate_search(HybridConfig(), GRID, quality)
    assert (best.gate, best.borrow, best.text_weight) == (gate, borrow, text_weight)
    assert value == 9.0
    assert len(asked) <= 1 + 2 * sum(map(len, GRID.values()))


def test_gains_that_may_be_luck_are_ignored():
    start = HybridConfig(gate=1.0)
    for gain, wanted in ((MIN_GAIN * 0.9, 1.0), (MIN_GAIN * 1.1, 2.0)):
        best, _ = coordinate_search(start, {"gate": (2.0,)}, lambda c, gain=gain: 1.0 + gain * (c.gate == 2.0))
        assert best.gate == wanted
    assert not is_better(0.0, 0.0)
    assert is_better(1e-9, 0.0)
    assert is_better(-0.09, -0.1) and not is_better(-0.1001, -0.1)


def test_the_search_ends_when_a_round_changes_nothing():
    asked = []
    coordinate_search(HybridConfig(), {"gate": (0.0, 2.0)}, lambda c: asked.append(c) or 1.0, passes=9)
    assert len(asked) == 3


# ---- what is chosen


def chooser(**settings):
    shelf = Shelf()
    vectors = shelf.embeddings.vectors
    neighborhood = Neighborhood.find(vectors, shelf.train.counts(), np.arange(len(vectors)), 5)
    torch.manual_seed(0)
    attention = NeighborAttention(vectors.shape[1])
    matrix = sp.csr_matrix(shelf.validation().on(shelf.train.items).matrix())
    rows = shelf.train.users.rows(shelf.validation().users.values)
    order = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, np.arange(len(rows)))), shape=(60, len(rows)))
    config = HybridConfig(**settings)
    taken, held = shelf.train.matrix(), (order @ matrix).tocsr()
    return Chooser(taken, held, vectors, lambda _: (vectors, neighborhood), attention, config, 0)


@pytest.mark.parametrize("start", [{}, {"borrow": 2.0, "gate": 3.0, "damping": 0.9, "ridge": 400.0}])
def test_tuning_never_ends_below_where_it_began(start):
    chooses = chooser(learn=False, **start)
    record = chooses.choose()
    assert objective(record["tuned"]) >= objective(record["given"])
    assert chooses.measure(chooses.config) == record["balanced"]
    assert "attention" not in record
    if start:
        assert objective(record["tuned"]) > objective(record["given"])
        assert chooses.config != HybridConfig(learn=False, **start)


def best_of(parts):
    return {name: max(part[name] for part in parts.values()) for name in parts["ids"]}


@pytest.mark.parametrize("shortfall", [0.0, 20.0, 1000.0])
def test_balancing_is_ahead_of_tuning_by_what_counts(shortfall):
    chooses = chooser(learn=False, shortfall=shortfall)
    record = chooses.choose()
    parts = best_of(record["parts"])
    assert set(parts) == {"warm", "tail", "cold", "overall"}
    chance = chooses.task.chance()
    assert lead(record["balanced"], parts, shortfall, chance) >= lead(record["tuned"], parts, shortfall, chance)


def test_balancing_gives_away_little_of_the_overall_ranking(monkeypatch):
    def ahead_where_overall_is_low(measured, parts, shortfall, chance):
        return 1.0 - measured["overall"]

    monkeypatch.setattr(choosing, "lead", ahead_where_overall_is_low)
    record = chooser(learn=False).choose()
    tuned = record["tuned"]["overall"]
    assert choosing.LEAST_KEPT * tuned <= record["balanced"]["overall"] < tuned


def test_of_one_goal_nothing_else_counts():
    record = chooser(learn=False, goal="tail").choose()
    assert record["balanced"]["tail"] >= record["tuned"]["tail"] >= record["given"]["tail"]


def test_one_hit_of_a_few_people_outranks_nothing():
    train, held = matrices(0)
    chance = ValidationTask.build(train, held).chance()
    assert set(chance) == {"warm", "tail", "cold", "overall"} and min(chance.values()) > 0.01  # of 30 people
    parts = {"warm": 0.1, "tail": 0.0057, "cold": 0.1, "overall": 0.08}
    missed = lead(parts | {"tail": 0.0, "cold": 0.2}, parts, 20.0, chance)
    halved = lead({name: value / 2 for name, value in parts.items()} | {"tail": 0.0057}, parts, 20.0, chance)
    assert missed > 2 * halved


NDCG = st.floats(0.0, 1.0, allow_subnormal=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(NDCG, NDCG), min_size=1, max_size=4), st.integers(0, 3), st.floats(0, 100))
def test_a_lead_grows_with_every_ranking_and_is_1_where_level(both, which, shortfall):
    names = ("warm", "tail", "cold", "overall")[: len(both)]
    measured, parts = ({name: pair[n] for name, pair in zip(names, both, strict=True)} for n in (0, 1))
    assert lead(parts, parts, shortfall) == 1.0
    better = measured | {(name := names[which % len(names)]): measured[name] + 0.01}
    before = lead(measured, parts, shortfall)
    assert 0.0 <= before <= lead(better, parts, shortfall)
    assert lead(measured, parts, shortfall + 1.0) <= before
    assert lead(measured, {}, shortfall) == 0.0


def test_a_lifted_tail_is_found_more_often_and_cold_items_are_as_before():
    chooses = chooser(tune=False, learn=False)
    chooses.choose()
    plain, lifted = chooses.measure(HybridConfig()), chooses.measure(HybridConfig(tail_lift=1.3))
    assert lifted["tail"] > plain["tail"]
    assert lifted["cold"] == plain["cold"]


@pytest.mark.parametrize("n_solutions", [1, 3])
def test_the_larger_the_catalogue_the_fewer_penalties_are_tried(monkeypatch, n_solutions):
    chooses = chooser(learn=False)
    monkeypatch.setattr(choosing, "MOST_WORK", n_solutions * len(chooses.fitter.warm) ** 3)
    chooses.choose()
    assert len(chooses.fitter.solved) == n_solutions
    if n_solutions == 1:
        assert (chooses.config.ridge, chooses.config.pull) == (HybridConfig().ridge, HybridConfig().pull)


@pytest.mark.parametrize(("start", "largest"), [(5.0, 50.0), (50.0, 500.0), (500.0, 2000.0)])
def test_a_ridge_is_tried_in_reach_of_the_best_so_far(monkeypatch, start, largest):
    monkeypatch.setattr(choosing, "is_better", lambda found, best: False)
    chooses = chooser(learn=False, ridge=start)
    chooses.choose()
    assert max(ridge for ridge, _, _ in chooses.fitter.solved) == largest


def learning_that(monkeypatch, *states):
    """Replace the training by one that is looked at in these states: a number for all it learns."""

    def learn(attention, task, *, look):
        for step, state in enumerate(states):
            with torch.no_grad():
                attention.evidence.fill_(state)
                attention.query.up.fill_(state)
            if not look(step):
                break
        return [1.0] * len(states)

    monkeypatch.setattr(choosing, "learn_attention", learn)


def test_training_that_does_not_pay_is_undone_exactly(monkeypatch):
    chooses = chooser(tune=False)
    before = {name: tensor.clone() for name, tensor in chooses.attention.state_dict().items()}
    given = chooses.config
    learning_that(monkeypatch, -1000.0, 1000.0)
    qualities = iter([{"warm": 0.5}, {"warm": 0.5}, {"warm": 0.4}, {"warm": 0.5 * (1 + MIN_GAIN / 2)}])
    monkeypatch.setattr(chooses, "measure", lambda _: next(qualities))
    record = chooses.choose()
    assert (record["attention"]["kept"], record["attention"]["look"]) == (False, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in chooses.attention.state_dict().items())
    assert chooses.config == given


def test_the_best_state_seen_is_the_one_kept(monkeypatch):
    chooses = chooser(tune=False)
    learning_that(monkeypatch, 1.0, 2.0, 3.0)
    qualities = iter([{"warm": 0.5}, {"warm": 0.5}, {"warm": 0.6}, {"warm": 0.7}, {"warm": 0.65}])
    monkeypatch.setattr(chooses, "measure", lambda _: next(qualities))
    record = chooses.choose()
    assert (record["attention"]["kept"], record["attention"]["look"]) == (True, 2)
    assert (chooses.attention.evidence == 2.0).all()


def test_learning_ends_when_nothing_is_gained_any_more(monkeypatch):
    chooses = chooser(tune=False)
    learning_that(monkeypatch, 1.0, 2.0, 3.0, 4.0, 5.0)
    qualities = iter([{"warm": 0.5}, {"warm": 0.5}, *({"warm": 0.5 + gain} for gain in (0.1, 0.0, -0.1, 0.9, 0.9))])
    monkeypatch.setattr(chooses, "measure", lambda _: next(qualities))
    record = chooses.choose()
    assert record["attention"]["look"] == 1 and len(record["attention"]["measured"]) == 4


def test_what_is_learned_is_measured_with_the_attention_that_is_kept():
    chooses = chooser(tune=False)
    record = chooses.choose()
    measured, look = record["attention"]["measured"], record["attention"]["look"]
    assert chooses.measure(chooses.config) == pytest.approx(measured[look])
    assert len(measured) <= 5
    assert objective(measured[look]) == pytest.approx(max(map(objective, measured)), rel=2 * MIN_GAIN)


def test_a_column_of_a_handful_is_not_chosen_by(monkeypatch):
    train, held = matrices(0)
    assert "cold" in ValidationTask.build(train, held).relevant
    monkeypatch.setattr(tuning, "MIN_SHARE", 0.3)
    assert set(ValidationTask.build(train, held).relevant) >= {"warm", "overall"}
    assert "cold" not in ValidationTask.build(train, held).relevant


def test_the_goal_is_what_is_chosen_for():
    shelf = Shelf()
    cold, warm = (
        HybridRecommender({"goal": goal, "learn": False}).fit(
            shelf.train, shelf.embeddings, validation=shelf.validation()
        )
        for goal in ("cold", "warm")
    )
    assert cold.training["tuned"]["cold"] >= warm.training["tuned"]["cold"]
    assert warm.training["tuned"]["warm"] >= cold.training["tuned"]["warm"]
