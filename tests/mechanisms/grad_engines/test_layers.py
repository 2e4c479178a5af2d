"""Layers on which per-sample gradients go wrong elsewhere: every engine is right or refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines.certificate import certificate
from fedprivacy.mechanisms.grad_engines.choose import ENGINES
from fedprivacy.mechanisms.grad_engines.start_up import probed_engine
from fedprivacy.training.losses import LOSSES

LOSS, CLIP = LOSSES["multiclass"], 0.3


class UnderTwoNames(nn.Module):
    """Registers its convolution itself and in a sequence, as some published U-Nets do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1)
        self.block = nn.Sequential(self.layer, nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Tied(nn.Module):
    """Uses one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


class Residual(nn.Module):
    """Adds to its output in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1)
        self.beside = nn.Conv2d(1, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer(x)
        h += torch.tanh(self.beside(x))
        return h


def conv(**more: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, **more), nn.Tanh())


def after_conv(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), layer)


def volume(**more: object) -> nn.Module:
    """A convolution of volumes one slice deep."""
    return nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 3, (1, 3, 3), **more), nn.Tanh())


def after_volume(layer: nn.Module) -> nn.Module:
    return nn.Sequential(volume(), layer)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "padding reflect": lambda: conv(padding=1, padding_mode="reflect"),
    "padding circular": lambda: conv(padding=1, padding_mode="circular"),
    "padding replicate": lambda: conv(padding=1, padding_mode="replicate"),
    "padding same, even kernel": lambda: nn.Conv2d(1, 4, 2, padding="same"),
    "strided": lambda: conv(stride=2),
    "dilated": lambda: conv(dilation=2),
    "grouped": lambda: after_conv(nn.Conv2d(4, 4, 3, groups=2)),
    "transposed": lambda: after_conv(nn.ConvTranspose2d(4, 3, 2, stride=2)),
    "volumes": volume,
    "volumes, padding reflect": lambda: volume(padding=(0, 1, 1), padding_mode="reflect"),
    "volumes, padding circular": lambda: volume(padding=(0, 1, 1), padding_mode="circular"),
    "volumes, padding replicate": lambda: volume(padding=(0, 1, 1), padding_mode="replicate"),
    "volumes, transposed": lambda: after_volume(nn.ConvTranspose3d(3, 2, (1, 2, 2))),
    "volumes, group norm": lambda: after_volume(nn.GroupNorm(1, 3)),
    "volumes, instance norm": lambda: after_volume(nn.InstanceNorm3d(3, affine=True)),
    "volumes, PReLU": lambda: after_volume(nn.PReLU(3)),
    "layer norm": lambda: after_conv(nn.LayerNorm([4, 6, 6])),
    "group norm": lambda: after_conv(nn.GroupNorm(2, 4)),
    "instance norm": lambda: after_conv(nn.InstanceNorm2d(4, affine=True)),
    "PReLU": lambda: after_conv(nn.PReLU(4)),
    "softmax": lambda: after_conv(nn.Softmax(dim=1)),
    "max pooling": lambda: after_conv(nn.MaxPool2d(2)),
    "upsampling": lambda: after_conv(nn.Upsample(scale_factor=2, mode="bilinear")),
    "in-place activation": lambda: after_conv(nn.ReLU(inplace=True)),
    "in-place sum": Residual,
    "under two names": UnderTwoNames,
    "tied weights": Tied,
}
WORKS_EVERYWHERE = {
    "padding same, even kernel", "strided", "dilated", "grouped", "volumes", "layer norm",
    "group norm", "instance norm", "softmax", "max pooling", "upsampling", "transposed",
    "volumes, transposed", "volumes, group norm", "volumes, instance norm",
}  # fmt: skip


KEPT = {
    "strided", "dilated", "grouped", "volumes", "group norm", "softmax", "max pooling",
    "upsampling", "volumes, group norm",
}  # fmt: skip
"""Those that bookkeeping knows."""


class Network(nn.Module):
    """The layer, and a head over what it makes of a record."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.adaptive_avg_pool1d(self.layer(x).flatten(1), 16))


def setup(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model = Network(LAYERS[name]()).double()
        x = torch.randn(5, 1, 6, 6, dtype=torch.float64)
    return model, x, torch.arange(5) % 3


def one_by_one(model: nn.Module, x: torch.Tensor, y: torch.Tensor, clip: float) -> torch.Tensor:
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=x.dtype)
    for i in range(len(x)):
        parts = torch.autograd.grad(LOSS(model(x[i : i + 1]), y[i : i + 1]), model.parameters())
        gradient = torch.cat([part.reshape(-1) for part in parts])
        total += gradient * min(1.0, clip / float(gradient.norm()))
    return total


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_is_right_or_refuses(name: str, engine: str) -> None:
    model, x, y = setup(name)
    expected = one_by_one(model, x, y, CLIP)
    try:
        made = ENGINES[engine](model, LOSS)
        certificate(model, LOSS, x, y, made, CLIP)
    except ProtectionError:
        assert engine in ("opacus", "bookkeeping"), "the others treat every layer"
        assert name not in (WORKS_EVERYWHERE if engine == "opacus" else KEPT)
        return
    assert engine != "bookkeeping" or name in KEPT
    got = made.clipped_sum(x, y, CLIP).total
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_auto_is_right_on_every_layer(name: str) -> None:
    model, x, y = setup(name)
    expected = one_by_one(model, x, y, CLIP)
    engine = probed_engine("auto", model, LOSS, x, y, CLIP)
    torch.testing.assert_close(engine.clipped_sum(x, y, CLIP).total, expected)
    single = probed_engine("auto", model.float(), LOSS, x.float(), y, CLIP)
    found = single.clipped_sum(x.float(), y, CLIP).total.double()
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())
