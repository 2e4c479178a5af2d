"""Epsilon of a list of events: the accountant of record, and the curve over rounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import groupby

from dp_accounting.dp_event import SelfComposedDpEvent

from fedprivacy.accounting import pld
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.history import History, history
from fedprivacy.accounting.hockey_stick import epsilon_at
from fedprivacy.accounting.running import RunningLoss
from fedprivacy.accounting.units import NEIGHBOURING, Neighbouring
from fedprivacy.errors import AccountingError

INTERVAL = 1e-3
"""Grid of the losses: overstates epsilon by 0.01 or less, after 20,000 steps by 0.02."""

FINE_INTERVAL = 1e-4
"""Grid for an epsilon below ``FINE_BELOW``, where 0.01 would matter."""

FINE_BELOW = 0.5

MIN_DELTA = 1e-10
"""Below this, cut tails (1e-15 a composition, 1e-14 a round of a curve) and the float noise of FFTs
could show."""


@dataclass(frozen=True)
class Bound:
    """An upper bound, proved, with what it was computed on.

    Attributes:
        epsilon: ``math.inf`` where nothing is proved.
        interval: grid of the losses that it was computed on; 0 where none was needed.
    """

    epsilon: float
    interval: float

    @property
    def accountant(self) -> str:
        """Which accountant gave the bound, for a reader who wants to repeat it."""
        grid = f", losses on a grid of {self.interval:g}, rounded up" if self.interval else ""
        return f"dp-accounting {version('dp-accounting')} PLD{grid}"


def epsilon(events: Iterable[Event], delta: float, neighbouring: Neighbouring) -> float:
    """Smallest proved epsilon of all the events together at ``delta``; ``math.inf`` if none.

    Upper bound for one unit that is present in every event, so events of one site, or of several
    sites for a patient treated in all of them. Privacy loss distributions with pessimistic
    rounding (see ``fedprivacy.accounting.pld``).

    Args:
        events: all of one unit, neighbouring relation and view. None at all: epsilon 0.
        delta: between 1e-10 and 1.
        neighbouring: the relation of the events, said again so that no number is taken for
            another relation's.

    Raises:
        AccountingError: events that do not compose, an unknown bound, or a delta out of range.
    """
    return bound(events, delta, neighbouring).epsilon


def bound(events: Iterable[Event], delta: float, neighbouring: Neighbouring) -> Bound:
    """As ``epsilon``, with the grid that it was computed on.

    Infinite where noise is so small that its losses overflow, unless pure epsilons add up to
    something finite.
    """
    events = tuple(events)
    check_composable(events, neighbouring)
    _check_delta(delta)
    return _whole(history(event.dp_event for event in events), delta, neighbouring)


def _whole(parts: History | None, delta: float, neighbouring: Neighbouring) -> Bound:
    try:
        found = _bound(parts, delta, neighbouring)
    except (OverflowError, ZeroDivisionError):
        found = Bound(math.inf, 0.0)
    if parts and math.isinf(found.epsilon):
        return Bound(pld.pure_total(parts, neighbouring), 0.0)
    return found


def per_round(
    events: Iterable[Event], delta: float, neighbouring: Neighbouring
) -> dict[int, float | None]:
    """Epsilon of everything up to and including each round that has an event, by round.

    None from the first unprotected release on (there is no number to draw). The last value is that
    of ``epsilon``, up to float noise of the FFT (1e-6). Those of a long curve before it are of a
    coarser grid (``running.LONGEST``); none is larger than the last, since what holds for the whole
    holds for each of its parts. Arguments and errors as ``epsilon``.
    """
    events = tuple(events)
    check_composable(events, neighbouring)
    _check_delta(delta)
    ordered = sorted(events, key=lambda event: event.round)
    rounds = {
        number: history(event.dp_event for event in group)
        for number, group in groupby(ordered, key=lambda event: event.round)
    }
    values = _cumulative(tuple(rounds.values()), delta, neighbouring)
    drawn = (None if math.isinf(value) else value for value in values)
    return dict(zip(rounds, drawn, strict=True))


def check_composable(events: Sequence[Event], neighbouring: Neighbouring) -> None:
    """Refuse to add up numbers that speak of different things.

    Raises:
        AccountingError: units, relations or views differ, or the relation is not the one asked.
    """
    if neighbouring not in NEIGHBOURING:
        raise AccountingError(f"neighbouring={neighbouring!r}: allowed is one of {NEIGHBOURING}")
    kinds = sorted({(event.unit, event.neighbouring, event.view) for event in events})
    if len(kinds) > 1:
        listed = "; ".join(", ".join(kind) for kind in kinds)
        raise AccountingError(
            f"events of different (unit, neighbouring relation, view) do not compose: {listed}. "
            "Select those of one kind first"
        )
    if kinds and kinds[0][1] != neighbouring:
        raise AccountingError(
            f"the events are stated for {kinds[0][1]}, epsilon was asked for {neighbouring}: "
            "a bound for one neighbouring relation is none for another"
        )


def _check_delta(delta: float) -> None:
    if not MIN_DELTA <= delta < 1:
        raise AccountingError(
            f"delta={delta!r}: allowed is {MIN_DELTA:g} to 1 (numerical tails are cut, of a curve "
            "1e-14 in each round)"
        )


@lru_cache(maxsize=4096)
def _bound(parts: History | None, delta: float, neighbouring: Neighbouring) -> Bound:
    if parts is None:
        return Bound(math.inf, 0.0)
    if not parts:
        return Bound(0.0, 0.0)
    interval = pld.interval_for(parts, neighbouring, INTERVAL)
    value = epsilon_at(pld.composed(parts, neighbouring, interval), delta)
    if value < FINE_BELOW:
        interval = pld.interval_for(parts, neighbouring, FINE_INTERVAL)
        value = epsilon_at(pld.composed(parts, neighbouring, interval), delta)
    return Bound(float(value), interval)


@lru_cache(maxsize=256)
def _cumulative(
    rounds: tuple[History | None, ...], delta: float, neighbouring: Neighbouring
) -> tuple[float, ...]:
    finite: list[History] = []
    for parts in rounds:
        if parts is None:
            break
        finite.append(parts)
    whole = _whole(_together(finite), delta, neighbouring).epsilon
    values = [min(value, whole) for value in _curve(finite, delta, neighbouring)]
    # Rounding to a grid must not make a longer history look cheaper than a shorter one.
    rising = tuple(itertools.accumulate(values, max))
    return (*rising, *([math.inf] * (len(rounds) - len(rising))))


def _curve(rounds: Sequence[History], delta: float, neighbouring: Neighbouring) -> list[float]:
    """Epsilon after each round; infinite where losses overflow."""
    values = [math.inf] * len(rounds)
    try:
        for index, value in enumerate(_running(rounds, delta, neighbouring, INTERVAL, math.inf)):
            values[index] = value
        small = min(values, default=math.inf) < FINE_BELOW
        fine = _running(rounds, delta, neighbouring, FINE_INTERVAL, FINE_BELOW) if small else ()
        for index, value in enumerate(fine):
            if values[index] < FINE_BELOW:
                values[index] = min(values[index], value)
    except (OverflowError, ZeroDivisionError):
        pass  # what is infinite so far stays so
    return values


def _running(
    rounds: Sequence[History], delta: float, neighbouring: Neighbouring, wanted: float, stop: float
) -> Iterable[float]:
    """Epsilon after each round, until it reaches ``stop``."""
    running = RunningLoss(pld.interval_for(_together(rounds), neighbouring, wanted))
    value = 0.0
    for parts in rounds:
        if parts:
            value = epsilon_at(running.add(partial(pld.composed, parts, neighbouring)), delta)
        yield value
        if value >= stop:
            return


def _together(rounds: Sequence[History]) -> History:
    return history(SelfComposedDpEvent(*pair) for parts in rounds for pair in parts) or ()
