"""What a site brings to one round of training, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from fedprivacy.training.flat_sgd import FlatSgd
from fedprivacy.training.losses import Loss
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.randomness import Streams


class LocalOptimizer(Protocol):
    """Moves the weights by the gradient that the parameters hold."""

    def step(self) -> object:
        """One step."""
        ...


@dataclass(frozen=True)
class OptimizerSpec:
    """A local optimiser, made anew each round: sites keep no state between rounds.

    Attributes:
        name: ``sgd`` or ``adam``.
        lr: learning rate.
        momentum: of ``sgd``.
    """

    name: str
    lr: float
    momentum: float = 0.0

    def build(self, parameters: FlatParameters, gradient: torch.Tensor) -> LocalOptimizer:
        """The optimiser over the model's parameters.

        Args:
            parameters: that are moved.
            gradient: ``(d,)`` whose parts are the parameters' gradients, see ``flat_gradient``.
        """
        if self.name == "sgd":
            return FlatSgd(parameters.flat, gradient, self.lr, self.momentum)
        return self.over(parameters.tensors)

    def over(self, tensors: list[torch.Tensor]) -> torch.optim.Optimizer:
        """Torch's own optimiser over some tensors."""
        if self.name == "sgd":
            return torch.optim.SGD(tensors, lr=self.lr, momentum=self.momentum)
        return torch.optim.Adam(tensors, lr=self.lr)


@dataclass(frozen=True)
class LocalTask:
    """One site's training in one round.

    Attributes:
        parameters: the model, already holding the round's global weights.
        loss: mean loss over a batch.
        x: ``(n, ...)`` float32 training records on the training device.
        y: their targets.
        optimizer: the local optimiser.
        batch_size: of plain training.
        local_epochs: passes over the site's records; may be fractional.
        strength: strength of the protection in this round; None where the schedule is off.
        streams: the random streams of this site and round.
        clip: the public clip norm that the server sent along; None where none moves.
        protected_before: protected rounds before this one.
        last_round: whether the model is final after it.
        records_per_patient: most training records of one patient at a site, public.
        n_classes: number of classes of the targets.
    """

    parameters: FlatParameters
    loss: Loss
    x: torch.Tensor
    y: torch.Tensor
    optimizer: OptimizerSpec
    batch_size: int
    local_epochs: float
    strength: float | None
    streams: Streams
    clip: float | None = None
    protected_before: int = 0
    last_round: bool = False
    records_per_patient: int = 1
    n_classes: int = 2


@dataclass(frozen=True)
class Trained:
    """Outcome of local training; the weights are in ``LocalTask.parameters``.

    Attributes:
        steps: optimiser steps taken.
        loss: mean training loss of the round, a diagnostic outside every guarantee.
        noise: standard deviation of the noise in each step's gradient, where it is not the same
            in all; public, as it follows from noisy values.
        batch_sizes: records in each sampled step; they tell of the sampling and never leave the
            site.
    """

    steps: int
    loss: float
    noise: tuple[float, ...] = ()
    batch_sizes: tuple[int, ...] = ()
