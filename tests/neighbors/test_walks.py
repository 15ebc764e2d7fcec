import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail.neighbors.strengths import STRONGEST, together
from llm_tail.neighbors.walks import best_ways, strongest_path

N = 6
graphs = st.dictionaries(st.sampled_from(list(itertools.combinations(range(N), 2))), st.floats(0.05, 0.95), max_size=12)


def matrix(ties):
    dense = np.zeros((N, N), dtype=np.float32)
    for (a, b), strength in ties.items():
        dense[a, b] = dense[b, a] = strength
    return sp.csr_matrix(dense)


def best_by_trying_all(ties, start, end, hops):
    """Every way without a turn back, one by one."""
    dense = matrix(ties).toarray().astype(float)
    between = [x for x in range(N) if x not in (start, end)]
    ways = ((start, *middle, end) for n in range(min(hops, N - 1)) for middle in itertools.permutations(between, n))
    return max(float(np.prod([dense[step] for step in itertools.pairwise(way)])) for way in ways)


@given(graphs, st.integers(1, N))
@settings(max_examples=60, deadline=None)
def test_best_ways_are_the_best_of_all(ties, hops):
    found = {way[-1]: (way, weight) for way, weight in best_ways(matrix(ties), 0, hops).best(N)}
    dense = matrix(ties).toarray()
    for end in range(1, N):
        assert found.get(end, ([], 0.0))[1] == pytest.approx(best_by_trying_all(ties, 0, end, hops), rel=1e-5)
    for end, (way, weight) in found.items():
        assert way[0] == 0 and way[-1] == end and 2 <= len(way) <= hops + 1
        assert np.prod([dense[step] for step in itertools.pairwise(way)]) == pytest.approx(weight, rel=1e-5)


@given(graphs)
@settings(max_examples=60, deadline=None)
def test_the_strongest_path_is_as_strong_as_the_best_way(ties):
    dense = matrix(ties).toarray().astype(float)
    for end in range(1, N):
        way = strongest_path(matrix(ties), 0, end)
        best = best_by_trying_all(ties, 0, end, N)
        if best == 0:
            assert way == [end]
        else:
            assert way[0] == 0 and way[-1] == end
            assert np.prod([dense[step] for step in itertools.pairwise(way)]) == pytest.approx(best, rel=1e-5)


def test_reasons_add_up_and_never_reach_one():
    half = sp.csr_matrix(np.array([[0, 0.5], [0.5, 0]], dtype=np.float32))
    sure = sp.csr_matrix(np.array([[0, STRONGEST], [STRONGEST, 0]], dtype=np.float32))
    assert together([half])[0, 1] == pytest.approx(0.5)
    assert together([half, half])[0, 1] == pytest.approx(0.75)
    assert together([sure, sure])[0, 1] < 1
    assert half[0, 1] == 0.5
