"""Why a ledger proves nothing, in words that name the rounds and sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedprivacy.accounting.events import Event
from fedprivacy.accounting.history import history
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.units import Unit, View, view_contains


def exposed(events: Iterable[Event]) -> tuple[Event, ...]:
    """The releases that nothing bounds: raw, without noise, or by a mechanism without proof."""
    return tuple(event for event in events if history([event.dp_event]) is None)


def complete_groups(ledger: Ledger) -> Iterable[tuple[Event, ...]]:
    """Groups of one kind that cover every release, in the order of their first event."""
    releases = {(event.site, event.round) for event in ledger}
    groups: dict[tuple[str, str, str], list[Event]] = {}
    for event in ledger:
        groups.setdefault((event.unit, event.neighbouring, event.view), []).append(event)
    for group in groups.values():
        if {(event.site, event.round) for event in group} == releases:
            yield tuple(group)


def why_infinite(ledger: Ledger, delta: float) -> str:
    """Why a chain of events has no finite epsilon."""
    if not any(event.protected or event.reason for event in ledger):
        return "no protection"
    causes: dict[str, list[Event]] = {}
    for event in exposed(ledger):
        if event.protected:
            because = event.reason or "it adds no noise"
            cause = f"{event.mechanism} proves nothing: {because}"
        else:
            cause = event.reason or "their records were used in releases that nothing protects"
        causes.setdefault(cause, []).append(event)
    if not causes:
        return (
            f"the noise is so small that more than delta={delta:g} of the losses lies beyond every "
            "epsilon that can be computed"
        )
    return "; ".join(
        f"{round_words(events)}, {_sites(events, ledger.sites)}: {cause}"
        for cause, events in causes.items()
    )


def round_words(events: Sequence[Event]) -> str:
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


def why_nothing(ledger: Ledger, unit: Unit, view: View, records_per_patient: int | None) -> str:
    """Why the ledger holds no statement from which the claim would follow."""
    if not len(ledger.protected()):
        return "no protection"
    kinds = [group[0] for group in complete_groups(ledger)]
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
