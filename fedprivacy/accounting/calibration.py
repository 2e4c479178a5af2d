"""Calibration: the least noise whose proved epsilon stays at or below a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dp_accounting import dp_event

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.gaussian import gaussian_mu
from fedprivacy.accounting.history import history
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.reasons import exposed
from fedprivacy.accounting.units import Neighbouring
from fedprivacy.errors import AccountingError

PRECISION = 1e-4
"""Relative precision of the noise found; it is rounded towards more noise."""

_SMALLEST, _LARGEST = 1e-3, 1e6
_NEAR, _BISECTIONS, _REACH = 1.005, 48, 0.75


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

    def protected(noise: float) -> Ledger:
        return Ledger(tuple(make_events(noise))).protected()

    def price(noise: float) -> float:
        return epsilon(protected(noise), delta, neighbouring)

    if not len(protected(1.0)):
        raise AccountingError("no release of the run is protected: there is no noise to calibrate")
    near = _by_limit_theorem(protected, price, target_epsilon, delta, neighbouring)
    bracket = _bracket(price, target_epsilon, *((near, _NEAR) if near else (1.0, 2.0)))
    noise, reached = _narrow(price, target_epsilon, *bracket)
    return Calibration(noise, reached, not exposed(make_events(noise)))


def _by_limit_theorem(
    protected: Callable[[float], Ledger],
    price: Callable[[float], float],
    target: float,
    delta: float,
    neighbouring: Neighbouring,
) -> float | None:
    """A noise near the answer, from one trial of the accountant; None for other mechanisms.

    Many subsampled Gaussians are nearly one Gaussian with mu = q sqrt(sum (exp(1/sigma^2) - 1))
    (Bu, Dong, Long & Su 2020, arXiv 1911.11607, corollary 5.4). That is no bound, but cheap, and
    off by about the same factor at noises that are alike.
    """

    def strength(noise: float) -> float | None:
        return _limit_mu(protected(noise), neighbouring)

    def solve(wanted: float) -> float:
        low, high = math.log(_SMALLEST), math.log(_LARGEST)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            enough = (strength(math.exp(middle)) or 0.0) <= wanted
            low, high = (low, middle) if enough else (middle, high)
        return math.exp(high)

    if strength(1.0) is None:
        return None
    first = solve(gaussian_mu(target, delta))
    reached = price(first)
    if not (math.isfinite(reached) and reached > 0):
        return first
    off = gaussian_mu(reached, delta) / (strength(first) or 1.0)
    return solve(gaussian_mu(target, delta) / off) * (1 + PRECISION)


def _limit_mu(events: Ledger, neighbouring: Neighbouring) -> float | None:
    """mu of the limit; None if there is anything but Gaussians, sampled or not."""
    sensitivity = 2.0 if neighbouring == "replace_one" else 1.0
    squares = []
    for part, count in history(event.dp_event for event in events) or ():
        rate, inner = 1.0, part
        if isinstance(part, dp_event.PoissonSampledDpEvent):
            rate, inner = part.sampling_probability, part.event
        if not isinstance(inner, dp_event.GaussianDpEvent):
            return None
        precision = (sensitivity / inner.noise_multiplier) ** 2
        one = precision if rate == 1 else math.expm1(min(precision, 500.0))
        squares.append(count * rate**2 * one)
    return math.sqrt(math.fsum(squares)) if squares else None


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


def _bracket(
    price: Callable[[float], float], target: float, start: float = 1.0, step: float = 2.0
) -> tuple[_Point, _Point]:
    """Noise too small and noise large enough, a factor apart; (0, ...) if none is needed."""
    point = _Point(start, price(start))
    if 0 < point.epsilon < math.inf:
        # epsilon falls with noise, by a power between 1 and 2 where it is large.
        step = max(step, max(point.epsilon / target, target / point.epsilon) ** _REACH)
    while point.epsilon <= target:
        if point.noise <= _SMALLEST:
            return _Point(0.0, math.inf), point
        smaller = max(point.noise / step, _SMALLEST)
        last, point = point, _Point(smaller, price(smaller))
        step *= step
        if point.epsilon > target:
            return point, last
    while True:
        last, point = point, _Point(point.noise * step, price(point.noise * step))
        if point.epsilon <= target:
            return last, point
        if math.isinf(point.epsilon) or point.noise > _LARGEST:
            raise AccountingError(
                f"no noise multiplier reaches epsilon {target:g}: {point.noise:g} still costs "
                f"{point.epsilon:g}"
            )
