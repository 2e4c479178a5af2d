"""One record after the other: the reference, right for any layer."""

from __future__ import annotations

import torch
from torch import nn

from fedprivacy.mechanisms.grad_engines.base import ClippedSum, clip_factors, empty_sum
from fedprivacy.training.losses import Loss


class LoopEngine:
    """Ordinary backward passes on batches of one: least memory, fast on large volumes only.

    Args:
        model: any module.
        loss: mean loss over a batch.
    """

    name = "loop"

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: float) -> ClippedSum:
        """See ``GradEngine.clipped_sum``."""
        result = empty_sum(self._model)
        for index in range(len(x)):
            loss, gradient = self.gradient(x[index : index + 1], y[index : index + 1])
            result.total.add_(gradient * clip_factors(gradient.square().sum(), max_norm))
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
