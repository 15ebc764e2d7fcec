"""Blocks of rows in several threads: every row once, the same for any number of them, and what fails is heard."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_tail.threads import in_blocks, n_cores, n_threads


@given(st.integers(0, 50), st.integers(1, 60))
def test_every_row_is_worked_on_once(n_rows, size):
    seen = np.zeros(n_rows, dtype=int)

    def work(rows):
        assert rows.stop - rows.start <= size
        seen[rows] += 1

    in_blocks(work, n_rows, size)
    assert (seen == 1).all()


def test_as_many_threads_as_are_allowed(monkeypatch):
    for said, expected in (("1", 1), ("", n_cores()), ("0", n_cores()), ("2,1", n_cores()), ("9999", n_cores())):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert n_threads() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert n_threads() == n_cores()


@pytest.mark.parametrize("threads", [1, 2])
def test_several_blocks_are_under_way_at_once_where_that_is_allowed(monkeypatch, threads):
    monkeypatch.setattr("llm_tail.threads.n_threads", lambda: threads)
    meeting = threading.Barrier(threads)
    in_blocks(lambda rows: meeting.wait(timeout=30) and None, 6, 1)  # breaks where fewer come


def test_one_block_needs_no_thread():
    names = []
    in_blocks(lambda rows: names.append(threading.current_thread().name), 5, 5)
    assert names == [threading.current_thread().name]


def test_what_a_block_raises_is_raised(monkeypatch):
    monkeypatch.setattr("llm_tail.threads.n_threads", lambda: 2)

    def fail(rows):
        if rows.start == 4:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        in_blocks(fail, 8, 2)
