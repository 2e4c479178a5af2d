from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.training.parameters import FlatParameters


def model() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Linear(4, 2))


def test_the_vector_holds_every_parameter_in_order() -> None:
    net = model()
    expected = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    flat = FlatParameters(net)
    assert flat.size == expected.numel() == 3 * 4 + 4 + 4 + 4 + 4 * 2 + 2
    assert torch.equal(flat.snapshot(), expected)


def test_the_model_computes_as_before() -> None:
    net, x = model(), torch.randn(5, 3)
    before = net(x)
    FlatParameters(net)
    assert torch.equal(net(x), before)


def test_parameters_are_views_of_the_vector() -> None:
    net = model()
    flat = FlatParameters(net)
    start = 0
    for parameter in net.parameters():
        assert parameter.data_ptr() == flat.flat.data_ptr() + 4 * start
        start += parameter.numel()
    flat.load(torch.arange(float(flat.size)))
    assert net[0].weight[0].tolist() == [0, 1, 2]
    with torch.no_grad():
        net[0].weight.fill_(7)
    assert flat.snapshot()[:12].tolist() == [7] * 12


def test_they_stay_views_through_training() -> None:
    net = model()
    flat = FlatParameters(net)
    twin = copy.deepcopy(net)
    x = torch.randn(8, 3)
    for trained in (net, twin):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            trained(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(flat.snapshot(), torch.cat([p.reshape(-1) for p in twin.parameters()]))


def test_a_snapshot_is_a_copy() -> None:
    flat = FlatParameters(model())
    before = flat.snapshot()
    kept = before.clone()
    flat.load(torch.zeros(flat.size))
    assert torch.equal(before, kept)
    assert not before.requires_grad


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False)], ids=["affine", "statistics only"]
)
def test_buffers_are_refused(layer: nn.Module) -> None:
    with pytest.raises(ProtectionError, match=r"buffers \['1\.running_mean'"):
        FlatParameters(nn.Sequential(nn.Linear(3, 4), layer))


def test_frozen_parameters_are_refused() -> None:
    frozen = nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 1))
    with pytest.raises(ProtectionError, match=r"\['0\.weight', '0\.bias'\] are frozen"):
        FlatParameters(frozen)


def test_another_precision_is_refused() -> None:
    with pytest.raises(ProtectionError, match=r"float32, got \['torch\.float64'\]"):
        FlatParameters(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1).double()))


def test_a_vector_of_another_length_is_refused() -> None:
    flat = FlatParameters(model())
    with pytest.raises(RuntimeError, match="must match the size"):
        flat.load(torch.zeros(flat.size + 1))
