from __future__ import annotations

import pytest
import torch
from torch import nn

from fedprivacy.training.parameters import FlatParameters
from fedprivacy.training.task import OptimizerSpec


@pytest.mark.parametrize(
    ("spec", "cls", "settings"),
    [
        (OptimizerSpec("sgd", 0.1, 0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (OptimizerSpec("sgd", 0.2), torch.optim.SGD, {"lr": 0.2, "momentum": 0.0}),
        (OptimizerSpec("adam", 0.01), torch.optim.Adam, {"lr": 0.01, "betas": (0.9, 0.999)}),
    ],
)
def test_the_optimizer_is_torchs_own(
    spec: OptimizerSpec, cls: type, settings: dict[str, object]
) -> None:
    parameters = FlatParameters(nn.Linear(3, 2))
    optimizer = spec.build(parameters)
    assert type(optimizer) is cls
    [group] = optimizer.param_groups
    assert {key: group[key] for key in settings} == settings
    assert [id(p) for p in group["params"]] == [id(p) for p in parameters.model.parameters()]
    assert group["weight_decay"] == 0


def test_each_round_starts_with_a_new_one() -> None:
    """Sites keep no state between rounds: momentum of a site would be a second, unpriced update."""
    parameters = FlatParameters(nn.Linear(3, 1))
    spec = OptimizerSpec("sgd", 0.1, 0.9)
    first = spec.build(parameters)
    parameters.model(torch.ones(1, 3)).sum().backward()
    first.step()
    assert first.state
    assert not spec.build(parameters).state
