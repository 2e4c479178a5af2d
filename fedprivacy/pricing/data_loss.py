"""Equivalent data loss: how many records one could discard without DP for the same score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedprivacy.pricing.intervals import Interval, paired_mean
from fedprivacy.pricing.twins import flatten, worth
from fedprivacy.result import CellResult

SHARE = "dataset.train_share"
NO_CURVE = (
    "no learning curve: run the same cell with algorithm=none and several dataset.train_share"
)


@dataclass(frozen=True)
class DataLoss:
    """Share of the records whose loss costs as much score as the protection.

    Attributes:
        share: mean over seeds with its interval; None where there is no curve.
        beyond: whether for some seed even the smallest share scored more: then at least this much.
        reason: why there is none.
    """

    share: Interval | None
    beyond: bool = False
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Strict JSON."""
        share = None if self.share is None else self.share.to_json()
        return {"share": share, "at_least": self.beyond, "reason": self.reason}

    def text(self) -> str:
        """``>= 0.81 [..] of the records``, or why not."""
        if self.share is None:
            return "-"
        return f"{'>= ' if self.beyond else ''}{self.share.text(2)} of the records"


def learning_curve(cell: CellResult, results: Iterable[CellResult]) -> dict[float, float]:
    """Score without protection by share of the records, of cells that differ in nothing else.

    Training that ended non-finite counts at chance, as ``worth`` has it.
    """
    own = _setting(cell)
    curve: dict[float, float] = {}
    for other in results:
        if other.algorithm != "none" or other.seed != cell.seed or _setting(other) != own:
            continue
        if (score := worth(other)) is not None:
            curve[float(dict(flatten(other.config)).get(SHARE, 1.0))] = score
    return curve


def _setting(cell: CellResult) -> dict[str, Any]:
    skipped = ("algorithm.", "schedule.", "privacy.", "seed", SHARE)
    own = {k: str(v) for k, v in flatten(cell.config) if not k.startswith(skipped)}
    return {**own, "federation": cell.federation, "synthetic": str(cell.synthetic)}


def discarded(curve: Mapping[float, float], score: float) -> tuple[float, bool]:
    """Share of the records to discard for ``score``, and whether it is only a lower bound.

    The curve is made monotone first (pool adjacent violators), and read off linearly between its
    points; 0 where no loss is needed.

    Args:
        curve: score by share of the records kept, at least two points, 1.0 among them.
        score: of the protected cell.
    """
    shares = np.array(sorted(curve))
    scores = _isotonic(np.array([curve[share] for share in shares]))
    if score >= scores[-1]:
        return 0.0, False
    if score < scores[0]:
        return float(1 - shares[0]), True
    # The largest share that scores no more: ties are read in favour of the protection.
    upper = int(np.searchsorted(scores, score, side="right"))
    low, high = scores[upper - 1], scores[upper]
    part = (score - low) / (high - low)
    return float(1 - (shares[upper - 1] + part * (shares[upper] - shares[upper - 1]))), False


def _isotonic(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, Any]:
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            last = blocks.pop()
            total = blocks[-1][1] + last[1]
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + last[0] * last[1]) / total, total]
    return np.concatenate([np.full(int(count), mean) for mean, count in blocks])


def equivalent_data_loss(cells: Sequence[CellResult], results: Sequence[CellResult]) -> DataLoss:
    """The loss of cells that differ in their seed only."""
    found = []
    for cell in cells:
        curve, score = learning_curve(cell, results), worth(cell)
        if len(curve) < 2 or 1.0 not in curve or score is None:
            continue
        found.append(discarded(curve, score))
    if not found:
        return DataLoss(None, reason=NO_CURVE)
    return DataLoss(paired_mean([share for share, _ in found]), any(beyond for _, beyond in found))
