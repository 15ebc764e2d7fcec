import io
import sys

import pytest

from llm_tail.progress import Bar, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elements_pass_through_in_order():
    assert list(track((i * i for i in range(4)), "squares")) == [0, 1, 4, 9]


def test_silent_where_stderr_is_no_terminal(capsys):
    list(track(range(3), "adding"))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_description_counts_rate_and_note(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    with Bar("embedding", total=3) as bar:
        for i in range(3):
            bar.advance(note=f"loss {i}")
    shown = terminal.getvalue()
    assert "embedding" in shown and "3/3" in shown and "loss 2" in shown


def test_the_bar_is_gone_after_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyError):
        list(track(map({}.__getitem__, [1]), "failing"))
    with Bar("a second one may be drawn", total=1) as bar:
        bar.advance()
    assert bar.done == 1


def test_survives_a_process_without_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track([1, 2], "counting")) == [1, 2]


def test_a_bar_within_a_listening_one_moves_it_and_is_not_drawn(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    with Bar("embedding", total=10, listens=True) as outer:
        with Bar("encoding", total=4) as inner:
            inner.advance(4)
        assert (inner.done, outer.done) == (4, 4)
    with Bar("deaf", total=10) as outer, Bar("encoding", total=4) as inner:
        inner.advance(4)
    assert outer.done == 0 and "encoding" not in terminal.getvalue()


def test_steps_done_before_are_left_out(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    with Bar("embedding", total=10) as bar:
        bar.skip(7)
        bar.advance(3)
    assert bar.done == 3 and "3/3" in terminal.getvalue()
