"""Per-record gradients by Opacus' ``GradSampleModule``, taken off the model after each batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedprivacy.mechanisms.grad_engines.base import (
    ClippedSum,
    count_within,
    empty_sum,
    physical_batches,
    split_views,
)
from fedprivacy.mechanisms.grad_engines.clipping import (
    PLAIN,
    Bound,
    Contribution,
    parameter_layers,
)
from fedprivacy.training.losses import Loss

CHUNK = 32


def needs_functorch(model: nn.Module) -> bool:
    """Whether Opacus' hooks are too slow (Conv3d) or wrong (padding other than zeros) here."""
    return any(
        isinstance(module, nn.Conv3d) or getattr(module, "padding_mode", "zeros") != "zeros"
        for module in model.modules()
    )


class OpacusEngine:
    """Opacus' hooks, or its functorch mode where they are slow or wrong.

    Only its per-sample gradients are used: sampling, noise and normalisation are ours.

    Args:
        model: module in training mode without buffers.
        loss: mean loss over a batch.
        chunk: records at a time; every per-record gradient of a chunk is in memory at once. None:
            as many as have 32 views between them.
        functorch: force or forbid functorch mode; None decides by ``needs_functorch``.
        contribution: the clipping rule and the views of a record.
    """

    name = "opacus"

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        chunk: int | None = None,
        functorch: bool | None = None,
        contribution: Contribution = PLAIN,
    ) -> None:
        self._model, self._loss, self._contribution = model, loss, contribution
        self._chunk = chunk or max(1, CHUNK // contribution.views)
        self._layers = parameter_layers(model)
        self._functorch = needs_functorch(model) if functorch is None else functorch

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: Bound) -> ClippedSum:
        """See ``GradEngine.clipped_sum``."""
        rule, views = self._contribution.clipping, self._contribution.views
        result = empty_sum(self._model, rule.counts)
        parameters = list(self._model.parameters())
        totals = split_views(result.total, [torch.Size([p.numel()]) for p in parameters])
        with _wrapped(self._model, self._functorch) as wrapped:
            for x_part, y_part in physical_batches(x, y, self._chunk):
                records = len(x_part)
                if views > 1:
                    x_part, y_part = x_part.flatten(0, 1), y_part.flatten(0, 1)
                loss = self._loss(wrapped(x_part), y_part)
                loss.backward()  # type: ignore[no-untyped-call]
                gradients = [_grad_sample(p, records, views) for p in parameters]
                wrapped.zero_grad(set_to_none=True)
                squares = torch.stack([g.square().sum(1) for g in gradients])
                factors = rule.factors(squares, self._layers, max_norm)
                for total, gradient, factor in zip(totals, gradients, factors, strict=True):
                    total.addmv_(gradient.T, factor)
                count_within(result, factors)
                result.loss.add_(loss.detach() * records)
        return result


def _grad_sample(parameter: nn.Parameter, records: int, views: int) -> torch.Tensor:
    """Per-record gradients ``(records, numel)``; zero for a parameter that was not used."""
    gradient: torch.Tensor | None = parameter.grad_sample  # type: ignore[attr-defined]
    if gradient is None:
        return parameter.new_zeros(records, parameter.numel())
    if views == 1:
        return gradient.flatten(1)
    return gradient.view(records, views, -1).mean(1)


@contextmanager
def _wrapped(model: nn.Module, functorch: bool) -> Iterator[nn.Module]:
    """Wrap the model for one batch, then remove every hook and attribute that Opacus sets.

    Its backward pass writes to ``.grad``: the fields are put aside, so that views into a flat
    gradient survive.
    """
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    from opacus import GradSampleModule  # a second of imports, for those who choose this engine

    wrapped = GradSampleModule(model, force_functorch=functorch)
    try:
        with warnings.catch_warnings():
            # Its hooks sit on first layers too, whose inputs need no gradient.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield wrapped
    finally:
        wrapped.to_standard_module()
        for module in model.modules():
            # Left behind when a forward pass had no backward pass.
            for attribute in ("activations", "max_batch_len"):
                if hasattr(module, attribute):
                    delattr(module, attribute)
        for parameter, gradient in kept:
            parameter.grad = gradient
