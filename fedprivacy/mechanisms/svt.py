"""Sparse-vector filter on the update, with the semantics of NVIDIA FLARE <= 2.7."""

from __future__ import annotations

import math
from dataclasses import dataclass

import dp_accounting
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammainc

from fedprivacy.config.schema import SvtConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.guards import check_noisy, check_steps, check_update, check_values
from fedprivacy.mechanisms.none import off_schedule_release
from fedprivacy.mechanisms.selection import (
    WHO,
    LaplaceSource,
    SvtScales,
    select_above_threshold,
    upload_count,
)
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "update"
UNPROVED = (
    "the value that is released is clipped only after the noise, so nothing bounds how far one "
    "site moves it: this sparse-vector filter has no finite epsilon"
)


def svt_scales(conf: SvtConf, size: int) -> SvtScales:
    """Noise scales for an update of ``size`` scalars (FLARE <= 2.7, ``SVTPrivacy``).

    ``lam_rho = 2 gamma / epsilon``, ``lam_nu = lam_rho (2c)^(1/3)``, ``b = 2 gamma / noise_var``;
    the selection costs ``gamma/lam_rho + 2 c gamma/lam_nu = (epsilon/2)(1 + (2c)^(2/3))``
    (split of the budget after Lyu, Su, Li 2017, "Understanding the sparse vector technique for
    differential privacy").
    """
    count = upload_count(size, conf.fraction)
    threshold = 2 * conf.gamma / conf.epsilon
    return SvtScales(
        count=count,
        threshold=threshold,
        query=threshold * (2 * count) ** (1 / 3),
        release=2 * conf.gamma / conf.noise_var,
        epsilon_selection=conf.epsilon / 2 * (1 + (2 * count) ** (2 / 3)),
    )


def check_svt(conf: SvtConf) -> None:
    """Refuse parameters for which the filter is undefined or would never end.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    for key in ("epsilon", "noise_var", "gamma"):
        value = getattr(conf, key)
        if not (math.isfinite(value) and value > 0):
            default = getattr(SvtConf(), key)
            raise ConfigError(
                f"algorithm.{key}", value, "finite and > 0", f"algorithm.{key}={default}"
            )
    if not 0 < conf.fraction <= 1:
        raise ConfigError(
            "algorithm.fraction", conf.fraction, "0 < fraction <= 1", "algorithm.fraction=0.1"
        )
    if not math.isfinite(conf.tau):
        raise ConfigError("algorithm.tau", conf.tau, "finite", "algorithm.tau=1e-6")


def check_filtered(update: NDArray[np.float64], steps: int, tau: float) -> None:
    """Fail closed on what a sparse-vector filter cannot work on.

    Raises:
        ProtectionError: the update is not finite and flat, steps is no whole number >= 1, or tau
            is not finite.
    """
    check_values(update, WHO)
    check_steps(steps, WHO)
    if not math.isfinite(tau):
        raise ProtectionError(f"{WHO}: tau={tau}, allowed is a finite number; nothing was sent")


def svt_filter(
    update: NDArray[np.float64], conf: SvtConf, steps: int, tau: float, rng: LaplaceSource
) -> NDArray[np.float64]:
    """What leaves the site: ``c`` noisy coordinates of a ``(d,)`` update, zero elsewhere.

    With u = update / steps, and ``clip`` cutting at +-gamma: coordinates are chosen by
    ``|clip(u_i)|`` (``selection.select_above_threshold``) and leave as
    ``clip(u_i + Lap(b)) * steps``.

    Args:
        update: finite difference of weights.
        conf: the parameters; ``conf.tau`` is not used.
        steps: local optimiser steps K of the round.
        tau: the threshold of this round, per local step.
        rng: source of all randomness.

    Raises:
        ProtectionError: see ``check_filtered``; or too few coordinates pass the threshold.
        ConfigError: see ``check_svt``.
    """
    check_svt(conf)
    check_filtered(update, steps, tau)
    scales = svt_scales(conf, update.size)
    u = update / steps
    magnitudes = np.minimum(np.abs(u), conf.gamma)
    chosen = select_above_threshold(magnitudes, tau, scales, conf.replace, rng)
    noisy = u[chosen] + rng.laplace(0.0, scales.release, chosen.size)
    result = np.zeros_like(update)
    result[chosen] = np.clip(noisy, -conf.gamma, conf.gamma) * steps
    return check_noisy(result, WHO)


def release_noise_norm(released: int, gamma: float, scale: float, steps: int) -> float:
    """Expected L2 norm of the noise in ``released`` coordinates, the true values near zero.

    ``E[min(|X|, gamma)^2] = 2 b^2 (1 - exp(-t)(1 + t))`` with X ~ Lap(b) and t = gamma / b.
    """
    second_moment = 2 * scale**2 * float(gammainc(2, gamma / scale))
    return steps * math.sqrt(released * second_moment)


@dataclass(frozen=True)
class SvtFilter:
    """Sparse-vector filter on the update; the strength scales the threshold ``tau``.

    Attributes:
        conf: the parameters, under FLARE's names.
    """

    conf: SvtConf

    name = "svt"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_svt(self.conf)

    @staticmethod
    def from_conf(conf: SvtConf) -> SvtFilter:
        """The mechanism of a configuration.

        Raises:
            ConfigError: a value is out of range.
        """
        return SvtFilter(conf)

    def train(self, task: LocalTask) -> Trained:
        """Plain local training; the protection acts on the update."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """Filter the update; the update as it is where the schedule is off.

        Raises:
            ProtectionError: the update is not a finite flat vector, or too few coordinates pass.
        """
        check_update(update)
        if task.strength is None:
            return Protected(update)
        filtered = svt_filter(
            update.cpu().numpy().astype(np.float64),
            self.conf,
            trained.steps,
            self.conf.tau * task.strength,
            task.streams.numpy("noise"),
        )
        result = torch.from_numpy(filtered.astype(np.float32))
        check_update(result)
        scale = svt_scales(self.conf, update.numel()).release
        released = int(np.count_nonzero(filtered))
        norm = release_noise_norm(released, self.conf.gamma, scale, trained.steps)
        return Protected(result, noise_norm=norm)

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """Nothing is proved; the details say what the selection alone would have cost."""
        if task.strength is None:
            return off_schedule_release("site", "replace_one")
        scales = svt_scales(self.conf, task.parameters.size)
        details: dict[str, float | int | str] = {
            "eps_sel": scales.epsilon_selection,
            "c": scales.count,
            "d": task.parameters.size,
            "lam_rho": scales.threshold,
            "lam_nu": scales.query,
            "b": scales.release,
            "gamma": self.conf.gamma,
            "tau": self.conf.tau * task.strength,
            "replace": str(self.conf.replace).lower(),
            "steps": trained.steps,
            "strength": task.strength,
        }
        return Release(dp_accounting.NonPrivateDpEvent(), "site", "replace_one", UNPROVED, details)
