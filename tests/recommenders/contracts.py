"""What every recommender must do. A new one's test is three lines::

class TestMine(RecommenderContract):
    def make(self):
        return Mine()
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import DataError, NotFittedError, StaleArtifactError, UnknownIdError
from llm_tail.recommenders.base import Recommendations, Recommender

N_BLOCK = 6  # items of a block that have readers; one more is cold
SEA = ["whale", "ship", "harpoon", "sailor", "ocean", "storm"]
LOVE = ["ball", "marriage", "dance", "letter", "cousin", "garden"]


class Checkerboard:
    """Two blocks of readers whose answer can be seen: each took all items of the own block but one.

    Sea readers and love readers share nothing, but for one person who took one item of each block. The missing item
    of the own block is the right answer, the cold one of the block the next.
    """

    def __init__(self) -> None:
        sea, love = [f"sea-{n}" for n in range(N_BLOCK)], [f"love-{n}" for n in range(N_BLOCK)]
        self.blocks = {"sea": sea, "love": love}
        words = {"sea": SEA, "love": LOVE}
        items = [
            {"item_id": item, "title": f"{words[block][n % 6]} {words[block][(n + 1) % 6]} {block}", "description": ""}
            for block, ids in self.blocks.items()
            for n, item in enumerate([*ids, f"{block}-cold"])
        ]
        self.catalog = Catalog.from_items(items)
        pairs = [
            (f"{block}-reader-{n}", item)
            for block, ids in self.blocks.items()
            for n in range(2 * N_BLOCK)
            for place, item in enumerate(ids)
            if place != n % N_BLOCK
        ]
        pairs += [("both", "sea-0"), ("both", "love-0")]
        self.train = Interactions.from_pairs(pairs, items=self.catalog.ids)
        rng = np.random.default_rng(0)
        centres = np.repeat(np.eye(8)[:2], N_BLOCK + 1, axis=0)  # (n_items, 8)
        self.embeddings = Embeddings(self.catalog.ids, centres + 0.1 * rng.standard_normal(centres.shape))

    def missing(self, user: str) -> str:
        block, _, n = user.split("-")
        return f"{block}-{int(n) % N_BLOCK}"


class RecommenderContract:
    """Subclass it, write `make`, and say what the model cannot see."""

    sees_blocks = True  # False for a model that gives everyone the same

    def make(self) -> Recommender:
        raise NotImplementedError

    def fit(self, model: Recommender, board: Checkerboard) -> Recommender:
        return model.fit(board.train, board.embeddings)

    @pytest.fixture(scope="class")
    @classmethod
    def board(cls) -> Checkerboard:
        return Checkerboard()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, board) -> Recommender:
        contract = cls()
        return contract.fit(contract.make(), board)

    # ---- learning

    def test_fit_returns_self_and_leaves_its_inputs_alone(self, board):
        model, before = (
            self.make(),
            board.train.fingerprint(),
        )
        vectors = board.embeddings.vectors.copy()
        assert self.fit(model, board) is model
        assert model.is_fitted
        assert board.train.fingerprint() == before
        np.testing.assert_array_equal(board.embeddings.vectors, vectors)

    def test_asking_before_fit_names_the_call(self, tmp_path):
        model = self.make()
        assert "not fitted" in repr(model)
        for ask in (
            lambda: model.recommend(["ann"]),
            lambda: model.score(sp.csr_matrix((1, 1))),
            lambda: model.save(tmp_path),
        ):
            with pytest.raises(NotFittedError, match=rf"{type(model).__name__}\.fit\("):
                ask()

    def test_nothing_to_learn_from_is_said(self, board):
        model = self.make()
        with pytest.raises(DataError, match="no training interactions"):
            model.fit(board.train.where(np.zeros(len(board.train), dtype=bool)), board.embeddings)
        assert not model.is_fitted

    def test_missing_vectors_are_said(self, board):
        model = self.make()
        if not model.needs_embeddings:
            pytest.skip("needs no vectors")
        with pytest.raises(DataError, match="embeddings"):
            model.fit(board.train)
        assert not model.is_fitted

    def test_same_seed_same_answer(self, board, model):
        again = self.fit(self.make(), board)
        np.testing.assert_array_equal(again.recommend().item_rows, model.recommend().item_rows)

    # ---- answering

    def test_scores_have_one_finite_number_for_each_item(self, board, model):
        scores = model.score(model.histories)
        assert scores.shape == model.histories.shape
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()

    def test_a_history_of_another_width_is_refused(self, model):
        with pytest.raises(DataError):
            model.score(sp.csr_matrix((1, 3), dtype=np.float32))

    def test_lists_are_unique_sorted_and_new(self, model):
        answer = model.recommend(k=5)
        assert isinstance(answer, Recommendations)
        assert list(answer.users) == list(model.users)
        assert answer.item_rows.shape == (len(model.users), 5)
        for person, (rows, scores) in enumerate(zip(answer.item_rows, answer.scores, strict=True)):
            assert len(set(rows)) == 5
            assert (np.diff(scores) <= 0).all()
            assert not set(rows) & set(model.histories[person].indices)

    def test_k_above_n_gives_all_that_is_new(self, model):
        answer = model.recommend(k=1000)
        n_new = len(model.items) - np.diff(model.histories.indptr)
        np.testing.assert_array_equal((answer.item_rows >= 0).sum(axis=1), n_new)
        assert len(answer[0]) == n_new[0]
        assert np.isneginf(answer.scores[answer.item_rows < 0]).all()

    @pytest.mark.parametrize("k", [0, -1])
    def test_k_below_one_is_refused(self, model, k):
        with pytest.raises(DataError, match=f"k is {k}"):
            model.recommend(k=k)

    def test_one_by_one_equals_batch(self, model):
        users = list(model.users)[::3]
        batch = model.recommend(users, k=6)
        full = model.score(model.histories[model.users.rows(users)])
        for n, user in enumerate(users):
            alone = model.recommend([user], k=6)
            np.testing.assert_allclose(alone.scores[0], batch.scores[n], rtol=1e-4, atol=1e-5)
            # equal scores may change places by rounding, nothing else
            np.testing.assert_allclose(full[n, alone.item_rows[0]], batch.scores[n], rtol=1e-4, atol=1e-5)

    def test_a_person_is_nothing_but_a_history(self, board, model):
        user = "sea-reader-1"
        history = list(model.items.values[model.histories[model.users.row(user)].indices])
        np.testing.assert_allclose(
            model.recommend(history=history[::-1], k=5).scores,
            model.recommend([user], k=5).scores,
            rtol=1e-4,
            atol=1e-5,
        )

    def test_only_candidates_are_recommended(self, model):
        wanted = ["love-3", "sea-1", "sea-cold"]
        mask = np.isin(model.items.values, wanted)
        by_name, by_mask = (model.recommend(["sea-reader-1"], k=9, candidates=c) for c in (wanted, mask))
        assert {item for item, _ in by_name[0]} == set(wanted)
        assert by_name[0] == by_mask[0]

    def test_validation_is_not_recommended(self, board):
        held = Interactions.from_pairs([("sea-reader-1", "sea-1"), ("nobody-yet", "love-2")], items=board.catalog.ids)
        model = self.make()
        model.fit(board.train, board.embeddings, validation=held)
        answer = model.recommend(["sea-reader-1", "nobody-yet"], k=50)
        assert "sea-1" not in dict(answer[0])
        assert "love-2" not in dict(answer[1])
        assert answer.from_popularity.tolist() == [False, True]

    def test_no_history_gives_what_most_people_take(self, model):
        answer = model.recommend(history=[], k=3)
        taken = np.bincount(model.histories.indices, minlength=len(model.items))
        assert answer.from_popularity.all()
        np.testing.assert_array_equal(taken[answer.item_rows[0]], np.sort(taken)[::-1][:3])

    def test_unknown_ids_are_named_or_served(self, model):
        with pytest.raises(UnknownIdError, match="sea-reader-1"):
            model.recommend(["sea-raeder-1"])
        with pytest.raises(UnknownIdError, match="sea-0"):
            model.recommend(history=["see-0"])
        with pytest.raises(UnknownIdError, match="sea-0"):
            model.recommend(["both"], candidates=["see-0"])
        answer = model.recommend(["stranger", "both"], k=3, unknown="popular")
        assert answer.from_popularity.tolist() == [True, False]
        assert answer[0] == model.recommend(history=[], k=3)[0]

    def test_nobody_is_an_empty_answer(self, model):
        answer = model.recommend([], k=3)
        assert len(answer) == 0
        assert answer.to_frame().empty

    # ---- keeping

    def test_save_and_load_give_the_same_answer(self, board, model, tmp_path):
        again = type(model).load(model.save(tmp_path / "model"))
        assert again.name == model.name
        assert again.items == model.items
        assert again.users == model.users
        np.testing.assert_array_equal(again.recommend(k=7).item_rows, model.recommend(k=7).item_rows)
        np.testing.assert_array_equal(again.score(model.histories), model.score(model.histories))
        assert not [p for p in (tmp_path / "model").rglob("*") if p.suffix in (".pkl", ".pickle", ".npy", ".pt")]

    def test_nothing_saved_is_said(self, tmp_path):
        with pytest.raises(StaleArtifactError, match="no recommender"):
            type(self.make()).load(tmp_path / "nowhere")

    # ---- the answer that can be seen

    def test_readers_are_given_their_own_block(self, board, model):
        if not self.sees_blocks:
            pytest.skip("gives everyone the same")
        users = [user for user in model.users if user != "both"]
        for user, items in model.recommend(users, k=1):
            assert items[0][0] == board.missing(user) or (
                model.serves_cold and items[0][0] == f"{user.split('-')[0]}-cold"
            )

    def test_the_cold_one_of_the_block_comes_next(self, board, model):
        if not model.serves_cold:
            pytest.skip("cannot serve the cold")
        users = [user for user in model.users if user != "both"]
        for user, items in model.recommend(users, k=2):
            assert {item for item, _ in items} == {board.missing(user), f"{user.split('-')[0]}-cold"}
