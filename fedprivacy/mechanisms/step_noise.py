"""Noise of one step after another, each site's from its own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Scalars of one site that are drawn in one call: 512 KiB.
_AT_ONCE = 1 << 17


def steps_at_once(device: torch.device, size: int) -> int:
    """Steps whose noise is drawn in one call, at least one.

    Telling a GPU of a call takes longer than drawing for a small model. A CPU draws step by step,
    straight into the vector that the noise is for.

    Args:
        device: where the noise is used.
        size: scalars of a step.
    """
    return 1 if device.type == "cpu" else max(1, _AT_ONCE // max(1, size))


class StepNoise:
    """Standard normal noise for a round's steps; no number of it is used twice.

    A site draws the same noise by itself and beside others: how much is drawn at once depends on
    the model, the device and the round's steps alone.

    Args:
        generators: each site's own, on the device where the noise is used.
        steps: of the round.
    """

    def __init__(self, generators: Sequence[torch.Generator], steps: int) -> None:
        self._generators, self._steps = generators, steps
        self._block: torch.Tensor | None = None
        self._used = 0

    def fill(self, rows: torch.Tensor) -> None:
        """Overwrite ``rows`` ``(K, d)``, float32 on the device, with the next step's noise."""
        at_once = min(steps_at_once(rows.device, rows.shape[1]), self._steps)
        if at_once <= 1:
            self._draw(rows)
            return
        if self._block is None or self._used == at_once:
            self._block, self._used = rows.new_empty(len(rows), at_once, rows.shape[1]), 0
            self._draw(self._block)
        rows.copy_(self._block[:, self._used])
        self._used += 1

    def _draw(self, parts: torch.Tensor) -> None:
        for part, generator in zip(parts, self._generators, strict=True):
            part.normal_(generator=generator)
