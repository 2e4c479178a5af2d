"""The running total is the library's composition, round by round, never below but by rounding."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting import dp_event as dp
from dp_accounting.pld import privacy_loss_distribution as plds
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprivacy.accounting import accountant, pld, running
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


@settings(deadline=None, max_examples=25)
@given(
    st.integers(-40, 40),
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12),
    st.floats(0.01, 0.5),
    st.floats(0.0, 0.3),
)
def test_a_coarser_grid_keeps_both_masses_and_dominates(
    lowest: int, weights: list[float], interval: float, infinite: float
) -> None:
    probs = np.array(weights) / sum(weights) * (1 - infinite)
    direction = running._Direction()
    direction._total = old = running.pld_pmf.DensePLDPmf(interval, lowest, probs, infinite, True)
    direction.coarsen()
    new = direction._total
    assert new._discretization == 2 * interval
    assert new._infinity_mass == infinite

    def losses(one):
        return (one._lower_loss + np.arange(one.size)) * one._discretization

    assert new._probs.sum() == pytest.approx(probs.sum())
    other = (old._probs * np.exp(-losses(old))).sum()
    assert (new._probs * np.exp(-losses(new))).sum() == pytest.approx(other)
    for epsilon_at_it in np.linspace(-5, 5, 41):
        gain = [
            (one._probs * np.maximum(-np.expm1(epsilon_at_it - losses(one)), 0)).sum()
            for one in (old, new)
        ]
        assert gain[1] >= gain[0] - 1e-12


def test_what_is_cut_and_wraps_around_is_billed(monkeypatch) -> None:
    """Cutting a thousandth in each round, the total stays above the exact one at every epsilon."""
    monkeypatch.setattr(running, "TAILS", 1e-3)
    wrapped = []
    turned_back = running._Direction._turned_back

    def watched(self, one, lowest, size):
        found = turned_back(self, one, lowest, size)
        wrapped.append((lowest - self._first) % self._length + size > self._length)
        return found

    monkeypatch.setattr(running._Direction, "_turned_back", watched)
    cut, parts = RunningLoss(INTERVAL), sampled(0.1, 1.0, 5)
    epsilons = np.linspace(0, 8, 60)
    for number in range(1, 21):
        ours = cut.add(partial(pld.composed, parts, "zero_out"))
        exact = library([(event, count * number) for event, count in parts])
        assert np.all(deltas_at(ours, epsilons) >= deltas_at(exact, epsilons) - 1e-12)
        assert ours._pmf_remove.size < exact._pmf_remove.size
    assert float(ours._pmf_remove._infinity_mass) == pytest.approx(0.02, rel=0.02)
    # Without the bill it would be below: what is cut matters.
    ours._pmf_remove._infinity_mass = ours._pmf_add._infinity_mass = 0.0
    assert np.any(deltas_at(ours, epsilons) < deltas_at(exact, epsilons) - 1e-6)
    assert any(wrapped)


def test_a_thousand_rounds_do_not_gather_rounding() -> None:
    parts, found = sampled(0.01, 4.0, 2), RunningLoss(INTERVAL)
    for _ in range(1000):
        total = found.add(partial(pld.composed, parts, "zero_out"))
    exact = pld.composed(sampled(0.01, 4.0, 2000), "zero_out", INTERVAL)
    assert found.interval == INTERVAL
    for delta in (1e-5, 1e-8, 1e-10):
        # What was cut is billed, and is still in the transform.
        at_most = epsilon_at(exact, delta - 2 * 1000 * running.TAILS)
        assert epsilon_at(exact, delta) - 1e-6 <= epsilon_at(total, delta) <= at_most + 1e-6


def test_mass_at_infinity_adds_up() -> None:
    def leaky(interval: float):
        pmf = running.pld_pmf.DensePLDPmf(interval, -1, np.array([0.4, 0.2, 0.3]), 0.1, True)
        return plds.PrivacyLossDistribution(pmf)

    found = RunningLoss(INTERVAL)
    for number in range(1, 30):
        total = found.add(leaky)
        assert total._pmf_remove._infinity_mass == pytest.approx(1 - 0.9**number)


def test_a_first_round_longer_than_any_total() -> None:
    """The second round finds a grid on which the first fits, and stays a bound."""
    long = sampled(0.001, 0.5, 1)
    found, true = RunningLoss(1e-4), library(long, 1e-4)
    found.add(partial(pld.composed, long, "zero_out"))
    ours = found.add(partial(pld.composed, long, "zero_out"))
    assert found.interval > 1e-4
    true = true.compose(true)
    for delta in (1e-4, 1e-6):
        expected = true.get_epsilon_for_delta(delta)
        assert expected - 1e-9 <= epsilon_at(ours, delta) <= expected + 1e-3


def test_a_curve_s_grid_coarsens_and_still_ends_at_the_headline(run, dpsgd, monkeypatch) -> None:
    ledger = run(30, dp_event=dpsgd(0.1, 1.0, 10))
    fine = per_round(ledger, 1e-5, "zero_out")
    monkeypatch.setattr(running, "LONGEST", 3000)
    accountant._cumulative.cache_clear()
    coarse = per_round(ledger, 1e-5, "zero_out")
    accountant._cumulative.cache_clear()
    assert coarse != fine
    assert coarse[30] == pytest.approx(epsilon(ledger, 1e-5, "zero_out"), abs=1e-6)
    values = list(coarse.values())
    assert values == sorted(values)
    assert all(fine[at] - 1e-6 <= coarse[at] <= fine[at] + 0.05 for at in fine)


def test_a_fine_curve_that_coarsens_still_ends_at_the_headline(run, dpsgd) -> None:
    ledger = run(20, dp_event=dpsgd(0.001, 0.5, 1))
    curve = per_round(ledger, 1e-4, "zero_out")
    whole = epsilon(ledger, 1e-4, "zero_out")
    assert whole > 0
    assert curve[20] == pytest.approx(whole, abs=1e-6)
    for number in (1, 7, 15):
        prefix = ledger.where(lambda event, last=number: event.round <= last)
        alone = epsilon(prefix, 1e-4, "zero_out")
        assert alone - 1e-6 <= curve[number] <= alone + 0.005


def test_rounds_without_release_cost_nothing(event, dpsgd) -> None:
    step, nothing = dpsgd(0.1, 1.0, 5), dp.NoOpDpEvent()
    events = [event(step if number in (2, 5) else nothing, number) for number in range(1, 7)]
    curve = per_round(events, 1e-5, "zero_out")
    assert curve[1] == 0
    assert curve[2] == curve[3] == curve[4] < curve[5] == curve[6]
    assert curve[6] == pytest.approx(epsilon(events, 1e-5, "zero_out"), abs=1e-6)


def test_a_curve_has_the_pure_epsilons_where_the_grid_has_none(event) -> None:
    events = [
        event(dp.LaplaceDpEvent(1e-5), n, unit="site", neighbouring="replace_one") for n in (1, 2)
    ]
    curve = per_round(events, 1e-5, "replace_one")
    assert curve[2] == pytest.approx(epsilon(events, 1e-5, "replace_one"))


def test_grids_that_differ_do_not_compose() -> None:
    found = RunningLoss(INTERVAL)
    found.add(partial(pld.composed, GAUSSIAN, "zero_out"))
    with pytest.raises(ValueError, match="intervals are different"):
        found.add(lambda interval: pld.composed(GAUSSIAN, "zero_out", 2 * interval))
