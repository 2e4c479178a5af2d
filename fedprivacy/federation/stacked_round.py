"""One round of many sites' training at once, where that can be done; the reason where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from flwr.app import Array, Message

from fedprivacy.federation.messages import ARRAYS, read_instruction
from fedprivacy.federation.ready import ReadyTraining
from fedprivacy.federation.site import CellRuntime, open_runtime
from fedprivacy.mechanisms.dpsgd_stacked import train_dpsgd_stacked
from fedprivacy.mechanisms.stacking import certified_sums, noisy_training, stacking_refusal
from fedprivacy.threads import use_threads
from fedprivacy.training.stacked.functional import FunctionalGradients, gradient_faults
from fedprivacy.training.stacked.gradients import StackedGradients, stacked_gradients
from fedprivacy.training.stacked.plain import steps_of, train_plain_stacked
from fedprivacy.training.stacked.sites import StackedOutcome, StackedSites
from fedprivacy.training.task import LocalTask

# Of each runtime: its gradients, and what is wrong with them.
_tried: WeakKeyDictionary[CellRuntime, tuple[StackedGradients, str]] = WeakKeyDictionary()


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
    """The instructions of a round, by partition; the same weights are one tensor."""
    read: dict[int, tuple[Array, torch.Tensor]] = {}
    found = []
    for partition, message in messages:
        array = message.content[ARRAYS]["vector"]
        weights, number, clip = read_instruction(message)
        # The array is kept with its weights, so that no other can have its identity.
        _, weights = read.setdefault(id(array), (array, weights))
        found.append(Instruction(partition, number, weights, clip))
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
    refusal = stacking_refusal(runtime.mechanism, runtime.parameters.model, strength)
    if refusal:
        return _one_by_one(runtime, refusal)
    runtime.load(instructions[0].weights, training=True)
    pairs = [
        (one, runtime.task_at(one.partition, one.round_number, one.clip)) for one in instructions
    ]
    if not all(len(task.x) for _, task in pairs):
        return _one_by_one(runtime, "a site has no records")
    if len(pairs) == 1 and runtime.config.engine.precision == "float32":
        return []  # a stack of one is slower than the site by itself
    gradients, fault = _gradients(runtime, pairs[0][1])
    if fault:
        return _one_by_one(runtime, fault)
    # Sites that are done early leave from the end of the stack.
    pairs.sort(key=lambda pair: -steps_of(pair[1]))
    outcomes = _outcomes(runtime, pairs, gradients)
    return [
        (one.partition, ReadyTraining(task, one.weights, outcome.weights, outcome.trained))
        for (one, task), outcome in zip(pairs, outcomes, strict=True)
    ]


def _one_by_one(runtime: CellRuntime, reason: str) -> list[tuple[int, ReadyTraining]]:
    """Nothing is ready, and why not."""
    runtime.tell_once(f"engine=stacked trains the sites one by one: {reason}")
    return []


def _gradients(runtime: CellRuntime, task: LocalTask) -> tuple[StackedGradients, str]:
    """The stacked gradients of a cell's model, and what is wrong with them; tried once."""
    if runtime not in _tried:
        model, fault = runtime.parameters.model, ""
        exact = stacked_gradients(model, runtime.loss)
        if isinstance(exact, FunctionalGradients):
            fault = gradient_faults(exact, task.x, task.y)
        precision = runtime.config.engine.precision
        _tried[runtime] = (stacked_gradients(model, runtime.loss, precision), fault)
    return _tried[runtime]


def _outcomes(
    runtime: CellRuntime,
    pairs: Sequence[tuple[Instruction, LocalTask]],
    gradients: StackedGradients,
) -> list[StackedOutcome]:
    tasks = [task for _, task in pairs]
    sites = StackedSites(
        tasks,
        _rows([one.weights for one, _ in pairs]).to(runtime.device),
        runtime.stacked_records([one.partition for one, _ in pairs]),
    )
    mechanism = noisy_training(runtime.mechanism, tasks[0].strength)
    if mechanism is None:
        return train_plain_stacked(sites, gradients)
    sums = certified_sums(mechanism, tasks[0], gradients, runtime.config.engine.precision)
    return train_dpsgd_stacked(mechanism, sites, sums)


def _rows(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """``(K, d)``, a row for each site."""
    if all(one is weights[0] for one in weights):
        return weights[0].repeat(len(weights), 1)
    return torch.stack(list(weights))
