"""Known answers of other accountants, and mistakes of others that must not happen here."""

from __future__ import annotations

import pytest
from dp_accounting import dp_event as dp
from opacus.accountants.utils import get_noise_multiplier

from fedprivacy.accounting import Event, calibrate_noise, epsilon
from fedprivacy.errors import AccountingError


def event(release: dp.DpEvent) -> Event:
    return Event(1, "a", "dpsgd", "record", "zero_out", "server_updates", release, True)


def steps(q: float, sigma: float, count: int) -> dp.DpEvent:
    return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma)), count)


def test_opacus_prv_is_ours_and_its_error_on_top() -> None:
    # Opacus' own test: sigma 1.5, q 0.04, 2249 steps, delta 1e-5; it adds eps_error = 0.01.
    ours = epsilon([event(steps(0.04, 1.5, 2249))], 1e-5, "zero_out")
    assert ours == pytest.approx(6.76705, abs=0.001)
    assert 6.777395712150674 - ours == pytest.approx(0.01, abs=0.002)


def test_noise_for_ninety_epochs_as_opacus_finds_it() -> None:
    theirs = get_noise_multiplier(
        target_epsilon=8, target_delta=1e-5, sample_rate=0.04, epochs=90, accountant="prv"
    )
    assert theirs == pytest.approx(1.34765625, abs=1e-6)
    count = round(90 / 0.04)
    ours = calibrate_noise(lambda z: [event(steps(0.04, z, count))], 8.0, 1e-5, "zero_out")
    assert ours.epsilon <= 8.0
    # Theirs is found to 0.01 in epsilon, and pays the error bound on top.
    assert ours.noise_multiplier == pytest.approx(theirs, rel=0.005)


def test_client_sampling_does_not_multiply_into_record_sampling() -> None:
    inner = dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(1.0))
    with pytest.raises(AccountingError, match="no amplification by sampling is known"):
        epsilon([event(dp.PoissonSampledDpEvent(0.1, inner))], 1e-5, "zero_out")
    product = epsilon([event(steps(0.01, 1.0, 100))], 1e-5, "zero_out")
    seen = epsilon([event(steps(0.1, 1.0, 100))], 1e-5, "zero_out")
    assert product == pytest.approx(0.718, abs=0.01)
    assert seen == pytest.approx(7.047, abs=0.01)
