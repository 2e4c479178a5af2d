"""Clipped sums by one pass forward and one back for a whole batch, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines.base import (
    ClippedSum,
    count_within,
    physical_batches,
    split_views,
    sum_like,
)
from fedprivacy.mechanisms.grad_engines.clipping import PLAIN, Bound, Contribution
from fedprivacy.mechanisms.grad_engines.record_gradients import (
    has_record_gradients,
    record_axes,
    record_gradients,
)
from fedprivacy.training.losses import Loss

_Written = dict[str, dict[str, torch.Tensor]]

CHUNK, SCALARS, WRITTEN = 4096, 2**17, 2**24
"""Views at a time; of networks with convolutions also scalars of records, and of gradients."""


def linear_layers(model: nn.Module) -> dict[str, nn.Module] | None:
    """The Linear layers by name if they own every parameter, each exactly once; else None."""
    layers = known_layers(model)
    if layers is None or any(type(layer) is not nn.Linear for layer in layers.values()):
        return None
    return layers


def known_layers(model: nn.Module) -> dict[str, nn.Module] | None:
    """The layers with parameters by name, each owning its own; None if one is of another kind.

    Linear, convolutions padded with zeros, and GroupNorm.
    """
    layers: dict[str, nn.Module] = {}
    owned: list[int] = []
    for name, module in model.named_modules(remove_duplicate=False):
        named = dict(module.named_parameters(recurse=False))
        mine = [id(p) for p in named.values()]
        # Subclasses may compute something else in forward, further parameters take part in it.
        usual = "weight" in named and named.keys() <= {"weight", "bias"}
        if usual and (type(module) is nn.Linear or has_record_gradients(module)):
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

    With ``a`` a Linear layer's input and ``delta`` the derivative of one record's loss by its
    output, the record's gradient is the outer product of delta and a (and delta for the bias), so
    ``||g||^2 = sum over layers of ||delta||^2 (||a||^2 + 1)`` and the clipped sum is
    ``(factors * delta)^T a`` (Bu, Wang, Zha, Karypis 2022, "Differentially private optimization
    on large model at small cost"). For K views of a record, its gradient is the mean of K outer
    products, whose squared norm is the sum over pairs of views of
    ``(delta_j . delta_k) (a_j . a_k + 1) / K^2``. Records' gradients of convolutions and GroupNorm
    are written down (see ``record_gradients``).

    Args:
        model: module whose parameters all belong to Linear layers on ``(b, features)`` inputs,
            to convolutions padded with zeros, or to GroupNorm.
        loss: mean loss over a batch.
        chunk: records at a time, to bound the memory of activations; None: as many as have 4096
            views between them, and, unless all layers are Linear, 2^17 scalars and 2^24 of
            gradients that are written down.
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
        layers = known_layers(model)
        if layers is None:
            raise ProtectionError(
                "algorithm.grad_engine='bookkeeping' needs a model whose parameters all belong to "
                "nn.Linear, to nn.Conv1d to 3d padded with zeros, or to nn.GroupNorm, each layer "
                "registered once. Use algorithm.grad_engine=auto."
            )
        self._model, self._loss, self._layers = model, loss, layers
        self._contribution = contribution
        self._chunk, self._linear = chunk, linear_layers(model) is not None
        self._written_scalars = sum(
            parameter.numel()
            for layer in layers.values()
            if type(layer) is not nn.Linear
            for parameter in layer.parameters()
        )
        self._biased = all(layer.bias is not None for layer in layers.values())
        # Walking through the modules in every step costs a small network a hundredth.
        self._weight = next(model.parameters())
        self._scalars = sum(parameter.numel() for parameter in model.parameters())
        self._shapes = {
            (name, kind): parameter.shape
            for name, layer in layers.items()
            for kind, parameter in layer.named_parameters()
        }

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: Bound) -> ClippedSum:
        """See ``GradEngine.clipped_sum``.

        Raises:
            ProtectionError: a layer is used more than once, on inputs of other axes than
                documented, or its input or output is changed in place.
        """
        rule, k = self._contribution.clipping, self._contribution.views
        result = sum_like(self._weight, self._scalars, rule.counts, zeroed=False)
        parts = split_views(result.total, list(self._shapes.values()))
        views = dict(zip(self._shapes, parts, strict=True))
        fresh = set(views)  # not written yet: zeroing all beforehand is a pass over a small model
        for x_part, y_part in physical_batches(x, y, self._at_once(x)):
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
            written = self._written(uses, deltas)
            squares = self._squares(uses, deltas, written)
            factors = rule.factors(squares, range(len(squares)), max_norm)
            self._add(views, fresh, uses, deltas, written, factors)
            count_within(result, factors)
            result.loss.add_(loss.detach() * (len(x_part) // k))
        for key in fresh:
            views[key].zero_()
        return result

    def _at_once(self, x: torch.Tensor) -> int:
        fitting = CHUNK // self._contribution.views
        if not self._linear:
            fitting = min(
                fitting,
                SCALARS // max(1, x[:1].numel()),
                WRITTEN // (self._written_scalars * self._contribution.views),
            )
        return self._chunk or max(1, fitting)

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
        self._check(uses, len(x))
        return loss, uses

    def _check(self, uses: list[_Use], batch: int) -> None:
        """Refuse what the formulas for the gradients do not hold for."""
        seen: set[str] = set()
        for use in uses:
            layer = self._layers[use.layer]
            if use.layer in seen:
                fault = "is used more than once in a forward pass"
            elif wrong := _wrong_shape(layer, use.input, batch):
                fault = wrong
            elif use.versions != (use.input._version, use.output._version):
                fault = "has its input or output changed in place (an in-place activation?)"
            else:
                seen.add(use.layer)
                continue
            raise ProtectionError(
                f"algorithm.grad_engine='bookkeeping': layer {use.layer!r} {fault}, so its "
                "per-record gradient norms would be wrong. Use algorithm.grad_engine=loop."
            )

    def _written(self, uses: list[_Use], deltas: tuple[torch.Tensor, ...]) -> _Written:
        """Records' gradients of layers that are not Linear."""
        if self._linear:
            return {}
        return {
            use.layer: {
                kind: self._mean_of_views(gradients)
                for kind, gradients in record_gradients(
                    self._layers[use.layer], use.input, delta
                ).items()
            }
            for use, delta in zip(uses, deltas, strict=True)
            if type(self._layers[use.layer]) is not nn.Linear
        }

    def _mean_of_views(self, gradients: torch.Tensor) -> torch.Tensor:
        k = self._contribution.views
        return gradients if k == 1 else gradients.view(-1, k, gradients.shape[1]).mean(1)

    def _squares(
        self, uses: list[_Use], deltas: tuple[torch.Tensor, ...], written: _Written
    ) -> torch.Tensor:
        """Squared norms ``(layers, b)`` of each record's gradient; 0 for layers without use."""
        if self._linear and self._contribution.views == 1 and self._all_once(uses):
            # All layers together: many small steps cost a small network more than the norms do.
            of_delta = torch.stack([_row_norms(delta) for delta in deltas])
            of_input = torch.stack([_row_norms(use.input) for use in uses])
            return of_delta.square_().mul_(of_input.square_().add_(1))
        found = {
            u.layer: _norms_of(written[u.layer]) if u.layer in written else self._square(u, d)
            for u, d in zip(uses, deltas, strict=True)
        }
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
        fresh: set[tuple[str, str]],
        uses: list[_Use],
        deltas: tuple[torch.Tensor, ...],
        written: _Written,
        factors: torch.Tensor,
    ) -> None:
        k, of_layer = self._contribution.views, dict(zip(self._layers, factors, strict=True))
        # With beta=0 what was there, if only NaN, is not even read.
        there = {key: 0 if key in fresh else 1 for key in views}
        for layer, gradients in written.items():
            for kind, of_records in gradients.items():
                into = views[layer, kind].view(-1)
                into.addmv_(of_records.T, of_layer[layer], beta=there[layer, kind])
                fresh.discard((layer, kind))
        # Deltas may share memory, so none is scaled in place; one block serves them all.
        shared = zip(uses, deltas, strict=True)
        largest = max((d.numel() for u, d in shared if u.layer not in written), default=0)
        block = deltas[0].new_empty(largest)
        for use, delta in zip(uses, deltas, strict=True):
            if use.layer in written:
                continue
            factor = of_layer[use.layer]
            share = factor if k == 1 else (factor / k).repeat_interleave(k)
            clipped = block[: delta.numel()].view_as(delta)
            torch.mul(delta, share.unsqueeze(1), out=clipped)
            into = views[use.layer, "weight"]
            into.addmm_(clipped.T, use.input, beta=there[use.layer, "weight"])
            fresh.discard((use.layer, "weight"))
            if (use.layer, "bias") in views:
                into = views[use.layer, "bias"]
                if there[use.layer, "bias"]:
                    into.add_(clipped.sum(0))
                else:
                    torch.sum(clipped, 0, out=into)
                fresh.discard((use.layer, "bias"))


def _norms_of(gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Squared norms ``(b,)`` of all scalars of a layer."""
    return torch.stack([_row_norms(part).square() for part in gradients.values()]).sum(0)


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


def _wrong_shape(layer: nn.Module, a: torch.Tensor, batch: int) -> str:
    shape = f"sees an input of shape {tuple(a.shape)} instead of"
    if type(layer) is nn.Linear:
        return "" if a.shape[:-1] == (batch,) else f"{shape} (batch, features)"
    axes = record_axes(layer) or max(2, a.ndim)
    return "" if a.ndim == axes and len(a) == batch else f"{shape} (batch, channels, ...)"
