import numpy as np
import pytest
import scipy.sparse as sp

from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import split_leave_last_out
from llm_tail.evaluation.evaluate import evaluate
from llm_tail.recommenders.sequence import SasRec, TextSasRec, _in_order, _padded

from .contracts import Checkerboard, RecommenderContract

unordered = pytest.mark.filterwarnings("ignore:.*learns from sequences")
RING = 10


def in_order(events, times):
    return Interactions(events.users, events.items, events.user_rows, events.item_rows, times=times)


@unordered
class SequenceContract(RecommenderContract):
    def fit(self, model, board):
        times = np.random.default_rng(0).permutation(len(board.train))  # else a block were always read in one order
        return model.fit(in_order(board.train, times), board.embeddings)

    def test_a_person_is_nothing_but_a_history(self, board, model):
        row = model.histories[model.users.row("sea-reader-1")]
        history = list(model.items.values[row.indices[np.argsort(row.data)]])
        theirs = model.recommend(["sea-reader-1"], k=5)
        np.testing.assert_allclose(model.recommend(history=history, k=5).scores, theirs.scores, rtol=1e-4, atol=1e-5)
        backward = model.recommend(history=history[::-1], k=5)
        assert not np.allclose(backward.scores, theirs.scores, rtol=1e-4, atol=1e-5)


class TestSasRec(SequenceContract):
    def make(self):
        return SasRec(
            factors=8, n_blocks=1, dropout=0.3, epochs=30, batch_events=32, learning_rate=1e-2, table_rate=0.3
        )


class TestTextSasRec(SequenceContract):
    def make(self):
        return TextSasRec(factors=8, n_blocks=1, epochs=30, batch_events=32, learning_rate=1e-2, table_rate=0.3)


@pytest.fixture(scope="module")
def ring():
    """People who walk along a ring of items, each from another start; rows are shuffled, times are right."""
    pairs = [(f"u{u:02}", f"i{(u + n) % RING}") for u in range(60) for n in range(4)]
    mixed = np.random.default_rng(0).permutation(len(pairs))
    events = Interactions.from_pairs([pairs[n] for n in mixed])
    return in_order(events, mixed.astype(float))


@pytest.fixture(scope="module")
def walker(ring):
    return SasRec(factors=16, n_blocks=1, dropout=0.0, epochs=30, batch_events=64, learning_rate=1e-2).fit(ring)


def test_the_next_on_the_ring_is_foretold(walker):
    for start in range(RING):
        walk = [f"i{(start + n) % RING}" for n in range(3)]
        assert walker.recommend(history=walk, k=1)[0][0][0] == f"i{(start + 3) % RING}"


def test_the_order_of_a_known_person_is_that_of_time(walker, ring):
    for user, items in walker.recommend(k=1):
        assert items[0][0] == f"i{(int(user[1:]) + 4) % RING}"
    assert walker.training["ordered_by"] == "times"


def test_the_order_outlives_the_disk(walker, tmp_path):
    again = SasRec.load(walker.save(tmp_path / "walker"))
    np.testing.assert_array_equal(again.histories.toarray(), walker.histories.toarray())
    assert again.recommend(history=["i1", "i2", "i3"], k=1)[0][0][0] == "i4"


def test_evaluation_keeps_the_order(ring):
    split = split_leave_last_out(ring, ring.items)
    model = SasRec(factors=16, n_blocks=1, dropout=0.0, epochs=40, batch_events=64, learning_rate=1e-2)
    model.fit(split.train)
    assert evaluate([model], split, k=1, phase="validation").value("sasrec", metric="recall@1") > 0.9


def test_positions_are_an_order_too(ring):
    placed = Interactions(ring.users, ring.items, ring.user_rows, ring.item_rows, positions=ring.times.astype(int))
    model = SasRec(factors=4, epochs=1)
    np.testing.assert_array_equal(model.history_matrix(placed).toarray(), model.history_matrix(ring).toarray())
    assert model.fit(placed).training["ordered_by"] == "positions"


def test_without_times_it_says_so(ring):
    bare = Interactions(ring.users, ring.items, ring.user_rows, ring.item_rows)
    with pytest.warns(UserWarning, match="sasrec learns from sequences.*neither times nor positions"):
        model = SasRec(factors=4, epochs=1).fit(bare)
    assert model.training["ordered_by"] == "the data"


def test_histories_hold_places_and_the_last_time_counts():
    events = Interactions.from_pairs([("ann", "a"), ("bob", "b"), ("ann", "b"), ("ann", "c"), ("ann", "a")])
    wanted = [[3.0, 1.0, 2.0], [0.0, 1.0, 0.0]]  # ann: a b c a
    assert SasRec().history_matrix(events).toarray().tolist() == wanted
    model = SasRec()
    model.items = events.items
    assert model._history(["a", "b", "c", "a"]).toarray().tolist() == [[4.0, 2.0, 3.0]]


def test_only_the_last_ones_are_looked_at():
    ordered = _in_order(sp.csr_matrix(np.array([[2.0, 3.0, 1.0, 0.0], [0, 0, 0, 1.0], [0, 0, 0, 0]])))
    rows, there = _padded(ordered, 2)
    assert there.tolist() == [[True, True], [False, True], [False, False]]
    assert rows[there].tolist() == [0, 1, 3]


def test_blocks_of_people_change_nothing(walker, monkeypatch):
    whole = walker.score(walker.histories)
    monkeypatch.setattr("llm_tail.recommenders.sequence.BLOCK_BYTES", 1)
    np.testing.assert_allclose(walker.score(walker.histories), whole, rtol=1e-4, atol=1e-5)


def test_texts_place_the_cold(ring):
    board = Checkerboard()
    model = TextSasRec(factors=8, n_blocks=1, epochs=30, batch_events=32, learning_rate=1e-2)
    model.fit(in_order(board.train, np.arange(len(board.train))), board.embeddings)
    cold = model.items.rows(["sea-cold", "love-cold"])
    sea, love = model.score(model._history(["sea-0", "sea-3"]))[0, cold]
    assert sea > love
