from __future__ import annotations

import pytest
from dp_accounting import dp_event as dp
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.calibration import PRECISION, calibrate_noise
from fedprivacy.accounting.events import Event
from fedprivacy.errors import AccountingError


@pytest.mark.parametrize(
    ("target", "delta", "sigma"),
    [(1.0, 1e-5, 3.730632), (1.0, 1e-6, 4.224679), (8.0, 1e-5, 0.600229)],
)
def test_gaussian_mechanism(event, target, delta, sigma):
    found = calibrate_noise(
        lambda noise: [event(dp.GaussianDpEvent(noise))], target, delta, "zero_out"
    )
    assert sigma * (1 - 1e-6) <= found.noise_multiplier <= sigma * (1 + 2 * PRECISION)
    assert found.epsilon <= target
    assert found.covers_run


def test_dpsgd_against_opacus(event, dpsgd):
    """Opacus' PRV accountant, which adds 0.01 to epsilon, finds 1.2915."""
    found = calibrate_noise(lambda noise: [event(dpsgd(0.04, noise, 2000))], 8.0, 1e-5, "zero_out")
    assert 1.287 <= found.noise_multiplier <= 1.2915


@settings(max_examples=2, deadline=None, phases=(Phase.reuse, Phase.generate))
@given(st.floats(0.6, 6.0), st.floats(0.02, 0.15), st.integers(1, 50))
def test_never_above_the_target_and_no_more_noise_than_needed(event, dpsgd, target, rate, steps):
    def make(noise):
        return [event(dpsgd(rate, noise, steps))]

    found = calibrate_noise(make, target, 1e-5, "zero_out")
    assert found.epsilon == epsilon(make(found.noise_multiplier), 1e-5, "zero_out") <= target
    less = found.noise_multiplier * (1 - 3 * PRECISION)
    assert epsilon(make(less), 1e-5, "zero_out") > target


def test_a_schedule_with_raw_rounds_meets_the_target_in_its_protected_rounds_only(event, dpsgd):
    def make(noise):
        raw = event(dp.NonPrivateDpEvent(), 2, protected=False)
        return [event(dpsgd(0.2, noise, 20), 1), raw]

    found = calibrate_noise(make, 2.220, 1e-5, "zero_out")
    assert found.noise_multiplier == pytest.approx(2.0, rel=1e-3)
    assert not found.covers_run
    assert epsilon(make(found.noise_multiplier), 1e-5, "zero_out") == float("inf")


def test_strengths_of_the_schedule_are_respected(event, dpsgd):
    def make(noise):
        return [event(dpsgd(0.2, noise * 0.9**k, 40), k + 1) for k in range(2)]

    found = calibrate_noise(make, 4.0, 1e-5, "zero_out")
    assert epsilon(make(found.noise_multiplier), 1e-5, "zero_out") <= 4.0
    flat = calibrate_noise(lambda noise: [event(dpsgd(0.2, noise, 80))], 4.0, 1e-5, "zero_out")
    assert found.noise_multiplier > flat.noise_multiplier


def test_a_target_met_by_almost_no_noise(event):
    found = calibrate_noise(
        lambda noise: [event(dp.GaussianDpEvent(1000.0 * noise))], 5.0, 1e-5, "zero_out"
    )
    assert found.noise_multiplier <= 2e-3
    assert found.epsilon <= 5.0


def test_a_cost_that_jumps_to_nothing(event):
    """No line in logarithms can be drawn through zero: bisection takes over."""

    def make(noise):
        return [event(dp.GaussianDpEvent(1.0) if noise < 1.7 else dp.NoOpDpEvent())]

    found = calibrate_noise(make, 2.0, 1e-5, "zero_out")
    assert 1.7 <= found.noise_multiplier <= 1.7 * (1 + 2 * PRECISION)
    assert found.epsilon == 0.0


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_must_be_a_positive_number(event, target):
    with pytest.raises(AccountingError, match="target_epsilon"):
        calibrate_noise(lambda noise: [event(dp.GaussianDpEvent(noise))], target, 1e-5, "zero_out")


def test_what_no_noise_can_protect_is_refused(event):
    with pytest.raises(AccountingError, match="still costs inf"):
        calibrate_noise(lambda _: [event(dp.NonPrivateDpEvent())], 1.0, 1e-5, "zero_out")
    with pytest.raises(AccountingError, match="no release of the run is protected"):
        calibrate_noise(
            lambda _: [event(dp.NonPrivateDpEvent(), protected=False)], 1.0, 1e-5, "zero_out"
        )


@pytest.mark.parametrize("target", [1e5, 3e5, 1e6])
def test_large_budgets_are_met_closely(target: float) -> None:
    """Even huge budgets buy something; noise that is far too much would not show it."""

    def events(noise: float) -> list[Event]:
        own = dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(noise))
        run = dp.SelfComposedDpEvent(own, 20)
        return [Event(1, "a", "dpsgd", "record", "zero_out", "server_updates", run, True)]

    found = calibrate_noise(events, target, 1e-5, "zero_out")
    assert 0.99 * target <= found.epsilon <= target
