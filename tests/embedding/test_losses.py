from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.nn.functional import normalize

from llm_tail.config import LoraConfig
from llm_tail.embedding.losses import (
    Contrastive,
    MultipleNegatives,
    PairBatch,
    SquaredError,
    adversarial,
    make_loss,
    matryoshka,
    staying_true,
)

EYE = torch.eye(2)
NONE = torch.zeros(2, 2, dtype=torch.bool)
ZERO = (torch.zeros(2), torch.zeros(2))
PLAIN = PairBatch(EYE, EYE, NONE, ZERO)
HARD = Contrastive(temperature=1.0, popularity_correction=1.0)


def random_batch(n=5, dim=16, seed=0, n_negatives=3, **more):
    rng = torch.Generator().manual_seed(seed)
    anchors, positives, negatives = (
        normalize(torch.randn(m, dim, generator=rng), dim=1).requires_grad_() for m in (n, n, n_negatives)
    )
    masked = (torch.rand(n, n, generator=rng) < 0.3) & ~torch.eye(n, dtype=torch.bool)
    logs = -torch.rand(2, n, generator=rng)
    return PairBatch(anchors, positives, masked, (logs[0], logs[1]), negatives=negatives, **more)


# ---- by hand


def test_the_loss_by_hand():
    # logits are the identity: -log(e / (e + 1)) in each line, both ways
    assert float(HARD(PLAIN)) == pytest.approx(np.log(np.e + 1) - 1)
    # whoever is masked is no candidate
    assert float(HARD(replace(PLAIN, masked=~torch.eye(2, dtype=torch.bool)))) == pytest.approx(0.0)
    # subtracting log 2 from the second candidate halves its mass
    halved = (torch.tensor([0.0, np.log(2)]), torch.tensor([0.0, np.log(2)]))
    by_hand = (np.log(1 + 0.5 / np.e) + np.log(1 + 1 / (np.e / 2))) / 2
    assert float(HARD(replace(PLAIN, popularity=halved))) == pytest.approx(by_hand)
    half = Contrastive(temperature=1.0, popularity_correction=0.5)
    by_hand = (np.log(1 + 0.5**0.5 / np.e) + np.log(1 + 1 / (np.e / 2**0.5))) / 2
    assert float(half(replace(PLAIN, popularity=halved))) == pytest.approx(by_hand)


def test_one_side_is_masked_by_hand():
    masked = torch.tensor([[False, True], [False, False]])  # the second positive is no negative of the first anchor
    # forth: 0 and log(1 + 1/e); back, where the second positive looks for its anchor without the first: 0 as well
    assert float(HARD(replace(PLAIN, masked=masked))) == pytest.approx(np.log(1 + 1 / np.e) / 2)


def test_hard_negatives_by_hand():
    one = replace(PLAIN, negatives=torch.tensor([[1.0, 0.0]]))
    forth = (np.log(2 * np.e + 1) - 1 + np.log(np.e + 2) - 1) / 2
    assert float(HARD(one)) == pytest.approx((forth + np.log(np.e + 1) - 1) / 2)
    rare = replace(one, negative_popularity=torch.tensor([-np.log(2)]))  # counts twice
    forth = (np.log(3 * np.e + 1) - 1 + np.log(np.e + 3) - 1) / 2
    assert float(HARD(rare)) == pytest.approx((forth + np.log(np.e + 1) - 1) / 2)
    out = replace(one, masked_negatives=torch.ones(2, 1, dtype=torch.bool))
    assert float(HARD(out)) == pytest.approx(float(HARD(PLAIN)))
    none = replace(PLAIN, negatives=torch.zeros(0, 2))
    assert float(HARD(none)) == pytest.approx(float(HARD(PLAIN)))


# ---- soft labels


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_soft_target_that_is_the_drawn_pair_gives_the_hard_loss(share):
    batch = random_batch()
    hard = Contrastive(0.1, 0.5)(batch)
    soft = Contrastive(0.1, 0.5, share)
    for scale in (1.0, 7.0):  # rows are scaled to sum 1
        torch.testing.assert_close(soft(replace(batch, targets=scale * torch.eye(5))), hard)
    torch.testing.assert_close(soft(replace(batch, targets=torch.zeros(5, 5))), hard)  # nobody's word: the pair
    torch.testing.assert_close(soft(batch), hard)
    torch.testing.assert_close(Contrastive(0.1, 0.5, 0.0)(replace(batch, targets=torch.ones(5, 5))), hard)


def test_soft_labels_by_hand():
    even = replace(PLAIN, targets=torch.ones(2, 2))
    logs = np.log(np.e / (np.e + 1)), np.log(1 / (np.e + 1))
    assert float(Contrastive(1.0, 0.0, 1.0)(even)) == pytest.approx(-(logs[0] + logs[1]) / 2)
    assert float(Contrastive(1.0, 0.0, 0.5)(even)) == pytest.approx(-(0.75 * logs[0] + 0.25 * logs[1]))


def test_what_is_masked_leaves_its_share_to_the_others():
    batch, masked = random_batch(), torch.zeros(5, 5, dtype=torch.bool)
    masked[0, 1] = masked[3, 4] = True
    targets = torch.rand(5, 5) + 0.1
    loss = Contrastive(0.1, 0.0, 1.0)
    without = loss(replace(batch, masked=masked, targets=targets.masked_fill(masked, 0.0)))
    torch.testing.assert_close(loss(replace(batch, masked=masked, targets=targets)), without)
    even = replace(PLAIN, masked=torch.tensor([[False, True], [True, False]]), targets=torch.ones(2, 2))
    assert float(Contrastive(1.0, 0.0, 1.0)(even)) == pytest.approx(0.0)


def test_where_the_loss_is_least():
    """Soft: s = log w + b log q up to a constant of the row; checked by descent on free logits, one direction alone."""
    weight = torch.tensor([[3.0, 1.0, 2.0], [1.0, 4.0, 1.0], [2.0, 1.0, 5.0]])
    log_q, b = torch.tensor([-0.1, -1.0, -2.0]), 0.5
    logits = torch.zeros(3, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")
    soft = Contrastive(1.0, b, 1.0)

    def closure():
        optimizer.zero_grad()
        loss = soft._soft(logits - b * log_q, weight, torch.zeros(3, 3, dtype=torch.bool))
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = weight.log() + b * log_q
    apart = (logits.detach() - expected) - (logits.detach() - expected).mean(dim=1, keepdim=True)
    assert apart.abs().max() < 1e-2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["contrastive", "multiple-negatives", "squared-error"]), st.booleans())
def test_losses_and_gradients_are_finite_whatever_is_masked(seed, name, all_masked):
    rng = torch.Generator().manual_seed(seed)
    batch = random_batch(seed=seed, targets=torch.rand(5, 5, generator=rng) * (torch.rand(5, 5, generator=rng) < 0.5))
    hard = torch.rand(5, 3, generator=rng) < 0.5
    batch = replace(batch, masked_negatives=hard | all_masked)
    if all_masked:
        batch = replace(batch, masked=~torch.eye(5, dtype=torch.bool))
    loss = make_loss(LoraConfig(loss=name, soft_labels=0.7, matryoshka=[8], noise=0.1))(batch)
    loss.backward()
    assert 0 <= loss.item() < torch.inf
    for vectors in (batch.anchors, batch.positives, batch.negatives):
        assert vectors.grad is None or torch.isfinite(vectors.grad).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_the_order_of_pairs_does_not_matter(seed):
    batch = random_batch(seed=seed, targets=torch.rand(5, 5, generator=torch.Generator().manual_seed(seed)))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed + 1))
    turned = PairBatch(
        batch.anchors[order],
        batch.positives[order],
        batch.masked[order][:, order],
        (batch.popularity[0][order], batch.popularity[1][order]),
        negatives=batch.negatives,
        targets=batch.targets[order][:, order],
    )
    loss = Contrastive(0.1, 0.5, 0.5)
    torch.testing.assert_close(loss(turned), loss(batch))


# ---- the library's own


def test_multiple_negatives_is_that_of_sentence_transformers():
    batch = random_batch()
    theirs = MultipleNegativesRankingLoss(SentenceTransformer(modules=[torch.nn.Identity()], device="cpu"), scale=20.0)
    for negatives in (None, batch.negatives):  # any number of them
        vectors = [batch.anchors, batch.positives, *([] if negatives is None else [negatives])]
        expected = theirs.compute_loss_from_embeddings(vectors, torch.empty(0))
        torch.testing.assert_close(MultipleNegatives(0.05)(replace(batch, negatives=negatives)), expected)
    torch.testing.assert_close(
        MultipleNegatives(1.0)(PLAIN), torch.nn.functional.cross_entropy(torch.eye(2), torch.arange(2))
    )


def test_squared_error_by_hand():
    # cosines of the pairs are 1, of what is met across the batch 0
    assert float(SquaredError()(PLAIN)) == pytest.approx(0.0)
    assert float(SquaredError()(replace(PLAIN, strengths=torch.tensor([0.5, 1.0])))) == pytest.approx(0.25 / 4)
    across = replace(PLAIN, positives=torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    # pairs (1 to be 1, 0 to be 1), across (1 to be 0, 0 to be 0)
    assert float(SquaredError()(across)) == pytest.approx(2 / 4)
    known = replace(across, masked=torch.tensor([[False, True], [False, False]]))  # the first anchor's is not unknown
    assert float(SquaredError()(known)) == pytest.approx(1 / 3)
    one = PairBatch(EYE[:1], EYE[:1], NONE[:1, :1], (torch.zeros(1), torch.zeros(1)))
    assert float(SquaredError()(one)) == pytest.approx(0.0)


# ---- around a loss


def test_matryoshka_is_the_mean_over_the_cuts():
    batch, loss = random_batch(), Contrastive(0.1)
    cut = replace(
        batch,
        anchors=normalize(batch.anchors[:, :8], dim=1),
        positives=normalize(batch.positives[:, :8], dim=1),
        negatives=normalize(batch.negatives[:, :8], dim=1),
    )
    torch.testing.assert_close(matryoshka(loss, [8])(batch), (loss(batch) + loss(cut)) / 2)
    torch.testing.assert_close(matryoshka(loss, [16, 99])(batch), loss(batch))  # nothing is cut there


def test_noise_raises_the_loss():
    batch, loss = random_batch(), Contrastive(0.1)
    plain, *noisy = (adversarial(loss, size)(batch).item() for size in (0.0, 0.05, 0.2))
    assert plain == pytest.approx(loss(batch).item())
    assert plain < noisy[0] < noisy[1]
    with torch.no_grad():
        assert float(adversarial(loss, 0.2)(batch)) == pytest.approx(plain)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("contrastive", Contrastive), ("multiple-negatives", MultipleNegatives), ("squared-error", SquaredError)],
)
def test_the_settings_choose_the_loss(name, kind):
    loss = make_loss(LoraConfig(loss=name, temperature=0.2, matryoshka=[], noise=0.0, keep=0.0))
    assert isinstance(loss, kind) and loss.temperature == 0.2


def test_staying_true_costs_nothing_where_nothing_moved_and_more_the_farther_it_did():
    generator = torch.Generator().manual_seed(0)
    before = normalize(torch.randn(6, 4, generator=generator), dim=1)
    away = normalize(torch.randn(6, 4, generator=generator), dim=1)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))

    def cost(now):
        batch = PairBatch(now[:2], now[2:4], torch.zeros(2, 2, dtype=torch.bool), (torch.zeros(2), torch.zeros(2)))
        batch = replace(batch, texts=now, before=before)
        return float(staying_true(lambda _: torch.tensor(1.0), 2.0, 0.1)(batch))

    half = normalize(before + 0.3 * away, dim=1)
    assert cost(before) == pytest.approx(1.0) and cost(before @ turn) == pytest.approx(1.0, abs=1e-5)
    assert 1.0 < cost(half) < cost(away)
    assert cost(before[:1].repeat(6, 1)) > 1.0
