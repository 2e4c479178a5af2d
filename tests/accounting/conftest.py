"""Small events and ledgers for the tests of the accounting package, handed out as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.units import Neighbouring, Unit, View

RAW = dp.NonPrivateDpEvent()


def _dpsgd(q: float = 0.2, sigma: float = 2.0, steps: int = 20) -> dp.DpEvent:
    """One round of DP-SGD with Poisson sampling."""
    step = dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma))
    return dp.SelfComposedDpEvent(step, steps)


def _event(
    dp_event: dp.DpEvent,
    round_number: int = 1,
    site: str = "A",
    *,
    protected: bool = True,
    unit: Unit = "record",
    neighbouring: Neighbouring = "zero_out",
    view: View = "server_updates",
    mechanism: str = "dpsgd",
    reason: str = "",
) -> Event:
    """One event with plain defaults."""
    strength = 1.0 if protected else None
    return Event(
        round_number, site, mechanism, unit, neighbouring, view, dp_event, protected, strength,
        reason,
    )  # fmt: skip


def _run(
    rounds: int,
    protects: Callable[[int], bool] = lambda number: True,
    sites: Iterable[str] = ("A",),
    dp_event: dp.DpEvent | None = None,
) -> Ledger:
    """A run whose protected rounds all make the same release, and whose others are raw."""
    release = dp_event or _dpsgd()
    return Ledger(
        tuple(
            _event(release if protects(number) else RAW, number, site, protected=protects(number))
            for number in range(1, rounds + 1)
            for site in sites
        )
    )


@pytest.fixture(scope="session")
def dpsgd() -> Callable[..., dp.DpEvent]:
    """``dpsgd(q, sigma, steps)``: one round of DP-SGD with Poisson sampling."""
    return _dpsgd


@pytest.fixture(scope="session")
def event() -> Callable[..., Event]:
    """``event(dp_event, round_number, site, **fields)``: one event."""
    return _event


@pytest.fixture(scope="session")
def run() -> Callable[..., Ledger]:
    """``run(rounds, protects, sites, dp_event)``: a ledger."""
    return _run
