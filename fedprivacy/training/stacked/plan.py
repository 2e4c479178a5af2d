"""Which records enter which step of which site, settled before a round's first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedprivacy.training.batches import Batches, sent
from fedprivacy.training.cuda_graph import is_recorded
from fedprivacy.training.stacked.records import StackedRecords


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a round of K sites, those with the most steps first.

    Attributes:
        index: ``(T, K, B)`` int64 rows of ``StackedRecords`` on the device, padded.
        steps: steps of each site, falling.
        sizes: records of each site in each of its steps.
        active: number of sites that take each of the T steps; they are the first ones.
        widths: rows of each step: the size of its largest batch, which may be 0; on a GPU the
            same for all steps, as what is recorded there has fixed shapes.
    """

    index: torch.Tensor
    steps: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    active: tuple[int, ...]
    widths: tuple[int, ...]

    @staticmethod
    def of(
        batches: Sequence[Batches],
        records: StackedRecords,
        uniform: bool | None = None,
    ) -> BatchPlan:
        """Lay out the batches and send them to the device of ``records`` in one transfer.

        Memory: 8 bytes for each step, site and record of the largest batch.

        Args:
            batches: of each site in the order of ``records``; the sites with the most steps come
                first.
            records: of the sites.
            uniform: whether all steps have as many rows, rounded up so that few widths occur;
                None: on a GPU.
        """
        device = records.x.device
        sizes = tuple(own.sizes for own in batches)
        steps = tuple(len(own) for own in sizes)
        total = steps[0]
        active = tuple(sum(taken > step for taken in steps) for step in range(total))
        widths = tuple(max(own[step] for own in sizes[: active[step]]) for step in range(total))
        if is_recorded(device) if uniform is None else uniform:
            widths = (rounded(max(widths)),) * total
        index = torch.full((total, len(batches), max(widths)), records.padding)
        _fill(index, batches, records.starts)
        return BatchPlan(sent(index, device), steps, sizes, active, widths)

    def shapes(self) -> dict[tuple[int, int], list[int]]:
        """The steps, counted from 0, of each number of sites and rows that occurs with a row."""
        found: dict[tuple[int, int], list[int]] = {}
        for step, shape in enumerate(zip(self.active, self.widths, strict=True)):
            if shape[1]:
                found.setdefault(shape, []).append(step)
        return found

    def at(self, step: int) -> torch.Tensor:
        """Rows ``(k, b)`` of the sites that take the step, counted from 0."""
        return self.index[step, : self.active[step], : self.widths[step]]


def rounded(width: int) -> int:
    """At least ``width``, by an eighth more at most; 16 numbers for 100 to 400."""
    unit = max(1, 1 << (width.bit_length() - 4)) if width >= 16 else 1
    return -(-width // unit) * unit


def _fill(index: torch.Tensor, batches: Sequence[Batches], starts: Sequence[int]) -> None:
    """Write every batch to the front of its row of ``index``, all of them at once."""
    lengths = torch.tensor([size for own in batches for size in own.sizes])
    taken = torch.tensor([len(own) for own in batches])
    site = torch.arange(len(batches)).repeat_interleave(taken)
    step = torch.arange(len(site)) - (taken.cumsum(0) - taken)[site]
    rows = torch.cat([own.rows for own in batches])
    first = (step * index.shape[1] + site) * index.shape[2]
    before = lengths.cumsum(0) - lengths
    place = torch.arange(len(rows)) + (first - before).repeat_interleave(lengths)
    index.view(-1)[place] = rows + torch.tensor(starts)[site].repeat_interleave(lengths)
