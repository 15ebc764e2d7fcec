import numpy as np
import pytest

from llm_tail.service.drift import Drift

RNG = np.random.default_rng(0)
CATALOG = RNG.standard_normal((5000, 32)) * np.linspace(3, 0.1, 32)


def test_a_sample_of_the_catalogue_has_not_drifted():
    mean, covariance = Drift(CATALOG).of(list(CATALOG[:1000]))
    assert mean < 2 / np.sqrt(1000) and covariance < 3 * np.sqrt(16 / 1000)


def test_a_shift_is_told_in_units_of_the_spread():
    spread = np.sqrt(np.trace(np.cov(CATALOG.T, bias=True)))
    shift = np.zeros(32)
    shift[5] = 2 * spread
    mean, covariance = Drift(CATALOG).of(list(CATALOG[:2000] + shift))
    assert mean == pytest.approx(2, abs=0.1) and covariance < 0.2


def test_a_narrower_sample_has_another_covariance():
    mean, covariance = Drift(CATALOG).of(list(CATALOG[:2000] * 0.1))
    assert mean < 0.1 and covariance == pytest.approx(0.99, abs=0.01)


def test_of_a_few_there_is_nothing_to_say():
    assert Drift(CATALOG).of([]) is None and Drift(CATALOG).of(list(CATALOG[:19])) is None
    assert Drift(CATALOG).of([np.zeros(32)] * 50) is None
    assert Drift(np.zeros((3, 4))).of(list(np.ones((50, 4)))) is None
