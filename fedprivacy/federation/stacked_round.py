"""One round of many sites' training at once, where that can be done; the reason where not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from flwr.app import Message

from fedprivacy.federation.messages import ARRAYS, read_instruction
from fedprivacy.federation.ready import ReadyTraining
from fedprivacy.federation.site import CellRuntime, open_runtime
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.dpsgd_stacked import train_dpsgd_stacked
from fedprivacy.mechanisms.grad_engines.certificate import (
    GRADIENT_TOLERANCE,
    ensure_certified,
)
from fedprivacy.mechanisms.grad_engines.choose import fastest_engine
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS, Contribution
from fedprivacy.mechanisms.grad_engines.stacked import StackedEngine, StackedSums, stacked_sums
from fedprivacy.mechanisms.guards import check_strength
from fedprivacy.mechanisms.stacked import Stacked
from fedprivacy.threads import use_threads
from fedprivacy.training.stacked.functional import (
    FunctionalGradients,
    gradient_faults,
    stacking_faults,
)
from fedprivacy.training.stacked.gradients import StackedGradients, stacked_gradients
from fedprivacy.training.stacked.plain import steps_of, train_plain_stacked
from fedprivacy.training.stacked.sites import StackedOutcome, StackedSites
from fedprivacy.training.task import LocalTask

log = logging.getLogger(__name__)
_STACKABLE_ENGINES = ("bookkeeping", "vmap")
# Of a certified gradient in bf16, whose direction may differ; its norm may not.
_COARSE_TOLERANCE = 0.5
_mapping_faults: WeakKeyDictionary[CellRuntime, str] = WeakKeyDictionary()


@dataclass(frozen=True)
class Instruction:
    """What one site was told.

    Attributes:
        partition: index of the site.
        round_number: 1, 2, ...
        weights: ``(d,)`` float32 on the CPU; sites that start from the same weights share them.
        clip: the public clip norm of the round, where one moves.
    """

    partition: int
    round_number: int
    weights: torch.Tensor
    clip: float | None


def read_instructions(messages: Sequence[tuple[int, Message]]) -> list[Instruction]:
    """The instructions of a round, by partition; equal weights are read once."""
    read: dict[int, torch.Tensor] = {}
    found = []
    for partition, message in messages:
        shared = id(message.content[ARRAYS]["vector"])
        weights, number, clip = read_instruction(message)
        found.append(Instruction(partition, number, read.setdefault(shared, weights), clip))
    return found


def prepare_round(cell: str, messages: Sequence[tuple[int, Message]]) -> None:
    """Train all sites that can be trained at once; their updates are then ready in the runtime.

    A failure is kept for the site that asks for the update, so that it is told as a site's own.

    Args:
        cell: see ``site.open_runtime``.
        messages: training messages of one round with the partitions they go to.
    """
    try:
        runtime = open_runtime(cell)
    except Exception:
        return  # every site opens the cell for itself, and tells what is wrong with it
    use_threads(runtime.config.engine.torch_threads)
    try:
        runtime.ready.fill(dict(_trained(runtime, read_instructions(messages))))
    except Exception as error:
        runtime.ready.fill({partition: error for partition, _ in messages})


def _trained(
    runtime: CellRuntime, instructions: Sequence[Instruction]
) -> list[tuple[int, ReadyTraining]]:
    strength = runtime.strengths[instructions[0].round_number - 1]
    reason = stacking_refusal(runtime, strength)
    if reason:
        runtime.tell_once(f"engine=stacked trains the sites one by one: {reason}")
        return []
    runtime.load(instructions[0].weights, training=True)
    pairs = [
        (one, runtime.task_at(one.partition, one.round_number, one.clip)) for one in instructions
    ]
    if any(len(task.x) == 0 for _, task in pairs):
        runtime.tell_once("engine=stacked trains sites without records one by one")
    pairs = [(one, task) for one, task in pairs if len(task.x)]
    # Sites that are done early leave from the end of the stack.
    pairs.sort(key=lambda pair: -steps_of(pair[1]))
    if len(pairs) < 2 and runtime.config.engine.precision == "float32":
        return []  # a stack of one is slower than the site by itself
    if reason := _mapping_fault(runtime, pairs[0][1]):
        runtime.tell_once(f"engine=stacked trains the sites one by one: {reason}")
        return []
    outcomes = _outcomes(runtime, pairs)
    return [
        (one.partition, ReadyTraining(task, one.weights, outcome.weights, outcome.trained))
        for (one, task), outcome in zip(pairs, outcomes, strict=True)
    ]


def _mapping_fault(runtime: CellRuntime, task: LocalTask) -> str:
    """What ``torch.func`` gets wrong in the model's plain gradients, tried once; mostly nothing."""
    if runtime not in _mapping_faults:
        gradients = stacked_gradients(runtime.parameters.model, runtime.loss)
        fault = ""
        if isinstance(gradients, FunctionalGradients):
            fault = gradient_faults(gradients, task.x, task.y)
        _mapping_faults[runtime] = fault
    return _mapping_faults[runtime]


def _outcomes(
    runtime: CellRuntime, pairs: Sequence[tuple[Instruction, LocalTask]]
) -> list[StackedOutcome]:
    tasks = [task for _, task in pairs]
    sites = StackedSites(
        tasks,
        _stacked([one.weights for one, _ in pairs]).to(runtime.device),
        runtime.stacked_records([one.partition for one, _ in pairs]),
    )
    model, precision = runtime.parameters.model, runtime.config.engine.precision
    gradients = stacked_gradients(model, runtime.loss, precision)
    mechanism = noisy_training(runtime.mechanism, tasks[0].strength)
    if mechanism is None:
        return train_plain_stacked(sites, gradients)
    sums = _certified_sums(mechanism, tasks[0], gradients, precision)
    return train_dpsgd_stacked(mechanism, sites, sums)


def _stacked(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """``(K, d)``, a row for each site."""
    if all(one is weights[0] for one in weights):
        return weights[0].repeat(len(weights), 1)
    return torch.stack(list(weights))


def _certified_sums(
    mechanism: DpSgd, task: LocalTask, gradients: StackedGradients, precision: str
) -> StackedSums:
    """The stacked clipped sums, once they have passed the start-up certificate.

    Raises:
        ProtectionError: they do not bound a record's contribution to this model.
    """
    assert task.strength is not None
    check_strength(task.strength, mechanism.name)
    rule = CLIPPINGS[mechanism.clipping]
    sums = stacked_sums(gradients, rule, mechanism.physical_batch)
    model, (bound, _, _) = task.parameters.model, mechanism.step_scales(task.strength)
    exact = stacked_sums(stacked_gradients(model, task.loss), rule, mechanism.physical_batch)
    engines = [(StackedEngine(model, exact), GRADIENT_TOLERANCE)]
    if precision != "float32":
        engines.append((StackedEngine(model, sums, precision), _COARSE_TOLERANCE))
    for engine, tolerance in engines:
        contribution = Contribution(rule)
        ensure_certified(model, task.loss, task.x, task.y, engine, bound, contribution, tolerance)
    return sums


def noisy_training(mechanism: Mechanism, strength: float | None) -> DpSgd | None:
    """The DP-SGD that trains in a round of that strength; None where training is plain."""
    if strength is None:
        return None
    parts = mechanism.parts if isinstance(mechanism, Stacked) else (mechanism,)
    return next((part for part in parts if isinstance(part, DpSgd)), None)


def stacking_refusal(runtime: CellRuntime, strength: float | None) -> str:
    """Why the sites of a cell cannot train at once in a round of that strength; empty if they can.

    Args:
        runtime: of the cell.
        strength: of the round's protection; None where it is off.
    """
    mechanism, model = runtime.mechanism, runtime.parameters.model
    parts = mechanism.parts if isinstance(mechanism, Stacked) else (mechanism,)
    if runtime.source is not None:
        return "local_source draws noise on each site's own records"
    if any(part.placement == "training" and not isinstance(part, DpSgd) for part in parts):
        return f"algorithm={mechanism.name} trains in its own way"
    if faults := stacking_faults(model):
        return "; ".join(faults)
    noisy = noisy_training(mechanism, strength)
    return _dpsgd_refusal(noisy, runtime) if noisy is not None else ""


def _dpsgd_refusal(mechanism: DpSgd, runtime: CellRuntime) -> str:
    model = runtime.parameters.model
    if mechanism.augmentations > 1:
        return f"algorithm.augmentations={mechanism.augmentations} makes views site by site"
    if CLIPPINGS[mechanism.clipping].counts:
        return f"algorithm.clipping={mechanism.clipping} moves each site's own clip norm"
    chosen = mechanism.grad_engine
    if chosen == "auto":
        chosen = fastest_engine(model)
    if chosen not in _STACKABLE_ENGINES:
        return f"algorithm.grad_engine={mechanism.grad_engine} means {chosen} for this model"
    return ""
