"""Privacy profiles: delta as a function of epsilon, and the cap on every attack that it proves.

One (epsilon, delta) is one point of this curve. The whole curve bounds the power of any test that
tells whether a unit was in the data, and with it any membership inference or reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedprivacy.accounting import pld
from fedprivacy.accounting.accountant import (
    FINE_BELOW,
    FINE_INTERVAL,
    INTERVAL,
    MIN_DELTA,
    check_composable,
)
from fedprivacy.accounting.convolution import Pld
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.history import History, history
from fedprivacy.accounting.hockey_stick import deltas_at, epsilon_at
from fedprivacy.accounting.units import Neighbouring

Array = NDArray[np.float64]

POINTS = 4000
"""Most points of a profile."""


@dataclass(frozen=True, eq=False)
class Profile:
    """Upper bound on delta at each epsilon, both directions of the relation covered.

    Two profiles are equal if they are one object, so that what follows from one can be cached.

    Attributes:
        epsilons: ``(k,)`` ascending, from 0.
        deltas: ``(k,)`` not rising; the last one holds for every larger epsilon.
    """

    epsilons: Array
    deltas: Array

    def delta(self, epsilon: ArrayLike) -> Array:
        """Delta at any epsilon >= 0, never below the truth.

        A profile is convex in exp(epsilon), so a chord lies above it (Doroshenko et al. 2022,
        arXiv 2207.04380, section 3).
        """
        wanted = np.asarray(epsilon, dtype=float)
        right = np.clip(
            np.searchsorted(self.epsilons, wanted, side="right"), 1, len(self.epsilons) - 1
        )
        if len(self.epsilons) == 1:
            return np.full(wanted.shape, self.deltas[0])
        low, high = self.epsilons[right - 1], self.epsilons[right]
        # (exp(e) - exp(low)) / (exp(high) - exp(low)), without overflow.
        with np.errstate(over="ignore"):
            share = np.expm1(np.minimum(wanted, high) - low) / np.expm1(high - low)
        return np.asarray(self.deltas[right - 1] * (1 - share) + self.deltas[right] * share)

    def false_negatives(self, false_positives: ArrayLike) -> Array:
        """Least false-negative rate of any test with this false-positive rate.

        f(a) = sup over e >= 0 of max(0, 1 - delta(e) - exp(e) a, exp(-e) (1 - delta(e) - a))
        (Dong, Roth & Su 2022, proposition 2.12). A supremum over fewer epsilons is smaller, so
        the grid only ever understates f: the cap stays proved.
        """
        rates = np.atleast_1d(np.asarray(false_positives, dtype=float))
        kept = 1.0 - self.deltas
        result = np.zeros_like(rates)
        with np.errstate(over="ignore"):
            growth = np.minimum(np.exp(self.epsilons), np.finfo(float).max)
        for index, rate in enumerate(rates):
            first = kept - growth * rate
            second = (kept - rate) / growth
            result[index] = max(0.0, float(first.max()), float(second.max()))
        return result.reshape(np.shape(false_positives))

    def max_tpr(self, fpr: float) -> float:
        """Largest true-positive rate that any attack can have at this false-positive rate."""
        return float(1.0 - self.false_negatives(fpr))

    @property
    def max_advantage(self) -> float:
        """Largest TPR - FPR of any attack: delta(0), the total variation distance."""
        return float(self.deltas[0])


NOTHING_RELEASED = Profile(np.zeros(1), np.zeros(1))
NOTHING_PROVED = Profile(np.zeros(1), np.ones(1))


def privacy_profile(events: Iterable[Event], neighbouring: Neighbouring) -> Profile:
    """The profile of all the events together.

    Args and errors as ``accountant.epsilon``.
    """
    events = tuple(events)
    check_composable(events, neighbouring)
    parts = history(event.dp_event for event in events)
    if parts is None:
        return NOTHING_PROVED
    try:
        return _profile(parts, neighbouring)
    except (OverflowError, ZeroDivisionError):
        return NOTHING_PROVED  # noise so small that its losses overflow


@lru_cache(maxsize=64)
def _profile(parts: History, neighbouring: Neighbouring) -> Profile:
    if not parts:
        return NOTHING_RELEASED
    interval = pld.interval_for(parts, neighbouring, INTERVAL)
    distribution = pld.composed(parts, neighbouring, interval)
    if epsilon_at(distribution, 1e-5) < FINE_BELOW:
        interval = pld.interval_for(parts, neighbouring, FINE_INTERVAL)
        distribution = pld.composed(parts, neighbouring, interval)
    largest = _largest(distribution)
    if largest is None:
        return NOTHING_PROVED
    steps = max(int(np.ceil(largest / interval)), 1)
    # On the grid of the distribution the profile has its corners, and the caps their optimum.
    multiples = np.unique(np.linspace(0, steps, min(steps + 1, POINTS)).round())
    epsilons = multiples * interval
    with np.errstate(over="ignore", invalid="ignore"):
        deltas = deltas_at(distribution, epsilons)
    deltas = np.clip(_known(deltas), 0.0, 1.0)
    return Profile(epsilons, np.maximum.accumulate(deltas[::-1])[::-1])


def _largest(distribution: Pld) -> float | None:
    """Epsilon at the smallest delta that has a finite one; None if none below 1/10 has.

    Nearly noiseless releases are billed a mass of infinite loss, which no epsilon brings delta
    below. Where the profile ends, its last delta holds for every larger epsilon.
    """
    deltas = [MIN_DELTA * 10.0**power for power in range(round(-math.log10(MIN_DELTA)))]
    found = (epsilon_at(distribution, delta) for delta in deltas)
    return next((epsilon for epsilon in found if math.isfinite(epsilon)), None)


def _known(deltas: Array) -> Array:
    """Fill what overflowed with the last value before it.

    dp-accounting multiplies exp(epsilon) by a mass, which is no number beyond epsilon 709. Delta
    never rises with epsilon, so the value at a smaller epsilon is a bound; before the first, 1.
    """
    sound = np.isfinite(deltas)
    last = np.maximum.accumulate(np.where(sound, np.arange(len(deltas)), -1))
    return np.where(last >= 0, deltas[last], 1.0)
