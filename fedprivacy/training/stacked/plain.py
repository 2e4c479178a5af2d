"""Plain local training of many sites at once: shuffled batches, no protection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fedprivacy.training.plain import plain_batches, plain_steps
from fedprivacy.training.stacked.optimizer import StackedOptimizer
from fedprivacy.training.stacked.plan import BatchPlan
from fedprivacy.training.stacked.records import StackedBatch, StackedRecords
from fedprivacy.training.task import LocalTask, Trained


class MeanGradients(Protocol):
    """Gradients of many sites' mean losses: ``ChainGradients`` or ``FunctionalGradients``."""

    def mean(self, weights: torch.Tensor, batch: StackedBatch, total: torch.Tensor) -> torch.Tensor:
        """Write the gradients into ``total`` ``(k, d)``; return the ``(k,)`` mean losses."""
        ...


@dataclass(frozen=True)
class StackedOutcome:
    """What training left of one site.

    Attributes:
        weights: ``(d,)`` float32 on the CPU.
        trained: as training by itself reports it.
    """

    weights: torch.Tensor
    trained: Trained


def steps_of(task: LocalTask) -> int:
    """Optimiser steps of a site's plain training in a round."""
    return plain_steps(len(task.x), task.batch_size, task.local_epochs)


def train_plain_stacked(
    tasks: Sequence[LocalTask],
    weights: torch.Tensor,
    records: StackedRecords,
    gradients: MeanGradients,
) -> list[StackedOutcome]:
    """Train every site as ``train_plain`` does, all of them in each step.

    Args:
        tasks: of the sites, those with the most steps first; each has a record at least.
        weights: ``(K, d)`` float32 on the device, what each starts from; changed in place.
        records: of the sites, in this order.
        gradients: of the sites' model.
    """
    batches = [
        list(plain_batches(len(t.x), t.batch_size, steps_of(t), t.streams.torch("batches")))
        for t in tasks
    ]
    plan = BatchPlan.of(batches, records)
    losses = run_plain_steps(tasks, weights, records, gradients, plan)
    done, means = weights.cpu(), losses.cpu()
    return [
        StackedOutcome(done[site], Trained(steps, float(means[:steps, site].mean())))
        for site, steps in enumerate(plan.steps)
    ]


def run_plain_steps(
    tasks: Sequence[LocalTask],
    weights: torch.Tensor,
    records: StackedRecords,
    gradients: MeanGradients,
    plan: BatchPlan,
) -> torch.Tensor:
    """Take the round's steps without once waiting for the device; arguments as above.

    Returns:
        ``(T, K)`` the mean loss of each step.
    """
    gradient = torch.zeros_like(weights)
    losses = weights.new_zeros(len(plan.active), len(weights))
    optimizer = StackedOptimizer(tasks[0].optimizer, weights, gradient, plan.steps)
    for step, k in enumerate(plan.active):
        batch = records.batch(plan.at(step))
        losses[step, :k] = gradients.mean(weights[:k], batch, gradient[:k])
        optimizer.step()
    return losses
