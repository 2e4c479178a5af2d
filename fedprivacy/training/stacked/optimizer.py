"""The local optimiser over the stacked weights, with the arithmetic of each site by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from fedprivacy.training.flat_sgd import FlatSgd
from fedprivacy.training.task import LocalOptimizer, OptimizerSpec


def stacked_optimizer(
    spec: OptimizerSpec, weights: torch.Tensor, gradient: torch.Tensor, steps: Sequence[int]
) -> LocalOptimizer:
    """An optimiser that steps all sites that still have steps to take.

    Its state is per scalar, so no site's step depends on another's.

    Args:
        spec: the optimiser, the same at all sites.
        weights: ``(K, d)``, changed in place.
        gradient: ``(K, d)``, written by the caller before each step.
        steps: of each site, falling.
    """
    if spec.name == "sgd":
        return StackedSgd(spec, weights, gradient, steps)
    return StackedBlocks(spec, weights, gradient, steps)


class StackedSgd:
    """``FlatSgd`` of the sites that have steps left: they are the first rows, and ever fewer.

    Args:
        spec: SGD; the others as of ``stacked_optimizer``.
    """

    def __init__(
        self,
        spec: OptimizerSpec,
        weights: torch.Tensor,
        gradient: torch.Tensor,
        steps: Sequence[int],
    ) -> None:
        self._steps, self._done = steps, 0
        self._sgd = FlatSgd(weights, gradient, spec.lr, spec.momentum)

    def step(self) -> None:
        """Take the next step of every site that has one left."""
        self._sgd.keep(sum(taken > self._done for taken in self._steps))
        self._sgd.step()
        self._done += 1


class StackedBlocks:
    """Torch's own optimiser; sites with equally many steps are one parameter of it.

    Args:
        spec: any; the others as of ``stacked_optimizer``.
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
