"""Our construction of a mixture's loss distribution against dp-accounting's slower one."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as plds
from scipy import stats

from fedprivacy.accounting.mixtures import mixture_pld

CASES = [
    (1.0, (0.0, 1.0, 2.0), (0.2, 0.6, 0.2)),
    (2.0, (0.0, 2.0, 3.0), (0.33, 0.34, 0.33)),
    (1.0, (0.0, 1.0), (0.99, 0.01)),
    (1.0, (1.0, 2.0), (0.5, 0.5)),
    (0.5, (0.0, 1.0, 2.0, 3.0, 4.0), tuple(stats.binom.pmf(range(5), 4, 0.01))),
]


@pytest.mark.parametrize(("sigma", "shifts", "shares"), CASES)
def test_same_distribution_as_dp_accounting(sigma, shifts, shares):
    ours = mixture_pld(sigma, shifts, shares, 0.02)
    theirs = plds.from_mixture_gaussian_mechanism(
        sigma, shifts, shares, value_discretization_interval=0.02
    )
    for count in (1, 30):
        for delta in (1e-3, 1e-6):
            assert ours.self_compose(count).get_epsilon_for_delta(delta) == pytest.approx(
                theirs.self_compose(count).get_epsilon_for_delta(delta), abs=1e-5
            )


def test_one_shift_is_the_subsampled_gaussian():
    ours = mixture_pld(1.3, (0.0, 1.0), (0.9, 0.1), 1e-3)
    theirs = plds.from_gaussian_mechanism(
        1.3, sampling_prob=0.1, value_discretization_interval=1e-3
    )
    for value in np.linspace(0.0, 3.0, 7):
        assert ours.get_delta_for_epsilon(float(value)) == pytest.approx(
            theirs.get_delta_for_epsilon(float(value)), rel=1e-6, abs=1e-12
        )


def test_a_shift_of_probability_zero_is_ignored():
    with_it = mixture_pld(1.0, (0.0, 1.0, 9.0), (0.5, 0.5, 0.0), 0.01)
    without = mixture_pld(1.0, (0.0, 1.0), (0.5, 0.5), 0.01)
    assert with_it.get_epsilon_for_delta(1e-5) == without.get_epsilon_for_delta(1e-5)


def test_never_below_the_true_profile():
    """Against direct numerical integration of both directions."""
    sigma, shifts, shares = 0.8, np.array([0.0, 1.0, 2.0]), np.array([0.81, 0.18, 0.01])
    x = np.linspace(-12, 16, 400_001)
    upper = (shares * stats.norm.pdf(x[:, None], shifts, sigma)).sum(axis=1)
    lower = stats.norm.pdf(x, 0.0, sigma)
    priced = mixture_pld(sigma, tuple(shifts), tuple(shares), 1e-3)
    for value in (0.0, 0.1, 1.0, 3.0):
        exact = max(
            np.trapezoid(np.maximum(upper - np.exp(value) * lower, 0.0), x),
            np.trapezoid(np.maximum(lower - np.exp(value) * upper, 0.0), x),
        )
        found = priced.get_delta_for_epsilon(value)
        assert exact - 1e-9 <= found <= exact * 1.001 + 1e-9


@pytest.mark.parametrize("sigma", [0.3, 1.0, 8.0])
@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.9])
@pytest.mark.parametrize("steps", [1, 300])
def test_a_subsampled_gaussian_lies_between_what_dp_accounting_rounds_down_and_up(
    sigma: float, rate: float, steps: int
) -> None:
    grid = 1e-2
    ours = mixture_pld(sigma, (0.0, 1.0), (1.0 - rate, rate), grid).self_compose(steps)
    down, up = (
        plds.from_gaussian_mechanism(
            sigma,
            sampling_prob=rate,
            value_discretization_interval=grid,
            pessimistic_estimate=worse,
        ).self_compose(steps)
        for worse in (False, True)
    )
    for delta in (1e-2, 1e-5, 1e-9):
        epsilon = ours.get_epsilon_for_delta(delta)
        assert epsilon >= down.get_epsilon_for_delta(delta) - 1e-9
        assert epsilon == pytest.approx(up.get_epsilon_for_delta(delta), rel=1e-4, abs=1e-5)
