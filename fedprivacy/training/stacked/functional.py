"""Any network of many sites by ``torch.func``: one model, a stack of parameters."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.func import grad, vmap

from fedprivacy.training.losses import Loss
from fedprivacy.training.stacked.precision import model_precision
from fedprivacy.training.stacked.recorded import StepRecordings
from fedprivacy.training.stacked.records import StackedBatch
from fedprivacy.training.substitution import call_with

_TOLERANCE = 1e-2

Parameters = dict[str, torch.Tensor]


def stacking_faults(model: nn.Module) -> list[str]:
    """What keeps a model from being run for many sites at once; empty if nothing is known to."""
    faults = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            faults.append(f"dropout {name} draws from a stream that all sites share")
        if isinstance(module, nn.RNNBase):
            faults.append(f"recurrent layer {name} cannot be mapped over sites")
        if isinstance(module, nn.PReLU):
            # torch 2.13: mapped over sites and records, the batching rule of its backward pairs
            # the weight of one site with the record of that number.
            faults.append(f"torch.func gets the gradient through PReLU {name} wrong")
    return faults


def gradient_faults(gradients: FunctionalGradients, x: torch.Tensor, y: torch.Tensor) -> str:
    """Where the mapped gradients of two made-up sites are not each site's own; empty: nowhere.

    A batching rule that is wrong fails silently. Two records at two sites, so that axes that are
    taken for each other fit.

    Args:
        gradients: in float32; its model is left as found.
        x: ``(n, ...)`` of which only shape, dtype and device are looked at.
        y: ``(n, ...)`` likewise.
    """
    model, draws = gradients.model, torch.Generator().manual_seed(0)
    own = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    weights = torch.stack([own, 0.9 * own])
    made = torch.randn((2, 2, *x.shape[1:]), generator=draws).to(x.device, x.dtype)
    targets = torch.zeros((2, 2, *y.shape[1:]), dtype=y.dtype, device=y.device)
    targets[:, 1] = 1
    there = torch.ones((2, 2), dtype=torch.bool, device=x.device)
    total = torch.empty_like(weights)
    gradients.mean(weights, StackedBatch(made, targets, there), total)
    for site, parameters in enumerate(weights):
        named = {n: p[0] for n, p in gradients.parameters(parameters.unsqueeze(0)).items()}
        alone = {name: p.clone().requires_grad_() for name, p in named.items()}
        loss = gradients.loss(call_with(model, alone, made[site]), targets[site])
        found = gradients.parameters(total[site : site + 1])
        expected = torch.autograd.grad(loss, list(alone.values()))
        scale = math.sqrt(sum(float(g.square().sum()) for g in expected))
        for name, gradient in zip(alone, expected, strict=True):
            if not float((found[name][0] - gradient).norm()) <= _TOLERANCE * scale + 1e-12:
                return f"torch.func gets the gradient of {name} wrong"
    return ""


class FunctionalGradients:
    """Gradients of a model for many sites' parameters, mapped by ``torch.func.vmap``.

    Args:
        model: module without buffers, dropout and layers that mix records.
        loss: mean loss over a batch.
        precision: see ``precision.model_precision``.
    """

    def __init__(self, model: nn.Module, loss: Loss, precision: str = "float32") -> None:
        self.model, self.loss, self.precision = model, loss, precision
        self.recordings = StepRecordings()
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

    def mean(self, weights: torch.Tensor, batch: StackedBatch, total: torch.Tensor) -> torch.Tensor:
        """Write the gradient of each site's mean loss into ``total`` ``(k, d)``.

        Returns:
            ``(k,)`` the mean losses.
        """
        share = batch.shares(weights.dtype)
        with model_precision(self.precision, weights.device):
            gradients, losses = self._mean(self.parameters(weights), batch.x, batch.y, share)
        for name, part in self.parameters(total).items():
            part.copy_(gradients[name])
        means: torch.Tensor = losses
        return means

    def _weighted(
        self, parameters: Parameters, x: torch.Tensor, y: torch.Tensor, share: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = call_with(self.model, parameters, x)
        loss = (self._loss_each(output.to(x.dtype), y) * share).sum()
        return loss, loss.detach()
