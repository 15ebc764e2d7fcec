import numpy as np
import pytest
import scipy.sparse as sp
import torch

from llm_tail.recommenders.coldnets import ContrastiveNet, EncodedTable, PreferenceNet
from llm_tail.recommenders.drawing import PeopleBatches
from llm_tail.recommenders.nets import HistoryNet, ItemTable, optimizers
from llm_tail.recommenders.transformer import SequenceEncoder, SequenceNet

RNG = np.random.default_rng(0)
TAKEN = sp.csr_matrix(np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 1, 0]], dtype=np.float32))
VECTORS = RNG.standard_normal((5, 3)).astype(np.float32)
WORDS = sp.csr_matrix(np.array([[1, 0], [0.5, 0.5], [0, 0], [0, 1], [0, 2]], dtype=np.float32))


def one_batch(n_negatives=10):
    return next(PeopleBatches(TAKEN, n_negatives=n_negatives).epoch(np.random.default_rng(0)))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


# ---- tables


def test_an_item_is_the_sum_of_its_parts():
    table = ItemTable(5, 4, vectors=VECTORS, words=WORDS)
    own, turn, words = table.own.weight, table.turn, table.words.weight
    wanted = own + torch.from_numpy(VECTORS) @ turn + torch.from_numpy(WORDS.toarray()) @ words
    rows = torch.tensor([3, 0, 3])
    torch.testing.assert_close(table(rows), wanted[rows])
    np.testing.assert_allclose(table.all(), wanted.detach().numpy(), rtol=1e-5, atol=1e-6)
    hidden = table(rows, torch.tensor([True, False, False]))
    torch.testing.assert_close(hidden, wanted[rows] - own[rows] * torch.tensor([[1.0], [0.0], [0.0]]))


def test_a_table_may_be_of_texts_alone_or_of_ids_alone():
    only_text = ItemTable(5, 4, vectors=VECTORS, ids=False)
    np.testing.assert_allclose(only_text.all(), VECTORS @ only_text.turn.detach().numpy(), rtol=1e-5, atol=1e-6)
    ids = ItemTable(5, 4)
    ids.clear(np.array([1, 4]))
    assert not ids.all()[[1, 4]].any()
    assert ids.all()[[0, 2, 3]].all()


def test_cold_items_are_encoded_and_warm_ones_are_not():
    cold = np.array([False, True, False, False, True])
    table = EncodedTable(VECTORS, cold, factors=4, hidden=6)
    found, encoded = table.all(), table.encode(torch.arange(5)).detach().numpy()
    np.testing.assert_allclose(found[cold], encoded[cold], rtol=1e-5)
    np.testing.assert_allclose(found[~cold], table.own.weight.detach().numpy()[~cold], rtol=1e-5)
    pretended = table(torch.arange(5), torch.tensor([True, False, False, False, False])).detach().numpy()
    np.testing.assert_allclose(pretended[0], encoded[0], rtol=1e-5)


def test_a_contrast_is_small_where_texts_tell_which_item_it_is():
    table = EncodedTable(np.eye(5, dtype=np.float32), np.zeros(5, dtype=bool), factors=5, hidden=5)
    rows = torch.arange(5)
    with torch.no_grad():
        table.own.weight[:] = table.encode(rows)
        same = table.contrast(rows, 0.05)
        table.own.weight[:] = table.encode(rows).roll(1, dims=0)
        assert same < table.contrast(rows, 0.05)


# ---- people are what they took


def by_hand(net, power):
    """Return the loss of the exact softmax, written out."""
    x, y, b = net.taken.all(), net.shown.all(), net.bias.weight.detach().numpy()[:, 0]
    losses = []
    for row in TAKEN:
        for item in row.indices:
            rest = [j for j in row.indices if j != item]
            query = x[rest].sum(axis=0) / max(1, len(rest)) ** power
            scores = y @ query + b
            others = [j for j in range(4) if j not in row.indices]  # 4 is cold
            losses.append(np.log(np.exp(scores[[item, *others]]).sum()) - scores[item])
    return np.mean(losses)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_loss_by_hand(power):
    net = HistoryNet(ItemTable(5, 4, spread=1.0), ItemTable(5, 4, vectors=VECTORS), power=power)
    with torch.no_grad():
        net.bias.weight[:] = torch.randn(5, 1)
    assert net(one_batch()).item() == pytest.approx(by_hand(net, power), rel=1e-4)


def test_sampled_losses_are_near_the_exact_one():
    net = HistoryNet(ItemTable(5, 4), ItemTable(5, 4))
    exact = net(one_batch()).item()
    drawn, rng = PeopleBatches(TAKEN, n_negatives=3), np.random.default_rng(0)
    sampled = [net(next(drawn.epoch(rng))).item() for _ in range(300)]
    assert np.mean(sampled) == pytest.approx(exact, abs=0.15)  # below it by what the log of a mean is above its mean


def test_penalty_and_dropout_are_of_training_only():
    net = HistoryNet(ItemTable(5, 4, spread=1.0), ItemTable(5, 4, spread=1.0), dropout=0.5, own_dropout=0.5)
    net.eval()
    assert net(one_batch()) == net(one_batch())
    net.train()
    assert len({net(one_batch()).item() for _ in range(10)}) > 3
    net.eval()
    plain = net(one_batch())
    net.regularization = 0.1
    assert net(one_batch()) > plain


def test_a_person_with_nothing_that_competes_teaches_nothing_and_breaks_nothing():
    everything = sp.csr_matrix(np.ones((1, 3), dtype=np.float32))
    net = HistoryNet(ItemTable(3, 2), ItemTable(3, 2))
    loss = net(next(PeopleBatches(everything).epoch(np.random.default_rng(0))))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(net.shown.own.weight.grad.to_dense()).all()


def test_features_start_alike_in_both_tables():
    net = HistoryNet(*(ItemTable(5, 4, vectors=VECTORS, words=WORDS) for _ in range(2)))
    net.start_alike()
    torch.testing.assert_close(net.taken.turn, net.shown.turn)
    torch.testing.assert_close(net.taken.words.weight, net.shown.words.weight)
    assert not torch.equal(net.taken.own.weight, net.shown.own.weight)


def test_cold_items_share_one_bias():
    net = HistoryNet(ItemTable(3, 2), ItemTable(3, 2))
    with torch.no_grad():
        net.bias.weight[:] = torch.tensor([[1.0], [3.0], [9.0]])
        net.cold_bias.fill_(-5.0)
    cold = np.array([False, False, True])
    assert net.arrays(cold)["bias"].tolist() == [1.0, 3.0, 2.0]  # the mean of the others: none was learned
    net.own_dropout = 0.3
    assert net.arrays(cold)["bias"].tolist() == [1.0, 3.0, -5.0]


def test_tables_go_to_one_optimizer_and_the_rest_to_another():
    net = ContrastiveNet(
        *(EncodedTable(VECTORS, np.zeros(5, dtype=bool), 4, 6) for _ in range(2)), contrast=0.5, temperature=0.2
    )
    adagrad, adam = optimizers(net, 0.1)
    tables = {id(p) for p in adagrad.param_groups[0]["params"]}
    assert tables == {id(p) for p in (net.taken.own.weight, net.shown.own.weight, net.bias.weight)}
    both = tables | {id(p) for p in adam.param_groups[0]["params"]}
    assert both == {id(p) for p in net.parameters()}


def test_a_preference_net_gives_its_arrays_away():
    net = PreferenceNet(factors=2, dim=3, hidden=4, width=5)
    people, liked = (RNG.standard_normal((n, 2)).astype(np.float32) for n in (3, 5))
    arrays = net.arrays(liked, VECTORS, block=2)
    hidden = np.tanh(people @ arrays["person.0.weight"].T + arrays["person.0.bias"])
    mine = (hidden @ arrays["person.2.weight"].T + arrays["person.2.bias"]) @ arrays["item_vectors"].T
    theirs = net(*(torch.from_numpy(a) for a in (people, liked, VECTORS))).detach().numpy()
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


# ---- sequences


@pytest.fixture
def encoder():
    return SequenceEncoder(factors=4, max_length=8, n_blocks=2, n_heads=2, dropout=0.1).eval()


def test_no_place_looks_ahead(encoder):
    items, there = torch.randn(1, 5, 4), torch.ones(1, 5, dtype=torch.bool)
    before = encoder(items, there)
    items[0, 3] += 10.0
    after = encoder(items, there)
    torch.testing.assert_close(before[:, :4], after[:, :4])  # place 4 is what item 3 went into
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_what_fills_up_says_nothing(encoder):
    items = torch.randn(2, 5, 4)
    there = torch.tensor([[False, False, True, True, True], [True] * 5])
    alone = encoder(items[:1, 2:], there[:1, 2:])
    together = encoder(items, there)
    torch.testing.assert_close(together[:1, 2:], alone, rtol=1e-4, atol=1e-5)
    items[0, :2] = 100.0
    torch.testing.assert_close(encoder(items, there)[:1, 2:], alone, rtol=1e-4, atol=1e-5)


def test_an_empty_sequence_is_its_start(encoder):
    nothing = encoder(torch.randn(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool))[:, -1]
    torch.testing.assert_close(nothing, encoder(torch.zeros(1, 0, 4), torch.ones(1, 0, dtype=torch.bool))[:, -1])


def test_one_head_of_attention_by_hand(encoder):
    block = encoder.blocks[0]
    block.n_heads = 1
    x = torch.randn(1, 3, 4)
    query, key, value = (x[0] @ w.T for w in block.project.weight.chunk(3))
    logits = query @ key.T / 2.0  # the root of 4
    logits[torch.ones(3, 3, dtype=torch.bool).triu(1)] = -torch.inf
    seen = torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(block.attend(x, seen)[0], logits.softmax(dim=1) @ value, rtol=1e-4, atol=1e-5)


def test_each_event_is_foretold_from_those_before_it(encoder):
    net = SequenceNet(ItemTable(5, 4, spread=1.0), encoder).eval()
    with torch.no_grad():
        encoder.places.zero_()  # else the same items would stand at other places
        encoder.start.normal_()
    batch, losses = one_batch(), []
    for person in range(batch.n_people):
        items = batch.items[batch.person == person]
        for n, item in enumerate(items):
            before = net.table(torch.from_numpy(items[:n]))[None]
            query = encoder(before, torch.ones(1, n, dtype=torch.bool))[0, -1]
            scores = net.table(torch.arange(4)) @ query
            others = [j for j in range(4) if j not in items]
            losses.append((scores[[item, *others]].logsumexp(0) - scores[item]).item())
    assert net(batch).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_place_of_the_answer_is_one_that_was_trained(encoder):
    net = SequenceNet(ItemTable(5, 4), encoder)
    net(one_batch()).backward()
    assert encoder.places.grad[-1].abs().sum() > 0
