"""A mean over seeds with its interval, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 4000
_SEED = 20_240_423

NO_INTERVAL = "n = 1, no interval"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds; larger or smaller is for the reader to judge.

    Attributes:
        value: the mean.
        low: lower end of the interval; None with one seed.
        high: upper end; None with one seed.
        n: number of seeds.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """Strict JSON."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "confidence": CONFIDENCE,
            "text": self.text(),
        }

    def text(self, digits: int = 3) -> str:
        """``0.021 [0.010, 0.032] (n=5)``, or the value with ``n = 1, no interval``."""
        value = _fixed(self.value, digits)
        if self.low is None or self.high is None:
            return f"{value} ({NO_INTERVAL})"
        return f"{value} [{_fixed(self.low, digits)}, {_fixed(self.high, digits)}] (n={self.n})"


def _fixed(value: float, digits: int) -> str:
    """With that many digits; what rounds to 0 has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def paired_mean(values: Sequence[float]) -> Interval | None:
    """The mean of one difference for each seed, with its percentile bootstrap interval.

    Resamples whole seeds (Efron & Tibshirani 1993, chapter 13). With few seeds it is too short, and
    with one there is none; equal values give equal intervals each time. None without values.
    """
    if not values:
        return None
    array = np.asarray(values, dtype=float)
    if len(array) == 1:
        return Interval(float(array[0]), None, None, 1)
    draws = np.random.default_rng(_SEED).integers(0, len(array), (RESAMPLES, len(array)))
    means = array[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(array.mean()), float(low), float(high), len(array))
