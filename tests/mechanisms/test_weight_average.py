from __future__ import annotations

import pytest
import torch

from fedprivacy.mechanisms.noise_reach import noise_in_weights
from fedprivacy.mechanisms.weight_average import WeightAverage
from fedprivacy.training.task import OptimizerSpec


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_it_is_the_weighted_mean_of_the_weights_after_each_step(decay: float) -> None:
    draws = torch.Generator().manual_seed(0)
    path = torch.randn(6, 9, generator=draws)
    weights = torch.full((9,), 1e6)  # where the round began: not in the average
    average = WeightAverage(decay, weights)
    for now in path:
        weights.copy_(now)
        average.take()
    average.put()
    factors = torch.tensor([decay ** (5 - t) for t in range(6)])
    expected = (factors[:, None] * path).sum(0) / factors.sum()
    torch.testing.assert_close(weights, expected)


def test_nothing_taken_leaves_the_weights() -> None:
    weights = torch.ones(3)
    WeightAverage(0.9, weights).put()
    assert torch.equal(weights, torch.ones(3))


def test_not_a_number_stays_in_it() -> None:
    weights = torch.ones(3)
    average = WeightAverage(0.5, weights)
    average.take()
    weights[1] = torch.nan
    average.take()
    weights.fill_(1.0)
    average.take()
    average.put()
    assert torch.isnan(weights[1])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_the_stated_norm_of_the_noise_is_that_of_simulated_steps(
    momentum: float, ema: float
) -> None:
    sigmas = [1.0, 0.5, 2.0, 0.1, 1.5]
    draws = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter(torch.zeros(20_000))
    optimizer = torch.optim.SGD([weights], lr=0.3, momentum=momentum)
    average = WeightAverage(ema, weights.data)
    for sigma in sigmas:
        weights.grad = sigma * torch.randn(20_000, generator=draws)
        optimizer.step()
        average.take()
    average.put()
    stated = noise_in_weights(OptimizerSpec("sgd", 0.3, momentum), sigmas, 20_000, ema)
    assert stated == pytest.approx(float(weights.detach().norm()), rel=0.03)


def test_no_steps_no_noise() -> None:
    assert noise_in_weights(OptimizerSpec("sgd", 0.3), [], 10) == 0.0
