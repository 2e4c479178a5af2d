"""Networks small enough for one-by-one references in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fedprivacy.models.density_cnn import DensityCnn
from fedprivacy.models.mlp import Mlp
from fedprivacy.models.unet3d import UNet3d
from fedprivacy.training.losses import LOSSES, Loss


@dataclass(frozen=True)
class Case:
    """A model in float64 with records for it."""

    model: nn.Module
    loss: Loss
    x: torch.Tensor
    y: torch.Tensor


class ReusedConvolution(nn.Module):
    """One convolution applied twice, PReLU, GroupNorm, and a layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.act = nn.PReLU()
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.act(self.again(self.first(x))))
        return self.head(self.norm(x).mean(dim=(2, 3)))


def _table(model: nn.Module, kind: str, classes: int) -> Callable[[], Case]:
    x = torch.randn(11, 6, generator=torch.Generator().manual_seed(1))
    return lambda: Case(model, LOSSES[kind], x, torch.arange(11) % classes)


def _images(model: nn.Module, side: int) -> Callable[[], Case]:
    x = torch.randn(5, 1, side, side, generator=torch.Generator().manual_seed(2))
    return lambda: Case(model, LOSSES["multiclass"], x, torch.arange(5) % 3)


def _volumes(model: nn.Module) -> Callable[[], Case]:
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(3, 1, 5, 6, 7, generator=draws)
    y = (torch.rand(3, 5, 6, 7, generator=draws) < 0.4).long()
    return lambda: Case(model, LOSSES["segmentation"], x, y)


CASES: dict[str, Callable[[], Case]] = {
    "mlp": lambda: _table(Mlp(6, [9, 5], 1), "binary", 2)(),
    "linear without bias": lambda: _table(nn.Linear(6, 3, bias=False), "multiclass", 3)(),
    "density_cnn": lambda: _images(DensityCnn(1, [4, 8], 2, 3), 9)(),
    "unet3d": lambda: _volumes(UNet3d(1, 2, 2, 2, "group", 2))(),
    "unet3d without norm": lambda: _volumes(UNet3d(1, 2, 2, 2, "none", 2))(),
    "reused layer": lambda: _images(ReusedConvolution(), 4)(),
}


def build_case(name: str) -> Case:
    """A case with its own fresh model, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        case = CASES[name]()
    return Case(case.model.double(), case.loss, case.x.double(), case.y)


@pytest.fixture
def make_case() -> Callable[[str], Case]:
    return build_case
