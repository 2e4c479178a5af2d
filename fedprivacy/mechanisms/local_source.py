"""Local DP at the source: noise on the records themselves, drawn once and kept for all rounds.

One record with k classes, replace_one; the bounds, z and p are public constants.

1. Features are clipped to a declared box, and to a ball around its middle where a radius is
   declared, of L2 diameter D. Noise N(0, s^2) on each, s = z D/2: replacing the record moves them
   by at most D, one Gaussian of noise multiplier z = 2 s / D relative to half the diameter; that a
   replacement moves twice that is left to the accountant.
2. The label is kept with probability p and otherwise one of the k - 1 others, uniformly: k-ary
   randomised response (Kairouz, Oh & Viswanath 2014), pure epsilon log(p (k-1) / (1-p)).
3. Each record's noise is its own, so a patient with m records costs the m-fold composition.
4. All training on these records, in any number of rounds, is post-processing: one event, without
   amplification. A round that trains on the raw records ends the claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import dp_accounting
import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import LocalSourceConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.finite import all_finite
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.guards import check_update
from fedprivacy.mechanisms.none import off_schedule_release
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "source"


def check_source(conf: LocalSourceConf | LocalSource) -> None:
    """Refuse parameters for which the mechanism is not defined.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    check_bounds(conf.bounds, conf.radius)
    if not (math.isfinite(conf.noise_multiplier) and conf.noise_multiplier >= 0):
        fix = "algorithm.noise_multiplier=1.0"
        raise ConfigError("algorithm.noise_multiplier", conf.noise_multiplier, "finite, >= 0", fix)
    check_keep(conf.label_keep)


def check_bounds(bounds: Sequence[float], radius: float | None) -> None:
    """Refuse a box or a ball that features cannot be clipped to.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    given = list(bounds)
    if not (len(given) == 2 and all(map(math.isfinite, given)) and given[0] < given[1]):
        allowed = "two finite numbers, the smaller first"
        raise ConfigError("algorithm.bounds", given, allowed, "algorithm.bounds=[-3,3]")
    if radius is not None and not (math.isfinite(radius) and radius > 0):
        raise ConfigError(
            "algorithm.radius", radius, "null or finite and > 0", "algorithm.radius=null"
        )


def check_keep(keep: float) -> None:
    """Refuse a probability to keep a label that is none.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    if not 0 < keep <= 1:
        fix = "algorithm.label_keep=0.9"
        raise ConfigError("algorithm.label_keep", keep, "above 0, at most 1", fix)


def response_epsilon(keep: float, classes: int) -> float:
    """Pure epsilon of k-ary randomised response: log(p (k-1) / (1-p)); infinite at p = 1.

    Raises:
        ConfigError: p is no probability above 0.
    """
    check_keep(keep)
    return math.inf if keep == 1 else math.log(keep * (classes - 1) / (1 - keep))


def diameter(size: int, bounds: Sequence[float], radius: float | None) -> float:
    """L2 diameter D of the set that ``size`` features are clipped to.

    Raises:
        ConfigError: see ``check_bounds``.
    """
    check_bounds(bounds, radius)
    box = math.sqrt(size) * (bounds[1] - bounds[0])
    return box if radius is None else min(box, 2 * radius)


def clip_features(
    x: NDArray[np.float64], bounds: Sequence[float], radius: float | None
) -> NDArray[np.float64]:
    """``(n, d)`` features clipped to the box, then scaled towards its middle into the ball.

    Raises:
        ProtectionError: a feature is not finite; NaN passes every clip.
        ConfigError: see ``check_bounds``.
    """
    check_bounds(bounds, radius)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ProtectionError(
            f"local_source: features of shape {x.shape} and type {x.dtype}, allowed are finite "
            "numbers, one row for each record; nothing was trained"
        )
    middle = (bounds[0] + bounds[1]) / 2
    inside = np.clip(x, bounds[0], bounds[1])
    if radius is None:
        return inside
    norms = np.linalg.norm(inside - middle, axis=1, keepdims=True)
    factors = np.minimum(1.0, radius / np.maximum(norms, 1e-300))
    return np.asarray(middle + (inside - middle) * factors)


def randomised_response(
    labels: NDArray[np.int64], keep: float, classes: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``(n,)`` labels, each kept with probability ``keep``, else another, uniformly.

    Raises:
        ProtectionError: a label is none of 0 .. classes - 1, which no other label turns into.
        ConfigError: ``keep`` is no probability above 0.
    """
    check_keep(keep)
    whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    if classes < 2 or not whole or ((labels < 0) | (labels >= classes)).any():
        raise ProtectionError(
            f"local_source: labels of shape {labels.shape} and type {labels.dtype}, allowed is one "
            f"whole number from 0 to {classes - 1} for each record, of 2 classes at least; nothing "
            "was trained"
        )
    kept = rng.random(len(labels)) < keep
    other = (labels + rng.integers(1, classes, len(labels))) % classes
    return np.where(kept, labels, other)


@dataclass(frozen=True)
class LocalSource:
    """Noisy copies of a site's records, made once; the schedule must be every round.

    Attributes:
        noise_multiplier: z, standard deviation of the noise over half the diameter D.
        bounds: lower and upper bound of every feature, declared and public.
        radius: L2 bound of the features around the middle of the box; None: the box alone.
        label_keep: p, probability with which the label is kept.
    """

    noise_multiplier: float
    bounds: tuple[float, float]
    radius: float | None
    label_keep: float

    name = "local_source"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_source(self)

    @staticmethod
    def from_conf(conf: LocalSourceConf) -> LocalSource:
        """The mechanism of a configuration.

        Raises:
            ConfigError: a value is out of range.
        """
        check_bounds(conf.bounds, conf.radius)
        low, high = conf.bounds
        return LocalSource(conf.noise_multiplier, (low, high), conf.radius, conf.label_keep)

    def records(
        self, x: torch.Tensor, y: torch.Tensor, classes: int, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy copies of all records of a site.

        Args:
            x: ``(n, ...)`` float32 features.
            y: ``(n,)`` int64 class labels.
            classes: k.
            rng: the site's own, the same in every round.

        Raises:
            ProtectionError: a feature is not finite, there is no record, or no one label for each
                record among the classes.
        """
        if y.ndim != 1:
            raise ProtectionError(
                "local_source randomises one label for each record; masks have one for each voxel. "
                "Nothing was trained: choose another algorithm for segmentation"
            )
        if len(x) == 0 or len(x) != len(y) or x.dtype != torch.float32:
            raise ProtectionError(
                f"local_source: {len(x)} records of {x.dtype} with {len(y)} labels, allowed is at "
                "least one record of float32, each with its label; nothing was trained"
            )
        if not all_finite(x):
            raise ProtectionError("a feature is NaN or infinite; nothing was trained")
        self._check_keep(classes)
        flat = x.reshape(len(x), -1).numpy().astype(np.float64)
        scale = self.noise_multiplier * diameter(flat.shape[1], self.bounds, self.radius) / 2
        noisy = clip_features(flat, self.bounds, self.radius)
        noisy += rng.normal(0.0, scale, flat.shape)
        labels = randomised_response(y.numpy(), self.label_keep, classes, rng)
        return (
            torch.from_numpy(noisy.astype(np.float32)).reshape(x.shape),
            torch.from_numpy(labels).to(y.dtype),
        )

    def _check_keep(self, classes: int) -> None:
        if self.label_keep * classes < 1:
            raise ConfigError(
                "algorithm.label_keep",
                self.label_keep,
                f"at least 1/{classes}, where the label is random, with {classes} classes",
                "algorithm.label_keep=0.9",
            )

    def train(self, task: LocalTask) -> Trained:
        """Plain local training, on the noisy records that the task holds."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """The update as it is: a function of noisy records.

        Raises:
            ProtectionError: the update is not a finite flat vector.
        """
        check_update(update)
        return Protected(update)

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """Noise and response once, in the first protected round; afterwards nothing new."""
        most = task.records_per_patient
        if task.strength is None:
            raw = off_schedule_release("record", "replace_one")
            return replace(raw, also=(replace(raw, unit="patient"),))
        event, reason = self._event(task)
        details = {} if task.protected_before else self._details(task)
        own = Release(event, "record", "replace_one", reason, details)
        composed = event if reason or task.protected_before else _composed(event, most)
        return replace(own, also=(replace(own, dp_event=composed, unit="patient"),))

    def _event(self, task: LocalTask) -> tuple[dp_accounting.DpEvent, str]:
        if self.noise_multiplier == 0:
            reason = "noise_multiplier=0 adds no noise: the features are used as they are"
            return dp_accounting.NonPrivateDpEvent(), reason
        if self.label_keep == 1:
            reason = "label_keep=1 keeps every label: the labels are used as they are"
            return dp_accounting.NonPrivateDpEvent(), reason
        if task.protected_before:
            return dp_accounting.NoOpDpEvent(), ""
        k = task.n_classes
        # dp-accounting's parameter is the probability of a uniform answer, the truth included.
        uniform = min(1.0, (1 - self.label_keep) * k / (k - 1))
        response = dp_accounting.RandomizedResponseDpEvent(uniform, k)
        noise = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        return dp_accounting.ComposedDpEvent([noise, response]), ""

    def _details(self, task: LocalTask) -> dict[str, float | int | str]:
        size = task.x[0].numel()
        span = diameter(size, self.bounds, self.radius)
        said: dict[str, float | int | str] = {
            "z": self.noise_multiplier,
            "features": size,
            "low": self.bounds[0],
            "high": self.bounds[1],
            "diameter": span,
            "sigma": self.noise_multiplier * span / 2,
            "label_keep": self.label_keep,
            "classes": task.n_classes,
        }
        if self.radius is not None:
            said["radius"] = self.radius
        if self.label_keep < 1:
            said["label_epsilon"] = response_epsilon(self.label_keep, task.n_classes)
        return said


def _composed(event: dp_accounting.DpEvent, count: int) -> dp_accounting.DpEvent:
    return event if count == 1 else dp_accounting.SelfComposedDpEvent(event, count)
