"""Gradients of a stack of sites on a GPU, recorded once for each shape and replayed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedprivacy.training.cuda_graph import Recorder, cuda_graph
from fedprivacy.training.stacked.records import StackedBatch

log = logging.getLogger(__name__)

# Steps of one shape from which recording them, which costs about three, pays.
WORTH = 4

Step = Callable[[torch.Tensor, StackedBatch, torch.Tensor], torch.Tensor]
"""Writes gradients of weights ``(k, d)`` over a batch into ``(k, d)``; returns ``(k,)`` losses."""


@dataclass(frozen=True)
class StepRecording:
    """A step on tensors that stay where they are.

    Attributes:
        weights: ``(k, d)``, to be overwritten before each replay, as the next is.
        batch: of the k sites.
        total: ``(k, d)`` the outcome.
        replay: do the step on what is in ``weights`` and ``batch`` now.
        losses: ``(k,)`` the outcome.
    """

    weights: torch.Tensor
    batch: StackedBatch
    total: torch.Tensor
    replay: Callable[[], None]
    losses: torch.Tensor

    def run(self, weights: torch.Tensor, batch: StackedBatch, total: torch.Tensor) -> torch.Tensor:
        """Do the step as ``Step`` does; the losses hold until the next one."""
        self.weights.copy_(weights)
        self.batch.x.copy_(batch.x)
        self.batch.y.copy_(batch.y)
        self.batch.there.copy_(batch.there)
        self.replay()
        total.copy_(self.total)
        return self.losses


class StepRecordings:
    """A model's steps by what they compute and the shapes they do it on.

    What has not been prepared is computed as ever: recording waits for the GPU, which nothing in a
    round's steps may.

    Args:
        recorder: what makes work repeatable; None: ``cuda_graph``.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder or cuda_graph
        self._found: dict[tuple[object, ...], StepRecording | None] = {}
        self._asked: Counter[tuple[object, ...]] = Counter()

    def prepare(
        self,
        kind: tuple[object, ...],
        step: Step,
        weights: torch.Tensor,
        batch: StackedBatch,
        times: int,
    ) -> None:
        """Record ``step`` for weights and batches of these shapes, where that pays.

        Args:
            kind: what the step computes; the same for all that compute the same.
            step: of a model whose weights are given, not its own.
            weights: ``(k, d)``.
            batch: of k sites, with a row at least.
            times: how often the step is about to be done.
        """
        key = (*kind, *_shapes(weights, batch))
        self._asked[key] += times
        if key not in self._found and self._asked[key] >= WORTH:
            self._found[key] = self._record(step, weights, batch)

    def run(
        self,
        kind: tuple[object, ...],
        step: Step,
        weights: torch.Tensor,
        batch: StackedBatch,
        total: torch.Tensor,
    ) -> torch.Tensor:
        """As ``step``, replayed where it is prepared."""
        recording = self._found.get((*kind, *_shapes(weights, batch)))
        if recording is None:
            return step(weights, batch, total)
        return recording.run(weights, batch, total)

    def _record(
        self, step: Step, weights: torch.Tensor, batch: StackedBatch
    ) -> StepRecording | None:
        # Copies: what is recorded is where the tensors are.
        weights, total = weights.clone(), torch.zeros_like(weights)
        batch = StackedBatch(batch.x.clone(), batch.y.clone(), batch.there.clone())
        try:
            replay, losses = self._recorder(lambda: step(weights, batch, total))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            log.warning("a stack's steps are not recorded (%s): slower, and just as right", reason)
            return None
        return StepRecording(weights, batch, total, replay, losses)


def _shapes(weights: torch.Tensor, batch: StackedBatch) -> tuple[object, ...]:
    return weights.shape, batch.x.shape, batch.y.shape, batch.y.dtype
