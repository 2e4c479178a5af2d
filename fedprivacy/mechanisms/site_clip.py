"""The clip norm of a site's filter that follows a quantile of the sites' update norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import dp_accounting
import numpy as np
from numpy.typing import NDArray

from fedprivacy.config.schema import GaussianClippedConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.adaptive_clip import moved_clip

CLIPPINGS = ("fixed", "adaptive")
_WHO = "adaptive clip norm"


class NormalSource(Protocol):
    """Where the noise comes from; ``numpy.random.Generator`` is one."""

    def normal(self, loc: float, scale: float, size: int) -> NDArray[np.float64]:
        """``size`` draws of N(loc, scale^2)."""
        ...


def site_rule(conf: GaussianClippedConf) -> SiteClipRule | None:
    """The rule of an adaptive clip norm; None where it is fixed.

    Raises:
        ConfigError: a value is out of range, or the indicator alone would use up the budget.
    """
    check_clip_rule(conf.clipping, conf.clip_quantile, conf.clip_rate)
    if conf.clipping == "fixed":
        return None
    noise = conf.indicator_noise
    if noise is None:
        # Without noise on the update the rule is refused below, whatever stands here.
        noise = 1.5 * conf.noise_multiplier or 1.0
    rule = SiteClipRule(conf.clip_quantile, conf.clip_rate, noise)
    check_adaptive(rule, conf.noise_multiplier, conf.noise)
    return rule


def check_adaptive(rule: SiteClipRule, noise_multiplier: float, noise: str) -> None:
    """Refuse an adaptive clip norm beside noise that it has no price with.

    Raises:
        ConfigError: the noise is not Gaussian, or the indicator alone would use up the budget.
    """
    if noise != "gaussian":
        raise ConfigError(
            "algorithm.clipping",
            "adaptive",
            f"fixed with noise={noise}: the indicator's Gaussian noise has no pure epsilon",
            "algorithm.clipping=fixed or algorithm.noise=gaussian",
        )
    rule.update_noise(noise_multiplier)


def check_clip_rule(clipping: str, quantile: float, rate: float) -> None:
    """Refuse an unknown clipping, and a quantile or a rate out of range.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    if clipping not in CLIPPINGS:
        allowed = f"one of {', '.join(CLIPPINGS)}"
        raise ConfigError("algorithm.clipping", clipping, allowed, "algorithm.clipping=fixed")
    if not 0 < quantile < 1:
        fix = "algorithm.clip_quantile=0.5"
        raise ConfigError("algorithm.clip_quantile", quantile, "above 0 and below 1", fix)
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError("algorithm.clip_rate", rate, "finite and > 0", "algorithm.clip_rate=0.2")


@dataclass(frozen=True)
class SiteClipRule:
    """How a clip norm may follow a quantile of the sites' update norms without being told them.

    Andrew, Thakkar, McMahan & Ramaswamy 2021 (arXiv 1905.03871, algorithm 1) at site level, for a
    server that is not trusted: each site adds its own noise to its own indicator. A pure rule: the
    clip norm of a round is a function of the indicators that sites sent in earlier rounds, which
    somebody who remembers them (the server) has to apply and send along.

    With n sites the mean indicator has noise ``indicator_noise / sqrt(n)`` beside a signal of at
    most 1/2, so after T rounds log C has wandered by rate * indicator_noise * sqrt(T/n): with 3
    sites and noise 3, by 1.1 in 10 rounds, more than the rule can steer. It takes tens of sites.

    Attributes:
        quantile: share of the sites that the clip norm should not cut.
        rate: step of its logarithm in one round.
        indicator_noise: s, standard deviation of the noise on one indicator.
    """

    quantile: float = 0.5
    rate: float = 0.2
    indicator_noise: float = 3.0

    def __post_init__(self) -> None:
        check_clip_rule("adaptive", self.quantile, self.rate)
        if not (math.isfinite(self.indicator_noise) and self.indicator_noise > 0):
            allowed, fix = "null or finite and > 0", "algorithm.indicator_noise=null"
            raise ConfigError("algorithm.indicator_noise", self.indicator_noise, allowed, fix)

    def update_noise(self, noise_multiplier: float) -> float:
        """Noise multiplier of the update, so that update and indicator together cost z.

        The indicator is at most 1/2 from 0, so its noise multiplier is 2 s:
        1/z^2 = 1/z_update^2 + 1/(2 s)^2 (Andrew et al. 2021, theorem 1).

        Raises:
            ConfigError: 2 s <= z: the indicator alone would cost that much.
        """
        if not 2 * self.indicator_noise > noise_multiplier > 0:
            allowed = f"above half the noise multiplier, {noise_multiplier / 2:g}, itself above 0"
            fix = f"algorithm.indicator_noise={2 * noise_multiplier:g}: 94 % is left to the update"
            raise ConfigError("algorithm.indicator_noise", self.indicator_noise, allowed, fix)
        return float((noise_multiplier**-2 - (2 * self.indicator_noise) ** -2) ** -0.5)

    def indicator(self, norm: float, clip: float, rng: NormalSource) -> float:
        """What a site sends: whether its norm was within the clip norm, centred, with noise.

        Raises:
            ProtectionError: a norm is not finite.
        """
        if not (math.isfinite(norm) and math.isfinite(clip)):
            raise ProtectionError(
                f"{_WHO}: update norm {norm} beside clip norm {clip}; nothing was sent"
            )
        noise = float(rng.normal(0.0, self.indicator_noise, 1)[0])
        return (0.5 if norm <= clip else -0.5) + noise

    def next_clip(self, clip: float, indicators: Sequence[float]) -> float:
        """The clip norm of the next round from the indicators of this one, one a site.

        Raises:
            ProtectionError: no indicator came, or one is NaN or infinite.
        """
        if not indicators or not all(map(math.isfinite, indicators)):
            raise ProtectionError(
                f"{_WHO}: the indicators {list(indicators)} cannot move the clip norm: allowed "
                "are finite numbers, at least one"
            )
        within = math.fsum(indicators) / len(indicators) + 0.5
        return moved_clip(clip, self.rate, within - self.quantile)

    def dp_event(self, noise_multiplier: float) -> dp_accounting.DpEvent:
        """Update and indicator of one site in one round; composes to one Gaussian of z."""
        return dp_accounting.ComposedDpEvent(
            (
                dp_accounting.GaussianDpEvent(self.update_noise(noise_multiplier)),
                dp_accounting.GaussianDpEvent(2 * self.indicator_noise),
            )
        )
