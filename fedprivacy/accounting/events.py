"""Events: what was really released in a round, by which site, under which mechanism."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from dp_accounting import dp_event as dp

from fedprivacy.accounting import dp_events
from fedprivacy.accounting.units import NEIGHBOURING, UNITS, VIEWS, Neighbouring, Unit, View
from fedprivacy.errors import AccountingError

Detail = float | int | str

_TEXTS = ("site", "mechanism", "unit", "neighbouring", "view", "reason")
_MOST_SHARED = 1024
_shared: dict[str, Mapping[str, Detail]] = {}
"""Details by their content as ``repr`` writes it, which tells 1 from 1.0 and True."""


@dataclass(frozen=True, slots=True)
class Event:
    """One release of one site.

    A long run holds one for each round and site, so that equal texts, details and DP events are
    held once.

    Attributes:
        round: 1, 2, ...
        site: the site whose records were used.
        mechanism: name of the mechanism, as in ``algorithm.name``.
        unit: whose privacy ``dp_event`` speaks of.
        neighbouring: the neighbouring relation that ``dp_event`` is stated for. Noise multipliers
            are relative to the norm C that bounds one unit's contribution; that a replacement
            moves the sum by 2 C is left to the accountant.
        view: the strongest adversary whose view ``dp_event`` covers.
        dp_event: the release; ``NonPrivateDpEvent`` where nothing is proved, ``NoOpDpEvent``
            where nothing new was released (post-processing of an earlier release).
        protected: whether the schedule had the mechanism on; says nothing about what is proved.
        strength: strength that the schedule asked for; None where it was off.
        reason: why nothing is proved, empty where something is.
        details: parameters that a reader needs to follow the derivation.
    """

    round: int
    site: str
    mechanism: str
    unit: Unit
    neighbouring: Neighbouring
    view: View
    dp_event: dp.DpEvent
    protected: bool
    strength: float | None = None
    reason: str = ""
    details: Mapping[str, Detail] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("unit", self.unit, UNITS),
            ("neighbouring", self.neighbouring, NEIGHBOURING),
            ("view", self.view, VIEWS),
        ):
            if value not in allowed:
                raise AccountingError(f"event.{key}={value!r}: allowed is one of {allowed}")
        if isinstance(self.round, bool) or not isinstance(self.round, int) or self.round < 1:
            raise AccountingError(f"event.round={self.round!r}: rounds are numbered 1, 2, ...")
        if not self.site:
            raise AccountingError("event.site is empty: every release belongs to a named site")
        if self.strength is not None and not self.protected:
            raise AccountingError(
                f"event.strength={self.strength!r} at {self.site}, round {self.round}: "
                "an unprotected release has no strength"
            )
        for name in _TEXTS:
            text = getattr(self, name)
            if type(text) is str:  # nothing else can be interned
                object.__setattr__(self, name, sys.intern(text))
        object.__setattr__(self, "dp_event", dp_events.canonical(self.dp_event))
        object.__setattr__(self, "details", _plain(self.details))

    def __hash__(self) -> int:
        return hash((self.round, self.site, self.mechanism, self.dp_event))

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        # A mapping proxy cannot be pickled; the JSON form loses nothing.
        return Event.from_json, (self.to_json(),)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values; ``from_json`` gives back an equal event."""
        return {
            "round": self.round,
            "site": self.site,
            "mechanism": self.mechanism,
            "unit": self.unit,
            "neighbouring": self.neighbouring,
            "view": self.view,
            "dp_event": dp_events.to_json(self.dp_event),
            "protected": self.protected,
            "strength": self.strength,
            "reason": self.reason,
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Event:
        """The event that ``to_json`` wrote.

        Raises:
            AccountingError: a field is missing, unknown or not allowed.
        """
        fields = dict(data)
        if not isinstance(fields.get("dp_event"), Mapping):
            raise AccountingError("event.dp_event is missing or not an object")
        fields["dp_event"] = dp_events.from_json(fields["dp_event"])
        try:
            return cls(**fields)
        except TypeError as error:
            raise AccountingError(f"not an event of this package: {error}") from error

    def stated_as(self, dp_event: dp.DpEvent, unit: Unit) -> Event:
        """The same release, priced for another unit."""
        return replace(self, dp_event=dp_event, unit=unit)


def _plain(details: Mapping[str, Detail]) -> Mapping[str, Detail]:
    """A read-only copy with plain numbers, refusing what strict JSON cannot hold."""
    plain: dict[str, Detail] = {}
    for key, value in details.items():
        item = value.item() if isinstance(value, np.generic) else value
        if not isinstance(item, (bool, int, float, str)):
            raise AccountingError(f"event.details[{key!r}]={value!r} is neither number nor text")
        if isinstance(item, float) and not math.isfinite(item):
            raise AccountingError(f"event.details[{key!r}]={value!r} is not finite")
        plain[key] = item
    content = repr(plain)
    found = _shared.get(content)
    if found is None:
        if len(_shared) >= _MOST_SHARED:
            _shared.clear()
        # Not read back: another thread may have cleared it since.
        found = _shared[content] = MappingProxyType(plain)
    return found
