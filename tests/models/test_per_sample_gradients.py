"""Per-sample gradients of every model against a one-by-one loop, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from opacus import GradSampleModule
from torch import nn
from torch.func import functional_call, grad, vmap

from fedprivacy.models.density_cnn import DensityCnn
from fedprivacy.models.mlp import Mlp
from fedprivacy.models.unet3d import UNet3d
from fedprivacy.training.losses import LOSSES, Loss

RECORDS = 3
TOLERANCE = 1e-10


def _mlp() -> tuple[nn.Module, torch.Tensor, torch.Tensor, Loss]:
    x, y = torch.randn(RECORDS, 6), torch.tensor([0, 1, 1])
    return Mlp(6, [5, 4], 1), x, y, LOSSES["binary"]


def _density_cnn() -> tuple[nn.Module, torch.Tensor, torch.Tensor, Loss]:
    x, y = torch.randn(RECORDS, 1, 13, 10), torch.tensor([0, 3, 2])
    return DensityCnn(1, [4, 6, 8], 4, 4), x, y, LOSSES["multiclass"]


def _unet3d(norm: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor, Loss]:
    x = torch.randn(RECORDS, 1, 7, 6, 5)
    return UNet3d(1, 2, 2, 3, norm), x, (x[:, 0] > 0).long(), LOSSES["segmentation"]


CASES: dict[str, Callable[[], tuple[nn.Module, torch.Tensor, torch.Tensor, Loss]]] = {
    "mlp": _mlp,
    "density_cnn": _density_cnn,
    "unet3d-group": lambda: _unet3d("group"),
    "unet3d-none": lambda: _unet3d("none"),
}


def _case(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor, Loss]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        model, x, y, loss = CASES[name]()
    for weight in model.parameters():
        if weight.ndim > 1:
            # He's scale, or the gradients of the unnormalised U-Net are too small to compare.
            weight.data *= 6**0.5
    return model.double(), x.double(), y, loss


def _by_loop(model: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Loss) -> list[torch.Tensor]:
    rows = []
    for i in range(len(x)):
        value = loss(model(x[i : i + 1]), y[i : i + 1])
        rows.append(torch.autograd.grad(value, list(model.parameters())))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _by_vmap(model: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Loss) -> list[torch.Tensor]:
    def one(weights: dict[str, torch.Tensor], record: torch.Tensor, target: torch.Tensor):
        return loss(functional_call(model, weights, (record[None],)), target[None])

    weights = {name: p.detach() for name, p in model.named_parameters()}
    gradients = vmap(grad(one), in_dims=(None, 0, 0))(weights, x, y)
    return list(gradients.values())


def _by_opacus(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Loss, functorch: bool = False
) -> list[torch.Tensor]:
    wrapped = GradSampleModule(model, loss_reduction="mean", force_functorch=functorch)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss(wrapped(x), y).backward()
    return [p.grad_sample for p in wrapped._module.parameters()]


def _worst(ours: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    # Absolute: a weight whose true gradient is zero has no relative error.
    return max(float((a - b).abs().max()) for a, b in zip(ours, reference, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_vmap_equals_the_loop(name: str) -> None:
    model, x, y, loss = _case(name)
    assert _worst(_by_vmap(model, x, y, loss), _by_loop(model, x, y, loss)) < TOLERANCE


@pytest.mark.parametrize("functorch", [False, True], ids=["hooks", "functorch"])
@pytest.mark.parametrize("name", CASES)
def test_opacus_equals_the_loop(name: str, functorch: bool) -> None:
    model, x, y, loss = _case(name)
    reference = _by_loop(model, x, y, loss)
    assert _worst(_by_opacus(model, x, y, loss, functorch), reference) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_every_weight_has_a_gradient_and_records_differ(name: str) -> None:
    """Without this the comparisons above could agree on zeros."""
    model, x, y, loss = _case(name)
    for gradient in _by_loop(model, x, y, loss):
        assert float(gradient.abs().max()) > 1e-4
        assert float((gradient[0] - gradient[1]).abs().max()) > 1e-4


class _RegisteredTwice(nn.Module):
    """A convolution under two names, as in the blocks of the package ``unet``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.block = nn.Sequential(self.conv, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x).mean(dim=(2, 3))


def test_the_comparison_sees_a_module_registered_twice() -> None:
    torch.manual_seed(0)
    model = _RegisteredTwice().double()
    x, y = torch.randn(RECORDS, 1, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 1])
    reference = _by_loop(model, x, y, LOSSES["multiclass"])
    by_hooks = _by_opacus(model, x, y, LOSSES["multiclass"])
    assert _worst(by_hooks, reference) > 1e-4
    assert _worst(by_hooks, [2 * gradient for gradient in reference]) < TOLERANCE
