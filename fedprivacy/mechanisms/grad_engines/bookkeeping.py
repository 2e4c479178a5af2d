"""Clipped sums of all-Linear networks without materialising any per-record gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines.base import (
    ClippedSum,
    count_within,
    empty_sum,
    physical_batches,
    split_views,
)
from fedprivacy.mechanisms.grad_engines.clipping import PLAIN, Bound, Contribution
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
    on large model at small cost"). For K views of a record, its gradient is the mean of K outer
    products, whose squared norm is the sum over pairs of views of
    ``(delta_j . delta_k) (a_j . a_k + 1) / K^2``.

    Args:
        model: module whose parameters all belong to Linear layers on ``(b, features)`` inputs.
        loss: mean loss over a batch.
        chunk: records at a time, to bound the memory of activations; None: as many as have 4096
            views between them.
        contribution: the clipping rule and the views of a record.

    Raises:
        ProtectionError: the model has other parameters, or a parameter under two names.
    """

    name = "bookkeeping"

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        chunk: int | None = None,
        contribution: Contribution = PLAIN,
    ) -> None:
        layers = linear_layers(model)
        if layers is None:
            raise ProtectionError(
                "algorithm.grad_engine='bookkeeping' needs a model whose parameters all belong to "
                "nn.Linear layers, each registered once. Use algorithm.grad_engine=auto."
            )
        self._model, self._loss, self._layers = model, loss, layers
        self._contribution = contribution
        self._chunk = chunk or max(1, CHUNK // contribution.views)
        self._biased = all(layer.bias is not None for layer in layers.values())
        self._shapes = {
            (name, kind): parameter.shape
            for name, layer in layers.items()
            for kind, parameter in layer.named_parameters()
        }

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: Bound) -> ClippedSum:
        """See ``GradEngine.clipped_sum``.

        Raises:
            ProtectionError: a layer is used more than once, on other than ``(b, features)``
                inputs, or its input or output is changed in place.
        """
        rule, k = self._contribution.clipping, self._contribution.views
        result = empty_sum(self._model, rule.counts)
        parts = split_views(result.total, list(self._shapes.values()))
        views = dict(zip(self._shapes, parts, strict=True))
        for x_part, y_part in physical_batches(x, y, self._chunk):
            if k > 1:
                x_part, y_part = x_part.flatten(0, 1), y_part.flatten(0, 1)
            loss, uses = self._forward(x_part, y_part)
            deltas = torch.autograd.grad(
                loss,
                [use.output for use in uses],
                # The loss is a mean; its sum has the views' own derivatives.
                loss.new_full((), len(x_part)),
                allow_unused=True,
                materialize_grads=True,
            )
            squares = self._squares(uses, deltas)
            factors = rule.factors(squares, range(len(squares)), max_norm)
            self._add(views, uses, deltas, factors)
            count_within(result, factors)
            result.loss.add_(loss.detach() * (len(x_part) // k))
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

    def _squares(self, uses: list[_Use], deltas: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Squared norms ``(layers, b)`` of each record's gradient; 0 for layers without use."""
        if self._contribution.views == 1 and self._all_once(uses):
            # All layers together: many small steps cost a small network more than the norms do.
            of_delta = torch.stack([_row_norms(delta) for delta in deltas])
            of_input = torch.stack([_row_norms(use.input) for use in uses])
            return of_delta.square_().mul_(of_input.square_().add_(1))
        found = {u.layer: self._square(u, d) for u, d in zip(uses, deltas, strict=True)}
        nothing = torch.zeros_like(next(iter(found.values())))
        return torch.stack([found.get(name, nothing) for name in self._layers])

    def _all_once(self, uses: list[_Use]) -> bool:
        """Whether every layer was used, in the order of the model, and has a bias."""
        return self._biased and [use.layer for use in uses] == list(self._layers)

    def _square(self, use: _Use, delta: torch.Tensor) -> torch.Tensor:
        k, biased = self._contribution.views, self._layers[use.layer].bias is not None
        if k == 1:
            return _row_norms(delta).square() * (_row_norms(use.input).square() + biased)
        # In float64: where views nearly cancel, rounding must not hide what is left of them.
        by_view = (part.double().view(-1, k, part.shape[1]) for part in (delta, use.input))
        of_delta, of_input = (torch.bmm(part, part.transpose(1, 2)) for part in by_view)
        squares = (of_delta * (of_input + biased)).sum((1, 2)).clamp(min=0) / k**2
        return squares.to(delta.dtype)

    def _add(
        self,
        views: dict[tuple[str, str], torch.Tensor],
        uses: list[_Use],
        deltas: tuple[torch.Tensor, ...],
        factors: torch.Tensor,
    ) -> None:
        k, of_layer = self._contribution.views, dict(zip(self._layers, factors, strict=True))
        # Deltas may share memory, so none is scaled in place; one block serves them all.
        block = deltas[0].new_empty(max(delta.numel() for delta in deltas))
        for use, delta in zip(uses, deltas, strict=True):
            factor = of_layer[use.layer]
            share = factor if k == 1 else (factor / k).repeat_interleave(k)
            clipped = block[: delta.numel()].view_as(delta)
            torch.mul(delta, share.unsqueeze(1), out=clipped)
            views[use.layer, "weight"].addmm_(clipped.T, use.input)
            if (use.layer, "bias") in views:
                views[use.layer, "bias"].add_(clipped.sum(0))


def _row_norms(rows: torch.Tensor) -> torch.Tensor:
    """Norms ``(b,)`` of rows, without as many squares in between."""
    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


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
