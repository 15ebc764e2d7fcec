import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.recommenders.drawing import PeopleBatches


def some_histories(n_users=12, n_items=9, seed=0, share=0.4):
    taken = np.random.default_rng(seed).random((n_users, n_items)) < share
    return sp.csr_matrix(taken.astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n_events=st.integers(1, 40), n_negatives=st.integers(1, 12))
def test_an_epoch_asks_each_person_once(seed, n_events, n_negatives):
    histories = some_histories(seed=seed)
    drawn = PeopleBatches(histories, n_events, n_negatives)
    found = []
    for batch in drawn.epoch(np.random.default_rng(seed)):
        assert (np.diff(batch.person) >= 0).all()
        assert set(batch.person) == set(range(batch.n_people))
        assert len(batch.items) < n_events + histories.shape[1]
        found += [tuple(sorted(batch.items[batch.person == person])) for person in range(batch.n_people)]
    wanted = [tuple(row.indices) for row in histories if row.nnz]
    assert sorted(found) == sorted(wanted)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n_negatives=st.integers(1, 12))
def test_what_a_person_has_does_not_compete(seed, n_negatives):
    for batch in PeopleBatches(some_histories(seed=seed), 20, n_negatives).epoch(np.random.default_rng(seed)):
        assert len(set(batch.candidates)) == len(batch.candidates)
        wanted = {
            (event, place)
            for event, person in enumerate(batch.person)
            for place, candidate in enumerate(batch.candidates)
            if candidate in batch.items[batch.person == person]
        }
        assert set(zip(batch.hit_event, batch.hit_candidate, strict=True)) == wanted


def test_a_small_catalogue_stands_there_whole():
    drawn = PeopleBatches(sp.csr_matrix(np.array([[1, 0, 1, 0]], dtype=np.float32)), n_negatives=2)
    batch = next(drawn.epoch(np.random.default_rng(0)))
    assert drawn.takes_all
    assert batch.candidates.tolist() == [0, 2]  # what nobody took is no candidate
    assert batch.log_weight.tolist() == [0.0, 0.0]


def test_the_weights_make_the_sum_over_candidates_that_over_all_items():
    histories = some_histories(60, 40, share=0.2).multiply(np.linspace(1, 0, 40) > np.random.default_rng(1).random(40))
    drawn = PeopleBatches(sp.csr_matrix(histories), 1000, 10)
    value = np.random.default_rng(2).random(40)
    rng = np.random.default_rng(3)
    sums = []
    for _ in range(3000):
        batch = next(drawn.epoch(rng))
        sums.append((np.exp(batch.log_weight) * value[batch.candidates]).sum())
    assert not drawn.takes_all
    assert np.mean(sums) == pytest.approx(value[drawn.warm].sum(), rel=0.02)


def test_a_long_history_is_looked_at_in_parts():
    long = sp.csr_matrix(np.ones((1, 50), dtype=np.float32))
    drawn = PeopleBatches(long, max_history=10)
    parts = [next(drawn.epoch(np.random.default_rng(seed))).items for seed in range(40)]
    assert all(len(set(part)) == 10 for part in parts)
    assert set(np.concatenate(parts)) == set(range(50))
    assert any((np.diff(np.sort(part)) > 1).any() for part in parts)  # mixed, not neighbours in the catalogue
    assert drawn.n_batches == 1


def test_ordered_histories_are_cut_to_windows_of_neighbours():
    order = np.random.default_rng(0).permutation(30)
    line = sp.csr_matrix((np.ones(30, dtype=np.float32), order, [0, 30]), shape=(1, 30))
    place = np.argsort(order)
    drawn = PeopleBatches(line, max_history=10, ordered=True)
    starts = set()
    for seed in range(60):
        window = place[next(drawn.epoch(np.random.default_rng(seed))).items]
        np.testing.assert_array_equal(window, window[0] + np.arange(10))
        starts.add(int(window[0]))
    assert {0, 20} <= starts  # the oldest and the latest ten


def test_nobody_is_an_empty_epoch():
    assert list(PeopleBatches(sp.csr_matrix((3, 4))).epoch(np.random.default_rng(0))) == []
