"""Plain local training of many sites at once: shuffled batches, no protection."""

from __future__ import annotations

from typing import Protocol

import torch

from fedprivacy.training.batches import Batches
from fedprivacy.training.cuda_graph import is_recorded
from fedprivacy.training.plain import plain_batches, plain_steps
from fedprivacy.training.stacked.optimizer import stacked_optimizer
from fedprivacy.training.stacked.plan import BatchPlan
from fedprivacy.training.stacked.recorded import StepRecordings
from fedprivacy.training.stacked.records import StackedBatch
from fedprivacy.training.stacked.sites import StackedOutcome, StackedSites
from fedprivacy.training.task import LocalTask, Trained

_MEAN = ("mean",)


class MeanGradients(Protocol):
    """Gradients of many sites' mean losses: ``ChainGradients`` or ``FunctionalGradients``."""

    recordings: StepRecordings

    def mean(self, weights: torch.Tensor, batch: StackedBatch, total: torch.Tensor) -> torch.Tensor:
        """Write the gradients into ``total`` ``(k, d)``; return the ``(k,)`` mean losses."""
        ...


def steps_of(task: LocalTask) -> int:
    """Optimiser steps of a site's plain training in a round."""
    return plain_steps(len(task.x), task.batch_size, task.local_epochs)


def train_plain_stacked(sites: StackedSites, gradients: MeanGradients) -> list[StackedOutcome]:
    """Train every site as ``train_plain`` does, all of them in each step.

    Args:
        sites: their weights are changed in place.
        gradients: of the sites' model.
    """
    plan = BatchPlan.of([_batches(task) for task in sites.tasks], sites.records)
    if is_recorded(sites.weights.device):
        prepare_plain_steps(sites, gradients, plan)
    losses = run_plain_steps(sites, gradients, plan)
    done, means = sites.weights.cpu(), losses.cpu()
    return [
        StackedOutcome(done[site], Trained(steps, float(means[:steps, site].mean())))
        for site, steps in enumerate(plan.steps)
    ]


def _batches(task: LocalTask) -> Batches:
    """The site's batches of the round, drawn from its own stream as ``train_plain`` draws them."""
    draws = task.streams.torch("batches")
    return Batches.of(plain_batches(len(task.x), task.batch_size, steps_of(task), draws))


def prepare_plain_steps(sites: StackedSites, gradients: MeanGradients, plan: BatchPlan) -> None:
    """Record the gradients of every shape that the plan has."""
    for (k, _), steps in plan.shapes().items():
        batch, weights = sites.records.batch(plan.at(steps[0])), sites.weights[:k]
        gradients.recordings.prepare(_MEAN, gradients.mean, weights, batch, len(steps))


def run_plain_steps(sites: StackedSites, gradients: MeanGradients, plan: BatchPlan) -> torch.Tensor:
    """Take the round's steps without once waiting for the device.

    Returns:
        ``(T, K)`` the mean loss of each step.
    """
    weights = sites.weights
    gradient = torch.zeros_like(weights)
    losses = weights.new_zeros(len(plan.active), len(weights))
    optimizer = stacked_optimizer(sites.tasks[0].optimizer, weights, gradient, plan.steps)
    for step, k in enumerate(plan.active):
        batch = sites.records.batch(plan.at(step))
        losses[step, :k] = gradients.recordings.run(
            _MEAN, gradients.mean, weights[:k], batch, gradient[:k]
        )
        optimizer.step()
    return losses
