"""Gaussian differential privacy: one number for a whole profile, and how well it fits."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from fedprivacy.accounting.profile import Profile

Array = NDArray[np.float64]

FLOOR = 1e-9
"""Deltas below this are not compared: numerical tails would decide instead of the mechanism."""

_BISECTIONS = 80


def gaussian_delta(epsilon: ArrayLike, mu: ArrayLike) -> Array:
    """delta(epsilon) of a mu-GDP mechanism.

    Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu) (Balle & Wang 2018, theorem 8,
    with mu = sensitivity / sigma; Dong, Roth & Su 2022, corollary 2.13).
    """
    value, strength = np.asarray(epsilon, dtype=float), np.asarray(mu, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = value / strength
        delta = special.ndtr(strength / 2 - ratio) - np.exp(
            value + special.log_ndtr(-strength / 2 - ratio)
        )
    return np.asarray(np.where(strength > 0, np.clip(delta, 0.0, 1.0), 0.0))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Largest mu whose mechanisms are (epsilon, delta)-DP; the inverse of ``gaussian_delta``."""
    low, high = 0.0, 20.0 + float(np.sqrt(400.0 + 2.0 * epsilon))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        within = float(gaussian_delta(epsilon, middle)) <= delta
        low, high = (middle, high) if within else (low, middle)
    return low


def gaussian_tpr(fpr: float, mu: float) -> float:
    """Largest true-positive rate against a mu-GDP mechanism: Phi(Phi^-1(fpr) + mu)."""
    return float(special.ndtr(special.ndtri(fpr) + mu))


@lru_cache(maxsize=64)
def gdp_mu(profile: Profile) -> float:
    """Smallest mu whose Gaussian profile lies on or above ``profile``; ``inf`` if none does.

    mu = max over epsilon of 1 / sigma_analytic(epsilon, delta(epsilon)) (Gomez, Kulynych, Kaissis,
    du Pin Calmon, Hayes, Balle & Honkela 2025, arXiv 2503.10945). Compared where delta is above
    ``FLOOR``, on the profile's grid: the mechanism is mu-GDP but for that probability.
    """
    compared = profile.deltas > FLOOR
    if not compared.any():
        return 0.0
    deltas, epsilons = profile.deltas[compared], profile.epsilons[compared]
    if deltas.max() >= 1.0:
        return float("inf")
    low = np.zeros_like(epsilons)
    # At this mu the first Gaussian term alone is within 1e-15 of one.
    high = 20.0 + np.sqrt(400.0 + 2.0 * epsilons)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = gaussian_delta(epsilons, middle) >= deltas
        high, low = np.where(above, middle, high), np.where(above, low, middle)
    return float(high.max())


@lru_cache(maxsize=64)
def gdp_regret(profile: Profile, mu: float) -> float:
    """How much worse than the profile the mu-GDP curve makes it look; 0 is a perfect fit.

    The least k with f(a + k) - k <= G_mu(a) for every false-positive rate a, where f is the
    profile's trade-off curve (arXiv 2503.10945, section 3: about 0.01 means that one number tells
    it all). Descriptive: nothing is proved from it.
    """
    tails = np.logspace(-9, -2, 400)
    rates = np.unique(np.concatenate([[0.0], tails, np.linspace(0.01, 0.99, 800), 1 - tails, [1]]))
    curve = profile.false_negatives(rates)
    reported = special.ndtr(-special.ndtri(rates) - mu)
    low, high = np.zeros_like(rates), np.ones_like(rates)
    for _ in range(40):
        middle = (low + high) / 2
        moved = np.interp(np.minimum(rates + middle, 1.0), rates, curve) - middle
        short = moved > reported
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return float(high.max()) if high.max() > 1e-9 else 0.0
