from __future__ import annotations

import pytest
import torch
from torch import nn

from fedprivacy.models.density_cnn import DensityCnn


@pytest.mark.parametrize("size", [(8, 8), (9, 11), (17, 8), (64, 64)])
def test_any_image_size(size: tuple[int, int]) -> None:
    model = DensityCnn(2, [4, 6, 8], 4, 4)
    assert model(torch.randn(3, 2, *size)).shape == (3, 4)


def test_groups_divide_the_channels_of_each_block() -> None:
    model = DensityCnn(1, [4, 6, 9], 4, 1)
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert [(n.num_groups, n.num_channels) for n in norms] == [(4, 4), (2, 6), (1, 9)]


def test_records_do_not_mix() -> None:
    model, x = DensityCnn(1, [4, 8], 2, 4), torch.randn(3, 1, 12, 12)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_learns_a_texture() -> None:
    """Fine against coarse noise of the same mean and variance."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(24, 1, 16, 16, generator=generator)
    coarse = torch.randn(24, 1, 8, 8, generator=generator).repeat_interleave(2, 2)
    x = torch.cat((fine, coarse.repeat_interleave(2, 3)))
    y = torch.arange(2).repeat_interleave(24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DensityCnn(1, [4, 8], 2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert float((model(x).argmax(1) == y).float().mean()) > 0.95
