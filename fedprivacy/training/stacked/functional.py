"""Any network of many sites by ``torch.func``: one model, a stack of parameters."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from fedprivacy.training.losses import Loss
from fedprivacy.training.stacked.precision import model_precision
from fedprivacy.training.stacked.records import StackedBatch

Parameters = dict[str, torch.Tensor]


def stacking_faults(model: nn.Module) -> list[str]:
    """What keeps a model from being run for many sites at once; empty if nothing is known to."""
    faults = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            faults.append(f"dropout {name} draws from a stream that all sites share")
        if isinstance(module, nn.RNNBase):
            faults.append(f"recurrent layer {name} cannot be mapped over sites")
    return faults


class FunctionalGradients:
    """Gradients of a model for many sites' parameters, mapped by ``torch.func.vmap``.

    Args:
        model: module without buffers, dropout and layers that mix records.
        loss: mean loss over a batch.
        precision: see ``precision.model_precision``.
    """

    def __init__(self, model: nn.Module, loss: Loss, precision: str = "float32") -> None:
        self.model, self.loss, self.precision = model, loss, precision
        self._shapes = {name: p.shape for name, p in model.named_parameters()}
        self._mean = vmap(grad(self._weighted, has_aux=True))
        self._loss_each = vmap(lambda out, y: loss(out.unsqueeze(0), y.unsqueeze(0)))

    def parameters(self, weights: torch.Tensor) -> Parameters:
        """Views ``(k, ...)`` of the parameters in ``(k, d)``, by name."""
        parts = torch.split(weights, [math.prod(s) for s in self._shapes.values()], dim=1)
        return {
            name: part.view(-1, *shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def mean(
        self, weights: torch.Tensor, batch: StackedBatch, total: torch.Tensor
    ) -> torch.Tensor:
        """Write the gradient of each site's mean loss into ``total`` ``(k, d)``.

        Returns:
            ``(k,)`` the mean losses.
        """
        share = batch.shares(weights.dtype)
        with model_precision(self.precision, weights.device):
            gradients, losses = self._mean(self.parameters(weights), batch.x, batch.y, share)
        for name, part in self.parameters(total).items():
            part.copy_(gradients[name])
        return losses

    def _weighted(
        self, parameters: Parameters, x: torch.Tensor, y: torch.Tensor, share: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = functional_call(self.model, parameters, (x,))
        loss = (self._loss_each(output.to(x.dtype), y) * share).sum()
        return loss, loss.detach()
