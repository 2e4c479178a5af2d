"""Claims: what a ledger proves about one unit against one adversary, and why it may prove nothing.

A ledger may state the same releases several times: for a record and for a site, for a server that
sees everything and for one that sees an average. Statements of one kind (unit, neighbouring
relation, view) that cover every release of every site form a chain; only a chain composes, and
each chain that implies the claim gives a valid bound, of which the smallest is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedprivacy.accounting.accountant import Bound, bound, per_round
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.patients import patient_event
from fedprivacy.accounting.reasons import complete_groups, why_infinite, why_nothing
from fedprivacy.accounting.units import Neighbouring, Unit, View, unit_contains, view_contains
from fedprivacy.errors import AccountingError


@dataclass(frozen=True)
class SiteBound:
    """Proved upper bounds for one site's units.

    Attributes:
        total: over every release; infinite if any was exposed.
        protected: over the protected releases alone; None where there was none; infinite for the
            view ``final_model`` unless every release is protected.
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
        protected_unproved: whether some releases were protected, though not in a way from which
            anything about this unit and view follows.
    """

    unit: Unit
    view: View
    neighbouring: Neighbouring | None
    events: tuple[Event, ...] = ()
    per_site: Mapping[str, SiteBound] = field(default_factory=dict)
    reason: str = ""
    derivation: str = ""
    protected_unproved: bool = False

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
        if self.protected_unproved:
            return Bound(math.inf, 0.0)
        bounds = [site.protected for site in self.per_site.values() if site.protected is not None]
        return max(bounds, key=lambda item: item.epsilon, default=None)

    def by_round(self, delta: float, *, protected_only: bool = False) -> dict[int, float | None]:
        """The worst site's epsilon after each round; None from where nothing is proved.

        Args:
            delta: as for the claim.
            protected_only: of the protected releases alone; then also None before the first.
        """
        if self.neighbouring is None or (protected_only and self._partial_is_nothing):
            return {}
        chosen = Ledger(self.events)
        rounds = chosen.rounds
        curves = []
        for name in chosen.sites:
            releases = chosen.site(name).protected() if protected_only else chosen.site(name)
            curves.append(per_round(releases, delta, self.neighbouring))
        return _worst_after(rounds, curves)

    @property
    def _partial_is_nothing(self) -> bool:
        return self.view == "final_model" and math.isinf(self.total.epsilon)

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
        reason = why_nothing(ledger, unit, view, records_per_patient)
        protected = bool(len(ledger.protected()))
        return Claim(unit, view, None, reason=reason, protected_unproved=protected)
    return min(candidates, key=_rank)


def _worst_after(
    rounds: Sequence[int], curves: Sequence[Mapping[int, float | None]]
) -> dict[int, float | None]:
    """The largest of the curves' last values by each round; None before the first, after an end."""
    last: dict[int, float | None] = {}
    worst: dict[int, float | None] = {}
    for number in rounds:
        last |= {at: curve[number] for at, curve in enumerate(curves) if number in curve}
        values = [value for value in last.values() if value is not None]
        worst[number] = max(values) if values and len(values) == len(last) else None
    return worst


@dataclass(frozen=True)
class _Chain:
    events: tuple[Event, ...]
    derivation: str


def _chains(
    ledger: Ledger, unit: Unit, view: View, records_per_patient: int | None
) -> Iterable[_Chain]:
    for events in complete_groups(ledger):
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
    reason = why_infinite(ledger, delta) if math.isinf(worst) else ""
    if view == "final_model" and math.isinf(worst):
        # It is derived from what the raw rounds did, so protecting others bounds nothing of it.
        per_site = {name: _without_partial(site) for name, site in per_site.items()}
    return Claim(unit, view, neighbouring, chain.events, per_site, reason, chain.derivation)


def _without_partial(site: SiteBound) -> SiteBound:
    return site if site.protected is None else replace(site, protected=Bound(math.inf, 0.0))


def _rank(candidate: Claim) -> tuple[float, float, bool]:
    """The smallest bound first; of equals, what was stated for the very view asked about."""
    protected = candidate.protected
    partial = math.inf if protected is None else protected.epsilon
    return candidate.total.epsilon, partial, candidate.events[0].view != candidate.view
