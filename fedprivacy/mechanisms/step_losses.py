"""Losses of a round's noisy steps, and the step at which they stopped being finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fedprivacy.mechanisms.grad_engines.base import physical_batches
from fedprivacy.training.task import LocalTask


class StepLosses:
    """Collects each step's loss.

    Reading a number off a GPU waits for all the work before it. There nothing is read before the
    round's end; on a CPU each step's is, so that training gone astray stops at once. What is found
    is the same.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self._reads_at_once = device.type == "cpu"
        self._sums: list[torch.Tensor] = []
        self._sizes: list[int] = []

    @property
    def sizes(self) -> tuple[int, ...]:
        """Records of each step so far."""
        return tuple(self._sizes)

    def add(self, total: torch.Tensor, size: int) -> bool:
        """Note a step; False if it is known not to be finite, and no other should follow.

        Args:
            total: 0-d, sum of the records' losses; kept, not copied.
            size: how many records.
        """
        self._sums.append(total)
        self._sizes.append(size)
        return not (self._reads_at_once and size) or math.isfinite(float(total))

    def outcome(self) -> tuple[int, float | None]:
        """See ``until_infinite``; waits for the device."""
        sums = torch.stack(self._sums).tolist() if self._sums else []
        return until_infinite(sums, self._sizes)


def until_infinite(sums: Sequence[float], sizes: Sequence[int]) -> tuple[int, float | None]:
    """Steps up to the first loss that is not finite, and the mean of the steps' mean losses.

    Args:
        sums: of the records' losses, by step.
        sizes: records by step; a step without any has no loss.

    Returns:
        All steps and the mean, None if no step had a record; or the steps up to that one, and NaN.
    """
    means = []
    for step, (total, size) in enumerate(zip(sums, sizes, strict=True), start=1):
        if not size:
            continue
        if not math.isfinite(total):
            return step, math.nan
        means.append(total / size)
    return len(sizes), sum(means) / len(means) if means else None


@torch.no_grad()
def mean_loss(task: LocalTask) -> float:
    """Mean loss over the site's records, for a round in which no step drew a record."""
    total = 0.0
    for x, y in physical_batches(task.x, task.y, task.batch_size):
        total += float(task.loss(task.parameters.model(x), y)) * len(x)
    return total / len(task.x) if len(task.x) else math.nan
