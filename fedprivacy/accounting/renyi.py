"""Renyi accounting: a second, looser upper bound, to cross-check the accountant of record."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dp_accounting import UnsupportedEventError, rdp
from dp_accounting import dp_event as dp

from fedprivacy.accounting.accountant import check_composable
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.history import history
from fedprivacy.accounting.pld import RELATIONS
from fedprivacy.accounting.units import Neighbouring
from fedprivacy.errors import AccountingError

SAMPLED_ORDERS: tuple[float, ...] = (
    *(1 + step / 10 for step in range(10, 100)),
    *(float(order) for order in range(11, 64)),
    *(float(2**power) for power in range(6, 13)),
)
"""Orders searched where sampling amplifies; the series does not converge at smaller ones."""

ORDERS: tuple[float, ...] = (
    *(1 + step / 100 for step in range(1, 10)),
    *(1 + step / 10 for step in range(1, 10)),
    *SAMPLED_ORDERS,
)
"""Orders searched otherwise: sums over many coordinates find their optimum near 1."""


def epsilon_rdp(events: Iterable[Event], delta: float, neighbouring: Neighbouring) -> float:
    """Epsilon of all the events at ``delta`` by Renyi DP (Mironov 2017); ``math.inf`` if none.

    An upper bound like ``accountant.epsilon``, 8 to 40 percent looser in common settings. The
    same unit, relation and view rules hold.

    Raises:
        AccountingError: events that do not compose, or without a known Renyi bound.
    """
    events = tuple(events)
    check_composable(events, neighbouring)
    parts = history(event.dp_event for event in events)
    if parts is None:
        return math.inf
    sampled = any(isinstance(event, dp.PoissonSampledDpEvent) for event, _ in parts)
    orders = SAMPLED_ORDERS if sampled else ORDERS
    accountant = rdp.RdpAccountant(list(orders), RELATIONS[neighbouring])
    for event, count in parts:
        try:
            accountant.compose(_restated(event, neighbouring), count)
        except UnsupportedEventError as error:
            raise AccountingError(f"no Renyi bound for {event} under {neighbouring}") from error
    return float(accountant.get_epsilon(delta)) if parts else 0.0


def _restated(event: dp.DpEvent, neighbouring: Neighbouring) -> dp.DpEvent:
    """Under replace_one dp-accounting's RDP, unlike its PLD, leaves the sensitivity at 1."""
    if neighbouring != "replace_one":
        return event
    if isinstance(event, (dp.GaussianDpEvent, dp.LaplaceDpEvent)):
        return type(event)(event.noise_multiplier / 2)
    return event
