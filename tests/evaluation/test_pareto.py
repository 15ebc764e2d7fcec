"""Which choices are worth a look, and which to take: laws of the front, and of a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.errors import ConfigError
from llm_tail.evaluation.pareto import Budget, Choice, advise, front, rounded

FEW = st.sampled_from([1.0, 2.0, 3.5, 40.0, 41.0, 999.0])  # few values, so that ties come up


@st.composite
def choice(draw, judged=True):
    share = draw(st.sampled_from([0.2, 0.5, 0.9899, 0.99, 0.9996, 0.99999, 1.0])) if judged else None
    ndcg = {"warm": 0.3 * share} if judged else {}
    return Choice(
        draw(st.sampled_from(["static", "torch-fp32"])),
        draw(st.integers(8, 512)),
        draw(st.sampled_from(["float32", "int8"])),
        texts_per_s=10.0,
        peak_mb=500.0,
        seconds=draw(FEW),
        money=draw(st.sampled_from([0.0, 0.01, 2.0])),
        mb=draw(FEW),
        ndcg=ndcg,
        share=share,
    )


choices = st.lists(choice(), min_size=1, max_size=12)
unjudged = st.lists(choice(judged=False), min_size=1, max_size=6)
limit = st.none() | st.sampled_from([0.005, 0.5, 1.5, 3.0, 50.0])
budgets = st.builds(Budget, money=limit, seconds=limit, mb=limit)


def dominates(one, other):
    pairs = list(zip(one.rank, other.rank, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(choices | unjudged)
def test_nobody_on_the_front_is_dominated_and_everybody_else_is(given_choices):
    kept = front(given_choices)
    assert kept and not any(dominates(one, other) for one in given_choices for other in kept)
    left = [one for one in given_choices if one not in kept]
    assert all(any(dominates(better, one) for better in kept) for one in left)


@given(choices, budgets.filter(lambda budget: budget.limits))
def test_what_is_taken_meets_the_budget_and_nothing_that_does_is_better(given_choices, budget):
    advice = advise(given_choices, budget)
    within = [one for one in given_choices if not budget.excess(one)]
    if advice.choice is None:
        assert not within and advice.excess == budget.excess(advice.nearest)
        worst = max(advice.excess.values())
        assert worst > 1 and all(max(budget.excess(one).values()) >= worst for one in given_choices)
        return
    assert advice.choice in within and advice.nearest is None
    assert all(one.rank[0] >= advice.choice.rank[0] for one in within)
    alike = [one for one in within if one.rank[0] == advice.choice.rank[0]]
    assert all(one.rank[2] >= advice.choice.rank[2] for one in alike)


@given(choices.filter(lambda given_choices: any(one.share == 1.0 for one in given_choices)), st.floats(0.1, 1.0))
def test_without_a_budget_the_cheapest_that_keeps_enough_is_taken(given_choices, keep):
    taken = advise(given_choices, keep_share=keep).choice
    enough = [one for one in given_choices if one.share >= keep]
    assert taken in enough and all(one.rank[2] >= taken.rank[2] for one in enough)


@given(unjudged, budgets)
def test_what_nobody_has_judged_is_not_recommended(given_choices, budget):
    advice = advise(given_choices, budget)
    assert advice.choice is None and advice.best is None
    assert (advice.nearest is not None) == all(budget.excess(one) for one in given_choices)


def test_known_answers():
    def one(runtime, share, seconds, mb):
        return Choice(runtime, 384, "int8", 1e6 / seconds, 500.0, seconds, seconds / 3600, mb, {"warm": share}, share)

    exact, fast, small, static = (
        one("torch-fp32", 1.0, 20_000, 1600),
        one("openvino-bf16", 0.9998, 5_000, 1600),
        one("openvino-int8", 0.985, 4_000, 400),
        one("static", 0.86, 60, 400),
    )
    everything = [exact, fast, small, static]
    assert front(everything) == [fast, small, static], "what exact gives beyond fast, another draw would take away"
    assert advise(everything).choice == fast and advise(everything).best == fast
    assert advise(everything, keep_share=0.8).choice == static
    assert advise(everything, Budget(mb=500)).choice == small
    assert advise(everything, Budget(mb=500, seconds=100)).choice == static
    nothing = advise(everything, Budget(mb=500, seconds=30))
    assert nothing.choice is None and nothing.nearest == static and nothing.excess == {"seconds": 2.0}
    assert advise([]).choice is None and front([]) == []


def test_of_two_that_are_equally_far_off_the_nearer_keeps_to_the_other_limit():
    wide, narrow = (Choice("static", dim, "int8", 1.0, 1.0, 1e6, 1.0, dim, {"warm": 1.0}, 1.0) for dim in (384, 96))
    assert advise([wide, narrow], Budget(money=0.01, mb=100)).nearest == narrow


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_above_nothing(wrong):
    with pytest.raises(ConfigError, match=r"the budget of money is .*; expected a number above 0"):
        advise([], Budget(money=wrong))


@given(choice())
def test_a_choice_comes_back_as_it_was(one):
    assert Choice.from_dict(one.to_dict()) == one


@given(st.floats(0, 1e12))
def test_two_digits_count(number):
    assert rounded(number) == pytest.approx(number, rel=0.051) and rounded(rounded(number)) == rounded(number)
