"""The one-run bound: closed forms, published values, and no violation where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedprivacy.accounting.what_if import gaussian_epsilon
from fedprivacy.audit.binomial import upper_limit
from fedprivacy.audit.f_dp_run import gaussian_lower_mu
from fedprivacy.audit.many_runs import clopper_pearson_epsilon, gaussian_mu_estimate
from fedprivacy.audit.one_run import (
    ceiling,
    closed_form,
    guess_counts,
    lower_epsilon,
    one_run_bound,
    p_value,
    right_guesses,
)

Draws = np.random.Generator


def gaussian_run(m: int, mu: float, rng: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a mu-GDP mechanism and the coins."""
    coins = rng.random(m) < 0.5
    return rng.normal(mu * coins, 1.0), coins


@pytest.mark.parametrize(("guesses", "known"), [(100, 3.49), (1000, 5.81)])
def test_all_right_without_delta_is_a_closed_form(guesses: int, known: float) -> None:
    found = lower_epsilon(guesses, guesses, 10 * guesses, 0.0, 0.05)
    share = 0.05 ** (1 / guesses)
    assert found == pytest.approx(math.log(share / (1 - share)), abs=1e-6)
    assert found == pytest.approx(known, abs=0.005)
    assert found == pytest.approx(closed_form(guesses, 0.05))


def test_the_p_value_is_the_binomial_tail_and_a_naive_sum() -> None:
    v, r, m, eps, delta = 17, 20, 60, 0.8, 1e-4
    share = 1 / (1 + math.exp(-eps))
    pmf = [math.comb(r, k) * share**k * (1 - share) ** (r - k) for k in range(r + 1)]
    extra = max(sum(pmf[v - i : v]) / i for i in range(1, v + 1))
    assert p_value(v, r, m, eps, 0.0) == pytest.approx(sum(pmf[v:]))
    assert p_value(v, r, m, eps, delta) == pytest.approx(sum(pmf[v:]) + 2 * m * delta * extra)


@pytest.mark.parametrize("seed", range(5))
def test_error_rates_of_all_thresholds_are_those_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, coins = gaussian_run(60, 4.0, rng)
    scores[::7] = np.round(scores[::7])  # ties with thresholds
    thresholds = [*scores, -9.0, 0.0, 9.0]
    alpha, delta, best = 0.05 / (2 * len(thresholds)), 1e-3, 0.0
    for at in thresholds:
        missed = upper_limit(int((coins & (scores <= at)).sum()), int(coins.sum()), alpha)
        raised = upper_limit(int((~coins & (scores > at)).sum()), int((~coins).sum()), alpha)
        for power, error in ((1 - missed - delta, raised), (1 - raised - delta, missed)):
            best = max(best, math.log(power / error) if power > 0 else 0.0)
    assert best > 0
    assert clopper_pearson_epsilon(scores, coins, thresholds, delta=delta) == pytest.approx(best)


def test_guesses_are_the_extremes() -> None:
    scores = np.array([5.0, -1.0, 3.0, 0.0, -4.0, 2.0])
    coins = np.array([True, False, False, True, False, True])
    # In: 5.0, 3.0; out: -4.0. Only the second is wrong.
    assert right_guesses(scores, coins, 3) == 2
    # In: 5.0, 3.0, 2.0; out: 0.0, -1.0, -4.0.
    assert right_guesses(scores, coins, 6) == 4
    assert right_guesses(scores, coins, 2, only_in=True) == 1
    assert guess_counts(400) == (4, 12, 40, 120)
    assert guess_counts(10) == (1, 3)


# Medians of a Gaussian mechanism at delta 1e-5, 95 %, by an independent implementation that guesses
# "in" alone. With 100 coins there are few counts of right guesses, and the medians of other draws
# differ by up to a quarter.
KNOWN = [
    (100, 1, 0.25, 0.37),
    (100, 2, 1.48, 2.56),
    (300, 1, 0.81, 1.20),
    (300, 2, 1.83, 2.79),
    (1000, 0.5, 0.47, 0.60),
    (1000, 1, 1.37, 1.81),
    (1000, 2, 2.68, 3.94),
    pytest.param(10_000, 0.5, 0.80, 0.96, marks=pytest.mark.slow),
    (10_000, 1, 1.97, 2.60),
    pytest.param(10_000, 2, 3.69, 5.07, marks=pytest.mark.slow),
    pytest.param(10_000, 4, 5.63, 10.2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("m", "mu", "one_run", "f_dp"), KNOWN)
def test_the_gaussian_mechanism_gives_the_known_table(m, mu, one_run, f_dp) -> None:
    rng = np.random.default_rng(0)
    bounds, curves, both = [], [], []
    for _ in range({100: 40, 300: 25, 1000: 13, 10_000: 4}[m]):
        scores, coins = gaussian_run(m, mu, rng)
        counts = guess_counts(m)
        right = {r: right_guesses(scores, coins, r, only_in=True) for r in counts}
        alpha = 0.05 / len(counts)
        bounds.append(max(lower_epsilon(v, r, m, 1e-5, alpha) for r, v in right.items()))
        best = max(gaussian_lower_mu(v, r, m, alpha) for r, v in right.items())
        curves.append(gaussian_epsilon(best, 1e-5) if best else 0.0)
        both.append(one_run_bound(scores, coins, delta=1e-5).epsilon)
    few = {"rel": 0.3, "abs": 0.2} if m == 100 else {"rel": 0.12, "abs": 0.05}
    assert np.median(bounds) == pytest.approx(one_run, **few)
    assert np.median(curves) == pytest.approx(f_dp, **few)
    # Guessing on both sides finds more, and still no more than there is.
    assert np.median(both) >= np.median(bounds)
    assert max(*both, *curves) < gaussian_epsilon(mu, 1e-5)


# The same table's columns for error rates at every threshold, alpha divided by their number.
KNOWN_RATES = [
    (100, 1, 0.0, 0.0),
    (100, 2, 0.79, 3.15),
    (300, 1, 0.33, 1.31),
    (300, 2, 1.48, 5.59),
    (1000, 0.5, 0.12, 0.40),
    (1000, 1, 0.82, 2.46),
    (1000, 2, 2.21, 7.17),
    (10_000, 0.5, 0.50, 1.31),
    (10_000, 1, 1.62, 3.70),
    (10_000, 2, 3.62, 9.14),
    (10_000, 4, 5.55, 21.96),
]


@pytest.mark.parametrize(("m", "mu", "clopper_pearson", "gaussian"), KNOWN_RATES)
def test_error_rates_at_all_thresholds_give_the_known_table(
    m, mu, clopper_pearson, gaussian
) -> None:
    rng = np.random.default_rng(0)
    bounds, estimates = [], []
    for _ in range(11 if m == 10_000 else 41):
        scores, coins = gaussian_run(m, mu, rng)
        bounds.append(clopper_pearson_epsilon(scores, coins, scores, delta=1e-5))
        best = gaussian_mu_estimate(scores, coins, scores)
        estimates.append(gaussian_epsilon(best, 1e-5) if best else 0.0)
    assert np.median(bounds) == pytest.approx(clopper_pearson, rel=0.07, abs=0.1)
    assert np.median(estimates) == pytest.approx(gaussian, rel=0.05, abs=0.1)
    assert max(bounds) < gaussian_epsilon(mu, 1e-5)


# jax-privacy's own test values (10,000 scores on each side, delta 1e-6, 95 %), found over all its
# thresholds with alpha divided by their number. Four counts of guesses fixed beforehand show more.
JAX_PRIVACY = [(1, 1.13346, 2.164749), (2, 2.311945, 4.7218075), (4, 4.395568, 9.133752)]


@pytest.mark.parametrize(("shift", "one_run", "f_dp"), JAX_PRIVACY)
def test_counts_fixed_beforehand_show_more_than_jax_privacy_on_its_data(
    shift: float, one_run: float, f_dp: float
) -> None:
    n = 10_000
    normal = stats.norm.ppf((np.arange(n) + 0.5) / n)
    scores = np.concatenate([normal + shift, normal])
    coins = np.repeat([True, False], n)
    counts = guess_counts(2 * n)
    right = {r: right_guesses(scores, coins, r, only_in=True) for r in counts}
    alpha = 0.05 / len(counts)
    bound = max(lower_epsilon(v, r, 2 * n, 1e-6, alpha) for r, v in right.items())
    mu = max(gaussian_lower_mu(v, r, 2 * n, alpha) for r, v in right.items())
    assert one_run < bound < gaussian_epsilon(shift, 1e-6)
    assert f_dp < gaussian_epsilon(mu, 1e-6) < gaussian_epsilon(shift, 1e-6)
    if shift == 1:  # by an independent implementation, on random scores of this law
        assert bound == pytest.approx(2.14, rel=0.05)
        assert gaussian_epsilon(mu, 1e-6) == pytest.approx(2.70, rel=0.06)


def test_no_violation_in_two_hundred_runs_where_the_bound_is_tight() -> None:
    """Randomised response is the worst case at delta 0: the bound may fail in 5 % of the runs."""
    rng, m, truth = np.random.default_rng(1), 300, 1.0
    keep = math.exp(truth) / (1 + math.exp(truth))
    failures = 0
    for _ in range(200):
        coins = rng.random(m) < 0.5
        answers = np.where(rng.random(m) < keep, coins, ~coins)
        scores = answers + 1e-9 * rng.random(m)
        failures += one_run_bound(scores, coins, delta=0.0).epsilon > truth
    assert failures <= 0.05 * 200


def test_nothing_is_found_where_nothing_leaks() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(150):
        scores, coins = gaussian_run(400, 0.0, rng)
        found.append(one_run_bound(scores, coins, delta=1e-5).epsilon > 0)
    assert stats.binomtest(sum(found), len(found), 0.05, "greater").pvalue > 0.01


def test_a_raw_release_reaches_the_ceiling() -> None:
    coins = np.random.default_rng(3).random(400) < 0.5
    found = one_run_bound(coins.astype(float), coins, delta=1e-5)
    assert found.epsilon == pytest.approx(found.ceiling)
    assert found.ceiling == pytest.approx(ceiling(400, guess_counts(400), 1e-5, 0.05 / 4))


def test_more_bounds_tried_cost_confidence() -> None:
    coins = np.random.default_rng(3).random(400) < 0.5
    few, many = (one_run_bound(coins, coins, delta=1e-5, tried=n).epsilon for n in (4, 12))
    assert many < few


def test_a_delta_that_is_not_small_makes_it_useless() -> None:
    scores, coins = gaussian_run(500, 2.0, np.random.default_rng(4))
    assert one_run_bound(scores, coins, delta=1e-3).epsilon < 0.6
    assert one_run_bound(scores, coins, delta=1e-6).epsilon > 1.5
