"""Sites that train together: their tasks, weights and records in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedprivacy.training.stacked.records import StackedRecords
from fedprivacy.training.task import LocalTask, Trained


@dataclass(frozen=True)
class StackedSites:
    """K sites in one round, those with the most steps first; each has a record at least.

    Attributes:
        tasks: of the sites; they differ in records and random streams alone.
        weights: ``(K, d)`` float32 on the device: what each starts from, changed by training.
        records: of the sites.
    """

    tasks: Sequence[LocalTask]
    weights: torch.Tensor
    records: StackedRecords


@dataclass(frozen=True)
class StackedOutcome:
    """What training left of one site.

    Attributes:
        weights: ``(d,)`` float32 on the CPU.
        trained: as training by itself reports it.
    """

    weights: torch.Tensor
    trained: Trained
