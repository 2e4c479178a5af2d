"""No protection: plain training, and the update leaves as it is."""

from __future__ import annotations

from dataclasses import dataclass

import dp_accounting
import torch

from fedprivacy.accounting.units import Neighbouring, Unit
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.guards import check_update
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "none"


def unprotected_release(unit: Unit, neighbouring: Neighbouring, reason: str) -> Release:
    """The release of a round in which nothing protects; its epsilon is infinite."""
    return Release(dp_accounting.NonPrivateDpEvent(), unit, neighbouring, reason)


OFF_SCHEDULE = "the schedule leaves this round unprotected: the raw update left the site"


def off_schedule_release(unit: Unit, neighbouring: Neighbouring) -> Release:
    """The release of a round that the schedule leaves unprotected."""
    return unprotected_release(unit, neighbouring, OFF_SCHEDULE)


@dataclass(frozen=True)
class NoMechanism:
    """The twin that prices are measured against. A strength is ignored."""

    name = "none"
    placement = _PLACEMENT

    def train(self, task: LocalTask) -> Trained:
        """Plain local training."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """The update itself, checked to be finite.

        Raises:
            ProtectionError: the update is not a finite flat vector.
        """
        check_update(update)
        return Protected(update)

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """Nothing is proved."""
        reason = "algorithm=none adds no noise: the raw update left the site"
        return unprotected_release("record", "zero_out", reason)
