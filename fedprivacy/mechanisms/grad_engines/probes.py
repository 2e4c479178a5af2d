"""Made-up records for the start-up certificate, and the clip norms that they must be cut to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product

import torch
from torch import nn

SCALES = (1.0, 1e-1, 1e-2, 1e-3, 1e-6)
# Squared norms that float32 holds with room for layers of a thousandth of the norm.
_SMALLEST = 1e-30
_SHARE = 1e-3


def made_up_records(
    x: torch.Tensor, y: torch.Tensor, count: int, views: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Normal inputs with targets 1, the last one 0; then other scales and targets.

    Nothing of ``x`` and ``y`` but their shapes, dtypes and device is looked at, so that whether
    training is refused does not depend on private records.

    Args:
        x: ``(n, ...)`` records; n may be 0.
        y: ``(n, ...)`` their targets.
        count: records to make up.
        views: K; with K > 1 a record is ``(K, ...)``.
    """
    axes = () if views == 1 else (views,)
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn((count, *axes, *x.shape[1:]), generator=draws)
    targets = torch.ones((count, *axes, *y.shape[1:]), dtype=y.dtype, device=y.device)
    targets[-1] = 0
    for scale, given in product(SCALES, (targets, 1 - targets)):
        yield (inputs * scale).to(x.device, x.dtype), given


def comparable(gradients: Sequence[torch.Tensor]) -> bool:
    """Whether each record's gradient ``(d,)`` has a norm that is neither 0, NaN nor infinite.

    Norms are taken in the gradient's own dtype, as engines do: a sound engine may cut a gradient
    whose square overflows to nothing.
    """
    squares = [float(gradient.square().sum()) for gradient in gradients]
    return all(_SMALLEST < square < math.inf for square in squares)


def binding_norm(parts: Sequence[torch.Tensor], layers: Sequence[int], max_norm: float) -> float:
    """A clip norm of at most ``max_norm`` that cuts a gradient under every rule of clipping.

    Half the norm of its smallest layer, layers of less than a thousandth of the whole left out:
    below half the gradient's own norm, and below every such layer's share of it.

    Args:
        parts: the gradient of each parameter.
        layers: layer of each part; see ``clipping.parameter_layers``.
        max_norm: C.
    """
    squares = [0.0] * (max(layers) + 1)
    for part, layer in zip(parts, layers, strict=True):
        squares[layer] += float(part.double().square().sum())
    whole = math.sqrt(math.fsum(squares))
    norms = [math.sqrt(square) for square in squares]
    return min(max_norm, 0.5 * min(norm for norm in norms if norm >= _SHARE * whole))


def finite_weights(model: nn.Module) -> bool:
    """Whether all weights are finite; where not, no update that leaves can be."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout off, so that gradients can be compared; left as found."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode
