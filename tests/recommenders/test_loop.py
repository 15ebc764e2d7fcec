import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

from llm_tail.errors import ConfigError, DataError
from llm_tail.recommenders import loop
from llm_tail.recommenders.loop import Budget, descend, look_on, seeded


class Number(nn.Module):
    """One parameter that falls by 1 with each step."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.tensor(10.0))

    def train_on(self, draw=lambda rng: [None], loss=None, **settings):
        sgd = torch.optim.SGD(self.parameters(), lr=1.0)
        return descend(self, [sgd], draw, loss or (lambda _: self.at), name="number", **settings)


def test_it_goes_on_to_the_end_without_validation():
    net = Number()
    record = net.train_on(lambda rng: [None, None], budget=Budget(epochs=3))
    assert net.at.item() == 4.0
    assert record == {"loss": [9.5, 7.5, 5.5], "measured": [], "kept_epoch": 3, "epochs": 3, "stopped": "epochs"}
    assert not net.training


def test_the_best_weights_come_back():
    net = Number()
    look = lambda: {"warm": -abs(net.at.item() - 7.0), "cold": 0.0}  # noqa: E731
    record = net.train_on(budget=Budget(epochs=50, patience=2), look=look)
    assert net.at.item() == 7.0
    assert (record["kept_epoch"], record["epochs"], record["stopped"]) == (3, 5, "patience")
    assert [m["warm"] for m in record["measured"]] == [-2.0, -1.0, 0.0, -1.0, -2.0]


def test_looks_can_be_rare_but_the_end_is_looked_at():
    net, seen = Number(), []
    net.train_on(budget=Budget(epochs=5, look_every=2), look=lambda: seen.append(net.at.item()) or {"x": len(seen)})
    assert seen == [8.0, 6.0, 5.0]


def test_time_is_up(monkeypatch):
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    record = Number().train_on(lambda rng: [None] * 100, budget=Budget(max_minutes=1.0))
    assert record["stopped"] == "time"
    assert record["epochs"] == 1


def test_a_loss_that_is_no_number_is_said():
    net = Number()
    with pytest.raises(DataError, match=r"loss of number is nan in epoch 2.*learning_rate"):
        net.train_on(loss=lambda _: net.at * (torch.nan if net.at < 10 else 1.0))


def test_a_batch_without_anything_to_learn_changes_nothing():
    net = Number()
    net.train_on(loss=lambda _: torch.tensor(0.0), budget=Budget(epochs=1))
    assert net.at.item() == 10.0


def test_gradients_are_clipped():
    net = Number()
    net.train_on(loss=lambda _: 100 * net.at, budget=Budget(epochs=1), max_norm=0.5)
    assert net.at.item() == pytest.approx(9.5, abs=1e-4)


def test_the_same_seed_draws_the_same():
    def draws(seed):
        seen = []
        net = Number()
        net.train_on(lambda rng: seen.append(rng.random()) or [None], budget=Budget(epochs=2), seed=seed)
        return seen

    assert draws(3) == draws(3) != draws(4)


def test_seeding_leaves_the_caller_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1):
        one = torch.rand(2)
    with seeded(1):
        assert torch.equal(torch.rand(2), one)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"patience": 0}, {"max_minutes": 0}, {"look_every": 0}])
def test_budgets_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected at least 1"):
        Budget(**wrong)


def test_a_look_asks_for_what_was_held_back():
    train = sp.csr_matrix(np.array([[1, 1, 0, 0], [0, 1, 1, 0]], dtype=np.float32))
    held = sp.csr_matrix(np.array([[0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float32))
    perfect = lambda histories: (histories @ train.T @ held).toarray()  # noqa: E731
    assert look_on(perfect, train, None) is None
    assert look_on(perfect, train, sp.csr_matrix((2, 4))) is None
    assert look_on(perfect, train, held)()["overall"] == 1.0
    assert look_on(lambda histories: np.zeros((2, 4)), train, held)()["overall"] < 1.0
