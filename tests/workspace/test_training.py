"""What a run's fine-tuning learns from, how it is watched, and several processes at it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from llm_tail.artifacts import read_manifest
from llm_tail.config import IndexConfig
from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.negatives import nearest_blocks
from llm_tail.errors import ConfigError, DataError
from llm_tail.recommenders.baselines import Ease
from llm_tail.workspace import Workspace, training
from llm_tail.workspace.guard import Look, judge_encoders
from llm_tail.workspace.training import ease_teacher, held_out_of, make_pairs, watch_ranking
from tests import shop

KINDS = ["co-interaction", "history", "attribute", "text"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Workspace.open(shop.write(tmp_path_factory.mktemp("shop")), ["encoder.precision=fp32"])


@pytest.fixture(scope="module")
def encoder(run):
    return run.source_encoder


def with_lora(run, **settings):
    return run.config.lora.replace(n_pairs=20, **settings)


def test_pairs_of_every_kind_are_drawn(run):
    pairs, notes = make_pairs(run, run.split, with_lora(run, pairs=KINDS))
    assert not notes and set(pairs.provenance["kinds"]) == set(KINDS) and len(pairs) == 80
    assert pairs.provenance["columns"] == ["category", "brand"]  # those of the graph
    named, _ = make_pairs(run, run.split, with_lora(run, pairs=["attribute"], attributes=["brand"]))
    assert named.provenance["columns"] == ["brand"]


def test_what_the_data_cannot_give_is_left_out_and_named_or_said_where_nothing_is_left(run):
    pairs, notes = make_pairs(run, run.split, with_lora(run, pairs=["text", "co-interaction"], session_days=1.0))
    assert set(pairs.provenance["kinds"]) == {"text"}
    assert len(notes) == 1 and notes[0].startswith("no co-interaction pairs: sessions need times")
    with pytest.raises(DataError, match="sessions need times"):
        make_pairs(run, run.split, with_lora(run, session_days=1.0))


def test_a_misspelt_column_is_named_before_anything_is_trained(run, tmp_path):
    words = r"setting 'lora.attributes' names 'brnad', and the catalogue has no such column; did you mean 'brand'\?"
    with pytest.raises(ConfigError, match=words):
        make_pairs(run, run.split, with_lora(run, pairs=["text", "attribute"], attributes=["category", "brnad"]))
    settings = ["lora.enabled=true", 'lora.pairs=["text", "attribute"]', 'lora.attributes=["brnad"]']
    early = Workspace.open(shop.write(tmp_path), settings)
    with pytest.raises(DataError, match=f"the data cannot be used: {words}"):
        early.run()
    assert [name for name in early.stages if name in early.record] == ["audit"]
    off = early.config.overridden(["lora.enabled=false", "folder=" + json.dumps(str(tmp_path / "off"))])
    Workspace(off).run(until="audit")


def test_attribute_pairs_need_a_column(tmp_path):
    bare = Workspace.open(shop.write(tmp_path), ["graph.relations=[]", 'lora.pairs=["attribute"]'])
    with pytest.raises(ConfigError, match=r"\[lora\] attributes"):
        make_pairs(bare, bare.split)


def test_settings_reach_the_pairs(run):
    drawn = [
        make_pairs(run, run.split, with_lora(run, **settings))[0]
        for settings in ({}, {"balance": 1.0}, {"pairs": ["history"]}, {"pairs": ["history"], "history_length": 1})
    ]
    assert len({pairs.fingerprint for pairs in drawn}) == 4


# ---- EASE as a teacher


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_ease_teaches_its_positive_weights(run, balance):
    train = run.split.train
    weights = ease_teacher(train, balance=balance)
    model = Ease(ridge=training.RIDGE).fit(train)
    dense = np.zeros(weights.shape, "f4")
    dense[np.ix_(model.warm, model.warm)] = (model.weights + model.weights.T) / 2
    dense[dense <= training.LEAST_TAUGHT] = 0
    popular = np.maximum(train.counts(), 1) ** ((1 - balance) / 2)
    np.testing.assert_allclose(weights.toarray(), dense * popular * popular[:, None], rtol=1e-4, atol=1e-6)
    assert (weights.data > 0).all() and weights.dtype == np.float32 and (weights != weights.T).nnz == 0


def test_the_teacher_reaches_the_pairs(run):
    plain, _ = make_pairs(run, run.split, with_lora(run))
    taught, notes = make_pairs(run, run.split, with_lora(run, teacher="ease"))
    assert not notes and taught.fingerprint != plain.fingerprint and plain.teacher is None
    assert (taught.teacher != ease_teacher(run.split.train)).nnz == 0
    mixed, _ = make_pairs(run, run.split, with_lora(run, teacher="ease", pairs=KINDS))
    assert mixed.teacher is not None


def test_a_teacher_that_would_take_too_long_is_refused(run, monkeypatch):
    monkeypatch.setattr(training, "MOST_TAUGHT", 5)
    lora = with_lora(run, teacher="ease", pairs=["text", "co-interaction"])
    with pytest.raises(ConfigError, match=r"at most 5 items with training events, and there are \d+; set it to"):
        make_pairs(run, run.split, lora)
    make_pairs(run, run.split, lora.replace(pairs=["text"]))


def test_a_leak_is_no_kind_of_pairs_that_may_be_left_out(run, monkeypatch):
    split = run.split
    monkeypatch.setattr(training, "held_out_of", lambda *_: split.train.where(np.arange(len(split.train)) < 2))
    with pytest.raises(DataError, match="2 training events stand in validation or test"):
        make_pairs(run, split, with_lora(run, pairs=["text", "co-interaction"]))


def test_all_that_is_held_out_counts(run):
    assert len(held_out_of(run, run.split)) == len(run.split.validation) + len(run.split.test)


def test_the_stage_is_made_from_the_settings_that_matter_to_it(run):
    def made_from(*overrides):
        return Workspace(run.config.overridden(overrides)).fingerprint("finetune")

    assert made_from() == made_from("graph.relations=['brand']") == made_from("lora.checkpoints=1")
    assert made_from() != made_from("lora.balance=0.9")
    ties = "lora.pairs=['attribute']"
    assert made_from(ties) != made_from(ties, "graph.relations=['brand']")


def test_the_watch_measures_what_the_guard_measures(run, encoder):
    texts = run.item_text.texts(run.catalog)
    measured = watch_ranking(run.split, texts, 128)(encoder)
    verdict = judge_encoders({"base": Look(encoder.encode(texts))}, run.split, n_bootstrap=0)
    assert measured == pytest.approx({s: verdict.report.value("base", s) for s in verdict.segments}, abs=1e-6)


def test_the_watch_is_cheap_on_much_data_and_the_same_each_time(run, encoder, monkeypatch):
    monkeypatch.setattr(training, "MOST_PEOPLE", 10)
    monkeypatch.setattr(training, "MOST_ITEMS", 20)
    asked = []
    monkeypatch.setattr(
        Encoder,
        "encode",
        lambda self, texts, **_: asked.append((self.max_tokens, len(texts))) or np.eye(len(texts), 384, dtype="f4"),
    )
    watch = watch_ranking(run.split, run.item_text.texts(run.catalog), 16, seed=3)
    assert watch(encoder) == watch(encoder) and asked == [(16, 20), (16, 20)]


# ---- the encoder before pre-training


@pytest.fixture(scope="module")
def world():
    """Two shelves of four items; each person keeps to one, and the last item of it is held out."""
    from llm_tail.data.splits import Split

    items = IdMap([f"{shelf}{n}" for shelf in "ab" for n in range(4)], "item")
    train = [(f"u{p}", f"{'ab'[p % 2]}{n}") for p in range(8) for n in range(4) if n != p // 2]
    held = [(f"u{p}", f"{'ab'[p % 2]}{p // 2}") for p in range(8)]
    parts = [Interactions.from_pairs(part, items=items) for part in (train, held)]
    return Split.from_parts(*parts, catalog=items)


def look(world, right):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(world.items), 6))
    shelf = np.array([item[0] == "a" for item in world.items])
    vectors[:, 0] = np.where(shelf, right, -right)
    return Look((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4"))


def test_what_only_stands_beside_is_never_kept_and_is_said_to_be_better(world):
    looks = {"base": look(world, 0.0), "source": look(world, 9.0), "50%": look(world, 0.7)}
    verdict = judge_encoders(looks, world, shown=["source"], n_bootstrap=0)
    assert verdict.kept in ("base", "50%") and verdict.labels == ("base", "source", "50%")
    assert "pre-training did harm: source, the encoder before it, is not beaten" in str(verdict)
    looks["50%"], looks["source"] = looks["source"], looks["50%"]
    verdict = judge_encoders(looks, world, shown=["source"], n_bootstrap=0)
    assert verdict.kept == "50%" and "harm" not in str(verdict)


# ---- several processes


@pytest.mark.slow  # two more starts of torch; that two processes learn what one does is held in tests/embedding
@pytest.mark.timeout(120)
def test_two_processes_make_what_one_makes_and_one_of_them_speaks(tmp_path):
    settings = ["lora.enabled=true", "lora.n_pairs=32", "lora.batch_size=16", "lora.validations=1", "lora.rank=2"]
    settings += ["lora.strengths=[1.0]", "encoder.precision=fp32", "encoder.device=cpu"]
    words = [word for setting in settings for word in ("--set", setting)]
    alone = Workspace.open(shop.write(tmp_path / "alone"), settings)
    alone.run_stage("finetune")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "llm_tail"]
    config = shop.write(tmp_path / "both")
    done = subprocess.run([*launch, "finetune", config, *words, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "finetune"
    one, two = (
        read_manifest(folder / "run" / "encoder")["facts"] for folder in (tmp_path / "alone", tmp_path / "both")
    )
    assert two["validation_ndcg"]["100%"] == pytest.approx(one["validation_ndcg"]["100%"], abs=1e-3)


def test_hard_negatives_come_from_the_index():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 8)).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    exact = nearest_blocks(base[:20], base, 5)
    for config in (IndexConfig(), IndexConfig(exact_below=10, ef=300)):
        rows, cosines = training.index_search(config)(base[:20], base, 5)
        np.testing.assert_array_equal(rows, exact[0])
        np.testing.assert_allclose(cosines, exact[1], atol=1e-5)


def test_what_is_watched_may_be_recall(run, encoder):
    texts = run.item_text.texts(run.catalog)
    found = {m: watch_ranking(run.split, texts, 32, metric=m)(encoder) for m in ("ndcg", "recall")}
    assert found["ndcg"].keys() == found["recall"].keys() and found["ndcg"] != found["recall"]
