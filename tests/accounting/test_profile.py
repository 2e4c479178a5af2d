from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event as dp
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.patients import patient_event
from fedprivacy.accounting.profile import Profile, privacy_profile

RAW = dp.NonPrivateDpEvent()


@pytest.fixture(scope="module")
def profile(event):
    """``profile(dp_event)``: the profile of one record-level event."""

    def make(dp_event, neighbouring="zero_out"):
        return privacy_profile([event(dp_event, neighbouring=neighbouring)], neighbouring)

    return make


def test_gaussian_mechanism_has_closed_forms(profile):
    """mu = 1: TPR at 1 % is Phi(Phi^-1(.01) + 1) = .09236, delta(0) = erf(1/(2 sqrt 2))."""
    found = profile(dp.GaussianDpEvent(1.0))
    assert found.max_advantage == pytest.approx(0.38292, abs=2e-5)
    assert found.max_advantage >= math.erf(1 / (2 * math.sqrt(2))) - 1e-12
    for rate in (0.001, 0.01, 0.1, 0.5, 0.9):
        exact = ndtr(ndtri(rate) + 1.0)
        assert exact - 1e-9 <= found.max_tpr(rate) <= exact + 5e-5
    assert found.max_tpr(0.01) == pytest.approx(0.09236, abs=2e-5)


@pytest.mark.parametrize(
    ("rate", "sigma", "steps", "tpr", "advantage"),
    [(0.2, 1.0, 100, 0.486, 0.726), (0.01, 1.0, 1000, 0.029, None)],
)
def test_caps_of_dpsgd(profile, dpsgd, rate, sigma, steps, tpr, advantage):
    found = profile(dpsgd(rate, sigma, steps))
    assert found.max_tpr(0.01) == pytest.approx(tpr, abs=6e-4)
    if advantage:
        assert found.max_advantage == pytest.approx(advantage, abs=6e-4)


def test_caps_are_far_below_the_folk_conversion(profile, event, dpsgd):
    for parts in ((0.2, 1.0, 100), (0.01, 1.0, 1000)):
        value = epsilon([event(dpsgd(*parts))], 1e-5, "zero_out")
        folk = min(1.0, math.exp(value) * 0.01 + 1e-5)
        assert profile(dpsgd(*parts)).max_tpr(0.01) < folk / 2


def test_pure_dp_has_a_known_curve(profile):
    """Randomised response: f(a) = max(0, 1 - e^eps a, e^-eps (1 - a)) and TV = tanh(eps / 2)."""
    value = math.log(3.0)
    found = profile(dp.RandomizedResponseDpEvent(0.5, 2), "replace_one")
    assert found.max_advantage == pytest.approx(math.tanh(value / 2), abs=1e-3)
    assert found.max_tpr(0.1) == pytest.approx(0.3, abs=1e-3)
    assert found.max_tpr(0.5) == pytest.approx(1 - (1 - 0.5) / 3, abs=1e-3)


def test_agrees_with_the_accountant(profile, event, dpsgd):
    found = profile(dpsgd())
    for delta in (1e-3, 1e-5, 1e-8):
        value = epsilon([event(dpsgd())], delta, "zero_out")
        assert found.delta(value) == pytest.approx(delta, rel=1e-2)
        assert found.delta(value) >= delta * (1 - 1e-6)


def test_nothing_and_everything(profile):
    nothing, everything = profile(dp.NoOpDpEvent()), profile(RAW)
    for rate in (0.0, 0.01, 0.5, 1.0):
        assert nothing.max_tpr(rate) == pytest.approx(rate)
        assert everything.max_tpr(rate) == 1.0
    assert (nothing.max_advantage, everything.max_advantage) == (0.0, 1.0)
    assert everything.delta(7.0) == 1.0
    assert nothing.delta([0.0, 1.0]).tolist() == [0.0, 0.0]


@given(st.floats(0, 1), st.floats(0, 20))
def test_no_attack_that_exists_beats_the_cap(rate, value):
    """Two-point pair with loss +-value: its best test lies on, never above, the cap."""
    truth = 1 / (1 + math.exp(-value))
    epsilons = np.linspace(0.0, value, 50) if value > 0 else np.zeros(1)
    deltas = np.clip(truth - np.exp(epsilons) * (1 - truth), 0.0, 1.0)
    cap = Profile(epsilons, deltas).max_tpr(rate)
    best = min(1.0, rate / (1 - truth) * truth) if rate <= 1 - truth else (
        truth + (rate - (1 - truth)) / truth * (1 - truth)
    )  # fmt: skip
    assert best <= cap + 1e-9


def test_interpolation_lies_above_a_convex_profile(profile):
    found = profile(dp.GaussianDpEvent(1.0))
    between = (found.epsilons[:-1] + found.epsilons[1:]) / 2
    exact = ndtr(0.5 - between) - np.exp(between) * ndtr(-0.5 - between)
    assert np.all(found.delta(between) >= exact - 1e-12)
    assert found.delta(1e9) == found.deltas[-1]
    assert np.all(np.diff(found.deltas) <= 0)


def test_the_best_attack_on_simulated_dpsgd_reaches_the_cap_and_does_not_pass_it(profile, dpsgd):
    """Neyman-Pearson test on 20 noisy Poisson-sampled steps, one record in or out."""
    rate, sigma, steps, runs = 0.2, 2.0, 20, 100_000
    random = np.random.default_rng(1)

    def scores(present):
        seen = random.normal(0.0, sigma, (runs, steps))
        if present:
            seen += random.random((runs, steps)) < rate
        return np.log1p(rate * np.expm1((2 * seen - 1) / (2 * sigma**2))).sum(axis=1)

    inside, outside = scores(True), scores(False)
    found = profile(dpsgd(rate, sigma, steps))
    for fpr, tolerance in ((0.01, 0.0035), (0.1, 0.006)):
        reached = float(np.mean(inside > np.quantile(outside, 1 - fpr)))
        assert found.max_tpr(fpr) - 2 * tolerance <= reached <= found.max_tpr(fpr) + tolerance


def test_a_nearly_noiseless_mechanism_has_a_profile_without_nan() -> None:
    """Beyond epsilon 709 dp-accounting's exp overflows; the profile must stay an upper bound."""
    noisy = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(0.05)), 200)
    events = [Event(1, "a", "dpsgd", "record", "zero_out", "server_updates", noisy, True, 1.0)]
    profile = privacy_profile(events, "zero_out")
    assert np.isfinite(profile.deltas).all()
    assert (np.diff(profile.deltas) <= 0).all()
    assert profile.max_advantage == pytest.approx(1.0)
    assert profile.max_tpr(0.01) == pytest.approx(1.0)


def test_a_patient_of_nearly_noiseless_training_has_a_profile_that_ends() -> None:
    """Infinite loss has more mass than the smallest delta: the profile stops, and still bounds."""
    step = dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(0.24786))
    patient = patient_event(dp.SelfComposedDpEvent(step, 40), 4, "zero_out")
    event = Event(1, "a", "dpsgd", "patient", "zero_out", "server_updates", patient, True)
    found = privacy_profile([event], "zero_out")
    assert np.isfinite(found.epsilons).all()
    assert found.deltas[0] <= 1.0
    assert found.deltas[-1] == found.delta(10 * found.epsilons[-1])
