"""Clipped sums of all-Linear networks without materialising any per-record gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines.base import (
    ClippedSum,
    clip_factors,
    empty_sum,
    physical_batches,
    split_views,
)
from fedprivacy.training.losses import Loss

CHUNK = 4096


def linear_layers(model: nn.Module) -> dict[str, nn.Linear] | None:
    """The Linear layers by name if they own every parameter, each exactly once; else None."""
    layers: dict[str, nn.Linear] = {}
    owned: list[int] = []
    for name, module in model.named_modules(remove_duplicate=False):
        mine = [id(p) for p in module.parameters(recurse=False)]
        # Subclasses may compute something else in forward.
        if type(module) is nn.Linear:
            layers[name] = module
        elif mine:
            return None
        owned += mine
    return layers if layers and len(owned) == len(set(owned)) else None


@dataclass(frozen=True)
class _Use:
    """One application of a layer, and the versions of its tensors when it happened."""

    layer: str
    input: torch.Tensor
    output: torch.Tensor
    versions: tuple[int, int]


class BookkeepingEngine:
    """One forward and one backward pass for a whole batch.

    With ``a`` a layer's input and ``delta`` the derivative of one record's loss by the layer's
    output, the record's gradient is the outer product of delta and a (and delta for the bias), so
    ``||g||^2 = sum over layers of ||delta||^2 (||a||^2 + 1)`` and the clipped sum is
    ``(factors * delta)^T a`` (Bu, Wang, Zha, Karypis 2022, "Differentially private optimization
    on large model at small cost").

    Args:
        model: module whose parameters all belong to Linear layers on ``(b, features)`` inputs.
        loss: mean loss over a batch.
        chunk: records at a time; bounds the memory of activations.

    Raises:
        ProtectionError: the model has other parameters, or a parameter under two names.
    """

    name = "bookkeeping"

    def __init__(self, model: nn.Module, loss: Loss, chunk: int = CHUNK) -> None:
        layers = linear_layers(model)
        if layers is None:
            raise ProtectionError(
                "algorithm.grad_engine='bookkeeping' needs a model whose parameters all belong to "
                "nn.Linear layers, each registered once. Use algorithm.grad_engine=auto."
            )
        self._model, self._loss, self._chunk, self._layers = model, loss, chunk, layers
        self._order = [
            (name, kind) for name, layer in layers.items() for kind, _ in layer.named_parameters()
        ]

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: float) -> ClippedSum:
        """See ``GradEngine.clipped_sum``.

        Raises:
            ProtectionError: a layer is used more than once, on other than ``(b, features)``
                inputs, or its input or output is changed in place.
        """
        result = empty_sum(self._model)
        parameters = [self._layers[name].get_parameter(kind) for name, kind in self._order]
        shapes = [p.shape for p in parameters]
        views = dict(zip(self._order, split_views(result.total, shapes), strict=True))
        for x_part, y_part in physical_batches(x, y, self._chunk):
            loss, uses = self._forward(x_part, y_part)
            deltas = torch.autograd.grad(
                # The loss is a mean; its sum has the records' own derivatives.
                loss * len(x_part),
                [use.output for use in uses],
                allow_unused=True,
                materialize_grads=True,
            )
            self._add(views, uses, deltas, max_norm)
            result.loss.add_(loss.detach() * len(x_part))
        return result

    def _forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, list[_Use]]:
        uses: list[_Use] = []
        handles = [
            layer.register_forward_hook(_recorder(name, uses))
            for name, layer in self._layers.items()
        ]
        try:
            loss = self._loss(self._model(x), y)
        finally:
            for handle in handles:
                handle.remove()
        _check_uses(uses, len(x))
        return loss, uses

    def _add(
        self,
        views: dict[tuple[str, str], torch.Tensor],
        uses: list[_Use],
        deltas: tuple[torch.Tensor, ...],
        max_norm: float,
    ) -> None:
        squares = deltas[0].new_zeros(len(deltas[0]))
        for use, delta in zip(uses, deltas, strict=True):
            biased = self._layers[use.layer].bias is not None
            squares += delta.square().sum(1) * (use.input.square().sum(1) + biased)
        factors = clip_factors(squares, max_norm).unsqueeze(1)
        for use, delta in zip(uses, deltas, strict=True):
            clipped = delta * factors
            views[use.layer, "weight"].addmm_(clipped.T, use.input)
            if (use.layer, "bias") in views:
                views[use.layer, "bias"].add_(clipped.sum(0))


def _recorder(
    name: str, uses: list[_Use]
) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    def record(_layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        a = inputs[0].detach()
        uses.append(_Use(name, a, output, (a._version, output._version)))

    return record


def _check_uses(uses: list[_Use], batch: int) -> None:
    """Refuse what the formula for the norm does not hold for."""
    seen: set[str] = set()
    for use in uses:
        if use.layer in seen:
            fault = "is used more than once in a forward pass"
        elif use.input.shape[:-1] != (batch,):
            fault = f"sees an input of shape {tuple(use.input.shape)} instead of (batch, features)"
        elif use.versions != (use.input._version, use.output._version):
            fault = "has its input or output changed in place (an in-place activation?)"
        else:
            seen.add(use.layer)
            continue
        raise ProtectionError(
            f"algorithm.grad_engine='bookkeeping': layer {use.layer!r} {fault}, so its "
            "per-record gradient norms would be wrong. Use algorithm.grad_engine=loop."
        )
