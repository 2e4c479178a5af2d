from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting.gaussian import gaussian_delta, gaussian_tpr, gdp_mu, gdp_regret
from fedprivacy.accounting.profile import NOTHING_PROVED, NOTHING_RELEASED, privacy_profile


def test_delta_of_the_gaussian_mechanism():
    assert gaussian_delta(4.377178, 1.0) == pytest.approx(1e-5, rel=1e-5)
    assert gaussian_delta(1.0, 1 / 3.730632) == pytest.approx(1e-5, rel=1e-5)
    assert gaussian_delta(0.0, 1.0) == pytest.approx(math.erf(1 / (2 * math.sqrt(2))))
    assert gaussian_delta([0.0, 1.0], 0.0).tolist() == [0.0, 0.0]
    assert gaussian_tpr(0.01, 1.0) == pytest.approx(0.09236, abs=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_a_gaussian_is_its_own_summary(event, sigma):
    profile = privacy_profile([event(dp.GaussianDpEvent(sigma))], "zero_out")
    mu = gdp_mu(profile)
    assert mu == pytest.approx(1 / sigma, rel=1e-5)
    assert mu >= 1 / sigma - 1e-9
    assert gdp_regret(profile, mu) < 1e-4


def test_published_value(event, dpsgd):
    """gdpnum 0.1.2, README: sigma 9.4, q .328, 2000 steps: mu 1.56856, regret .00102."""
    profile = privacy_profile([event(dpsgd(0.328, 9.4, 2000))], "zero_out")
    mu = gdp_mu(profile)
    assert 1.5685 <= mu <= 1.5705
    assert gdp_regret(profile, mu) == pytest.approx(0.00102, abs=3e-4)


def test_the_summary_dominates_the_profile(event, dpsgd):
    profile = privacy_profile([event(dpsgd())], "zero_out")
    mu = gdp_mu(profile)
    compared = profile.deltas > 1e-9
    summary = gaussian_delta(profile.epsilons[compared], mu)
    assert np.all(summary >= profile.deltas[compared] - 1e-12)
    smaller = gaussian_delta(profile.epsilons[compared], mu * 0.999)
    assert np.any(smaller < profile.deltas[compared])


def test_a_misfit_is_seen(event):
    """Laplace noise is no Gaussian: one number makes it look worse than it is."""
    laplace = privacy_profile([event(dp.LaplaceDpEvent(1 / 3.42))], "zero_out")
    assert gdp_regret(laplace, gdp_mu(laplace)) > 0.005


def test_nothing_and_everything():
    assert gdp_mu(NOTHING_RELEASED) == 0.0
    assert gdp_mu(NOTHING_PROVED) == math.inf
