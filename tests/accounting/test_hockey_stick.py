"""What is read off a distribution is what dp-accounting reads off it, atom by atom."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event as dp
from dp_accounting.pld import privacy_loss_distribution as plds
from dp_accounting.pld.common import DifferentialPrivacyParameters

from fedprivacy.accounting import pld
from fedprivacy.accounting.hockey_stick import deltas_at, epsilon_at

DELTAS = (0.0, 1e-15, 1e-9, 1e-5, 1e-3, 0.1, 0.9, 1.0)


def gaussian(noise: float, rate: float, count: int, relation: str = "zero_out"):
    event = dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise))
    return pld.composed(((event if rate < 1 else event.event, count),), relation, 1e-3)


DISTRIBUTIONS = {
    "sampled": lambda: gaussian(1.0, 0.1, 100),
    "replaced": lambda: gaussian(1.5, 0.2, 30, "replace_one"),
    "whole": lambda: gaussian(3.0, 1.0, 10),
    "loud": lambda: gaussian(50.0, 0.01, 1),
    "nearly noiseless": lambda: gaussian(0.05, 0.5, 3),
    "nothing": lambda: pld.composed((), "zero_out", 1e-3),
    "laplace": lambda: plds.from_laplace_mechanism(0.5, value_discretization_interval=1e-3),
    "a mass that is infinite": lambda: plds.from_privacy_parameters(
        DifferentialPrivacyParameters(1.0, 0.01)
    ),
}


@pytest.fixture(params=DISTRIBUTIONS)
def distribution(request: pytest.FixtureRequest):
    return DISTRIBUTIONS[request.param]()


@pytest.mark.parametrize("delta", DELTAS)
def test_epsilon_is_that_of_the_library(distribution, delta: float) -> None:
    known = distribution.get_epsilon_for_delta(delta)
    assert epsilon_at(distribution, delta) == pytest.approx(known, rel=1e-9, abs=1e-12)


def test_deltas_are_those_of_the_library(distribution) -> None:
    epsilons = [0.0, 1e-4, 0.0995, 0.1, 1.0, 1.0005, 5.0, 20.0, 300.0, math.inf]
    known = np.asarray(distribution.get_delta_for_epsilon(epsilons))
    assert deltas_at(distribution, epsilons) == pytest.approx(known, rel=1e-9, abs=1e-13)


def test_deltas_where_the_exponential_of_epsilon_overflows() -> None:
    loud = DISTRIBUTIONS["nearly noiseless"]()
    found = deltas_at(loud, [700.0, 800.0, 900.0])
    assert (np.diff(found) <= 0).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_the_order_of_epsilons_does_not_matter(distribution) -> None:
    epsilons = np.array([3.0, 0.0, 1.0])
    assert deltas_at(distribution, epsilons[::-1]) == pytest.approx(
        deltas_at(distribution, epsilons)[::-1]
    )


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_epsilon_is_the_least_that_keeps_delta(distribution, delta: float) -> None:
    epsilon = epsilon_at(distribution, delta)
    if math.isfinite(epsilon):
        assert deltas_at(distribution, [epsilon])[0] <= delta * (1 + 1e-6)
        if epsilon > 0:
            assert deltas_at(distribution, [epsilon * 0.999])[0] > delta
