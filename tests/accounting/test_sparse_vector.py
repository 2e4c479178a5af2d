from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.renyi import epsilon_rdp
from fedprivacy.accounting.sparse_vector import (
    SparseVectorPrice,
    epsilon_of_rounds,
    selection_epsilon,
)
from fedprivacy.errors import AccountingError

GAMMA, EPS, NOISE_VAR = 1e-5, 0.1, 0.1
KEPT = 10_000  # a tenth of 100,000 parameters


def legacy() -> SparseVectorPrice:
    """NVIDIA FLARE <= 2.7 at its defaults, after the clip that it lacks."""
    threshold = 2 * GAMMA / EPS
    query = (2 * GAMMA / EPS) * (2 * KEPT) ** (1 / 3)
    return SparseVectorPrice(selection_epsilon(GAMMA, threshold, query, KEPT), NOISE_VAR, KEPT)


def later() -> SparseVectorPrice:
    """NVIDIA FLARE >= 2.8 at its defaults."""
    eps_threshold = EPS / (1 + (2 * KEPT) ** (2 / 3))
    threshold, query = GAMMA / eps_threshold, 2 * KEPT * GAMMA / (EPS - eps_threshold)
    released = KEPT * NOISE_VAR
    return SparseVectorPrice(
        selection_epsilon(GAMMA, threshold, query, KEPT), released / KEPT, KEPT
    )


def test_selection_has_the_closed_form():
    assert legacy().selection == pytest.approx(EPS / 2 * (1 + (2 * KEPT) ** (2 / 3)))
    assert later().selection == pytest.approx(EPS)


def test_the_epsilon_of_the_configuration_is_not_the_epsilon():
    assert legacy().pure == pytest.approx(1036.9, abs=0.1)
    assert later().pure == pytest.approx(1000.1, abs=0.05)


def test_without_a_clip_there_is_no_bound(event):
    unclipped = SparseVectorPrice(1.0, math.inf, 10)
    assert unclipped.pure == math.inf
    assert unclipped.dp_event == dp.NonPrivateDpEvent()
    assert epsilon_of_rounds([unclipped], 1e-5) == math.inf


@pytest.mark.parametrize("rounds", [1, 5])
def test_ledger_and_renyi_sums_agree(event, rounds):
    price = later()
    events = [
        event(price.dp_event, number, unit="site", neighbouring="replace_one")
        for number in range(1, rounds + 1)
    ]
    ledger = epsilon(events, 1e-5, "replace_one")
    renyi = epsilon_of_rounds([price] * rounds, 1e-5)
    assert ledger <= renyi <= 1.1 * ledger
    # dp-accounting's Renyi sum of the same events, with its own bound for two answers.
    assert renyi == pytest.approx(epsilon_rdp(events, 1e-5, "replace_one"), rel=1e-3)
    assert renyi < price.pure * rounds


def test_zcdp_is_looser_than_renyi_and_both_than_nothing():
    price = later()
    rho = price.rho
    assert rho == pytest.approx((KEPT * NOISE_VAR**2 + EPS**2) / 2)
    zcdp = rho + 2 * math.sqrt(rho * math.log(1e5))
    assert epsilon_of_rounds([price], 1e-5) < zcdp < price.pure


def test_a_pure_sum_is_kept_where_it_is_smaller():
    tiny = SparseVectorPrice(0.01, 0.01, 1)
    assert epsilon_of_rounds([tiny], 1e-5) == pytest.approx(0.02)
    assert epsilon_of_rounds([], 1e-5) == 0.0


def test_releasing_with_endless_noise_costs_the_selection_only(event):
    price = SparseVectorPrice(0.4, 0.0, 5)
    found = epsilon([event(price.dp_event, neighbouring="replace_one")], 1e-9, "replace_one")
    assert found == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("fields", [(-1.0, 0.1, 1), (0.1, float("nan"), 1), (0.1, 0.1, 0)])
def test_nonsense_is_refused(fields):
    with pytest.raises(AccountingError):
        SparseVectorPrice(*fields)
    with pytest.raises(AccountingError):
        selection_epsilon(0.0, 1.0, 1.0, 1)
    with pytest.raises(AccountingError):
        epsilon_of_rounds([later()], 0.0)
