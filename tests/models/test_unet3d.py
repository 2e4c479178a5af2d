from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from fedprivacy.models.unet3d import UNet3d


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_has_the_size_of_flambys_baseline() -> None:
    assert _parameters(UNet3d(1, 2, 8, 3, "none")) == 245_900
    # GroupNorm in the place of the baseline's BatchNorm has as many weights.
    assert _parameters(UNet3d(1, 2, 8, 3, "group")) == 246_156


def test_channel_plan() -> None:
    model = UNet3d(1, 2, 8, 3)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        *((1, 8), (8, 16), (16, 16), (16, 32), (32, 32), (32, 64)),
        *((96, 32), (32, 32), (48, 16), (16, 16), (16, 2)),
    ]


@pytest.mark.parametrize("size", list(itertools.product((4, 5, 7), (6, 9), (8, 11))), ids=str)
def test_logits_have_the_size_of_the_volume(size: tuple[int, ...]) -> None:
    assert UNet3d(1, 2, 2, 3)(torch.randn(2, 1, *size)).shape == (2, 2, *size)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_any_number_of_levels(levels: int) -> None:
    assert UNet3d(2, 3, 2, levels)(torch.randn(1, 2, 9, 8, 10)).shape == (1, 3, 9, 8, 10)


def test_logits_are_not_probabilities() -> None:
    model = UNet3d(1, 2, 2, 2)
    model.head.bias.data += 5.0
    assert float(model(torch.randn(1, 1, 4, 4, 4)).detach().mean()) > 2


def test_groups_divide_the_channels_of_each_layer() -> None:
    norms = [m for m in UNet3d(1, 2, 3, 2, groups=4).modules() if isinstance(m, nn.GroupNorm)]
    assert norms
    assert all(n.num_channels % n.num_groups == 0 for n in norms)
    assert {(n.num_groups, n.num_channels) for n in norms} == {(2, 6), (4, 12)}


def test_refuses_an_unknown_norm() -> None:
    with pytest.raises(ValueError, match="batch"):
        UNet3d(1, 2, norm="batch")


def test_every_voxel_sees_its_own_input() -> None:
    """Skip connections stay aligned with the decoder on sizes that pooling rounds up."""
    model = UNet3d(1, 2, 2, 3, "none")
    x = torch.zeros(1, 1, 7, 5, 6, requires_grad=True)
    model(x)[0, 0, 6, 4, 5].backward()
    reach = x.grad[0, 0].abs() > 0
    assert reach[6, 4, 5]
    assert reach[5:, 3:, 4:].all()
