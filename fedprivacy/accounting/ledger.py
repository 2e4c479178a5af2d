"""The ledger: every release of a cell. Every epsilon is computed from it, never from a setting."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedprivacy.accounting.events import Event
from fedprivacy.errors import AccountingError


@dataclass(frozen=True)
class Ledger:
    """An immutable list of events, in the order in which they were released.

    Attributes:
        events: the events.
    """

    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", tuple(self.events))

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def extended(self, events: Iterable[Event]) -> Ledger:
        """This ledger with further events at its end."""
        return Ledger((*self.events, *events))

    def where(self, keep: Callable[[Event], bool]) -> Ledger:
        """The events for which ``keep`` is true."""
        return Ledger(tuple(event for event in self.events if keep(event)))

    def protected(self) -> Ledger:
        """The releases during which the schedule had the mechanism on."""
        return self.where(lambda event: event.protected)

    def site(self, name: str) -> Ledger:
        """The releases of one site."""
        return Ledger(self._by_site.get(name, ()))

    @cached_property
    def _by_site(self) -> dict[str, tuple[Event, ...]]:
        """All events once, so that asking for site after site does not read all each time."""
        found: dict[str, list[Event]] = {}
        for event in self.events:
            found.setdefault(event.site, []).append(event)
        return {name: tuple(events) for name, events in found.items()}

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in order of their first release."""
        return tuple(self._by_site)

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds with a release, ascending."""
        return tuple(sorted({event.round for event in self.events}))

    def write(self, path: Path) -> None:
        """Write one JSON object a line; the file appears whole or not at all."""
        text = "".join(
            json.dumps(event.to_json(), allow_nan=False, ensure_ascii=False) + "\n"
            for event in self.events
        )
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read what ``write`` wrote.

        Raises:
            AccountingError: a line is not an event; the message names file and line.
        """
        events = []
        # Not splitlines(): text may hold separators that JSON leaves unescaped.
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if not line:
                continue
            try:
                events.append(Event.from_json(json.loads(line)))
            except (ValueError, TypeError, AttributeError) as error:
                raise AccountingError(f"{path}, line {number}: {error}") from error
        return cls(tuple(events))
