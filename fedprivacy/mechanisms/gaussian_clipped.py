"""The update clipped to a public norm, then Gaussian or Laplace noise: a filter with a price.

One site, replace_one, C = ``clip`` and z = noise multiplier of the round, both public:

1. A site sends f(w) = w min(1, C/|w|) + noise, so |f(w)| <= C before the noise, whatever the
   site's records are, and two sites' clipped updates differ by at most 2C.
2. ``gaussian``: |.| is the L2 norm, noise N(0, (zC)^2) on each coordinate. By rotation only the
   line through the two updates matters: mu-GDP with mu = 2C/(zC) = 2/z, and mu = 2 sqrt(P)/z for
   P rounds (Dong, Roth & Su 2022, sections 2.3 and 3.2).
3. ``laplace``: |.| is the L1 norm, noise of scale zC on each coordinate: pure epsilon
   2C/(zC) = 2/z (Dwork et al. 2006). Moving one coordinate by 2C is the worst case at every
   delta, not only at 0: with f_a the trade-off curve of a move by a, moving one coordinate by a
   and then another by b gives at least f_b(1 - f_a) (group privacy, Dong, Roth & Su 2022, section
   2.5), which is f_(a+b), as Laplace noise is log-concave.
4. In the ledger: noise multiplier z, relative to C. That a replacement moves the sum by 2C is left
   to the accountant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import dp_accounting
import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import GaussianClippedConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.guards import (
    check_noisy,
    check_strength,
    check_update,
    check_values,
)
from fedprivacy.mechanisms.none import off_schedule_release
from fedprivacy.mechanisms.site_clip import SiteClipRule, check_adaptive, site_rule
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "update"
_WHO = "clipped filter"
NOISES = ("gaussian", "laplace")
NO_NOISE = "noise_multiplier=0 adds no noise: clipping alone proves nothing"
_ORDERS = {"gaussian": 2, "laplace": 1}


class NoiseSource(Protocol):
    """Where the noise comes from; ``numpy.random.Generator`` is one."""

    def normal(self, loc: float, scale: float, size: int) -> NDArray[np.float64]:
        """``size`` draws of N(loc, scale^2)."""
        ...

    def laplace(self, loc: float, scale: float, size: int) -> NDArray[np.float64]:
        """``size`` draws of Lap(scale) around ``loc``."""
        ...


def check_clipped(clip: float, noise_multiplier: float, noise: str) -> None:
    """Refuse parameters for which the filter is not defined.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    if not (math.isfinite(clip) and clip > 0):
        raise ConfigError("algorithm.clip", clip, "finite and > 0", "algorithm.clip=1.0")
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
        fix = "algorithm.noise_multiplier=1.0"
        raise ConfigError("algorithm.noise_multiplier", noise_multiplier, "finite and >= 0", fix)
    _check_noise(noise)


def _check_noise(noise: str) -> None:
    if noise not in NOISES:
        allowed = f"one of {', '.join(NOISES)}"
        raise ConfigError("algorithm.noise", noise, allowed, "algorithm.noise=gaussian")


def clip_norm(values: NDArray[np.float64], clip: float, noise: str) -> NDArray[np.float64]:
    """``(d,)`` values scaled down to norm ``clip`` if theirs is larger.

    Args:
        values: finite.
        clip: C.
        noise: ``gaussian`` clips the L2 norm, ``laplace`` the L1 norm.

    Raises:
        ProtectionError: the values are not finite and flat.
        ConfigError: see ``check_clipped``.
    """
    check_clipped(clip, 0.0, noise)
    check_values(values, _WHO)
    norm = float(np.linalg.norm(values, _ORDERS[noise]))
    return values * (clip / norm) if norm > clip else values


def add_noise(
    values: NDArray[np.float64], scale: float, noise: str, rng: NoiseSource
) -> NDArray[np.float64]:
    """``(d,)`` values with noise on each; ``scale`` is sigma (gaussian) or b (laplace).

    Raises:
        ProtectionError: the values are not finite and flat, before or after, or the scale is not
            finite and >= 0.
        ConfigError: the noise is neither.
    """
    _check_noise(noise)
    check_values(values, _WHO)
    if not (math.isfinite(scale) and scale >= 0):
        raise ProtectionError(
            f"{_WHO}: noise of scale {scale}, allowed is a finite number from 0 up; nothing was "
            "sent. Lower algorithm.clip or algorithm.noise_multiplier."
        )
    draw = rng.normal if noise == "gaussian" else rng.laplace
    return check_noisy(values + draw(0.0, scale, values.size), _WHO)


def expected_norm(size: int, scale: float, noise: str) -> float:
    """Root of the mean squared L2 norm of ``size`` noise values: b has variance 2 b^2."""
    return scale * math.sqrt(size if noise == "gaussian" else 2 * size)


def noise_event(multiplier: float, noise: str) -> dp_accounting.DpEvent:
    """Noise of ``multiplier`` clip norms; to be entered with ``replace_one``.

    Raises:
        ConfigError: the multiplier is not finite and >= 0, or the noise is unknown.
    """
    check_clipped(1.0, multiplier, noise)
    if multiplier == 0:
        return dp_accounting.NonPrivateDpEvent()
    if noise == "gaussian":
        return dp_accounting.GaussianDpEvent(multiplier)
    return dp_accounting.LaplaceDpEvent(multiplier)


@dataclass(frozen=True)
class ClippedGaussian:
    """Clipped update with noise; the strength scales ``noise_multiplier``.

    Attributes:
        clip: C, a public constant: the norm that the update is clipped to; where it starts, if
            it is adaptive.
        noise_multiplier: z, scale of the noise over C.
        noise: ``gaussian`` (L2 norm) or ``laplace`` (L1 norm, pure DP).
        rule: how the server moves C from the sites' noisy indicators; None: it is fixed.
    """

    clip: float
    noise_multiplier: float
    noise: str = "gaussian"
    rule: SiteClipRule | None = None

    name = "gaussian_clipped"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_clipped(self.clip, self.noise_multiplier, self.noise)
        if self.rule is not None:
            check_adaptive(self.rule, self.noise_multiplier, self.noise)

    @staticmethod
    def from_conf(conf: GaussianClippedConf) -> ClippedGaussian:
        """The mechanism of a configuration.

        Raises:
            ConfigError: a value is out of range.
        """
        return ClippedGaussian(conf.clip, conf.noise_multiplier, conf.noise, site_rule(conf))

    def train(self, task: LocalTask) -> Trained:
        """Plain local training; the protection acts on the update."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """Clip and add noise; the update as it is where the schedule is off.

        Raises:
            ProtectionError: the update is not a finite flat vector.
        """
        check_update(update)
        if task.strength is None:
            return Protected(update)
        check_strength(task.strength, _WHO)
        clip, raw = self._clip(task), update.cpu().numpy().astype(np.float64)
        scale = self._own_noise(task.strength) * clip
        clipped = clip_norm(raw, clip, self.noise)
        noisy = add_noise(clipped, scale, self.noise, task.streams.numpy("noise"))
        result = torch.from_numpy(noisy.astype(np.float32))
        check_update(result)
        signal = None
        if self.rule is not None:
            norm = float(np.linalg.norm(raw))
            signal = self.rule.indicator(norm, clip, task.streams.numpy("selection"))
        return Protected(result, expected_norm(update.numel(), scale, self.noise), signal)

    def _clip(self, task: LocalTask) -> float:
        """C of the round; a clip norm that the task carries for another mechanism is not ours.

        Raises:
            ProtectionError: the clip norm that was sent along is not finite and > 0.
        """
        if self.rule is None or task.clip is None:
            return self.clip
        if not (math.isfinite(task.clip) and task.clip > 0):
            raise ProtectionError(
                f"{_WHO}: the clip norm of the round is {task.clip}, allowed is a finite number "
                "above 0; nothing was sent"
            )
        return task.clip

    def _own_noise(self, strength: float) -> float:
        """Noise of the update over C, which leaves the indicator its share."""
        z = self.noise_multiplier * strength
        return z if self.rule is None else self.rule.update_noise(z)

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """One application of the noise, for one site under replace_one."""
        if task.strength is None:
            return off_schedule_release("site", "replace_one")
        z = self.noise_multiplier * task.strength
        details: dict[str, float | int | str] = {
            "z": z,
            "C": self._clip(task),
            "noise": self.noise,
            "norm": f"L{_ORDERS[self.noise]}",
            "scale": self._own_noise(task.strength) * self._clip(task),
            "strength": task.strength,
        }
        event = noise_event(z, self.noise)
        if self.rule is not None:
            details |= {"clipping": "adaptive", "indicator_noise": self.rule.indicator_noise}
            event = self.rule.dp_event(z)
        reason = "" if z > 0 else NO_NOISE
        return Release(event, "site", "replace_one", reason, details)
