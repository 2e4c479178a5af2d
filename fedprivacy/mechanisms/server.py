"""What the mechanisms of a cell do at the server; most do nothing there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import dp_accounting
import torch

from fedprivacy.accounting.events import Event
from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.central_gaussian import Average, CentralGaussian
from fedprivacy.mechanisms.gaussian_clipped import ClippedGaussian
from fedprivacy.mechanisms.local_source import LocalSource
from fedprivacy.mechanisms.release_gaussian import ReleaseGaussian
from fedprivacy.mechanisms.stacked import Stacked
from fedprivacy.training.randomness import Streams

SERVER_SITE = -1
"""Index in the server's random streams; sites have 0, 1, ..."""


def parts_of(mechanism: Mechanism) -> tuple[Mechanism, ...]:
    """The mechanisms of a stack, or the mechanism itself."""
    return mechanism.parts if isinstance(mechanism, Stacked) else (mechanism,)


def source_of(mechanism: Mechanism) -> LocalSource | None:
    """The mechanism that acts on the records; None where none does."""
    found = (part for part in parts_of(mechanism) if isinstance(part, LocalSource))
    return next(found, None)


def unprotected_news(event: Event, who: str) -> Event:
    """The event of somebody telling that training broke down: nothing protects that news."""
    return replace(
        event,
        dp_event=dp_accounting.NonPrivateDpEvent(),
        protected=False,
        strength=None,
        reason=f"{who} told that its training became non-finite, which nothing protects",
        details={},
    )


@dataclass(frozen=True)
class ServerSide:
    """A cell's protection at the server.

    Attributes:
        central: adds noise to each average; None: sites are averaged by their shares.
        release: adds noise to the final model; None: it is published as it is.
        filter: the sites' filter, whose clip norm the server may move.
    """

    central: CentralGaussian | None = None
    release: ReleaseGaussian | None = None
    filter: ClippedGaussian | None = None

    @staticmethod
    def of(mechanism: Mechanism) -> ServerSide:
        """The part of a mechanism that acts at the server."""
        parts = parts_of(mechanism)
        return ServerSide(
            central=next((p for p in parts if isinstance(p, CentralGaussian)), None),
            release=next((p for p in parts if isinstance(p, ReleaseGaussian)), None),
            filter=next((p for p in parts if isinstance(p, ClippedGaussian) and p.rule), None),
        )

    @property
    def first_clip(self) -> float | None:
        """The clip norm of round 1, where it moves or the server clips."""
        if self.central is not None:
            return self.central.clip
        return None if self.filter is None else self.filter.clip

    def average(
        self,
        updates: Sequence[torch.Tensor],
        shares: Sequence[float],
        signals: Sequence[float | None],
        strength: float | None,
        clip: float | None,
        streams: Streams,
    ) -> Average:
        """The averaged update of a round and the next round's clip norm.

        Args:
            updates: one ``(d,)`` float32 vector from each site.
            shares: the sites' weights, summing to 1; not used where the server adds noise.
            signals: what sites sent along with their updates.
            strength: of the round; None where the schedule is off.
            clip: the clip norm of the round.
            streams: the server's own.

        Raises:
            ProtectionError: a site's signal is missing.
        """
        if self.central is not None and strength is not None:
            assert clip is not None
            return self.central.average(updates, strength, clip, streams)
        mean = torch.zeros_like(updates[0], dtype=torch.float64)
        for share, update in zip(shares, updates, strict=True):
            mean += share * update.double()
        if self.filter is not None and strength is not None:
            clip = self._moved(clip, signals)
        return Average(mean, 0.0, clip)

    def _moved(self, clip: float | None, signals: Sequence[float | None]) -> float:
        assert self.filter is not None
        assert self.filter.rule is not None
        known = [signal for signal in signals if signal is not None]
        if clip is None or len(known) < len(signals):
            raise ProtectionError(
                f"{len(known)} of {len(signals)} sites sent the indicator that moves the clip norm"
            )
        return self.filter.rule.next_clip(clip, known)

    def news_of_collapse(self, events: Sequence[Event]) -> list[Event]:
        """What the news that the averaged weights are not finite adds to a round's releases.

        Nothing where the averages are released anyway; where only the final model is, the weights
        are raw, and that they broke down is told without protection.

        Args:
            events: the round's ledger events.
        """
        if self.release is None:
            return []
        return [unprotected_news(event, "the server") for event in events]

    def publish(
        self,
        weights: torch.Tensor,
        reference: torch.Tensor,
        strength: float | None,
        streams: Streams,
    ) -> torch.Tensor:
        """The final weights ``(d,)`` as they are published.

        Raises:
            ProtectionError: they are not finite.
        """
        if self.release is None or strength is None:
            return weights
        return self.release.publish(weights, reference, strength, streams)
