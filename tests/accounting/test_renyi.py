from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event as dp
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.renyi import SAMPLED_ORDERS, epsilon_rdp
from fedprivacy.errors import AccountingError

# Shrinking would run the accountant for minutes.
PRICED = settings(max_examples=8, deadline=None, phases=(Phase.reuse, Phase.generate))


@pytest.mark.parametrize(
    ("rate", "sigma", "steps", "expected"),
    [
        (0.04, 1.5, 2250, 7.32911117143),
        (256 / 60000, 1.1, 14000, 2.59038),
        (0.01, 4.0, 10000, 1.0355),
        (0.01, 1.0, 1000, 2.101),
        (0.04, 1.3562, 2000, 8.0),
    ],
)
def test_known_values(event, dpsgd, rate, sigma, steps, expected):
    priced = epsilon_rdp([event(dpsgd(rate, sigma, steps))], 1e-5, "zero_out")
    assert priced == pytest.approx(expected, rel=1e-3)


@PRICED
@given(st.floats(1.0, 5.0), st.floats(0.005, 0.1), st.integers(10, 500))
def test_agrees_with_opacus_and_lies_above_the_accountant_of_record(
    event, dpsgd, sigma, rate, steps
):
    events = [event(dpsgd(rate, sigma, steps))]
    opacus = RDPAccountant()
    opacus.history = [(sigma, rate, steps)]
    priced = epsilon_rdp(events, 1e-5, "zero_out")
    assert priced == pytest.approx(opacus.get_epsilon(1e-5, alphas=list(SAMPLED_ORDERS)), rel=0.01)
    assert priced >= epsilon(events, 1e-5, "zero_out") - 0.01


@pytest.mark.parametrize(
    "dp_event",
    [
        dp.GaussianDpEvent(3.0),
        dp.SelfComposedDpEvent(dp.LaplaceDpEvent(20.0), 1000),
        dp.RandomizedResponseDpEvent(0.3, 3),
    ],
)
def test_replace_one_has_the_sensitivity_of_the_accountant_of_record(event, dp_event):
    """dp-accounting's RDP alone would price a Gaussian at half the sensitivity here."""
    events = [event(dp_event, neighbouring="replace_one", unit="site")]
    tight = epsilon(events, 1e-5, "replace_one")
    # The grid of the accountant of record may put it 0.01 above an exact pure-DP bound.
    assert tight - 0.01 <= epsilon_rdp(events, 1e-5, "replace_one") <= 1.2 * tight


def test_nothing_and_everything(event):
    assert epsilon_rdp([], 1e-5, "zero_out") == 0.0
    assert epsilon_rdp([event(dp.NonPrivateDpEvent())], 1e-5, "zero_out") == math.inf


def test_unknown_renyi_bounds_are_refused(event, dpsgd):
    with pytest.raises(AccountingError, match="no Renyi bound"):
        epsilon_rdp([event(dpsgd(), neighbouring="replace_one")], 1e-5, "replace_one")
    with pytest.raises(AccountingError, match="no Renyi bound"):
        epsilon_rdp(
            [event(dp.TruncatedSubsampledGaussianDpEvent(4, 0.5, 2, 1.0))], 1e-5, "zero_out"
        )
