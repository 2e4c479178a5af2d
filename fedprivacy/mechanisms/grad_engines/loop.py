"""One record after the other: the reference, right for any layer."""

from __future__ import annotations

import torch
from torch import nn

from fedprivacy.mechanisms.grad_engines.base import ClippedSum, as_batch, count_within, empty_sum
from fedprivacy.mechanisms.grad_engines.clipping import (
    PLAIN,
    Bound,
    Contribution,
    parameter_layers,
)
from fedprivacy.training.losses import Loss


class LoopEngine:
    """Ordinary backward passes on one record each: least memory, fast on large volumes only.

    Args:
        model: any module.
        loss: mean loss over a batch.
        contribution: the clipping rule and the views of a record.
    """

    name = "loop"

    def __init__(self, model: nn.Module, loss: Loss, contribution: Contribution = PLAIN) -> None:
        self._model, self._loss, self._contribution = model, loss, contribution
        self._layers = parameter_layers(model)
        self._sizes = [parameter.numel() for parameter in model.parameters()]

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: Bound) -> ClippedSum:
        """See ``GradEngine.clipped_sum``."""
        rule, views = self._contribution.clipping, self._contribution.views
        result = empty_sum(self._model, rule.counts)
        totals = torch.split(result.total, self._sizes)
        for one_x, one_y in zip(x, y, strict=True):
            loss, gradient = self.gradient(as_batch(one_x, views), as_batch(one_y, views))
            parts = torch.split(gradient, self._sizes)
            squares = torch.stack([part.square().sum() for part in parts]).unsqueeze(1)
            factors = rule.factors(squares, self._layers, max_norm)
            for total, part, factor in zip(totals, parts, factors, strict=True):
                total.add_(part * factor)
            count_within(result, factors)
            result.loss.add_(loss)
        return result

    def gradient(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (0-d) and unclipped flat gradient ``(d,)`` of one batch taken as a whole."""
        loss = self._loss(self._model(x), y)
        # materialize_grads: a parameter that the output does not depend on has gradient zero.
        gradients = torch.autograd.grad(
            loss, list(self._model.parameters()), allow_unused=True, materialize_grads=True
        )
        return loss.detach(), torch.cat([gradient.reshape(-1) for gradient in gradients])
