"""The running total is the library's own composition, round by round, and never below it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting import dp_event as dp
from dp_accounting.pld import privacy_loss_distribution as plds
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprivacy.accounting import pld, running
from fedprivacy.accounting.accountant import epsilon, per_round
from fedprivacy.accounting.history import History, history
from fedprivacy.accounting.hockey_stick import deltas_at, epsilon_at
from fedprivacy.accounting.running import RunningLoss

INTERVAL = 1e-3
DELTAS = (1e-3, 1e-5, 1e-8)


def sampled(rate: float, sigma: float, steps: int) -> History:
    step = dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma))
    return history([dp.SelfComposedDpEvent(step, steps)])


def library(parts: History, interval: float = INTERVAL):
    """Straight from dp-accounting, one composition after another."""
    total = plds.identity(value_discretization_interval=interval)
    for event, count in parts:
        inner, rate = getattr(event, "event", event), getattr(event, "sampling_probability", 1.0)
        if isinstance(inner, dp.LaplaceDpEvent):
            one = plds.from_laplace_mechanism(
                inner.noise_multiplier, value_discretization_interval=interval
            )
        else:
            one = plds.from_gaussian_mechanism(
                inner.noise_multiplier,
                sampling_prob=rate,
                neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
                value_discretization_interval=interval,
            )
        total = total.compose(one.self_compose(count))
    return total


GAUSSIAN = history([dp.GaussianDpEvent(4.0)])
LAPLACE = history([dp.LaplaceDpEvent(5.0)])
ROUNDS = {
    "one round again and again": [sampled(0.1, 1.0, 5)] * 12,
    "other noise in each": [sampled(0.1, 2.0 * 0.9**k, 3) for k in range(8)],
    "directions alike": [GAUSSIAN] * 9,
    "alike at first": [GAUSSIAN, LAPLACE, sampled(0.2, 2.0, 4), GAUSSIAN],
    "rare and large": [sampled(0.001, 0.5, 1)] * 20,
}


@pytest.mark.parametrize("name", ROUNDS)
def test_each_total_is_the_library_s(name: str) -> None:
    total, found = plds.identity(value_discretization_interval=INTERVAL), RunningLoss(INTERVAL)
    for number, parts in enumerate(ROUNDS[name], start=1):
        total = total.compose(library(parts))
        ours = found.add(partial(pld.composed, parts, "zero_out"))
        for delta in DELTAS:
            at_most = total.get_epsilon_for_delta(delta - number * running.TAILS)
            epsilon_found = epsilon_at(ours, delta)
            assert total.get_epsilon_for_delta(delta) - 1e-7 <= epsilon_found <= at_most + 1e-7
    assert found.interval == INTERVAL


@pytest.mark.parametrize("name", ROUNDS)
def test_a_coarser_grid_is_never_below_and_little_above(name: str, monkeypatch) -> None:
    parts = ROUNDS[name] * 2
    exact, coarse = RunningLoss(INTERVAL), RunningLoss(INTERVAL)
    for one in parts:
        true = exact.add(partial(pld.composed, one, "zero_out"))
        with monkeypatch.context() as patched:
            patched.setattr(running, "LONGEST", 2000)
            ours = coarse.add(partial(pld.composed, one, "zero_out"))
        assert exact.interval == INTERVAL
        for delta in DELTAS:
            expected = epsilon_at(true, delta)
            found = epsilon_at(ours, delta)
            assert expected - 1e-6 <= found <= expected + 4 * coarse.interval
        epsilons = np.linspace(0, 5, 20)
        assert np.all(deltas_at(ours, epsilons) >= deltas_at(true, epsilons) - 1e-12)
    assert coarse.interval > INTERVAL


@settings(deadline=None, max_examples=15)
@given(st.integers(-40, 40), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12))
def test_rounding_up_keeps_all_mass_and_lowers_no_loss(lowest: int, weights: list[float]) -> None:
    probs = np.array(weights) / sum(weights)
    direction = running._Direction()
    direction._total = running.pld_pmf.DensePLDPmf(INTERVAL, lowest, probs, 0.0, True)
    direction.coarsen()
    after = direction._total
    losses = np.repeat(np.arange(after.size) + after._lower_loss, 2)
    assert after._probs.sum() == pytest.approx(1.0)
    for index, prob in enumerate(probs):
        new = -((lowest + index) // -2)  # rounded up
        assert prob <= after._probs[new - after._lower_loss] + 1e-15
        assert new in losses
        assert 0 <= 2 * new - (lowest + index) <= 1


def test_mass_that_wraps_around_is_billed() -> None:
    found = RunningLoss(INTERVAL)
    for number in range(1, 31):
        total = found.add(partial(pld.composed, sampled(0.1, 1.0, 5), "zero_out"))
        billed = float(total._pmf_remove._infinity_mass)
        assert billed >= (number - 1) * running.TAILS
        finite = float(np.sum(total._pmf_remove._probs))
        assert finite + billed >= 1 - 1e-13


def test_a_curve_s_grid_coarsens_and_still_ends_at_the_headline(run, dpsgd, monkeypatch) -> None:
    ledger = run(30, dp_event=dpsgd(0.1, 1.0, 10))
    fine = per_round(ledger, 1e-5, "zero_out")
    monkeypatch.setattr(running, "LONGEST", 3000)
    from fedprivacy.accounting import accountant

    accountant._cumulative.cache_clear()
    coarse = per_round(ledger, 1e-5, "zero_out")
    accountant._cumulative.cache_clear()
    assert coarse != fine
    assert coarse[30] == pytest.approx(epsilon(ledger, 1e-5, "zero_out"), abs=1e-6)
    values = list(coarse.values())
    assert values == sorted(values)
    assert all(fine[at] - 1e-6 <= coarse[at] <= fine[at] + 0.05 for at in fine)


def test_grids_that_differ_do_not_compose() -> None:
    found = RunningLoss(INTERVAL)
    found.add(partial(pld.composed, GAUSSIAN, "zero_out"))
    with pytest.raises(ValueError, match="intervals are different"):
        found.add(lambda interval: pld.composed(GAUSSIAN, "zero_out", 2 * interval))
