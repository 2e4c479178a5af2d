"""Gaussian noise scaled to a percentile of the update itself, as in NVIDIA FLARE's research."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import dp_accounting
import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import GaussianConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.guards import check_noisy, check_update, check_values
from fedprivacy.mechanisms.none import off_schedule_release
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "update"
_WHO = "Gaussian filter"
_SMALLEST = float(np.finfo(np.float32).tiny)
UNPROVED = (
    "nothing bounds how far one record or site moves the update, and the scale of the noise is "
    "itself read from the update: the percentile-scaled Gaussian has no finite epsilon"
)


class NormalSource(Protocol):
    """Where the noise comes from; ``numpy.random.Generator`` is one."""

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """``size`` draws of N(0, 1)."""
        ...


def check_gaussian(sigma0: float, percentile: float) -> None:
    """Refuse parameters for which the noise is not defined.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    if not (math.isfinite(sigma0) and sigma0 >= 0):
        raise ConfigError("algorithm.sigma0", sigma0, "finite and >= 0", "algorithm.sigma0=0.1")
    if not 0 <= percentile <= 100:
        raise ConfigError("algorithm.percentile", percentile, "0 to 100", "algorithm.percentile=95")


def percentile_sigma(update: NDArray[np.float64], sigma0: float, percentile: float) -> float:
    """Noise scale: ``sigma0 * P_percentile(|w_i| : w_i != 0)`` over the ``(d,)`` update.

    Raises:
        ProtectionError: the update is not finite and flat, or all zero, so that there is nothing
            to take a scale from, or so small that its scale is lost in a float32.
        ConfigError: see ``check_gaussian``.
    """
    check_gaussian(sigma0, percentile)
    check_values(update, _WHO)
    magnitudes = np.abs(update[update != 0])
    if magnitudes.size == 0:
        raise ProtectionError(
            "the update is all zero and the Gaussian filter takes its scale from it: no noise "
            "would be added. Nothing was sent. Check that federation.lr is not 0."
        )
    sigma = sigma0 * float(np.percentile(magnitudes, percentile))
    if sigma0 > 0 and sigma < _SMALLEST:
        raise ProtectionError(
            f"the update is so small that noise of {sigma:.3g}, which the Gaussian filter takes "
            "from it, is lost in float32 weights. Nothing was sent. Raise algorithm.sigma0, "
            "algorithm.percentile or federation.lr."
        )
    return sigma


def gaussian_filter(
    update: NDArray[np.float64], sigma0: float, percentile: float, rng: NormalSource
) -> tuple[NDArray[np.float64], float]:
    """``w + N(0, sigma^2)`` on a ``(d,)`` update, and sigma; see ``percentile_sigma``.

    No clipping and no scaling by the number of steps. ``sigma0 = 0`` returns the update as is.

    Raises:
        ProtectionError: the update is not finite and flat; or all zero, or next to it, with
            sigma0 > 0.
        ConfigError: see ``check_gaussian``.
    """
    check_gaussian(sigma0, percentile)
    check_values(update, _WHO)
    if sigma0 == 0:
        return update, 0.0
    sigma = percentile_sigma(update, sigma0, percentile)
    return check_noisy(update + sigma * rng.standard_normal(update.size), _WHO), sigma


@dataclass(frozen=True)
class PercentileGaussian:
    """Percentile-scaled Gaussian filter on the update; the strength scales ``sigma0``.

    Attributes:
        sigma0: noise relative to the percentile.
        percentile: of the magnitudes of the non-zero update, 0 to 100.
    """

    sigma0: float
    percentile: float

    name = "gaussian"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_gaussian(self.sigma0, self.percentile)

    @staticmethod
    def from_conf(conf: GaussianConf) -> PercentileGaussian:
        """The mechanism of a configuration.

        Raises:
            ConfigError: a value is out of range.
        """
        return PercentileGaussian(conf.sigma0, conf.percentile)

    def train(self, task: LocalTask) -> Trained:
        """Plain local training; the protection acts on the update."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """Add the noise; the update as it is where the schedule is off.

        Raises:
            ProtectionError: the update is not a finite flat vector, or all zero.
        """
        check_update(update)
        if task.strength is None:
            return Protected(update)
        noisy, sigma = gaussian_filter(
            update.cpu().numpy().astype(np.float64),
            self.sigma0 * task.strength,
            self.percentile,
            task.streams.numpy("noise"),
        )
        result = torch.from_numpy(noisy.astype(np.float32))
        check_update(result)
        norm = float(update.double().norm())
        # Replace-one moves an update that is clipped to its own norm by twice that norm.
        what_if = 2 * norm / sigma if sigma > 0 else None
        return Protected(result, sigma * math.sqrt(update.numel()), what_if_mu=what_if)

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """Nothing is proved, with or without noise."""
        if task.strength is None:
            return off_schedule_release("site", "replace_one")
        sigma0 = self.sigma0 * task.strength
        reason = UNPROVED if sigma0 > 0 else "sigma0=0 adds no noise: the raw update left the site"
        details = {"sigma0": sigma0, "percentile": self.percentile, "strength": task.strength}
        return Release(dp_accounting.NonPrivateDpEvent(), "site", "replace_one", reason, details)
