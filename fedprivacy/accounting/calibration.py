"""Calibration: the least noise whose proved epsilon stays at or below a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.reasons import exposed
from fedprivacy.accounting.units import Neighbouring
from fedprivacy.errors import AccountingError

PRECISION = 1e-4
"""Relative precision of the noise found; it is rounded towards more noise."""

_SMALLEST, _LARGEST = 1e-3, 1e6


_INTERPOLATIONS = 12


class _Point(NamedTuple):
    noise: float
    epsilon: float


@dataclass(frozen=True)
class Calibration:
    """Noise for a target.

    Attributes:
        noise_multiplier: the noise to use.
        epsilon: what it proves for the protected releases; at or below the target.
        covers_run: False if other releases of the run are unprotected: the total stays infinite
            whatever the noise, and only the protected rounds meet the target.
    """

    noise_multiplier: float
    epsilon: float
    covers_run: bool


def calibrate_noise(
    make_events: Callable[[float], Sequence[Event]],
    target_epsilon: float,
    delta: float,
    neighbouring: Neighbouring,
) -> Calibration:
    """Find the least noise with which the run's protected releases cost at most the target.

    Args:
        make_events: all releases of one site in the whole run, for a noise multiplier: the
            schedule, its strengths, the sampling and the rounds are in there. More noise must not
            cost more. The worst site's, where sites differ.
        target_epsilon: above 0.
        delta: as for ``epsilon``.
        neighbouring: the relation of the events.

    Returns:
        A noise whose epsilon, by the accountant of record, is never above the target, and within
        ``PRECISION`` of the least such noise.

    Raises:
        AccountingError: no noise meets the target, or the target or the events are unsound.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise AccountingError(f"target_epsilon={target_epsilon!r}: allowed is a number above 0")

    def price(noise: float) -> float:
        return epsilon(Ledger(tuple(make_events(noise))).protected(), delta, neighbouring)

    if not len(Ledger(tuple(make_events(1.0))).protected()):
        raise AccountingError("no release of the run is protected: there is no noise to calibrate")
    noise, reached = _narrow(price, target_epsilon, *_bracket(price, target_epsilon))
    return Calibration(noise, reached, not exposed(make_events(noise)))


def _narrow(
    price: Callable[[float], float], target: float, low: _Point, high: _Point
) -> tuple[float, float]:
    """Close in on the target from a bracket; returns the end that meets it.

    epsilon is close to a power of the noise, so a line in logarithms lands next to the answer,
    and one trial just below it shows that nothing smaller would do. Bisection otherwise.
    """
    trials = 0
    below = False
    while low.noise > 0 and high.noise / low.noise > 1 + PRECISION:
        trials += 1
        drawable = math.isfinite(low.epsilon) and high.epsilon > 0
        if trials > _INTERPOLATIONS or not (drawable or below):
            noise = math.sqrt(low.noise * high.noise)
        elif below:
            noise = max(high.noise / (1 + 0.9 * PRECISION), low.noise)
        else:
            share = math.log(low.epsilon / target) / math.log(low.epsilon / high.epsilon)
            ratio = high.noise / low.noise
            noise = min(low.noise * ratio**share * (1 + PRECISION / 4), high.noise)
        found = _Point(noise, price(noise))
        below = found.epsilon <= target and not below
        low, high = (low, found) if found.epsilon <= target else (found, high)
    return high.noise, high.epsilon


def _bracket(price: Callable[[float], float], target: float) -> tuple[_Point, _Point]:
    """Noise too small and noise large enough, a factor of two apart; (0, ...) if none is needed."""
    point = _Point(1.0, price(1.0))
    while point.epsilon <= target:
        smaller = point.noise / 2
        if smaller < _SMALLEST:
            return _Point(0.0, math.inf), point
        last, point = point, _Point(smaller, price(smaller))
        if point.epsilon > target:
            return point, last
    while True:
        last, point = point, _Point(point.noise * 2, price(point.noise * 2))
        if point.epsilon <= target:
            return last, point
        if math.isinf(point.epsilon) or point.noise > _LARGEST:
            raise AccountingError(
                f"no noise multiplier reaches epsilon {target:g}: {point.noise:g} still costs "
                f"{point.epsilon:g}"
            )
