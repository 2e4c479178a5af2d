"""Tasks small enough to run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedprivacy.training.losses import LOSSES, Loss
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.randomness import Randomness, Streams
from fedprivacy.training.task import LocalTask, OptimizerSpec

MakeTask = Callable[..., LocalTask]


def default_model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))


def build_task(
    *,
    make_model: Callable[[], nn.Module] | None = None,
    loss: Loss = LOSSES["binary"],
    x: torch.Tensor | None = None,
    y: torch.Tensor | None = None,
    n: int = 40,
    optimizer: OptimizerSpec | None = None,
    local_epochs: float = 1.0,
    batch_size: int = 8,
    strength: float | None = 1.0,
    randomness: Randomness = "seeded",
    seed: int = 7,
    round_number: int = 1,
    site: int = 0,
) -> LocalTask:
    """A task whose model and records are the same each time it is made."""
    draws = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(11)
        model = make_model() if make_model else default_model()
    x = torch.randn(n, 5, generator=draws) if x is None else x
    y = (x[:, 0] > 0).long() if y is None else y
    return LocalTask(
        parameters=FlatParameters(model),
        loss=loss,
        x=x,
        y=y,
        optimizer=optimizer or OptimizerSpec("sgd", lr=0.1),
        batch_size=batch_size,
        local_epochs=local_epochs,
        strength=strength,
        streams=Streams(seed, randomness, round_number, site),
    )


@pytest.fixture
def make_task() -> MakeTask:
    return build_task
