"""In which order a sweep's cells begin: the longest first, so that none is left to one core."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedprivacy.config.schema import CellConfig, DatasetConf
from fedprivacy.schedules import strengths
from fedprivacy.sweep.plan import PlannedCell

_ROW_S, _PIXEL_S, _VOXEL_S, _OVERHEAD_S = 8e-6, 4e-7, 3e-6, 0.1
_ATTACK_STEP = 20
"""Training passes over a record that a step of an attack takes: two starts, second derivatives."""


def longest_first(cells: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Cells by falling ``expected_seconds``; of equal ones the first stays the first."""
    return sorted(cells, key=lambda cell: expected_seconds(cell.config), reverse=True)


def expected_seconds(config: CellConfig) -> float:
    """Roughly how long a cell takes on one core, from the size of its data, rounds and audit.

    The cost of a record was measured with the demonstration's models; how well the cells of that
    grid are ranked, ``benchmarks/sweep_speed.py`` says. Sizes of models are not looked at.
    """
    dataset, rounds = config.dataset, config.federation.rounds
    passes = float(rounds)
    if config.algorithm.name == "dpsgd":  # a pass with noise takes about twice as long
        passes += sum(one is not None for one in strengths(config.schedule, rounds))
    records = getattr(dataset, "n_sites", 3) * dataset.declared_records * dataset.train_share
    training = passes * config.federation.local_epochs * records
    attacked = 0
    if config.audit.name == "full":
        attacked = config.audit.victims * config.audit.attack_steps * _ATTACK_STEP
    return _OVERHEAD_S + (training + attacked) * _record_seconds(dataset)


def _record_seconds(dataset: DatasetConf) -> float:
    """Of one pass over one record."""
    shape: Sequence[int] | None = getattr(dataset, "shape", None)
    side: int | None = getattr(dataset, "image_size", None)
    if shape:
        return _VOXEL_S * math.prod(shape)
    return _PIXEL_S * side * side if side else _ROW_S
