"""Losses by task; each is the mean over the records of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def binary_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Logits ``(n, 1)`` against labels ``(n,)`` in {0, 1}."""
    return functional.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype))


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Logits ``(n, classes)`` against labels ``(n,)``."""
    return functional.cross_entropy(logits, target)


def soft_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice over both channels of ``(n, 2, ...)`` logits against ``(n, ...)`` masks.

    As FLamby's Fed-IXI: mean over records and channels of 1 - 2TP / (2TP + FP + FN).
    """
    probability = torch.softmax(logits, dim=1)
    truth = torch.stack((1 - target, target), dim=1).to(probability.dtype)
    dims = tuple(range(2, probability.ndim))
    overlap = 2 * (probability * truth).sum(dims)
    total = (probability + truth).sum(dims)
    return (1 - overlap / (total + 1e-9)).mean()


LOSSES: dict[str, Loss] = {
    "binary": binary_cross_entropy,
    "multiclass": cross_entropy,
    "segmentation": soft_dice,
}
