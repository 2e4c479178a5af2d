"""Losses against loops over single records and voxels, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from fedprivacy.training.losses import LOSSES, binary_cross_entropy, cross_entropy, soft_dice


def test_binary_cross_entropy() -> None:
    logits = torch.randn(7, 1, dtype=torch.float64) * 3
    target = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    naive = 0.0
    for logit, label in zip(logits[:, 0].tolist(), target.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        naive -= math.log(p if label else 1 - p)
    assert binary_cross_entropy(logits, target).item() == pytest.approx(naive / 7)


def test_binary_cross_entropy_of_extreme_logits_is_finite() -> None:
    loss = binary_cross_entropy(torch.tensor([[1e4], [-1e4]]), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(1e4)


def test_cross_entropy() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    target = torch.tensor([0, 3, 1, 1, 2])
    naive = 0.0
    for row, label in zip(logits.tolist(), target.tolist(), strict=True):
        naive -= math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))
    assert cross_entropy(logits, target).item() == pytest.approx(naive / 5)


def test_soft_dice() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 2, 3, 2, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 2, (3, 2, 3, 2), generator=generator)
    naive = 0.0
    for record in range(3):
        for channel in range(2):
            hit = wrong = missed = 0.0
            for voxel in range(12):
                pair = logits[record].reshape(2, 12)[:, voxel].tolist()
                p = math.exp(pair[channel]) / (math.exp(pair[0]) + math.exp(pair[1]))
                truth = float(int(target[record].reshape(12)[voxel]) == channel)
                hit += p * truth
                wrong += p * (1 - truth)
                missed += (1 - p) * truth
            naive += 1 - 2 * hit / (2 * hit + wrong + missed)
    assert soft_dice(logits, target).item() == pytest.approx(naive / 6)


def test_soft_dice_at_its_ends() -> None:
    target = torch.tensor([[[0, 1], [1, 1]]])
    right = torch.stack((1 - target, target), dim=1) * 200.0 - 100
    assert soft_dice(right, target).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(-right, target).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("task", LOSSES)
def test_a_loss_is_the_mean_over_records(task: str) -> None:
    """So that a record's gradient does not depend on who shares its batch."""
    generator = torch.Generator().manual_seed(1)
    shape = {"binary": (6, 1), "multiclass": (6, 3), "segmentation": (6, 2, 4, 4)}[task]
    logits = torch.randn(*shape, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 2, (6, 4, 4) if task == "segmentation" else (6,), generator=generator)
    one_by_one = sum(LOSSES[task](logits[i : i + 1], target[i : i + 1]).item() for i in range(6))
    assert LOSSES[task](logits, target).item() == pytest.approx(one_by_one / 6)
