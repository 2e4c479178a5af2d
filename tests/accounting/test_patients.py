from __future__ import annotations

import pytest
from dp_accounting import dp_event as dp
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.patients import patient_event
from fedprivacy.errors import AccountingError

# Shrinking would run the accountant for minutes.
PRICED = settings(max_examples=4, deadline=None, phases=(Phase.reuse, Phase.generate))


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (1, 1.83),
        (2, 3.98),
        (3, 6.34),
        (4, 8.90),
        pytest.param(8, 20.9, marks=pytest.mark.slow),
    ],
)
def test_a_patient_with_several_records(event, dpsgd, records, expected):
    """q=0.01, sigma=1, 1000 steps, delta 1e-5: four mammograms turn 1.83 into 8.90."""
    restated = patient_event(dpsgd(0.01, 1.0, 1000), records, "zero_out")
    priced = epsilon([event(restated, unit="patient")], 1e-5, "zero_out")
    assert priced == pytest.approx(expected, abs=0.06 if records == 8 else 0.011)


@PRICED
@given(st.floats(0.7, 4.0), st.floats(0.005, 0.3), st.integers(1, 4))
def test_grows_with_the_records(event, dpsgd, sigma, rate, records):
    def priced(count):
        restated = patient_event(dpsgd(rate, sigma, 10), count, "zero_out")
        return epsilon([event(restated, unit="patient")], 1e-5, "zero_out")

    assert priced(records + 1) >= priced(records) - 1e-6


def test_without_sampling_the_noise_is_divided():
    gaussian, laplace = dp.GaussianDpEvent(6.0), dp.LaplaceDpEvent(6.0)
    both = dp.ComposedDpEvent((gaussian, dp.SelfComposedDpEvent(laplace, 2)))
    assert patient_event(both, 3, "replace_one") == dp.ComposedDpEvent(
        (dp.GaussianDpEvent(2.0), dp.SelfComposedDpEvent(dp.LaplaceDpEvent(2.0), 2))
    )


def test_sampling_everything_or_nothing():
    certain = patient_event(dp.PoissonSampledDpEvent(1, dp.GaussianDpEvent(6.0)), 3, "replace_one")
    assert certain == dp.PoissonSampledDpEvent(1, dp.GaussianDpEvent(2.0))


def test_labels_answered_one_by_one_compose():
    answer = dp.RandomizedResponseDpEvent(0.5, 3)
    assert patient_event(answer, 4, "replace_one") == dp.SelfComposedDpEvent(answer, 4)


def test_raw_stays_raw():
    assert patient_event(dp.NonPrivateDpEvent(), 4, "zero_out") == dp.NonPrivateDpEvent()


@pytest.mark.parametrize(
    ("dp_event", "records", "relation"),
    [
        (dp.GaussianDpEvent(1.0), 0, "zero_out"),
        (dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(1.0)), 2, "replace_one"),
        (dp.PoissonSampledDpEvent(0.1, dp.LaplaceDpEvent(1.0)), 2, "zero_out"),
        (dp.TruncatedSubsampledGaussianDpEvent(10, 0.1, 2, 1.0), 2, "zero_out"),
        (dp.MixtureOfGaussiansDpEvent(1.0, (0.0, 1.0), (0.5, 0.5)), 2, "zero_out"),
    ],
)
def test_what_is_not_known_is_refused(dp_event, records, relation):
    with pytest.raises(AccountingError):
        patient_event(dp_event, records, relation)
