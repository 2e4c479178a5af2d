"""A model called with other tensors computes with these, and keeps its own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from fedprivacy.training.substitution import call_with


class UnderTwoNames(nn.Module):
    """Registers a layer itself and in a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.block = nn.Sequential(self.layer, nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Tied(nn.Module):
    """Uses one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize("make", [UnderTwoNames, Tied, lambda: nn.Linear(3, 2)])
def test_other_tensors_are_used_and_the_model_is_left_as_found(make) -> None:
    torch.manual_seed(0)
    model, x = make(), torch.randn(4, 3)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    before = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    places = [(id(m), dict(m._parameters)) for m in model.modules()]
    values = {name: p.detach() for name, p in other.named_parameters()}
    torch.testing.assert_close(call_with(model, values, x), other(x))

    def loss(tensors, one):
        return call_with(model, tensors, one[None]).sum()

    mapped = vmap(grad(loss), in_dims=(None, 0))(values, x)
    for i, one in enumerate(x):
        parts = torch.autograd.grad(other(one[None]).sum(), list(other.parameters()))
        for (name, _), part in zip(other.named_parameters(), parts, strict=True):
            torch.testing.assert_close(mapped[name][i], part)
    assert {n: id(p) for n, p in model.named_parameters()} == {n: i for n, (i, _) in before.items()}
    assert all(torch.equal(p, before[name][1]) for name, p in model.named_parameters())
    for module, (identity, own) in zip(model.modules(), places, strict=True):
        assert id(module) == identity
        assert all(module._parameters[name] is tensor for name, tensor in own.items())
