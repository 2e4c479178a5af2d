"""DP-SGD at a site (Abadi et al. 2016): clipped, noisy steps and declared public constants."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from fedprivacy.config.schema import DpsgdConf
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.adaptive_clip import ClipRule, default_count_noise, gradient_noise
from fedprivacy.mechanisms.augmentation import Augmentation, AugmentedEngine
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.dpsgd_ranges import check_settings
from fedprivacy.mechanisms.grad_engines.base import GradEngine
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS, Clipping, Contribution
from fedprivacy.mechanisms.grad_engines.start_up import probed_engine
from fedprivacy.mechanisms.guards import check_strength, check_update
from fedprivacy.mechanisms.noise_reach import noise_in_weights
from fedprivacy.mechanisms.none import off_schedule_release, unprotected_release
from fedprivacy.mechanisms.round_event import round_event, shuffle_details
from fedprivacy.mechanisms.sampling import dpsgd_steps, step_batches
from fedprivacy.mechanisms.step_losses import StepLosses, mean_loss
from fedprivacy.mechanisms.step_noise import StepNoise
from fedprivacy.mechanisms.weight_average import WeightAverage
from fedprivacy.training.batches import Batches
from fedprivacy.training.flat_gradient import flat_gradient
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "training"
_TARGET_OF = (
    "all protected rounds of the run together; rounds without protection are not in it, and with "
    "any of them the run's epsilon is infinite"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DpSgd:
    """Clipped, noisy gradient steps; the strength scales ``noise_multiplier``.

    Whatever the options, one record moves what a step releases by at most one norm that the noise
    is ``noise_multiplier`` times of, so that they leave the accounting as it is.

    Attributes:
        noise_multiplier: sigma: standard deviation of the noise over the norm that bounds one
            record's contribution (``max_grad_norm``; 1 for automatic clipping).
        max_grad_norm: clip norm C of one record's gradient; where it starts for adaptive clipping,
            in each round, as a site keeps nothing between rounds.
        sampling_rate: probability q with which a record enters a step; declared, public.
        divisor: declared public constant by which the noisy sum is divided; never the size of a
            batch or of the site, which would leak the number of records (Wang et al. 2026,
            arXiv 2605.15648).
        grad_engine: see ``grad_engines.choose`` and ``grad_engines.start_up``.
        sampling: ``poisson`` or ``shuffle``; see ``sampling``.
        clipping: see ``grad_engines.clipping``.
        clip_quantile: of adaptive clipping; see ``adaptive_clip``.
        clip_rate: of adaptive clipping.
        count_noise: of adaptive clipping; None: ``adaptive_clip.default_count_noise``.
        ema: see ``weight_average``.
        augmentations: views of a record in each step; see ``augmentation``.
        jitter: of views of table rows.
        shift: of views of images and volumes.
        physical_batch: records in memory at a time; None: what suits the engine.
        target_epsilon: what ``noise_multiplier`` was calibrated for, for the record; None if it
            was chosen.
    """

    noise_multiplier: float
    max_grad_norm: float
    sampling_rate: float
    divisor: float
    grad_engine: str = "auto"
    sampling: str = "poisson"
    clipping: str = "flat"
    clip_quantile: float = 0.5
    clip_rate: float = 0.2
    count_noise: float | None = None
    ema: float = 0.0
    augmentations: int = 1
    jitter: float = 0.05
    shift: int = 2
    physical_batch: int | None = None
    target_epsilon: float | None = None

    name = "dpsgd"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_settings(self)

    @staticmethod
    def from_conf(conf: DpsgdConf, declared_records: int) -> DpSgd:
        """The mechanism of a configuration.

        Args:
            conf: the configuration, its noise multiplier settled.
            declared_records: declared public number of records of a site, for the default
                divisor ``sampling_rate * declared_records``.

        Raises:
            ConfigError: a value is out of range, or the noise multiplier is not settled.
        """
        if conf.noise_multiplier is None:
            raise ConfigError(
                "algorithm.noise_multiplier",
                None,
                "a number >= 0; null is settled when a configuration is loaded",
                "pass the configuration through fedprivacy.mechanisms.settling.settle",
            )
        values = asdict(conf)
        values.pop("name")
        if conf.divisor is None:
            values["divisor"] = conf.sampling_rate * declared_records
        if conf.target_epsilon is not None:
            log.info(
                "noise multiplier %g: calibrated so that all protected rounds of the run together "
                "cost at most epsilon %g",
                conf.noise_multiplier,
                conf.target_epsilon,
            )
        return DpSgd(**values)

    def train(self, task: LocalTask) -> Trained:
        """Train with noisy steps; plainly in rounds that the schedule leaves unprotected.

        A step that is not finite is the last one counted and makes the weights NaN, so that
        nothing can leave; see ``StepLosses``.

        Raises:
            ProtectionError: the gradient engine does not clip this model's gradients, or the
                strength is not from 0 up.
        """
        if task.strength is None:
            return train_plain(task)
        check_strength(task.strength, self.name)
        model, loss = task.parameters.model, task.loss
        contribution = Contribution(self._clipping, self.augmentations)
        engine = probed_engine(
            self.grad_engine, model, loss, task.x, task.y, self._bound, contribution,
            self.physical_batch,
        )  # fmt: skip
        if self.augmentations > 1:
            views = Augmentation(self.augmentations, self.jitter, self.shift)
            engine = AugmentedEngine(engine, views, task.streams.torch("selection"))
        return self._steps(task, engine, self.noise_multiplier * task.strength)

    def _steps(self, task: LocalTask, engine: GradEngine, sigma: float) -> Trained:
        batches, losses = self.batches(task), StepLosses(task.x.device)
        there = tuple(batches.on(task.x.device))
        generator = task.streams.torch("noise", task.x.device)
        norms = self.run_steps(task, engine, there, sigma, losses, generator)
        taken, loss = losses.outcome()
        if loss is not None and math.isnan(loss):
            task.parameters.flat.fill_(math.nan)
            return Trained(taken, math.nan)
        loss = mean_loss(task) if loss is None else loss
        clips = torch.stack(norms).tolist() if norms else []
        stds = tuple(self._gradient_sigma(sigma) * clip / self._scale for clip in clips)
        return Trained(taken, loss, stds, losses.sizes)

    def run_steps(
        self,
        task: LocalTask,
        engine: GradEngine,
        batches: Sequence[torch.Tensor],
        sigma: float,
        losses: StepLosses,
        generator: torch.Generator,
    ) -> list[torch.Tensor]:
        """Take a round's steps; only recording a new shape of work waits for a GPU, and Opacus.

        Args:
            task: whose weights are changed in place.
            engine: over the task's model.
            batches: indices of the records of each step, on the records' device.
            sigma: noise multiplier of the round.
            losses: to which each step is told.
            generator: of the noise, on that device.

        Returns:
            The clip norm of each step, 0-d on the device; empty where it stays.
        """
        device, rule = task.x.device, self._clip_rule(sigma)
        fixed, multiplier = self._bound, self._gradient_sigma(sigma)
        moving = torch.full((), fixed, dtype=torch.float64, device=device)
        noise = StepNoise([generator], len(batches))
        average = WeightAverage(self.ema, task.parameters.flat)
        norms: list[torch.Tensor] = []
        with flat_gradient(task.parameters) as gradient:
            optimizer, rows = task.optimizer.build(task.parameters, gradient), gradient[None]
            for batch in batches:
                bound = fixed if rule is None else moving
                clipped = engine.clipped_sum(task.x[batch], task.y[batch], bound)
                if not losses.add(clipped.loss, len(batch)):
                    break
                # In place: the parameters' gradients are views of this vector.
                noise.fill(rows)
                gradient.mul_(multiplier * bound)
                gradient.add_(clipped.total).div_(self._scale)
                optimizer.step()
                average.take()
                if rule is not None and clipped.within is not None:
                    norms.append(moving)
                    normal = torch.randn((), generator=generator, device=device)
                    moving = rule.next_clip_there(moving, clipped.within, len(batch), normal)
        average.put()
        return norms

    def batches(self, task: LocalTask) -> Batches:
        """Which of the site's records enter which step of the round, from its own stream."""
        steps = dpsgd_steps(task.local_epochs, self.sampling_rate)
        draws = task.streams.torch("sampling")
        return step_batches(self.sampling, len(task.x), self.sampling_rate, steps, draws)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """The update itself, checked to be finite: the noise is in the steps already.

        Raises:
            ProtectionError: the update is not a finite flat vector.
        """
        check_update(update)
        if task.strength is None:
            return Protected(update)
        sigma = self._gradient_sigma(self.noise_multiplier * task.strength)
        stds = trained.noise or (sigma * self._bound / self._scale,) * trained.steps
        norm = noise_in_weights(task.optimizer, stds, update.numel(), self.ema)
        return Protected(update, noise_norm=norm)

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """Poisson-subsampled Gaussians, one a step taken; without amplification if shuffled."""
        if task.strength is None:
            return off_schedule_release("record", "zero_out")
        sigma = self.noise_multiplier * task.strength
        if sigma == 0:
            reason = "noise_multiplier=0 adds no noise: clipping alone proves nothing"
            return unprotected_release("record", "zero_out", reason)
        event = round_event(self.sampling, sigma, self.sampling_rate, trained.steps)
        details: dict[str, float | int | str] = {
            "q": self.sampling_rate,
            "sigma": sigma,
            "C": self._bound,
            "steps": trained.steps,
            "divisor": self.divisor,
            "strength": task.strength,
        }
        return Release(
            event, "record", "zero_out", "", details | self._said_of(sigma, trained.steps)
        )

    def _said_of(self, sigma: float, steps: int) -> dict[str, float | int | str]:
        """What a reader needs besides, where the options are not the usual ones."""
        said: dict[str, float | int | str] = {}
        if self.clipping != "flat":
            said["clipping"] = self.clipping
        if (rule := self._clip_rule(sigma)) is not None:
            said["count_noise"] = rule.count_noise
            said["gradient_sigma"] = self._gradient_sigma(sigma)
        if self.sampling == "shuffle":
            said |= shuffle_details(sigma, self.sampling_rate, steps)
        if self.target_epsilon is not None:
            said |= {"target_epsilon": self.target_epsilon, "target_epsilon_of": _TARGET_OF}
        return said

    def step_scales(self, strength: float) -> tuple[float, float, float]:
        """What a step of a protected round is made with, where the clip norm stays fixed.

        Returns:
            The bound on a record's contribution, the standard deviation of the noise in the sum
            of clipped gradients, and what that noisy sum is divided by.
        """
        multiplier = self._gradient_sigma(self.noise_multiplier * strength)
        return self._bound, multiplier * self._bound, self._scale

    @property
    def _clipping(self) -> Clipping:
        return CLIPPINGS[self.clipping]

    @property
    def _bound(self) -> float:
        """Largest norm of one record's contribution to a step (to the first, if adaptive)."""
        return self._clipping.bound(self.max_grad_norm)

    @property
    def _scale(self) -> float:
        return self.divisor * (self.max_grad_norm if self._clipping.normalizes else 1.0)

    def _clip_rule(self, sigma: float) -> ClipRule | None:
        """How the clip norm moves in a round of that noise; None where it stays."""
        if not self._clipping.counts:
            return None
        noise = self.count_noise
        if noise is None:
            noise = default_count_noise(sigma, self.divisor)
        return ClipRule(self.clip_quantile, self.clip_rate, noise, self.divisor)

    def _gradient_sigma(self, sigma: float) -> float:
        """Noise multiplier of the gradients, which leaves adaptive clipping its count."""
        rule = self._clip_rule(sigma)
        return sigma if rule is None else gradient_noise(sigma, rule.count_noise)
