"""Which engine computes clipped gradients of which model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.grad_engines.base import GradEngine
from fedprivacy.mechanisms.grad_engines.bookkeeping import (
    BookkeepingEngine,
    known_layers,
    linear_layers,
)
from fedprivacy.mechanisms.grad_engines.clipping import PLAIN, Contribution
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine
from fedprivacy.mechanisms.grad_engines.opacus import OpacusEngine
from fedprivacy.mechanisms.grad_engines.recorded import RecordedEngine, power_of_two
from fedprivacy.mechanisms.grad_engines.vmap import VmapEngine
from fedprivacy.models.registry import per_sample_faults
from fedprivacy.training.cuda_graph import is_recorded
from fedprivacy.training.losses import Loss

ENGINES: dict[str, Callable[[nn.Module, Loss], GradEngine]] = {
    "opacus": OpacusEngine,
    "bookkeeping": BookkeepingEngine,
    "vmap": VmapEngine,
    "loop": LoopEngine,
}
_RECORDABLE: dict[str, Callable[..., GradEngine]] = {
    "bookkeeping": BookkeepingEngine,
    "vmap": VmapEngine,
}
_IN_CHUNKS: dict[str, Callable[..., GradEngine]] = {"opacus": OpacusEngine, **_RECORDABLE}
CHOICES: tuple[str, ...] = ("auto", *ENGINES)


_AT_ONCE = {"bookkeeping": (2**12, 2**24), "vmap": (2**6, 2**22)}
"""On a GPU, records and scalars of records at a time, by engine; measured on an H100."""

_LARGE = {nn.Conv1d: 2**14, nn.Conv2d: 2**14, nn.Conv3d: 2**17}
"""Scalars of a record from which one at a time is faster than in chunks, on one CPU thread."""


_KNOWN_HOMES = ("torch.nn.modules.", "fedprivacy.models.")


def fastest_engine(model: nn.Module, record: Sequence[int] | None = None) -> str:
    """What ``auto`` stands for; on a CPU as measured on one thread (``benchmarks/dpsgd_step.py``).

    All-Linear networks: bookkeeping (1.2 to 1.4 times a plain step; Opacus' hooks 70 to 85).
    Convolutions with GroupNorm and Linear layers: bookkeeping too (1.2 to 1.5). With other layers,
    or in a forward pass of someone else's making, vmap (1.4 to 3). For large records in either case
    loop (1.0 to 1.2 on images of 128x128 and more, 1.1 to 1.3 on volumes of 48x60x48, where it
    needs less memory than a plain step; up to 8 on small ones). On other devices always vmap: one
    record at a time does not fill them; there its work is recorded (see ``recorded``), as that of
    bookkeeping is. Anything else: loop, which is right for every layer and needs the least memory.

    Args:
        model: the model.
        record: shape of one record; None: a small one.
    """
    if linear_layers(model) is not None:
        return "bookkeeping"
    modules = list(model.modules())
    convolutions = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in modules)
    recurrent = any(isinstance(m, nn.RNNBase) for m in modules)
    if not convolutions or recurrent:
        return "loop"
    large = min(size for kind, size in _LARGE.items() if any(isinstance(m, kind) for m in modules))
    if next(model.parameters()).device.type != "cpu":
        return "vmap"
    if math.prod(record or ()) >= large:
        return "loop"
    return "bookkeeping" if known_layers(model) is not None and _no_surprise(model) else "vmap"


def _no_surprise(model: nn.Module) -> bool:
    """Whether every module is one of torch's or ours as it was made, and mixes no records.

    One record at a time, as vmap and the loop compute, nothing can be mixed; where a whole batch
    goes through a forward of someone else's making, the certificate might not show that it is.
    """
    return not per_sample_faults(model) and all(map(_as_it_was_made, model.modules()))


def _as_it_was_made(module: nn.Module) -> bool:
    changed = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    return type(module).__module__.startswith(_KNOWN_HOMES) and not changed


def build_engine(
    name: str,
    model: nn.Module,
    loss: Loss,
    contribution: Contribution = PLAIN,
    physical_batch: int | None = None,
    record: Sequence[int] | None = None,
) -> GradEngine:
    """The engine ``name`` (``auto`` chooses) over a model; cheap, so built anew each round.

    Args:
        name: one of ``CHOICES``.
        model: the model.
        loss: mean loss over a batch.
        contribution: the clipping rule and the views of a record; every engine has them all.
        physical_batch: records at a time; None: what suits the engine. The loop takes one record
            at a time in any case.
        record: shape of one record, which ``auto`` chooses by.

    Raises:
        ConfigError: unknown name.
        ProtectionError: the engine cannot treat this model.
    """
    if name not in CHOICES:
        raise ConfigError(
            "algorithm.grad_engine",
            name,
            f"one of {', '.join(CHOICES)}",
            "algorithm.grad_engine=auto",
        )
    chosen = fastest_engine(model, record) if name == "auto" else name
    if name == "auto" and chosen in _RECORDABLE and is_recorded(next(model.parameters()).device):
        return _recorded(chosen, model, loss, contribution, physical_batch, record)
    if chosen in _IN_CHUNKS:
        return _IN_CHUNKS[chosen](model, loss, chunk=physical_batch, contribution=contribution)
    return LoopEngine(model, loss, contribution)


def _recorded(
    name: str,
    model: nn.Module,
    loss: Loss,
    contribution: Contribution,
    physical_batch: int | None,
    record: Sequence[int] | None,
) -> GradEngine:
    """The engine ``name``, its work replayed on the GPU instead of told kernel by kernel."""
    records, scalars = _AT_ONCE[name]
    fitting = min(records, scalars // max(1, math.prod(record or ()))) // contribution.views
    largest = power_of_two(max(1, physical_batch or fitting))
    make = _RECORDABLE[name]
    engine = make(model, loss, chunk=largest, contribution=contribution)
    otherwise = make(model, loss, chunk=physical_batch, contribution=contribution)
    kind = (loss, contribution.clipping.name, contribution.views)
    return RecordedEngine(engine, model, kind, largest, otherwise)
