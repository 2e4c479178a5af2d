"""Exact limits on a probability from counts (Clopper & Pearson 1934)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats


def upper_limit(hits: int, trials: int, alpha: float) -> float:
    """Largest success probability that ``hits`` of ``trials`` does not reject at level alpha."""
    if trials == 0 or hits >= trials:
        return 1.0
    return float(stats.beta.ppf(1 - alpha, hits + 1, trials - hits))


def upper_limits(hits: ArrayLike, trials: int, alpha: float) -> NDArray[np.float64]:
    """``upper_limit`` of many counts of the same number of trials.

    Args:
        hits: ``(n,)`` counts.
        trials: of each.
        alpha: level of each.
    """
    counts = np.asarray(hits, dtype=float)
    limits = np.ones(counts.shape)
    some = counts < trials
    limits[some] = special.betaincinv(counts[some] + 1, trials - counts[some], 1 - alpha)
    return limits


def lower_limit(hits: int, trials: int, alpha: float) -> float:
    """Smallest success probability that ``hits`` of ``trials`` does not reject at level alpha."""
    if trials == 0 or hits <= 0:
        return 0.0
    return float(stats.beta.ppf(alpha, hits, trials - hits + 1))


def interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of a share, half of the error on each side."""
    half = (1 - confidence) / 2
    return lower_limit(hits, trials, half), upper_limit(hits, trials, half)
