"""What an engine is: it sums the clipped gradients of a batch's records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from fedprivacy.mechanisms.grad_engines.clipping import Bound, clip_factors

__all__ = [
    "ClippedSum",
    "GradEngine",
    "as_batch",
    "clip_factors",
    "count_within",
    "empty_sum",
    "physical_batches",
    "split_views",
]


@dataclass(frozen=True)
class ClippedSum:
    """Outcome of one batch.

    Attributes:
        total: ``(d,)`` float32, ``sum_i min(1, max_norm / ||g_i||) g_i`` over the records (or what
            another rule of ``clipping`` makes of them), the scalars in the order of
            ``model.parameters()``.
        loss: 0-d float32, sum of the records' losses; a diagnostic.
        within: 0-d float32, number of records that were not clipped, NaN gradients left out; None
            unless the rule counts them.
    """

    total: torch.Tensor
    loss: torch.Tensor
    within: torch.Tensor | None = None


class GradEngine(Protocol):
    """Sums clipped per-record gradients; adds no noise and changes nothing on the model.

    Every engine gives the same sum to float precision, whatever its physical batch size. The
    model's weights, ``.grad`` fields and hooks are left as found.
    """

    @property
    def name(self) -> str:
        """As in ``algorithm.grad_engine``."""
        ...

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: Bound) -> ClippedSum:
        """Sum over the records ``x`` ``(b, ...)``, ``y`` ``(b, ...)``; b may be 0.

        Args:
            x: records on the model's device; ``(b, K, ...)`` for an engine of K > 1 views.
            y: their targets, with the same leading axes.
            max_norm: bound > 0 on the norm of one record's contribution; ``math.inf`` does not
                clip, whatever the engine's rule. A 0-d tensor is not read.
        """
        ...


def empty_sum(model: nn.Module, counts: bool = False, zeroed: bool = True) -> ClippedSum:
    """A sum over no records, on the model's device and in its dtype.

    Args:
        model: whose parameters the sum has the size of.
        counts: whether the records that are not clipped are counted.
        zeroed: False leaves the total as memory happens to be, for who writes all of it.
    """
    parameters = list(model.parameters())
    return sum_like(parameters[0], sum(one.numel() for one in parameters), counts, zeroed)


def sum_like(one: torch.Tensor, size: int, counts: bool, zeroed: bool) -> ClippedSum:
    """``empty_sum`` for who knows one of the parameters and how many scalars all have."""
    zero = one.new_zeros(())
    total = one.new_zeros(size) if zeroed else one.new_empty(size)
    return ClippedSum(total, zero, zero.clone() if counts else None)


def count_within(result: ClippedSum, factors: torch.Tensor) -> None:
    """Add the records whose ``(parts, b)`` factors are all 1 to ``result.within``, if it counts."""
    if result.within is not None:
        result.within.add_((factors >= 1).all(0).sum())


def as_batch(record: torch.Tensor, views: int) -> torch.Tensor:
    """One record ``(...)``, or its views ``(K, ...)``, as a batch that a model can read."""
    return record.unsqueeze(0) if views == 1 else record


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
