"""Privacy loss distribution of a mixture of Gaussians, built in a tenth of a second.

dp-accounting 0.6 inverts the privacy loss by one bisection a grid point, in Python: 5 to 45
seconds for a patient with four records. The loss is a log-sum-exp of linear functions, so it is
convex, and Newton's method from the right converges for all grid points at once. The
discretisation is still dp-accounting's (Doroshenko et al. 2022, arXiv 2207.04380, algorithm 1).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

_TAIL = 10.0
"""Standard deviations kept on each side: 8e-24 of the probability lies beyond."""

_NEWTON_STEPS = 200


def mixture_pld(
    sigma: float, sensitivities: tuple[float, ...], shares: tuple[float, ...], interval: float
) -> Any:
    """The pair N(0, sigma^2) and sum_i shares_i N(sensitivities_i, sigma^2), in both directions.

    Args:
        sigma: standard deviation, above 0.
        sensitivities: non-negative, at least one positive with a positive share.
        shares: their probabilities, summing to 1.
        interval: grid of the losses.

    Returns:
        A dp-accounting ``PrivacyLossDistribution``.
    """
    shifts, weights = np.asarray(sensitivities) / sigma, np.asarray(shares)
    mixture = _Mixture(shifts[weights > 0], weights[weights > 0])
    removed = _pmf(mixture.delta_remove, mixture.remove_range(), interval)
    added = _pmf(mixture.delta_add, mixture.add_range(), interval)
    return privacy_loss_distribution.PrivacyLossDistribution(removed, added)


class _Mixture:
    """Upper mixture P = sum w_i N(c_i, 1) against Q = N(0, 1), in units of sigma."""

    def __init__(self, shifts: Array, weights: Array) -> None:
        self.shifts, self.weights = shifts, weights
        self.constants = np.log(weights) - shifts**2 / 2
        still = weights[shifts == 0].sum()
        self.lowest_loss = math.log(still) if still > 0 else -math.inf

    def loss(self, x: Array) -> Array:
        """log P(x)/Q(x), increasing and convex in x."""
        terms = self.constants + np.multiply.outer(x, self.shifts)
        return np.asarray(np.logaddexp.reduce(terms, axis=-1))

    def inverse(self, losses: Array) -> Array:
        """x with ``loss(x)`` equal to each of ``losses``; -inf at or below the lowest loss."""
        result = np.full_like(losses, -np.inf)
        reached = losses > self.lowest_loss
        moving = self.shifts > 0
        result[reached] = self._inverse(losses[reached], moving)
        return result

    def _inverse(self, wanted: Array, moving: NDArray[np.bool_]) -> Array:
        """The same above the lowest loss."""
        if moving.sum() == 1:
            # log(w + exp(constant + shift x)) in closed form: w moves nowhere.
            [shift], [constant] = self.shifts[moving], self.constants[moving]
            rest = np.log1p(-np.exp(self.lowest_loss - wanted))
            return np.asarray((wanted + rest - constant) / shift)
        # One component alone reaches the loss further right than all together do.
        starts = np.subtract.outer(wanted, self.constants[moving]) / self.shifts[moving]
        x = starts.min(axis=-1)
        for _ in range(_NEWTON_STEPS):
            terms = self.constants + np.multiply.outer(x, self.shifts)
            loss = np.logaddexp.reduce(terms, axis=-1)
            slope = np.exp(terms - loss[:, None]) @ self.shifts
            step = np.divide(loss - wanted, slope, out=np.zeros_like(x), where=slope > 0)
            x = x - step
            if np.all(np.abs(step) <= 1e-12 * (1 + np.abs(x))):
                break
        return np.asarray(x)

    def delta_remove(self, losses: Array) -> Array:
        """P(loss > e) - exp(e) Q(loss > e) for each e of ``losses``."""
        x = self.inverse(losses)
        upper = special.ndtr(np.subtract.outer(self.shifts, x)).T @ self.weights
        return np.asarray(upper - np.exp(losses + special.log_ndtr(-x)))

    def delta_add(self, losses: Array) -> Array:
        """The same with the roles of P and Q exchanged."""
        x = self.inverse(-losses)
        terms = np.log(self.weights) + special.log_ndtr(np.subtract.outer(x, self.shifts))
        lower = np.logaddexp.reduce(terms, axis=-1)
        return np.asarray(special.ndtr(x) - np.exp(losses + lower))

    def remove_range(self) -> tuple[float, float]:
        """Smallest and largest loss under P but for a negligible tail."""
        ends = self.loss(np.array([-_TAIL, float(self.shifts.max()) + _TAIL]))
        return float(ends[0]), float(ends[1])

    def add_range(self) -> tuple[float, float]:
        """The same under Q with the roles exchanged."""
        ends = self.loss(np.array([_TAIL, -_TAIL]))
        return -float(ends[0]), -float(ends[1])


def _pmf(delta: Any, ends: tuple[float, float], interval: float) -> Any:
    low, high = math.floor(ends[0] / interval), math.ceil(ends[1] / interval)
    deltas = np.clip(delta(np.arange(low, high + 1) * interval), 0.0, 1.0)
    # Rounding noise may make it rise by 1e-17; raising the earlier value keeps it pessimistic.
    deltas = np.maximum.accumulate(deltas[::-1])[::-1]
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, low, high, deltas)
