import numpy as np
import pytest
import torch

from llm_tail.data.catalog import Catalog
from llm_tail.embedding.batching import BatchPlanner, _thinned
from llm_tail.embedding.losses import staying_true
from llm_tail.embedding.pairs import TextPairs
from tests.embedding.test_finetune import KITCHEN, SEA, SMALL, TEXTS, make_pairs

WORDY = ["the whale sea ship captain hunts novel book", "iron kitchen pan fries egg cook steel of a"]


def planner(decoder, pairs=None, *, seed=0, **more):
    return BatchPlanner(pairs or make_pairs(40), decoder, SMALL.replace(centre=False, **more), seed)


def test_every_pair_once_an_epoch_in_batches_of_one_kind(decoder):
    kinds = np.repeat(np.array([0, 1, 3], np.int8), [20, 17, 1])
    made = make_pairs(38)
    pairs = TextPairs(made.anchors, made.positives, TEXTS, made.log_popularity, kinds=kinds)
    plans = planner(decoder, pairs, epochs=3)
    seen = np.concatenate(plans.batches)
    assert len(plans) == 3 * (2 + 2) and {len(batch) for batch in plans.batches} == {8}
    assert all(len(set(kinds[batch])) == 1 for batch in plans.batches)
    per_epoch = seen.reshape(3, -1)
    assert all(len(set(epoch)) == len(epoch) for epoch in per_epoch)
    assert 37 not in seen  # a pair alone of its kind has nothing to be told apart from
    other = planner(decoder, pairs, epochs=3, seed=1)
    assert not np.array_equal(seen, np.concatenate(other.batches))


def test_a_plan_names_each_text_once(decoder):
    plans = planner(decoder)
    for step in range(len(plans)):
        plan = plans.plan(step)
        assert plans[step] == {"step": step}
        np.testing.assert_array_equal(plan.texts[plan.anchors], plans.pairs.anchors[plan.pairs])
        np.testing.assert_array_equal(plan.texts[plan.positives], plans.pairs.positives[plan.pairs])
        assert (np.diff(plan.texts) > 0).all()
        assert not set(plan.negatives) & {*plan.anchors, *plan.positives}  # the others that somebody took
        assert np.diff(plans.pairs.readers.indptr)[plan.texts[plan.negatives]].all()


def test_the_others_are_negatives_of_pairs_that_people_made_alone(decoder):
    plans = planner(decoder)
    assert any(len(plans.plan(step).negatives) for step in range(len(plans)))
    for off in ({"others_apart": False}, {"others": 0}, {"loss": "multiple-negatives"}):
        plans = planner(decoder, **off)
        assert not any(len(plans.plan(step).negatives) for step in range(len(plans)))


def batch_of(plans, step=0):
    plan = plans.plan(step)
    vectors = torch.from_numpy(plans.base.encode([plans.pairs.texts[row] for row in plan.texts]))
    return plan, plans.batch(plan, vectors)


def sides(plans, plan):
    return plans.pairs.anchors[plan.pairs], plans.pairs.positives[plan.pairs]


def test_the_mean_is_that_of_the_items(decoder):
    pairs = TextPairs([8], [9], [*TEXTS, "iron ship", "egg whale"], np.zeros(10), n_items=8)
    plans = BatchPlanner(pairs, decoder, SMALL.replace(centre=True), 0)
    np.testing.assert_allclose(plans.mean, decoder.encode(TEXTS).mean(axis=0), atol=1e-3)


def test_masks(decoder):
    plans = planner(decoder, soft_labels=0.0, false_negatives="none", others_apart=False)
    plan, batch = batch_of(plans)
    anchors, positives = sides(plans, plan)
    expected = (anchors[:, None] == positives) | (positives[:, None] == positives)
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(batch.masked.numpy(), expected)
    assert batch.targets is None and batch.negatives is None
    together = planner(decoder, soft_labels=0.0, false_negatives="together")
    plan, batch = batch_of(together)
    expected |= together.pairs.together(anchors, positives)
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(batch.masked.numpy(), expected)
    # soft labels say what each candidate is: the anchor alone is out
    soft = planner(decoder, soft_labels=1.0, false_negatives="none")
    _, batch = batch_of(soft)
    np.testing.assert_array_equal(batch.masked.numpy(), anchors[:, None] == positives)
    np.testing.assert_allclose(batch.targets, soft.pairs.strengths_between(anchors, positives))
    assert (batch.targets.diagonal() > 0).all()


def test_with_soft_labels_nothing_is_left_out_that_they_speak_of(decoder):
    """Masked by `together`, nothing but the diagonal would be left of the target."""
    plain, together = (
        batch_of(planner(decoder, soft_labels=1.0, false_negatives=setting))[1] for setting in ("none", "together")
    )
    assert torch.equal(plain.masked, together.masked)
    assert ((together.targets > 0) & ~together.masked).sum() > len(together.targets)


@pytest.mark.parametrize("soft", [0.0, 1.0])
def test_hard_negatives_that_are_positives_of_the_anchor_in_other_rows_are_masked(decoder, soft):
    plans = planner(decoder, soft_labels=soft, false_negatives="none", hard_negatives=1, negative_margin=2.0)
    plans.negatives = np.tile(np.arange(8), 5)[:, None]  # every text is a negative of someone
    plan, batch = batch_of(plans)
    anchors, positives = sides(plans, plan)
    hard = plan.texts[plan.negatives]
    expected = plans.pairs.together(anchors, hard) | (positives[:, None] == hard) | (anchors[:, None] == hard)
    np.testing.assert_array_equal(batch.masked_negatives.numpy(), expected)
    assert expected.any() and not expected.all()


@pytest.mark.parametrize("soft", [0.0, 1.0])
def test_equal_texts_are_no_negatives_of_each_other(decoder, soft):
    texts = [*SEA, *SEA]  # rows 4 to 7 say what 0 to 3 say
    pairs = TextPairs([0, 2, 4], [1, 5, 3], texts, np.zeros(8))
    plan, batch = batch_of(planner(decoder, pairs, soft_labels=soft, false_negatives="none"))
    words = [[texts[row] for row in side] for side in sides(planner(decoder, pairs), plan)]
    same = np.array([[p in (a, own) for p in words[1]] for a, own in zip(*words, strict=True)])
    np.fill_diagonal(same, False)
    assert same.sum() == 2  # 1 and 5
    np.testing.assert_array_equal(batch.masked.numpy(), same)


def test_other_losses_do_not_hear_soft_labels(decoder):
    hard = batch_of(planner(decoder, soft_labels=0.0, false_negatives="none"))[1]
    for loss in ("squared-error", "multiple-negatives"):
        batch = batch_of(planner(decoder, loss=loss, soft_labels=1.0, false_negatives="none"))[1]
        assert batch.targets is None and torch.equal(batch.masked, hard.masked)


def test_nearer_than_the_positive_by_the_base_is_no_negative(decoder):
    plans = planner(decoder, soft_labels=1.0, false_negatives="similar")
    plan, batch = batch_of(plans)
    anchors, positives = sides(plans, plan)
    vectors = decoder.encode(TEXTS)
    near = vectors[anchors] @ vectors[positives].T
    clear = np.abs(near - near.diagonal()[:, None]) > 2e-3  # the guide is in half precision
    expected = (near > near.diagonal()[:, None]) | (anchors[:, None] == positives)
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(batch.masked.numpy()[clear], expected[clear])


def test_hard_negatives_stand_in_the_plan_and_are_made_anew_half_way(decoder):
    plans = planner(decoder, hard_negatives=2, negative_ranks=(1, 8), negative_margin=2.0)
    plan, batch = batch_of(plans)
    wanted = np.unique(plans.negatives[plan.pairs])
    np.testing.assert_array_equal(plan.texts[plan.negatives], wanted[wanted >= 0])
    assert len(batch.negatives) == len(plan.negatives) == batch.masked_negatives.shape[1] > 0
    anchors, positives = sides(plans, plan)
    hard = plan.texts[plan.negatives]
    assert batch.masked_negatives.numpy()[anchors[:, None] == hard].all()
    assert batch.masked_negatives.numpy()[positives[:, None] == hard].all()
    before = plans.negatives
    for step in (0, 1, 3):
        plans.renew(step, decoder)
        assert plans.negatives is before
    plans.renew(len(plans) // 2, decoder)
    assert plans.negatives is not before and not np.array_equal(plans.negatives, before)


def test_negatives_survive_on_disk(decoder, tmp_path):
    options = {"hard_negatives": 2, "negative_ranks": (1, 8), "negative_margin": 2.0}
    first, second = (planner(decoder, seed=seed, **options) for seed in (0, 1))
    first.save(tmp_path)
    second.load(tmp_path)
    np.testing.assert_array_equal(first.negatives, second.negatives)
    plain = planner(decoder)
    plain.save(tmp_path / "nowhere")  # there is nothing to write
    plain.load(tmp_path / "nowhere")


# ---- staying true to the base


def test_the_base_is_asked_once_before_the_first_step_and_for_what_training_sees(decoder, monkeypatch):
    texts = [" ".join([*TEXTS[i:], *TEXTS[:i]]) for i in range(8)]  # far above 8 tokens
    pairs = TextPairs([0, 2, 4, 6], [1, 3, 5, 1], texts, np.zeros(8))
    plans = planner(decoder, pairs, keep=0.3, others=2, max_tokens=8, batch_size=2, epochs=3)
    monkeypatch.delattr(type(decoder), "encode")
    for step in (5, 0, 3):  # in any order
        plan = plans.plan(step)
        with torch.no_grad():
            now = decoder.forward(plans.tokens(plan, step))
        before = plans.batch(plan, now).before
        torch.testing.assert_close(before, now, atol=1e-3, rtol=0)
        kept = staying_true(lambda batch: batch.anchors.sum() * 0, 1.0, 0.1)
        assert float(kept(plans.batch(plan, now))) == pytest.approx(0, abs=1e-4)


def test_no_base_vectors_where_nothing_is_kept(decoder):
    plans = planner(decoder, keep=0.0)
    assert not hasattr(plans, "_base_vectors") and batch_of(plans)[1].before is None


# ---- augmentation


def wordy_pairs():
    return TextPairs([0, 1], [1, 0], WORDY, np.zeros(2))


def test_word_dropout_keeps_the_first_and_the_last_token():
    rng = np.random.default_rng(0)
    kept = [_thinned(list(range(50)), 0.5, rng) for _ in range(20)]
    assert all(text[0] == 0 and text[-1] == 49 and text == sorted(text) for text in kept)
    assert 0.4 < np.mean([len(text) for text in kept]) / 50 < 0.6
    assert _thinned([7], 0.9, rng) == [7] and _thinned([7, 8], 0.9, rng) == [7, 8] and _thinned([], 0.9, rng) == []


def test_word_dropout_depends_on_seed_and_step_alone(decoder):
    whole = planner(decoder, wordy_pairs(), batch_size=2)
    plans = planner(decoder, wordy_pairs(), batch_size=2, word_dropout=0.5)
    plan = plans.plan(0)
    again = planner(decoder, wordy_pairs(), batch_size=2, word_dropout=0.5)
    assert plans.tokens(plan, 3) == again.tokens(plan, 3)
    assert plans.tokens(plan, 3) != plans.tokens(plan, 4)
    for thin, full in zip(plans.tokens(plan, 3), whole.tokens(plan, 3), strict=True):
        assert len(thin) < len(full) and thin[0] == full[0] and thin[-1] == full[-1]


def test_texts_are_cut_for_training(decoder):
    plans = planner(decoder, wordy_pairs(), max_tokens=8)
    assert {len(text) for text in plans.tokens(plans.plan(0), 0)} == {8}


def test_field_dropout_shows_some_fields_of_a_share_of_the_texts(decoder):
    items = [
        {"item_id": str(i), "title": a, "description": b} for i, (a, b) in enumerate(zip(SEA, KITCHEN, strict=True))
    ]
    catalog = Catalog.from_items([*items, {"item_id": "4", "title": "egg"}])
    texts = [*(f"{a}. {b}" for a, b in zip(SEA, KITCHEN, strict=True)), "egg"]
    pairs = TextPairs([0, 2, 4], [1, 3, 0], texts, np.zeros(5)).with_fields(catalog)
    plans = planner(decoder, pairs, field_dropout=1.0)
    plan = plans.plan(0)
    parts = {tuple(t) for t in decoder.tokenize([*SEA, *KITCHEN, "egg"])}
    seen = set()
    for step in range(10):
        tokens = plans.tokens(plan, step)
        assert {tuple(t) for t in tokens} <= parts and tokens == plans.tokens(plan, step)
        seen |= {tuple(t) for t in tokens}
    assert seen == parts  # the title alone, and the description alone; a text of one field stays
    half = planner(decoder, pairs, field_dropout=0.5)
    whole = decoder.tokenize(texts[:4])
    shares = [sum(t in whole for t in half.tokens(plan, step)) / 4 for step in range(40)]
    assert 0.35 < np.mean(shares) < 0.65
