"""The batches of one site in one round, end to end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batches:
    """Which of a site's records enter which of its steps.

    Attributes:
        rows: ``(N,)`` int64 on the CPU: the records of the first step, then of the second, ...
        sizes: how many records each step has; may be 0.
    """

    rows: torch.Tensor
    sizes: tuple[int, ...]

    @staticmethod
    def of(batches: Iterable[torch.Tensor]) -> Batches:
        """Put the batches ``(b,)`` of one step or more end to end."""
        each = list(batches)
        return Batches(torch.cat(each), tuple(map(len, each)))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The batches ``(b,)``, as views."""
        return iter(torch.split(self.rows, list(self.sizes)))

    def on(self, device: torch.device) -> Iterator[torch.Tensor]:
        """The batches ``(b,)`` as views of one tensor there, sent in one transfer."""
        return iter(torch.split(sent(self.rows, device), list(self.sizes)))

    def __len__(self) -> int:
        return len(self.sizes)


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device; a GPU is not waited for."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
