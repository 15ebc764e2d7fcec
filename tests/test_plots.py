"""Pictures: drawn from any report there can be, without a window."""

import numpy as np
import pytest

from llm_tail.config import ValueConfig
from llm_tail.data.ids import IdMap
from llm_tail.errors import ConfigError
from llm_tail.evaluation.pareto import Choice
from llm_tail.plots import _staircase, borrowed, check_picture, draw_value
from llm_tail.recommenders.explaining import SignalShares
from llm_tail.workspace.measuring import Machine, Measured
from llm_tail.workspace.value_report import ValueReport

pytest.importorskip("matplotlib", reason="matplotlib is missing; pip install 'llm-tail[plot]'")


def choice(runtime="static", seconds=100.0, mb=400.0, share=1.0, money=0.5):
    ndcg = {} if share is None else {"warm": share}
    return Choice(runtime, 384, "int8", 1e6 / seconds, 500.0, seconds, money, mb, ndcg, share)


def report(*choices):
    names = dict.fromkeys(one.runtime for one in choices)
    measured = {name: Measured(name, "cpu", 384, 10, 1.0, 1.0, 1.0, 500.0) for name in names}
    users = {"warm": 3} if any(one.ndcg for one in choices) else {}
    return ValueReport(tuple(choices), measured, {}, Machine("X", 2, 2), ValueConfig(), 10, users)


@pytest.mark.parametrize(
    "choices",
    [
        [choice()],
        [choice(money=0.0), choice("tfidf", 10.0, 50.0, 0.8, money=0.0)],
        [choice(share=None), choice("tfidf", 10.0, share=None)],
        [choice("torch-fp32", 1e5, 1600.0), choice("static", 1.0, 100.0, 0.5), choice("tfidf", 2.0, 90.0, 0.1)],
    ],
)
def test_every_report_has_a_picture(tmp_path, choices):
    path = draw_value(report(*choices), tmp_path / "a.png", choices[-1])
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000


def test_more_cost_is_a_step_only_where_it_gives_more():
    good, fair, dear = choice(seconds=9.0), choice(seconds=5.0, share=0.5), choice(seconds=20.0, share=0.9)
    assert _staircase([good, fair, dear], "seconds") == [(5.0, 0.5), (9.0, 1.0)]


def test_a_picture_has_a_name_of_one():
    with pytest.raises(ConfigError, match="no name of a picture"):
        check_picture("table.txt")


@pytest.mark.parametrize("counts", [[0, 0, 3, 900], [0], [5, 5, 5]])
def test_what_is_borrowed_has_a_picture(tmp_path, counts):
    shares = SignalShares(IdMap(range(len(counts))), *np.full((3, len(counts)), 1 / 3), np.array(counts))
    figure = borrowed(shares, tmp_path / "shares.png")
    assert (tmp_path / "shares.png").stat().st_size > 5_000
    assert figure.axes[0].get_ylabel() == "share of the score that is borrowed"
    assert borrowed(shares, ax=figure.axes[0]) is figure
