"""Per-record gradients by Opacus' ``GradSampleModule``, taken off the model after each batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus import GradSampleModule
from torch import nn

from fedprivacy.mechanisms.grad_engines.base import (
    ClippedSum,
    clip_factors,
    empty_sum,
    physical_batches,
    split_views,
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
        chunk: records at a time; every per-record gradient of a chunk is in memory at once.
        functorch: force or forbid functorch mode; None decides by ``needs_functorch``.
    """

    name = "opacus"

    def __init__(
        self, model: nn.Module, loss: Loss, chunk: int = CHUNK, functorch: bool | None = None
    ) -> None:
        self._model, self._loss, self._chunk = model, loss, chunk
        self._functorch = needs_functorch(model) if functorch is None else functorch

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: float) -> ClippedSum:
        """See ``GradEngine.clipped_sum``."""
        result = empty_sum(self._model)
        parameters = list(self._model.parameters())
        views = split_views(result.total, [torch.Size([p.numel()]) for p in parameters])
        with _wrapped(self._model, self._functorch) as wrapped:
            for x_part, y_part in physical_batches(x, y, self._chunk):
                loss = self._loss(wrapped(x_part), y_part)
                loss.backward()  # type: ignore[no-untyped-call]
                gradients = [_grad_sample(p, len(x_part)) for p in parameters]
                wrapped.zero_grad(set_to_none=True)
                squares = torch.stack([g.square().sum(1) for g in gradients]).sum(0)
                factors = clip_factors(squares, max_norm)
                for view, gradient in zip(views, gradients, strict=True):
                    view.addmv_(gradient.T, factors)
                result.loss.add_(loss.detach() * len(x_part))
        return result


def _grad_sample(parameter: nn.Parameter, batch: int) -> torch.Tensor:
    """Per-record gradients ``(batch, numel)``; zero for a parameter that was not used."""
    gradient: torch.Tensor | None = parameter.grad_sample  # type: ignore[attr-defined]
    if gradient is None:
        return parameter.new_zeros(batch, parameter.numel())
    return gradient.flatten(1)


@contextmanager
def _wrapped(model: nn.Module, functorch: bool) -> Iterator[nn.Module]:
    """Wrap the model for one batch, then remove every hook and attribute that Opacus sets.

    Its backward pass writes to ``.grad``: the fields are put aside, so that views into a flat
    gradient survive.
    """
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
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
