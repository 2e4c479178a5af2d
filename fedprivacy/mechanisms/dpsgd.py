"""DP-SGD at a site (Abadi et al. 2016) with Poisson sampling and declared public constants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dp_accounting
import torch

from fedprivacy.config.schema import DpsgdConf
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.grad_engines.base import GradEngine, physical_batches, split_views
from fedprivacy.mechanisms.grad_engines.certificate import ensure_certified
from fedprivacy.mechanisms.grad_engines.choose import CHOICES, build_engine
from fedprivacy.mechanisms.guards import check_update
from fedprivacy.mechanisms.none import off_schedule_release, unprotected_release
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, OptimizerSpec, Trained

_PLACEMENT: Placement = "training"


def dpsgd_steps(local_epochs: float, sampling_rate: float) -> int:
    """Optimiser steps of a round, at least one; the same at all sites, whatever their size."""
    return max(1, round(local_epochs / sampling_rate))


def poisson_batch(n: int, sampling_rate: float, generator: torch.Generator) -> torch.Tensor:
    """Indices ``(b,)`` of a batch that each of ``n`` records enters independently.

    Drawn in float64: float32 would round the sampling rate to multiples of 2^-24.
    """
    return (
        torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
        < sampling_rate
    ).nonzero()[:, 0]


def noise_in_weights(optimizer: OptimizerSpec, sigma: float, steps: int, size: int) -> float:
    """Expected L2 norm of what the steps' noise adds to the weights of ``size`` scalars.

    SGD with momentum m: the noise of step t (of T) reaches the weights with the factor
    ``lr (1 - m^(T - t + 1)) / (1 - m)``. Its effect on later gradients is not counted.

    Args:
        optimizer: the local optimiser.
        sigma: standard deviation of the noise in one step's gradient.
        steps: steps of the round.
        size: d.

    Returns:
        0.0 for Adam: its normalisation mixes signal and noise, so no such figure exists.
    """
    if optimizer.name != "sgd":
        return 0.0
    momentum, reach, square = optimizer.momentum, 0.0, 0.0
    for _ in range(steps):
        reach = momentum * reach + 1
        square += reach**2
    return optimizer.lr * sigma * math.sqrt(size * square)


@dataclass(frozen=True)
class DpSgd:
    """Clipped, noisy gradient steps; the strength scales ``noise_multiplier``.

    Attributes:
        noise_multiplier: sigma: standard deviation of the noise over ``max_grad_norm``.
        max_grad_norm: clip norm C of one record's gradient.
        sampling_rate: probability q with which a record enters a step; declared, public.
        divisor: declared public constant by which the noisy sum is divided; never the size of a
            batch or of the site, which would leak the number of records (Wang et al. 2026,
            arXiv 2605.15648).
        grad_engine: see ``grad_engines.choose``.
    """

    noise_multiplier: float
    max_grad_norm: float
    sampling_rate: float
    divisor: float
    grad_engine: str = "auto"

    name = "dpsgd"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        rate = self.sampling_rate
        _require("noise_multiplier", self.noise_multiplier, self.noise_multiplier >= 0, ">= 0")
        _require("max_grad_norm", self.max_grad_norm, self.max_grad_norm > 0, "> 0")
        _require("sampling_rate", rate, 0 < rate <= 1, "> 0 and <= 1")
        _require("divisor", self.divisor, self.divisor > 0, "> 0")
        if self.grad_engine not in CHOICES:
            allowed = f"one of {', '.join(CHOICES)}"
            fix = "algorithm.grad_engine=auto"
            raise ConfigError("algorithm.grad_engine", self.grad_engine, allowed, fix)

    @staticmethod
    def from_conf(conf: DpsgdConf, declared_records: int) -> DpSgd:
        """The mechanism of a configuration.

        Args:
            conf: the configuration.
            declared_records: declared public number of records of a site, for the default
                divisor ``sampling_rate * declared_records``.

        Raises:
            ConfigError: a value is out of range.
        """
        divisor = conf.divisor
        return DpSgd(
            noise_multiplier=conf.noise_multiplier,
            max_grad_norm=conf.max_grad_norm,
            sampling_rate=conf.sampling_rate,
            divisor=conf.sampling_rate * declared_records if divisor is None else divisor,
            grad_engine=conf.grad_engine,
        )

    def train(self, task: LocalTask) -> Trained:
        """Train with noisy steps; plainly in rounds that the schedule leaves unprotected.

        Stops at the first step that is not finite and makes the weights NaN, so that nothing can
        leave.

        Raises:
            ProtectionError: the gradient engine does not clip this model's gradients.
        """
        if task.strength is None:
            return train_plain(task)
        engine = build_engine(self.grad_engine, task.parameters.model, task.loss)
        model = task.parameters.model
        ensure_certified(model, task.loss, task.x, task.y, engine, self.max_grad_norm)
        return self._steps(task, engine, self.noise_multiplier * task.strength)

    def _steps(self, task: LocalTask, engine: GradEngine, sigma: float) -> Trained:
        steps = dpsgd_steps(task.local_epochs, self.sampling_rate)
        sampling = task.streams.torch("sampling")
        noise = task.streams.torch("noise", task.x.device)
        losses: list[float] = []
        with _flat_gradient(task.parameters) as gradient:
            optimizer = task.optimizer.build(task.parameters)
            for step in range(1, steps + 1):
                batch = poisson_batch(len(task.x), self.sampling_rate, sampling).to(task.x.device)
                clipped = engine.clipped_sum(task.x[batch], task.y[batch], self.max_grad_norm)
                if len(batch):
                    losses.append(float(clipped.loss) / len(batch))
                    if not math.isfinite(losses[-1]):
                        task.parameters.flat.fill_(math.nan)
                        return Trained(step, math.nan)
                # In place: the parameters' gradients are views of this vector.
                gradient.normal_(generator=noise).mul_(sigma * self.max_grad_norm)
                gradient.add_(clipped.total).div_(self.divisor)
                optimizer.step()
        return Trained(steps, sum(losses) / len(losses) if losses else _mean_loss(task))

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """The update itself, checked to be finite: the noise is in the steps already.

        Raises:
            ProtectionError: the update is not a finite flat vector.
        """
        check_update(update)
        if task.strength is None:
            return Protected(update)
        sigma = self.noise_multiplier * task.strength * self.max_grad_norm / self.divisor
        norm = noise_in_weights(task.optimizer, sigma, trained.steps, update.numel())
        return Protected(update, noise_norm=norm)

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """Poisson-subsampled Gaussian, once per step taken."""
        if task.strength is None:
            return off_schedule_release("record", "zero_out")
        sigma = self.noise_multiplier * task.strength
        if sigma == 0:
            reason = "noise_multiplier=0 adds no noise: clipping alone proves nothing"
            return unprotected_release("record", "zero_out", reason)
        event = dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(
                self.sampling_rate, dp_accounting.GaussianDpEvent(sigma)
            ),
            trained.steps,
        )
        details = {
            "q": self.sampling_rate,
            "sigma": sigma,
            "C": self.max_grad_norm,
            "steps": trained.steps,
            "divisor": self.divisor,
            "strength": task.strength,
        }
        return Release(event, "record", "zero_out", "", details)


def _require(key: str, value: float, in_range: bool, allowed: str) -> None:
    if not (math.isfinite(value) and in_range):
        fix = f"set algorithm.{key} to a number that is {allowed}"
        raise ConfigError(f"algorithm.{key}", value, f"finite and {allowed}", fix)


@contextmanager
def _flat_gradient(parameters: FlatParameters) -> Iterator[torch.Tensor]:
    """One ``(d,)`` vector whose parts are the parameters' ``.grad``; taken away afterwards."""
    tensors = list(parameters.model.parameters())
    gradient = torch.zeros_like(parameters.flat)
    views = split_views(gradient, [tensor.shape for tensor in tensors])
    for tensor, view in zip(tensors, views, strict=True):
        tensor.grad = view
    try:
        yield gradient
    finally:
        for tensor in tensors:
            tensor.grad = None


@torch.no_grad()
def _mean_loss(task: LocalTask) -> float:
    """Mean loss over the site's records, for a round in which no step drew a record."""
    total = 0.0
    for x, y in physical_batches(task.x, task.y, task.batch_size):
        total += float(task.loss(task.parameters.model(x), y)) * len(x)
    return total / len(task.x) if len(task.x) else math.nan
