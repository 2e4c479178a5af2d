"""Plain local training: shuffled batches, no protection."""

from __future__ import annotations

import math

import torch

from fedprivacy.training.flat_gradient import flat_gradient
from fedprivacy.training.task import LocalTask, Trained


def plain_steps(n: int, batch_size: int, local_epochs: float) -> int:
    """Optimiser steps that a site with ``n`` records takes in a round, at least one."""
    return max(1, round(math.ceil(n / batch_size) * local_epochs))


def train_plain(task: LocalTask) -> Trained:
    """Train on shuffled batches of ``task.batch_size`` for ``task.local_epochs`` epochs."""
    model, loss_of = task.parameters.model, task.loss
    generator = task.streams.torch("batches")
    n = len(task.x)
    steps = plain_steps(n, task.batch_size, task.local_epochs)
    losses: list[torch.Tensor] = []
    with flat_gradient(task.parameters) as gradient:
        optimizer = task.optimizer.build(task.parameters, gradient)
        while len(losses) < steps:
            order = torch.randperm(n, generator=generator).to(task.x.device)
            for batch in torch.split(order, task.batch_size):
                gradient.zero_()
                loss = loss_of(model(task.x[batch]), task.y[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
                if len(losses) == steps:
                    break
    return Trained(steps=steps, loss=float(torch.stack(losses).mean()))
