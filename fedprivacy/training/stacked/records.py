"""The records of many sites as one tensor on the device, and padded batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StackedBatch:
    """One batch of each of k sites, padded to the largest.

    Attributes:
        x: ``(k, B, ...)`` float32 records; zeros where there is none.
        y: ``(k, B, ...)`` their targets; zeros where there is none.
        there: ``(k, B)`` bool, False where a row is padding and must count for nothing.
    """

    x: torch.Tensor
    y: torch.Tensor
    there: torch.Tensor

    def part(self, start: int, stop: int) -> StackedBatch:
        """The rows from ``start`` up to ``stop`` of every site."""
        rows = slice(start, stop)
        return StackedBatch(self.x[:, rows], self.y[:, rows], self.there[:, rows])

    def shares(self, dtype: torch.dtype) -> torch.Tensor:
        """``(k, B)`` what each row counts in its site's mean: 0 for padding."""
        there = self.there.to(dtype)
        return there / there.sum(1, keepdim=True)


@dataclass(frozen=True)
class StackedRecords:
    """All sites' records, one after the other, and a last row of zeros for padding.

    A padded row is no site's record, so that nothing that happens to it can tell of one.

    Attributes:
        x: ``(N + 1, ...)`` float32.
        y: ``(N + 1, ...)`` targets.
        starts: row of each site's first record.
    """

    x: torch.Tensor
    y: torch.Tensor
    starts: tuple[int, ...]

    @staticmethod
    def of(sites: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> StackedRecords:
        """Copy the records ``(n, ...)`` and targets of each site, all on one device."""
        xs, ys = [x for x, _ in sites], [y for _, y in sites]
        starts, total = [], 0
        for x in xs:
            starts.append(total)
            total += len(x)
        x = torch.cat([*xs, xs[0].new_zeros(1, *xs[0].shape[1:])])
        y = torch.cat([*ys, ys[0].new_zeros(1, *ys[0].shape[1:])])
        return StackedRecords(x, y, tuple(starts))

    @property
    def padding(self) -> int:
        """Row that stands for no record."""
        return len(self.x) - 1

    def site(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of one site's records and targets."""
        stop = (*self.starts, self.padding)[index + 1]
        rows = slice(self.starts[index], stop)
        return self.x[rows], self.y[rows]

    def batch(self, index: torch.Tensor) -> StackedBatch:
        """The batch of the rows ``index`` ``(k, B)``, as ``BatchPlan`` makes it."""
        return StackedBatch(self.x[index], self.y[index], index != self.padding)
