"""The accountant of record against closed forms, dp-accounting's and Opacus' own test values."""

from __future__ import annotations

import math
import time

import pytest
from dp_accounting import dp_event as dp
from dp_accounting.pld import privacy_loss_distribution as plds
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from fedprivacy.accounting.accountant import bound, epsilon, per_round
from fedprivacy.accounting.history import history
from fedprivacy.accounting.pld import composed
from fedprivacy.errors import AccountingError

# Shrinking would run the accountant for minutes.
PRICED = settings(max_examples=6, deadline=None, phases=(Phase.reuse, Phase.generate))
RAW = dp.NonPrivateDpEvent()


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Balle & Wang 2018, theorem 8, solved for epsilon; sensitivity 1."""

    def excess(value: float) -> float:
        upper = norm.cdf(0.5 / sigma - value * sigma)
        lower = math.exp(value + norm.logcdf(-0.5 / sigma - value * sigma))
        return upper - lower - delta

    return brentq(excess, 0.0, 1e3, xtol=1e-12)


@pytest.fixture(scope="module")
def cost(event):
    """``cost(dp_event, delta, neighbouring)``: epsilon of one event."""

    def price(dp_event, delta=1e-5, neighbouring="zero_out"):
        return epsilon([event(dp_event, neighbouring=neighbouring)], delta, neighbouring)

    return price


@pytest.mark.parametrize(
    ("sigma", "delta", "expected"),
    [
        (1.0, 1e-5, 4.377178),
        (2.0, 1e-5, 1.993091),
        (0.5, 1e-5, 9.997256),
        (5.0, 1e-5, 0.725522),
        (1.0, 1e-6, 4.886554),
        (3.730632, 1e-5, 1.0),
        (4.224679, 1e-6, 1.0),
        (0.600229, 1e-5, 8.0),
    ],
)
def test_gaussian_mechanism(cost, sigma, delta, expected):
    assert gaussian_epsilon(sigma, delta) == pytest.approx(expected, abs=2e-6)
    assert cost(dp.GaussianDpEvent(sigma), delta) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 30.0, 1000.0])
def test_upper_bound_whatever_the_noise(cost, sigma):
    exact = brentq_wide(sigma)
    priced = cost(dp.GaussianDpEvent(sigma))
    assert exact - 1e-9 <= priced <= exact * 1.001 + 1e-4


def brentq_wide(sigma: float) -> float:
    def excess(value: float) -> float:
        upper = norm.cdf(0.5 / sigma - value * sigma)
        lower = math.exp(value + norm.logcdf(-0.5 / sigma - value * sigma))
        return upper - lower - 1e-5

    return brentq(excess, 0.0, 5000.0) if excess(0.0) > 0 else 0.0


def test_steps_of_a_gaussian_divide_its_noise(cost):
    steps = dp.SelfComposedDpEvent(dp.GaussianDpEvent(5.0), 50)
    assert cost(steps) == pytest.approx(gaussian_epsilon(5 / math.sqrt(50), 1e-5), abs=1e-5)
    assert cost(steps) == pytest.approx(6.573, abs=1e-3)


@pytest.mark.parametrize(
    ("rate", "sigma", "steps", "delta", "expected"),
    [
        (0.00427, 1.1, 14000, 1e-5, 2.376),
        (0.01, 1.0, 1000, 1e-5, 1.828),
        (0.2, 1.0, 100, 1e-3, 10.603),
        (5.1e-4, 0.6, 20000, 1e-6, 2.362),
        (0.01, 4.0, 10000, 1e-5, 0.9470),
        (256 / 60000, 1.1, 14000, 1e-5, 2.37593),
        (0.02, 0.8, 50, 1e-3, 1.030),
        (0.04, 1.5, 2249, 1e-5, 6.76705),
    ],
)
def test_poisson_sampled_gaussian(cost, dpsgd, rate, sigma, steps, delta, expected):
    # The grid of 1e-3 overstates a little; it never understates.
    priced = cost(dpsgd(rate, sigma, steps), delta)
    assert expected - 6e-4 <= priced <= expected + 0.014


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "theirs", "ours"),
    [
        (0.8, 0.001, 100, 0.270403, 0.26034),
        (1.5, 0.001, 1000, 0.099821, 0.08988),
        (0.8, 0.05, 100, 6.741052, 6.73063),
        (3.0, 0.2, 100, 3.381221, 3.37106),
        (1.5, 0.05, 1000, 6.209969, 6.19970),
        (0.8, 0.001, 20000, 1.296009, 1.28615),
    ],
)
def test_table_of_the_prv_accountant(cost, dpsgd, sigma, rate, steps, theirs, ours):
    """Values of Opacus' test suite at delta 1e-6: the PLD plus the error 0.01 that PRV adds."""
    priced = cost(dpsgd(rate, sigma, steps), 1e-6)
    assert ours - 1e-5 <= priced <= ours * 1.02
    assert priced < theirs * 1.01


def test_opacus_prv_agrees_within_its_error(cost, dpsgd):
    prv = PRVAccountant()
    prv.history = [(2.0, 0.2, 240)]
    assert prv.get_epsilon(1e-5) - 0.011 <= cost(dpsgd(steps=240)) <= prv.get_epsilon(1e-5) + 1e-3


@pytest.mark.parametrize(
    ("parts", "at", "expected"),
    [
        ([(dp.GaussianDpEvent(math.sqrt(3)), 3)], 1.0, 0.126936),
        ([(dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(0.5)), 3)], 1.0, 0.15594),
    ],
)
def test_delta_values_of_dp_accountings_tests(parts, at, expected):
    distribution = composed(tuple(parts), "add_remove", 1e-3)
    assert distribution.get_delta_for_epsilon(at) == pytest.approx(expected, rel=1e-3)


def test_epsilon_values_of_dp_accountings_tests(cost):
    mixtures = dp.ComposedDpEvent(
        [
            dp.SelfComposedDpEvent(dp.MixtureOfGaussiansDpEvent(1, [0, 1, 2], [0.2, 0.6, 0.2]), 3),
            dp.SelfComposedDpEvent(
                dp.MixtureOfGaussiansDpEvent(2, [0, 2, 3], [0.33, 0.34, 0.33]), 2
            ),
        ]
    )
    assert cost(mixtures, 1e-6, "add_remove") == pytest.approx(17.193115, abs=1e-4)
    truncated = dp.ComposedDpEvent(
        [
            dp.SelfComposedDpEvent(dp.TruncatedSubsampledGaussianDpEvent(4, 0.5, 2, 1.0), 3),
            dp.SelfComposedDpEvent(dp.TruncatedSubsampledGaussianDpEvent(3, 0.5, 2, 1.0), 2),
        ]
    )
    assert cost(truncated, 1e-6, "add_remove") == pytest.approx(17.904330, abs=1e-3)


@pytest.mark.parametrize(("rounds", "expected"), [(1, 2.220), (4, 4.458), (11, 7.783), (12, 8.181)])
def test_schedules(run, rounds, expected):
    assert epsilon(run(rounds), 1e-5, "zero_out") == pytest.approx(expected, abs=6e-4)
    mixed = run(12, lambda number: number <= rounds)
    total = epsilon(mixed, 1e-5, "zero_out")
    assert total == epsilon(mixed.protected(), 1e-5, "zero_out") if rounds == 12 else math.inf
    assert epsilon(mixed.protected(), 1e-5, "zero_out") == pytest.approx(expected, abs=6e-4)


def test_no_release_costs_nothing_and_a_raw_one_everything(cost):
    assert epsilon([], 1e-5, "zero_out") == 0.0
    assert cost(dp.NoOpDpEvent()) == 0.0
    assert cost(RAW) == math.inf
    assert cost(dp.ComposedDpEvent([dp.GaussianDpEvent(100.0), RAW])) == math.inf


@pytest.mark.parametrize("relation", ["zero_out", "add_remove"])
def test_add_remove_and_zero_out_give_the_same_numbers(cost, dpsgd, relation):
    assert cost(dpsgd(), 1e-5, relation) == pytest.approx(2.219704, abs=1e-6)


def test_replacing_moves_a_sum_by_two_clip_norms(cost, dpsgd):
    for sigma in (1.0, 2.0, 5.0):
        twice = cost(dp.GaussianDpEvent(2 * sigma), 1e-5, "replace_one")
        assert twice == pytest.approx(cost(dp.GaussianDpEvent(sigma)), abs=1e-6)
        laplace = cost(dp.LaplaceDpEvent(2 * sigma), 1e-5, "replace_one")
        assert laplace == pytest.approx(cost(dp.LaplaceDpEvent(sigma)), abs=1e-6)
    assert cost(dpsgd(0.01, 1.0, 1000), 1e-5, "replace_one") == pytest.approx(2.843, abs=0.01)


def test_laplace_mechanism_is_purely_private(cost):
    # delta(e) = 1 - exp((e - 1/b)/2) for 0 <= e <= 1/b (Dwork & Roth 2014; exact for Laplace).
    for scale in (0.2, 1.0, 4.0):
        exact = 1 / scale + 2 * math.log1p(-1e-3)
        assert cost(dp.LaplaceDpEvent(scale), 1e-3) == pytest.approx(exact, abs=2e-3)


def test_randomised_response_counts_its_repetitions(cost):
    # k categories: eps = log(p (k - 1) / (1 - p)), p the probability of the true answer.
    noise, buckets = 0.5, 4
    truth = 1 - noise + noise / buckets
    pure = math.log(truth * (buckets - 1) / (1 - truth))
    once = dp.RandomizedResponseDpEvent(noise, buckets)
    assert cost(once, 1e-10, "replace_one") == pytest.approx(pure, abs=2e-3)
    thrice = cost(dp.SelfComposedDpEvent(once, 3), 1e-10, "replace_one")
    assert thrice == pytest.approx(3 * pure, abs=5e-3)


@pytest.mark.parametrize(
    ("dp_event", "relation"),
    [
        (dp.RandomizedResponseDpEvent(0.5, 4), "add_remove"),
        (dp.MixtureOfGaussiansDpEvent(1.0, (0.0, 1.0), (0.5, 0.5)), "replace_one"),
        (dp.PoissonSampledDpEvent(0.1, dp.LaplaceDpEvent(1.0)), "replace_one"),
        (dp.PoissonSampledDpEvent(0.1, dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.0), 2)), None),
    ],
)
def test_unknown_bounds_are_refused(cost, dp_event, relation):
    with pytest.raises(AccountingError):
        cost(dp_event, 1e-5, relation or "zero_out")


def test_sampling_sites_never_multiplies_into_the_rate_of_records(cost, dpsgd):
    """q_c = q_b = .1, sigma 1, 100 local steps: 7.047, where multiplied rates would say .718."""
    local = dpsgd(0.1, 1.0, 100)
    assert cost(local) == pytest.approx(7.047, abs=0.01)
    assert cost(dpsgd(0.01, 1.0, 100)) == pytest.approx(0.718, abs=0.01)
    with pytest.raises(AccountingError, match="no amplification"):
        cost(dp.PoissonSampledDpEvent(0.1, local))


def test_only_events_of_one_kind_compose(event):
    gaussian = dp.GaussianDpEvent(1.0)
    record = event(gaussian)
    for other in (
        event(gaussian, unit="site"),
        event(gaussian, neighbouring="add_remove"),
        event(gaussian, view="final_model"),
    ):
        with pytest.raises(AccountingError, match="do not compose"):
            epsilon([record, other], 1e-5, "zero_out")
        with pytest.raises(AccountingError, match="do not compose"):
            per_round([record, other], 1e-5, "zero_out")
    with pytest.raises(AccountingError, match="epsilon was asked for replace_one"):
        epsilon([record], 1e-5, "replace_one")
    with pytest.raises(AccountingError, match="neighbouring='swap'"):
        epsilon([record], 1e-5, "swap")


@pytest.mark.parametrize("delta", [0.0, 1e-11, 1.0, -1.0, float("nan")])
def test_delta_out_of_range_is_refused(event, delta):
    with pytest.raises(AccountingError, match="delta="):
        epsilon([event(dp.GaussianDpEvent(1.0))], delta, "zero_out")


def test_the_grid_is_named(event):
    small = bound([event(dp.GaussianDpEvent(100.0))], 1e-5, "zero_out")
    assert small.interval == 1e-4
    assert small.accountant.startswith("dp-accounting 0.6")
    assert "grid of 0.0001" in small.accountant
    assert bound([event(RAW)], 1e-5, "zero_out").interval == 0.0


def test_a_nearly_noiseless_mechanism_is_priced_without_filling_memory(cost):
    started = time.perf_counter()
    exact = 0.5e6 + 1e3 * norm.isf(1e-5)  # mean of the loss plus its quantile, for mu = 1000
    assert cost(dp.GaussianDpEvent(1e-3)) == pytest.approx(exact, rel=1e-3)
    assert time.perf_counter() - started < 20


def test_curve_over_rounds_equals_the_prefixes(run):
    ledger = run(6)
    curve = per_round(ledger, 1e-5, "zero_out")
    for number, value in curve.items():
        prefix = ledger.where(lambda event, last=number: event.round <= last)
        assert value == pytest.approx(epsilon(prefix, 1e-5, "zero_out"), abs=1e-6)


def test_curve_is_fine_while_epsilon_is_small(run, dpsgd):
    ledger = run(12, dp_event=dpsgd(0.05, 4.0, 20))
    curve = per_round(ledger, 1e-5, "zero_out")
    for number in (1, 6, 12):
        prefix = ledger.where(lambda event, last=number: event.round <= last)
        assert curve[number] == pytest.approx(epsilon(prefix, 1e-5, "zero_out"), abs=1e-4)
    values = list(curve.values())
    assert values == sorted(values)
    assert values[0] < 0.5 < values[-1]


def test_curve_ends_at_the_first_raw_release(run):
    curve = per_round(run(5, lambda number: number != 3), 1e-5, "zero_out")
    assert curve[2] == pytest.approx(3.114, abs=1e-3)
    assert [curve[number] for number in (3, 4, 5)] == [None, None, None]
    assert per_round([], 1e-5, "zero_out") == {}


def test_curve_of_changing_noise(event, dpsgd):
    events = [event(dpsgd(sigma=2.0 * 0.9**k), k + 1) for k in range(5)]
    curve = per_round(events, 1e-5, "zero_out")
    assert curve[5] == pytest.approx(epsilon(events, 1e-5, "zero_out"), abs=1e-5)


def test_a_hundred_rounds_are_priced_at_once(run):
    ledger = run(100, dp_event=dp.SelfComposedDpEvent(
        dp.PoissonSampledDpEvent(0.0123, dp.GaussianDpEvent(1.23)), 81))  # fmt: skip
    started = time.process_time()
    epsilon(ledger, 1e-5, "zero_out")
    assert time.process_time() - started < 0.6  # 0.1 s on an idle core


sigmas = st.floats(1.0, 20.0)
rates = st.floats(0.001, 0.3)
step_counts = st.integers(1, 60)
SLACK = 1e-6  # float noise of the FFT


@PRICED
@given(sigmas, rates, step_counts, st.floats(1.01, 3.0))
def test_falls_with_noise(cost, dpsgd, sigma, rate, steps, factor):
    assert cost(dpsgd(rate, sigma * factor, steps)) <= cost(dpsgd(rate, sigma, steps)) + SLACK


@PRICED
@given(sigmas, rates, step_counts, st.integers(1, 60))
def test_grows_with_steps(cost, dpsgd, sigma, rate, steps, more):
    assert cost(dpsgd(rate, sigma, steps + more)) >= cost(dpsgd(rate, sigma, steps)) - SLACK


@PRICED
@given(sigmas, rates, step_counts, st.floats(1.01, 2.0))
def test_grows_with_the_sampling_rate(cost, dpsgd, sigma, rate, steps, factor):
    assert cost(dpsgd(rate * factor, sigma, steps)) >= cost(dpsgd(rate, sigma, steps)) - SLACK


@PRICED
@given(st.data())
def test_order_does_not_matter_and_the_whole_is_at_least_any_part(event, dpsgd, data):
    rounds = data.draw(st.lists(st.tuples(rates, sigmas, step_counts), min_size=2, max_size=4))
    events = [event(dpsgd(*parts), number) for number, parts in enumerate(rounds, start=1)]
    total = epsilon(events, 1e-5, "zero_out")
    assert epsilon(data.draw(st.permutations(events)), 1e-5, "zero_out") == total
    some = data.draw(st.lists(st.sampled_from(events), unique=True))
    assert total >= epsilon(some, 1e-5, "zero_out") - SLACK


def test_merging_and_caching_change_nothing():
    parts = history([dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(2.0))] * 30)
    naive = plds.identity(value_discretization_interval=1e-3)
    for _ in range(30):
        naive = naive.compose(
            plds.from_gaussian_mechanism(2.0, sampling_prob=0.2, value_discretization_interval=1e-3)
        )
    ours = composed(parts, "zero_out", 1e-3).get_epsilon_for_delta(1e-5)
    assert ours == pytest.approx(naive.get_epsilon_for_delta(1e-5), abs=1e-7)


@pytest.mark.parametrize("z", [1e-4, 1e-5, 1e-160, 1e-300])
@pytest.mark.parametrize("q", [0.2, 1.0])
def test_noise_too_small_to_be_priced_is_infinite_and_never_an_exception(
    event, z: float, q: float
) -> None:
    step = dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(z))
    events = [event(dp.SelfComposedDpEvent(step, 200), n) for n in (1, 2)]
    assert math.isinf(bound(events, 1e-5, "zero_out").epsilon)
    assert per_round(events, 1e-5, "zero_out") == {1: None, 2: None}


@pytest.mark.parametrize("b", [1e-1, 1e-3, 1e-4, 1e-5])
def test_laplace_noise_never_costs_more_than_its_pure_epsilons(event, b: float) -> None:
    events = [
        event(dp.LaplaceDpEvent(b), n, unit="site", neighbouring="replace_one") for n in (1, 2)
    ]
    found = bound(events, 1e-5, "replace_one").epsilon
    # Twice 2/b; where the grid of losses is used, it may round that up by a step.
    assert found <= 4 / b * (1 + 1e-4) + 1
    assert found >= 4 / b - 30
