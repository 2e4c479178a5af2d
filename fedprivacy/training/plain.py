"""Plain local training: shuffled batches, no protection."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from fedprivacy.training.batches import sent
from fedprivacy.training.flat_gradient import flat_gradient
from fedprivacy.training.task import LocalTask, Trained


def plain_steps(n: int, batch_size: int, local_epochs: float) -> int:
    """Optimiser steps that a site with ``n`` records takes in a round, at least one."""
    return max(1, round(math.ceil(n / batch_size) * local_epochs))


def plain_batches(
    n: int,
    batch_size: int,
    steps: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Iterator[torch.Tensor]:
    """Indices ``(b,)`` of the batches of ``steps`` steps on a device: a new order for each epoch.

    Args:
        n: records of the site.
        batch_size: of all batches but the last one of an epoch.
        steps: how many batches.
        generator: the site's own, on the CPU.
        device: where the indices are used.
    """
    taken = 0
    while taken < steps:
        order = sent(torch.randperm(n, generator=generator), torch.device(device))
        for batch in torch.split(order, batch_size)[: steps - taken]:
            yield batch
            taken += 1


def train_plain(task: LocalTask) -> Trained:
    """Train on shuffled batches of ``task.batch_size`` for ``task.local_epochs`` epochs."""
    model, loss_of = task.parameters.model, task.loss
    generator = task.streams.torch("batches")
    n, device = len(task.x), task.x.device
    steps = plain_steps(n, task.batch_size, task.local_epochs)
    losses: list[torch.Tensor] = []
    with flat_gradient(task.parameters) as gradient:
        optimizer = task.optimizer.build(task.parameters, gradient)
        for batch in plain_batches(n, task.batch_size, steps, generator, device):
            gradient.zero_()
            loss = loss_of(model(task.x[batch]), task.y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
    return Trained(steps=steps, loss=float(torch.stack(losses).mean()))
