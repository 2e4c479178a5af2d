from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedprivacy.models.mlp import Mlp
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.plain import plain_steps, train_plain
from fedprivacy.training.randomness import Streams
from fedprivacy.training.task import LocalTask, OptimizerSpec

N = 21
Made = Callable[[], tuple[LocalTask, nn.Module]]


def made(
    *, epochs: float = 1, batch: int = 8, optimizer: OptimizerSpec | None = None, site: int = 0
) -> tuple[LocalTask, nn.Module]:
    """A task, and a model with the same weights that is not part of it."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(N, 4, generator=generator)
    models = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            models.append(Mlp(4, [6], 1))
    task = LocalTask(
        parameters=FlatParameters(models[0]),
        loss=LOSSES["binary"],
        x=x,
        y=(x[:, 0] > 0).long(),
        optimizer=optimizer or OptimizerSpec("sgd", 0.3),
        batch_size=batch,
        local_epochs=epochs,
        strength=None,
        streams=Streams(0, "seeded", 1, site),
    )
    return task, models[1]


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize(
    ("n", "batch", "epochs", "steps"),
    [
        (100, 10, 1, 10),
        (101, 10, 1, 11),
        (101, 10, 2, 22),
        (5, 10, 1, 1),
        (100, 10, 0.25, 2),
        (100, 10, 0.01, 1),
        (100, 100, 4, 4),
        (100, 7, 1.5, 22),
    ],
)
def test_steps(n: int, batch: int, epochs: float, steps: int) -> None:
    assert plain_steps(n, batch, epochs) == steps


@given(st.integers(1, 10_000), st.integers(1, 500), st.floats(0.01, 20))
def test_steps_are_at_least_one_and_close_to_the_epochs(n: int, batch: int, epochs: float) -> None:
    steps = plain_steps(n, batch, epochs)
    assert steps >= 1
    assert abs(steps - math.ceil(n / batch) * epochs) <= max(0.5, 1 - epochs)


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (OptimizerSpec("sgd", 0.3), lambda p: torch.optim.SGD(p, lr=0.3)),
        (OptimizerSpec("sgd", 0.1, 0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        (OptimizerSpec("adam", 0.05), lambda p: torch.optim.Adam(p, lr=0.05)),
    ],
    ids=["sgd", "momentum", "adam"],
)
@pytest.mark.parametrize("epochs", [1, 2.5])
def test_it_is_the_textbook_loop_bit_by_bit(
    spec: OptimizerSpec,
    reference: Callable[..., torch.optim.Optimizer],
    epochs: float,
) -> None:
    task, model = made(epochs=epochs, optimizer=spec)
    trained = train_plain(task)

    optimizer, losses = reference(model.parameters()), []
    generator = task.streams.torch("batches")
    steps = plain_steps(N, 8, epochs)
    while len(losses) < steps:
        order = torch.randperm(N, generator=generator)
        for start in range(0, N, 8):
            batch = order[start : start + 8]
            optimizer.zero_grad()
            loss = task.loss(model(task.x[batch]), task.y[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    assert torch.equal(task.parameters.snapshot(), weights(model))
    assert trained.steps == steps
    assert trained.loss == pytest.approx(sum(losses) / steps, rel=1e-5)


def test_an_epoch_uses_every_record_once() -> None:
    seen: list[torch.Tensor] = []
    task, _ = made()

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(target)
        return logits.sum() * 0

    marked = LocalTask(**{**task.__dict__, "loss": loss, "y": torch.arange(N)})
    train_plain(marked)
    assert [len(batch) for batch in seen] == [8, 8, 5]
    assert sorted(torch.cat(seen).tolist()) == list(range(N))
    assert torch.cat(seen).tolist() != list(range(N))


def test_batches_follow_the_stream_and_leave_the_global_one_alone() -> None:
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    first, _ = made()
    train_plain(first)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(10)
    again, _ = made()
    train_plain(again)
    elsewhere, _ = made(site=1)
    train_plain(elsewhere)
    assert torch.equal(first.parameters.flat, again.parameters.flat)
    assert not torch.equal(first.parameters.flat, elsewhere.parameters.flat)
