"""Does on the CPU what a CUDA graph does: later work writes into the first work's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fedprivacy.mechanisms.grad_engines.base import ClippedSum


class Tape:
    """A ``Recorder`` that counts; what its work returns is overwritten by each replay.

    Before a replay the tensors are spoiled, so that whoever counts on an old outcome finds out.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.recorded += 1
        kept = work()

        def replay() -> None:
            self.replayed += 1
            for old, new in zip(_tensors(kept), _tensors(work()), strict=True):
                old.copy_(new)

        for tensor in _tensors(kept):
            tensor.fill_(torch.nan)
        return replay, kept


def _tensors(outcome: Any) -> list[torch.Tensor]:
    if isinstance(outcome, ClippedSum):
        within = [] if outcome.within is None else [outcome.within]
        return [outcome.total, outcome.loss, *within]
    return [outcome]
