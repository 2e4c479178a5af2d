"""Local optimisers: torch's own steps, bit for bit, and nothing kept between rounds."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fedprivacy.training.flat_gradient import flat_gradient
from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.task import OptimizerSpec

SPECS = {
    "sgd": (OptimizerSpec("sgd", 0.2), lambda p: torch.optim.SGD(p, lr=0.2)),
    "momentum": (
        OptimizerSpec("sgd", 0.1, 0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ),
    "adam": (OptimizerSpec("adam", 0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2), nn.Linear(2, 1))


@pytest.mark.parametrize("name", SPECS)
def test_steps_have_the_bits_of_torchs_own(name: str) -> None:
    spec, reference = SPECS[name]
    ours, theirs = network(), copy.deepcopy(network())
    parameters, optimizer = FlatParameters(ours), reference(theirs.parameters())
    x, y = torch.randn(6, 5), torch.randn(6, 1)
    with flat_gradient(parameters) as gradient:
        flat = spec.build(parameters, gradient)
        for _ in range(20):
            gradient.zero_()
            nn.functional.mse_loss(ours(x), y).backward()
            flat.step()
            optimizer.zero_grad()
            nn.functional.mse_loss(theirs(x), y).backward()
            optimizer.step()
    wanted = torch.cat([p.detach().flatten() for p in theirs.parameters()])
    assert torch.equal(parameters.flat, wanted)


@pytest.mark.parametrize("name", SPECS)
def test_each_round_starts_with_a_new_one(name: str) -> None:
    """Sites keep no state between rounds: momentum of a site would be a second, unpriced update."""
    spec, _ = SPECS[name]
    parameters = FlatParameters(network())
    moved = []
    for _ in range(2):
        before = parameters.snapshot()
        with flat_gradient(parameters) as gradient:
            gradient.fill_(0.5)
            optimizer = spec.build(parameters, gradient)
            optimizer.step()
            optimizer.step()
        moved.append(parameters.snapshot() - before)
        parameters.load(before)
    assert torch.equal(*moved)


def test_gradients_are_taken_away_again() -> None:
    parameters = FlatParameters(network())
    with flat_gradient(parameters) as gradient:
        parameters.model(torch.ones(1, 5)).sum().backward()
        assert gradient.abs().sum() > 0
        parts = [p.grad.flatten() for p in parameters.model.parameters()]
        assert torch.equal(torch.cat(parts), gradient)
    assert all(p.grad is None for p in parameters.model.parameters())
