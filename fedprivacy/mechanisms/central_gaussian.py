"""DP-FedAvg at a trusted server: clipped updates, equal weights, noise on their average.

McMahan, Ramage, Talwar & Zhang 2018 (arXiv 1710.06963), with every site in every round. One site,
C = ``clip``, z = ``noise_multiplier`` and n = number of sites, all public:

1. The server scales each update to norm at most C and averages with weights 1/n, so one site moves
   the average by at most C/n when its update is replaced by zero, 2C/n when by another update.
2. Noise N(0, (zC/n)^2) on each coordinate: the Gaussian mechanism of noise multiplier z.
3. Adaptive clipping (Andrew, Thakkar, McMahan & Ramaswamy 2021, arXiv 1905.03871, algorithm 1)
   also releases the centred count of updates within C, which one site moves by 1/2; update and
   count are together one Gaussian of z (theorem 1).
4. The server itself sees every update without noise: nothing is proved against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import dp_accounting
import torch

from fedprivacy.accounting.central import central_events, mean_noise
from fedprivacy.config.schema import CentralGaussianConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.adaptive_clip import ClipRule, default_count_noise, gradient_noise
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.gaussian_clipped import NO_NOISE, check_clipped
from fedprivacy.mechanisms.guards import check_noisy, check_strength, check_update
from fedprivacy.mechanisms.none import OFF_SCHEDULE
from fedprivacy.mechanisms.site_clip import check_clip_rule
from fedprivacy.training.plain import train_plain
from fedprivacy.training.randomness import Streams
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "aggregate"
_WHO = "central_gaussian"


def check_central(conf: CentralGaussianConf | CentralGaussian) -> None:
    """Refuse parameters for which the mechanism is not defined.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    check_clipped(conf.clip, conf.noise_multiplier, "gaussian")
    if conf.n_sites is not None and conf.n_sites < 1:
        allowed = "null (the sites of the federation) or at least 1"
        raise ConfigError("algorithm.n_sites", conf.n_sites, allowed, "algorithm.n_sites=null")
    check_clip_rule(conf.clipping, conf.clip_quantile, conf.clip_rate)
    noise = conf.count_noise
    if noise is not None and not (math.isfinite(noise) and noise > 0):
        fix = "algorithm.count_noise=null"
        raise ConfigError("algorithm.count_noise", noise, "null or finite and > 0", fix)
    if conf.clipping == "adaptive" and noise is not None:
        gradient_noise(conf.noise_multiplier, noise)


@dataclass(frozen=True)
class Average:
    """What the server publishes of one round.

    Attributes:
        mean: ``(d,)`` float64, to be added to the weights.
        noise_norm: expected L2 norm of the noise that the server added.
        clip: the public clip norm of the next round.
    """

    mean: torch.Tensor
    noise_norm: float
    clip: float | None


@dataclass(frozen=True)
class CentralGaussian:
    """Noise on the average by a trusted server; the strength scales ``noise_multiplier``.

    Attributes:
        clip: C, a public constant; where it starts, if clipping is adaptive.
        noise_multiplier: z, standard deviation of the noise on the sum of the updates over C.
        n_sites: n, declared public number of sites; None: those that take part.
        clipping: ``fixed``, or ``adaptive``: C follows a quantile of the update norms.
        clip_quantile: adaptive only: share of the updates that C should not cut.
        clip_rate: adaptive only: step of its logarithm in one round.
        count_noise: adaptive only: standard deviation of the noise of the count; None: n/20, or
            1.5 noise multipliers where that is more.
    """

    clip: float
    noise_multiplier: float
    n_sites: int | None = None
    clipping: str = "fixed"
    clip_quantile: float = 0.5
    clip_rate: float = 0.2
    count_noise: float | None = None

    name = "central_gaussian"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_central(self)

    @staticmethod
    def from_conf(conf: CentralGaussianConf) -> CentralGaussian:
        """The mechanism of a configuration.

        Raises:
            ConfigError: a value is out of range.
        """
        return CentralGaussian(
            conf.clip,
            conf.noise_multiplier,
            conf.n_sites,
            conf.clipping,
            conf.clip_quantile,
            conf.clip_rate,
            conf.count_noise,
        )

    def train(self, task: LocalTask) -> Trained:
        """Plain local training; the protection acts at the server."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """The update as it is: the trusted server clips it.

        Raises:
            ProtectionError: the update is not a finite flat vector.
        """
        check_update(update)
        return Protected(update)

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """For one site under both relations: finite for who sees averages, not for the server."""
        strength = task.strength
        z = self.noise_multiplier * (strength or 0.0)
        reason = OFF_SCHEDULE if strength is None else NO_NOISE if z == 0 else ""
        details = {} if strength is None else self._details(z, task)
        number = task.streams.round_number
        stated = [
            Release(
                event.dp_event if z > 0 else dp_accounting.NonPrivateDpEvent(),
                event.unit,
                event.neighbouring,
                reason or event.reason,
                details,
                event.view,
            )
            for event in central_events(number, ["any"], z, strength=strength)
        ]
        return replace(stated[0], also=tuple(stated[1:]))

    def _details(self, z: float, task: LocalTask) -> dict[str, float | int | str]:
        said: dict[str, float | int | str] = {
            "z": z,
            "C": task.clip or self.clip,
            "clipping": self.clipping,
            "weights": "equal",
            "sensitivity": "C/n of the mean under zero_out, 2C/n under replace_one",
            "strength": task.strength or 0.0,
        }
        if self.n_sites is not None:
            said["n"] = self.n_sites
        return said

    def check_sites(self, n: int) -> None:
        """Refuse a federation of another size than declared, best before anything is sent.

        Raises:
            ConfigError: names both numbers.
        """
        if self.n_sites not in (None, n):
            raise ConfigError(
                "algorithm.n_sites",
                self.n_sites,
                f"the number of sites of the federation, {n}: noise and weights are divided by it",
                f"algorithm.n_sites={n}, or null",
            )

    def average(
        self,
        updates: Sequence[torch.Tensor],
        strength: float,
        clip: float,
        streams: Streams,
    ) -> Average:
        """Clip, average with equal weights, add noise.

        Args:
            updates: one ``(d,)`` float32 vector from each of the sites.
            strength: of this round.
            clip: C of this round.
            streams: the server's own.

        Raises:
            ConfigError: the number of updates is not the declared one, or the clip norm is not
                finite and > 0.
            ProtectionError: an update is not a finite flat vector, none came, or their sizes
                differ; the strength is not from 0 up; nothing is published.
        """
        n = len(updates)
        self.check_sites(n)
        _check_averaged(updates)
        check_strength(strength, _WHO)
        check_clipped(clip, self.noise_multiplier * strength, "gaussian")
        z, rule = self.noise_multiplier * strength, self._clip_rule(strength, n)
        norms = [float(update.double().norm()) for update in updates]
        total = torch.zeros_like(updates[0], dtype=torch.float64)
        for update, norm in zip(updates, norms, strict=True):
            total += update.double() * min(1.0, clip / norm if norm > 0 else 1.0)
        own = gradient_noise(z, rule.count_noise) if rule is not None else z
        scale = mean_noise(own, clip, n)
        noise = streams.numpy("noise").normal(0.0, scale, total.numel())
        mean = torch.from_numpy(check_noisy((total / n).numpy() + noise, _WHO))
        following: float | None = None
        if rule is not None:
            within = sum(norm <= clip for norm in norms)
            normal = float(streams.numpy("selection").normal())
            following = rule.next_clip(clip, within, n, normal)
        return Average(mean, scale * math.sqrt(total.numel()), following or clip)

    def _clip_rule(self, strength: float, n: int) -> ClipRule | None:
        """How C moves; None where it stays. Without noise there is nothing to split: it stays."""
        z = self.noise_multiplier * strength
        if self.clipping != "adaptive" or z == 0:
            return None
        noise = self.count_noise
        if noise is None:
            noise = default_count_noise(z, n)
        return ClipRule(self.clip_quantile, self.clip_rate, noise, n)


def _check_averaged(updates: Sequence[torch.Tensor]) -> None:
    """Refuse updates that have no average; one of another size would be stretched to fit."""
    for update in updates:
        check_update(update)
    sizes = [update.numel() for update in updates]
    if len(set(sizes)) != 1:
        raise ProtectionError(
            f"{_WHO}: {len(sizes)} updates of sizes {sorted(set(sizes))} have no average: allowed "
            "is at least one, all of one size; nothing was published"
        )
