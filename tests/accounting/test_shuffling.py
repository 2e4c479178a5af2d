from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event as dp
from scipy.stats import norm

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.profile import privacy_profile
from fedprivacy.accounting.shuffling import (
    shuffle_delta_floor,
    shuffle_epsilon_floor,
    shuffled_event,
)
from fedprivacy.errors import AccountingError


def test_published_case(event):
    """Chua et al. 2024: sigma .4, 10,000 batches, epsilon 4."""
    assert shuffle_delta_floor(4.0, 0.4, 10_000) == pytest.approx(0.2261, abs=2e-4)
    sequential = norm.cdf(0.5 / 0.4 - 1.6) - math.exp(4) * norm.cdf(-0.5 / 0.4 - 1.6)
    assert sequential == pytest.approx(0.2438, abs=1e-4)
    assert epsilon([event(shuffled_event(0.4, 1))], sequential, "zero_out") == pytest.approx(
        4.0, abs=1e-3
    )


def test_the_published_case_if_it_were_sampled_by_poisson(event, dpsgd) -> None:
    """The same noise and rate, each record in each step by its own coin: delta 1.17e-5."""
    profile = privacy_profile([event(dpsgd(1e-4, 0.4, 10_000))], "zero_out")
    assert float(profile.delta(4.0)) == pytest.approx(1.17e-5, rel=0.02)


@pytest.mark.parametrize(
    ("sigma", "batches", "delta", "floor", "billed"),
    [
        (0.8, 50, 1e-3, 4.030, 4.145),
        (1.0, 5, 1e-3, 3.091, 3.139),
        (0.4, 10_000, 1e-5, 13.207, 13.207),
    ],
)
def test_the_bill_lies_above_the_floor(event, dpsgd, sigma, batches, delta, floor, billed):
    found = shuffle_epsilon_floor(delta, sigma, batches)
    price = epsilon([event(shuffled_event(sigma, 1))], delta, "zero_out")
    assert found == pytest.approx(floor, abs=1e-3)
    assert price == pytest.approx(billed, abs=1e-3)
    assert found <= price
    if batches < 1000:
        poisson = epsilon([event(dpsgd(1 / batches, sigma, batches))], delta, "zero_out")
        assert poisson < found, "pretending Poisson would have been below the truth"


def test_floor_against_a_simulated_test():
    """The event 'some coordinate exceeds C' really has the claimed probabilities."""
    sigma, batches, value = 2.0, 50, 0.2
    random = np.random.default_rng(0)
    noise = random.normal(0.0, sigma, (200_000, batches))
    upper, lower = noise.copy(), noise
    upper[:, 0] += 2.0
    lower[:, 0] += 1.0
    gaps = [
        np.mean(upper.max(axis=1) > cut) - math.exp(value) * np.mean(lower.max(axis=1) > cut)
        for cut in np.linspace(4.0, 9.0, 26)
    ]
    assert shuffle_delta_floor(value, sigma, batches) == pytest.approx(max(gaps), abs=1.5e-3)


def test_more_epochs_cost_more(event):
    prices = [
        epsilon([event(shuffled_event(1.0, epochs))], 1e-5, "zero_out") for epochs in (1, 2, 4)
    ]
    assert prices == sorted(prices)
    assert prices[2] == pytest.approx(
        epsilon([event(dp.GaussianDpEvent(0.5))], 1e-5, "zero_out"), abs=1e-6
    )


def test_a_test_that_sees_nothing_proves_nothing():
    assert shuffle_epsilon_floor(0.5, 5.0, 100) == 0.0


@pytest.mark.parametrize("arguments", [(-1.0, 1.0, 5), (1.0, 0.0, 5), (1.0, 1.0, 0)])
def test_nonsense_is_refused(arguments):
    with pytest.raises(AccountingError):
        shuffle_delta_floor(*arguments)


@pytest.mark.parametrize("epochs", [0, 0.5, -1])
def test_only_whole_epochs(epochs):
    with pytest.raises(AccountingError, match="whole epochs"):
        shuffled_event(1.0, epochs)
