"""The local optimiser over the stacked weights: torch's own, so that its arithmetic is the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from fedprivacy.training.task import OptimizerSpec


class StackedOptimizer:
    """Steps all sites that still have steps to take.

    Sites with equally many steps are one parameter of the optimiser. Its state is per scalar, so
    no site's step depends on another's.

    Args:
        spec: the optimiser, the same at all sites.
        weights: ``(K, d)``, changed in place.
        gradient: ``(K, d)``, written by the caller before each step.
        steps: of each site, falling.
    """

    def __init__(
        self,
        spec: OptimizerSpec,
        weights: torch.Tensor,
        gradient: torch.Tensor,
        steps: Sequence[int],
    ) -> None:
        self._blocks: list[tuple[int, torch.Tensor]] = []
        start = 0
        for taken, group in groupby(steps):
            stop = start + len(list(group))
            block = weights[start:stop]
            block.grad = gradient[start:stop]
            self._blocks.append((taken, block))
            start = stop
        self._optimizer = spec.over([block for _, block in self._blocks])
        self._done = 0

    def step(self) -> None:
        """Take the next step of every site that has one left."""
        for taken, block in reversed(self._blocks):
            if taken > self._done:
                break
            block.grad = None
        self._optimizer.step()
        self._done += 1
