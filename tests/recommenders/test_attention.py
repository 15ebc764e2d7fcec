import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.config import HybridConfig
from llm_tail.recommenders import learning
from llm_tail.recommenders.attention import NeighborAttention, Residual
from llm_tail.recommenders.collaborative import GramFitter
from llm_tail.recommenders.learning import Batch, Neighborhood, PretendCold, attend, learn_attention

from .shelf import N_WARM, Shelf


def ask(attention, items, neighbors, *, evidence=None, edges=None, mask=None):
    n, k = neighbors.shape[:2]
    zeros = torch.zeros(n, k)
    return attention(
        items,
        neighbors,
        zeros if evidence is None else evidence,
        torch.zeros(n, k, attention.relations.shape[1]) if edges is None else edges,
        torch.ones(n, k, dtype=torch.bool) if mask is None else mask,
    ).detach()


# ---- the module


def test_three_items_worked_out_by_hand():
    attention = NeighborAttention(dim=2, n_relations=1, rank=1, temperature=0.5, heads=1)
    with torch.no_grad():
        attention.query.down[0] = torch.tensor([[1.0], [0.0]])
        attention.query.up[0] = torch.tensor([[0.0, 1.0]])  # W_q: (x, y) -> (x, y + x)
        attention.evidence.fill_(0.25)
        attention.relations[:] = 2.0
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    neighbors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]).expand(3, 3, 2)
    evidence = torch.tensor([0.0, 4.0, 8.0]).expand(3, 3)
    edges = torch.tensor([[[1.0], [0.0], [0.0]], [[0.0], [0.0], [0.0]], [[0.0], [0.0], [1.0]]])
    mask = torch.tensor([[True, True, True], [True, False, True], [True, True, True]])
    logits = [  # query . key / 0.5 + 0.25 evidence + 2 edge; queries are (1, 1), (0, 1), (-1, -1)
        [2.0 + 0 + 2, 2.0 + 1 + 0, 2.8 + 2 + 0],
        [0.0 + 0 + 0, -math.inf, 1.6 + 2 + 0],
        [-2.0 + 0 + 0, -2.0 + 1 + 0, -2.8 + 2 + 2],
    ]
    wanted = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits]
    weights = ask(attention, items, neighbors, evidence=evidence, edges=edges, mask=mask)
    np.testing.assert_allclose(weights, wanted, rtol=1e-5)


def test_heads_are_averaged_by_what_each_has_to_say():
    attention = NeighborAttention(dim=2, rank=1, temperature=1.0, heads=2)
    with torch.no_grad():
        attention.log_temperature[1] = math.log(0.5)
        attention.evidence[1] = 1.0
        attention.say[0] = math.log(3.0)  # three quarters
    items, neighbors = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    weights = ask(attention, items, neighbors, evidence=torch.tensor([[0.0, 1.0]]))
    first, second = math.e / (math.e + 1), math.e**2 / (math.e**2 + math.e)
    np.testing.assert_allclose(weights[0, 0], 0.75 * first + 0.25 * second, rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.02, 2.0))
def test_untrained_it_is_the_softmax_of_cosines_over_temperature(seed, temperature):
    torch.manual_seed(seed)
    attention = NeighborAttention(dim=6, n_relations=2, temperature=temperature)
    items = torch.nn.functional.normalize(torch.randn(4, 6), dim=-1)
    neighbors = torch.nn.functional.normalize(torch.randn(4, 5, 6), dim=-1)
    weights = ask(attention, items, neighbors, evidence=torch.rand(4, 5), edges=torch.ones(4, 5, 2))
    logits = torch.einsum("nd,nkd->nk", items, neighbors) / temperature
    np.testing.assert_allclose(weights, logits.softmax(dim=-1), rtol=1e-4, atol=1e-6)


def test_products_without_moving_equal_products_with_the_moved():
    torch.manual_seed(0)
    moved = Residual(7, 3, heads=2)
    with torch.no_grad():
        moved.up[:] = torch.randn(2, 3, 7)
    query, x = torch.randn(4, 2, 7), torch.randn(4, 5, 7)
    wanted = torch.einsum("nhd,nkhd->nhk", query, moved(x.flatten(0, 1)).unflatten(0, (4, 5)))
    np.testing.assert_allclose(moved.dot(query, x).detach(), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_an_item_without_neighbors_has_no_weights_and_no_mad_gradient():
    attention = NeighborAttention(dim=3, n_relations=1)
    items, neighbors = torch.randn(2, 3), torch.randn(2, 4, 3)
    mask = torch.tensor([[False] * 4, [True, True, False, True]])
    weights = attention(items, neighbors, torch.rand(2, 4), torch.ones(2, 4, 1), mask)
    assert weights[0].tolist() == [0, 0, 0, 0]
    assert weights[1, 2] == 0
    assert weights[1].sum().item() == pytest.approx(1)
    (weights**2).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in attention.parameters())


def test_the_number_of_parameters_is_as_said():
    attention = NeighborAttention(dim=10, n_relations=3, rank=4, heads=5)
    assert sum(p.numel() for p in attention.parameters()) == 5 * (4 * 10 * 4 + 3 + 3)


# ---- neighbourhoods


def world(seed=0):
    shelf = Shelf(seed)
    vectors = shelf.embeddings.vectors - shelf.embeddings.vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return shelf, vectors, shelf.train.matrix(), shelf.train.counts()


def test_neighbors_are_the_nearest_warm_others():
    _, vectors, _, counts = world()
    vectors[3] = 0.0
    counts[5] = 0  # warm items are 0-4, 6-35
    warm = np.flatnonzero(counts > 0)
    tie = sp.csr_matrix((np.ones(1), ([0], [warm[7]])), shape=(len(vectors), len(vectors)))
    found = Neighborhood.find(vectors, counts, np.arange(len(vectors)), 40, [tie, None])
    cosines = vectors @ vectors.T
    for item in (0, 5, 40):
        others = [w for w in warm if w not in (item, 3)]
        wanted = sorted(others, key=lambda w, item=item: -cosines[item, w])
        there = found.rows[item] >= 0
        assert warm[found.rows[item][there]].tolist() == wanted
        np.testing.assert_allclose(found.evidence[item][there], np.log1p(counts[wanted]), rtol=1e-6)
    assert (found.rows[3] == -1).all()
    assert not found.evidence[found.rows < 0].any()
    tied = [np.argwhere(found.edges[:, :, n]).tolist() for n in (0, 1)]
    assert tied == [[[0, found.rows[0].tolist().index(7)]], []]


@pytest.mark.parametrize("at_once", [7, 4096])
def test_further_neighbors_are_the_nearest_that_the_graph_ties(monkeypatch, at_once):
    monkeypatch.setattr(learning, "TIED_AT_ONCE", at_once)
    monkeypatch.setattr(learning, "BLOCK_BYTES", 1000 * at_once)
    _, vectors, _, counts = world()
    vectors[3], counts[5] = 0.0, 0  # an item without text, and a cold one
    warm, n = np.flatnonzero(counts > 0), len(vectors)
    groups = [np.arange(n) % 3, np.arange(n) % 5]
    ties = [sp.csr_matrix(np.triu(g[:, None] == g, 1) * 0.5) for g in groups]
    ties = [tie + tie.T for tie in ties]
    found = Neighborhood.find(vectors, counts, np.arange(n), 4, [ties[0], None, ties[1]], 6)
    plain = Neighborhood.find(vectors, counts, np.arange(n), 4)
    np.testing.assert_array_equal(found.rows[:, :4], plain.rows)
    for item in range(n):
        near = set(warm[plain.rows[item][plain.rows[item] >= 0]])
        tied = [w for w in warm if w not in near | {item} and any(g[w] == g[item] for g in groups)]
        wanted = sorted(tied, key=lambda w, item=item: -(vectors[item] @ vectors[w]))[:6]
        further = found.rows[item, 4:]
        assert set(warm[further[further >= 0]]) == set(wanted) or item == 3  # which of equals, nobody knows
        assert (further >= 0).sum() == len(wanted)
        same = (groups[0][warm[further]] == groups[0][item]) & (further >= 0)
        np.testing.assert_array_equal(found.edges[item, 4:, 0] > 0, same)
    weights = attend(NeighborAttention(vectors.shape[1], 3), found, vectors, vectors[warm]).toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-5)  # who has no text borrows from what is tied to it


def test_ties_are_followed_where_there_are_more_pairs_than_an_int_counts(monkeypatch):
    n = 60_000
    monkeypatch.setattr(learning, "_nearest", lambda queries, base, k, itself: np.full((len(queries), k), -1))
    tie = sp.csr_matrix((np.ones(2), ([10, 59_990], [59_990, 10])), shape=(n, n))
    found = Neighborhood.find(np.ones((n, 2), np.float32), np.ones(n, dtype=np.int64), np.arange(n), 1, [tie], 1)
    assert np.argwhere(found.rows >= 0).tolist() == [[10, 1], [59_990, 1]]
    assert (found.rows[10, 1], found.rows[59_990, 1]) == (59_990, 10)


def test_attention_over_all_items_goes_in_blocks():
    _, vectors, _, counts = world()
    vectors[2] = 0.0
    found = Neighborhood.find(vectors, counts, np.arange(len(vectors)), 5)
    attention = NeighborAttention(vectors.shape[1])
    whole, parts = (attend(attention, found, vectors, vectors[counts > 0], block) for block in (2048, 5))
    np.testing.assert_allclose(whole.toarray(), parts.toarray(), atol=1e-6)
    sums = np.asarray(whole.sum(axis=1)).ravel()
    np.testing.assert_allclose(np.delete(sums, 2), 1, atol=1e-5)
    assert sums[2] == 0
    np.testing.assert_array_equal(np.diff(whole.indptr) > 0, np.arange(len(vectors)) != 2)
    logits = np.exp((vectors[0] @ vectors[found.rows[0]].T) / 0.05)
    np.testing.assert_allclose(whole[0].toarray()[0, found.rows[0]], logits / logits.sum(), rtol=1e-4)


# ---- learning


def task(seed=0, config=None, **changes):
    _, vectors, histories, counts = world()
    config = config or HybridConfig()
    parts = {
        "neighborhood": Neighborhood.find(vectors, counts, np.arange(len(vectors)), 5),
        "collaborative": GramFitter(histories, vectors, 10.0, 1000).fit(5.0, 5.0),
        "histories": histories,
        "vectors": vectors,
        "mass": 0.3,
        "config": config,
        "n_users": 1000,
        "rng": np.random.default_rng(seed),
    }
    return PretendCold(**(parts | changes)), parts | changes


def test_a_batch_is_what_the_hybrid_would_score():
    """Each score worked out from the history without the item that has to be found."""
    config = HybridConfig(gate=0.5, borrow=0.7, text_weight=0.2, thin_text_weight=0.4)
    pretend, parts = task(config=config)
    batch = pretend.draw(12, 30)
    n_pairs, n_candidates = batch.fixed.shape
    assert batch.theirs.shape == (n_pairs, n_candidates, 5)
    weights = torch.rand(n_candidates, 5)
    logits = batch.logits(weights, torch.tensor(2.0)).numpy()
    b = np.zeros((42, 42))
    b[:N_WARM, :N_WARM] = parts["collaborative"].weights
    vectors, counts = parts["vectors"], np.asarray(parts["histories"].sum(axis=0)).ravel()
    cold = batch.borrowed_share.numpy() == np.float32(config.borrow)  # pretended: nothing is trusted
    assert 0 < cold.sum() < n_candidates
    for pair in range(n_pairs):
        target = batch.items[batch.label[pair]]
        has = set(batch.items[batch.has[pair].numpy()])
        assert target not in has
        # who is it? the person whose other items are exactly those that are had
        people = [
            h
            for h in parts["histories"].toarray()
            if h[target] and set(np.flatnonzero(h)) & set(batch.items) - {target} == has
        ]
        fits = []
        for person in people:
            rest = person.copy()
            rest[target] = 0
            kernel = np.maximum(vectors @ vectors.T, 0) ** config.kernel_power
            np.fill_diagonal(kernel, 0)
            scores = []
            for c, item in enumerate(batch.items):
                g = 0.0 if cold[c] else counts[item] / (counts[item] + config.gate)
                borrowed = sum(
                    w * (rest @ b[:, j])
                    for w, j in zip(weights[c].numpy(), parts["neighborhood"].rows[item], strict=True)
                )
                t = config.text_weight + (1 - g) * config.borrow * config.thin_text_weight
                text = t * 0.3 * (rest @ kernel[:, item])
                scores.append(g * (rest @ b[:, item]) + (1 - g) * config.borrow * borrowed + text)
            shown = ~batch.has[pair].numpy()
            fits.append(np.allclose(2.0 * np.array(scores)[shown], logits[pair][shown], atol=1e-4))
        assert any(fits)
        assert np.isneginf(logits[pair][batch.has[pair].numpy()]).all()


def test_it_learns_and_is_the_same_for_the_same_seed():
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        attention, looked = NeighborAttention(12), []
        start = {name: p.detach().clone() for name, p in attention.named_parameters()}
        losses = learn_attention(
            attention,
            task(7)[0],
            n_steps=80,
            n_scale=20,
            n_pairs=32,
            n_candidates=36,
            learning_rate=3e-3,
            look=lambda step, looked=looked: looked.append(step) is None,
            look_every=30,
        )
        runs.append((losses, {n: p.detach().numpy() for n, p in attention.named_parameters()}))
        assert looked == [29, 59]
        assert any(not torch.equal(start[name], p) for name, p in attention.named_parameters())
    (losses, a), (again, b) = runs
    assert losses == again
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-20:]) < np.mean(losses[:20])


def test_learning_ends_when_looking_says_so():
    looked = []
    losses = learn_attention(
        NeighborAttention(12), task()[0], n_steps=80, n_scale=20, n_pairs=16, n_candidates=20, look=looked.append
    )
    assert looked == [49] and len(losses) == 50


def test_while_the_scale_is_sought_the_attention_rests():
    attention = NeighborAttention(12)
    with torch.no_grad():
        attention.query.down.zero_()  # nothing for weight decay to gnaw at
        attention.key.down.zero_()
        attention.log_temperature.zero_()
    learn_attention(attention, task()[0], n_steps=10, n_scale=10, n_pairs=16, n_candidates=20)
    assert not any(p.any() for p in attention.parameters())


def test_zero_vectors_among_the_warm_do_no_harm():
    _, vectors, _, counts = world()
    vectors[:6] = 0.0
    found = Neighborhood.find(vectors, counts, np.arange(len(vectors)), 5)
    attention = NeighborAttention(12)
    losses = learn_attention(
        attention, task(vectors=vectors, neighborhood=found)[0], n_steps=20, n_scale=5, n_pairs=16, n_candidates=36
    )
    assert np.isfinite(losses).all()
    assert all(torch.isfinite(p).all() for p in attention.parameters())


def test_nothing_is_learned_from_people_with_one_item():
    histories = sp.eye(42, format="csr", dtype=np.float32)
    empty, _ = task(histories=histories)
    assert empty.is_empty
    attention = NeighborAttention(12)
    before = {name: p.detach().clone() for name, p in attention.named_parameters()}
    assert learn_attention(attention, empty) == []
    assert all(torch.equal(before[name], p) for name, p in attention.named_parameters())


def test_more_pairs_than_items_fit_into_a_batch():
    pretend, _ = task()
    batch = pretend.draw(96, 192)
    assert isinstance(batch, Batch)
    assert len(batch.items) <= N_WARM
    assert len(batch.label) == 96
