"""Noise on the final model alone, before it is shared or sold.

Output perturbation with a clip: what training did is not bounded, what is published is. With w_0 a
public reference (the initial weights), C = ``clip`` and z = ``noise_multiplier``, all public:

1. Published is w_0 + clip(w - w_0) + N(0, (zC)^2) on each coordinate, |clip(.)| <= C in L2,
   whatever the records are. Any two datasets move it by at most 2C: one Gaussian event of z under
   replace_one (sensitivity 2C is the accountant's), for one site and so for what lies inside it.
2. Nothing else may be published: who sees any update or average of a round has seen raw ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import dp_accounting
import numpy as np
import torch

from fedprivacy.config.schema import ReleaseGaussianConf
from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.base import Placement, Protected, Release
from fedprivacy.mechanisms.gaussian_clipped import (
    NO_NOISE,
    add_noise,
    check_clipped,
    clip_norm,
    noise_event,
)
from fedprivacy.mechanisms.guards import check_strength, check_update
from fedprivacy.mechanisms.none import unprotected_release
from fedprivacy.training.plain import train_plain
from fedprivacy.training.randomness import Streams
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "release"
ROUNDS_ARE_RAW = (
    "raw updates leave the sites in every round: only the final model carries noise, so the bound "
    "is for an adversary who sees nothing but it"
)
FINAL_IS_RAW = "the schedule leaves the last round unprotected: the final model is published raw"


@dataclass(frozen=True)
class ReleaseGaussian:
    """The final model clipped to a ball around its public start, with noise.

    The schedule decides whether the last round, whose model is published, is protected; its
    strength scales ``noise_multiplier``.

    Attributes:
        clip: C, a public constant: largest L2 distance of the final weights from the initial ones.
        noise_multiplier: z, standard deviation of the noise over C.
    """

    clip: float
    noise_multiplier: float

    name = "release_gaussian"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_clipped(self.clip, self.noise_multiplier, "gaussian")

    @staticmethod
    def from_conf(conf: ReleaseGaussianConf) -> ReleaseGaussian:
        """The mechanism of a configuration.

        Raises:
            ConfigError: a value is out of range.
        """
        return ReleaseGaussian(conf.clip, conf.noise_multiplier)

    def train(self, task: LocalTask) -> Trained:
        """Plain local training; the protection acts on the final model."""
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """The update as it is: only the final model is published.

        Raises:
            ProtectionError: the update is not a finite flat vector.
        """
        check_update(update)
        return Protected(update)

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """Raw for who sees rounds; for who sees the final model one Gaussian, in the last round."""
        raw = unprotected_release("record", "replace_one", ROUNDS_ARE_RAW)
        return replace(raw, also=(self._final(task),))

    def _final(self, task: LocalTask) -> Release:
        """The same for who sees the final model alone: nothing before the last round."""
        event, reason = dp_accounting.NonPrivateDpEvent(), FINAL_IS_RAW
        details: dict[str, float | int | str] = {}
        if not task.last_round:
            event, reason = dp_accounting.NoOpDpEvent(), ""
        elif task.strength is not None:
            z = self.noise_multiplier * task.strength
            reason = "" if z > 0 else NO_NOISE
            event = noise_event(z, "gaussian")
            details = {
                "z": z,
                "C": self.clip,
                "reference": "initial weights, public",
                "sensitivity": "2C",
                "strength": task.strength,
            }
        return Release(event, "site", "replace_one", reason, details, "final_model")

    def publish(
        self, weights: torch.Tensor, reference: torch.Tensor, strength: float, streams: Streams
    ) -> torch.Tensor:
        """The model that is published, ``(d,)`` float32.

        Args:
            weights: ``(d,)`` float32 after the last round.
            reference: ``(d,)`` float32, public.
            strength: of the last round.
            streams: the server's own.

        Raises:
            ProtectionError: the weights are not finite, before or after, the reference has another
                shape, or the strength is not from 0 up.
        """
        check_strength(strength, "release_gaussian")
        if weights.shape != reference.shape:
            raise ProtectionError(
                f"release_gaussian: weights of shape {tuple(weights.shape)} beside a reference of "
                f"shape {tuple(reference.shape)}; nothing was published"
            )
        moved = weights - reference
        check_update(moved)
        scale = self.noise_multiplier * strength * self.clip
        clipped = clip_norm(moved.numpy().astype(np.float64), self.clip, "gaussian")
        noisy = add_noise(clipped, scale, "gaussian", streams.numpy("release"))
        published = reference + torch.from_numpy(noisy.astype(np.float32))
        check_update(published)
        return published
