"""Which records enter which step of DP-SGD."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import torch

from fedprivacy.training.batches import Batches

SAMPLINGS = ("poisson", "shuffle")
_DRAWN_AT_ONCE = 1 << 22


def dpsgd_steps(local_epochs: float, sampling_rate: float) -> int:
    """Optimiser steps of a round, at least one; the same at all sites, whatever their size."""
    return max(1, round(local_epochs / sampling_rate))


def batches_per_pass(sampling_rate: float) -> int:
    """Shuffled batches that a site's records are divided into: ``1 / sampling_rate``, rounded."""
    return max(1, round(1 / sampling_rate))


def passes(sampling_rate: float, steps: int) -> int:
    """Passes over the records that ``steps`` shuffled batches begin; a record is once in each."""
    return math.ceil(steps / batches_per_pass(sampling_rate))


def poisson_batches(
    n: int, sampling_rate: float, steps: int, generator: torch.Generator
) -> Batches:
    """Batches that each of ``n`` records enters independently, in a few calls of torch.

    Drawn in float64: float32 would round the sampling rate to multiples of 2^-24. A CPU generator
    gives its numbers one by one, however many are asked for at once.

    Args:
        n: records of the site.
        sampling_rate: q.
        steps: how many batches.
        generator: on the CPU.
    """
    at_once = max(1, _DRAWN_AT_ONCE // max(1, n))
    rows, sizes = list[torch.Tensor](), list[int]()
    for start in range(0, steps, at_once):
        shape = (min(at_once, steps - start), n)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64) < sampling_rate
        rows.append(drawn.nonzero()[:, 1])
        sizes += drawn.sum(1).tolist()
    return Batches(torch.cat(rows), tuple(sizes))


def shuffled_batches(
    n: int, sampling_rate: float, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Endless batches ``(b,)``: a new order of all ``n`` records for each pass, cut evenly."""
    while True:
        order = torch.randperm(n, generator=generator, device=generator.device)
        yield from torch.tensor_split(order, batches_per_pass(sampling_rate))


def step_batches(
    sampling: str, n: int, sampling_rate: float, steps: int, generator: torch.Generator
) -> Batches:
    """Which records enter each of ``steps`` steps; a step may have none.

    Args:
        sampling: ``poisson`` or ``shuffle``.
        n: records of the site.
        sampling_rate: q, declared and public.
        steps: how many batches.
        generator: private to the site, on the CPU.
    """
    if sampling == "shuffle":
        return Batches.of(islice(shuffled_batches(n, sampling_rate, generator), steps))
    return poisson_batches(n, sampling_rate, steps, generator)
