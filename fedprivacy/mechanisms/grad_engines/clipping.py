"""What one record contributes to a step: the clipping rule, and the views it is averaged over."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

Bound = float | torch.Tensor
"""A clip norm; a 0-d tensor on the gradients' device where it must be written over in place."""

Factors = Callable[[torch.Tensor, Sequence[int], Bound], torch.Tensor]

AUTO_S_OFFSET = 0.01


def clip_factors(squared_norms: torch.Tensor, max_norm: Bound) -> torch.Tensor:
    """``min(1, max_norm / norm)`` of each squared norm; NaN stays NaN so that it is noticed."""
    return (max_norm / squared_norms.sqrt()).clamp(max=1.0)


def parameter_layers(model: nn.Module) -> tuple[int, ...]:
    """Number of the layer that owns each parameter, in the order of ``model.parameters()``.

    A layer is a module with parameters of its own, so a weight and its bias are in one layer.
    """
    owners = [name.rpartition(".")[0] for name, _ in model.named_parameters()]
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    return tuple(numbers[owner] for owner in owners)


def flat(squares: torch.Tensor, _layers: Sequence[int], max_norm: Bound) -> torch.Tensor:
    """``min(1, C / ||g||)`` for every part of a record's gradient (Abadi et al. 2016, algorithm 1).

    Args:
        squares: ``(parts, b)`` squared norm of each part of each record's gradient.
        _layers: layer of each part; not used.
        max_norm: bound on the norm of a record's contribution; ``math.inf`` does not clip.

    Returns:
        ``(parts, b)`` factors that the parts are multiplied by.
    """
    return clip_factors(squares.sum(0), max_norm).expand_as(squares)


def automatic(squares: torch.Tensor, _layers: Sequence[int], max_norm: Bound) -> torch.Tensor:
    """``R / (||g|| + 0.01)``: AUTO-S of Bu, Wang, Zha & Karypis 2023 (arXiv 2206.07136).

    Every gradient is normalised, small ones too; the contribution stays below R. Arguments and
    result as ``flat``.
    """
    factors = (max_norm / (squares.sum(0).sqrt() + AUTO_S_OFFSET)).expand_as(squares)
    if isinstance(max_norm, torch.Tensor):
        return torch.where(max_norm.isinf(), 1.0, factors)
    return torch.ones_like(squares) if math.isinf(max_norm) else factors


def per_layer(squares: torch.Tensor, layers: Sequence[int], max_norm: Bound) -> torch.Tensor:
    """``min(1, C / (sqrt(L) ||g_l||))`` for each of L layers: together at most C.

    As McMahan, Ramage, Talwar & Zhang 2018 (arXiv 1710.06963, "per-layer clipping") do with an
    update. Arguments and result as ``flat``.
    """
    count = max(layers) + 1
    # Not by an index tensor: sending it to a GPU would make the host wait in every step.
    parts = [[p for p, owner in enumerate(layers) if owner == layer] for layer in range(count)]
    norms = torch.stack([torch.stack([squares[p] for p in own]).sum(0) for own in parts])
    factors = clip_factors(norms, max_norm / math.sqrt(count))
    return torch.stack([factors[layer] for layer in layers])


@dataclass(frozen=True)
class Clipping:
    """A clipping rule.

    Attributes:
        name: as in ``algorithm.clipping``.
        factors: factors of the parts of each record's gradient; see ``flat``.
        fixed_bound: norm that bounds a contribution whatever ``max_grad_norm`` says; None: C.
        normalizes: whether the noisy sum is divided by C, so that C does not set the step size.
        counts: whether the records that were not clipped are counted.
    """

    name: str
    factors: Factors
    fixed_bound: float | None = None
    normalizes: bool = False
    counts: bool = False

    def bound(self, max_grad_norm: float) -> float:
        """Largest norm of one record's contribution: the sensitivity that noise is scaled to."""
        return max_grad_norm if self.fixed_bound is None else self.fixed_bound


FLAT = Clipping("flat", flat)
CLIPPINGS: dict[str, Clipping] = {
    rule.name: rule
    for rule in (
        FLAT,
        Clipping("normalized", flat, normalizes=True),
        Clipping("automatic", automatic, fixed_bound=1.0),
        Clipping("per_layer", per_layer),
        Clipping("adaptive", flat, counts=True),
    )
}


@dataclass(frozen=True)
class Contribution:
    """How one record enters a step.

    Attributes:
        clipping: the rule that bounds it.
        views: K. With K > 1 a record comes as ``(K, ...)`` versions of itself, and the gradient of
            their mean loss is what is clipped (augmentation multiplicity).
    """

    clipping: Clipping = FLAT
    views: int = 1


PLAIN = Contribution()
