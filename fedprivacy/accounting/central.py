"""Noise added by the server to the average: what it proves, and against whom.

DP-FedAvg with a trusted server (McMahan, Ramage, Talwar & Zhang 2018). Each site's update is
clipped to C, the server averages n updates with equal weights and adds noise of standard deviation
z C / n. Who sees only the average is told little; the server itself sees every update as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dp_accounting import dp_event as dp

from fedprivacy.accounting.events import Event
from fedprivacy.accounting.units import Neighbouring, View
from fedprivacy.errors import AccountingError

SERVER_REASON = "the server sees every update before it adds noise"

_RELATIONS: tuple[Neighbouring, ...] = ("zero_out", "replace_one")


def mean_noise(noise_multiplier: float, clip: float, sites: int) -> float:
    """Standard deviation of the noise on each coordinate of the mean: z C / n.

    The mean has sensitivity C / n when one site's update is replaced by zero, and 2 C / n when it
    is replaced by another; n is the declared number of sites. Weighting by examples would give
    one site more than 1/n and is not covered.
    """
    if noise_multiplier < 0 or clip <= 0 or sites < 1:
        raise AccountingError(
            f"noise_multiplier={noise_multiplier!r}, clip={clip!r}, sites={sites!r}: allowed is "
            "noise from 0 up, a positive clip, at least one site"
        )
    return noise_multiplier * clip / sites


def central_events(
    round_number: int,
    sites: Sequence[str],
    noise_multiplier: float,
    *,
    strength: float | None = 1.0,
    view: View = "aggregate",
    mechanism: str = "central_gaussian",
    details: Mapping[str, float | int | str] | None = None,
) -> tuple[Event, ...]:
    """The events of one protected round of server-side DP-FedAvg.

    For each site: a finite statement for ``view`` under zero_out and under replace_one (the second
    also covers each record and patient of the site), and an unprotected one for the server.

    Args:
        round_number: 1, 2, ...
        sites: all sites that took part; every one, every round, with equal weights.
        noise_multiplier: z, the standard deviation of the noise on the *sum* over C.
        strength: strength asked for by the schedule.
        view: ``aggregate`` where every round's average is published, ``final_model`` where only
            the last one is.
        mechanism: name to enter.
        details: parameters for the reader.
    """
    if view == "server_updates":
        raise AccountingError("noise added by the server proves nothing against the server")
    parameters = dict(details or {})
    events = []
    for site in sites:
        for relation in _RELATIONS:
            shown = (
                (view, dp.GaussianDpEvent(noise_multiplier), ""),
                ("server_updates", dp.NonPrivateDpEvent(), SERVER_REASON),
            )
            events += [
                Event(
                    round=round_number,
                    site=site,
                    mechanism=mechanism,
                    unit="site",
                    neighbouring=relation,
                    view=seen,  # type: ignore[arg-type]
                    dp_event=event,
                    protected=True,
                    strength=strength,
                    reason=reason,
                    details=parameters,
                )
                for seen, event, reason in shown
            ]
    return tuple(events)
