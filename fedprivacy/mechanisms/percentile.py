"""Percentile sparsification of the update, with the semantics of NVIDIA FLARE's filter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import dp_accounting
import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import PercentileConf
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.guards import check_steps, check_update, check_values
from fedprivacy.mechanisms.none import off_schedule_release
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "update"
_WHO = "percentile filter"
UNPROVED = (
    "the percentile filter is deterministic: dropping the smallest values and cutting the largest "
    "adds no noise, so what leaves is a function of the records and no epsilon is finite"
)


def check_percentile(percentile: float, gamma: float) -> None:
    """Refuse parameters for which the filter is not defined.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    if not 0 <= percentile <= 100:
        raise ConfigError("algorithm.percentile", percentile, "0 to 100", "algorithm.percentile=10")
    if not (math.isfinite(gamma) and gamma > 0):
        raise ConfigError("algorithm.gamma", gamma, "finite and > 0", "algorithm.gamma=0.01")


def percentile_filter(
    update: NDArray[np.float64], percentile: float, gamma: float, steps: int
) -> NDArray[np.float64]:
    """What leaves the site of a ``(d,)`` update: its larger values, cut, and zero elsewhere.

    With u = update / steps: values with ``|u_i|`` below the percentile of all ``|u|`` become 0,
    the others leave as ``min(max(u_i, -gamma), gamma) * steps``. All values are treated alike.

    Args:
        update: finite difference of weights.
        percentile: 0 to 100; of the magnitudes, zeros included.
        gamma: clip, per local step.
        steps: local optimiser steps K of the round.

    Raises:
        ProtectionError: the update is not finite and flat, or ``steps`` is no whole number >= 1.
        ConfigError: see ``check_percentile``.
    """
    check_percentile(percentile, gamma)
    check_values(update, _WHO)
    check_steps(steps, _WHO)
    u = update / steps
    magnitudes = np.abs(u)
    kept = magnitudes >= np.percentile(magnitudes, percentile)
    return np.where(kept, np.clip(u, -gamma, gamma) * steps, 0.0)


@dataclass(frozen=True)
class PercentileFilter:
    """Sparsified and clipped update, without noise.

    The strength scales ``percentile``, the share of values that is held back.

    Attributes:
        percentile: of the magnitudes of the update, 0 to 100.
        gamma: clip, per local step.
    """

    percentile: float
    gamma: float

    name = "percentile"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_percentile(self.percentile, self.gamma)

    @staticmethod
    def from_conf(conf: PercentileConf) -> PercentileFilter:
        """The mechanism of a configuration.

        Raises:
            ConfigError: a value is out of range.
        """
        return PercentileFilter(conf.percentile, conf.gamma)

    def train(self, task: LocalTask) -> Trained:
        """Plain local training; the filter acts on the update."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """Filter the update; the update as it is where the schedule is off.

        Raises:
            ProtectionError: the update is not a finite flat vector.
        """
        check_update(update)
        if task.strength is None:
            return Protected(update)
        values = update.cpu().numpy().astype(np.float64)
        percentile = self.percentile * task.strength
        filtered = percentile_filter(values, percentile, self.gamma, trained.steps)
        return Protected(torch.from_numpy(filtered.astype(np.float32)))

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """Nothing is proved."""
        if task.strength is None:
            return off_schedule_release("site", "replace_one")
        details: dict[str, float | int | str] = {
            "percentile": self.percentile * task.strength,
            "gamma": self.gamma,
            "steps": trained.steps,
            "strength": task.strength,
        }
        return Release(dp_accounting.NonPrivateDpEvent(), "site", "replace_one", UNPROVED, details)
