"""DP-SGD of many sites at once: each with its own masks, its own noise and its own statement."""

from __future__ import annotations

import math

import torch

from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.grad_engines.stacked import StackedSums
from fedprivacy.mechanisms.step_losses import mean_loss, until_infinite
from fedprivacy.mechanisms.step_noise import StepNoise
from fedprivacy.mechanisms.weight_average import WeightAverage
from fedprivacy.training.cuda_graph import is_recorded
from fedprivacy.training.stacked.optimizer import stacked_optimizer
from fedprivacy.training.stacked.plan import BatchPlan
from fedprivacy.training.stacked.recorded import Step
from fedprivacy.training.stacked.records import StackedBatch
from fedprivacy.training.stacked.sites import StackedOutcome, StackedSites
from fedprivacy.training.task import LocalTask, Trained


def train_dpsgd_stacked(
    mechanism: DpSgd, sites: StackedSites, sums: StackedSums
) -> list[StackedOutcome]:
    """Train every site as ``DpSgd.train`` does, all of them in each step.

    Every site draws the masks and the noise that it would draw by itself, from its own streams. A
    site whose loss becomes non-finite ends with NaN weights, so that nothing of it can leave.

    Args:
        mechanism: fixed clip norm, one view of a record.
        sites: in a protected round, the strength checked; their weights are changed in place.
        sums: certified for this model and the mechanism's clipping rule.
    """
    tasks, device = sites.tasks, sites.weights.device
    plan = BatchPlan.of([mechanism.batches(task) for task in tasks], sites.records)
    noise = StepNoise([task.streams.torch("noise", device) for task in tasks], len(plan.active))
    if is_recorded(device):
        prepare_noisy_steps(mechanism, sites, sums, plan)
    losses = run_noisy_steps(mechanism, sites, sums, plan, noise)
    done, sums_of_losses = sites.weights.cpu(), losses.cpu()
    return [
        _outcome(task, done[site], sums_of_losses[:, site], plan.sizes[site])
        for site, task in enumerate(tasks)
    ]


def prepare_noisy_steps(
    mechanism: DpSgd, sites: StackedSites, sums: StackedSums, plan: BatchPlan
) -> None:
    """Record the clipped sums of every shape that the plan has."""
    kind, clipped = _clipped_step(mechanism, sites.tasks[0], sums)
    for steps in plan.shapes().values():
        batch = sites.records.batch(plan.at(steps[0]))
        sums.recordings.prepare(kind, clipped, sites.weights, batch, len(steps))


def _clipped_step(
    mechanism: DpSgd, task: LocalTask, sums: StackedSums
) -> tuple[tuple[object, ...], Step]:
    """The sums at the mechanism's clip norm, and what tells them from others."""
    assert task.strength is not None
    bound, _, _ = mechanism.step_scales(task.strength)

    def step(weights: torch.Tensor, batch: StackedBatch, total: torch.Tensor) -> torch.Tensor:
        return sums.clipped(weights, batch, bound, total)

    return (*sums.kind, bound), step


def run_noisy_steps(
    mechanism: DpSgd,
    sites: StackedSites,
    sums: StackedSums,
    plan: BatchPlan,
    noise: StepNoise,
) -> torch.Tensor:
    """Take the round's steps without once waiting for the device.

    Args:
        mechanism: as above, and so ``sites`` and ``sums``.
        plan: of the sites' batches.
        noise: of the sites, drawn on the device.

    Returns:
        ``(T, K)`` sums of the records' losses in each step.
    """
    weights, task = sites.weights, sites.tasks[0]
    assert task.strength is not None
    _, deviation, divisor = mechanism.step_scales(task.strength)
    kind, clipped = _clipped_step(mechanism, task, sums)
    gradient, total = torch.zeros_like(weights), torch.zeros_like(weights)
    losses = weights.new_zeros(len(plan.active), len(weights))
    optimizer = stacked_optimizer(task.optimizer, weights, gradient, plan.steps)
    average = WeightAverage(mechanism.ema, weights)
    for step in range(len(plan.active)):
        batch = sites.records.batch(plan.at(step))
        losses[step] = sums.recordings.run(kind, clipped, weights, batch, total)
        noise.fill(gradient)
        gradient.mul_(deviation).add_(total).div_(divisor)
        optimizer.step()
        average.take()
    average.put()
    return losses


def _outcome(
    task: LocalTask, weights: torch.Tensor, sums: torch.Tensor, sizes: tuple[int, ...]
) -> StackedOutcome:
    """What training by itself would have left, where it stops at the first non-finite loss."""
    steps, loss = until_infinite(sums.tolist(), sizes)
    if loss is None:
        task.parameters.load(weights)
        return StackedOutcome(weights, Trained(steps, mean_loss(task), (), sizes))
    if math.isnan(loss):
        return StackedOutcome(torch.full_like(weights, math.nan), Trained(steps, math.nan))
    return StackedOutcome(weights, Trained(steps, loss, (), sizes))
