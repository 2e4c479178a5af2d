"""A step of the stack is each site's own step of torch's optimiser, until the site has no more."""

from __future__ import annotations

import pytest
import torch

from fedprivacy.training.stacked.optimizer import stacked_optimizer
from fedprivacy.training.task import OptimizerSpec

STEPS = (5, 5, 3, 1)


@pytest.mark.parametrize(
    "spec",
    [OptimizerSpec("sgd", 0.1), OptimizerSpec("sgd", 0.1, 0.9), OptimizerSpec("adam", 0.01)],
    ids=["sgd", "momentum", "adam"],
)
def test_each_site_moves_bit_for_bit_as_by_itself_and_stops_after_its_last_step(
    spec: OptimizerSpec,
) -> None:
    draws = torch.Generator().manual_seed(3)
    start = torch.randn(len(STEPS), 7, generator=draws)
    gradients = torch.randn(max(STEPS), len(STEPS), 7, generator=draws)
    weights, gradient = start.clone(), torch.empty_like(start)
    optimizer = stacked_optimizer(spec, weights, gradient, STEPS)
    for given in gradients:
        gradient.copy_(given)
        optimizer.step()
    for site, steps in enumerate(STEPS):
        alone = start[site].clone()
        by_itself = spec.over([alone])
        for given in gradients[:steps]:
            alone.grad = given[site].clone()
            by_itself.step()
        assert torch.equal(weights[site], alone), site
