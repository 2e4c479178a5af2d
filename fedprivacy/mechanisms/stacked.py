"""Several mechanisms in one deployment: at the records, in training, on the update, at the server.

Each mechanism keeps its own statement. For one kind (unit, neighbouring relation, view) the first
mechanism that proves something counts, and what later ones do to its output is post-processing
(Dwork & Roth 2014, proposition 2.1): DP-SGD's bound for a record survives any filter, and a
filter's bound for a site holds whatever was sent through it. Statements of different kinds never
add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import dp_accounting
import torch

from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.base import Mechanism, Placement, Protected, Release
from fedprivacy.mechanisms.gaussian_clipped import ClippedGaussian
from fedprivacy.mechanisms.guards import check_update
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask, Trained

_PLACEMENT: Placement = "update"
_ALONE: tuple[Placement, ...] = ("source", "training", "aggregate", "release")
_ORDER: tuple[Placement, ...] = ("source", "training", "update", "aggregate", "release")

Kind = tuple[str, str, str]


def check_stack(parts: Sequence[Mechanism]) -> None:
    """Refuse a stack that is none, or that would do something twice in one place.

    Raises:
        ConfigError: names the mechanisms and the way out.
    """
    names = [part.name for part in parts]
    fix = "algorithm.mechanisms=[dpsgd,gaussian_clipped]"
    if len(parts) < 2:
        raise ConfigError("algorithm.mechanisms", names, "at least two mechanisms", fix)
    if "none" in names or "stacked" in names:
        allowed = "mechanisms that protect something; stacks do not nest"
        raise ConfigError("algorithm.mechanisms", names, allowed, fix)
    for placement in _ALONE:
        rivals = [part.name for part in parts if part.placement == placement]
        if len(rivals) > 1:
            raise ConfigError(
                "algorithm.mechanisms", rivals, f"at most one that acts at the {placement}", fix
            )
    adaptive = [part.name for part in parts if isinstance(part, ClippedGaussian) and part.rule]
    sent = [*adaptive, *(part.name for part in parts if part.placement == "aggregate")]
    if adaptive and len(sent) > 1:
        allowed = "at most one whose clip norm the server keeps, as one is sent along each round"
        raise ConfigError(
            "algorithm.mechanisms", sent, allowed, "clipping: fixed for all gaussian_clipped"
        )


@dataclass(frozen=True)
class Stacked:
    """Mechanisms in the order in which data meet them; one strength for all.

    Attributes:
        parts: the mechanisms, ordered by placement; filters in the order given.
    """

    parts: tuple[Mechanism, ...]

    name = "stacked"
    placement = _PLACEMENT

    def __post_init__(self) -> None:
        check_stack(self.parts)

    @staticmethod
    def of(parts: Sequence[Mechanism]) -> Stacked:
        """The stack of some mechanisms.

        Raises:
            ConfigError: see ``check_stack``.
        """
        check_stack(parts)
        return Stacked(tuple(sorted(parts, key=lambda part: _ORDER.index(part.placement))))

    def train(self, task: LocalTask) -> Trained:
        """Training by the mechanism that acts there, plain where none does."""
        for part in self.parts:
            if part.placement == "training":
                return part.train(task)
        return train_plain(task)

    def protect(self, update: torch.Tensor, task: LocalTask, trained: Trained) -> Protected:
        """The update through every part, one after the other.

        Raises:
            ProtectionError: from the first part that refuses; nothing leaves then.
        """
        check_update(update)
        done = Protected(update)
        square = 0.0
        for number, part in enumerate(self.parts, start=1):
            # A filter that knew another's noise could take it off again.
            own = replace(task, streams=replace(task.streams, part=number))
            following = part.protect(done.update, own, trained)
            square += following.noise_norm**2
            signal = following.signal if following.signal is not None else done.signal
            done = Protected(following.update, square**0.5, signal)
        return done

    def release(self, task: LocalTask, trained: Trained) -> Release:
        """One statement for each kind that any part speaks of."""
        kinds: dict[Kind, list[tuple[Mechanism, Release]]] = {}
        for part in self.parts:
            for said in part.release(task, trained).statements:
                kind = (said.unit, said.neighbouring, said.view)
                kinds.setdefault(kind, []).append((part, said))
        first, *rest = (_counting(candidates) for candidates in kinds.values())
        return replace(first, also=tuple(rest))


def _counting(candidates: Sequence[tuple[Mechanism, Release]]) -> Release:
    """The first statement of a kind that proves something, named after its mechanism."""
    for part, said in candidates:
        if not isinstance(said.dp_event, dp_accounting.NonPrivateDpEvent):
            details = {"mechanism": part.name, **said.details}
            return replace(said, details=details, also=())
    reasons = dict.fromkeys(f"{part.name}: {said.reason}" for part, said in candidates)
    return replace(candidates[0][1], reason="; ".join(reasons), also=())
