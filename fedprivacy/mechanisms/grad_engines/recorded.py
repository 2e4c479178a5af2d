"""An engine's work on a GPU, recorded once as a CUDA graph and replayed; see ``cuda_graph``.

A graph's shapes are fixed, so that a batch is taken in pieces whose sizes are powers of two: 13
records are 8, 4 and 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fedprivacy.mechanisms.grad_engines.base import ClippedSum, GradEngine, empty_sum
from fedprivacy.mechanisms.grad_engines.clipping import Bound
from fedprivacy.training.cuda_graph import Recorder, cuda_graph

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """Work on tensors that stay where they are.

    Attributes:
        x: ``(size, ...)`` records, to be overwritten before each replay.
        y: their targets.
        bound: 0-d, the clip norm.
        replay: do the work on what is in ``x``, ``y`` and ``bound`` now.
        result: where its outcome is then.
    """

    x: torch.Tensor
    y: torch.Tensor
    bound: torch.Tensor
    replay: Callable[[], None]
    result: ClippedSum


# Of each model, as long as it lives; None: its work cannot be recorded.
_recordings: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], Recording | None]] = (
    WeakKeyDictionary()
)


class RecordedEngine:
    """Gives what ``engine`` gives; see the module.

    Recordings outlive the engine: they belong to the model, its weights' place in memory, its
    layers' modes and the shapes. What cannot be recorded, or has no room, is left to
    ``otherwise``.

    Args:
        engine: over ``model``, whose sums of ``largest`` records are one piece of work.
        model: on the GPU.
        kind: what else the work depends on: the loss, the clipping rule, the views.
        largest: records at a time, a power of two.
        otherwise: gives the same sums unrecorded, with less memory; None: ``engine``.
        recorder: what makes work repeatable; None: ``cuda_graph``.
    """

    def __init__(
        self,
        engine: GradEngine,
        model: nn.Module,
        kind: tuple[object, ...],
        largest: int,
        otherwise: GradEngine | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._engine, self._model, self._largest = engine, model, largest
        self._otherwise = otherwise or engine
        self._kind, self._recorder = (engine.name, *kind), recorder or cuda_graph
        self.name = f"{engine.name}, recorded"

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: Bound) -> ClippedSum:
        """See ``GradEngine.clipped_sum``."""
        found: ClippedSum | None = None
        start = 0
        for size in pieces(len(x), self._largest):
            part = slice(start, start + size)
            recording = self._recording(x[part], y[part])
            if recording is None:
                return self._otherwise.clipped_sum(x, y, max_norm)
            recording.x.copy_(x[part])
            recording.y.copy_(y[part])
            recording.bound.fill_(max_norm)
            recording.replay()
            found = _plus(found, recording.result)
            start += size
        return found or self._otherwise.clipped_sum(x, y, max_norm)

    def _recording(self, x: torch.Tensor, y: torch.Tensor) -> Recording | None:
        of_model = _recordings.setdefault(self._model, {})
        key = (*self._kind, x.shape, x.dtype, y.shape, y.dtype, *_state(self._model))
        if key not in of_model:
            of_model[key] = self._record(x, y)
        return of_model[key]

    def _record(self, x: torch.Tensor, y: torch.Tensor) -> Recording | None:
        # Copies: what is recorded is where the tensors are.
        x, y = x.clone(), y.clone()
        bound = empty_sum(self._model).loss.fill_(1.0)
        try:
            replay, result = self._recorder(lambda: self._engine.clipped_sum(x, y, bound))
        except RuntimeError as error:
            log.warning(
                "engine %r is not recorded as a CUDA graph for this model (%s): slower, and just "
                "as right",
                self._engine.name,
                str(error).splitlines()[0],
            )
            return None
        return Recording(x, y, bound, replay, result)


def pieces(n: int, largest: int) -> Iterator[int]:
    """Sizes that add up to ``n``: ``largest`` as often as it fits, then falling powers of two."""
    size = largest
    while n:
        if size <= n:
            yield size
            n -= size
        else:
            size //= 2


def power_of_two(most: int) -> int:
    """The largest power of two of at most ``most`` >= 1."""
    return 1 << (most.bit_length() - 1)


def _state(model: nn.Module) -> tuple[object, ...]:
    """Where the weights are, and which layers train: dropout is off while an engine is tried."""
    places = tuple(parameter.data_ptr() for parameter in model.parameters())
    return places, tuple(module.training for module in model.modules())


def _plus(found: ClippedSum | None, result: ClippedSum) -> ClippedSum:
    """The sum so far and a recording's, copied: the recording will write over its own."""
    if found is None:
        within = None if result.within is None else result.within.clone()
        return ClippedSum(result.total.clone(), result.loss.clone(), within)
    found.total.add_(result.total)
    found.loss.add_(result.loss)
    if found.within is not None and result.within is not None:
        found.within.add_(result.within)
    return found
