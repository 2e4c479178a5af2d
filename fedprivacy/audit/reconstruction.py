"""Reconstruction of records from what leaves a site, after whatever protects it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.audit.inversion import OptimisationAttack, first_linear, invert_linear
from fedprivacy.audit.similarity import (
    cosine_similarity,
    leakage_value,
    relative_error,
    structural_similarity,
)
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.server import source_of
from fedprivacy.mechanisms.stacked import Stacked
from fedprivacy.training.task import LocalTask

ANALYTIC, OPTIMISED = "first linear layer, least squares", "gradient matching, Adam"
RECOGNISED_ERROR, RECOGNISED_SSIM, RECOGNISED_LEAKAGE = 0.1, 0.5, 0.1
KNOWS = (
    "One update of one record, one step, as it left the site after the protection; the weights it "
    "started from, which are those that training begins with, the model, the learning rate, the "
    "label and the range of the values. A public prior (the mean of held-out records) is what the "
    "attacker has without it."
)
ABOUT = (
    "A reconstruction proves that records leak; a failed one proves nothing, as another attack may "
    "succeed."
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Victims:
    """Records to reconstruct.

    Attributes:
        x: ``(k, ...)`` float32.
        y: ``(k, ...)`` targets.
        prior: ``(...)`` public guess of any record.
        low: smallest value of a record.
        high: largest.
    """

    x: torch.Tensor
    y: torch.Tensor
    prior: torch.Tensor
    low: float
    high: float


@dataclass(frozen=True)
class Reconstruction:
    """What an attack made of its victims.

    Attributes:
        attack: in words.
        measure: ``structural similarity`` of images and volumes, ``cosine`` of rows.
        originals: ``(k, ...)``.
        found: ``(k, ...)``.
        similarities: of each original to what was found.
        errors: relative L2 error of each.
        leakage: relative data leakage value of each; None where it has no meaning.
    """

    attack: str
    measure: str
    originals: Floats
    found: Floats
    similarities: tuple[float, ...]
    errors: tuple[float, ...]
    leakage: tuple[float | None, ...]

    @property
    def recognised(self) -> int:
        """Victims that are recognised: a row within 10 %, an image of SSIM above 0.5.

        An image must also be a tenth more alike than the public prior, from which the attacker
        starts and which can be much like any brain.
        """
        if self.measure == "cosine":
            return sum(error < RECOGNISED_ERROR for error in self.errors)
        both = zip(self.similarities, self.leakage, strict=True)
        return sum(
            similarity > RECOGNISED_SSIM and (leaked is None or leaked > RECOGNISED_LEAKAGE)
            for similarity, leaked in both
        )

    def to_json(self) -> dict[str, Any]:
        """Strict JSON, without the records."""
        known = [value for value in self.leakage if value is not None]
        return {
            "attack": self.attack,
            "measure": self.measure,
            "victims": len(self.similarities),
            "recognised": self.recognised,
            "recognised_means": f"relative error below {RECOGNISED_ERROR:g}"
            if self.measure == "cosine"
            else f"structural similarity above {RECOGNISED_SSIM:g} and RDLV above "
            f"{RECOGNISED_LEAKAGE:g}",
            "best_similarity": max(self.similarities),
            "mean_similarity": float(np.mean(self.similarities)),
            "least_error": min(min(self.errors), 1e9),
            "max_rdlv": max(known, default=None),
            "attacker": KNOWS,
            "about": ABOUT,
        }


def reconstruct(
    mechanism: Mechanism,
    task_of: Callable[[torch.Tensor, torch.Tensor, int], LocalTask],
    victims: Victims,
    steps: int,
) -> Reconstruction:
    """Attack each victim by itself.

    Args:
        mechanism: of the cell; with DP-SGD the record is in the one step for certain and the sum
            is not divided, the attacker's best case at the cell's clip and noise.
        task_of: a round at a site that holds one record (``(1, ...)``, its target, a number that
            tells victims apart), its model at the weights that training begins with.
        victims: whom to attack.
        steps: of an attack by optimisation.

    Raises:
        ProtectionError: the mechanism refused; nothing left the site.
    """
    certain = in_one_step(mechanism)
    found, attack = [], ANALYTIC
    for number, (x, y) in enumerate(zip(victims.x, victims.y, strict=True)):
        made, attack = _attacked(certain, task_of(x[None], y[None], number), victims, steps, number)
        found.append(made)
    originals = victims.x.double().numpy()
    made_all = torch.stack(found).double().numpy()
    image = victims.x.ndim > 2
    width = victims.high - victims.low

    def alike(one: Floats, other: Floats) -> float:
        if not image:
            return cosine_similarity(one, other)
        parts = [structural_similarity(a, b, width) for a, b in zip(one, other, strict=True)]
        return float(np.mean(parts))

    similarities = [alike(a, b) for a, b in zip(originals, made_all, strict=True)]
    priors = [alike(a, victims.prior.double().numpy()) for a in originals]
    return Reconstruction(
        attack=attack,
        measure="structural similarity" if image else "cosine",
        originals=originals,
        found=made_all,
        similarities=tuple(similarities),
        errors=tuple(relative_error(a, b) for a, b in zip(originals, made_all, strict=True)),
        # Defined for images; the cosine of a row to the mean row is near 0, and no measure to
        # divide by.
        leakage=tuple(
            leakage_value(s, p) if image else None
            for s, p in zip(similarities, priors, strict=True)
        ),
    )


def in_one_step(mechanism: Mechanism) -> Mechanism:
    """The mechanism such that one local epoch over one record is one step with it."""
    if isinstance(mechanism, Stacked):
        return Stacked(tuple(in_one_step(part) for part in mechanism.parts))
    if isinstance(mechanism, DpSgd):
        return replace(mechanism, sampling_rate=1.0, divisor=1.0, ema=0.0)
    return mechanism


def _attacked(
    mechanism: Mechanism, task: LocalTask, victims: Victims, steps: int, number: int
) -> tuple[torch.Tensor, str]:
    before = task.parameters.snapshot()
    source = source_of(mechanism)
    if source is not None and task.strength is not None:
        rng = task.streams.kept("noise", number)
        x, y = source.records(task.x.cpu(), task.y.cpu(), task.n_classes, rng)
        task = replace(task, x=x.to(task.x.device), y=y.to(task.y.device))
    trained = mechanism.train(task)
    update = task.parameters.snapshot() - before
    left = mechanism.protect(update, task, trained).update
    seen = -left / task.optimizer.lr
    task.parameters.load(before)
    task.parameters.model.eval()
    shape = tuple(victims.x.shape[1:])
    linear = first_linear(task.parameters)
    # Adam's first step is the sign of the gradient, from which no layer can be read off exactly.
    if linear is not None and task.optimizer.name == "sgd":
        made = invert_linear(seen, *linear).view(shape)
        return made.clamp(victims.low, victims.high), ANALYTIC
    attack = OptimisationAttack(steps, victims.low, victims.high, seed=number)
    device = task.parameters.flat.device
    seen_as = _as_it_is if task.optimizer.name == "sgd" else _as_sign
    made = attack.run(
        task.parameters, task.loss, seen.to(device), task.y, victims.prior.float(), seen_as
    )
    return made, OPTIMISED


def _as_it_is(gradient: torch.Tensor) -> torch.Tensor:
    return gradient


def _as_sign(gradient: torch.Tensor) -> torch.Tensor:
    """A smooth sign: small values, which tell nothing of their size, count less."""
    size = gradient.detach().abs().mean() + 1e-30
    return gradient / (gradient.abs() + 0.1 * size)
