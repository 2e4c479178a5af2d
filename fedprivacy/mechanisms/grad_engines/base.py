"""What an engine is: it sums the clipped gradients of a batch's records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn


@dataclass(frozen=True)
class ClippedSum:
    """Outcome of one batch.

    Attributes:
        total: ``(d,)`` float32, ``sum_i min(1, max_norm / ||g_i||) g_i`` over the records, the
            scalars in the order of ``model.parameters()``.
        loss: 0-d float32, sum of the records' losses; a diagnostic.
    """

    total: torch.Tensor
    loss: torch.Tensor


class GradEngine(Protocol):
    """Sums clipped per-record gradients; adds no noise and changes nothing on the model.

    Every engine gives the same sum to float precision, whatever its physical batch size. The
    model's weights, ``.grad`` fields and hooks are left as found.
    """

    @property
    def name(self) -> str:
        """As in ``algorithm.grad_engine``."""
        ...

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: float) -> ClippedSum:
        """Sum over the records ``x`` ``(b, ...)``, ``y`` ``(b, ...)``; b may be 0.

        Args:
            x: records on the model's device.
            y: their targets.
            max_norm: clip norm C > 0 of one record's gradient; ``math.inf`` does not clip.
        """
        ...


def empty_sum(model: nn.Module) -> ClippedSum:
    """A sum over no records, on the model's device and in its dtype."""
    parameters = list(model.parameters())
    size = sum(parameter.numel() for parameter in parameters)
    return ClippedSum(parameters[0].new_zeros(size), parameters[0].new_zeros(()))


def clip_factors(squared_norms: torch.Tensor, max_norm: float) -> torch.Tensor:
    """``min(1, max_norm / norm)`` of each squared norm; NaN stays NaN so that it is noticed."""
    return (max_norm / squared_norms.sqrt()).clamp(max=1.0)


def physical_batches(
    x: torch.Tensor, y: torch.Tensor, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batch in pieces of about ``size`` records, so that memory does not grow with it.

    A last record on its own joins the piece before: PyTorch's convolutions on small batches of
    one are several times slower per record on the CPU.
    """
    n, start = len(x), 0
    while start < n:
        stop = min(start + size, n)
        if size > 1 and n - stop == 1:
            stop = n
        yield x[start:stop], y[start:stop]
        start = stop


def split_views(flat: torch.Tensor, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    """Views of consecutive parts of ``flat`` with the given shapes."""
    parts = torch.split(flat, [math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
