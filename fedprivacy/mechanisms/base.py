"""What every mechanism is: where it acts, what it releases, and the event that prices it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import dp_accounting
import torch

from fedprivacy.accounting.units import Neighbouring, Unit, View
from fedprivacy.training.task import LocalTask, Trained

Placement = Literal["none", "source", "training", "update", "aggregate", "release"]


@dataclass(frozen=True)
class Release:
    """What one site really released in one round.

    Attributes:
        dp_event: the event to account for; ``NonPrivateDpEvent`` where nothing is proved.
        unit: whose privacy the event speaks of.
        neighbouring: the neighbouring relation that the event is stated for.
        reason: why nothing is proved, empty where something is.
        details: parameters a reader needs to follow the derivation (finite numbers or text).
        view: the strongest adversary whose view the event covers.
        also: what else holds of the same release: for another unit, relation or view. A mechanism
            states the same kinds in every round, protected or not, since only statements of one
            kind compose.
    """

    dp_event: dp_accounting.DpEvent
    unit: Unit
    neighbouring: Neighbouring
    reason: str = ""
    details: Mapping[str, float | int | str] = field(default_factory=dict)
    view: View = "server_updates"
    also: tuple[Release, ...] = ()

    @property
    def statements(self) -> tuple[Release, ...]:
        """This statement, whose unit is the mechanism's own, and all others."""
        return (self, *self.also)


@dataclass(frozen=True)
class Protected:
    """An update that may leave the site.

    Attributes:
        update: ``(d,)`` float32 on the CPU.
        noise_norm: expected L2 norm of the noise in it (0 without noise); for signal-to-noise.
        signal: a noisy value that goes to the server with the update and is priced with it; for
            the clip norm of the next round. None where there is none.
        what_if_mu: mu of Gaussian DP had the update been clipped to its own norm with public
            noise; no guarantee, and itself unprotected. None where the question does not arise.
    """

    update: torch.Tensor
    noise_norm: float = 0.0
    signal: float | None = None
    what_if_mu: float | None = None


class Mechanism(Protocol):
    """A protection at a site. Stateless: all it needs comes with the task.

    A round runs ``train`` (with ``task.strength`` None where the schedule is off), takes the
    difference of the weights, runs ``protect`` on it, and asks ``release`` what to enter in the
    ledger. A mechanism that does not act in a place passes the work through.

    Guarantee required of every implementation: fail closed. ``protect`` raises
    ``ProtectionError`` for a NaN, infinite, empty or wrongly shaped update; nothing leaves then.
    """

    @property
    def name(self) -> str:
        """The mechanism's name, as in ``algorithm.name``."""
        ...

    @property
    def placement(self) -> Placement:
        """Where it acts."""
        ...

    def train(self, task: LocalTask) -> Trained:
        """Train the task's model in place."""
        ...

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """Turn the ``(d,)`` float32 difference of weights into what leaves the site."""
        ...

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """The event of this round at this site: ``NonPrivateDpEvent`` where strength is None."""
        ...
