"""Each record's gradients of a convolution or a GroupNorm, from what it read and its deltas.

A record's gradient of a Linear layer is a product of two vectors and need not be written down
(see ``bookkeeping``); these layers have few weights, so theirs are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.nn import grad as gradients_of

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

_WEIGHT_GRADIENT: dict[type[nn.Module], Callable[..., torch.Tensor]] = {
    nn.Conv1d: gradients_of.conv1d_weight,
    nn.Conv2d: gradients_of.conv2d_weight,
    nn.Conv3d: gradients_of.conv3d_weight,
}


def has_record_gradients(layer: nn.Module) -> bool:
    """Whether a layer is one of these; subclasses may compute something else in forward."""
    if type(layer) in _WEIGHT_GRADIENT:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.GroupNorm and layer.affine


def record_axes(layer: nn.Module) -> int | None:
    """Axes of a batch that the layer reads; None if any number from 2 up."""
    return len(layer.kernel_size) + 2 if isinstance(layer, Convolution) else None


def record_gradients(
    layer: nn.Module, a: torch.Tensor, delta: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Gradients ``(b, scalars)`` of each record, by ``weight`` and ``bias``.

    Args:
        layer: one that ``has_record_gradients``.
        a: ``(b, channels, ...)`` what the layer read.
        delta: ``(b, channels, ...)`` derivative of each record's loss by what it wrote.
    """
    if isinstance(layer, nn.GroupNorm):
        return _of_group_norm(layer, a, delta)
    found = {"weight": _of_convolution(layer, a, delta)}
    if layer.bias is not None:
        found["bias"] = delta.flatten(2).sum(2)
    return found


def _of_group_norm(
    layer: nn.GroupNorm, a: torch.Tensor, delta: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The channels of all records as those of one, normalised in as many groups more."""
    b, channels = a.shape[:2]
    weight, bias = a.new_ones(b * channels, requires_grad=True), a.new_zeros(b * channels)
    bias.requires_grad_()
    with torch.enable_grad():
        together = functional.group_norm(
            a.flatten(0, 1).unsqueeze(0), b * layer.num_groups, weight, bias, layer.eps
        )
    found = torch.autograd.grad(together, (weight, bias), delta.flatten(0, 1).unsqueeze(0))
    return {
        kind: part.view(b, channels) for kind, part in zip(("weight", "bias"), found, strict=True)
    }


def _of_convolution(layer: nn.Module, a: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Each record a group of its own in one grouped convolution (Rochette et al. 2019, 1912.06015).

    One call for all records costs a tenth more than a batch's common gradient, where a call for
    each costs up to three times as much.
    """
    assert isinstance(layer, Convolution)
    b, shape = len(a), layer.weight.shape
    found = _WEIGHT_GRADIENT[type(layer)](
        a.flatten(0, 1).unsqueeze(0),
        (b * shape[0], *shape[1:]),
        delta.flatten(0, 1).unsqueeze(0),
        layer.stride,
        layer.padding,
        layer.dilation,
        b * layer.groups,
    )
    return found.reshape(b, -1)
