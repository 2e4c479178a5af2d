"""Cells of one setting, paired by seed; refused where more than one setting would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedprivacy.pricing.data_loss import SHARE
from fedprivacy.pricing.twins import federation_differences, find_local, find_twin, flatten
from fedprivacy.result import CellResult

_NO_PART = ("seed", "privacy.", SHARE)


class AmbiguousError(Exception):
    """More than one setting fits: a figure would depend on which of them came last."""


@dataclass(frozen=True)
class Figures:
    """One figure for each seed.

    Attributes:
        by_seed: figures of cells of one setting.
        synthetic: whether of made-up records.
    """

    by_seed: Mapping[int, float]
    synthetic: bool


def selected(results: Iterable[CellResult], wanted: Mapping[str, Any]) -> list[CellResult]:
    """Cells with a score, trained on all records, that are as wanted.

    Args:
        results: cells.
        wanted: value by key; a key with a dot is a setting, any other a field of the result. A
            callable value tells whether what is there will do.
    """
    return [
        cell
        for cell in results
        if value(cell) is not None
        and _share(cell) >= 1
        and all(_fits(cell, key, want) for key, want in wanted.items())
    ]


def value(cell: CellResult) -> float | None:
    """Score of a cell; None where it has none."""
    return None if cell.score is None else cell.score.value


def _share(cell: CellResult) -> float:
    return float(dict(flatten(cell.config)).get(SHARE, 1.0))


def _fits(cell: CellResult, key: str, want: Any) -> bool:
    if "." not in key:
        return bool(getattr(cell, key) == want)
    found = dict(flatten(cell.config)).get(key)
    if callable(want):
        return found is not None and bool(want(found))
    return bool(found == want)


def setting(cell: CellResult, ignoring: Sequence[str] = ()) -> dict[str, str]:
    """What decides a cell's score besides its seed; ``ignoring`` are prefixes of keys."""
    skipped = (*_NO_PART, *ignoring)
    own = {k: str(v) for k, v in flatten(cell.config) if not k.startswith(skipped)}
    return {**own, "model": cell.model, "synthetic": str(cell.synthetic)}


def partner(cell: CellResult, others: Sequence[CellResult]) -> CellResult | None:
    """The one of ``others`` that differs from a cell in its schedule only.

    Raises:
        AmbiguousError: several do.
    """
    own = setting(cell, ("schedule.",))
    fitting = [
        o for o in others if o.seed == cell.seed and setting(o, ("schedule.",)) == own
    ]  # fmt: skip
    if len(fitting) > 1:
        raise AmbiguousError(_said(fitting))
    return fitting[0] if fitting else None


def exact_twin(cell: CellResult, results: Sequence[CellResult]) -> CellResult | None:
    """The twin of a cell that trained exactly as it did; None where there is none."""
    return _exact(cell, find_twin(cell, results))


def exact_local(cell: CellResult, results: Sequence[CellResult]) -> CellResult | None:
    """The baseline of each site alone that trained exactly as a cell did."""
    return _exact(cell, find_local(cell, results))


def _exact(cell: CellResult, other: CellResult | None) -> CellResult | None:
    return None if other is None or federation_differences(cell, other) else other


def by_seed(cells: Iterable[CellResult], figure: Callable[[CellResult], float | None]) -> Figures:
    """A figure for each seed, of cells that all have one setting; none where there is no figure.

    Raises:
        AmbiguousError: cells of several settings have a figure, or two of the same seed.
    """
    found = [(cell, number) for cell in cells if (number := figure(cell)) is not None]
    used = [cell for cell, _ in found]
    figures = {cell.seed: number for cell, number in found}
    if len(figures) < len(found) or any(setting(c) != setting(used[0]) for c in used):
        raise AmbiguousError(_said(used))
    return Figures(figures, any(cell.synthetic for cell in used))


def _said(cells: Sequence[CellResult]) -> str:
    settings = [setting(cell) for cell in cells]
    keys = sorted({key for one in settings for key in one})
    differing = [key for key in keys if len({one.get(key) for one in settings}) > 1]
    what = f", which differ in {', '.join(differing)}" if differing else " with the same seed"
    kinds = len({tuple(sorted(one.items())) for one in settings})
    many = f"{kinds} settings fit" if differing else f"{len(cells)} cells fit"
    return f"{many}{what}: report on each sweep alone"
