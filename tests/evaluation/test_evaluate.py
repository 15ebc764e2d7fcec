import numpy as np
import pandas as pd
import pytest

from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import Split
from llm_tail.embedding.store import Embeddings
from llm_tail.errors import ConfigError, DataError
from llm_tail.evaluation import evaluate as module
from llm_tail.evaluation.evaluate import evaluate, make_tasks
from llm_tail.recommenders.base import Recommender
from llm_tail.recommenders.baselines import ContentSimilarity, Ease, ItemKnn, Popularity, TfidfSimilarity

from .worlds import from_judge, load_judge, make_split, random_split


class Oracle(Recommender):
    """Knows one part of the split, which it was given on the side."""

    name = "oracle"
    serves_cold = True

    def __init__(self, answers: Interactions) -> None:
        self.answers = answers.matrix()

    def _fit(self, train, embeddings, graph, validation):
        pass

    def _score(self, histories):
        """Find each person by the history; good enough where histories differ."""
        same = (histories @ self.histories.T).toarray()
        size = np.asarray(self.histories.sum(axis=1)).ravel()
        person = np.argmax(same - np.abs(size - np.asarray(histories.sum(axis=1))), axis=1)
        return self.answers[person].toarray()


def test_an_oracle_is_perfect_in_every_segment():
    split = random_split(0)
    report = evaluate(Oracle(split.test), split, k=40, n_bootstrap=20)
    assert report.segments == ("warm", "tail", "cold", "overall")
    for segment in ("warm", "cold", "overall"):
        assert report.interval("oracle", segment, "ndcg@40") == (1, 1, 1)
    # warm items that are head stand in the way of tail ones
    assert report.value("oracle", "tail", "recall@40") == 1
    assert report.value("oracle", "overall", "recall@40") == 1


def test_by_hand():
    split = make_split(
        train=[("ann", "a"), ("bob", "a"), ("bob", "b"), ("cat", "b"), ("cat", "a"), ("cat", "c"), ("dan", "a")],
        validation=[("ann", "c"), ("bob", "x")],
        test=[("ann", "b"), ("bob", "y"), ("dan", "d"), ("dan", "y")],
        items=["a", "b", "c", "d", "x", "y", "z"],
        cold_validation=["x"],
        cold_test=["y", "z"],
    )
    report = evaluate(Popularity(), split, k=[1, 2, 3], n_bootstrap=0)
    assert report.n_users == {"warm": 2, "tail": 2, "cold": 2, "overall": 3}
    # warm lists: ann has a and c, so b d; dan has a, so b c d
    assert report.value("popularity", "warm", "recall@1") == 0.5
    assert report.value("popularity", "warm", "recall@2") == 0.5
    assert report.value("popularity", "warm", "recall@3") == 1.0
    # three warm items have events: int(0.2 * 3) = 0 heads, so that b and the never taken d are both tail
    assert report.value("popularity", "tail", "recall@3") == 1.0
    # cold lists: y z for both, x belongs to validation
    assert report.value("popularity", "cold", "ndcg@1") == 1.0
    assert report.exposure["popularity"]["coverage"] == pytest.approx(4 / 6)  # b c d y; all have a, z comes last


def test_validation_phase_looks_at_validation_only():
    split = random_split(3)
    report = evaluate(Oracle(split.validation), split, k=40, n_bootstrap=0, phase="validation")
    assert {report.value("oracle", segment, "ndcg@40") for segment in ("warm", "cold", "overall")} == {1.0}
    tasks = {task.name: task for task in make_tasks(split, "validation")}
    assert set(tasks["cold"].candidates) == set(np.flatnonzero(split.cold_validation))
    assert not set(tasks["overall"].candidates) & set(np.flatnonzero(split.cold_test))
    assert report.facts["phase"] == "validation"


def test_an_item_in_validation_and_test_alone_is_cold_in_both():
    split = Split.from_parts(
        Interactions.from_pairs([("a", "x"), ("b", "y"), ("c", "x")]),
        Interactions.from_pairs([("a", "n"), ("c", "v")]),
        Interactions.from_pairs([("b", "n"), ("c", "n"), ("a", "y"), ("b", "t")]),
        catalog=IdMap(["x", "y", "n", "v", "t"], "item"),
    )
    tasks = {task.name: task for task in make_tasks(split)}
    assert tasks["overall"].relevant.nnz == len(split.test) == 4
    assert tasks["cold"].candidates.tolist() == [2, 4]  # v was taken in validation alone
    assert tasks["warm"].candidates.tolist() == [0, 1]
    assert {task.name: task.candidates.tolist() for task in make_tasks(split, "validation")} == {
        "cold": [2, 3],
        "overall": [0, 1, 2, 3],
    }
    report = evaluate(Oracle(split.test), split, k=2, n_bootstrap=0)
    assert report.n_users == {"warm": 1, "tail": 1, "cold": 2, "overall": 3}


def test_without_cold_items_there_is_no_cold_row():
    split = make_split([("ann", "a"), ("bob", "b")], test=[("ann", "b")], items=["a", "b", "c"])
    report = evaluate([Popularity()], split, k=1, n_bootstrap=10)
    assert report.segments == ("warm", "tail", "overall")
    assert report.value("popularity", "warm", "recall@1") == report.value("popularity", "overall", "recall@1") == 1.0


def test_people_without_a_history_get_what_most_people_take():
    split = make_split(
        [("ann", "b"), ("bob", "b"), ("bob", "a")], test=[("new", "b"), ("old", "a")], items=["a", "b", "c"]
    )
    report = evaluate([Ease(), Popularity()], split, k=1, n_bootstrap=0)
    assert report.value("ease", "overall", "recall@1") == report.value("popularity", "overall", "recall@1") == 0.5


def test_it_equals_recommending_and_counting():
    split = random_split(7)
    model = ItemKnn(shrink=1.0).fit(split.train, validation=split.validation)
    report = evaluate({"knn": model}, split, k=4, n_bootstrap=0)
    for task in make_tasks(split):
        people = np.flatnonzero(task.people)
        mask = np.isin(np.arange(len(split.items)), task.candidates)
        top = model.recommend(list(split.users.values[people]), k=4, candidates=mask).item_rows
        found = [len(set(top[n]) & set(task.relevant[person].indices)) for n, person in enumerate(people)]
        recall = np.mean(np.array(found) / np.diff(task.relevant.indptr)[people])
        assert report.value("knn", task.name, "recall@4") == pytest.approx(recall)


def test_blocks_do_not_change_the_answer(monkeypatch):
    split = random_split(2)
    whole = evaluate([ItemKnn(), Popularity()], split, k=5, n_bootstrap=10)
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 40 * 3)
    parts = evaluate([ItemKnn(), Popularity()], split, k=5, n_bootstrap=10)
    assert parts.cells == whole.cells
    assert parts.differences == whole.differences
    assert parts.exposure == whole.exposure


def test_k_above_the_number_of_candidates():
    report = evaluate(Popularity(), random_split(4), k=1000, n_bootstrap=0)
    assert report.value("popularity", "cold", "recall@1000") == 1.0


def test_the_same_seed_gives_the_same_report():
    a, b, c = (evaluate(ItemKnn(), random_split(5), k=5, n_bootstrap=30, seed=seed) for seed in (1, 1, 2))
    assert a.cells == b.cells
    assert a.cells != c.cells


def test_a_model_over_other_items_is_judged_on_ours():
    split = random_split(6)
    order = np.random.default_rng(0).permutation(len(split.items))
    known = split.items.values[order][:-2]  # two items it has never heard of
    vectors = Embeddings([*known, "from elsewhere"], np.eye(len(known) + 1))
    theirs = Popularity().fit(split.train, vectors, validation=split.validation)
    ours = evaluate(Popularity(), split, k=3, n_bootstrap=0)
    report = evaluate(theirs, split, k=3, n_bootstrap=0)
    assert theirs.items != split.items
    assert report.value("popularity", "warm") == pytest.approx(ours.value("popularity", "warm"), abs=0.2)
    assert report.value("popularity", "warm", "recall@3") > 0


def test_fitting_is_left_to_evaluate_only_where_it_is_needed():
    split = random_split(0)
    vectors = Embeddings(split.items, np.random.default_rng(0).standard_normal((40, 4)))
    fitted = Popularity().fit(split.train)
    content = ContentSimilarity()
    report = evaluate([fitted, content], split, k=5, embeddings=vectors, n_bootstrap=0)
    assert content.is_fitted
    assert report.seconds["popularity"]["fit"] == 0
    assert report.seconds["content"]["fit"] > 0


def test_two_models_of_one_name_are_told_apart():
    report = evaluate([Ease(1.0), Ease(100.0), Ease(9.0)], random_split(0), k=5, n_bootstrap=0)
    assert report.models == ("ease", "ease #2", "ease #3")


def test_a_model_that_has_seen_the_test_is_refused():
    split = random_split(0)
    everything = Interactions(
        split.users,
        split.items,
        np.concatenate([split.train.user_rows, split.test.user_rows]),
        np.concatenate([split.train.item_rows, split.test.item_rows]),
    )
    with pytest.raises(DataError, match=r"popularity has learned from \d+ of the \d+ events"):
        evaluate(Popularity().fit(everything), split)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"k": 0}, ConfigError, "k is 0"),
        ({"k": []}, ConfigError, "k is"),
        ({"phase": "tset"}, ConfigError, "phase is 'tset', expected 'test' or 'validation'"),
        ({"n_bootstrap": -1}, ConfigError, "n_bootstrap is -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        evaluate(Popularity(), random_split(0), **settings)


def test_nothing_to_compare_or_to_judge_is_said():
    with pytest.raises(DataError, match="no model"):
        evaluate([], random_split(0))
    with pytest.raises(DataError, match="nobody has anything in the test part"):
        evaluate(Popularity(), make_split([("ann", "a")], items=["a", "b"]))


def test_the_outside_judge_agrees_on_a_real_data_set(tmp_path):
    judge = load_judge()
    theirs = judge.Split("amazon-scientific", 0)
    split = from_judge(theirs)
    words = dict(zip(theirs.item_ids, theirs.items["title"].fillna(""), strict=True))
    catalog = Catalog.from_items([{"item_id": item, "title": words[item]} for item in theirs.item_ids])
    models = [ItemKnn(), TfidfSimilarity(catalog)]
    report = evaluate(models, split, k=20, n_bootstrap=0)
    candidates = {name: mask for name, _, mask, _ in theirs.tasks()}
    people = {name: theirs.user_ids[np.diff(rel.indptr) > 0] for name, rel, _, _ in theirs.tasks()}
    for model in models:
        for name in ("warm", "cold", "overall"):
            frame = model.recommend(list(people[name]), k=20, candidates=candidates[name]).to_frame()
            assert isinstance(frame, pd.DataFrame)
            frame.to_parquet(tmp_path / f"recs_{name}.parquet")
        for segment, (recall, ndcg) in judge.judge(theirs, tmp_path).items():
            assert report.value(model.name, segment, "recall@20") == pytest.approx(recall, abs=1e-9)
            assert report.value(model.name, segment, "ndcg@20") == pytest.approx(ndcg, abs=1e-9)
