"""Membership numbers against scikit-learn, shadow attacks against what they should beat."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from fedprivacy.accounting.gaussian import gaussian_tpr
from fedprivacy.audit.binomial import interval
from fedprivacy.audit.many_runs import (
    clopper_pearson_ceiling,
    clopper_pearson_epsilon,
    gaussian_mu_estimate,
)
from fedprivacy.audit.membership import auc, membership, roc
from fedprivacy.audit.shadow import lira, rmia


def scored(m: int, mu: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coins = rng.random(m) < 0.5
    return np.round(rng.normal(mu * coins, 1.0), 1), coins


def test_roc_and_area_are_scikit_learns() -> None:
    scores, coins = scored(700, 0.7)
    assert auc(scores, coins) == pytest.approx(roc_auc_score(coins, scores))
    fpr, tpr = roc(scores, coins)
    theirs = roc_curve(coins, scores, drop_intermediate=False)
    assert np.allclose(fpr, theirs[0])
    assert np.allclose(tpr, theirs[1])
    assert auc(scores, np.ones(700, bool)) is None


def test_rates_are_read_off_from_below_with_exact_intervals() -> None:
    scores, coins = scored(20_000, 1.0)
    found = membership("x", scores, coins)
    for rate, value in found.tpr.items():
        assert value == pytest.approx(gaussian_tpr(rate, 1.0), abs=0.03)
        hits = round(value * found.members)
        exact = stats.binomtest(hits, found.members).proportion_ci(0.95, "exact")
        assert found.interval[rate] == pytest.approx((exact.low, exact.high))
    json.dumps(found.to_json(), allow_nan=False)


def test_runs_of_the_same_candidates_are_no_independent_trials() -> None:
    """Ten runs in which each candidate scores alike tell no more than one of them does."""
    rng, m, runs = np.random.default_rng(0), 200, 10
    ease = rng.normal(size=m)
    coins = rng.random((runs, m)) < 0.5
    scores = 2.0 * ease * coins + 0.05 * rng.normal(size=(runs, m))
    whose = np.tile(np.arange(m), runs)
    together = membership("x", scores.ravel(), coins.ravel(), candidates=whose)
    apart = membership("x", scores.ravel(), coins.ravel())
    single = membership("x", scores[0], coins[0])

    def wide(found, rate: float = 0.1) -> float:
        return found.interval[rate][1] - found.interval[rate][0]

    assert together.tpr == apart.tpr
    assert wide(together) > 1.8 * wide(apart)
    assert wide(together) < 1.5 * wide(single)
    for rate, value in together.tpr.items():
        assert together.interval[rate][0] <= value <= together.interval[rate][1]


def test_the_bootstrap_covers_what_it_should() -> None:
    """Scores of a known law, five runs of each candidate: the interval misses in few studies."""
    m, runs, rate, missed = 150, 5, 0.1, 0
    rng = np.random.default_rng(1)
    big = rng.normal(size=400_000)
    members = 1.5 * (big > 0) + rng.normal(size=big.size)
    truth = float((members > np.quantile(rng.normal(size=big.size), 1 - rate)).mean())
    for _ in range(60):
        easy = rng.random(m) < 0.5
        coins = rng.random((runs, m)) < 0.5
        scores = 1.5 * easy * coins + rng.normal(size=(runs, m))
        whose = np.tile(np.arange(m), runs)
        low, high = membership("x", scores.ravel(), coins.ravel(), candidates=whose).interval[rate]
        missed += not low <= truth <= high
    # 5 % of 60 is 3; more than 9 would have probability below 0.002.
    assert missed <= 9


def test_intervals_at_the_ends() -> None:
    assert interval(0, 10)[0] == 0.0
    assert interval(10, 10)[1] == 1.0
    assert interval(0, 0) == (0.0, 1.0)


def test_the_bound_from_independent_trials_is_below_the_truth_and_the_estimate_near_it() -> None:
    # delta 1e-5, mu 1: epsilon 4.377.
    bounds, estimates = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        coins = rng.random(10_000) < 0.5
        scores = rng.normal(coins, 1.0)
        thresholds = np.linspace(-1, 3.5, 10)
        bounds.append(clopper_pearson_epsilon(scores, coins, thresholds, delta=1e-5))
        estimates.append(gaussian_mu_estimate(scores, coins, thresholds))
    assert max(bounds) < 4.377
    assert np.median(bounds) > 1.3
    assert np.median(estimates) == pytest.approx(0.9, abs=0.1)
    assert max(estimates) <= 1.0


def test_without_errors_the_bound_is_its_ceiling() -> None:
    coins = np.arange(200) % 2 == 0
    found = clopper_pearson_epsilon(coins.astype(float), coins, [0.5], delta=1e-5)
    assert found == pytest.approx(clopper_pearson_ceiling(100, 100, [100], delta=1e-5))
    limit = 1 - 0.025 ** (1 / 100)
    assert found == pytest.approx(np.log((1 - limit - 1e-5) / limit))
    noise = np.random.default_rng(0).random(200)
    assert clopper_pearson_epsilon(noise, coins, [0.5], delta=1e-5) == 0.0
    assert gaussian_mu_estimate(noise, ~coins, [0.5]) == 0.0


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("ties", [False, True])
def test_no_scores_reach_more_than_the_ceiling_and_perfect_ones_reach_it(share, ties) -> None:
    rng = np.random.default_rng(3)
    coins = rng.random(80) < 0.5
    above = round(share * 80)

    def found(scores: np.ndarray) -> float:
        threshold = float(np.sort(scores)[-(above + 1)])
        return clopper_pearson_epsilon(scores, coins, [threshold], delta=1e-5)

    most = clopper_pearson_ceiling(int(coins.sum()), int((~coins).sum()), [above], delta=1e-5)
    for gain in np.linspace(0, 8, 40):
        scores = rng.normal(gain * coins, 1.0)
        assert found(np.round(scores) if ties else scores) <= most + 1e-12
    perfect = coins.astype(float) if above > coins.sum() else coins + rng.random(80) / 2
    assert found(perfect) == pytest.approx(most)


def sweep(seeds: int, m: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of candidates that are hard or easy by themselves, and their coins."""
    rng = np.random.default_rng(5)
    hardness = rng.normal(0, 3, m)
    coins = rng.random((seeds, m)) < 0.5
    return hardness + gain * coins + rng.normal(0, 1, (seeds, m)), coins


@pytest.mark.parametrize("attack", [lira, rmia])
def test_shadow_models_see_through_hardness(attack) -> None:
    log_odds, coins = sweep(8, 2000, 1.5)
    plain = auc(log_odds[0], coins[0])
    shadow = auc(attack(log_odds, coins, 0), coins[0])
    best = float(stats.norm.cdf(1.5 / np.sqrt(2)))
    assert plain < 0.66
    assert plain + 0.05 < shadow <= best + 0.02


def test_lira_with_many_models_is_the_likelihood_ratio() -> None:
    log_odds, coins = sweep(60, 3000, 1.5)
    best = float(stats.norm.cdf(1.5 / np.sqrt(2)))
    assert auc(lira(log_odds, coins, 0), coins[0]) == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("attack", [lira, rmia])
def test_nothing_is_found_without_a_gain(attack) -> None:
    log_odds, coins = sweep(6, 3000, 0.0)
    assert auc(attack(log_odds, coins, 0), coins[0]) == pytest.approx(0.5, abs=0.04)


def test_candidates_that_no_other_seed_has_still_get_a_score() -> None:
    log_odds, coins = sweep(4, 50, 2.0)
    coins[1:, :5], coins[1:, 5:10] = False, True
    for attack in (lira, rmia):
        assert np.isfinite(attack(log_odds, coins, 0)).all()


def test_too_few_seeds_are_refused() -> None:
    log_odds, coins = sweep(2, 10, 1.0)
    with pytest.raises(ValueError, match="two besides"):
        lira(log_odds, coins, 0)
    with pytest.raises(ValueError, match="1 seed"):
        rmia(log_odds[:1], coins[:1], 0)
