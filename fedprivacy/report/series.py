"""Scores by round, over the seeds of a row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedprivacy.report.rows import Row
from fedprivacy.result import CellResult


@dataclass(frozen=True)
class Curve:
    """A score against rounds.

    Attributes:
        rounds: those with a score, ascending.
        mean: over the seeds that have a score in the round.
        low: smallest of the seeds.
        high: largest of the seeds.
    """

    rounds: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def global_curve(cells: Iterable[CellResult]) -> Curve:
    """The global score."""
    return _curve((block.round, block.score) for cell in cells for block in cell.rounds)


def site_curves(cells: Sequence[CellResult]) -> dict[str, Curve]:
    """The score of each site, in the order of the sites."""
    names = dict.fromkeys(
        name for cell in cells for block in cell.rounds for name in block.score_per_site
    )
    return {
        name: _curve(
            (block.round, block.score_per_site.get(name)) for cell in cells for block in cell.rounds
        )
        for name in names
    }


def protected_rounds(row: Row) -> list[int]:
    """Rounds that are protected in at least one cell of the row."""
    return sorted({b.round for cell in row.cells for b in cell.rounds if b.protected})


def _curve(points: Iterable[tuple[int, float | None]]) -> Curve:
    values: dict[int, list[float]] = defaultdict(list)
    for number, value in points:
        if value is not None:
            values[number].append(value)
    rounds = sorted(values)
    return Curve(
        rounds=tuple(rounds),
        mean=tuple(fmean(values[number]) for number in rounds),
        low=tuple(min(values[number]) for number in rounds),
        high=tuple(max(values[number]) for number in rounds),
    )
