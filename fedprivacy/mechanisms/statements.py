"""What a site's release says, as events of its ledger."""

from __future__ import annotations

from fedprivacy.accounting.events import Event
from fedprivacy.mechanisms.base import Release
from fedprivacy.training.task import LocalTask


def events_of(release: Release, mechanism: str, site: str, task: LocalTask) -> tuple[Event, ...]:
    """One event for each kind of statement that a mechanism makes of one round at one site.

    Args:
        release: what the mechanism says of the round.
        mechanism: its name.
        site: of the site.
        task: of the round; its strength is None where protection is off.
    """
    return tuple(
        Event(
            round=task.streams.round_number,
            site=site,
            mechanism=mechanism,
            unit=said.unit,
            neighbouring=said.neighbouring,
            view=said.view,
            dp_event=said.dp_event,
            protected=task.strength is not None,
            strength=task.strength,
            reason=said.reason,
            details=said.details,
        )
        for said in release.statements
    )
