"""What a search costs, against dp-accounting and published values."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import rdp_privacy_accountant
from scipy import stats

from fedprivacy.accounting import Event, Ledger
from fedprivacy.tuning.search_price import (
    ADAPTIVE,
    PUBLIC,
    RANDOM,
    draw_trials,
    price_search,
    resolve_scheme,
)

STEP = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0))
RUN = dp_accounting.SelfComposedDpEvent(STEP, 1000)
SAID = {"unit": "record", "neighbouring": "zero_out", "view": "server_updates", "delta": 1e-5}


def ledger(event: dp_accounting.DpEvent = RUN, protected: bool = True) -> Ledger:
    about = ("dpsgd", "record", "zero_out", "server_updates")
    return Ledger(tuple(Event(1, site, *about, event, protected) for site in ("A", "B")))


def price(scheme: str, ledgers, missing: int = 0, mean: float = 10, shape: float = 0.0):
    return price_search(scheme, ledgers, missing, SAID, 1.83, mean_trials=mean, shape=shape)


@pytest.mark.parametrize(("shape", "known"), [(0.0, 3.523), (1.0, 4.103)])
def test_private_random_search_costs_what_papernot_and_steinke_say(shape, known) -> None:
    found = price(RANDOM, [ledger()] * 7, shape=shape)
    assert found.epsilon_search == pytest.approx(known, abs=0.01)
    assert not found.infinite
    assert any("drawn beforehand" in words for words in found.assumptions)


def test_everything_shown_is_composed() -> None:
    found = price(ADAPTIVE, [ledger()] * 10)
    assert found.epsilon_search == pytest.approx(6.191, abs=0.02)
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(RUN, 10)
    assert found.epsilon_search == pytest.approx(accountant.get_epsilon(1e-5), abs=0.02)


def test_different_trials_are_composed_and_have_no_price_as_repetitions() -> None:
    other = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(2.0)), 500
    )
    both = [ledger(), ledger(other)]
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(RUN).compose(other)
    assert price(ADAPTIVE, both).epsilon_search == pytest.approx(
        accountant.get_epsilon(1e-5), abs=0.02
    )
    repeated = price(RANDOM, both)
    assert repeated.infinite
    assert repeated.epsilon_search is None
    assert "differ in what they release" in repeated.reason


def test_a_twin_without_protection_makes_an_adaptive_search_infinite() -> None:
    raw = ledger(dp_accounting.NonPrivateDpEvent(), protected=False)
    found = price(ADAPTIVE, [ledger(), raw])
    assert found.infinite
    assert found.epsilon_search is None
    assert found.reason


def test_unknown_ledgers_make_it_infinite() -> None:
    found = price(ADAPTIVE, [ledger()], missing=2)
    assert found.infinite
    assert "2 runs are not here" in found.reason


def test_public_records_have_no_price_and_yet_are_told_what_it_would_have_been() -> None:
    found = price(PUBLIC, [ledger()] * 10)
    assert found.epsilon_search is None
    assert not found.infinite
    assert found.epsilon_if_private == pytest.approx(6.191, abs=0.02)


def test_auto_takes_synthetic_records_for_public_and_others_for_patients() -> None:
    assert resolve_scheme("auto", synthetic=True) == PUBLIC
    assert resolve_scheme("auto", synthetic=False) == ADAPTIVE
    assert resolve_scheme(RANDOM, synthetic=False) == RANDOM


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0])
def test_the_number_of_trials_has_the_law_that_is_priced(shape: float) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_trials(10, shape, rng) for _ in range(20_000)])
    assert drawn.min() == 1
    assert drawn.mean() == pytest.approx(10, rel=0.05)
    gamma = rdp_privacy_accountant._gamma_truncated_negative_binomial(shape, 10)
    ks = np.arange(1, 40)
    if shape == 0:
        law = stats.logser(1 - gamma).pmf(ks)
    else:
        law = stats.nbinom(shape, gamma).pmf(ks) / (1 - stats.nbinom(shape, gamma).pmf(0))
    seen = np.array([(drawn == k).mean() for k in ks])
    assert np.abs(seen - law).max() < 0.015


def test_a_mean_of_one_is_one_trial() -> None:
    assert draw_trials(1, 0.0, np.random.default_rng(0)) == 1
    assert math.isclose(price(RANDOM, [ledger()], mean=1).epsilon_search or 0, 2.10, abs_tol=0.02)
