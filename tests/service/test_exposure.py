import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.service.exposure import Exposure, curve


def test_what_is_older_than_an_hour_is_forgotten():
    now = [0.0]
    shown = Exposure(lambda: now[0])
    shown.add("similar", ["a", "a", "b"])
    now[0] = 1800.0
    shown.add("search", ["b", "c"])
    assert shown.counts() == {"a": 2, "b": 2, "c": 1} and shown.counts("search") == {"b": 1, "c": 1}
    now[0] = 3700.0
    assert shown.counts() == {"b": 1, "c": 1}
    now[0] = 1e6
    assert shown.counts() == {}


def test_a_curve_by_eye():
    line, gini = curve(np.array([3, 1]), 4)  # 75 % of all to a quarter, the rest to the next
    assert dict(line)[0.25] == 0.75 and dict(line)[0.5] == 1.0 and line[0] == (0.0, 0.0) and line[-1] == (1.0, 1.0)
    assert gini == pytest.approx(2 * (0.25 * 0.375 + 0.25 * 0.875 + 0.5) - 1)
    assert curve(np.array([]), 5) == ([(n / 100, n / 100) for n in range(101)], 0.0)


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50), st.integers(0, 50))
def test_curves_rise_and_bend_one_way(counts, unseen):
    line, gini = curve(np.array(counts), len(counts) + unseen)
    heights = np.array([y for _, y in line])
    assert (np.diff(heights) >= -1e-6).all() and (heights >= np.linspace(0, 1, 101) - 1e-5).all()
    assert -1e-9 <= gini < 1
