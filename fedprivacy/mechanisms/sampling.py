"""Which records enter which step of DP-SGD, and the event that prices a round of such steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import dp_accounting
import torch

from fedprivacy.accounting.dp_events import canonical
from fedprivacy.accounting.shuffling import shuffle_epsilon_floor, shuffled_event
from fedprivacy.training.batches import Batches

SAMPLINGS = ("poisson", "shuffle")
FLOOR_DELTA = 1e-5
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


def poisson_batch(n: int, sampling_rate: float, generator: torch.Generator) -> torch.Tensor:
    """Indices ``(b,)`` of a batch that each of ``n`` records enters independently.

    Drawn in float64: float32 would round the sampling rate to multiples of 2^-24.
    """
    return (
        torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
        < sampling_rate
    ).nonzero()[:, 0]


def poisson_batches(
    n: int, sampling_rate: float, steps: int, generator: torch.Generator
) -> Batches:
    """The batches that ``steps`` calls of ``poisson_batch`` draw, in a few calls of torch.

    A CPU generator gives its numbers one by one, however many are asked for at once.

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
) -> Iterator[torch.Tensor]:
    """Indices ``(b,)`` of the records of each of ``steps`` steps; b may be 0.

    Args:
        sampling: ``poisson`` or ``shuffle``.
        n: records of the site.
        sampling_rate: q, declared and public.
        steps: how many batches.
        generator: private to the site.
    """
    shuffled = shuffled_batches(n, sampling_rate, generator)
    for _ in range(steps):
        if sampling == "shuffle":
            yield next(shuffled)
        else:
            yield poisson_batch(n, sampling_rate, generator)


@lru_cache(maxsize=256, typed=True)
def round_event(
    sampling: str, noise_multiplier: float, sampling_rate: float, steps: int
) -> dp_accounting.DpEvent:
    """The event of one round: Poisson-subsampled Gaussians, or shuffled batches unamplified.

    The same event for all sites and rounds that are alike, so that it is checked once.

    Args:
        sampling: ``poisson`` or ``shuffle``.
        noise_multiplier: of each step, above 0.
        sampling_rate: q.
        steps: steps taken.
    """
    if sampling == "shuffle":
        return canonical(shuffled_event(noise_multiplier, passes(sampling_rate, steps)))
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    sampled = dp_accounting.PoissonSampledDpEvent(sampling_rate, gaussian)
    return canonical(dp_accounting.SelfComposedDpEvent(sampled, steps))


def shuffle_details(
    noise_multiplier: float, sampling_rate: float, steps: int
) -> dict[str, float | int | str]:
    """What a reader of a round of shuffled batches needs: the bill, and the proved floor.

    Keys: ``sampling``, ``passes``, ``epsilon_at_least`` (a lower bound of one pass at delta 1e-5,
    ``accounting.shuffling``), ``epsilon_at_least_of``.
    """
    batches = batches_per_pass(sampling_rate)
    return {
        "sampling": "shuffle: billed without amplification",
        "passes": passes(sampling_rate, steps),
        "epsilon_at_least": _floor(noise_multiplier, batches),
        "epsilon_at_least_of": (
            f"one pass over {batches} shuffled batches at delta {FLOOR_DELTA:g}: a lower bound "
            "(Chua et al. 2024, arXiv 2403.17673)"
        ),
    }


@lru_cache(maxsize=256)
def _floor(noise_multiplier: float, batches: int) -> float:
    return shuffle_epsilon_floor(FLOOR_DELTA, noise_multiplier, batches)
