"""The privacy statement of a cell: every number with what it holds for, ready for result.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dp_accounting import dp_event as dp

from fedprivacy.accounting.accountant import Bound, epsilon
from fedprivacy.accounting.caps import Caps, caps
from fedprivacy.accounting.claims import Claim, SiteBound, claim
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.reasons import exposed
from fedprivacy.accounting.units import UNITS, VIEWS, Neighbouring, Unit, View
from fedprivacy.errors import AccountingError

Randomness = Literal["secret", "seeded"]

DIRECTION = "upper bound, proved"

COMMON_DELTA = 1e-5

_FIRST = 5


@dataclass(frozen=True)
class PrivacyStatement:
    """What was proved about a cell; build it with ``privacy_statement``.

    Attributes:
        unit: whose privacy the headline numbers speak of.
        neighbouring: the neighbouring relation they hold for.
        view: what the adversary sees.
        delta: probability with which the bound may fail.
        randomness: ``secret`` or ``seeded`` (then the certificate is a simulation).
        epsilon: upper bound over every release, worst site; ``math.inf`` where nothing is proved.
        reason: why epsilon is infinite; empty where it is finite.
        epsilon_protected: the same over protected rounds alone; None where there was none.
        protected_rounds: rounds in which every site's release was protected.
        rounds: rounds that ran.
        accountant: name, version and grid of the accountant.
        derivation: how epsilon follows from the ledger, in words.
        assumptions: what must hold besides, in words.
        per_site: bounds of each site.
        worst_site: the site that sets epsilon; None in an empty ledger.
        epsilon_after: epsilon of everything released up to the end of round 1, 2, ...; None from
            where nothing is proved.
        epsilon_protected_after: the same over protected rounds alone; None before the first.
        epsilon_at_common_delta: epsilon at delta 1e-5, which all runs can be compared at.
        caps: what the proof leaves to any attacker.
        claim: the claim that the headline numbers come from.
        exposed_rounds: round of each release that nothing bounds, ascending.
        per_unit: the claim for each unit, same view.
        per_view: the claim for each view, same unit.
        records_per_patient: most records that one patient has, where known.
    """

    unit: Unit
    neighbouring: Neighbouring
    view: View
    delta: float
    randomness: Randomness
    epsilon: float
    reason: str
    epsilon_protected: float | None
    protected_rounds: int
    rounds: int
    accountant: str
    derivation: str
    assumptions: tuple[str, ...]
    per_site: Mapping[str, SiteBound]
    worst_site: str | None
    epsilon_after: tuple[float | None, ...]
    epsilon_protected_after: tuple[float | None, ...]
    epsilon_at_common_delta: float
    caps: Caps
    claim: Claim
    exposed_rounds: tuple[int, ...]
    per_unit: Mapping[Unit, Claim]
    per_view: Mapping[View, Claim]
    records_per_patient: int | None = None

    @property
    def infinite(self) -> bool:
        """Whether nothing is proved about the run as a whole."""
        return math.isinf(self.epsilon)

    @property
    def epsilon_protected_infinite(self) -> bool:
        """Whether not even the protected rounds prove anything, though there were some."""
        return self.epsilon_protected is not None and math.isinf(self.epsilon_protected)

    def to_json(self) -> dict[str, Any]:
        """The ``privacy`` block of ``result.json``: strict JSON, no NaN, no Infinity."""
        return {
            "unit": self.unit,
            "neighbouring": self.neighbouring,
            "view": self.view,
            "delta": self.delta,
            "direction": DIRECTION,
            "randomness": self.randomness,
            "infinite": self.infinite,
            "epsilon": _finite(self.epsilon),
            "reason": self.reason,
            "epsilon_protected": _finite(self.epsilon_protected),
            "epsilon_protected_infinite": self.epsilon_protected_infinite,
            "protected_rounds": self.protected_rounds,
            "rounds": self.rounds,
            "protected_share": self.protected_rounds / self.rounds if self.rounds else 0.0,
            "epsilon_at_delta_1e-5": _finite(self.epsilon_at_common_delta),
            **self.caps.to_json(),
            "accountant": self.accountant,
            "sampling": sampling_text(self.claim),
            "max_records_per_unit": {"record": 1, "patient": self.records_per_patient},
            "derivation": self.derivation,
            "assumptions": list(self.assumptions),
            "per_site": {name: _site_json(site) for name, site in self.per_site.items()},
            "worst_site": self.worst_site,
            "exposed_releases": {
                "number": len(self.exposed_rounds),
                "first_rounds": sorted(set(self.exposed_rounds))[:_FIRST],
            },
            "per_unit": {unit: _claim_json(item) for unit, item in self.per_unit.items()},
            "per_view": {view: _claim_json(item) for view, item in self.per_view.items()},
        }


def privacy_statement(
    ledger: Ledger,
    *,
    rounds: int,
    delta: float,
    view: View = "server_updates",
    randomness: Randomness = "secret",
    assumptions: Sequence[str] = (),
    unit: Unit | None = None,
    records_per_patient: int | None = None,
) -> PrivacyStatement:
    """State what the ledger proves, for the worst site and for every site, unit and view.

    Args:
        ledger: every release of the cell; a round in which a site released nothing new has a
            ``NoOpDpEvent``.
        rounds: rounds that ran to their end; each site must have an event in each. Events of a
            round that was broken off may follow and are counted.
        delta: see ``fedprivacy.accounting.delta``.
        view: what the adversary sees.
        randomness: where noise and sampling masks came from.
        assumptions: what the caller takes as public or given, in words.
        unit: whose privacy the headline speaks of; None: the only unit the ledger is stated for.
        records_per_patient: most records of one patient at a site, where known.

    Raises:
        AccountingError: a release is missing from the ledger, the unit is not clear, an event has
            no known bound, or delta is out of range.
    """
    _check_complete(ledger, rounds)
    subject = unit or _only_unit(ledger)
    main = claim(ledger, subject, view, delta, records_per_patient)
    releases = main.events or ledger.events
    worst, protected = main.total, main.protected

    def other(one: Unit, seen: View) -> Claim:
        if (one, seen) == (subject, view):
            return main
        return claim(ledger, one, seen, delta, records_per_patient)

    return PrivacyStatement(
        unit=subject,
        neighbouring=main.neighbouring or _first_relation(ledger),
        view=view,
        delta=delta,
        randomness=randomness,
        epsilon=worst.epsilon,
        reason=main.reason,
        epsilon_protected=None if protected is None else protected.epsilon,
        protected_rounds=_protected_rounds(Ledger(releases), rounds),
        rounds=rounds,
        accountant=_accountant(worst, protected),
        derivation=main.derivation,
        assumptions=(*assumptions, *_own_assumptions(ledger, main, randomness)),
        per_site=main.per_site,
        worst_site=main.worst_site,
        epsilon_after=_curve(main, delta, rounds, protected_only=False),
        epsilon_protected_after=_curve(main, delta, rounds, protected_only=True),
        epsilon_at_common_delta=_at_common_delta(main, delta),
        caps=caps(main),
        claim=main,
        exposed_rounds=tuple(sorted(event.round for event in exposed(releases))),
        per_unit={one: other(one, view) for one in UNITS},
        per_view={one: other(subject, one) for one in VIEWS},
        records_per_patient=records_per_patient,
    )


def sampling_text(subject: Claim) -> str:
    """How records entered the releases of a claim, and what amplification was billed."""
    found: dict[str, None] = {}
    for event in subject.events:
        found |= dict.fromkeys(_sampling(event.dp_event))
        if "epsilon_at_least" in event.details:
            floor = event.details["epsilon_at_least"]
            words = "shuffled batches, billed without amplification; epsilon of one pass is at "
            found[f"{words}least {floor:.3f} at delta {COMMON_DELTA:g} (lower bound)"] = None
    return "; ".join(found) or "none: every record enters every release"


def _sampling(event: dp.DpEvent) -> list[str]:
    if isinstance(event, dp.PoissonSampledDpEvent):
        rate = event.sampling_probability
        return [f"Poisson, each record in each step with probability {rate:g}"]
    if isinstance(event, dp.MixtureOfGaussiansDpEvent):
        return ["Poisson over records, mixture over the records of one patient"]
    inner = getattr(event, "events", None) or (getattr(event, "event", None),)
    return [text for part in inner if part is not None for text in _sampling(part)]


def _check_complete(ledger: Ledger, rounds: int) -> None:
    """A release that never reached the ledger would be priced at nothing."""
    if rounds and not ledger.sites:
        raise AccountingError(f"{rounds} rounds ran, but the ledger is empty")
    for site in ledger.sites:
        missing = sorted(set(range(1, rounds + 1)) - set(ledger.site(site).rounds))
        if missing:
            raise AccountingError(
                f"site {site} has no event for rounds {missing[:10]} of {rounds}: enter what it "
                "released there, or NoOpDpEvent if it released nothing"
            )


def _only_unit(ledger: Ledger) -> Unit:
    units = sorted({event.unit for event in ledger})
    if len(units) > 1:
        raise AccountingError(f"the ledger speaks of {', '.join(units)}: say which unit is meant")
    return units[0] if units else "record"


def _first_relation(ledger: Ledger) -> Neighbouring:
    return ledger.events[0].neighbouring if len(ledger) else "zero_out"


def _protected_rounds(ledger: Ledger, rounds: int) -> int:
    bare = {event.round for event in ledger if not event.protected}
    return sum(1 <= number <= rounds and number not in bare for number in ledger.rounds)


def _at_common_delta(main: Claim, delta: float) -> float:
    if main.neighbouring is None or delta == COMMON_DELTA:
        return main.total.epsilon
    ledger = Ledger(main.events)
    return max(
        (epsilon(ledger.site(name), COMMON_DELTA, main.neighbouring) for name in ledger.sites),
        default=0.0,
    )


def _curve(
    main: Claim, delta: float, rounds: int, *, protected_only: bool
) -> tuple[float | None, ...]:
    values = main.by_round(delta, protected_only=protected_only)
    return tuple(values.get(number) for number in range(1, rounds + 1))


def _accountant(total: Bound, protected: Bound | None) -> str:
    if math.isinf(total.epsilon) and protected is not None:
        return protected.accountant
    return total.accountant


def _own_assumptions(ledger: Ledger, main: Claim, randomness: Randomness) -> tuple[str, ...]:
    """What the mathematics used here takes for granted."""
    if not len(ledger.protected()):
        return ()
    source = {
        "secret": "noise and sampling masks stay secret; their generators (Mersenne Twister, "
        "PCG64, on CUDA Philox with 63 bits) are seeded with 256 bits from the operating system "
        "and are not cryptographic",
        "seeded": "noise and sampling masks were made from a known seed: "
        "the certificate is a simulation",
    }
    found = [source[randomness], "noise of finite precision is taken for exact noise"]
    if len(ledger.sites) > 1:
        found.append("no patient is at two sites (parallel composition: the worst site counts)")
    if main.neighbouring == "zero_out":
        found.append("the number of records of each site is public")
    return tuple(found)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value


def _site_json(site: SiteBound) -> dict[str, Any]:
    protected = None if site.protected is None else site.protected.epsilon
    return {
        "infinite": math.isinf(site.total.epsilon),
        "epsilon": _finite(site.total.epsilon),
        "epsilon_protected": _finite(protected),
        "epsilon_protected_infinite": protected is not None and math.isinf(protected),
    }


def _claim_json(item: Claim) -> dict[str, Any]:
    protected = None if item.protected is None else item.protected.epsilon
    limits = caps(item)
    return {
        "unit": item.unit,
        "neighbouring": item.neighbouring,
        "view": item.view,
        "infinite": math.isinf(item.total.epsilon),
        "epsilon": _finite(item.total.epsilon),
        "epsilon_protected": _finite(protected),
        "epsilon_protected_infinite": protected is not None and math.isinf(protected),
        "reason": item.reason,
        "derivation": item.derivation,
        "max_tpr_at_fpr": limits.to_json()["max_tpr_at_fpr"],
        "max_advantage": limits.max_advantage,
    }
