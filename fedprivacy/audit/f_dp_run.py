"""A test of "as private as this trade-off curve" from one training run.

Mahloujifar, Melis & Chaudhuri 2024 (arXiv 2410.22235, algorithm 3 and theorem 9): as the one-run
audit with m coins, r guesses and v right ones, but against a whole curve instead of one epsilon.
Rigorous against the curve that is tested; with a cell's own curve it tests the cell's own claim.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fedprivacy.accounting.profile import Profile

InversePower = Callable[[float], float]
"""From a true-positive rate to the smallest false-positive rate at which it may be reached."""

_GRID = 20_000
_BISECTIONS = 50


def gaussian_inverse(mu: float) -> InversePower:
    """Of a mu-GDP mechanism: Phi(Phi^-1(x) - mu) (Dong, Roth & Su 2022, definition 2.6)."""
    return lambda rate: float(special.ndtr(special.ndtri(rate) - mu))


def profile_inverse(profile: Profile) -> InversePower:
    """Of a proven privacy profile, from below: nothing is rejected that the profile allows.

    The profile caps the true-positive rate at every false-positive rate, in both directions of the
    relation. Rates between two points of a fine grid are rounded down.
    """
    rates: NDArray[np.float64] = np.unique(
        np.concatenate([[0.0], np.logspace(-12, 0, _GRID // 2), np.linspace(0, 1, _GRID // 2)])
    )
    powers = 1 - profile.false_negatives(rates)

    def inverse(rate: float) -> float:
        reached = int(np.searchsorted(powers, rate, side="left"))
        return float(rates[max(reached - 1, 0)])

    return inverse


def rejects(right: int, guesses: int, coins: int, inverse: InversePower, alpha: float) -> bool:
    """Whether ``right`` right guesses of ``guesses`` reject the curve at level ``alpha``.

    Recursion of arXiv 2410.22235, algorithm 3: r and h are the least probabilities, scaled by the
    share of the coins, of right and of wrong guesses among outcomes with at least i right ones.
    """
    hit, miss = alpha * right / coins, alpha * (guesses - right) / coins
    for i in range(right - 1, -1, -1):
        following = max(miss, inverse(min(hit, 1.0)))
        hit += i / (guesses - i) * (following - miss)
        miss = following
    return hit + miss > guesses / coins


def gaussian_lower_mu(right: int, guesses: int, coins: int, alpha: float) -> float:
    """Largest mu whose Gaussian curve is rejected; 0 if not even perfect privacy is."""
    if not rejects(right, guesses, coins, gaussian_inverse(0.0), alpha):
        return 0.0
    low, high = 0.0, 40.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if rejects(right, guesses, coins, gaussian_inverse(middle), alpha):
            low = middle
        else:
            high = middle
    return low
