"""Which models are a chain of Linear layers, and which only look like one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedprivacy.models.density_cnn import DensityCnn
from fedprivacy.models.mlp import Mlp
from fedprivacy.training.stacked.chain import ChainLayer, linear_chain


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(x)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def twice() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


OTHERS = {
    "convolution": lambda: DensityCnn(1, [4], 2, 3),
    "residual": Residual,
    "branch": Branching,
    "layer without use": Unused,
    "hook": hooked,
    "layer used twice": twice,
    "softmax, which mixes features": lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)),
    "in-place activation": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout()),
    "scale of its own": lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU()),
}


def test_the_layers_of_an_mlp_are_found_in_their_places() -> None:
    model = Mlp(6, [9, 5], 1)
    chain = linear_chain(model)
    assert chain is not None
    layers = [layer for layer in chain if isinstance(layer, ChainLayer)]
    assert [layer.shape for layer in layers] == [(9, 6), (5, 9), (1, 5)]
    assert [type(module) for module in chain if not isinstance(module, ChainLayer)] == [nn.ReLU] * 2
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).unsqueeze(0)
    for layer, module in zip(
        layers, (m for m in model.layers if type(m) is nn.Linear), strict=True
    ):
        assert torch.equal(layer.weight_of(flat)[0], module.weight)
        assert torch.equal(layer.bias_of(flat)[0], module.bias)


@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.Sequential(nn.Sequential(nn.Linear(3, 2)))])
def test_a_linear_model_is_a_chain_of_one(model: nn.Module) -> None:
    chain = linear_chain(model)
    assert chain is not None
    assert len(chain) == 1


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_not_taken_for_one(name: str) -> None:
    assert linear_chain(OTHERS[name]()) is None
