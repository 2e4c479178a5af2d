"""What a protection cost single sites and single classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedprivacy.pricing.intervals import Interval, paired_mean
from fedprivacy.result import CellResult

Pairs = Sequence[tuple[CellResult, CellResult]]
"""Cells, each with its non-private twin."""
Parts = Callable[[CellResult], Mapping[str, float | None]]
Sizes = Callable[[CellResult], Mapping[str, int]]


@dataclass(frozen=True)
class Harm:
    """What one site or one class paid.

    Attributes:
        name: of the site or the class.
        measure: what fell: the cell's score at a site; of a class its recall.
        lost: how far it fell, paired by seed.
        records: held-out records that it has, and of how many in all; None where not known.
    """

    name: str
    measure: str
    lost: Interval
    records: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Strict JSON."""
        own, every = self.records or (None, None)
        return {
            "name": self.name,
            "measure": self.measure,
            "lost": self.lost.to_json(),
            "held_out_records": own,
            "held_out_records_of_all": every,
        }

    def text(self) -> str:
        """``recall of 3 (24 of 600 held-out records): 0.310 [0.250, 0.360] (n=3)``."""
        return f"{self.measure} of {self.name}{self._size()}: {self.lost.text()}"

    def _size(self) -> str:
        return f" ({self.records_text()} held-out records)" if self.records else ""

    def records_text(self) -> str:
        """``24 of 600``; empty where not known."""
        return "{} of {}".format(*self.records) if self.records else ""


def by_site(cell: CellResult) -> Mapping[str, float | None]:
    """Score by site; empty where there is none."""
    return {} if cell.score is None else cell.score.per_site


def by_class(cell: CellResult) -> Mapping[str, float | None]:
    """Recall by class; empty where there is none."""
    return {} if cell.score is None else cell.score.per_class


def paired(parts: Parts, cell: CellResult, twin: CellResult) -> bool:
    """Whether some part has a score in both."""
    own, reached = parts(cell), parts(twin)
    return any(own[n] is not None and reached[n] is not None for n in own.keys() & reached.keys())


def site_sizes(cell: CellResult) -> Mapping[str, int]:
    """Held-out records by site."""
    return {name: int(sizes["test"]) for name, sizes in cell.sites.items() if "test" in sizes}


def class_sizes(cell: CellResult) -> Mapping[str, int]:
    """Held-out records by class."""
    return {} if cell.score is None else cell.score.class_sizes


def _records(sizes: Mapping[str, int], name: str) -> tuple[int, int] | None:
    return (sizes[name], sum(sizes.values())) if name in sizes else None


def harms(pairs: Pairs, parts: Parts, measure: str, sizes_of: Sizes) -> tuple[Harm, ...]:
    """What each part lost, the worst first.

    Args:
        pairs: cells that differ in their seed only, with their twins.
        parts: scores of a cell by part: ``by_site`` or ``by_class``.
        measure: what these scores are.
        sizes_of: held-out records of a cell by part.
    """
    lost: dict[str, list[float]] = {}
    for cell, twin in pairs:
        own, reached = parts(cell), parts(twin)
        for name in own.keys() & reached.keys():
            after, before = own[name], reached[name]
            if after is not None and before is not None:
                lost.setdefault(name, []).append(before - after)
    means = ((name, paired_mean(values)) for name, values in sorted(lost.items()))
    sizes = sizes_of(pairs[0][0]) if pairs else {}
    found = [Harm(n, measure, mean, _records(sizes, n)) for n, mean in means if mean is not None]
    return tuple(sorted(found, key=lambda harm: -harm.lost.value))
