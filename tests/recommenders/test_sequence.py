import numpy as np
import pytest

from llm_tail.data.interactions import Interactions
from llm_tail.recommenders.sequence import SasRec, TextSasRec

from .contracts import RecommenderContract

pytestmark = pytest.mark.filterwarnings("ignore:.*learns from sequences")


def in_order(events, times):
    return Interactions(events.users, events.items, events.user_rows, events.item_rows, times=times)


class SequenceContract(RecommenderContract):
    def fit(self, model, board):
        times = np.random.default_rng(0).permutation(len(board.train))  # else a block were always read in one order
        return model.fit(in_order(board.train, times), board.embeddings)

    def test_a_person_is_nothing_but_a_history(self, board, model):
        pytest.skip("the order counts: see below")


class TestSasRec(SequenceContract):
    def make(self):
        return SasRec(
            factors=8, n_blocks=1, dropout=0.0, epochs=40, batch_events=32, learning_rate=1e-2, table_rate=0.3
        )


class TestTextSasRec(SequenceContract):
    def make(self):
        return TextSasRec(
            factors=8, n_blocks=1, dropout=0.0, epochs=40, batch_events=32, learning_rate=1e-2, table_rate=0.3
        )
