"""Which engine computes clipped gradients of which model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.grad_engines.base import GradEngine
from fedprivacy.mechanisms.grad_engines.bookkeeping import BookkeepingEngine, linear_layers
from fedprivacy.mechanisms.grad_engines.clipping import PLAIN, Contribution
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine
from fedprivacy.mechanisms.grad_engines.opacus import OpacusEngine
from fedprivacy.mechanisms.grad_engines.vmap import VmapEngine
from fedprivacy.training.losses import Loss

ENGINES: dict[str, Callable[[nn.Module, Loss], GradEngine]] = {
    "opacus": OpacusEngine,
    "bookkeeping": BookkeepingEngine,
    "vmap": VmapEngine,
    "loop": LoopEngine,
}
_IN_CHUNKS: dict[str, Callable[..., GradEngine]] = {
    "opacus": OpacusEngine,
    "bookkeeping": BookkeepingEngine,
    "vmap": VmapEngine,
}
CHOICES: tuple[str, ...] = ("auto", *ENGINES)


def fastest_engine(model: nn.Module) -> str:
    """What ``auto`` stands for, as measured on one CPU thread.

    All-Linear networks: bookkeeping (1.0 to 1.5 times a plain step; Opacus' hooks 7 to 28).
    Convolutions: vmap (0.9 to 1.6; loop 0.9 on full volumes, up to 5 on small ones). Anything
    else: loop, which is right for every layer and needs the least memory.
    """
    if linear_layers(model) is not None:
        return "bookkeeping"
    modules = list(model.modules())
    convolutions = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in modules)
    recurrent = any(isinstance(m, nn.RNNBase) for m in modules)
    return "vmap" if convolutions and not recurrent else "loop"


def build_engine(
    name: str,
    model: nn.Module,
    loss: Loss,
    contribution: Contribution = PLAIN,
    physical_batch: int | None = None,
) -> GradEngine:
    """The engine ``name`` (``auto`` chooses) over a model; cheap, so built anew each round.

    Args:
        name: one of ``CHOICES``.
        model: the model.
        loss: mean loss over a batch.
        contribution: the clipping rule and the views of a record; every engine has them all.
        physical_batch: records at a time; None: what suits the engine. The loop takes one record
            at a time in any case.

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
    chosen = fastest_engine(model) if name == "auto" else name
    if chosen in _IN_CHUNKS:
        return _IN_CHUNKS[chosen](model, loss, chunk=physical_batch, contribution=contribution)
    return LoopEngine(model, loss, contribution)
