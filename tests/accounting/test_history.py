from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting.history import history
from fedprivacy.errors import AccountingError

GAUSS = dp.GaussianDpEvent(2.0)
STEP = dp.PoissonSampledDpEvent(0.2, GAUSS)
RAW = dp.NonPrivateDpEvent()


def test_equal_events_are_counted_through_every_nesting():
    nested = dp.ComposedDpEvent((dp.SelfComposedDpEvent(STEP, 5), STEP, dp.NoOpDpEvent()))
    assert history([dp.SelfComposedDpEvent(nested, 3), STEP]) == ((STEP, 19),)


def test_gaussians_merge_by_adding_precision():
    merged = history([dp.SelfComposedDpEvent(GAUSS, 4), dp.GaussianDpEvent(1.0)])
    assert merged is not None
    ((event, count),) = merged
    assert count == 1
    assert event.noise_multiplier == pytest.approx(1 / math.sqrt(4 / 4 + 1))


def test_order_does_not_matter():
    events = [GAUSS, STEP, dp.LaplaceDpEvent(3.0), dp.GaussianDpEvent(0.7)]
    assert history(events) == history(events[::-1])


@pytest.mark.parametrize(
    "event",
    [
        dp.NoOpDpEvent(),
        dp.SelfComposedDpEvent(RAW, 0),
        dp.PoissonSampledDpEvent(0.0, RAW),
        dp.PoissonSampledDpEvent(0.5, dp.NoOpDpEvent()),
        dp.RandomizedResponseDpEvent(1.0, 4),
        dp.RandomizedResponseDpEvent(0.0, 1),
        dp.MixtureOfGaussiansDpEvent(0.0, (0.0,), (1.0,)),
        dp.TruncatedSubsampledGaussianDpEvent(10, 0.5, 0, 1.0),
        dp.ComposedDpEvent(()),
    ],
)
def test_what_releases_nothing_costs_nothing(event):
    assert history([event]) == ()


@pytest.mark.parametrize(
    "event",
    [
        RAW,
        dp.GaussianDpEvent(0.0),
        dp.LaplaceDpEvent(0.0),
        dp.RandomizedResponseDpEvent(0.0, 2),
        dp.MixtureOfGaussiansDpEvent(0.0, (0.0, 1.0), (0.5, 0.5)),
        dp.TruncatedSubsampledGaussianDpEvent(10, 0.5, 2, 0.0),
        dp.PoissonSampledDpEvent(1e-9, RAW),
        dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(0.0)),
        dp.PoissonSampledDpEvent(0.1, dp.SelfComposedDpEvent(RAW, 2)),
        dp.SelfComposedDpEvent(dp.ComposedDpEvent((GAUSS, RAW)), 2),
    ],
)
def test_one_raw_release_spoils_the_history(event):
    assert history([GAUSS, event]) is None


def test_certain_sampling_is_no_sampling():
    assert history([dp.PoissonSampledDpEvent(1.0, GAUSS)]) == history([GAUSS])


def test_amplification_is_never_guessed():
    with pytest.raises(AccountingError, match="no amplification"):
        history([dp.PoissonSampledDpEvent(0.1, STEP)])
