"""The test against a whole curve: its level, its power, and curves from the ledger."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting import dp_event as dp
from scipy import special, stats

from fedprivacy.accounting import Event, calibrate_noise, privacy_profile
from fedprivacy.audit.f_dp_run import gaussian_inverse, profile_inverse, rejects
from fedprivacy.audit.one_run import guess_counts, lower_epsilon, right_guesses

COUNTS = guess_counts(1000)


def event(release: dp.DpEvent) -> Event:
    return Event(1, "a", "x", "record", "zero_out", "server_updates", release, True)


def rejected(mu: float, inverse, rng: np.random.Generator, m: int = 1000) -> bool:
    coins = rng.random(m) < 0.5
    scores = rng.normal(mu * coins, 1.0)
    alpha = 0.05 / len(COUNTS)
    return any(rejects(right_guesses(scores, coins, r), r, m, inverse, alpha) for r in COUNTS)


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0, 2.0])
def test_the_true_curve_is_rejected_in_five_percent_at_most(mu: float) -> None:
    rng = np.random.default_rng(0)
    failures = sum(rejected(mu, gaussian_inverse(mu), rng) for _ in range(120))
    assert stats.binomtest(failures, 120, 0.05, "greater").pvalue > 0.01


@pytest.mark.parametrize(("truth", "claimed"), [(1.0, 0.3), (2.0, 0.7), (4.0, 1.0)])
def test_a_claim_that_is_too_good_is_rejected(truth: float, claimed: float) -> None:
    rng = np.random.default_rng(1)
    assert sum(rejected(truth, gaussian_inverse(claimed), rng) for _ in range(10)) >= 9


@pytest.mark.parametrize("mu", [0.5, 1.0, 3.0])
def test_the_curve_of_a_ledger_is_that_of_its_mechanism(mu: float) -> None:
    inverse = profile_inverse(privacy_profile([event(dp.GaussianDpEvent(1 / mu))], "zero_out"))
    for rate in (0.01, 0.1, 0.5, 0.9, 0.99):
        exact = float(special.ndtr(special.ndtri(rate) - mu))
        # Never above the truth, or a true claim would be rejected.
        assert inverse(rate) <= exact * 1.0001 + 1e-9
        assert inverse(rate) == pytest.approx(exact, rel=0.1, abs=2e-4)


def test_a_subsampled_ledger_is_not_rejected_by_its_own_kind() -> None:
    q, sigma, steps, m = 0.2, 1.0, 20, 1000
    release = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma)), steps)
    inverse = profile_inverse(privacy_profile([event(release)], "zero_out"))
    too_good = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(3.0)), steps)
    lying = profile_inverse(privacy_profile([event(too_good)], "zero_out"))
    rng, honest, caught = np.random.default_rng(2), 0, 0
    for _ in range(40):
        coins = rng.random(m) < 0.5
        seen = rng.normal(0, sigma, (m, steps)) + (coins[:, None] & (rng.random((m, steps)) < q))
        scores = np.log1p(q * np.expm1((2 * seen - 1) / (2 * sigma**2))).sum(1)
        for inverse_of, which in ((inverse, "honest"), (lying, "lying")):
            hit = any(
                rejects(right_guesses(scores, coins, r), r, m, inverse_of, 0.05 / len(COUNTS))
                for r in COUNTS
            )
            honest += hit and which == "honest"
            caught += hit and which == "lying"
    assert honest <= 6
    assert caught >= 36


def keinan(canaries: int, repetitions: int) -> list[float]:
    """One-run bounds of DP-SGD with d = 1000, T = 100, q = 0.1, epsilon 2 at delta 1e-5."""
    d, steps, q, guesses = 1000, 100, 0.1, 100

    def events(z: float) -> list[Event]:
        step = dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(z))
        return [event(dp.SelfComposedDpEvent(step, steps))]

    sigma = calibrate_noise(events, 2.0, 1e-5, "zero_out").noise_multiplier
    rng, m, found = np.random.default_rng(0), d * canaries, []
    for _ in range(repetitions):
        coins, ratio = rng.random(m) < 0.5, np.zeros(d)
        for _ in range(steps):
            taken = coins & (rng.random(m) < q)
            seen = taken.reshape(d, canaries).sum(1) + rng.normal(0, sigma, d)
            ratio += np.log1p(q * np.expm1((2 * seen - 1) / (2 * sigma**2)))
        scores = np.repeat(ratio, canaries) + 1e-9 * rng.random(m)
        right = right_guesses(scores, coins, guesses, only_in=True)
        found.append(lower_epsilon(right, guesses, m, 1e-5, 0.05))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("canaries", "known"), [(1, 0.49), (8, 0.62)])
def test_the_barrier_of_one_run_as_published(canaries: int, known: float) -> None:
    # Keinan, Shenfeld & Ligett 2025, arXiv 2503.07199: .49 and .62, each within .01.
    # These runs: .459 with a standard error of .015, and .642 with .022; within two errors of the
    # difference, which has theirs and ours.
    found = keinan(canaries, 150 if canaries == 1 else 80)
    error = np.hypot(0.01, np.std(found) / np.sqrt(len(found)))
    assert abs(np.mean(found) - known) < 2 * error
