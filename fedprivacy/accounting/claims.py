"""Claims: what a ledger proves about one unit against one adversary, and why it may prove nothing.

A ledger may state the same releases several times: for a record and for a site, for a server that
sees everything and for one that sees an average. Statements of one kind (unit, neighbouring
relation, view) that cover every release of every site form a chain; only a chain composes, and
each chain that implies the claim gives a valid bound, of which the smallest is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedprivacy.accounting.accountant import Bound, bound
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.history import history
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.patients import patient_event
from fedprivacy.accounting.units import Neighbouring, Unit, View, unit_contains, view_contains
from fedprivacy.errors import AccountingError


@dataclass(frozen=True)
class SiteBound:
    """Proved upper bounds for one site's units.

    Attributes:
        total: over every release; infinite if any was exposed.
        protected: over the protected releases alone; None where there was none.
    """

    total: Bound
    protected: Bound | None


@dataclass(frozen=True)
class Claim:
    """An upper bound for one unit against one view of the adversary.

    Attributes:
        unit: whose privacy it speaks of.
        view: what the adversary sees.
        neighbouring: the relation it holds for; None where nothing is proved at all.
        events: the releases it was computed from.
        per_site: the bounds of each site, in the ledger's order.
        reason: why it is infinite, empty where it is finite.
        derivation: how it follows from the ledger, in words.
    """

    unit: Unit
    view: View
    neighbouring: Neighbouring | None
    events: tuple[Event, ...] = ()
    per_site: Mapping[str, SiteBound] = field(default_factory=dict)
    reason: str = ""
    derivation: str = ""

    @property
    def total(self) -> Bound:
        """The worst site's bound: sites hold different patients (parallel composition)."""
        if self.neighbouring is None:
            return Bound(math.inf, 0.0)
        bounds = [site.total for site in self.per_site.values()]
        return max(bounds, key=lambda item: item.epsilon, default=Bound(0.0, 0.0))

    @property
    def protected(self) -> Bound | None:
        """The worst site's bound over protected releases alone; None where there was none."""
        bounds = [site.protected for site in self.per_site.values() if site.protected is not None]
        return max(bounds, key=lambda item: item.epsilon, default=None)

    @property
    def worst_site(self) -> str | None:
        """The site with the largest bound (the first of several)."""
        if not self.per_site:
            return None
        return max(self.per_site, key=lambda name: self.per_site[name].total.epsilon)


def claim(
    ledger: Ledger, unit: Unit, view: View, delta: float, records_per_patient: int | None = None
) -> Claim:
    """The smallest bound that the ledger proves for ``unit`` against ``view`` at ``delta``.

    - A statement for a stronger view holds for every weaker one.
    - A statement for any replacement of a coarse unit's data (``replace_one``) holds for each
      unit inside it, under every relation; one for a fine unit says nothing of a coarser one.
    - A record-level statement gives a patient-level one where the most records of a patient are
      known (``patients.patient_event``).

    Raises:
        AccountingError: the ledger holds an event without a known bound.
    """
    if not len(ledger):
        return Claim(unit, view, "zero_out", derivation="nothing was released")
    candidates = [
        _priced(chain, unit, view, delta)
        for chain in _chains(ledger, unit, view, records_per_patient)
    ]
    if not candidates:
        reason = _why_no_chain(ledger, unit, view, records_per_patient)
        return Claim(unit, view, None, reason=reason)
    return min(candidates, key=_rank)


def exposed(events: Iterable[Event]) -> tuple[Event, ...]:
    """The releases that nothing bounds: raw, without noise, or by a mechanism without proof."""
    return tuple(event for event in events if history([event.dp_event]) is None)


@dataclass(frozen=True)
class _Chain:
    events: tuple[Event, ...]
    derivation: str


def _chains(
    ledger: Ledger, unit: Unit, view: View, records_per_patient: int | None
) -> Iterable[_Chain]:
    for events in _complete(ledger):
        stated = events[0]
        if not view_contains(stated.view, view):
            continue
        words = f"stated for one {stated.unit} ({stated.neighbouring}, {stated.view})"
        if stated.view != view:
            words += f"; whoever sees {view} sees no more than {stated.view}"
        if stated.unit == unit:
            yield _Chain(events, words)
        elif unit_contains(stated.unit, unit):
            if stated.neighbouring == "replace_one":
                yield _Chain(events, f"{words}; each {unit} lies inside one {stated.unit}")
        elif (stated.unit, unit) == ("record", "patient") and records_per_patient is not None:
            restated = _for_patients(events, records_per_patient)
            if restated:
                yield _Chain(
                    restated, f"{words}; a patient has at most {records_per_patient} records"
                )


def _complete(ledger: Ledger) -> Iterable[tuple[Event, ...]]:
    """Groups of one kind that cover every release, in the order of their first event."""
    releases = {(event.site, event.round) for event in ledger}
    groups: dict[tuple[str, str, str], list[Event]] = {}
    for event in ledger:
        groups.setdefault((event.unit, event.neighbouring, event.view), []).append(event)
    for group in groups.values():
        if {(event.site, event.round) for event in group} == releases:
            yield tuple(group)


def _for_patients(events: Sequence[Event], records: int) -> tuple[Event, ...]:
    """The events restated for a patient; empty where one has no known restatement."""
    try:
        return tuple(
            event.stated_as(patient_event(event.dp_event, records, event.neighbouring), "patient")
            for event in events
        )
    except AccountingError:
        return ()


def _priced(chain: _Chain, unit: Unit, view: View, delta: float) -> Claim:
    neighbouring = chain.events[0].neighbouring
    ledger = Ledger(chain.events)
    per_site = {}
    for name in ledger.sites:
        releases = ledger.site(name)
        protected = releases.protected()
        per_site[name] = SiteBound(
            bound(releases, delta, neighbouring),
            bound(protected, delta, neighbouring) if len(protected) else None,
        )
    worst = max(site.total.epsilon for site in per_site.values())
    reason = _why_infinite(ledger, delta) if math.isinf(worst) else ""
    return Claim(unit, view, neighbouring, chain.events, per_site, reason, chain.derivation)


def _rank(candidate: Claim) -> tuple[float, float]:
    protected = candidate.protected
    return candidate.total.epsilon, math.inf if protected is None else protected.epsilon


def _why_infinite(ledger: Ledger, delta: float) -> str:
    if not len(ledger.protected()):
        return "no protection"
    causes: dict[str, list[Event]] = {}
    for event in exposed(ledger):
        if event.protected:
            because = event.reason or "it adds no noise"
            cause = f"{event.mechanism} proves nothing: {because}"
        else:
            cause = "their records were used in releases that nothing protects"
        causes.setdefault(cause, []).append(event)
    if not causes:
        return f"the losses leave more than delta={delta:g} beyond every finite epsilon"
    return "; ".join(
        f"{_rounds(events)}, {_sites(events, ledger.sites)}: {cause}"
        for cause, events in causes.items()
    )


def _rounds(events: Sequence[Event]) -> str:
    """``round 3`` or ``rounds 2-4, 7``."""
    numbers = sorted({event.round for event in events})
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"round{'s' if len(numbers) > 1 else ''} {words}"


def _sites(events: Sequence[Event], every: Sequence[str]) -> str:
    names = tuple(dict.fromkeys(event.site for event in events))
    if len(names) == len(every) > 1:
        return "all sites"
    return f"site{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _why_no_chain(ledger: Ledger, unit: Unit, view: View, records_per_patient: int | None) -> str:
    if not len(ledger.protected()):
        return "no protection"
    kinds = [group[0] for group in _complete(ledger)]
    if not kinds:
        return "no statement of one unit, neighbouring relation and view covers every release"
    seen = [kind for kind in kinds if view_contains(kind.view, view)]
    if not seen:
        views = ", ".join(dict.fromkeys(kind.view for kind in kinds))
        return f"nothing is proved against an adversary who sees {view}: only for {views}"
    units = ", ".join(dict.fromkeys(kind.unit for kind in seen))
    if unit == "patient" and "record" in units:
        if records_per_patient is None:
            return "how many records one patient has is not declared"
        return f"no known bound for a patient with {records_per_patient} records"
    return f"a bound for one {units} says nothing about one {unit}"
