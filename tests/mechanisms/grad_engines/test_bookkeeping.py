from __future__ import annotations

import pytest
import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines.bookkeeping import BookkeepingEngine, linear_layers


def mean_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output.flatten(1).mean(1).sub(target).square().mean()


def clipped(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return BookkeepingEngine(model, mean_loss).clipped_sum(x, torch.zeros(len(x)), 1.0).total


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer(x))


class Changed(nn.Module):
    """Changes the input of a layer after the layer has read it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        out = self.second(h.detach())
        h.mul_(2)
        return out + h


def test_a_layer_used_twice_is_refused() -> None:
    with pytest.raises(ProtectionError, match="'layer' is used more than once"):
        clipped(Twice(), torch.randn(3, 4))


def test_sequences_are_refused() -> None:
    with pytest.raises(ProtectionError, match=r"'0' sees an input of shape \(3, 5, 4\)"):
        clipped(nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 5, 4))


def test_in_place_activations_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 1))
    with pytest.raises(ProtectionError, match=r"'0' .*in place.*grad_engine=loop"):
        clipped(model, torch.randn(3, 4))


def test_an_input_changed_in_place_is_refused() -> None:
    with pytest.raises(ProtectionError, match="'second' has its input"):
        clipped(Changed(), torch.randn(3, 4))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def under_two_names() -> nn.Module:
    model = Twice()
    model.other = model.layer
    return model


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "model",
    [
        tied(),
        under_two_names(),
        Scaled(4, 4),
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        nn.Sequential(nn.Linear(4, 4), nn.PReLU()),
        nn.ReLU(),
    ],
)
def test_other_models_are_not_taken_for_all_linear(model: nn.Module) -> None:
    assert linear_layers(model) is None
    with pytest.raises(ProtectionError, match="grad_engine=auto"):
        BookkeepingEngine(model, mean_loss)


def test_hooks_are_removed_when_the_model_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    with pytest.raises(RuntimeError):
        clipped(model, torch.randn(3, 9))
    assert not model[0]._forward_hooks
