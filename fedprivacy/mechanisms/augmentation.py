"""Augmentation multiplicity: a record enters a step as the mean over several views of itself.

De, Berrada, Hayes, Smith & Balle 2022 (arXiv 2204.13650, "augmentation multiplicity"): the
gradients of K augmentations of a record are averaged before clipping, so that one record still
contributes one clipped gradient and nothing changes in the accounting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedprivacy.mechanisms.grad_engines.base import (
    ClippedSum,
    GradEngine,
    physical_batches,
)
from fedprivacy.mechanisms.grad_engines.clipping import Bound
from fedprivacy.training.batches import sent

_SLICE_SCALARS = 1 << 22


@dataclass(frozen=True)
class Augmentation:
    """Random views that keep a record's label.

    Attributes:
        views: K, at least 1; 1 leaves records as they are.
        jitter: rows of a table: standard deviation of Gaussian noise on the scaled features.
        shift: images and volumes: each spatial axis is moved by up to so many pixels, the edge
            repeated; a mask moves along. Images are also mirrored left to right, every other
            time. Volumes are not: which way their axes point differs between files.
    """

    views: int = 1
    jitter: float = 0.0
    shift: int = 0

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """K views each of ``(c, ...)`` records: ``(c, K, ...)``, the record itself the first.

        Args:
            x: ``(c, features)``, ``(c, channels, height, width)`` or a third spatial axis more.
            y: labels ``(c,)``, or masks ``(c, *spatial)`` that follow their record.
            generator: on the CPU; every view of every record draws its own numbers.
        """
        pairs = [(x, y), *(self._view(x, y, generator) for _ in range(self.views - 1))]
        return torch.stack([a for a, _ in pairs], 1), torch.stack([b for _, b in pairs], 1)

    def _view(
        self, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if x.ndim < 4:
            noise = sent(torch.randn(x.shape, generator=generator), x.device)
            return x + self.jitter * noise.to(x.dtype), y
        for axis in range(2, x.ndim):
            mirrored = x.ndim == 4 and axis == x.ndim - 1
            index = _positions(len(x), x.shape[axis], self.shift, mirrored, generator)
            index = sent(index, x.device)
            x = _take(x, index, axis)
            y = _take(y, index, axis - 1) if y.ndim > 1 else y
        return x, y


def _positions(
    records: int, size: int, shift: int, mirrored: bool, generator: torch.Generator
) -> torch.Tensor:
    """Where each place of an axis takes its value from: ``(records, size)`` indices."""
    moves = torch.randint(-shift, shift + 1, (records, 1), generator=generator)
    index = (torch.arange(size) + moves).clamp(0, size - 1)
    if not mirrored:
        return index
    turned = torch.rand(records, 1, generator=generator) < 0.5
    return torch.where(turned, size - 1 - index, index)


def _take(values: torch.Tensor, index: torch.Tensor, axis: int) -> torch.Tensor:
    shape = [len(values)] + [1] * (values.ndim - 1)
    shape[axis] = index.shape[1]
    target = list(values.shape)
    return values.gather(axis, index.view(shape).expand(target))


class AugmentedEngine:
    """Shows an engine of K views K views of every record, a slice of the batch at a time.

    Args:
        inner: an engine whose contribution has as many views as ``augmentation``.
        augmentation: makes the views.
        generator: private to the site: from known draws, one record's presence could be read off
            the views of those after it.
    """

    def __init__(
        self, inner: GradEngine, augmentation: Augmentation, generator: torch.Generator
    ) -> None:
        self.name = inner.name
        self._inner, self._augmentation, self._generator = inner, augmentation, generator

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: Bound) -> ClippedSum:
        """See ``GradEngine.clipped_sum``; ``x`` holds records, not views."""
        views = self._augmentation.views
        empty = x.new_zeros(0, views, *x.shape[1:]), y.new_zeros(0, views, *y.shape[1:])
        result = self._inner.clipped_sum(*empty, max_norm)
        size = max(1, _SLICE_SCALARS // max(1, views * x[0].numel())) if len(x) else 1
        for x_part, y_part in physical_batches(x, y, size):
            several = self._augmentation(x_part, y_part, self._generator)
            part = self._inner.clipped_sum(*several, max_norm)
            result.total.add_(part.total)
            result.loss.add_(part.loss)
            if result.within is not None and part.within is not None:
                result.within.add_(part.within)
        return result
