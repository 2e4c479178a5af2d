"""Adaptive clipping: the clip norm follows a quantile of the gradient norms, privately.

Andrew, Thakkar, McMahan & Ramaswamy 2021 (arXiv 1905.03871, algorithm 1), at record level. Each
step also releases how many records were within the clip norm, as the centred count
``sum_i (b_i - 1/2)``: one record moves it by 1/2, where a plain count would be moved by 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch

from fedprivacy.errors import ConfigError, ProtectionError

COUNT_SENSITIVITY = 0.5
_SMALLEST, _LARGEST, _LONGEST = 1e-8, 1e8, 50.0

Number = TypeVar("Number", float, torch.Tensor)


def default_count_noise(noise_multiplier: float, divisor: float) -> float:
    """``divisor / 20``, as Andrew et al. choose it, or 1.5 noise multipliers where that is more.

    The latter keeps what the count takes from the gradient's share of the budget small: the
    gradient's noise grows by 6 % at most.
    """
    return max(divisor / 20, 1.5 * noise_multiplier)


def gradient_noise(noise_multiplier: float, count_noise: float) -> float:
    """Noise z_D of the gradients so that they and the count are together one Gaussian of z.

    One record moves the gradient sum by C, at noise ``z_D C``, and the centred count by 1/2, at
    noise ``s_b``: a Gaussian with ``1/z^2 = 1/z_D^2 + 1/(2 s_b)^2`` (Andrew et al., theorem 1).

    Args:
        noise_multiplier: z, what is accounted for; 0 gives 0.
        count_noise: s_b, standard deviation of the noise of the count.

    Raises:
        ConfigError: ``2 s_b <= z``: the count alone would use up the budget.
    """
    if noise_multiplier == 0:
        return 0.0
    if not 2 * count_noise > noise_multiplier:
        raise ConfigError(
            "algorithm.count_noise",
            count_noise,
            f"above half the noise multiplier, {noise_multiplier / 2:g}",
            "algorithm.count_noise=null, which chooses one that leaves 94 % to the gradients",
        )
    left = 1 / noise_multiplier**2 - (COUNT_SENSITIVITY / count_noise) ** 2
    return 1 / math.sqrt(left)


@dataclass(frozen=True)
class ClipRule:
    """How the clip norm follows the noisy counts of one round.

    Attributes:
        quantile: share of the records that the clip norm should not cut.
        rate: step of its logarithm, per step of training.
        count_noise: s_b.
        divisor: declared public constant that divides the noisy count; the size of the batch
            would tell how many records there are.
    """

    quantile: float
    rate: float
    count_noise: float
    divisor: float

    def next_clip(self, clip: float, within: float, batch: int, normal: float) -> float:
        """The clip norm of the next step.

        Args:
            clip: that of this step.
            within: records that were not clipped.
            batch: records of the batch; may be 0. Only the centred count is used of it.
            normal: a draw of N(0, 1).
        """
        return moved_clip(clip, self.rate, self._excess(within, batch, normal))

    def next_clip_there(
        self, clip: torch.Tensor, within: torch.Tensor, batch: int, normal: torch.Tensor
    ) -> torch.Tensor:
        """``next_clip`` of numbers on a device, which the host does not wait for.

        What ``next_clip`` refuses gives NaN: the steps that follow leave no weights to send.

        Args:
            clip: 0-d float64, and so the result.
            within: 0-d, any dtype.
            batch: as above.
            normal: 0-d, any dtype.
        """
        excess = self._excess(within.double(), batch, normal.double())
        step = (-self.rate * excess).clamp(-_LONGEST, _LONGEST)
        moved = (clip * step.exp()).clamp(_SMALLEST, _LARGEST)
        sound = clip.isfinite() & (clip > 0) & excess.isfinite() & math.isfinite(self.rate)
        return moved.masked_fill(~sound, math.nan)

    def _excess(self, within: Number, batch: int, normal: Number) -> Number:
        centred = within - COUNT_SENSITIVITY * batch
        return (centred + self.count_noise * normal) / self.divisor + 0.5 - self.quantile


def moved_clip(clip: float, rate: float, excess: float) -> float:
    """``clip exp(-rate excess)``, within limits that no sound training reaches.

    Args:
        clip: of this round or step.
        rate: step of its logarithm.
        excess: noisy share within the clip norm, less the share that is wanted; any finite number.

    Raises:
        ProtectionError: the clip norm is not finite and > 0, or another number is not finite.
    """
    if not (math.isfinite(clip) and clip > 0 and math.isfinite(rate) and math.isfinite(excess)):
        raise ProtectionError(
            f"the clip norm {clip} cannot be moved by rate {rate} times {excess}: allowed are "
            "finite numbers, the clip norm above 0"
        )
    step = max(-_LONGEST, min(_LONGEST, -rate * excess))
    return min(max(clip * math.exp(step), _SMALLEST), _LARGEST)
