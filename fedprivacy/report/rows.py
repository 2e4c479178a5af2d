"""Cells of a sweep as rows: those that differ in their seed only together, with their twins."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedprivacy.pricing.twins import (
    COLLAPSE_FRACTION,
    collapsed_against,
    federation_differences,
    find_twin,
    flatten,
    worth,
)
from fedprivacy.report.variants import SHARE, by_algorithm, by_schedule, meant_privacy
from fedprivacy.report.words import (
    ALGORITHMS,
    FEDERATIONS,
    INFINITE,
    SCHEDULES,
    UNKNOWN,
    epsilon_text,
    rank,
)
from fedprivacy.result import CellResult

AGAINST_TWIN = "collapsed against its twin"


@dataclass(frozen=True)
class Estimate:
    """A score over ``n`` seeds.

    Attributes:
        mean: over seeds.
        standard_error: of the mean: of the held-out records, which all seeds share, and of the
            seeds; None where it cannot be had.
        n: number of seeds that have a score.
    """

    mean: float
    standard_error: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """Cells that differ in their seed only.

    Attributes:
        cells: ordered by seed.
        twins: of each cell, the cell with ``algorithm=none`` and the same seed, where it is known.
        variant: what tells this row's algorithm from others of the same name, for example
            ``percentile=50``; empty where nothing does.
        schedule_variant: the same of the schedule, for example ``decay=0.9``.
        twin_differs: keys of the federation in which a twin differs from its cell.
        against_twin: cells that ended ok and yet collapsed relative to their twin, by ``cell_id``.
    """

    cells: tuple[CellResult, ...]
    twins: tuple[CellResult, ...] = ()
    variant: str = ""
    schedule_variant: str = ""
    twin_differs: tuple[str, ...] = ()
    against_twin: frozenset[str] = frozenset()

    @property
    def first(self) -> CellResult:
        """The cell of the smallest seed, for what all cells share."""
        return self.cells[0]

    @property
    def protected(self) -> bool:
        """Whether a protection was on."""
        return self.first.algorithm != "none"

    @property
    def whole(self) -> bool:
        """Whether it was trained on all records; others are points of a learning curve."""
        return float(dict(flatten(self.first.config)).get(SHARE, 1.0)) >= 1

    @property
    def algorithm(self) -> str:
        """Name of the algorithm, with its variant."""
        return f"{self.first.algorithm} {self.variant}".strip()

    @property
    def schedule(self) -> str:
        """Name of the schedule, with its variant."""
        return f"{self.first.schedule} {self.schedule_variant}".strip()

    @property
    def name(self) -> str:
        """What it is called in every picture, with its federation unless that is ``fedavg``."""
        what = self.algorithm if self.protected else f"without protection {self.variant}".strip()
        words = [what, *([self.schedule] if self.protected else [])]
        if self.first.federation != "fedavg":
            words.append(self.first.federation)
        return ", ".join(words)

    @property
    def proved(self) -> bool:
        """Whether its headline proves anything; where it does not, its markers are hollow."""
        return epsilon_text(self.privacy) not in (INFINITE, UNKNOWN)

    @property
    def dataset(self) -> tuple[str, bool]:
        """Name of the dataset and whether it is synthetic."""
        return self.first.dataset, self.first.synthetic

    @cached_property
    def score(self) -> Estimate | None:
        """Score over the seeds; None where no cell has one."""
        return estimate(self.cells)

    @cached_property
    def twin_score(self) -> Estimate | None:
        """Score of the twins over the same seeds; None where there is none."""
        return estimate(self.twins)

    @cached_property
    def metric(self) -> str:
        """Name of the score; empty where no cell has one."""
        return next((cell.score.name for cell in self.cells if cell.score), "")

    @cached_property
    def privacy(self) -> Mapping[str, Any] | None:
        """The weakest statement among the cells; None where no cell has one."""
        return max((c.privacy for c in self.cells if c.privacy), key=_weakness, default=None)

    @cached_property
    def status(self) -> str:
        """``ok``, or how many cells ended in which way: ``2 ok, 1 failed``.

        A cell's own collapse is told before the one against its twin.
        """
        counts: dict[str, int] = defaultdict(int)
        for cell in self.cells:
            counts[AGAINST_TWIN if cell.cell_id in self.against_twin else cell.status] += 1
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{count} {status}" for status, count in counts.items())


def make_rows(
    results: Iterable[CellResult], collapse_fraction: float = COLLAPSE_FRACTION
) -> list[Row]:
    """Rows of a report, ordered by dataset, algorithm, federation, schedule, variant.

    Args:
        results: cells.
        collapse_fraction: ``collapse.fraction``; see ``collapsed_against``.
    """
    cells = list(results)
    members = _members(cells)
    firsts = [group[0] for group, _ in members]
    variants, schedule_variants = by_algorithm(firsts), by_schedule(firsts)
    rows = []
    for group, again in members:
        found = [(cell, twin) for cell in group if (twin := find_twin(cell, cells)) is not None]
        keys = {key for cell, twin in found for key in federation_differences(cell, twin)}
        rows.append(
            Row(
                cells=group,
                twins=tuple(twin for _, twin in found),
                variant=f"{variants[group[0].cell_id]} {again}".strip(),
                schedule_variant=schedule_variants[group[0].cell_id],
                twin_differs=tuple(sorted(keys)),
                against_twin=frozenset(
                    cell.cell_id
                    for cell, twin in found
                    if cell.status == "ok" and collapsed_against(cell, twin, collapse_fraction)
                ),
            )
        )
    return sorted(rows, key=_order)


def main_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of a picture: no points of learning curves, unless there is nothing else."""
    return [row for row in rows if row.whole] or list(rows)


def estimate(cells: Sequence[CellResult]) -> Estimate | None:
    """Mean score over cells of different seeds; None where none of them has a score.

    Training that ended non-finite counts as chance: without it a mean would be of the survivors.

    The sampling error of the held-out records does not shrink with more seeds, because all of
    them are scored on the same records; the spread between seeds does.
    """
    scores = [cell.score for cell in cells if cell.score is not None]
    values = [value for cell in cells if (value := worth(cell)) is not None]
    if not values:
        return None
    errors = [s.standard_error for s in scores if s.standard_error is not None]
    sampling = statistics.fmean(errors) if len(errors) == len(values) else None
    if len(values) == 1:
        return Estimate(values[0], sampling, 1)
    seeds = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), math.hypot(sampling or 0.0, seeds), len(values))


def _members(cells: Sequence[CellResult]) -> list[tuple[tuple[CellResult, ...], str]]:
    """Cells that differ in their seed only, and in how their privacy settings were written.

    A delta that was typed and the same one that was derived mean the same. The same cell twice is
    not two seeds: it stays apart, with the word ``again``.
    """
    written: dict[str, list[CellResult]] = defaultdict(list)
    for cell in cells:
        written[_identity(cell, cell.config.get("privacy"))].append(cell)
    meant: dict[str, list[list[CellResult]]] = defaultdict(list)
    for group in written.values():
        alike = meant[_identity(group[0], _meant(group))]
        seeds = {cell.seed for cell in group}
        free = (other for other in alike if seeds.isdisjoint(cell.seed for cell in other))
        found = next(free, None)
        if found is None:
            alike.append(group)
        else:
            found.extend(group)
    return [
        (tuple(sorted(group, key=lambda cell: cell.seed)), f"again {copy}" if copy else "")
        for alike in meant.values()
        for copy, group in enumerate(alike)
    ]


def _meant(group: Sequence[CellResult]) -> Any:
    """What the privacy settings of cells came to; as written where no cell got so far."""
    stated = (meant_privacy(cell) for cell in group)
    return next((one for one in stated if one is not None), group[0].config.get("privacy"))


def _identity(cell: CellResult, privacy: Any) -> str:
    config = {k: v for k, v in cell.config.items() if k not in ("seed", "privacy")}
    names = (cell.algorithm, cell.schedule, cell.dataset, cell.federation, cell.model)
    return json.dumps([names, cell.synthetic, config, privacy], sort_keys=True)


def _weakness(privacy: Mapping[str, Any]) -> tuple[bool, float, bool, float]:
    return (
        bool(privacy.get("infinite", True)),
        privacy.get("epsilon") or 0.0,
        bool(privacy.get("epsilon_protected_infinite")),
        privacy.get("epsilon_protected") or 0.0,
    )


def _order(row: Row) -> tuple[Any, ...]:
    cell = row.first
    return (
        row.dataset,
        rank(ALGORITHMS, cell.algorithm),
        rank(FEDERATIONS, cell.federation),
        row.variant,
        rank(SCHEDULES, cell.schedule),
        row.schedule_variant,
        cell.model,
    )
