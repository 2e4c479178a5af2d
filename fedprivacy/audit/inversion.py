"""From a gradient back to the record: exact for a first linear layer, by optimisation elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from fedprivacy.training.losses import Loss
from fedprivacy.training.parameters import FlatParameters

Shape = Callable[[torch.Tensor], torch.Tensor]
"""From a gradient to what the optimiser makes of it, up to a factor."""

_TOTAL_VARIATION = 1e-2
_STEP = 0.1


def first_linear(parameters: FlatParameters) -> tuple[int, int] | None:
    """Rows and columns of the model's first layer if it is linear with a bias; else None."""
    leaves = [m for m in parameters.model.modules() if next(m.parameters(False), None) is not None]
    first = leaves[0] if leaves else None
    if isinstance(first, nn.Linear) and first.bias is not None:
        return first.out_features, first.in_features
    return None


def invert_linear(gradient: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The record ``(columns,)`` from the gradient of a first linear layer with a bias.

    For one record dW_i = db_i x in every row i (Phong et al. 2018, section III; Geiping et al.
    2020, arXiv 2003.14053, proposition 3.1): x = dW_i / db_i, here the least-squares mean of all
    rows, which is exact without noise and the best with it. Zeros where no row was active.

    Args:
        gradient: ``(d,)``, the layer's weight and then its bias first.
        rows: outputs of the layer.
        columns: its inputs.
    """
    weight = gradient[: rows * columns].double().view(rows, columns)
    bias = gradient[rows * columns : rows * columns + rows].double()
    weight_of = float(bias @ bias)
    return (bias @ weight / weight_of).float() if weight_of > 0 else torch.zeros(columns)


@dataclass(frozen=True)
class OptimisationAttack:
    """Searches for a record whose gradient looks like the one that was seen.

    Geiping, Bauermeister, Droege & Moeller 2020 (arXiv 2003.14053, equation 4): cosine distance of
    the gradients plus total variation of the image, by Adam, within public bounds. The attacker
    knows the label. Two starts, from noise at mid-range and from the public prior (Hatamizadeh et
    al. 2023, arXiv 2202.06924, start from it); the result whose gradient fits better is kept.

    Attributes:
        steps: of Adam, from each start.
        low: smallest value that a record can have; public.
        high: largest.
        seed: of the start.
        total_variation: weight of the smoothness of images.
    """

    steps: int
    low: float
    high: float
    seed: int = 0
    total_variation: float = _TOTAL_VARIATION

    def run(
        self,
        parameters: FlatParameters,
        loss: Loss,
        target: torch.Tensor,
        y: torch.Tensor,
        prior: torch.Tensor,
        seen_as: Shape,
    ) -> torch.Tensor:
        """The reconstruction ``(...)``.

        Args:
            parameters: the model at the weights that the update started from.
            loss: what was trained on.
            target: ``(d,)`` what was seen, up to a positive factor.
            y: ``(1, ...)`` the label.
            prior: ``(...)`` public guess of any record.
            seen_as: what the optimiser makes of a gradient.
        """
        tensors = list(parameters.model.parameters())

        def misfit(x: torch.Tensor) -> torch.Tensor:
            parts = torch.autograd.grad(loss(parameters.model(x), y), tensors, create_graph=True)
            made = seen_as(torch.cat([part.reshape(-1) for part in parts]))
            distance = 1 - functional.cosine_similarity(made, target, dim=0)
            return distance + self.total_variation * _variation(x) / (self.high - self.low)

        starts = (self._noise(prior), prior.clamp(self.low, self.high))
        ends = [self._descend(misfit, start[None].to(target.device)) for start in starts]
        return min(ends, key=lambda end: end[0])[1][0].cpu()

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        middle, width = (self.low + self.high) / 2, self.high - self.low
        return middle + 0.1 * width * torch.randn(like.shape, generator=generator)

    def _descend(
        self, misfit: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor
    ) -> tuple[float, torch.Tensor]:
        """The least misfit on the way from a start, and the record that has it."""
        x = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([x], lr=_STEP * (self.high - self.low))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        best, least = x.detach().clone(), float("inf")
        for _ in range(self.steps):
            optimizer.zero_grad()
            value = misfit(x)
            value.backward()  # type: ignore[no-untyped-call]
            if float(value.detach()) < least:
                least, best = float(value.detach()), x.detach().clone()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                x.clamp_(self.low, self.high)
        return least, best


def _variation(x: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbours along each spatial axis; 0 for rows of tables."""
    axes = range(2, x.ndim)
    parts = [x.diff(dim=axis).abs().mean() for axis in axes]
    return torch.stack(parts).sum() if parts else x.new_zeros(())
