"""Poisson sampling of one step, as the definition says it: what the package's is held against."""

from __future__ import annotations

import torch


def poisson_batch(n: int, sampling_rate: float, generator: torch.Generator) -> torch.Tensor:
    """Indices ``(b,)`` of a batch that each of ``n`` records enters independently."""
    drawn = torch.rand(n, generator=generator, dtype=torch.float64) < sampling_rate
    return drawn.nonzero()[:, 0]
