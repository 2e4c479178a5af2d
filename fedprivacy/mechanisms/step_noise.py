"""Noise of one step after another, each site's from its own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Scalars of one site that are drawn in one call; a stack of K sites holds K times 512 KiB.
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
    the model, the device and the round's steps alone. What was drawn for steps that are not taken
    is never used.

    Args:
        generators: each site's own, on the device where the noise is used.
        steps: of the round.
    """

    def __init__(self, generators: Sequence[torch.Generator], steps: int) -> None:
        self._generators, self._left = generators, steps
        self._block: torch.Tensor | None = None
        self._drawn = self._used = 0

    def fill(self, rows: torch.Tensor) -> None:
        """Overwrite ``rows`` ``(K, d)``, float32 on the device, with the next step's noise.

        Raises:
            ValueError: the round has no such step, or ``rows`` are not one for each generator.
        """
        if self._left < 1:
            raise ValueError("noise was asked for more steps than the round has")
        at_once = steps_at_once(rows.device, rows.shape[1])
        if at_once == 1:
            self._draw(rows)
        else:
            self._take(rows, at_once)
        self._left -= 1

    def _take(self, rows: torch.Tensor, at_once: int) -> None:
        if self._block is None:
            steps = min(at_once, self._left)
            self._block = rows.new_empty(len(rows), steps, rows.shape[1])
        if self._used == self._drawn:
            self._drawn, self._used = min(self._block.shape[1], self._left), 0
            self._draw(self._block[:, : self._drawn])
        rows.copy_(self._block[:, self._used])
        self._used += 1

    def _draw(self, parts: torch.Tensor) -> None:
        for part, generator in zip(parts, self._generators, strict=True):
            part.normal_(generator=generator)
